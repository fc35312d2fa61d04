"""Methods of synthesis, by the name that configurations use.

``strategy_class(name)`` returns a class with a nested ``Options`` (a frozen dataclass of plain types); a strategy is
made with ``strategy_class(name)(options, prompts)``.
"""

from __future__ import annotations

from selfinstruct.common.config import nearest
from selfinstruct.errors import UsageError
from selfinstruct.strategies.alpaca import Alpaca
from selfinstruct.strategies.base import Strategy, View
from selfinstruct.strategies.conversation import Conversation
from selfinstruct.strategies.evol import EvolInstruct
from selfinstruct.strategies.magpie import Magpie
from selfinstruct.strategies.personas import Personas
from selfinstruct.strategies.quality.options import QualityOptions
from selfinstruct.strategies.quality.strategy import QualityStrategy
from selfinstruct.strategies.respond import Respond
from selfinstruct.strategies.self_instruct import SelfInstruct

__all__ = [
    "STRATEGIES",
    "Alpaca",
    "Conversation",
    "EvolInstruct",
    "Magpie",
    "Personas",
    "QualityOptions",
    "QualityStrategy",
    "Respond",
    "SelfInstruct",
    "Strategy",
    "View",
    "strategy_class",
    "strategy_names",
]

STRATEGIES: dict[str, type[Strategy]] = {
    kind.name: kind for kind in (SelfInstruct, Alpaca, EvolInstruct, Magpie, Personas, Conversation, Respond)
}
"""The built-in strategies."""


def strategy_names() -> tuple[str, ...]:
    """Return the names of all strategies."""
    return tuple(STRATEGIES)


def strategy_class(name: str) -> type[Strategy]:
    """Return the strategy that configurations call ``name``.

    Raises:
        UsageError: There is none.
    """
    try:
        return STRATEGIES[name]
    except KeyError:
        raise UsageError(f"unknown strategy {name!r}{nearest(name, strategy_names())}") from None
