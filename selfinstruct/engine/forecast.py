"""What is still to come until the target, if it goes on as so far."""

from __future__ import annotations

from dataclasses import dataclass

from selfinstruct.engine.dispatch.budget import BudgetOptions
from selfinstruct.engine.stats import Stats

__all__ = ["Forecast"]


@dataclass(frozen=True)
class Forecast:
    """Of a run that has brought a row.

    Attributes:
        requests, prompt_tokens, completion_tokens: Still to come.
        cost: In the currency of the prices; None without prices.
    """

    requests: int
    prompt_tokens: int
    completion_tokens: int
    cost: float | None

    @classmethod
    def of(cls, tally: Stats, target: int, prices: BudgetOptions) -> Forecast | None:
        """In proportion to the judged requests and the rows that they brought; None before the first row."""
        if not tally.rows:
            return None
        times = max(0, target - tally.rows) / tally.rows
        requests, prompt, completion = (
            round(one * times) for one in (tally.requests, tally.prompt_tokens, tally.completion_tokens)
        )
        return cls(requests, prompt, completion, prices.cost(prompt, completion))

    def in_words(self) -> str:
        """``about 120 requests and 34,000 tokens to go``, with the cost where it is known."""
        text = f"about {self.requests:,} requests and {self.prompt_tokens + self.completion_tokens:,} tokens to go"
        return text if self.cost is None else f"{text}, for {self.cost:,.2f}"
