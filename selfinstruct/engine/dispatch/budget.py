"""Limits on the spending of a run, enforced by reservation.

The worst case of a request is reserved before it is sent: one token for each UTF-8 byte of the prompt, an allowance
for the chat template, and all of ``max_tokens``. It is sent only if spending, reservations and this worst case together
stay within every limit, so that spending cannot exceed a limit at any concurrency. A send whose outcome is unknown
counts at its worst case permanently. A failed send whose tokens are known counts at them: at none if the server refused
it before any work.
"""

from __future__ import annotations

from dataclasses import dataclass

from selfinstruct.engine.dispatch.reasoning import NO_ROOM, RoomForReasoning
from selfinstruct.ledger import Spending
from selfinstruct.records import Request, Usage

__all__ = ["Budget", "BudgetOptions", "worst_case"]

# Tokens that a server's chat template adds to the messages: the model's default system prompt and the date once, and
# the markers of role and end around each message. A generous assumption.
_CHAT_TOKENS = 256
_TURN_TOKENS = 16


@dataclass(frozen=True)
class BudgetOptions:
    """Limits of a run over its whole life; null is no limit. The same command with a higher limit continues the run.

    Attributes:
        max_requests: Most sends, further attempts included.
        max_tokens: Most tokens of prompts and completions together.
        max_cost: Most spending, in the currency of the prices, which must be set.
        price_input: Price of a million prompt tokens.
        price_output: Price of a million completion tokens.
        time_limit_s: Most seconds of one invocation. Then nothing more is sent.
        grace_s: Seconds after the time limit for the requests under way. The ones that are not answered by then are
            cancelled: they stay open, and count at their worst case.
    """

    max_requests: int | None = None
    max_tokens: int | None = None
    max_cost: float | None = None
    price_input: float | None = None
    price_output: float | None = None
    time_limit_s: float | None = None
    grace_s: float = 30.0

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            if value is not None and value < 0:
                raise ValueError(f"{name} can't be negative")
        if self.max_cost is not None and None in (self.price_input, self.price_output):
            raise ValueError("max_cost needs price_input and price_output (per million tokens)")

    def cost(self, prompt_tokens: int, completion_tokens: int) -> float | None:
        """Return the cost of tokens; None without prices."""
        if self.price_input is None or self.price_output is None:
            return None
        return (prompt_tokens * self.price_input + completion_tokens * self.price_output) / 1_000_000


def worst_case(request: Request) -> tuple[int, int]:
    """Return the most tokens of prompt and completion that a request can cost; a token is at least one byte.

    A score costs none: the reward model runs in this process.
    """
    if request.asks_for_score:
        return 0, 0
    template = 0 if request.is_raw else _CHAT_TOKENS + _TURN_TOKENS * len(request.turns)
    return request.text_bytes + template, request.sampling.max_tokens * request.sampling.n


class Budget:
    """Spending and reservations, compared with the limits.

    Args:
        options: The limits.
        spent: What the run has spent before.
        room: Tokens that are added to the limit of requests; None for none.
    """

    def __init__(self, options: BudgetOptions, spent: Spending, room: RoomForReasoning | None = None) -> None:
        self._options = options
        self._room = room or NO_ROOM
        self.sends = spent.sends
        self.prompt_tokens = spent.prompt_tokens + spent.lost_prompt_tokens
        self.completion_tokens = spent.completion_tokens + spent.lost_completion_tokens

    @property
    def cost(self) -> float | None:
        """Spending and reservations in the currency of the prices; None without prices."""
        return self._options.cost(self.prompt_tokens, self.completion_tokens)

    def fits(self, request: Request) -> bool:
        """Return whether the request's worst case stays within every limit."""
        prompt, completion = worst_case(self._room.enlarged(request))
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
        """Reserve the worst case of one send."""
        self._room.hold(request)
        prompt, completion = self.reserved(request)
        self.sends += 1
        self.prompt_tokens += prompt
        self.completion_tokens += completion

    def reserved(self, request: Request) -> tuple[int, int]:
        """Return the worst case that was reserved for the latest send of a request."""
        return worst_case(self._room.held(request))

    def settle(self, request: Request, usage: Usage) -> None:
        """Replace the worst case of a send that returned a completion by its usage.

        ``Reader.spending`` follows the same rule, so that a resumed run continues with the same figures.

        Args:
            usage: Usage reported by the server; if the server does not count, the worst case stays.
        """
        if not usage.counted:
            return
        prompt, completion = self.reserved(request)
        self.prompt_tokens += usage.prompt_tokens - prompt
        self.completion_tokens += usage.completion_tokens - completion

    def release(self, request: Request, cost: tuple[int, int]) -> None:
        """Replace the worst case of a failed send by its cost; failures of unknown cost keep their worst case.

        Args:
            cost: Tokens of prompt and completion; zeros if the send was refused before any work.
        """
        prompt, completion = self.reserved(request)
        self.prompt_tokens += cost[0] - prompt
        self.completion_tokens += cost[1] - completion
