"""The contract between the engine and whatever completes text.

A backend sends one request and returns one completion. It retries nothing, counts nothing and knows nothing of pools,
files or budgets: those stand in front of it, once, for every backend.
"""

from __future__ import annotations

from typing import ClassVar, Protocol

from selfinstruct.records import Completion, Request

__all__ = ["Backend"]


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
