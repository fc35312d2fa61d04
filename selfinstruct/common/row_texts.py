"""The texts of a row that filters decide on."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from selfinstruct.common.formats import user_text
from selfinstruct.common.rows import ParsedRow, describe_fields, paragraphs, parse_row

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
        full_text: All texts of the row except its system prompt and tools, which many rows share.
        scope: What the question is asked in: system prompt, tools, context, and earlier rounds of ``history``.
        body: The texts of the row outside ``scope``.
        answer_problem: Why the answer can't be read; "" if it can.
        messages: Role (``system``, ``user``, ``assistant``) and content of each message up to the answer; () if there
            is no answer, or the conversation holds more than texts (tools, images).
        unread: Names of fields with texts that may belong to the task and are in none of these texts.
    """

    field: str
    question: str
    prompt: str
    answer: str
    full_text: str
    scope: str
    body: str
    answer_problem: str = ""
    messages: tuple[tuple[str, str], ...] = ()
    unread: tuple[str, ...] = ()


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
    messages = (("user", texts.prompt), ("assistant", answer))
    if column is not None:
        return replace(texts, answer=answer, messages=messages)
    full_text, body = _join(texts.prompt, answer), _join(texts.question, answer)
    return replace(texts, answer=answer, full_text=full_text, body=body, answer_problem="", messages=messages)


def _column_texts(column: str, text: str) -> RowTexts:
    return RowTexts(column, text, text, text, text, "", text)


def _column(row: Mapping[str, Any], column: str) -> str:
    if column not in row:
        raise ValueError(f"no field {column!r}; it has {describe_fields(row)}")
    if not isinstance(row[column], str):
        raise ValueError(f"{column!r} must be a string, not {type(row[column]).__name__}")
    return str(row[column])


def _detect_texts(row: Mapping[str, Any]) -> RowTexts:
    try:
        parsed = parse_row(row)
    except ValueError as error:
        hint = "no text to filter: " if str(error).startswith("none of") else ""
        raise ValueError(f"{hint}{error}{'; use --column' if hint else ''}") from None
    messages = [text for turn in parsed.turns for text in (turn.content, *turn.calls)]
    if parsed.is_conversation:
        start, end = parsed.question_span(of_first_round=True)
        question = paragraphs(turn.content for turn in parsed.turns[start:end])
        answer = next((turn.content for turn in reversed(parsed.turns) if turn.role == "assistant"), "")
        prompt, context = user_text(question, parsed.context), [parsed.context]
        body, problem = _join(*messages, *parsed.rejected), parsed.answer_problem
    else:
        first, question = parsed.exchanges[0], parsed.instruction
        answer = question if parsed.layout.casefold() == "text" else "\n".join(first.outputs)
        prompt, problem = user_text(question, first.input), first.problem
        context = [*messages, first.input if parsed.context_field else ""]
        texts = [text for exchange in parsed.exchanges for text in (exchange.input, exchange.loose_text)]
        body = _join(question, *(texts[1:] if parsed.context_field else texts), *parsed.rejected)
    scope = _join(parsed.system, parsed.tools, *context)
    conversation = _messages(parsed, prompt, answer)
    return RowTexts(parsed.layout, question, prompt, answer, _join(*context, body), scope, body, problem, conversation,
                    parsed.unread)  # fmt: skip


def _messages(parsed: ParsedRow, prompt: str, answer: str) -> tuple[tuple[str, str], ...]:
    """Return the messages of a row up to its answer; () without an answer, or with more than texts."""
    turns = [(turn.role, turn.content) for turn in parsed.turns]
    if parsed.is_conversation:
        last = max((index for index, (role, _) in enumerate(turns) if role == "assistant"), default=-1)
        turns = turns[: last + 1]
        start = parsed.question_span(of_first_round=True)[0]
        if parsed.context and start < len(turns):
            turns[start] = ("user", user_text(turns[start][1], parsed.context))
    elif answer:
        turns += [("user", prompt), ("assistant", answer)]
    if not turns or parsed.tools or any(turn.calls or turn.other_parts for turn in parsed.turns):
        return ()
    return (*((("system", parsed.system),) if parsed.system else ()), *turns)


def _join(*texts: str) -> str:
    return "\n".join(filter(None, texts))
