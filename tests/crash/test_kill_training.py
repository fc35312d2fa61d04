"""``finetune train``, stopped at every stage and repeated: it ends with the bytes of an uninterrupted run."""

from __future__ import annotations

import json
import os
import pty
import random
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner

from finetune.cli import cli
from finetune.training import checkpoint
from selfinstruct.common.codec import loads
from tests.cli import environment, run_program
from tests.finetune_fixtures import make_model, make_tokenizer

Process = subprocess.Popen[str]

SETTINGS = (
    "format=chat", "batch_size=8", "learning_rate=1e-3", "epochs=6", "checkpoint_every=4",
    "evaluation={fraction: 0.2, seed_tasks: 2, samples: 2, sample_tokens: 40}",
)  # fmt: skip
NO_CHECKPOINT = "checkpoint_every=0"  # a setting that may change when a run is resumed
TIMINGS = {"seconds", "tokens_per_second", "mfu"}
PER_PROCESS = {".lock", "events"}  # contain process ids and times
ATTEMPTS = 3  # kills per stage, of which one must not come too late
# A slow disk: every file stays half-written long enough to be observed, and killed, in that state.
SLOW_DISK = """
import os, time

def fsync(descriptor, fsync=os.fsync):
    fsync(descriptor)
    time.sleep(0.4)

os.fsync = fsync
"""


@dataclass(frozen=True)
class Command:
    """``finetune train`` into ``out``; ``inputs`` has the model, the rows and a sitecustomize for a slow disk."""

    inputs: Path
    out: Path
    settings: tuple[str, ...] = SETTINGS

    def args(self, *assignments: str) -> list[str]:
        model, rows = self.inputs / "model", self.inputs / "rows.jsonl"
        settings = [f"--set={setting}" for setting in (*self.settings, *assignments)]
        return ["train", "--model", str(model), "--data", str(rows), *settings, "-o", str(self.out)]

    @contextmanager
    def started(self, *assignments: str, slow: bool = False, screen: int = subprocess.STDOUT) -> Iterator[Process]:
        """Start a process, and kill it at the end of the context."""
        # One thread sums in a fixed order, for identical bits.
        environ = environment(OMP_NUM_THREADS="1")
        if slow:
            environ["PYTHONPATH"] = f"{self.inputs}{os.pathsep}{environ['PYTHONPATH']}"
        args = [sys.executable, "-m", "finetune", *self.args(*assignments)]
        with subprocess.Popen(args, env=environ, stdout=subprocess.PIPE, stderr=screen, text=True) as process:
            try:
                yield process
            finally:
                process.kill()

    def finish(self, *assignments: str) -> None:
        run_program("finetune", self.args(*assignments), timeout=280)


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model of two million weights, so that a step takes some time, and 48 training rows."""
    folder = tmp_path_factory.mktemp("inputs")
    tokenizer = make_tokenizer()
    make_model(len(tokenizer), hidden_size=256, intermediate_size=1024).save_pretrained(folder / "model")
    tokenizer.save_pretrained(folder / "model")
    rows = [
        {"instruction": f"Name {count} colours of the rainbow.", "output": f"Red, green and {count} more."}
        for count in range(60)
    ]
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (folder / "sitecustomize.py").write_text(SLOW_DISK)  # Python runs it at startup if it is on the path
    return folder


@pytest.fixture(scope="module")
def uninterrupted(inputs: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An uninterrupted run without checkpoints."""
    out = tmp_path_factory.mktemp("uninterrupted") / "model"
    Command(inputs, out).finish(NO_CHECKPOINT)
    return out


def call(*args: object, code: int) -> str:
    """Run ``finetune ARGS`` in this process, which has already imported torch."""
    done = CliRunner().invoke(cli, [str(arg) for arg in args])
    assert done.exit_code == code, f"exit {done.exit_code}, expected {code}:\n{done.output}\n{done.exception!r}"
    return done.output


def until(reached: Callable[[], bool], process: Process) -> None:
    """Wait until a stage is reached or the process ends."""
    end = time.monotonic() + 240
    while not reached() and process.poll() is None:
        assert time.monotonic() < end, "the process neither reached the stage nor ended"
        time.sleep(0.01)


def logged(out: Path) -> list[dict]:
    """Return the complete lines of metrics.jsonl; a kill may have cut the last one short."""
    path = out / "metrics.jsonl"
    return [loads(line) for line in path.read_bytes().split(b"\n")[:-1]] if path.exists() else []


def parts(out: Path) -> list[Path]:
    """Return the checkpoints that are being written."""
    return list((out / "checkpoints").glob(".step-*.part"))


def latest_step(out: Path) -> int:
    """Return the step of the latest checkpoint, which must be intact; 0 if there is none."""
    latest = checkpoint.latest(out / "checkpoints")
    if latest is None:
        return 0
    assert latest.folder.name == f"step-{latest.step:08}"
    tensors = latest.tensors()
    assert tensors["0.weight"].numel() == tensors["0.first"].numel() == tensors["0.second"].numel() > 0
    assert all(torch.isfinite(tensor).all() for tensor in tensors.values() if tensor.is_floating_point())
    return latest.step


def complete(out: Path) -> bool:
    """Whether the record, which must be valid JSON, says that the run is complete."""
    path = out / "finetune.json"
    return path.exists() and loads(path.read_bytes())["complete"]


def contents(out: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in out.rglob("*") if path.is_file() and path.name != ".lock"}


def check_after_kill(out: Path, uninterrupted: Path) -> None:
    """Check that a kill left no damaged file in use, and no unfinished run that counts as complete."""
    steps, all_steps = ([line["step"] for line in logged(folder)] for folder in (out, uninterrupted))
    assert steps == all_steps[: len(steps)]
    assert latest_step(out) <= all_steps[-1]  # the last state is saved as a checkpoint before the model
    for weights in out.glob("*model.safetensors"):
        assert weights.read_bytes() == (uninterrupted / weights.name).read_bytes()
    if (out / "finetune.json").exists() and not complete(out):
        assert "not complete" in call("chat", out, "--prompt", "Hi", code=2)
        call("export", out, "-o", out.with_name("exported"), code=2)


def check_equal(out: Path, uninterrupted: Path) -> None:
    """Check that two complete runs have the same files with the same bytes, except for timings."""
    for lines in (logged, lambda folder: [loads((folder / "finetune.json").read_bytes())]):
        actual, expected = (
            [{key: value for key, value in line.items() if key not in TIMINGS} for line in lines(folder)]
            for folder in (out, uninterrupted)
        )
        assert actual == expected
    names = {path.name for path in uninterrupted.iterdir()}
    assert {path.name for path in out.iterdir()} == names
    for name in sorted(names - {*PER_PROCESS, "metrics.jsonl", "finetune.json"}):
        assert (out / name).read_bytes() == (uninterrupted / name).read_bytes(), name


def kill_while(
    stage: str, reached: Callable[[], bool], command: Command, uninterrupted: Path, *assignments: str
) -> None:
    """Kill the command as soon as ``reached`` is true.

    If it is no longer true afterwards, the kill came too late, and is tried again.
    """
    for _ in range(ATTEMPTS):
        with command.started(*assignments, slow=True) as process:
            until(reached, process)
            process.kill()
            output, _ = process.communicate()
        assert process.returncode == -signal.SIGKILL, f"it ended before {stage}:\n{output}"
        check_after_kill(command.out, uninterrupted)
        if reached():
            return
    pytest.fail(f"{ATTEMPTS} kills came too late while {stage}")


def kill_while_measuring(command: Command, leftover: Path) -> None:
    """Kill the command during the evaluation before the first step, which only the terminal display reveals.

    The display is drawn four times a second, hence the long sample answers.

    Args:
        leftover: A partial file that exists beforehand.
    """
    for _ in range(ATTEMPTS):
        command.out.mkdir()
        leftover.write_bytes(b'{"model": "emb')
        ours, theirs = pty.openpty()
        shown = b""
        long_answers = "evaluation.sample_tokens=2000"
        with os.fdopen(ours, "rb", buffering=0) as screen, command.started(long_answers, screen=theirs) as process:
            os.close(theirs)
            with suppress(OSError):  # the process closed its end
                while not re.search(rb"measuring the loss|writing sample answers", shown):
                    shown += screen.read(4096)
            process.kill()
            process.communicate()
        assert process.returncode == -signal.SIGKILL, shown.decode()
        if not (command.out / "finetune.json").exists():
            return
        shutil.rmtree(command.out)
    pytest.fail(f"{ATTEMPTS} kills came too late")


def stop_once(command: Command, number: signal.Signals) -> None:
    """Send a signal after some steps: a checkpoint is saved, and the output says how to resume."""
    goal = len(logged(command.out)) + 2
    with command.started(NO_CHECKPOINT) as process:
        until(lambda: len(logged(command.out)) >= goal, process)
        process.send_signal(number)
        output, _ = process.communicate(timeout=120)
    assert process.returncode == 130, output
    assert "Traceback" not in output
    step = latest_step(command.out)
    assert f"stopped after {step} steps; repeat the command to resume" in output
    assert step == logged(command.out)[-1]["step"] >= goal


def stop_twice(command: Command, number: signal.Signals) -> None:
    """Send a signal, then SIGINT while the resulting checkpoint is written: the checkpoint is abandoned."""
    for _ in range(ATTEMPTS):
        before, goal = latest_step(command.out), len(logged(command.out)) + 2
        with command.started(NO_CHECKPOINT, slow=True) as process:
            until(lambda: len(logged(command.out)) >= goal, process)  # noqa: B023 called within this iteration
            process.send_signal(number)
            until(lambda: bool(parts(command.out)), process)
            process.send_signal(signal.SIGINT)
            output, _ = process.communicate(timeout=120)
        assert process.returncode == 130, output
        assert "Traceback" not in output
        if latest_step(command.out) == before:
            assert output.splitlines()[-1] == "stopped"
            return
    pytest.fail(f"{ATTEMPTS} times the second signal came too late")


def test_a_run_killed_while_it_saves_ends_with_the_same_bytes(
    inputs: Path, uninterrupted: Path, tmp_path: Path
) -> None:
    out = tmp_path / "model"
    command = Command(inputs, out)
    kill_while("writing the first checkpoint", lambda: bool(parts(out)), command, uninterrupted)
    assert latest_step(out) == 0
    command.finish()
    check_equal(out, uninterrupted)


@pytest.mark.prove
def test_a_run_stopped_at_every_stage_ends_with_the_same_bytes(
    inputs: Path, uninterrupted: Path, tmp_path: Path
) -> None:
    """One run in six processes, each resuming the previous one."""
    out = tmp_path / "model"
    command = Command(inputs, out)
    kill_while_measuring(command, leftover=out / ".finetune.json.k1ll3d.part")  # as after a kill during the first write
    kill_while("writing the first checkpoint", lambda: bool(parts(out)), command, uninterrupted)
    assert latest_step(out) == 0
    stop_once(command, signal.SIGTERM)
    stop_twice(command, signal.SIGINT)
    kill_while("saving the model", lambda: any(out.glob(".*model.part")), command, uninterrupted, NO_CHECKPOINT)
    kill_while("finishing", lambda: complete(out), command, uninterrupted, NO_CHECKPOINT)
    assert latest_step(out), "the kill came before the checkpoints were removed"
    assert "was complete already" in call(*command.args(), code=0)
    check_equal(out, uninterrupted)
    before = contents(out)
    assert "was complete already" in call(*command.args(), code=0)
    assert contents(out) == before


def test_early_stopping_decides_after_a_resume_as_without_one(inputs: Path, tmp_path: Path) -> None:
    """The stop falls between two epochs; the model has the weights of an earlier one."""
    evaluation = "evaluation={fraction: 0.2, seed_tasks: 2, patience: 2}"
    settings = (*SETTINGS, "epochs=40", evaluation)
    uninterrupted, stopped = (
        Command(inputs, tmp_path / name / "model", settings) for name in ("uninterrupted", "stopped")
    )
    uninterrupted.finish(NO_CHECKPOINT)
    record = loads((uninterrupted.out / "finetune.json").read_bytes())
    steps_per_epoch = 6
    assert record["steps"] < 40 * steps_per_epoch
    assert record["kept_step"] == record["steps"] - 2 * steps_per_epoch
    stop_once(stopped, signal.SIGTERM)
    stopped.finish()
    check_equal(stopped.out, uninterrupted.out)
    assert "early stopping: the held-out loss was lowest after" in call(*uninterrupted.args(), code=0)


def test_a_kill_between_the_model_files_leaves_an_incomplete_run(uninterrupted: Path, tmp_path: Path) -> None:
    """Files are moved into the folder one by one; the record, written last, marks the model as complete."""
    out = tmp_path / "model"
    out.mkdir()
    for path in uninterrupted.iterdir():
        if path.is_file() and path.name != "tokenizer_config.json":  # the last of them
            (out / path.name).write_bytes(path.read_bytes())
    record = loads((out / "finetune.json").read_bytes())
    (out / "finetune.json").write_text(json.dumps({**record, "complete": False}))
    for args in (["chat", out, "--prompt", "Hi"], ["export", out, "-o", tmp_path / "exported"]):
        assert "not complete" in call(*args, code=2)


def touched(out: Path) -> int:
    """Return when metrics.jsonl was last written: at the start of a training loop, and after its steps."""
    path = out / "metrics.jsonl"
    return path.stat().st_mtime_ns if path.exists() else 0


def kill_repeatedly(command: Command, uninterrupted: Path, *, kills: int, max_seconds: float) -> int:
    """Kill the command ``kills`` times after random delays, then let it finish.

    Returns:
        The number of kills during or after the training loop, but before the run was complete.
    """
    out, rng, inside = command.out, random.Random(0), 0
    for number in range(1, kills + 1):
        start, before = latest_step(out), touched(out)
        with command.started() as process:
            # Every fifth kill may hit the startup; for the others the delay begins with the training loop.
            if number % 5:
                until(lambda: touched(out) != before, process)  # noqa: B023 called within this iteration
            with suppress(subprocess.TimeoutExpired):
                process.wait(timeout=rng.uniform(0.0, max_seconds if number % 5 else 8.0))
            process.kill()
            output, _ = process.communicate()
        assert "Traceback" not in output, output
        check_after_kill(out, uninterrupted)
        in_loop = process.returncode == -signal.SIGKILL and touched(out) != before
        inside += in_loop
        notes = {"": True, ", another half-written": bool(parts(out)), ", complete": complete(out)}
        note = "".join(text for text, applies in notes.items() if applies)
        state = f"{len(logged(out)):3} lines, checkpoint {latest_step(out):3}{note}"
        print(f"  kill {number:2}: resumed from {start:3}; {state}{'' if in_loop else ' (outside the loop)'}")
    command.finish()
    return inside


@pytest.mark.prove
@pytest.mark.parametrize(
    ("kind", "assignments"),
    [
        ("full weights", ("checkpoint_every=3",)),
        ("LoRA with dropout", ("lora={rank: 8, dropout: 0.1}", "checkpoint_every=4")),
        ("a line for every third step", ("log_every=3", "checkpoint_every=4")),
        ("early stopping", ("evaluation={fraction: 0.2, seed_tasks: 2, patience: 4}", "checkpoint_every=3")),
    ],
)
def test_twenty_kills_change_no_byte(inputs: Path, tmp_path: Path, kind: str, assignments: tuple[str, ...]) -> None:
    settings = (*SETTINGS, "epochs=25", *assignments)
    uninterrupted, killed = (
        Command(inputs, tmp_path / name / "model", settings) for name in ("uninterrupted", "killed")
    )
    started = time.monotonic()
    uninterrupted.finish(NO_CHECKPOINT)
    print(f"  {kind}, uninterrupted: {logged(uninterrupted.out)[-1]['step']} steps, {time.monotonic() - started:.1f} s")
    inside = kill_repeatedly(killed, uninterrupted.out, kills=20, max_seconds=1.5)
    print(f"  {kind}: {inside} of 20 kills inside the loop")
    check_equal(killed.out, uninterrupted.out)
    assert inside >= 12


@pytest.mark.prove
def test_either_signal_saves_a_checkpoint_and_a_second_one_stops_at_once(
    inputs: Path, uninterrupted: Path, tmp_path: Path
) -> None:
    command = Command(inputs, tmp_path / "model")
    for number in (signal.SIGINT, signal.SIGTERM):
        stop_once(command, number)
        stop_twice(command, number)
    command.finish()
    check_equal(command.out, uninterrupted)
