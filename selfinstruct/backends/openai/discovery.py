"""Find out how a server wants to be asked, while it refuses requests, without failing one of them.

Many first requests may be refused at once. One of them finds out what the server accepts; the others wait for it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Protocol

from selfinstruct.backends.openai.dialect import REFUSABLE, Demand, Dialect
from selfinstruct.backends.openai.stream import EventStream
from selfinstruct.errors import SelfInstructError, TransientError
from selfinstruct.records import Completion

__all__ = ["MAX_ROUNDS", "Discovery", "Listener", "Refusal"]

MAX_ROUNDS = len(REFUSABLE) + 1  # refusals of one request that are answered by a change of the dialect


_UNNAMED = 12  # streams without a finish reason and none with one; three requests with five attempts each send more


@dataclass(frozen=True, slots=True)
class Refusal:
    """A refusal that another dialect may overcome.

    Attributes:
        demand: What the server asks to change.
        error: The error to raise if the change does not help.
    """

    demand: Demand
    error: SelfInstructError


Ask = Callable[[Dialect], Awaitable[Completion | Refusal]]
"""Sends a request once, in a dialect."""


class Listener(Protocol):
    """Receives what is found out about a server."""

    def dialect_changed(self, server: Discovery) -> None:
        """Take note that the server has answered in another dialect than before."""

    def usage_missing(self, server: Discovery) -> None:
        """Take note that the server answered without the number of tokens. Called once."""


class Discovery:
    """What is known about one server.

    Args:
        name: Its address, for messages.
        dialect: The dialect that an earlier invocation found out.

    Attributes:
        dialect: The dialect to use now. Until the server has answered in it, it may be wrong.
        listener: Receives changes; None for nobody.
    """

    def __init__(self, name: str, dialect: Dialect) -> None:
        self.name = name
        self.dialect = dialect
        self.listener: Listener | None = None
        self._confirmed = dialect
        self._usage_missing = False
        self._named = False  # whether a stream of this server gave a finish reason
        self._unnamed = 0
        self._lock = asyncio.Lock()

    def answered(self, completion: Completion, dialect: Dialect) -> None:
        """Take note of an answer to a request in a dialect."""
        if dialect == self.dialect and dialect != self._confirmed:
            self._confirmed = dialect
            if self.listener is not None:
                self.listener.dialect_changed(self)
        if not completion.usage.counted and not self._usage_missing:
            self._usage_missing = True
            if self.listener is not None:
                self.listener.usage_missing(self)

    def names_no_ending(self, stream: EventStream) -> bool:
        """Take note of a stream; return whether the server has shown that its streams give no finish reason.

        A server that gives one for other answers has lost this one.
        """
        self._unnamed += stream.is_unnamed
        self._named |= stream.names_ending
        return not self._named and self._unnamed >= _UNNAMED

    def adapt(self, demand: Demand) -> None:
        """Meet a demand from now on, before the server has answered in the new dialect."""
        self.dialect = self.dialect.adapted(demand)

    def adopt(self, refused: frozenset[str]) -> None:
        """Leave out fields that another server with the same model refuses."""
        self.dialect = self.dialect.adapted(Demand(refused))
        self._confirmed = self._confirmed.adapted(Demand(refused))

    async def complete(self, ask: Ask) -> Completion:
        """Return a completion, in the first dialect that the server accepts.

        Raises:
            SelfInstructError: See ``Backend.complete``.
        """
        if self._lock.locked():
            async with self._lock:  # another request is finding out
                pass
        dialect = self.dialect
        answer = await ask(dialect)
        if isinstance(answer, Completion):
            self.answered(answer, dialect)
            return answer
        async with self._lock:
            if self.dialect == dialect:
                self.adapt(answer.demand)
            return await self._discover(ask, answer.error)

    async def _discover(self, ask: Ask, failure: SelfInstructError) -> Completion:
        """Ask until the server answers.

        Each refusal names a field that was sent, so few attempts suffice; only a server that refuses both names of the
        token limit would never answer. If an attempt fails in a way that may pass, the next one continues here.

        Args:
            failure: The error of the last refusal.
        """
        for _ in range(MAX_ROUNDS):
            dialect = self.dialect
            try:
                answer = await ask(dialect)
            except TransientError:
                raise
            except SelfInstructError as error:
                failure = error
                break
            if isinstance(answer, Completion):
                self.answered(answer, dialect)
                return answer
            failure = answer.error
            self.adapt(answer.demand)
        self.dialect = self._confirmed
        raise failure
