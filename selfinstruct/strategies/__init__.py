"""Methods of synthesis, by the name that a configuration gives them.

``STRATEGIES[name]`` is a class with a nested ``Options`` (a frozen dataclass of plain types) and is made with
``STRATEGIES[name](options, prompts)``.
"""

from __future__ import annotations

from typing import Any

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
]

STRATEGIES: dict[str, Any] = {
    one.name: one for one in (SelfInstruct, Alpaca, EvolInstruct, Magpie, Personas, Conversation, Respond)
}
