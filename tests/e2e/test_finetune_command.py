"""The command ``finetune`` as a user runs it, in a separate process."""

from __future__ import annotations

import json
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner

from finetune.cli import cli
from tests import finetune_fixtures
from tests.cli import environment, run_program

tiny_tokenizer = finetune_fixtures.tiny_tokenizer
tiny_model_folder = finetune_fixtures.tiny_model_folder


def run(*args: object, code: int = 0, cwd: Path | None = None) -> str:
    """Run ``finetune ARGS``, check the exit code and that there is no traceback, and return both outputs."""
    return run_program("finetune", args, code=code, cwd=cwd, timeout=280)


def call(*args: object, code: int = 0) -> str:
    """Like ``run``, but in this process, which has already imported torch."""
    done = CliRunner().invoke(cli, [str(arg) for arg in args])
    assert done.exit_code == code, f"exit {done.exit_code}, expected {code}:\n{done.output}\n{done.exception!r}"
    return done.output


@pytest.mark.parametrize("command", ["train", "prefer", "reward", "chat", "merge", "export"])
def test_every_command_has_help_with_an_example(command: str) -> None:
    assert command in run("--help")
    assert "Example" in run(command, "--help")


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["train"], "Missing option '--data'"),
        (["train", "--data", "rows.jsonl"], "Missing option '-o' / '--output'"),
        (["train", "--data", "rows.jsonl", "-o", "out", "--recipe", "quikstart"], "did you mean 'quickstart'?"),
        (["train", "--data", "rows.jsonl", "-o", "out", "--set", "epoch=2"], "unknown key 'epoch' (did you mean"),
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
def test_a_usage_error_is_reported_in_one_line(tmp_path: Path, args: list[str], message: str) -> None:
    """The exit code is 2, and nothing is written."""
    (tmp_path / "rows.jsonl").write_text('{"instruction": "Add 1 and 2.", "output": "3"}\n')
    assert message in run(*args, code=2, cwd=tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["rows.jsonl"]


def test_a_wrong_setting_is_shown_with_its_file_and_line(tmp_path: Path) -> None:
    (tmp_path / "mine.yaml").write_text("epochs: 2\nlora:\n  rang: 4\n")
    output = run("train", "--data", "rows.jsonl", "-o", "out", "--config", "mine.yaml", code=2, cwd=tmp_path)
    assert output == "Error: mine.yaml:3: unknown key 'lora.rang' (did you mean 'rank'?)\n"


ROWS = [
    {"instruction": f"Name {count} colours of the rainbow.", "input": "", "output": f"Red, green and {count} more."}
    for count in range(40)
]
SETTINGS = [
    "--set=format=chat", "--set=batch_size=4", "--set=learning_rate=1e-3", "--set=epochs=2", "--set=checkpoint_every=5",
    "--set=evaluation={fraction: 0.25, seed_tasks: 2, samples: 2, sample_tokens: 8}",
]  # fmt: skip


@pytest.fixture(scope="module")
def rows(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with the parts of a run that training reads."""
    folder = tmp_path_factory.mktemp("rows") / "run"
    (folder / "dataset").mkdir(parents=True)
    (folder / "dataset" / "alpaca.jsonl").write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    return folder


@pytest.fixture(scope="module")
def trained(rows: Path, tiny_model_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """An uninterrupted run, and its output."""
    out = tmp_path_factory.mktemp("trained") / "model"
    output = run("train", "--model", tiny_model_folder, "--data", rows, *SETTINGS, "-o", out)
    return out, output


def weights(folder: Path) -> bytes:
    return (folder / "model.safetensors").read_bytes()


def metrics(folder: Path) -> list[dict]:
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def ended(process: subprocess.Popen[str]) -> bool:
    try:
        process.wait(timeout=0.02)
    except subprocess.TimeoutExpired:
        return False
    return True


def test_a_run_writes_a_model_that_transformers_loads_and_reports_its_losses(trained: tuple[Path, str]) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    out, output = trained
    assert re.search(r"held-out loss, rows: \d\.\d{3} ± \d\.\d{3} -> \d\.\d{3} ± .* \(a fall", output), output
    assert "held-out loss, seed tasks: " in output
    assert re.search(r"prompt +answer before +answer after", output)
    lines = metrics(out)
    assert [line["step"] for line in lines] == list(range(1, 17))
    assert lines[-1]["loss"] < lines[0]["loss"]
    assert {"loss.png", "config.json", "tokenizer.json", "events"} <= {path.name for path in out.iterdir()}
    assert not (out / "checkpoints").exists()
    model, tokenizer = AutoModelForCausalLM.from_pretrained(out), AutoTokenizer.from_pretrained(out)
    assert model.generate(**tokenizer("Name", return_tensors="pt"), max_new_tokens=2).shape[1] > 1


def test_repeating_a_complete_run_changes_nothing(
    trained: tuple[Path, str], rows: Path, tiny_model_folder: Path
) -> None:
    out, output = trained
    before = {path: path.read_bytes() for path in out.rglob("*") if path.is_file()}
    again = call("train", "--model", tiny_model_folder, "--data", rows, *SETTINGS, "-o", out)
    assert "was complete already, 16 steps" in again
    assert re.findall(r"held-out loss.*", again) == re.findall(r"held-out loss.*", output)
    assert {path: path.read_bytes() for path in out.rglob("*") if path.is_file()} == before
    args = ["--model", tiny_model_folder, "--data", rows, *SETTINGS, "--set=epochs=9"]
    other = call("train", *args, "-o", out, code=1)
    assert "another epochs" in other


def test_an_interrupted_run_ends_with_the_weights_of_an_uninterrupted_one(
    trained: tuple[Path, str], rows: Path, tiny_model_folder: Path, tmp_path: Path
) -> None:
    out = tmp_path / "model"
    args = ["train", "--model", tiny_model_folder, "--data", rows, *SETTINGS, "-o", out]
    call = [sys.executable, "-m", "finetune", *map(str, args)]
    process = subprocess.Popen(call, env=environment(), stderr=subprocess.PIPE, text=True)
    while not (out / "metrics.jsonl").exists() and not ended(process):
        pass
    process.send_signal(signal.SIGINT)
    _, output = process.communicate(timeout=120)
    assert process.returncode == 130, output
    assert not (out / "model.safetensors").exists()
    run(*args)
    assert weights(out) == weights(trained[0])
    steps, expected = ([(line["step"], line["loss"]) for line in metrics(folder)] for folder in (out, trained[0]))
    assert steps == expected


def test_a_dry_run_marks_supervised_text_and_writes_nothing(
    rows: Path, tiny_model_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    output = call("train", "--model", tiny_model_folder, "--data", rows, *SETTINGS, "--dry-run")
    assert "⟦Red, green and 0 more.<|im_end|>⟧" in output
    assert "40 documents" in output
    assert re.search(r"\d+ steps, .*% full", output)
    assert "predicted memory" in output
    assert list(tmp_path.iterdir()) == []


def test_a_dry_run_lists_unread_rows_in_a_file_and_as_json(tiny_model_folder: Path, tmp_path: Path) -> None:
    data, report = tmp_path / "rows.jsonl", tmp_path / "unread.jsonl"
    bad = [{"instruction": f"Name {number}."} for number in range(25)]
    data.write_text("".join(json.dumps(row) + "\n" for row in [*ROWS[:3], *bad]))
    options = ("--model", tiny_model_folder, "--data", data, "--set=format=chat", "--dry-run", "--report", report)
    output = call("train", *options)
    assert "not read: 25 rows" in output
    assert f"  {data}:23: no field 'output' with an answer" in output
    assert f"{data}:24" not in output
    assert "  and 5 more; --report FILE lists all of them" in output
    unread = [json.loads(line) for line in report.read_text().splitlines()]
    assert unread[-1] == {"row": f"{data}:28", "reason": "unreadable", "detail": "no field 'output' with an answer"}
    result = json.loads(call("train", *options, "--json"))
    assert result["unread"] == unread
    assert (result["documents"], result["trained"], result["stop_tokens"]) == (3, 3, ["<|im_end|>"])
    assert "belong to --dry-run" in call("train", "--data", data, "-o", tmp_path / "out", "--json", code=2)


def test_chat_uses_the_format_of_the_training_run(trained: tuple[Path, str]) -> None:
    output = call("chat", trained[0], "--prompt", ROWS[0]["instruction"], "--temperature", 0, "--max-tokens", 8)
    assert output.strip()


def test_adapters_are_merged_and_exported(rows: Path, tiny_model_folder: Path, tmp_path: Path) -> None:
    from transformers import AutoModelForCausalLM

    settings = ["--recipe", "lora", "--set", "batch_size=8", "--set", "epochs=1", "--set", "lora.rank=2"]
    call("train", "-q", "--model", tiny_model_folder, "--data", rows, *settings, "-o", tmp_path / "run")
    assert (tmp_path / "run" / "adapter_model.safetensors").exists()
    output = call("merge", tmp_path / "run", "-o", tmp_path / "merged")
    assert "the same most likely token at 100.0%" in output
    call("export", tmp_path / "run", "--format", "hf", "--dtype", "bf16", "-o", tmp_path / "half")
    merged, half = (AutoModelForCausalLM.from_pretrained(tmp_path / name, dtype="auto") for name in ("merged", "half"))
    assert (str(merged.dtype), str(half.dtype)) == ("torch.float32", "torch.bfloat16")
    assert merged.lm_head.weight.bfloat16().equal(half.lm_head.weight)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["half", "merged", "run"]
    output = call("export", tmp_path / "merged", "--format", "hf", "-o", tmp_path / "half", code=2)
    assert "there is something here already" in output
