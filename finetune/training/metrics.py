"""What a run measures on its way: metrics.jsonl, TensorBoard events, and a picture of the loss."""

from __future__ import annotations

import io
import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from selfinstruct.common.codec import dumps, loads
from selfinstruct.common.files import reason, write_atomic
from selfinstruct.errors import DataError, SelfInstructError

__all__ = ["Metrics"]

_FILE = "metrics.jsonl"
_PICTURE = "loss.png"
_SMOOTHING = 0.9  # of the drawn line: each step's weight is a tenth
_TEXT = str.maketrans({"$": r"\$"})  # matplotlib reads what is between two dollars as a formula


class Metrics:
    """The figures of a run, in ``folder``.

    ``metrics.jsonl`` has a JSON object for each logged step. The same figures go to TensorBoard events, where the
    package is installed.

    Args:
        tell: Called with a line, once, where a package for events or the picture is missing.
    """

    def __init__(self, folder: Path, tell: Callable[[str], None] = lambda _what: None) -> None:
        self.path = folder / _FILE
        self._folder = folder
        self._tell = tell
        self._writer: Any = None
        self._no_events = False
        self._purge: int | None = None

    def rewind(self, step: int) -> None:
        """Forget what came after ``step``, and a line that a kill cut short: a resumed run writes it again.

        Raises:
            DataError: A line is no line of ours.
            SelfInstructError: The file can't be read or written.
        """
        if self.path.exists():
            kept = [line for line in self._lines() if line["step"] <= step]
            write_atomic(self.path, [dumps(line).encode("utf-8") + b"\n" for line in kept])
        self._purge = step + 1

    def log(self, step: int, values: Mapping[str, float | int | None]) -> None:
        """Write the figures of a step; those that are None are left out. The line is there when this returns.

        Raises:
            SelfInstructError: It can't be written.
        """
        known = {name: value for name, value in values.items() if value is not None}
        line = dumps({"step": step, **known}).encode("utf-8") + b"\n"
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            with self.path.open("ab") as file:
                file.write(line)
        except OSError as error:
            raise SelfInstructError(f"can't write {self.path}: {reason(error)}; mend that and go on") from error
        self._events(step, known)

    def close(self) -> None:
        """Finish the events."""
        if self._writer is not None:
            self._writer.close()
            self._writer = None

    def plot(self, title: str, held_out: Mapping[str, tuple[float, float]]) -> bool:
        """Draw ``loss.png``: the loss of each logged step and a smoothed line, the learning rate below.

        Args:
            held_out: Loss before and after, by name; drawn at the first and the last step.

        Returns:
            False where there is nothing to draw, or matplotlib is not installed.

        Raises:
            SelfInstructError: As ``rewind``.
        """
        lines = self._lines()
        if not lines:
            return False
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # of matplotlib's own, and of letters that its font has not
                picture = _picture(title, lines, held_out)
        except ImportError:
            self._tell(f"no {_PICTURE}: matplotlib is not installed")
            return False
        write_atomic(self._folder / _PICTURE, [picture])
        return True

    def _lines(self) -> list[dict[str, Any]]:
        """What is written, without the end that a kill cut short."""
        try:
            written = self.path.read_bytes()
        except FileNotFoundError:
            return []
        except OSError as error:
            raise SelfInstructError(f"can't read {self.path}: {reason(error)}") from None
        return [self._line(number, line) for number, line in enumerate(written.split(b"\n")[:-1], start=1)]

    def _line(self, number: int, line: bytes) -> dict[str, Any]:
        try:
            found = loads(line)
        except ValueError as error:
            found = error
        if isinstance(found, dict) and all(
            isinstance(found.get(name), int | float) for name in ("step", "loss", "learning_rate")
        ):
            return found
        raise DataError(
            f"{self.path}:{number}: no figures of a training step; remove the file to go on without those so far"
        )

    def _events(self, step: int, values: Mapping[str, float | int]) -> None:
        if self._no_events:
            return
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # TensorBoard's own
            if self._writer is None:
                try:
                    from torch.utils.tensorboard import SummaryWriter
                except ImportError:
                    self._no_events = True
                    self._tell("no events for TensorBoard: it is not installed")
                    return
                # What an earlier process wrote of steps that are made again is hidden by the first event of this one.
                events = self._folder / "events"
                try:
                    self._writer = SummaryWriter(str(events), purge_step=self._purge)
                except OSError as error:
                    raise SelfInstructError(f"can't write {events}: {reason(error)}; mend that and go on") from None
            for name, value in values.items():
                self._writer.add_scalar(f"train/{name}", value, step)


def _picture(title: str, lines: Sequence[Mapping[str, Any]], held_out: Mapping[str, tuple[float, float]]) -> bytes:
    """PNG. No global state of matplotlib is touched: neither a window system nor anybody's settings."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator

    steps, losses = [line["step"] for line in lines], [line["loss"] for line in lines]
    figure = Figure(figsize=(8, 5), layout="constrained")
    FigureCanvasAgg(figure)
    top, low = figure.subplots(2, 1, sharex=True, height_ratios=[4, 1])
    few = len(steps) < 3
    top.plot(steps, losses, "o" if few else "-", color="tab:blue", alpha=0.35, linewidth=1, label="training loss")
    top.plot(steps, _smooth(losses), color="tab:blue", label="training loss, smoothed")
    for number, (name, (before, after)) in enumerate(held_out.items(), start=1):
        label = f"held-out {name}: {before:.3f} before, {after:.3f} after"
        top.plot([0, steps[-1]], [before, after], "o:", color=f"C{number}", label=label.translate(_TEXT))
    top.set_title(title.translate(_TEXT), fontsize="medium")
    top.set_ylabel("loss (nats a token)")
    top.legend(fontsize="small")
    top.grid(alpha=0.3)
    low.plot(steps, [line["learning_rate"] for line in lines], "o" if few else "-", color="tab:grey")
    low.set(xlabel="step", ylabel="learning\nrate")
    low.xaxis.set_major_locator(MaxNLocator(integer=True))
    low.grid(alpha=0.3)
    picture = io.BytesIO()
    figure.savefig(picture, format="png", dpi=120, metadata={"Software": None})
    return picture.getvalue()


def _smooth(values: Sequence[float]) -> list[float]:
    """Exponential mean, corrected for its start (Kingma & Ba 2014, section 3)."""
    found, mean = [], 0.0
    for count, value in enumerate(values, start=1):
        mean = _SMOOTHING * mean + (1 - _SMOOTHING) * value
        found.append(mean / (1 - _SMOOTHING**count))
    return found
