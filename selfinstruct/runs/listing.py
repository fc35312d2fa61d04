"""The runs below a directory."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from selfinstruct.errors import SelfInstructError, UsageError
from selfinstruct.ledger import LEDGER_FILE
from selfinstruct.runs.status import RunStatus, status

__all__ = ["RunListing", "list_runs"]


@dataclass(frozen=True)
class RunListing:
    """A run directory and the state of its run.

    Attributes:
        folder: The run directory.
        status: State of the run; None if it can't be read.
        error: Why the run can't be read; "" if it can.
    """

    folder: Path
    status: RunStatus | None
    error: str = ""


def list_runs(folder: Path) -> list[RunListing]:
    """List the run in a directory and those directly below it, by path.

    Raises:
        UsageError: There is no such directory.
    """
    if not folder.is_dir():
        raise UsageError(f"there is no directory {folder}")
    paths = sorted(path.parent for path in (*folder.glob(LEDGER_FILE), *folder.glob(f"*/{LEDGER_FILE}")))
    return [_listing(path) for path in paths]


def _listing(folder: Path) -> RunListing:
    try:
        return RunListing(folder, status(folder))
    except SelfInstructError as error:
        return RunListing(folder, None, str(error))
