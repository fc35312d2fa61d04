"""Parsing of transcripts with a speaker's label before each message, and detection of confused roles (English only)."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal

from selfinstruct.parse.closing import closing_sign
from selfinstruct.parse.text import BLANK_LINE, FLAGS, LEAD, fence_spans, outside_fences, strip_emphasis, strip_span
from selfinstruct.reasons import RejectReason

__all__ = ["Dialogue", "Utterance", "read_dialogue", "read_message", "sounds_like_assistant"]

Speaker = Literal["user", "assistant"]

_LABEL = re.compile(rf"{LEAD}(?P<label>user|human|assistant|ai assistant|ai)[*_]{{0,3}}[ \t]?:[*_]{{0,3}}", FLAGS)
_ASSISTANT = re.compile(
    r"\bas an? (?:ai|artificial intelligence|(?:large )?language model|virtual assistant)\b"
    r"|\bi(?:'m| am) (?:just |only )?an? (?:ai|artificial intelligence|(?:large )?language model|virtual assistant"
    r"|chatbot)\b"
    r"|\bhow (?:can|may) i (?:help|assist)|\b(?:happy|glad|here) to (?:help|assist)|\banything else i can (?:help|do)"
    r"|\byou(?:'re| are) welcome\b|\bfeel free to ask\b"
)


@dataclass(frozen=True, slots=True)
class Utterance:
    """One message of a transcript, and its span."""

    role: Speaker
    text: str
    span: tuple[int, int]


@dataclass(frozen=True, slots=True)
class Dialogue:
    """The valid beginning of a transcript.

    Attributes:
        messages: The messages, with alternating roles.
        broken: Why it ends: "" at the end of the text, ``closed`` if the assistant wrote the closing sign, else
            ``role_confusion`` (a speaker repeats), ``empty`` or ``truncated``.
    """

    messages: tuple[Utterance, ...]
    broken: str = ""


def read_dialogue(text: str, opening: str, *, truncated: bool) -> Dialogue:
    """Read the messages after the opening of a transcript, up to the first invalid one.

    Labels are recognised at the start of a line, outside of code fences. A model may start with the answer, with its
    label, or with the opening again; text before that is skipped. A paragraph before the user's label that ends with a
    colon ("Here is the rest:") is not an answer.

    Args:
        text: The model's answer.
        opening: The user's first message.
        truncated: Whether the text ends at the token limit, so that its last message is incomplete.

    Returns:
        The messages after the opening: the first is the assistant's.
    """
    fences = fence_spans(text, 0)
    marks = list(outside_fences(_LABEL.finditer(text), fences))
    ends = (*(mark.start() for mark in marks[1:]), len(text))
    pieces = [(_speaker(mark), *strip_span(text, mark.end(), end)) for mark, end in zip(marks, ends, strict=False)]
    head = strip_span(text, 0, marks[0].start() if marks else len(text))
    if pieces and pieces[0][0] == "user" and _plain(text[pieces[0][1] : pieces[0][2]]) == _plain(opening):
        pieces = pieces[1:]
    elif not pieces or (pieces[0][0] == "user" and not _announces(text[slice(*head)])):
        pieces.insert(0, ("assistant", *head))  # the text continues the first answer
    messages: list[Utterance] = []
    for index, (role, start, end) in enumerate(pieces):
        expected: Speaker = "user" if len(messages) % 2 else "assistant"
        if role != expected:
            return Dialogue(tuple(messages), RejectReason.ROLE_CONFUSION)
        closed = closing_sign(text, start, end, fences) if role == "assistant" else None
        if closed is not None:
            span = strip_span(text, start, closed)
            last = (Utterance(role, text[slice(*span)], span),) if span[0] < span[1] else ()
            return Dialogue((*messages, *last), "closed")
        if truncated and index == len(pieces) - 1:
            return Dialogue(tuple(messages), RejectReason.TRUNCATED)
        if start == end:
            return Dialogue(tuple(messages), RejectReason.EMPTY)
        messages.append(Utterance(role, text[start:end], (start, end)))
    return Dialogue(tuple(messages))


def read_message(text: str, role: Speaker) -> tuple[tuple[int, int], str]:
    """Find the message of ``role`` in an answer.

    Returns:
        Its span, without the speaker's label, without quotation marks around a user's message, and without the closing
        sign of the assistant and the text after it; and its defect or "": ``empty``, ``role_confusion`` (a speaker's
        label inside it), or ``closed`` if it ends with the closing sign.
    """
    fences = fence_spans(text, 0)
    start, end = strip_span(text, 0, len(text))
    marks = list(outside_fences(_LABEL.finditer(text), fences))
    if marks and marks[0].start() <= start < marks[0].end() and _speaker(marks[0]) == role:
        start, end = strip_span(text, marks.pop(0).end(), end)
    closed = None
    if role == "user":
        start, end = strip_emphasis(text, start, end)
    elif (closed := closing_sign(text, start, end, fences)) is not None:
        start, end = strip_span(text, start, closed)
    if any(closed is None or mark.start() < closed for mark in marks):
        return (start, end), RejectReason.ROLE_CONFUSION
    return (start, end), "closed" if closed is not None else RejectReason.EMPTY if start == end else ""


def sounds_like_assistant(text: str) -> bool:
    """Return whether a text meant as a user's message reads like an assistant's (``As an AI``, ``How can I help``)."""
    return _ASSISTANT.search(text.casefold().replace("\u2019", "'")) is not None


def _speaker(mark: re.Match[str]) -> Speaker:
    return "user" if mark["label"].casefold() in ("user", "human") else "assistant"


def _announces(text: str) -> bool:
    """Return whether the text is one paragraph that ends with a colon."""
    return text.endswith(":") and BLANK_LINE.search(text) is None


def _plain(text: str) -> str:
    return " ".join(text.split()).casefold()
