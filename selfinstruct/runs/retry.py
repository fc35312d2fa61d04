"""Recorded failures, reopened so that the run asks for them again."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

from selfinstruct.backends.batch.journal import BatchJournal
from selfinstruct.engine.plan import recorded_plan
from selfinstruct.engine.verdict_cache import VerdictCache
from selfinstruct.errors import UsageError
from selfinstruct.ledger import Ledger, Reader

__all__ = ["RetryResult", "retry"]


@dataclass(frozen=True)
class RetryResult:
    """The failures that ``retry`` reopened.

    Attributes:
        folder: The run directory.
        reopened: Number of reopened failures, by code.
        remaining: Number of failures that stay recorded, by code.
        first: The lowest request number that was reopened, or None. Until it is answered, the dataset that is computed
            from the ledger ends before it.
    """

    folder: Path
    reopened: Counter[str]
    remaining: Counter[str]
    first: int | None


def retry(folder: Path, codes: Collection[str] = (), *, dry_run: bool = False) -> RetryResult:
    """Reopen recorded failures of a run. ``generate`` asks for them again.

    If every outcome that stays precedes the reopened ones, the run continues as if they had never been sent. Otherwise
    the later requests were made after a failure that may now become an answer: they are processed as they were sent,
    like the ones that a fork inherits, and no completion is lost.

    Args:
        folder: The run directory.
        codes: Codes of the failures to reopen; empty for all.
        dry_run: Change nothing.

    Raises:
        UsageError: If batches at the server have not been collected.
        LedgerError: If there is no readable run in ``folder``, or it is in use.
    """
    with Reader(folder) as reader:  # refuses a folder without a run, where a ledger would be created
        if dry_run:
            return _selected(folder, reader.failures(), codes)
    with Ledger(folder, {}, {}) as ledger, Reader(folder) as reader:
        failures = reader.failures()
        result = _selected(folder, failures, codes)
        if result.first is None:
            return result
        if BatchJournal.read(folder).at_server:
            raise UsageError(
                f"{folder} has batches at the server, whose answers may be lost if requests are reopened now: collect "
                f"them first with: selfinstruct generate {folder}"
            )
        plan = recorded_plan(reader)
        reopened = [number for number, code in failures.items() if not codes or code in codes]
        rebuilt_from = 1 + reader.newest_outcome(excluding=reopened)
        until = max(plan.reopened_until, rebuilt_from if result.first < rebuilt_from else 0)
        VerdictCache(folder, plan).delete()  # first, since its verdicts follow from the failures
        ledger.reopen(reopened, max(rebuilt_from, plan.inherited_until), until)
    return result


def _selected(folder: Path, failures: dict[int, str], codes: Collection[str]) -> RetryResult:
    selected = {number: code for number, code in failures.items() if not codes or code in codes}
    remaining = Counter(failures.values()) - Counter(selected.values())
    return RetryResult(folder, Counter(selected.values()), remaining, min(selected, default=None))
