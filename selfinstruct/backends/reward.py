"""Scores by a reward model in this process, for requests that ask for a score instead of text.

A request holds a whole conversation, and the text of its completion is the reward of the last answer. So a score is
stored in the ledger like every other completion: whoever resumes, replays or filters the run again reads it back, and a
model's floating-point output, which depends on the machine, is never recomputed.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from selfinstruct.backends.base import Backend
from selfinstruct.common.files import first_line
from selfinstruct.errors import BackendError, RequestError, UsageError
from selfinstruct.filters.reward import Conversation, RewardScorer, Scored, load_reward_scorer, model_identity
from selfinstruct.records import Choice, Completion, Request, Usage

__all__ = ["RewardBackend"]

_MOST = 32  # conversations scored at once


class RewardBackend(Backend):
    """A reward model as a backend. Requests that arrive while it computes are scored together.

    Args:
        model: Directory or hub name of the model.
        identity: What ``model_identity`` returned when the run was made.
    """

    def __init__(self, model: str, identity: str) -> None:
        self._model = model
        self._identity = identity
        self._name = f"reward model {identity[:12]}" if identity != model else identity
        self._scorer: RewardScorer | None = None
        self._waiting: list[tuple[Conversation, asyncio.Future[Scored]]] = []
        self._turn = asyncio.Lock()

    async def start(self) -> None:
        """Load the model.

        Raises:
            MissingExtraError: torch or transformers is not installed.
            UsageError: The model can't be loaded, or is another one than when the run was made.
        """
        if await asyncio.to_thread(model_identity, self._model) != self._identity:
            raise UsageError(
                f"the reward model {self._model} is not the one with which the run was started: its files differ. Name "
                "the folder of the earlier one with --judge, or start a new run or a fork"
            )
        self._scorer = await asyncio.to_thread(load_reward_scorer, self._model)

    async def complete(self, request: Request) -> Completion:
        """Return the reward of the last message as text, such as ``-1.25``.

        Raises:
            RequestError: The conversation is too long for the model, or its chat template refuses it.
            BackendError: The model failed, for instance because the memory is too small.
        """
        scored: asyncio.Future[Scored] = asyncio.get_running_loop().create_future()
        self._waiting.append((tuple((turn.role, turn.text) for turn in request.turns), scored))
        async with self._turn:  # granted in order of arrival
            while not scored.done():  # requests that were cancelled may wait before it
                await self._score_waiting()
        reward, problem = scored.result()
        if reward is None:
            raise RequestError("not_scored", f"the reward model {self._model}: {problem}", certain=True)
        return Completion((Choice(repr(reward), "stop"),), Usage(), self._name)

    async def _score_waiting(self) -> None:
        batch = self._waiting[:_MOST]
        results = await asyncio.to_thread(self._score, [conversation for conversation, _ in batch])
        del self._waiting[: len(batch)]
        for (_, scored), result in zip(batch, results, strict=True):
            if not scored.done():  # a cancelled request has no use for it
                scored.set_result(result)

    def _score(self, conversations: Sequence[Conversation]) -> Sequence[Scored]:
        if self._scorer is None:
            raise BackendError("the reward model was not started, or is closed")
        try:
            return self._scorer(conversations)
        except RuntimeError as error:  # of torch; memory that is too small is one as well
            raise BackendError(f"the reward model {self._model} failed: {first_line(error)}") from None

    async def close(self) -> None:
        """Free the model."""
        self._scorer = None
