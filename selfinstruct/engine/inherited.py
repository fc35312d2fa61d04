"""The requests that a fork inherits from another run, or a run from before a ``retry``, processed as they were sent.

Inherited prompts are not rebuilt: under new thresholds, or with an answer in place of a failure, other tasks would be
kept, so the prompts would differ. A follow-up belongs to the candidate that it follows. If that candidate is kept
again, the recorded outcome is used; if not, the follow-up is skipped. A candidate that is kept only now has no recorded
follow-up: one is queued, and sent after all inherited requests are processed.
"""

from __future__ import annotations

from collections.abc import Collection

from selfinstruct.common.codec import canonical
from selfinstruct.errors import LedgerError
from selfinstruct.ledger import Reader
from selfinstruct.records import Request

__all__ = ["NOTHING_INHERITED", "InheritedRequests", "follow_up_key"]


class InheritedRequests:
    """The recorded requests with a number below ``until``, read from the ledger on first use.

    All have an outcome, except reopened failures and the requests under way at that time.

    Args:
        until: The first number that is not inherited.
        reader: The ledger that holds the requests; not needed if ``until`` is 0.
    """

    def __init__(self, until: int = 0, reader: Reader | None = None) -> None:
        self.until = until
        self._reader = reader
        self._parents: dict[int, int | None] = {}
        self._children: dict[int, list[int]] = {}

    def next(self, number: int, claimed: Collection[int]) -> int:
        """Return the first number from ``number`` on that is to be processed.

        Args:
            number: Where to start.
            claimed: Follow-ups of accepted candidates; other follow-ups are skipped.
        """
        self._read()
        while number < self.until and not (
            number in self._parents and (self._parents[number] is None or number in claimed)
        ):
            number += 1
        return number

    def unanswered(self) -> dict[int, Request]:
        """Return the requests without an outcome, by number and in order."""
        if self._reader is None:
            return {}
        return {number: self.request(number) for number in self._reader.unanswered(self.until)}

    def request(self, number: int) -> Request:
        """Return a request as it was sent.

        Raises:
            LedgerError: If it can't be rebuilt from the ledger.
        """
        assert self._reader is not None
        request = self._reader.request(number)
        if request is None or request.digest != self._reader.request_digest(number):
            raise LedgerError(
                f"{self._reader.path}: request {number} can't be rebuilt as it was sent; the file is incomplete"
            )
        return request

    def child(self, follow_up: Request, claimed: Collection[int]) -> int | None:
        """Return the number of the recorded request that corresponds to ``follow_up``, or None.

        It has the same parent and the same key; demonstrations and sampling may differ.
        """
        if self._reader is None or follow_up.parent is None or follow_up.parent >= self.until:
            return None
        self._read()
        key = follow_up_key(follow_up)
        for number in self._children.get(follow_up.parent, ()):
            if number not in claimed and follow_up_key(self.request(number)) == key:
                return number
        return None

    def _read(self) -> None:
        if self._parents or self._reader is None:
            return
        for number, parent in self._reader.parents():
            if number >= self.until:
                break
            self._parents[number] = parent
            if parent is not None:
                self._children.setdefault(parent, []).append(number)


def follow_up_key(request: Request) -> bytes:
    """Return the key of a follow-up; two follow-ups of one parent with equal keys correspond to each other."""
    context = {name: value for name, value in request.stored_context.items() if name != "demonstrations"}
    return canonical([request.stage, context])


NOTHING_INHERITED = InheritedRequests()
