"""What a run measures on its way: metrics.jsonl, TensorBoard events, and a picture of the loss."""

from __future__ import annotations

import io
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from selfinstruct.codec import dumps, loads
from selfinstruct.files import write_atomic

__all__ = ["Metrics"]

_FILE = "metrics.jsonl"
_SMOOTHING = 0.9  # of the drawn line: each step's weight is a tenth


class Metrics:
    """The figures of a run, in ``folder``.

    ``metrics.jsonl`` has a JSON object for each logged step. The same figures go to TensorBoard events, where the
    package is installed.
    """

    def __init__(self, folder: Path) -> None:
        self.path = folder / _FILE
        self._folder = folder
        self._writer: Any = None
        self._purge: int | None = None

    def rewind(self, step: int) -> None:
        """Forget what came after ``step``, and a line that a kill cut short: a resumed run writes it again."""
        kept = [line for line in self._lines() if line["step"] <= step]
        if step or self.path.exists():
            write_atomic(self.path, [dumps(line).encode("utf-8") + b"\n" for line in kept])
        self._purge = step + 1

    def log(self, step: int, values: Mapping[str, float | int | None]) -> None:
        """Write the figures of a step; those that are None are left out."""
        known = {name: value for name, value in values.items() if value is not None}
        self._folder.mkdir(parents=True, exist_ok=True)
        with self.path.open("ab") as file:
            file.write(dumps({"step": step, **known}).encode("utf-8") + b"\n")
        writer = self._events()
        if writer is not None:
            for name, value in known.items():
                writer.add_scalar(f"train/{name}", value, step)

    def close(self) -> None:
        """Finish the events."""
        if self._writer is not None:
            self._writer.close()

    def _events(self) -> Any:
        if self._writer is None:
            try:
                with warnings.catch_warnings():
                    warnings.simplefilter("ignore")  # of what TensorBoard imports
                    from torch.utils.tensorboard import SummaryWriter

                    self._writer = SummaryWriter(str(self._folder / "events"), purge_step=self._purge)
            except ImportError:
                return None
        return self._writer

    def _lines(self) -> list[dict[str, Any]]:
        try:
            text = self.path.read_bytes()
        except FileNotFoundError:
            return []
        whole = text[: text.rfind(b"\n") + 1]
        return [loads(line) for line in whole.splitlines()]

    def plot(self, title: str, held_out: Mapping[str, tuple[float, float]]) -> bool:
        """Draw ``loss.png``: the loss of each logged step and a smoothed line, the learning rate below.

        Args:
            held_out: Loss before and after, by name; drawn at the first and the last step.

        Returns:
            False where there is nothing to draw, or matplotlib is not installed.
        """
        lines = self._lines()
        try:
            from matplotlib.backends.backend_agg import FigureCanvasAgg
            from matplotlib.figure import Figure
        except ImportError:
            return False
        if not lines:
            return False
        steps, losses = [line["step"] for line in lines], [line["loss"] for line in lines]
        figure = Figure(figsize=(8, 5), layout="constrained")
        FigureCanvasAgg(figure)
        top, low = figure.subplots(2, 1, sharex=True, height_ratios=[4, 1])
        top.plot(steps, losses, color="tab:blue", alpha=0.35, linewidth=1, label="training loss")
        top.plot(steps, _smooth(losses), color="tab:blue", label="smoothed")
        for number, (name, (before, after)) in enumerate(held_out.items()):
            colour = f"C{number + 1}"
            top.plot([0, steps[-1]], [before, after], "o:", color=colour, label=f"held out: {name}")
        top.set(title=title, ylabel="loss (nats a token)")
        top.legend()
        low.plot(steps, [line["learning_rate"] for line in lines], color="tab:grey")
        low.set(xlabel="step", ylabel="rate")
        picture = io.BytesIO()
        figure.savefig(picture, format="png", dpi=120)
        write_atomic(self._folder / "loss.png", [picture.getvalue()])
        return True


def _smooth(values: list[float]) -> list[float]:
    """Exponential mean, corrected for its start."""
    found, mean = [], 0.0
    for count, value in enumerate(values, start=1):
        mean = _SMOOTHING * mean + (1 - _SMOOTHING) * value
        found.append(mean / (1 - _SMOOTHING**count))
    return found
