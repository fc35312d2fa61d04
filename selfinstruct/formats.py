"""The layouts in which training programs expect a row: one function each, from (instruction, input, output).

``alpaca`` is the layout of the Alpaca release, ``messages`` that of chat templates and the OpenAI API, ``sharegpt``
that of the ShareGPT collections, ``prompt-completion`` that of TRL and of completion fine-tuning APIs.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

__all__ = ["FORMATS", "user_text"]

Row = dict[str, Any]


def user_text(instruction: str, input_text: str) -> str:
    """What a user would type: the instruction, then, after an empty line, the input if there is one."""
    return f"{instruction}\n\n{input_text}" if input_text else instruction


def _alpaca(instruction: str, input_text: str, output: str) -> Row:
    return {"instruction": instruction, "input": input_text, "output": output}


def _messages(instruction: str, input_text: str, output: str) -> Row:
    user = {"role": "user", "content": user_text(instruction, input_text)}
    return {"messages": [user, {"role": "assistant", "content": output}]}


def _sharegpt(instruction: str, input_text: str, output: str) -> Row:
    human = {"from": "human", "value": user_text(instruction, input_text)}
    return {"conversations": [human, {"from": "gpt", "value": output}]}


def _prompt_completion(instruction: str, input_text: str, output: str) -> Row:
    return {"prompt": user_text(instruction, input_text), "completion": output}


FORMATS: dict[str, Callable[[str, str, str], Row]] = {
    "alpaca": _alpaca,
    "messages": _messages,
    "sharegpt": _sharegpt,
    "prompt-completion": _prompt_completion,
}
