"""``finetune``, as a user runs it: in a process of its own."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.cli import environment


def run(*args: object, code: int = 0, cwd: Path | None = None) -> str:
    """Run ``finetune ARGS``, expect an exit code, return both outputs; a traceback is never right."""
    done = subprocess.run([sys.executable, "-m", "finetune", *map(str, args)], cwd=cwd, env=environment(),
                          capture_output=True, text=True, check=False, timeout=280)  # fmt: skip
    output = done.stdout + done.stderr
    assert "Traceback" not in output, output
    assert done.returncode == code, f"exit {done.returncode}, expected {code}:\n{output}"
    return output


@pytest.mark.parametrize("command", ["train", "chat", "merge", "export"])
def test_help_tells_what_a_command_does(command: str) -> None:
    assert command in run("--help")
    assert "Example" in run(command, "--help")


@pytest.mark.parametrize(
    ("args", "says"),
    [
        (["train"], "Missing option '--data'"),
        (["train", "--data", "rows.jsonl"], "Missing option '-o' / '--output'"),
        (["train", "--data", "rows.jsonl", "-o", "out", "--recipe", "quikstart"], "did you mean 'quickstart'?"),
        (["train", "--data", "rows.jsonl", "-o", "out", "--set", "epoch=2"], "unknown key 'epoch' (did you mean 'epochs'"),
        (["train", "--data", "rows.jsonl", "-o", "out", "--set", "epochs"], "write it as key=value"),
        (["train", "--data", "rows.jsonl", "-o", "out", "--set", "warmup=2"], "warmup: from 0 to 1"),
        (["train", "--data", "rows.jsonl", "-o", "out", "--config", "no.yaml"], "can't read no.yaml"),
        (["train", "--data", "no/rows.jsonl", "-o", "out"], "no/rows.jsonl"),
        (["merge", "out"], "Missing option '-o' / '--output'"),
        (["merge", "out", "-o", "whole"], "only adapters trained here"),
        (["export", "out", "-o", "f.gguf", "--format", "onnx"], "is not one of 'hf', 'gguf'"),
        (["export", "out", "-o", "f", "--format", "hf", "--dtype", "q8_0"], "a folder's weights can't be q8_0"),
        (["export", "out", "-o", "f.gguf", "--format", "gguf"], "out"),
        (["chat", "out", "--prompt", "Hi"], "out"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_said_in_a_sentence(tmp_path: Path, args: list[str], says: str) -> None:
    """Exit code 2: something in the command has to change first; nothing is written."""
    (tmp_path / "rows.jsonl").write_text('{"instruction": "Add 1 and 2.", "output": "3"}\n')
    assert says in run(*args, code=2, cwd=tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["rows.jsonl"]


def test_a_wrong_setting_is_shown_with_its_file_and_line(tmp_path: Path) -> None:
    (tmp_path / "mine.yaml").write_text("epochs: 2\nlora:\n  rang: 4\n")
    said = run("train", "--data", "rows.jsonl", "-o", "out", "--config", "mine.yaml", code=2, cwd=tmp_path)
    assert said == "Error: mine.yaml:3: unknown key 'lora.rang' (did you mean 'rank'?)\n"
