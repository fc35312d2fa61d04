"""A forecast of the requests, tokens and cost that remain until the target is reached."""

from __future__ import annotations

from dataclasses import dataclass

from selfinstruct.engine.dispatch.budget import BudgetOptions
from selfinstruct.engine.stats import Stats

__all__ = ["Forecast"]


@dataclass(frozen=True)
class Forecast:
    """The requests, tokens and cost that a run still needs, extrapolated from its rows so far.

    Attributes:
        requests: Remaining requests.
        prompt_tokens: Remaining prompt tokens.
        completion_tokens: Remaining completion tokens.
        cost: Remaining cost in the currency of the prices; None without prices.
    """

    requests: int
    prompt_tokens: int
    completion_tokens: int
    cost: float | None

    @classmethod
    def of(cls, stats: Stats, target: int, prices: BudgetOptions) -> Forecast | None:
        """Extrapolate from the processed requests and their rows; return None before the first row."""
        if not stats.rows:
            return None
        ratio = max(0, target - stats.rows) / stats.rows
        totals = stats.requests, stats.prompt_tokens, stats.completion_tokens
        requests, prompt_tokens, completion_tokens = (round(total * ratio) for total in totals)
        return cls(requests, prompt_tokens, completion_tokens, prices.cost(prompt_tokens, completion_tokens))

    def in_words(self) -> str:
        """Return ``about 120 requests and 34,000 tokens to go``, with the cost if there are prices."""
        text = f"about {self.requests:,} requests and {self.prompt_tokens + self.completion_tokens:,} tokens to go"
        return text if self.cost is None else f"{text}, for {self.cost:,.2f}"
