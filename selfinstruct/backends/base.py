"""The contract between the engine and whatever completes text.

A backend sends one request and returns one completion. It retries nothing, counts nothing and knows nothing of pools,
files or budgets: those stand in front of it, once, for every backend.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import ClassVar, Protocol, runtime_checkable

from selfinstruct.records import Completion, Request

__all__ = ["Backend", "BatchBackend", "StillThereError"]


class StillThereError(Exception):
    """The request is in the server's hands, and nobody waits for it any more; a later start may ask for it."""


class Backend(Protocol):
    """Something that completes text."""

    name: ClassVar[str]
    concurrency: int
    """Requests at once that suit this backend, where the user has not said."""

    async def start(self) -> None:
        """Make ready: load the model, start the server. Called once, before any request.

        Raises:
            UsageError: The model file, address or key is not usable; nothing has been sent.
            BackendError: The server can't be reached.
        """

    async def complete(self, request: Request) -> Completion:
        """Complete one request. Called from many tasks at once.

        Raises:
            RequestError: The request's own fault; it would fail again.
            TransientError: Worth another attempt.
            BackendError: The server's or the account's fault; nothing more will succeed.
        """

    async def close(self) -> None:
        """Let go of everything. Called once; must not raise."""


@runtime_checkable
class BatchBackend(Backend, Protocol):
    """A backend whose server goes on with what it was given when this process has ended.

    So it keeps notes beside the ledger, finds at its next start what it gave to the server, and need not be waited for:
    a request may take a day.
    """

    def keep_in(self, folder: Path, tell: Callable[[str], None]) -> None:
        """Called before ``start``.

        Args:
            folder: The run directory, for the notes.
            tell: Takes what is worth showing, in a line.
        """

    async def resume(self, requests: Iterable[Request]) -> set[int]:
        """Called once, after ``start``, with the requests that were sent before and have no outcome.

        Returns:
            Numbers of those that ``complete`` answers under the send that they had: the server has them, or never did.

        Raises:
            BackendError: The server can't be asked, or knows nothing of what it was given.
        """

    async def gathered(self, request: Request) -> None:
        """Wait until the request is about to go out, with others: what is called off until then cost nothing."""

    def under_way(self, count: int) -> None:
        """Called whenever it has changed: so many are, or are about to be, in ``gathered`` or ``complete``.

        When all of them are, none will come before one of them has gone.
        """

    def leave(self) -> None:
        """Wait for no answers any more.

        What ``complete`` was called with is still handed over; as soon as it is, ``complete`` raises StillThereError.
        """
