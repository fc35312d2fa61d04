"""Room for the reasoning of a model on top of the limit of each answer.

``max_tokens`` of a stage limits the answer. Servers count a model's reasoning against the same limit, so that a model
that reasons may return nothing at all. The room is a setting, or it is found out: a completion with reasoning in it, or
one whose limit went into reasoning, adds room to every request that follows, and the latter is asked again at once.
Requests keep their own limit in the ledger: room changes neither their identity nor how completions are read.
"""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import replace

from selfinstruct.backends.base import Backend
from selfinstruct.errors import BackendError, RequestError, SelfInstructError, TransientError
from selfinstruct.parse.answers import holds_answer, shows_reasoning, spent_on_reasoning
from selfinstruct.records import Completion, Request

__all__ = ["CODE", "FIRST_ROOM", "NO_ROOM", "RoomForReasoning", "RoomyBackend"]

CODE = "reasoning_limit"
"""Code of the failure of a request whose answer is empty because the model's reasoning took all its tokens."""

FIRST_ROOM = 8192
"""Tokens of room where it is not set, once a model is seen to reason."""

_STEPS = (FIRST_ROOM, 4 * FIRST_ROOM)  # one after the other
_MAX_EMPTY = 6  # empty answers of a stage that had no other, after which the run stops
_LEAST = 512  # fewer tokens of room than this count as no room
_LIMIT = re.compile(r"max_(?:completion_|new_|output_)?tokens", re.IGNORECASE)  # a server refuses so large a limit


class RoomForReasoning:
    """The tokens that are added to the limit of requests.

    Args:
        setting: Tokens to add to every request of a chat; None to find out.
        reasons: Whether the model is known to reason, from earlier completions of the run.
    """

    def __init__(self, setting: int | None = None, *, reasons: bool = False) -> None:
        self._fixed = setting is not None
        self._chat = (setting or 0) if self._fixed else FIRST_ROOM * reasons
        self._raw = 0
        self._held: dict[int, int] = {}  # tokens of room in the latest send of each request that has any
        self.most = max(_STEPS[-1], setting or 0)  # less once requests exceed the context of the model

    def tokens(self, request: Request) -> int:
        """Return the tokens of room for a request."""
        if request.asks_for_score:
            return 0
        return min(self._raw if request.is_raw else self._chat, self.most)

    def enlarged(self, request: Request, tokens: int | None = None) -> Request:
        """Return a copy of a request with room in its limit; by default, all that there is for it."""
        room = self.tokens(request) if tokens is None else tokens
        if not room:
            return request
        return replace(request, sampling=replace(request.sampling, max_tokens=request.sampling.max_tokens + room))

    def hold(self, request: Request) -> None:
        """Remember the room of a request that is sent now, since there may be more when it is answered."""
        if (tokens := self.tokens(request)) or request.number in self._held:
            self._held[request.number] = tokens

    def held_tokens(self, request: Request) -> int:
        """Return the tokens of room in the latest send of a request."""
        return self._held.get(request.number, 0)

    def held(self, request: Request) -> Request:
        """Return a copy of a request with the limit of its latest send, which the budget has reserved."""
        return self.enlarged(request, self.held_tokens(request))

    def grow(self, request: Request, beyond: int) -> bool:
        """Add room for requests of this kind if it is at most ``beyond``; return whether there is more now."""
        current = self.tokens(request)
        if current > beyond:
            return True
        step = next((step for step in _STEPS if step > current), None)
        if self._fixed or step is None or step > self.most:
            return False
        if request.is_raw:
            self._raw = step
        else:
            self._chat = step
        return True

    def observe(self, request: Request, completion: Completion) -> None:
        """Add the first room once a completion shows that the model reasons, where no request can be asked again."""
        if shows_reasoning(completion) and not _asks_for_reasoning(request):
            self.grow(request, 0)


NO_ROOM = RoomForReasoning(0)
"""For backends whose limits leave out reasoning."""


class RoomyBackend(Backend):
    """A backend whose requests have room for reasoning.

    Args:
        inner: The backend that completes the requests.
        room: The room, shared with the budget.
        remedy: How to switch reasoning off, for messages; "" if the backend has no option for it.
    """

    def __init__(self, inner: Backend, room: RoomForReasoning, remedy: str) -> None:
        self._inner = inner
        self._room = room
        self._remedy = remedy
        self._empty: Counter[str] = Counter()  # by stage
        self._answered: set[str] = set()  # stages in which an answer was not cut

    async def start(self) -> None:
        await self._inner.start()

    async def complete(self, request: Request) -> Completion:
        """Complete a request with room for reasoning; see ``Backend.complete`` for further errors.

        Raises:
            TransientError: The limit went into reasoning, and there is more room now: ask again at once.
            RequestError: The limit went into reasoning, and the answer is empty.
            BackendError: The same happened to every request of a stage: the limit is too small for this model.
        """
        completion, room = await self._complete(request)
        if _asks_for_reasoning(request) or not shows_reasoning(completion):
            self._answered.add(request.stage)
            return completion
        if not spent_on_reasoning(completion):
            self._answered.add(request.stage)
            self._room.grow(request, 0)
            return completion
        limit = request.sampling.max_tokens
        if self._room.grow(request, room):
            raise TransientError(
                f"the model's reasoning took the limit of {limit + room} tokens: the limit is "
                f"{limit + self._room.tokens(request)} from now on",
                elsewhere=len(_STEPS),
            )
        if holds_answer(completion):
            return completion
        raise self._empty_answer(request, room)

    def _empty_answer(self, request: Request, room: int) -> SelfInstructError:
        """Return the error for an answer without a character whose limit went into reasoning."""
        self._empty[request.stage] += 1
        text = (
            f"the model's reasoning took the whole limit, and the answer is empty: {request.sampling.max_tokens} "
            f"tokens for the answer and {room} on top for reasoning are too few. Allow more (--set "
            f"reasoning_tokens={max(4 * room, FIRST_ROOM)})"
        )
        text += f", or switch reasoning off ({self._remedy})" if self._remedy else ""
        if request.stage in self._answered or self._empty[request.stage] < _MAX_EMPTY:
            return RequestError(CODE, text)
        return BackendError(f"{text}. No request of the stage {request.stage} was answered")

    async def _complete(self, request: Request) -> tuple[Completion, int]:
        """Return the completion, and the room that the request had: less if more would not fit into the context."""
        wanted = room = self._room.held_tokens(request)
        while True:
            try:
                completion = await self._inner.complete(self._room.enlarged(request, room))
            except RequestError as error:
                if not room or not (error.code == "context_length" or _LIMIT.search(str(error))):
                    raise
                room = room // 2 if room > _LEAST else 0
            else:
                if 0 < room < wanted:
                    self._room.most = min(self._room.most, room)
                return completion, room

    async def close(self) -> None:
        await self._inner.close()


def _asks_for_reasoning(request: Request) -> bool:
    """Return whether the prompt itself asks for reasoning in tags, for which its stage has a limit of its own."""
    return any("<think>" in turn.text for turn in request.turns)
