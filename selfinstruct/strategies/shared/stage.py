"""One stage of a strategy: the API of its requests and their sampling parameters."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Literal

from selfinstruct.common.codec import Json
from selfinstruct.prompts import Api, Prompts
from selfinstruct.records import PromptMessage, Sampling

__all__ = ["Stage"]


@dataclass(frozen=True)
class Stage:
    """The API of a stage's requests and their sampling parameters.

    Attributes:
        max_tokens: Maximum number of tokens of a completion; a longer one is cut and loses its last block.
        temperature: 0 takes the likeliest token; higher is more varied and less sensible.
        top_p: Only the likeliest tokens that make up this probability are drawn.
        frequency_penalty: Lowers a token's chance with each use; above about 0.5 a small model loses its grammar.
        presence_penalty: Lowers the chance of each token already used, once.
        api: ``completion`` for a raw prompt, ``chat`` for one user message, ``run`` for the API of the run.
    """

    max_tokens: int
    temperature: float = 0.7
    top_p: float = 1.0
    frequency_penalty: float = 0.0
    presence_penalty: float = 0.0
    api: Literal["run", "completion", "chat"] = "run"

    def __post_init__(self) -> None:
        if self.max_tokens < 1:
            raise ValueError("max_tokens must be at least 1")
        if not 0 <= self.temperature <= 2:
            raise ValueError("temperature must be from 0 to 2")
        if not 0 < self.top_p <= 1:
            raise ValueError("top_p must be above 0 and at most 1")
        if not (abs(self.frequency_penalty) <= 2 and abs(self.presence_penalty) <= 2):
            raise ValueError("penalties must be from -2 to 2")

    def turns(self, prompts: Prompts, template: str, **variables: str) -> tuple[PromptMessage, ...]:
        """Render one template as the whole request: a raw prompt or one user message."""
        return (prompts.turn("prompt" if self.is_raw(prompts) else "user", template, variables),)

    def is_raw(self, prompts: Prompts) -> bool:
        """Return True if this stage sends raw prompts, False if it sends messages."""
        return self.api_in(prompts.api) == "completion"

    def api_in(self, run: Api) -> Api:
        """Return the stage's API in a run whose API is ``run``."""
        return run if self.api == "run" else self.api

    def with_short_answer(self, prompts: Prompts, limit: int) -> Stage:
        """Return a copy limited to ``limit`` tokens for raw prompts, where a model would otherwise keep generating.

        In a chat an answer ends by itself, and a model that reasons needs room for its thoughts.
        """
        return replace(self, max_tokens=min(self.max_tokens, limit)) if self.is_raw(prompts) else self

    def free_answer_sampling(self, prompts: Prompts, *stop: str) -> Sampling:
        """Return the sampling parameters for one free answer.

        A raw prompt is continued up to one of the strings ``stop``. In a chat an answer ends by itself, and it may
        contain these strings.
        """
        return self.sampling(*(stop if self.is_raw(prompts) else ()))

    def sampling(self, *stop: str, schema: Mapping[str, Json] | None = None) -> Sampling:
        """Return the sampling parameters for a request that ends at a stop string or follows a JSON schema."""
        return Sampling(
            max_tokens=self.max_tokens,
            temperature=self.temperature,
            top_p=self.top_p,
            frequency_penalty=self.frequency_penalty,
            presence_penalty=self.presence_penalty,
            stop=stop,
            schema=schema,
        )
