"""The texts of a row that filters decide on."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from selfinstruct.common.formats import user_text
from selfinstruct.common.rows import describe_fields, paragraphs, parse_row

__all__ = ["RowTexts", "texts_of"]


@dataclass(frozen=True, slots=True)
class RowTexts:
    """The texts of a row that filters decide on.

    Attributes:
        field: The field that identified the layout, or the one that was named.
        question: The instruction without its input; in a conversation, the first user message.
        prompt: The instruction with its input; in a conversation, the first user message.
        answer: The answer; in a conversation, the last one. In a row with only a ``text``, that text. "" if there is
            no answer.
        full_text: All texts of the task and its answers, with context and earlier rounds. It excludes ``scope``.
        scope: System prompt and descriptions of tools, which many rows share.
        answer_problem: Why the answer can't be read; "" if it can.
    """

    field: str
    question: str
    prompt: str
    answer: str
    full_text: str
    scope: str = ""
    answer_problem: str = ""


def texts_of(row: Mapping[str, Any], column: str | None = None, output_column: str | None = None) -> RowTexts:
    """Extract the texts of a row.

    Args:
        column: The field to filter; None detects the layout.
        output_column: The field with the answer; None detects it.

    Raises:
        ValueError: The row has no such field, or the field can't be read; the message does not name the row.
    """
    texts = _detect_texts(row) if column is None else _column_texts(column, _column(row, column))
    if output_column is None:
        return texts
    answer = _column(row, output_column)
    full_text = _join(texts.prompt, answer) if column is None else texts.full_text
    return replace(texts, answer=answer, full_text=full_text, answer_problem="")


def _column_texts(column: str, text: str) -> RowTexts:
    return RowTexts(column, text, text, text, text)


def _column(row: Mapping[str, Any], column: str) -> str:
    if column not in row:
        raise ValueError(f"no field {column!r}; it has {describe_fields(row)}")
    if not isinstance(row[column], str):
        raise ValueError(f"{column!r} is a {type(row[column]).__name__}, not a string")
    return str(row[column])


def _detect_texts(row: Mapping[str, Any]) -> RowTexts:
    try:
        parsed = parse_row(row)
    except ValueError as error:
        hint = "no text to filter: " if str(error).startswith("none of") else ""
        raise ValueError(f"{hint}{error}{'; use --column' if hint else ''}") from None
    scope = _join(parsed.system, parsed.tools)
    if parsed.is_conversation:
        start, end = parsed.question_span(of_first_round=True)
        question = paragraphs(turn.content for turn in parsed.turns[start:end])
        answer = next((turn.content for turn in reversed(parsed.turns) if turn.role == "assistant"), "")
        contents = [text for turn in parsed.turns for text in (turn.content, turn.calls)]
        full_text = _join(parsed.context, *contents, *parsed.rejected)
        return RowTexts(parsed.layout, question, user_text(question, parsed.context), answer, full_text, scope)
    first = parsed.exchanges[0]
    earlier = [text for turn in parsed.turns for text in (turn.content, turn.calls)]
    texts = [text for exchange in parsed.exchanges for text in (exchange.input, exchange.loose_text)]
    answer = "\n".join(first.outputs)
    if parsed.layout.casefold() == "text":
        answer = parsed.instruction
    prompt = user_text(parsed.instruction, first.input)
    full_text = _join(*earlier, parsed.instruction, *texts, *parsed.rejected)
    return RowTexts(parsed.layout, parsed.instruction, prompt, answer, full_text, scope, first.problem)


def _join(*texts: str) -> str:
    return "\n".join(filter(None, texts))
