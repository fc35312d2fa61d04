"""Every command has a Python twin, prints the documented JSON, and can be completed by the shell."""

from __future__ import annotations

import ast
import json
import shutil
import subprocess
import sys
from pathlib import Path

import click
import pytest
from click.testing import CliRunner

import selfinstruct
from selfinstruct.cli import cli
from selfinstruct.common.resources import builtin_seeds
from tests.cli import ROOT, environment
from tests.docs.generated import load_docs_make
from tests.golden.make import GOLDEN

MAKE = load_docs_make()
COMMANDS = [
    " ".join(words[1:])
    for words, command, _ in MAKE.walk()
    if words[0] == "selfinstruct" and not isinstance(command, click.Group)
]
SECTIONS = {
    "Make": ["generate", "respond", "fork", "retry"],
    "Measure": ["evaluate", "compare"],
    "Look": ["status", "explain", "diff", "runs"],
    "Refine": ["refilter", "tune", "filter", "split"],
    "Use": ["export"],
    "Check": ["seeds", "doctor"],
}


@pytest.fixture
def run(tmp_path: Path) -> Path:
    folder = tmp_path / "runs" / "demo"
    folder.mkdir(parents=True)
    shutil.copy(GOLDEN / "alpaca" / "run.sqlite", folder)
    return folder


def test_help_groups_the_commands_by_purpose_in_a_fixed_order() -> None:
    lines = CliRunner().invoke(cli, ["--help"]).output.splitlines()
    commands = lines[lines.index("Make:") :]
    titles = [line.rstrip(":") for line in commands if line and not line.startswith(" ")]
    names = [line.split()[0] for line in commands if line.startswith("  ")]
    assert titles == list(SECTIONS)
    assert names == [name for section in SECTIONS.values() for name in section]


def test_every_command_has_a_documented_python_twin_and_calls_it() -> None:
    assert list(MAKE.PYTHON_TWINS) == COMMANDS
    for command, twin in MAKE.PYTHON_TWINS.items():
        assert twin in selfinstruct.__all__
        module = (ROOT / "selfinstruct" / "cli" / f"{command.split()[0]}.py").read_text()
        used = {node.id for node in ast.walk(ast.parse(module)) if isinstance(node, ast.Name)}
        assert twin in used or command == "respond", f"{command} does not call {twin}"
    page = (ROOT / "docs" / "api.md").read_text()
    assert all(f"| `selfinstruct {command}` | [`{twin}`]" in page for command, twin in MAKE.PYTHON_TWINS.items())


def test_every_command_prints_the_documented_json(run: Path, tmp_path: Path) -> None:
    rows = GOLDEN / "alpaca" / "alpaca.jsonl"
    examples = {
        "generate": ["--backend", "replay", "--from", run, tmp_path / "again", "-n", 3, "-q"],
        "fork": [run, "-o", tmp_path / "fork", "-n", 3, "-q"],
        "retry": [run],
        "evaluate": [tmp_path / "score", "--backend", "replay", "--from", GOLDEN / "evaluate", "-q"],
        "compare": [GOLDEN / "evaluate", GOLDEN / "evaluate"],
        "status": [run],
        "explain": [run, 1],
        "diff": [run, run],
        "runs": [run.parent],
        "refilter": [run, "-o", tmp_path / "strict", "--set", "filters.novelty.threshold=0.5"],
        "tune": [run],
        "filter": [rows, "-o", tmp_path / "rows.jsonl", "-q"],
        "split": [rows, "-o", tmp_path / "parts"],
        "export": [run, "--format", "messages"],
        "seeds check": [builtin_seeds()],
        "doctor": [],
    }
    assert set(examples) == {*MAKE.JSON_KEYS, "fork"}
    for command, words in examples.items():
        done = CliRunner().invoke(cli, [*command.split(), *map(str, words), "--json"])
        assert done.exit_code == 0, f"{command}: {done.output}"
        (line,) = done.stdout.splitlines()
        documented = MAKE.JSON_KEYS["generate" if command == "fork" else command]
        assert list(json.loads(line)) == list(documented), command


def test_every_command_has_the_option_json() -> None:
    for words, command, _ in MAKE.walk():
        if " ".join(words[1:]) in COMMANDS and words[0] == "selfinstruct":
            assert any("--json" in param.opts for param in command.params), words


def test_a_dry_run_prints_json_too(tmp_path: Path) -> None:
    done = CliRunner().invoke(cli, ["generate", str(tmp_path / "run"), "--dry-run", "--json"])
    preview = json.loads(done.stdout)
    assert list(preview) == ["requests", "first", "notices"]
    assert preview["first"][0]["request"] == 0
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_the_shell_completion_in_the_docs_is_produced(shell: str) -> None:
    page = (ROOT / "docs" / "commands.md").read_text()
    assert f"_SELFINSTRUCT_COMPLETE={shell}_source selfinstruct" in page
    if shell == "bash" and shutil.which("bash") is None:
        pytest.skip("click asks bash for its version")
    code = "from selfinstruct.cli import main; main()"
    env = environment(_SELFINSTRUCT_COMPLETE=f"{shell}_source")
    done = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert f"_SELFINSTRUCT_COMPLETE={shell}_complete" in done.stdout


def test_completing_a_command_imports_none() -> None:
    code = (
        "import sys; from selfinstruct.cli import cli; from click.shell_completion import BashComplete\n"
        "items = BashComplete(cli, {}, 'selfinstruct', '_X').get_completions([], 're')\n"
        "print(*(item.value for item in items), 'selfinstruct.api' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], env=environment(), capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["respond", "retry", "refilter", "False"]
