"""Sampling of one stage, as a strategy's options state it."""

from __future__ import annotations

from dataclasses import dataclass

from selfinstruct.records import Sampling

__all__ = ["StageSampling"]


@dataclass(frozen=True)
class StageSampling:
    """How the completions of one stage are drawn.

    Attributes:
        max_tokens: Most tokens of a completion; a longer one is cut and loses its last block.
        temperature: 0 takes the likeliest token; higher is more varied and less sensible.
        top_p: Only the likeliest tokens that make up this probability are drawn.
        frequency_penalty: Lowers a token's chance with each use; above about 0.5 a small model loses its grammar.
        presence_penalty: Lowers the chance of each token already used, once.
    """

    max_tokens: int
    temperature: float = 0.7
    top_p: float = 1.0
    frequency_penalty: float = 0.0
    presence_penalty: float = 0.0

    def request(self, *stop: str) -> Sampling:
        """The parameters of one request that ends at any of these strings."""
        return Sampling(
            max_tokens=self.max_tokens,
            temperature=self.temperature,
            top_p=self.top_p,
            frequency_penalty=self.frequency_penalty,
            presence_penalty=self.presence_penalty,
            stop=stop,
        )
