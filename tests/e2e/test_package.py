"""Installations from the wheel, the sdist and the source tree contain every file."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tarfile
import venv
from pathlib import Path

import pytest

from selfinstruct.version import __version__
from tests.cli import ROOT

PROBE = """
import json, importlib.metadata, selfinstruct
from selfinstruct.common.resources import builtin_personas, builtin_prompts, builtin_seeds, preset
print(json.dumps({
    "package": selfinstruct.__file__,
    "version": importlib.metadata.version("selfinstruct"),
    "licence": importlib.metadata.metadata("selfinstruct")["License-Expression"],
    "seeds": str(builtin_seeds()),
    "personas": builtin_personas().read_text(encoding="utf-8"),
    "preset": preset("embedded").read_text(),
    "prompts": {str(p.relative_to(builtin_prompts())): p.read_text() for p in builtin_prompts().rglob("*.txt")},
    "files": [str(f) for f in importlib.metadata.files("selfinstruct")],
}))
"""


def build(tree: Path, kind: str, into: Path) -> Path:
    """Build a distribution as pip does."""
    into.mkdir(exist_ok=True)
    code = f"from hatchling.build import *; print(build_{kind}({str(into)!r}))"
    done = subprocess.run([sys.executable, "-c", code], cwd=tree, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return into / done.stdout.splitlines()[-1]


def probe(wheel: Path, environment: Path) -> dict:
    """Install a wheel into an empty environment, and return what a process in another directory finds there."""
    venv.create(environment, with_pip=False, symlinks=True)
    python = environment / "bin" / "python"
    install = [sys.executable, "-m", "pip", "--python", python, "--disable-pip-version-check", "install", "--quiet",
               "--no-deps", "--no-index", wheel]  # fmt: skip
    subprocess.run(install, check=True, capture_output=True)
    assert (environment / "bin" / "selfinstruct").exists()
    clean = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    done = subprocess.run([python, "-c", PROBE], cwd=environment, env=clean, capture_output=True, text=True, check=True)
    return json.loads(done.stdout)


@pytest.mark.parametrize("origin", ["wheel", "sdist", "editable"])
def test_every_kind_of_installation_has_seeds_and_prompts(tmp_path: Path, origin: str) -> None:
    tree = ROOT
    if origin == "sdist":
        with tarfile.open(build(ROOT, "sdist", tmp_path / "sdist")) as archive:
            # Before Python 3.11.4 there are no filters.
            archive.extractall(tmp_path, **({"filter": "data"} if hasattr(tarfile, "data_filter") else {}))
        tree = tmp_path / f"selfinstruct-{__version__}"
    wheel = build(tree, "editable" if origin == "editable" else "wheel", tmp_path / "wheel")
    installed = probe(wheel, tmp_path / "venv")
    prompts = {str(path.relative_to(ROOT / "prompts")): path.read_text() for path in (ROOT / "prompts").rglob("*.txt")}
    assert installed["prompts"] == prompts
    assert prompts
    assert "self-instruct:" in installed["preset"]
    assert Path(installed["seeds"]).read_bytes() == (ROOT / "seeds" / "seed_tasks.jsonl").read_bytes()
    assert installed["personas"] == (ROOT / "seeds" / "personas.jsonl").read_text(encoding="utf-8")
    assert installed["version"] == __version__
    assert installed["licence"] == "Apache-2.0"
    if origin == "editable":
        assert Path(installed["seeds"]) == ROOT / "seeds" / "seed_tasks.jsonl", "the editable source tree comes first"
    else:
        assert Path(installed["package"]).is_relative_to(tmp_path)
        assert "selfinstruct/py.typed" in installed["files"]
        assert any(name.endswith("LICENSE") for name in installed["files"])
