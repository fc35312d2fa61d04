"""One stage of a strategy, as its options state it: how it is asked, and how its completions are drawn."""

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
    """How one stage is asked, and how its completions are drawn.

    Attributes:
        max_tokens: Most tokens of a completion; a longer one is cut and loses its last block.
        temperature: 0 takes the likeliest token; higher is more varied and less sensible.
        top_p: Only the likeliest tokens that make up this probability are drawn.
        frequency_penalty: Lowers a token's chance with each use; above about 0.5 a small model loses its grammar.
        presence_penalty: Lowers the chance of each token already used, once.
        api: ``completion`` for a raw prompt, ``chat`` for one user message, ``run`` for what the run uses.
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
        """A one-template request in this stage's API."""
        return (prompts.turn("prompt" if self.is_raw(prompts) else "user", template, variables),)

    def is_raw(self, prompts: Prompts) -> bool:
        """True where this stage asks in raw prompts, False where it asks in messages."""
        return self.api_in(prompts.api) == "completion"

    def api_in(self, run: Api) -> Api:
        """Its API in a run of that one."""
        return run if self.api == "run" else self.api

    def of_a_word(self, prompts: Prompts, most: int) -> Stage:
        """As it asks for a word or two: with so many tokens at most in a raw prompt, which a model would go on with.

        In messages an answer ends by itself, and a model that reasons needs room for its thoughts.
        """
        return replace(self, max_tokens=min(self.max_tokens, most)) if self.is_raw(prompts) else self

    def answering(self, prompts: Prompts, *stop: str) -> Sampling:
        """The parameters of one free answer.

        A raw prompt is gone on with up to one of these strings; in a chat an answer ends by itself, and may hold them.
        """
        return self.sampling(*(stop if self.is_raw(prompts) else ()))

    def sampling(self, *stop: str, schema: Mapping[str, Json] | None = None) -> Sampling:
        """The parameters of one request that ends at any of these strings, or follows a JSON schema."""
        return Sampling(
            max_tokens=self.max_tokens,
            temperature=self.temperature,
            top_p=self.top_p,
            frequency_penalty=self.frequency_penalty,
            presence_penalty=self.presence_penalty,
            stop=stop,
            schema=schema,
        )
