"""``finetune train``, stopped at every stage and resumed: the bytes equal those of a run that was never stopped."""

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
from tests.cli import environment
from tests.finetune_fixtures import make_model, make_tokenizer

Process = subprocess.Popen[str]

SETTINGS = (
    "format=chat", "batch_size=8", "learning_rate=1e-3", "epochs=6", "checkpoint_every=4",
    "evaluation={fraction: 0.2, seed_tasks: 2, samples: 2, sample_tokens: 40}",
)  # fmt: skip
NO_CHECKPOINT = "checkpoint_every=0"  # one of the settings that may change on resumption
BY_THE_CLOCK = {"seconds", "tokens_per_second", "mfu"}
OF_THE_PROCESS = {".lock", "events"}  # hold its process id, and times
PATIENCE = 3  # kills at a stage, at least one of which must come in time
# A slow disk: every file stays incomplete long enough to be observed and killed in that state.
SLOW_DISK = """
import os, time

def fsync(descriptor, fsync=os.fsync):
    fsync(descriptor)
    time.sleep(0.4)

os.fsync = fsync
"""


@dataclass(frozen=True)
class Command:
    """``finetune train`` into the folder ``out``; ``inputs`` holds the model, the rows and the slow disk."""

    inputs: Path
    out: Path
    settings: tuple[str, ...] = SETTINGS

    def args(self, *more: str) -> list[str]:
        model, rows = self.inputs / "model", self.inputs / "rows.jsonl"
        settings = [f"--set={one}" for one in (*self.settings, *more)]
        return ["train", "--model", str(model), "--data", str(rows), *settings, "-o", str(self.out)]

    @contextmanager
    def started(self, *more: str, slow: bool = False, screen: int = subprocess.STDOUT) -> Iterator[Process]:
        """Start a process, which does not outlive the block."""
        # With one thread, sums have a fixed order, and no thread waits for a core.
        environ = environment(OMP_NUM_THREADS="1")
        if slow:
            environ["PYTHONPATH"] = f"{self.inputs}{os.pathsep}{environ['PYTHONPATH']}"
        args = [sys.executable, "-m", "finetune", *self.args(*more)]
        with subprocess.Popen(args, env=environ, stdout=subprocess.PIPE, stderr=screen, text=True) as process:
            try:
                yield process
            finally:
                process.kill()

    def finish(self, *more: str) -> None:
        with self.started(*more) as process:
            output, _ = process.communicate(timeout=280)
        assert process.returncode == 0, output


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model of two million weights, so that a step takes some time, and 48 rows to train on."""
    folder = tmp_path_factory.mktemp("inputs")
    tokenizer = make_tokenizer()
    make_model(len(tokenizer), hidden_size=256, intermediate_size=1024).save_pretrained(folder / "model")
    tokenizer.save_pretrained(folder / "model")
    rows = [
        {"instruction": f"Name {count} colours of the rainbow.", "output": f"Red, green and {count} more."}
        for count in range(60)
    ]
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (folder / "sitecustomize.py").write_text(SLOW_DISK)  # Python runs this first if it is on the path
    return folder


@pytest.fixture(scope="module")
def whole(inputs: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that was never stopped and saved no checkpoint."""
    out = tmp_path_factory.mktemp("whole") / "model"
    Command(inputs, out).finish(NO_CHECKPOINT)
    return out


def call(*args: object, code: int) -> str:
    """Run ``finetune ARGS`` in this process, which has loaded torch already."""
    done = CliRunner().invoke(cli, [str(arg) for arg in args])
    assert done.exit_code == code, f"exit {done.exit_code}, expected {code}:\n{done.output}\n{done.exception!r}"
    return done.output


def until(reached: Callable[[], bool], process: Process) -> None:
    """Wait for a stage, or for the end of the process."""
    end = time.monotonic() + 240
    while not reached() and process.poll() is None:
        assert time.monotonic() < end, "it neither reaches the stage nor ends"
        time.sleep(0.01)


def logged(out: Path) -> list[dict]:
    """Return the complete lines of metrics.jsonl; a kill may have truncated the last one."""
    path = out / "metrics.jsonl"
    return [loads(line) for line in path.read_bytes().split(b"\n")[:-1]] if path.exists() else []


def parts(out: Path) -> list[Path]:
    """Return incomplete checkpoints."""
    return list((out / "checkpoints").glob(".step-*.part"))


def kept(out: Path) -> int:
    """Return the step of the latest checkpoint, which must be intact; 0 without one."""
    found = checkpoint.latest(out / "checkpoints")
    if found is None:
        return 0
    assert found.folder.name == f"step-{found.step:08}"
    tensors = found.tensors()
    assert tensors["0.weight"].numel() == tensors["0.first"].numel() == tensors["0.second"].numel() > 0
    assert all(torch.isfinite(tensor).all() for tensor in tensors.values() if tensor.is_floating_point())
    return found.step


def complete(out: Path) -> bool:
    """Return whether the record marks the run as complete; a torn record would not be JSON."""
    path = out / "finetune.json"
    return path.exists() and loads(path.read_bytes())["complete"]


def contents(out: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in out.rglob("*") if path.is_file() and path.name != ".lock"}


def check_left(out: Path, whole: Path) -> None:
    """Check after a kill that nothing torn counts as intact, and nothing unfinished as complete."""
    steps, all_steps = ([line["step"] for line in logged(one)] for one in (out, whole))
    assert steps == all_steps[: len(steps)]
    assert kept(out) < all_steps[-1]
    for weights in out.glob("*model.safetensors"):
        assert weights.read_bytes() == (whole / weights.name).read_bytes()
    if (out / "finetune.json").exists() and not complete(out):
        assert "not complete" in call("chat", out, "--prompt", "Hi", code=2)
        call("export", out, "-o", out.with_name("exported"), code=2)


def check_equal(out: Path, whole: Path) -> None:
    """Check that two complete runs have the same files with the same bytes, except for measured times."""
    for lines in (logged, lambda one: [loads((one / "finetune.json").read_bytes())]):
        found, expected = (
            [{key: value for key, value in line.items() if key not in BY_THE_CLOCK} for line in lines(one)]
            for one in (out, whole)
        )
        assert found == expected
    names = {path.name for path in whole.iterdir()}
    assert {path.name for path in out.iterdir()} == names
    for name in sorted(names - {*OF_THE_PROCESS, "metrics.jsonl", "finetune.json"}):
        assert (out / name).read_bytes() == (whole / name).read_bytes(), name


def kill_while(what: str, reached: Callable[[], bool], command: Command, whole: Path, *more: str) -> None:
    """Kill the command as soon as ``reached`` is true.

    It must be true afterwards too: a kill that came after the end of the stage is repeated.
    """
    for _ in range(PATIENCE):
        with command.started(*more, slow=True) as process:
            until(reached, process)
            process.kill()
            output, _ = process.communicate()
        assert process.returncode == -signal.SIGKILL, f"it ended before it was {what}:\n{output}"
        check_left(command.out, whole)
        if reached():
            return
    pytest.fail(f"{PATIENCE} kills came too late while {what}")


def kill_while_measuring(command: Command, left: Path) -> None:
    """Kill the command before its first step, which only the terminal shows.

    The terminal is updated four times a second, so the sample answers must be long.

    Args:
        left: A leftover temporary file to create first.
    """
    for _ in range(PATIENCE):
        command.out.mkdir()
        left.write_bytes(b'{"model": "emb')
        ours, theirs = pty.openpty()
        shown = b""
        long = "evaluation.sample_tokens=2000"
        with os.fdopen(ours, "rb", buffering=0) as screen, command.started(long, screen=theirs) as process:
            os.close(theirs)
            with suppress(OSError):  # the other end is closed
                while not re.search(rb"measuring the loss|writing sample answers", shown):
                    shown += screen.read(4096)
            process.kill()
            process.communicate()
        assert process.returncode == -signal.SIGKILL, shown.decode()
        if not (command.out / "finetune.json").exists():
            return
        shutil.rmtree(command.out)
    pytest.fail(f"{PATIENCE} kills came too late")


def stop_once(command: Command, number: signal.Signals) -> None:
    """Send a signal after some steps: a checkpoint is saved, and the output says how to continue."""
    goal = len(logged(command.out)) + 2
    with command.started(NO_CHECKPOINT) as process:
        until(lambda: len(logged(command.out)) >= goal, process)
        process.send_signal(number)
        output, _ = process.communicate(timeout=120)
    assert process.returncode == 130, output
    assert "Traceback" not in output
    step = kept(command.out)
    assert f"stopped after {step} steps; repeat the command to resume" in output
    assert step == logged(command.out)[-1]["step"] >= goal


def stop_twice(command: Command, number: signal.Signals) -> None:
    """Send a signal, and Ctrl-C while the resulting checkpoint is written, which cancels it."""
    for _ in range(PATIENCE):
        before, goal = kept(command.out), len(logged(command.out)) + 2
        with command.started(NO_CHECKPOINT, slow=True) as process:
            until(lambda: len(logged(command.out)) >= goal, process)  # noqa: B023 called before the next turn
            process.send_signal(number)
            until(lambda: bool(parts(command.out)), process)
            process.send_signal(signal.SIGINT)
            output, _ = process.communicate(timeout=120)
        assert process.returncode == 130, output
        assert "Traceback" not in output
        if kept(command.out) == before:
            assert output.splitlines()[-1] == "stopped"
            return
    pytest.fail(f"{PATIENCE} times the second signal came too late")


def test_stopped_at_every_stage_it_ends_with_the_same_bytes(inputs: Path, whole: Path, tmp_path: Path) -> None:
    """One run in six processes, each of which continues the one before."""
    out = tmp_path / "model"
    command = Command(inputs, out)
    kill_while_measuring(command, left=out / ".finetune.json.k1ll3d.part")  # as after a kill during the first write
    kill_while("writing the first checkpoint", lambda: bool(parts(out)), command, whole)
    assert kept(out) == 0
    stop_once(command, signal.SIGTERM)
    stop_twice(command, signal.SIGINT)
    kill_while("saving the model", lambda: any(out.glob(".*model.part")), command, whole, NO_CHECKPOINT)
    kill_while("finishing", lambda: complete(out), command, whole, NO_CHECKPOINT)
    assert kept(out), "files that a complete run doesn't need are still there"
    assert "was complete already" in call(*command.args(), code=0)
    check_equal(out, whole)
    before = contents(out)
    assert "was complete already" in call(*command.args(), code=0)
    assert contents(out) == before


def test_a_kill_between_the_files_of_the_model_leaves_no_model(whole: Path, tmp_path: Path) -> None:
    """The files appear one by one; the record is written last and marks them as complete."""
    out = tmp_path / "model"
    out.mkdir()
    for path in whole.iterdir():
        if path.is_file() and path.name != "tokenizer_config.json":  # the last of them
            (out / path.name).write_bytes(path.read_bytes())
    record = loads((out / "finetune.json").read_bytes())
    (out / "finetune.json").write_text(json.dumps({**record, "complete": False}))
    for args in (["chat", out, "--prompt", "Hi"], ["export", out, "-o", tmp_path / "exported"]):
        assert "not complete" in call(*args, code=2)


def touched(out: Path) -> int:
    """Return when metrics.jsonl was last written: at the start of a process's loop, and after its steps."""
    path = out / "metrics.jsonl"
    return path.stat().st_mtime_ns if path.exists() else 0


def kill_again_and_again(command: Command, whole: Path, *, kills: int, longest_s: float) -> int:
    """Kill the command ``kills`` times, each after a random time, then let it finish.

    Returns:
        The number of kills that hit the loop or a later stage, but not a complete run.
    """
    out, dice, inside = command.out, random.Random(0), 0
    for number in range(1, kills + 1):
        begun, before = kept(out), touched(out)
        with command.started() as process:
            # Every fifth kill may hit the start; for the others the time starts with the loop of the process.
            if number % 5:
                until(lambda: touched(out) != before, process)  # noqa: B023 called before the next turn
            with suppress(subprocess.TimeoutExpired):
                process.wait(timeout=dice.uniform(0.0, longest_s if number % 5 else 8.0))
            process.kill()
            output, _ = process.communicate()
        assert "Traceback" not in output, output
        check_left(out, whole)
        at_work = process.returncode == -signal.SIGKILL and touched(out) != before
        inside += at_work
        what = {"": True, ", another half written": bool(parts(out)), ", complete": complete(out)}
        left = f"{len(logged(out)):3} lines, checkpoint {kept(out):3}{''.join(key for key in what if what[key])}"
        print(f"  kill {number:2}: went on from {begun:3}; {left}{'' if at_work else ' (outside the loop)'}")
    command.finish()
    return inside


@pytest.mark.prove
@pytest.mark.parametrize(
    ("kind", "more"),
    [
        ("full weights", ("checkpoint_every=3",)),
        ("LoRA with dropout", ("lora={rank: 8, dropout: 0.1}", "checkpoint_every=4")),
        ("a line for each third step", ("log_every=3", "checkpoint_every=4")),
    ],
)
def test_twenty_kills_change_no_byte(inputs: Path, tmp_path: Path, kind: str, more: tuple[str, ...]) -> None:
    settings = (*SETTINGS, "epochs=25", *more)
    whole, killed = (Command(inputs, tmp_path / name / "model", settings) for name in ("whole", "killed"))
    started = time.monotonic()
    whole.finish(NO_CHECKPOINT)
    print(f"  {kind}, never stopped: {logged(whole.out)[-1]['step']} steps, {time.monotonic() - started:.1f} s")
    inside = kill_again_and_again(killed, whole.out, kills=20, longest_s=1.5)
    print(f"  {kind}: {inside} of 20 kills inside the loop")
    check_equal(killed.out, whole.out)
    assert inside >= 12


@pytest.mark.prove
def test_a_signal_saves_and_a_second_one_stops_at_once(inputs: Path, whole: Path, tmp_path: Path) -> None:
    command = Command(inputs, tmp_path / "model")
    for number in (signal.SIGINT, signal.SIGTERM):
        stop_once(command, number)
        stop_twice(command, number)
    command.finish()
    check_equal(command.out, whole)
