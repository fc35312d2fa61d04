"""The journal of results that come from running code.

Whether a program finishes within its time limit depends on the machine. A run therefore records the result of every
verifier that runs code, and reads it back instead of running the code again: whoever replays, refilters or resumes the
run reaches the same verdicts. The key covers the specification and the answer, and nothing else.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Protocol

from selfinstruct.common.codec import Json, canonical, digest
from selfinstruct.verifiers.base import Finding, Spec

__all__ = ["Journal", "recorded", "use_journal"]


class Journal(Protocol):
    """A store of results by key. The ledger provides one for each run."""

    def get(self, key: str) -> Mapping[str, Json] | None:
        """Return the recorded result, or None."""

    def put(self, key: str, result: Mapping[str, Json]) -> None:
        """Record a result."""


_journal: ContextVar[Journal | None] = ContextVar("verifier_journal", default=None)


@contextmanager
def use_journal(journal: Journal | None) -> Iterator[None]:
    """Record the results of verifiers that run code in `journal`, and reuse the recorded ones, within the block."""
    token = _journal.set(journal)
    try:
        yield
    finally:
        _journal.reset(token)


def recorded(spec: Spec, answer: str, compute: Callable[[Spec, str], Finding]) -> Finding:
    """Return the recorded result for this specification and answer, or compute and record it."""
    journal = _journal.get()
    if journal is None:
        return compute(spec, answer)
    key = digest(canonical([dict(spec), answer.encode("utf-8", "backslashreplace").decode("utf-8")]))
    result = journal.get(key)
    if result is not None:
        return Finding(bool(result["kept"]), str(result["expected"]), str(result["found"]))
    finding = compute(spec, answer)
    journal.put(key, {"kept": finding.kept, "expected": finding.expected, "found": finding.found})
    return finding
