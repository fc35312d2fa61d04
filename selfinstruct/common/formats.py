"""The layouts in which training programs expect a row: one function each, from an ``Example``.

``alpaca`` is the layout of the Alpaca release, ``messages`` that of chat templates and the OpenAI API, ``sharegpt``
that of the ShareGPT collections, ``prompt-completion`` that of TRL and of completion fine-tuning APIs.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

__all__ = ["CONVERSATIONS", "FORMATS", "TrainingRow", "user_text"]

Row = dict[str, Any]


@dataclass(frozen=True, slots=True)
class TrainingRow:
    """What a row says.

    Attributes:
        output: The answer; of a conversation, the last one.
        messages: Of a conversation of more than one round: role (``user``, ``assistant``) and content of each message.
    """

    instruction: str
    input: str
    output: str
    system: str = ""
    messages: tuple[tuple[str, str], ...] = ()

    @property
    def turns(self) -> list[tuple[str, str]]:
        """Role and content of every message, the system prompt included."""
        said = self.messages or (("user", user_text(self.instruction, self.input)), ("assistant", self.output))
        return [*([("system", self.system)] if self.system else []), *said]


def user_text(instruction: str, input_text: str) -> str:
    """What a user would type: the instruction, then, after an empty line, the input if there is one."""
    return f"{instruction}\n\n{input_text}" if input_text else instruction


def _alpaca(one: TrainingRow) -> Row:
    row = {"instruction": one.instruction, "input": one.input, "output": one.output}
    return {**row, "system": one.system} if one.system else row


def _messages(one: TrainingRow) -> Row:
    return {"messages": [{"role": role, "content": content} for role, content in one.turns]}


_SHAREGPT = {"system": "system", "user": "human", "assistant": "gpt"}


def _sharegpt(one: TrainingRow) -> Row:
    return {"conversations": [{"from": _SHAREGPT[role], "value": content} for role, content in one.turns]}


def _prompt_completion(one: TrainingRow) -> Row:
    row = {"prompt": user_text(one.instruction, one.input), "completion": one.output}
    return {**row, "system": one.system} if one.system else row


FORMATS: dict[str, Callable[[TrainingRow], Row]] = {
    "alpaca": _alpaca,
    "messages": _messages,
    "sharegpt": _sharegpt,
    "prompt-completion": _prompt_completion,
}

CONVERSATIONS = frozenset({"messages", "sharegpt"})
"""The layouts that hold more than one round."""
