"""Metrics: lines of metrics.jsonl, TensorBoard events, and the plot of the loss."""

from __future__ import annotations

import struct
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from finetune.training.metrics import Metrics
from selfinstruct.common.codec import loads
from selfinstruct.errors import DataError, SelfInstructError


def values(step: int) -> dict[str, float | int | None]:
    return {
        "epoch": step / 8, "loss": 3.0 / step, "learning_rate": 1e-4, "gradient_norm": 1.5, "tokens": 100 * step,
        "mfu": None,
    }  # fmt: skip


def write(folder: Path, first: int, last: int) -> None:
    metrics = Metrics(folder)
    metrics.rewind(first - 1)
    for step in range(first, last + 1):
        metrics.log(step, values(step))
    metrics.close()


def events(folder: Path) -> dict[str, list[tuple[int, float]]]:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    accumulator = EventAccumulator(str(folder / "events"))
    accumulator.Reload()
    return {
        tag: [(event.step, event.value) for event in accumulator.Scalars(tag)] for tag in accumulator.Tags()["scalars"]
    }


def test_each_logged_step_is_written_at_once_as_strict_json(tmp_path: Path) -> None:
    metrics = Metrics(tmp_path / "new")
    metrics.log(1, values(1))
    lines = metrics.path.read_bytes().splitlines()
    assert [loads(line) for line in lines] == [
        {"step": 1, "epoch": 0.125, "loss": 3.0, "learning_rate": 1e-4, "gradient_norm": 1.5, "tokens": 100}
    ]
    with pytest.raises(ValueError, match="JSON compliant"):
        metrics.log(2, {"loss": float("nan")})
    assert metrics.path.read_bytes().splitlines() == lines
    metrics.close()


@pytest.mark.parametrize("torn", [b"", b'{"step": 6, "epo', b'{"step": 6}'])
def test_a_resumed_run_writes_the_same_file_as_an_uninterrupted_one(tmp_path: Path, torn: bytes) -> None:
    write(tmp_path / "uninterrupted", 1, 8)
    write(tmp_path / "resumed", 1, 5)
    with (tmp_path / "resumed" / "metrics.jsonl").open("ab") as file:
        file.write(torn)
    second = int(time.time())
    while int(time.time()) == second:  # TensorBoard orders its files by the seconds in their names
        time.sleep(0.01)
    write(tmp_path / "resumed", 4, 8)  # the latest checkpoint was at step 3
    uninterrupted, resumed = ((tmp_path / name / "metrics.jsonl").read_bytes() for name in ("uninterrupted", "resumed"))
    assert uninterrupted == resumed
    assert events(tmp_path / "uninterrupted") == events(tmp_path / "resumed")


def test_a_restarted_run_removes_earlier_metrics(tmp_path: Path) -> None:
    write(tmp_path, 1, 3)
    write(tmp_path, 1, 2)
    assert len((tmp_path / "metrics.jsonl").read_bytes().splitlines()) == 2
    assert [step for step, _ in events(tmp_path)["train/loss"]] == [1, 2]


def test_events_have_the_same_values_as_the_lines(tmp_path: Path) -> None:
    write(tmp_path, 1, 3)
    scalars = events(tmp_path)
    assert set(scalars) == {f"train/{name}" for name in values(1) if name != "mfu"}
    assert scalars["train/loss"] == [(1, 3.0), (2, 1.5), (3, 1.0)]


@pytest.mark.parametrize("line", [b"nonsense", b"[1]", b'{"loss": 1.0}', b"\x00\x00"])
def test_a_damaged_line_is_reported_with_its_number(tmp_path: Path, line: bytes) -> None:
    write(tmp_path, 1, 2)
    path = tmp_path / "metrics.jsonl"
    path.write_bytes(path.read_bytes() + line + b"\n")
    with pytest.raises(DataError, match=r"metrics.jsonl:3: .* remove the file"):
        Metrics(tmp_path).rewind(2)
    with pytest.raises(DataError, match=r"metrics.jsonl:3:"):
        Metrics(tmp_path).plot("x", {})


def test_an_unwritable_file_is_reported(tmp_path: Path) -> None:
    (tmp_path / "metrics.jsonl").mkdir()
    with pytest.raises(SelfInstructError, match="can't write"):
        Metrics(tmp_path).log(1, values(1))
    with pytest.raises(SelfInstructError, match="can't read"):
        Metrics(tmp_path).rewind(1)


def test_missing_packages_are_reported_once_and_lines_are_still_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("tensorboard", "torch.utils.tensorboard", "matplotlib", "matplotlib.figure"):
        monkeypatch.setitem(sys.modules, name, None)
    messages: list[str] = []
    metrics = Metrics(tmp_path, messages.append)
    for step in (1, 2, 3):
        metrics.log(step, values(step))
    assert not metrics.plot("x", {})
    metrics.close()
    assert [line.rpartition(": ")[2] for line in messages] == ["it is not installed", "matplotlib is not installed"]
    assert len(metrics.path.read_bytes().splitlines()) == 3
    assert sorted(path.name for path in tmp_path.iterdir()) == ["metrics.jsonl"]


def size(path: Path) -> Any:
    data = path.read_bytes()
    assert data[:8] == b"\x89PNG\r\n\x1a\n"
    return struct.unpack(">II", data[16:24])


@pytest.mark.parametrize("steps", [1, 2, 40])
def test_any_number_of_steps_can_be_plotted(tmp_path: Path, steps: int) -> None:
    write(tmp_path, 1, steps)
    title = r"$\undefined{$ 模型 <b> _x^ \n"
    assert Metrics(tmp_path).plot(title, {r"rows $\x$": (2.5, 2.0), "seed tasks": (2.4, 2.6)})
    assert size(tmp_path / "loss.png") == (960, 600)


def test_nothing_is_plotted_without_steps(tmp_path: Path) -> None:
    assert not Metrics(tmp_path).plot("x", {})
    assert list(tmp_path.iterdir()) == []


def test_the_moving_average_begins_at_the_first_loss() -> None:
    from finetune.training.metrics import _smooth

    assert _smooth([4.0]) == pytest.approx([4.0])
    assert _smooth([4.0, 2.0]) == pytest.approx([4.0, (0.9 * 4 + 2) / 1.9])
    assert _smooth([1.0] * 50) == pytest.approx([1.0] * 50)
