"""The reading of answers: one or several, in texts, lists, objects or messages, and the rejected ones."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from selfinstruct.common.messages import Turn, is_message, plain_fields, read_messages, read_transcript
from selfinstruct.common.nested import as_text, parse_nested
from selfinstruct.common.row_fields import Fields, is_blank, read_input

__all__ = ["ANSWERS", "Exchange", "answer_field", "answer_turns", "is_wrong", "read_exchange", "read_instances",
           "read_rejected"]  # fmt: skip

_ANSWERS = {
    "prompt": ("completion", "response"),
    "question": ("answer", "response"),
    "query": ("answer", "response"),
    "problem": ("solution", "answer"),
}
"""Fields that are tried first for the answer, by layout."""
_ANY_ANSWER = ("output", "response", "completion", "answer", "solution", "target", "reply", "chosen", "outputs",
               "answers", "responses", "completions", "targets", "assistant", "gpt", "bot")  # fmt: skip
ANSWERS = frozenset((*_ANY_ANSWER, *(name for names in _ANSWERS.values() for name in names)))
"""Names of the fields that may hold an answer."""
_VERDICTS = ("ktotag", "isdesirable", "desirable")
_WRONG = ("false", "no", "bad", "rejected", "undesirable")
_ANSWER_TEXTS = ("response", "output", "text", "content", "value", "completion", "answer")


@dataclass(frozen=True, slots=True)
class Exchange:
    """An input of a task with its answers.

    Attributes:
        input: The input; "" for none.
        outputs: The answers; usually one.
        field: Name of the field with the answers; "" without one.
        problem: Why the answers can't be read; "" if they can.
        loose_text: The answers as text, also where they are not strings (numbers, objects).
    """

    input: str = ""
    outputs: tuple[str, ...] = ()
    field: str = ""
    problem: str = ""
    loose_text: str = ""

    def output(self) -> str:
        """Return the answer; "" without one.

        Raises:
            ValueError: The answer is not a string, or there are several.
        """
        if self.problem:
            raise ValueError(self.problem)
        if len(self.outputs) > 1:
            raise ValueError(f"{self.field!r} holds {len(self.outputs)} answers; keep one of them in 'output'")
        return self.outputs[0] if self.outputs else ""


def is_wrong(layout: str, fields: Fields) -> bool:
    """Return whether the row marks its answer as a rejected one (KTO).

    A ``label`` does so only next to a prompt or messages, and as a truth value or a word; elsewhere it is a class.
    """
    labelled = layout not in ("instruction", "question", "query", "problem", "definition", "input", "inputs", "text")
    names = (*_VERDICTS, "label") if labelled else _VERDICTS
    verdicts = {key: str(fields[key][1]).strip().casefold() for key in names if key in fields}
    return any(word in _WRONG or (key != "label" and word in ("0", "0.0")) for key, word in verdicts.items())


def answer_field(layout: str, fields: Fields) -> str | None:
    """Return the plain name of the field with the answer: the first that isn't blank, otherwise the first."""
    names: tuple[str, ...] = (*_ANSWERS.get(layout, ()), *_ANY_ANSWER)
    blank = None
    for key in names:
        if key in fields and key != layout:
            if not is_blank(fields[key][1]):
                return key
            blank = blank or key
    return blank


def answer_turns(layout: str, fields: Fields, *, is_open: bool = False) -> tuple[Turn, ...]:
    """Return the answer of a row as messages; () for plain text, and for a row without an answer.

    Args:
        is_open: Whether the answer follows messages. Only then, and in preference rows, may its text hold messages.
    """
    key = answer_field(layout, fields)
    if key is None:
        return ()
    name, value = fields[key]
    if isinstance(value, str):
        nested = parse_nested(value) if is_open or key == "chosen" else None
        if isinstance(nested, list) and nested and all(is_message(item) for item in nested):
            return read_messages(name, nested)
        turns = read_transcript(value) if key == "chosen" else ()
        if turns and _repeats(turns, fields[layout][1]):
            return turns
        return (Turn("assistant", value),) if is_open else ()
    items = value if isinstance(value, list | tuple) else [value]
    return read_messages(name, value) if items and all(is_message(item) for item in items) else ()


def _repeats(turns: Sequence[Turn], prompt: object) -> bool:
    """Return whether a transcript begins with the prompt, so that it is no answer that is written as a dialogue."""
    question = next(turn.content for turn in turns if turn.role == "user")
    return not isinstance(prompt, str) or question in prompt


def read_exchange(layout: str, fields: Fields, input_text: str) -> Exchange:
    """Return an input with the answers of a row: a string, a list of strings, or objects that hold one each."""
    key = answer_field(layout, fields)
    if key is None:
        return Exchange(input_text)
    name, value = fields[key]
    if isinstance(value, str):
        return Exchange(input_text, (value,), name, "", value)
    if turns := answer_turns(layout, fields):
        return Exchange(input_text, (turns[-1].content,), name, "", turns[-1].content)
    texts = _answer_texts(value)
    if texts is None:
        return Exchange(input_text, (), name, f"{name!r} must be a string, not {type(value).__name__}", as_text(value))
    return Exchange(input_text, texts, name, "", "\n".join(texts))


def _answer_texts(value: Any) -> tuple[str, ...] | None:
    """Return the answers in a list or an object; None if it holds anything else."""
    if isinstance(value, Mapping):
        fields = plain_fields(value)
        texts = next((fields[key][1] for key in _ANSWER_TEXTS if key in fields), None)
        return (texts,) if isinstance(texts, str) else _answer_texts(texts) if isinstance(texts, list) else None
    if not isinstance(value, list | tuple):
        return None
    answers = [(item,) if isinstance(item, str) else _answer_texts(item) for item in value]
    if not answers or any(texts is None for texts in answers):
        return None
    return tuple(dict.fromkeys(text for texts in answers if texts is not None for text in texts))


def read_rejected(fields: Fields) -> tuple[str, ...]:
    """Return the rejected answers of a preference row, as far as they can be read."""
    if "rejected" not in fields:
        return ()
    name, value = fields["rejected"]
    if isinstance(value, str):
        turns = read_transcript(value)
        return (turns[-1].content if turns else value,)
    items = value if isinstance(value, list | tuple) else [value]
    if items and all(is_message(item) for item in items):
        return (read_messages(name, value)[-1].content,)
    return _answer_texts(value) or (as_text(value),)


def read_instances(value: Any) -> tuple[tuple[Exchange, ...], tuple[str, ...]]:
    """Return the instances of a seed task, and the inputs that are spelled as nothing."""
    if not isinstance(value, list | tuple):
        raise ValueError("'instances' is not a list of objects with 'input' and 'output'")
    exchanges: list[Exchange] = []
    empty: list[str] = []
    for number, instance in enumerate(value, start=1):
        if not isinstance(instance, Mapping):
            raise ValueError(f"instance {number} is not an object with 'input' and 'output': 'instances' is not a "
                             "list of objects")  # fmt: skip
        fields = plain_fields(instance)
        text, words = read_input(fields)
        exchanges.append(read_exchange("instruction", fields, text))
        empty += words
    return tuple(exchanges) or (Exchange(problem="'instances' is not a list with at least one instance"),), tuple(empty)
