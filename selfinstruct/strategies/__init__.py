"""Methods of synthesis, by the name that configurations use.

``strategy_class(name)`` returns a class with a nested ``Options`` (a frozen dataclass of plain types); a strategy is
made with ``strategy_class(name)(options, prompts)``.
"""

from __future__ import annotations

from typing import TypeGuard

from selfinstruct.common.config import suggest
from selfinstruct.errors import UsageError
from selfinstruct.plugins import Registry
from selfinstruct.strategies.alpaca import Alpaca
from selfinstruct.strategies.base import Strategy, View
from selfinstruct.strategies.conversation import Conversation
from selfinstruct.strategies.evaluate import Evaluate
from selfinstruct.strategies.evol import EvolInstruct
from selfinstruct.strategies.magpie import Magpie
from selfinstruct.strategies.personas import Personas
from selfinstruct.strategies.quality.options import QualityOptions
from selfinstruct.strategies.quality.strategy import QualityStrategy
from selfinstruct.strategies.respond import Respond
from selfinstruct.strategies.self_instruct.strategy import SelfInstruct

__all__ = [
    "STRATEGIES",
    "Alpaca",
    "Conversation",
    "Evaluate",
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
    "strategy_registry",
]

STRATEGIES: dict[str, type[Strategy]] = {
    kind.name: kind for kind in (SelfInstruct, Alpaca, EvolInstruct, Magpie, Personas, Conversation, Respond, Evaluate)
}
"""The built-in strategies."""


def _is_strategy(entry: object) -> TypeGuard[type[Strategy]]:
    return isinstance(entry, type) and issubclass(entry, Strategy)


strategy_registry = Registry("strategy", STRATEGIES, _is_strategy, "a subclass of Strategy")


def strategy_names() -> tuple[str, ...]:
    """Return the names of all strategies: the built-in ones, then plugins."""
    return strategy_registry.names()


def strategy_class(name: str) -> type[Strategy]:
    """Return the strategy that configurations call ``name``.

    Raises:
        UsageError: There is no such strategy; the message suggests the nearest name.
        PluginError: It is a plugin's, and can't be used.
    """
    if name not in strategy_registry:
        raise UsageError(f"unknown strategy {name!r}{suggest(name, strategy_names())}")
    return strategy_registry.get(name)
