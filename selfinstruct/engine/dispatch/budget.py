"""Limits on what a run may spend, kept by reservation.

Before a request goes out its worst case is reserved: one token for each UTF-8 byte of the prompt, what a chat template
may add, and all of ``max_tokens``. It goes out only if what was spent, what is reserved and that worst case stay within
every limit, so that spending can't pass a limit at any concurrency. A send whose outcome is unknown counts at its worst
for ever.
"""

from __future__ import annotations

from dataclasses import dataclass

from selfinstruct.ledger import Spending
from selfinstruct.records import Request, Usage

__all__ = ["Budget", "BudgetOptions", "worst_case"]

# What a server's chat template adds to the messages, which no byte of theirs stands for: a system prompt of the model's
# own and the date once, the marks of role and end around each message. An assumption, with room to spare.
_CHAT_TOKENS = 256
_TURN_TOKENS = 16


@dataclass(frozen=True)
class BudgetOptions:
    """Limits of a run over its whole life; null is no limit. A higher limit and the same command go on.

    Attributes:
        max_requests: Sends, repeated attempts included.
        max_tokens: Tokens of prompts and completions together.
        max_cost: In the currency of the prices, which it needs.
        price_input: Price of a million prompt tokens.
        price_output: Price of a million completion tokens.
        time_limit_s: Seconds of one invocation.
    """

    max_requests: int | None = None
    max_tokens: int | None = None
    max_cost: float | None = None
    price_input: float | None = None
    price_output: float | None = None
    time_limit_s: float | None = None

    def __post_init__(self) -> None:
        for name in ("max_requests", "max_tokens", "max_cost", "price_input", "price_output", "time_limit_s"):
            value = getattr(self, name)
            if value is not None and value < 0:
                raise ValueError(f"{name} can't be negative")
        if self.max_cost is not None and None in (self.price_input, self.price_output):
            raise ValueError("max_cost needs price_input and price_output (per million tokens)")

    def cost(self, prompt_tokens: int, completion_tokens: int) -> float | None:
        """What tokens cost; None without prices."""
        if self.price_input is None or self.price_output is None:
            return None
        return (prompt_tokens * self.price_input + completion_tokens * self.price_output) / 1_000_000


def worst_case(request: Request) -> tuple[int, int]:
    """Most tokens of prompt and completion that a request can cost: no token is shorter than a byte."""
    template = 0 if request.is_raw else _CHAT_TOKENS + _TURN_TOKENS * len(request.turns)
    return request.text_bytes + template, request.sampling.max_tokens * request.sampling.n


class Budget:
    """What was spent and what is reserved, against the limits."""

    def __init__(self, options: BudgetOptions, spent: Spending) -> None:
        self._options = options
        self.sends = spent.sends
        self.prompt_tokens = spent.prompt_tokens + spent.lost_prompt_tokens
        self.completion_tokens = spent.completion_tokens + spent.lost_completion_tokens

    @property
    def cost(self) -> float | None:
        """What was spent or is reserved, in the currency of the prices; None without prices."""
        return self._options.cost(self.prompt_tokens, self.completion_tokens)

    def fits(self, request: Request) -> bool:
        """True when the request's worst case stays within every limit."""
        prompt, completion = worst_case(request)
        prompt += self.prompt_tokens
        completion += self.completion_tokens
        options = self._options
        cost = options.cost(prompt, completion)
        return (
            (options.max_requests is None or self.sends + 1 <= options.max_requests)
            and (options.max_tokens is None or prompt + completion <= options.max_tokens)
            and (options.max_cost is None or cost is None or cost <= options.max_cost)
        )

    def reserve(self, request: Request) -> None:
        """Count one send at its worst case."""
        prompt, completion = worst_case(request)
        self.sends += 1
        self.prompt_tokens += prompt
        self.completion_tokens += completion

    def settle(self, request: Request, usage: Usage) -> None:
        """Replace the worst case of the send that brought a completion by what it took; a failure stays at its worst.

        The rule is that of ``Reader.spending``, so that a resumed run goes on with the same figures.

        Args:
            usage: As the server reported it; where it does not count, the worst case stays.
        """
        if not usage.counted:
            return
        prompt, completion = worst_case(request)
        self.prompt_tokens += usage.prompt_tokens - prompt
        self.completion_tokens += usage.completion_tokens - completion
