"""The documentation is correct: Python runs, commands parse and are planned, generated pages are fresh."""

from __future__ import annotations

import re
import shlex
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import click
import pytest
from click.testing import CliRunner

from finetune.cli import cli as finetune
from selfinstruct.cli import cli as selfinstruct
from selfinstruct.common.resources import builtin_seeds
from tests.cli import ROOT, environment
from tests.docs.generated import load_docs_make
from tests.golden.make import GOLDEN

COMMANDS = {"selfinstruct": selfinstruct, "finetune": finetune}
PAGES = sorted([ROOT / "README.md", *(ROOT / "docs").glob("*.md")])


def blocks(page: Path, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", page.read_text(), re.DOTALL | re.MULTILINE)


@pytest.mark.parametrize("page", ["api", "commands", "configuration", "instructions", "reasons"])
def test_generated_pages_are_fresh(page: str) -> None:
    assert (ROOT / "docs" / f"{page}.md").read_text() == load_docs_make().PAGES[page](), "run: make docs"


def test_the_tests_named_in_the_docs_exist() -> None:
    named = {name for page in PAGES for name in re.findall(r"`(test_\w+)`", page.read_text())}
    defined = {
        name
        for path in (ROOT / "tests").rglob("test_*.py")
        for name in re.findall(r"^def (test_\w+)", path.read_text(), re.M)
    }
    assert named
    assert not named - defined


@dataclass(frozen=True)
class Options:
    """Options for a test.

    Attributes:
        one: The first,
            on two lines: yes.
        two, three: Described together.
        four: The last.
    """

    one: int = 1
    two: int = 2
    three: int = 3
    four: int = 4


def test_an_entry_may_describe_several_options() -> None:
    assert load_docs_make()._entries(Options(), "x.") == [
        "- `x.one`: The first, on two lines: yes.",
        "- `x.two`, `x.three`: Described together.",
        "- `x.four`: The last.",
    ]


def test_every_command_has_help_with_an_example() -> None:
    for names, command, inner in load_docs_make().walk():
        text = command.get_help(inner)
        assert isinstance(command, click.Group) or "Example" in text, names
        assert all(param.help for param in command.params if isinstance(param, click.Option)), names


def examples() -> list[str]:
    lines = [line for page in PAGES for block in blocks(page, "console") for line in block.splitlines()]
    helps = [line for block in blocks(ROOT / "docs" / "commands.md", "text") for line in block.splitlines()]
    lines += [f"$ {line.strip()}" for line in helps if line.startswith(("    selfinstruct ", "    finetune "))]
    return sorted({line[2:].split("  #")[0].strip() for line in lines if line.startswith("$ ")})


@pytest.mark.parametrize("example", [line for line in examples() if line.split()[0] in COMMANDS])
def test_the_commands_in_the_docs_exist_with_these_options(example: str) -> None:
    """Parsed by click itself, without running them."""
    program, *words = shlex.split(example)
    command, context = COMMANDS[program], click.Context(COMMANDS[program], info_name=program)
    while isinstance(command, click.Group):
        name, *words = words
        subcommand = command.get_command(context, name)
        assert subcommand is not None, name
        command = subcommand
    command.make_context("x", words)


def planned() -> list[str]:
    """Return the commands that make runs. None needs its key, server or model to be planned."""
    starts = tuple(f"selfinstruct {command} " for command in ("generate", "respond", "evaluate", "fork", "refilter"))
    return [line for line in examples() if line.startswith(starts)]


def create_suite(folder: Path, kind: str, name: str) -> None:
    path = folder / name / "task.json" if name.endswith("/") else folder / name
    path.parent.mkdir(exist_ok=True)
    if kind == "verified":
        shutil.copy(GOLDEN / "items.jsonl", path)
    else:
        path.write_text('{"instruction": "Name a bird.", "instances": [{"input": "", "output": "A heron."}]}\n')


def create_inputs(folder: Path, words: list[str]) -> None:
    """Create what a command reads, under the names it uses: a run, a configuration file of a page, a file of tasks."""
    named = [words[index + 1] for index, word in enumerate(words) if word in {"--from", "--seeds", "--config"}]
    if words[0] in {"fork", "refilter"}:
        named.append(words[1])
    for model in (words[index + 1] for index, word in enumerate(words) if word == "--judge"):
        (folder / model).mkdir(parents=True)
        (folder / model / "config.json").write_text("{}")  # planning reads its files, and loads no weights
    for suite in (words[index + 1] for index, word in enumerate(words) if word == "--suite"):
        create_suite(folder, *suite.split("="))
    for name in named:
        path = folder / name
        if name.startswith("runs/"):
            (path / "dataset").mkdir(parents=True)
            shutil.copy(GOLDEN / "alpaca" / "run.sqlite", path)
            shutil.copy(GOLDEN / "alpaca" / "alpaca.jsonl", path / "dataset")
        elif path.suffix == ".yaml":
            examples = (block for page in PAGES for block in blocks(page, "yaml") if block.startswith(f"# {name}\n"))
            path.write_text(next(examples))
        elif path.suffix == ".txt":
            path.write_text("Name a bird.\nName a fish.\n")
        else:
            shutil.copy(builtin_seeds(), path)


@pytest.mark.parametrize("example", planned())
def test_the_runs_in_the_docs_are_not_refused(example: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Plan each run up to its first requests; for a fork, run ``refilter`` with the same settings."""
    words = shlex.split(example)[1:]
    create_inputs(tmp_path, words)
    monkeypatch.chdir(tmp_path)
    refiltered = words[0] in {"fork", "refilter"}
    done = CliRunner().invoke(selfinstruct, ["refilter", *words[1:]] if refiltered else [*words, "--dry-run"])
    assert done.exit_code == 0, f"{done.output}\n{done.exception!r}"
    assert refiltered or re.search(r"^--- [1-9]\d* requests would go out next", done.output, re.MULTILINE), done.output


@pytest.mark.parametrize("example", [line for line in examples() if line.startswith("make")])
def test_the_make_targets_in_the_docs_exist(example: str) -> None:
    environ = {name: value for name, value in environment().items() if not name.startswith("MAKE")}
    done = subprocess.run(["make", "-n", *shlex.split(example)[1:]], cwd=ROOT, env=environ, capture_output=True,
                          text=True, check=False)  # fmt: skip
    assert done.returncode == 0, done.stderr
    if example.startswith(("make data ", "make train ")):
        call = done.stdout.splitlines()[-1]
        for word in shlex.split(example)[2:]:
            assert all(part in call for part in word.split("=", 1)[1].split()), call


def python_blocks() -> list[object]:
    """Return every Python block of every page, with the output that the page shows after it ("" for none)."""
    programs: list[object] = []
    for page in PAGES:
        pairs = re.findall(
            r"^```python\n(.*?)^```\n(?:\n```text\n(.*?)^```)?", page.read_text(), re.DOTALL | re.MULTILINE
        )
        for number, (block, printed) in enumerate(pairs):
            marks = [pytest.mark.model] if "generate(" in block or "evaluate(" in block else []
            programs.append(pytest.param(block, printed, marks=marks, id=f"{page.stem}-{number}"))
    return programs


@pytest.mark.parametrize(("block", "printed"), python_blocks())
def test_the_python_in_the_docs_runs(block: str, printed: str, tmp_path: Path) -> None:
    """The first example of the README generates three rows with the embedded model."""
    done = subprocess.run([sys.executable, "-c", block], cwd=tmp_path, env=environment(), capture_output=True,
                          text=True, check=False, timeout=280)  # fmt: skip
    assert done.returncode == 0, done.stderr
    if printed:
        assert done.stdout == printed
    elif "generate(" in block:
        assert len(done.stdout.splitlines()) >= 3
        assert len((tmp_path / "runs/readme/dataset/alpaca.jsonl").read_text().splitlines()) == 3
    elif "NoveltyIndex" in block:
        assert [line.split()[0] for line in done.stdout.splitlines()] == ["True", "False", "True"]
