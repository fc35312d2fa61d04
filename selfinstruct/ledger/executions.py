"""The stored results of verifiers that run code.

Whether a program finishes within its time limit depends on the machine, so its result is part of the run: it is stored
when it is first computed, and read back whenever the run is processed again. The table exists only in ledgers that
need it.
"""

from __future__ import annotations

from collections.abc import Mapping

from selfinstruct.common.codec import Json
from selfinstruct.ledger.reader import Reader
from selfinstruct.ledger.writer import Ledger

__all__ = ["ExecutionJournal"]


class ExecutionJournal:
    """The journal of one run, for ``selfinstruct.verifiers.use_journal``.

    Args:
        reader: The run's ledger.
        ledger: Its writing side, to store new results; without it they last as long as this object.
    """

    def __init__(self, reader: Reader, ledger: Ledger | None = None) -> None:
        # All at once: the engine may run in another thread, which must not use the reader.
        self._results: dict[str, Mapping[str, Json]] = dict(reader.executions())
        self._ledger = ledger

    def get(self, key: str) -> Mapping[str, Json] | None:
        """Return the stored result of an execution, or None."""
        return self._results.get(key)

    def put(self, key: str, result: Mapping[str, Json]) -> None:
        """Store the result of an execution. It is committed before any request that is sent later."""
        self._results[key] = result
        if self._ledger is not None:
            self._ledger.record_execution(key, result)
