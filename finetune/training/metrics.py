"""Metrics of a training run: ``metrics.jsonl``, TensorBoard events, and a plot of the loss."""

from __future__ import annotations

import io
import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from selfinstruct.common.codec import dumps, loads
from selfinstruct.common.files import describe_os_error, write_atomic
from selfinstruct.errors import DataError, SelfInstructError

__all__ = ["Metrics"]

_FILE = "metrics.jsonl"
_PLOT = "loss.png"
_SMOOTHING = 0.9  # decay of the plotted moving average
_ESCAPE = str.maketrans({"$": r"\$"})  # matplotlib parses text between two dollar signs as a formula


class Metrics:
    """Writer of the metrics of a run in ``folder``.

    ``metrics.jsonl`` has a JSON object for each logged step. The same metrics go to TensorBoard events if that package
    is installed.

    Args:
        notify: Called with a line, once, if a package for events or the plot is missing.
    """

    def __init__(self, folder: Path, notify: Callable[[str], None] = lambda _line: None) -> None:
        self.path = folder / _FILE
        self._folder = folder
        self._notify = notify
        self._writer: Any = None
        self._no_events = False
        self._purge: int | None = None

    def rewind(self, step: int) -> None:
        """Remove the lines after ``step``, and one that a kill cut short: a resumed run writes them again.

        Raises:
            DataError: A line does not hold metrics of a training step.
            SelfInstructError: The file can't be read or written.
        """
        if self.path.exists():
            kept = [line for line in self._lines() if line["step"] <= step]
            write_atomic(self.path, [dumps(line).encode("utf-8") + b"\n" for line in kept])
        self._purge = step + 1

    def log(self, step: int, values: Mapping[str, float | int | None]) -> None:
        """Append the metrics of a step, omitting values of None. The line is in the file when this returns.

        Raises:
            SelfInstructError: The file can't be written.
        """
        metrics = {name: value for name, value in values.items() if value is not None}
        line = dumps({"step": step, **metrics}).encode("utf-8") + b"\n"
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            with self.path.open("ab") as file:
                file.write(line)
        except OSError as error:
            raise SelfInstructError(
                f"can't write {self.path}: {describe_os_error(error)}; fix that and repeat the command to resume"
            ) from error
        self._write_events(step, metrics)

    def close(self) -> None:
        """Close the event file."""
        if self._writer is not None:
            self._writer.close()
            self._writer = None

    def plot(self, title: str, held_out: Mapping[str, tuple[float, float]], unit: str = "token") -> bool:
        """Plot ``loss.png``: the loss of each logged step and its moving average, and the learning rate below.

        Args:
            held_out: Losses before and after training by name, plotted at the first and the last step.
            unit: What the loss is a mean over.

        Returns:
            False if there is nothing to plot, or matplotlib is not installed.

        Raises:
            SelfInstructError: As ``rewind``.
        """
        lines = self._lines()
        if not lines:
            return False
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # matplotlib's own, and for characters missing in its font
                image = _plot(title, lines, held_out, unit)
        except ImportError:
            self._notify(f"no {_PLOT}: matplotlib is not installed")
            return False
        write_atomic(self._folder / _PLOT, [image])
        return True

    def _lines(self) -> list[dict[str, Any]]:
        """Return the complete lines, without an end that a kill cut short."""
        try:
            content = self.path.read_bytes()
        except FileNotFoundError:
            return []
        except OSError as error:
            raise SelfInstructError(f"can't read {self.path}: {describe_os_error(error)}") from None
        return [self._line(number, line) for number, line in enumerate(content.split(b"\n")[:-1], start=1)]

    def _line(self, number: int, line: bytes) -> dict[str, Any]:
        try:
            metrics = loads(line)
        except ValueError:
            metrics = None
        if isinstance(metrics, dict) and all(
            isinstance(metrics.get(name), int | float) for name in ("step", "loss", "learning_rate")
        ):
            return metrics
        raise DataError(
            f"{self.path}:{number}: not the metrics of a training step; remove the file to resume without them"
        )

    def _write_events(self, step: int, values: Mapping[str, float | int]) -> None:
        if self._no_events:
            return
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # TensorBoard's
            if self._writer is None:
                try:
                    from torch.utils.tensorboard import SummaryWriter
                except ImportError:
                    self._no_events = True
                    self._notify("no events for TensorBoard: it is not installed")
                    return
                # The purge step hides events that an earlier process wrote for steps that are repeated now.
                events = self._folder / "events"
                try:
                    self._writer = SummaryWriter(str(events), purge_step=self._purge)
                except OSError as error:
                    raise SelfInstructError(
                        f"can't write {events}: {describe_os_error(error)}; fix that and repeat the command to resume"
                    ) from None
            for name, value in values.items():
                self._writer.add_scalar(f"train/{name}", value, step)


def _plot(
    title: str, lines: Sequence[Mapping[str, Any]], held_out: Mapping[str, tuple[float, float]], unit: str
) -> bytes:  # fmt: skip
    """Return the plot as PNG, without touching global state of matplotlib (window system, user settings)."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator

    steps, losses = [line["step"] for line in lines], [line["loss"] for line in lines]
    figure = Figure(figsize=(8, 5), layout="constrained")
    FigureCanvasAgg(figure)
    top, bottom = figure.subplots(2, 1, sharex=True, height_ratios=[4, 1])
    few = len(steps) < 3
    top.plot(steps, losses, "o" if few else "-", color="tab:blue", alpha=0.35, linewidth=1, label="training loss")
    top.plot(steps, _smooth(losses), color="tab:blue", label="training loss, smoothed")
    for number, (name, (before, after)) in enumerate(held_out.items(), start=1):
        label = f"held-out {name}: {before:.3f} before, {after:.3f} after"
        top.plot([0, steps[-1]], [before, after], "o:", color=f"C{number}", label=label.translate(_ESCAPE))
    top.set_title(title.translate(_ESCAPE), fontsize="medium")
    top.set_ylabel(f"loss (nats per {unit})")
    top.legend(fontsize="small")
    top.grid(alpha=0.3)
    bottom.plot(steps, [line["learning_rate"] for line in lines], "o" if few else "-", color="tab:grey")
    bottom.set(xlabel="step", ylabel="learning\nrate")
    bottom.xaxis.set_major_locator(MaxNLocator(integer=True))
    bottom.grid(alpha=0.3)
    image = io.BytesIO()
    figure.savefig(image, format="png", dpi=120, metadata={"Software": None})
    return image.getvalue()


def _smooth(values: Sequence[float]) -> list[float]:
    """Return the exponential moving average with bias correction (Kingma & Ba 2014, section 3)."""
    averages, mean = [], 0.0
    for count, value in enumerate(values, start=1):
        mean = _SMOOTHING * mean + (1 - _SMOOTHING) * value
        averages.append(mean / (1 - _SMOOTHING**count))
    return averages
