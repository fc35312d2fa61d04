"""Export formats: the row layouts that training programs expect, one function each.

``alpaca`` is the layout of the Alpaca release; ``messages`` is used by chat templates and the OpenAI API; ``sharegpt``
by the ShareGPT collections; ``prompt-completion`` by TRL and completion fine-tuning APIs.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

__all__ = ["CONVERSATIONS", "FORMATS", "TrainingRow", "user_text"]

Row = dict[str, Any]


@dataclass(frozen=True, slots=True)
class TrainingRow:
    """The content of one row, independent of the export format.

    Attributes:
        output: The answer; the last answer of a conversation.
        messages: Role (``user``, ``assistant``) and content of each message, for a conversation of several rounds.
    """

    instruction: str
    input: str
    output: str
    system: str = ""
    messages: tuple[tuple[str, str], ...] = ()

    @property
    def turns(self) -> list[tuple[str, str]]:
        """Role and content of every message, including the system prompt."""
        messages = self.messages or (("user", user_text(self.instruction, self.input)), ("assistant", self.output))
        return [*([("system", self.system)] if self.system else []), *messages]


def user_text(instruction: str, input_text: str) -> str:
    """Return the instruction, followed by an empty line and the input if there is one."""
    return f"{instruction}\n\n{input_text}" if input_text else instruction


def _alpaca(row: TrainingRow) -> Row:
    fields = {"instruction": row.instruction, "input": row.input, "output": row.output}
    return {**fields, "system": row.system} if row.system else fields


def _messages(row: TrainingRow) -> Row:
    return {"messages": [{"role": role, "content": content} for role, content in row.turns]}


_SHAREGPT = {"system": "system", "user": "human", "assistant": "gpt"}


def _sharegpt(row: TrainingRow) -> Row:
    return {"conversations": [{"from": _SHAREGPT[role], "value": content} for role, content in row.turns]}


def _prompt_completion(row: TrainingRow) -> Row:
    fields = {"prompt": user_text(row.instruction, row.input), "completion": row.output}
    return {**fields, "system": row.system} if row.system else fields


FORMATS: dict[str, Callable[[TrainingRow], Row]] = {
    "alpaca": _alpaca,
    "messages": _messages,
    "sharegpt": _sharegpt,
    "prompt-completion": _prompt_completion,
}

CONVERSATIONS = frozenset({"messages", "sharegpt"})
"""The formats that can hold conversations of several rounds."""
