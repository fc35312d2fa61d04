"""Early stopping: the run ends when the held-out loss no longer falls, and keeps the weights of the lowest loss."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass

__all__ = ["EarlyStopping"]


@dataclass
class EarlyStopping:
    """The held-out losses so far, measured before training and after each epoch.

    The state depends on the losses only, and a checkpoint contains it: a resumed run decides like one that was never
    stopped.

    Attributes:
        patience: Number of measurements in a row without a lower loss after which training stops; 0 measures nothing.
        lowest: The lowest loss.
        step: Completed steps at that loss.
        failures: Measurements since then.
    """

    patience: int
    lowest: float = math.inf
    step: int = 0
    failures: int = 0

    def record(self, step: int, loss: float) -> bool:
        """Add a measurement; return whether it is the lowest so far, so that the weights must be kept."""
        if loss < self.lowest:
            self.lowest, self.step, self.failures = loss, step, 0
            return True
        self.failures += 1
        return False

    @property
    def exhausted(self) -> bool:
        """Whether training stops."""
        return 0 < self.patience <= self.failures

    def state(self) -> dict[str, float]:
        """Return the state as JSON values."""
        return {name: value for name, value in asdict(self).items() if name != "patience"}

    def restore(self, state: dict[str, float]) -> None:
        """Restore the values of ``state``.

        Raises:
            KeyError: A value is missing.
        """
        self.lowest, self.step, self.failures = float(state["lowest"]), int(state["step"]), int(state["failures"])
