"""``finetune train``, stopped at every stage and given again: the bytes are those of a run that was never stopped."""

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
NO_CHECKPOINT = "checkpoint_every=0"  # of those settings that may change on the way
BY_THE_CLOCK = {"seconds", "tokens_per_second", "mfu"}
OF_THE_PROCESS = {".lock", "events"}  # hold its number, and times
PATIENCE = 3  # kills at a stage, of which one must not come too late
# A disk that takes its time: whatever is written is half written long enough to be seen, and killed, in that state.
SLOW_DISK = """
import os, time

def fsync(descriptor, fsync=os.fsync):
    fsync(descriptor)
    time.sleep(0.4)

os.fsync = fsync
"""


@dataclass(frozen=True)
class Command:
    """``finetune train`` into the folder ``out``; ``inputs`` holds the model and the rows, and a slow disk's Python."""

    inputs: Path
    out: Path
    settings: tuple[str, ...] = SETTINGS

    def args(self, *more: str) -> list[str]:
        model, rows = self.inputs / "model", self.inputs / "rows.jsonl"
        settings = [f"--set={one}" for one in (*self.settings, *more)]
        return ["train", "--model", str(model), "--data", str(rows), *settings, "-o", str(self.out)]

    @contextmanager
    def started(self, *more: str, slow: bool = False, screen: int = subprocess.STDOUT) -> Iterator[Process]:
        """A process; whatever happens in the block, it does not outlive it."""
        # One thread adds in one order: the same bits, and no thread that waits for a core.
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
            said, _ = process.communicate(timeout=280)
        assert process.returncode == 0, said


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model of two million weights, so that a step takes some time; 48 rows to train on."""
    folder = tmp_path_factory.mktemp("inputs")
    tokenizer = make_tokenizer()
    make_model(len(tokenizer), hidden_size=256, intermediate_size=1024).save_pretrained(folder / "model")
    tokenizer.save_pretrained(folder / "model")
    rows = [
        {"instruction": f"Name {count} colours of the rainbow.", "output": f"Red, green and {count} more."}
        for count in range(60)
    ]
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (folder / "sitecustomize.py").write_text(SLOW_DISK)  # what Python runs first, where it is on its path
    return folder


@pytest.fixture(scope="module")
def whole(inputs: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that was never stopped, and saved no checkpoint."""
    out = tmp_path_factory.mktemp("whole") / "model"
    Command(inputs, out).finish(NO_CHECKPOINT)
    return out


def call(*args: object, code: int) -> str:
    """``finetune ARGS`` in this process, which has loaded torch already."""
    done = CliRunner().invoke(cli, [str(arg) for arg in args])
    assert done.exit_code == code, f"exit {done.exit_code}, expected {code}:\n{done.output}\n{done.exception!r}"
    return done.output


def until(reached: Callable[[], bool], process: Process) -> None:
    """Wait for a stage, or for the end of the process."""
    end = time.monotonic() + 240
    while not reached() and process.poll() is None:
        assert time.monotonic() < end, "it neither gets there nor ends"
        time.sleep(0.01)


def logged(out: Path) -> list[dict]:
    """The whole lines of metrics.jsonl: a kill may have cut the last one short."""
    path = out / "metrics.jsonl"
    return [loads(line) for line in path.read_bytes().split(b"\n")[:-1]] if path.exists() else []


def parts(out: Path) -> list[Path]:
    """Checkpoints half written."""
    return list((out / "checkpoints").glob(".step-*.part"))


def kept(out: Path) -> int:
    """The step of the checkpoint in force, which must be whole; 0 if there is none."""
    found = checkpoint.latest(out / "checkpoints")
    if found is None:
        return 0
    assert found.folder.name == f"step-{found.step:08}"
    tensors = found.tensors()
    assert tensors["0.weight"].numel() == tensors["0.first"].numel() == tensors["0.second"].numel() > 0
    assert all(torch.isfinite(tensor).all() for tensor in tensors.values() if tensor.is_floating_point())
    return found.step


def complete(out: Path) -> bool:
    """What the record says; torn, it would not be JSON."""
    path = out / "finetune.json"
    return path.exists() and loads(path.read_bytes())["complete"]


def contents(out: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in out.rglob("*") if path.is_file() and path.name != ".lock"}


def check_left(out: Path, whole: Path) -> None:
    """After a kill, nothing torn is taken for whole, and nothing unfinished for complete."""
    steps, all_steps = ([line["step"] for line in logged(one)] for one in (out, whole))
    assert steps == all_steps[: len(steps)]
    assert kept(out) < all_steps[-1]
    for weights in out.glob("*model.safetensors"):
        assert weights.read_bytes() == (whole / weights.name).read_bytes()
    if (out / "finetune.json").exists() and not complete(out):
        assert "not complete" in call("chat", out, "--prompt", "Hi", code=2)
        call("export", out, "-o", out.with_name("exported"), code=2)


def check_equal(out: Path, whole: Path) -> None:
    """Two complete runs have the same files with the same bytes, but for what a clock measured."""
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
    """Kill the command as soon as ``reached`` holds of its folder.

    It must hold afterwards too: a kill that came after the end of what it was to interrupt is tried again.
    """
    for _ in range(PATIENCE):
        with command.started(*more, slow=True) as process:
            until(reached, process)
            process.kill()
            said, _ = process.communicate()
        assert process.returncode == -signal.SIGKILL, f"it ended before it was {what}:\n{said}"
        check_left(command.out, whole)
        if reached():
            return
    pytest.fail(f"{PATIENCE} kills came too late while {what}")


def kill_while_measuring(command: Command, left: Path) -> None:
    """Kill the command before its first step: only a screen shows that it is so far.

    A screen is drawn four times a second, so the sample answers are to be long.

    Args:
        left: A file that is there already.
    """
    for _ in range(PATIENCE):
        command.out.mkdir()
        left.write_bytes(b'{"model": "emb')
        ours, theirs = pty.openpty()
        shown = b""
        long = "evaluation.sample_tokens=2000"
        with os.fdopen(ours, "rb", buffering=0) as screen, command.started(long, screen=theirs) as process:
            os.close(theirs)
            with suppress(OSError):  # there is nobody at the other end any more
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
    """A signal, after some steps: a checkpoint is saved, and it is told how to go on."""
    goal = len(logged(command.out)) + 2
    with command.started(NO_CHECKPOINT) as process:
        until(lambda: len(logged(command.out)) >= goal, process)
        process.send_signal(number)
        said, _ = process.communicate(timeout=120)
    assert process.returncode == 130, said
    assert "Traceback" not in said
    step = kept(command.out)
    assert f"stopped after {step} steps; repeat the command to resume" in said
    assert step == logged(command.out)[-1]["step"] >= goal


def stop_twice(command: Command, number: signal.Signals) -> None:
    """A signal, and Ctrl-C while a checkpoint is written because of it: that is given up."""
    for _ in range(PATIENCE):
        before, goal = kept(command.out), len(logged(command.out)) + 2
        with command.started(NO_CHECKPOINT, slow=True) as process:
            until(lambda: len(logged(command.out)) >= goal, process)  # noqa: B023 called before the next turn
            process.send_signal(number)
            until(lambda: bool(parts(command.out)), process)
            process.send_signal(signal.SIGINT)
            said, _ = process.communicate(timeout=120)
        assert process.returncode == 130, said
        assert "Traceback" not in said
        if kept(command.out) == before:
            assert said.splitlines()[-1] == "stopped"
            return
    pytest.fail(f"{PATIENCE} times the second signal came too late")


def test_a_run_stopped_at_every_stage_ends_with_the_same_bytes(inputs: Path, whole: Path, tmp_path: Path) -> None:
    """One run in six processes; each begins where the one before it was."""
    out = tmp_path / "model"
    command = Command(inputs, out)
    kill_while_measuring(command, left=out / ".finetune.json.k1ll3d.part")  # as by a kill within the first write
    kill_while("writing the first checkpoint", lambda: bool(parts(out)), command, whole)
    assert kept(out) == 0
    stop_once(command, signal.SIGTERM)
    stop_twice(command, signal.SIGINT)
    kill_while("saving the model", lambda: any(out.glob(".*model.part")), command, whole, NO_CHECKPOINT)
    kill_while("finishing", lambda: complete(out), command, whole, NO_CHECKPOINT)
    assert kept(out), "what a complete run doesn't need is still there"
    assert "was complete already" in call(*command.args(), code=0)
    check_equal(out, whole)
    before = contents(out)
    assert "was complete already" in call(*command.args(), code=0)
    assert contents(out) == before


def test_a_kill_between_the_model_files_leaves_an_incomplete_run(whole: Path, tmp_path: Path) -> None:
    """They come into the folder one by one; the record, written last, tells when all are there."""
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
    """When metrics.jsonl was last written: where a process's loop begins, and after its steps."""
    path = out / "metrics.jsonl"
    return path.stat().st_mtime_ns if path.exists() else 0


def kill_again_and_again(command: Command, whole: Path, *, kills: int, longest_s: float) -> int:
    """Kill the command ``kills`` times, each after a random while, then let it finish.

    Returns:
        How many kills hit the loop or what follows it: neither the start nor a run that was complete.
    """
    out, dice, inside = command.out, random.Random(0), 0
    for number in range(1, kills + 1):
        begun, before = kept(out), touched(out)
        with command.started() as process:
            # Each fifth kill may hit the start; for the others the clock begins where this process's loop does.
            if number % 5:
                until(lambda: touched(out) != before, process)  # noqa: B023 called before the next turn
            with suppress(subprocess.TimeoutExpired):
                process.wait(timeout=dice.uniform(0.0, longest_s if number % 5 else 8.0))
            process.kill()
            said, _ = process.communicate()
        assert "Traceback" not in said, said
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
def test_either_signal_saves_a_checkpoint_and_a_second_one_stops_at_once(inputs: Path, whole: Path, tmp_path: Path) -> None:
    command = Command(inputs, tmp_path / "model")
    for number in (signal.SIGINT, signal.SIGTERM):
        stop_once(command, number)
        stop_twice(command, number)
    command.finish()
    check_equal(command.out, whole)
