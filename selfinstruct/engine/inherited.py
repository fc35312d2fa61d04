"""What a fork begins with: another run's answered requests, judged again as they were asked.

Their prompts are not rebuilt: other thresholds keep other tasks, and so would show others. A follow-up that was asked
belongs to what it followed. If that is kept again, the answer is at hand; if not, it is passed over; and a draft that
is kept now and was not then has none yet: its follow-up is queued, as ever, and sent once the history is judged.
"""

from __future__ import annotations

from collections.abc import Collection

from selfinstruct.common.codec import canonical
from selfinstruct.errors import LedgerError
from selfinstruct.ledger import Reader
from selfinstruct.records import Request

__all__ = ["NONE", "InheritedRequests", "about"]


class InheritedRequests:
    """The answered requests with numbers below ``until``; the ledger is read when they are asked for.

    Args:
        until: The first number that is a run's own.
        reader: The ledger that holds them; not needed for none.
    """

    def __init__(self, until: int = 0, reader: Reader | None = None) -> None:
        self.until = until
        self._reader = reader
        self._parents: dict[int, int | None] = {}
        self._children: dict[int, list[int]] = {}

    def next(self, number: int, claimed: Collection[int]) -> int:
        """The first number from ``number`` on that is to be judged.

        Args:
            claimed: Follow-ups of what was kept; others are passed over.
        """
        self._read()
        while number < self.until and not (
            number in self._parents and (self._parents[number] is None or number in claimed)
        ):
            number += 1
        return number

    def request(self, number: int) -> Request:
        """A request as it was sent.

        Raises:
            LedgerError: It can't be made again from the ledger.
        """
        assert self._reader is not None
        request = self._reader.request(number)
        if request is None or request.digest != self._reader.request_digest(number):
            raise LedgerError(f"{self._reader.path}: request {number} is not what was sent; the file is not whole")
        return request

    def child(self, follow_up: Request, claimed: Collection[int]) -> int | None:
        """The recorded request that is this follow-up: of the same parent and stage, about the same.

        Examples in its prompt and its sampling may have been others.
        """
        if self._reader is None or follow_up.parent is None or follow_up.parent >= self.until:
            return None
        self._read()
        wanted = about(follow_up)
        for number in self._children.get(follow_up.parent, ()):
            if number not in claimed and about(self.request(number)) == wanted:
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


def about(request: Request) -> bytes:
    """What a follow-up is about: two of one parent that have this in common are the same."""
    context = {name: value for name, value in request.stored_context.items() if name != "demonstrations"}
    return canonical([request.stage, context])


NONE = InheritedRequests()
