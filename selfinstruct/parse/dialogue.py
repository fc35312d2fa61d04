"""Conversations: transcripts with a speaker's label before each message, and what tells that a user is done.

What is said here of closing words and of roles that are mixed up is English; the sign that prompts ask for
(``CLOSING_SIGN``) is known in every language.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal

from selfinstruct.parse.text import FLAGS, LEAD, fenced, strip, unfenced, unwrap

__all__ = ["CLOSING_SIGN", "Dialogue", "Utterance", "is_closing", "is_of_assistant", "message", "read_dialogue"]

Speaker = Literal["user", "assistant"]

CLOSING_SIGN = "[END]"

_LABEL = re.compile(rf"{LEAD}(?P<label>user|human|assistant|ai assistant|ai)[*_]{{0,3}}[ \t]?:[*_]{{0,3}}", FLAGS)
_LONGEST_FAREWELL = 200  # characters; whoever writes more than this has something else to say
_SEGMENT = re.compile(r"[.!,;:\n]+|\s[-\u2013\u2014]\s")
_FILLER = r"(?:(?:oh|ok|okay|great|perfect|wonderful|alright|all right|well|no|and|so|yes|ah) )*"
_FAREWELL = re.compile(
    rf"{_FILLER}(?:many thanks|thanks|thank you|cheers|good ?bye|bye|farewell|see you|take care"
    r"|that(?:'s| is| will be|'ll be) (?:all|it|everything)|(?:i have )?(?:nothing|no) (?:more|further|other)"
    r"|have a (?:nice|good|great|lovely|wonderful))\b"
)
_REQUEST = re.compile(
    rf"{_FILLER}(?:now|please|also|next|but|then|instead|can|could|would|will you|what|how|why|when|where|who|which"
    r"|tell|give|show|write|explain|describe|list|make|let|help|continue|go on|try|compare|suggest|find|one more"
    r"|another|i(?:'d| would)? (?:like|want|need|wonder)|i(?:'m| am) (?:curious|wondering))\b"
)
_ASSISTANT = re.compile(
    r"\bas an? (?:ai|artificial intelligence|(?:large )?language model|virtual assistant)\b"
    r"|\bi(?:'m| am) (?:just |only )?an? (?:ai|artificial intelligence|(?:large )?language model|virtual assistant"
    r"|chatbot)\b"
    r"|\bhow (?:can|may) i (?:help|assist)|\b(?:happy|glad|here) to (?:help|assist)|\banything else i can (?:help|do)"
    r"|\byou(?:'re| are) welcome\b|\bfeel free to ask\b"
)


@dataclass(frozen=True, slots=True)
class Utterance:
    """One message of a transcript, and where it stands."""

    role: Speaker
    text: str
    span: tuple[int, int]


@dataclass(frozen=True, slots=True)
class Dialogue:
    """A transcript as far as it is in order.

    Attributes:
        messages: In turns.
        broken: Why there are no more: "" at its end, else ``role_confusion`` (one speaks twice), ``empty`` or
            ``truncated``.
    """

    messages: tuple[Utterance, ...]
    broken: str = ""


def read_dialogue(text: str, opening: str, *, truncated: bool) -> Dialogue:
    """Read what follows the first message of a transcript, up to the first thing that is not in order.

    A label counts at the start of a line, outside of code fences. A model may begin with the answer, with the label
    before it, or with the opening again; what stands before that is passed over.

    Args:
        text: What the model wrote.
        opening: The message of the user that came first.
        truncated: The text ends at the token limit, so that its last message isn't whole.

    Returns:
        The messages after the opening: the first is the assistant's.
    """
    marks = list(unfenced(_LABEL.finditer(text), fenced(text, 0)))
    ends = (*(mark.start() for mark in marks[1:]), len(text))
    pieces = [(_speaker(mark), *strip(text, mark.end(), end)) for mark, end in zip(marks, ends, strict=False)]
    if pieces and pieces[0][0] == "user" and _plain(text[pieces[0][1] : pieces[0][2]]) == _plain(opening):
        pieces = pieces[1:]
    elif not pieces or pieces[0][0] == "user":  # the text goes on inside the first answer
        pieces.insert(0, ("assistant", *strip(text, 0, marks[0].start() if marks else len(text))))
    found: list[Utterance] = []
    for place, (role, start, end) in enumerate(pieces):
        expected: Speaker = "user" if len(found) % 2 else "assistant"
        if role != expected:
            return Dialogue(tuple(found), "role_confusion")
        if truncated and place == len(pieces) - 1:
            return Dialogue(tuple(found), "truncated")
        if start == end:
            return Dialogue(tuple(found), "empty")
        found.append(Utterance(role, text[start:end], (start, end)))
    return Dialogue(tuple(found))


def message(text: str, role: Speaker) -> tuple[tuple[int, int], str]:
    """Where in an answer the message stands that one of the two was to say.

    Returns:
        Its span, without the speaker's own label and quotation marks around all of it, and what is wrong with it:
        ``empty``, ``role_confusion`` (a speaker's label inside it), or "".
    """
    start, end = strip(text, 0, len(text))
    marks = list(unfenced(_LABEL.finditer(text), fenced(text, 0)))
    if marks and marks[0].start() <= start < marks[0].end() and _speaker(marks[0]) == role:
        start, end = strip(text, marks.pop(0).end(), end)
    if role == "user":
        start, end = unwrap(text, start, end)
    return (start, end), "role_confusion" if marks else "empty" if start == end else ""


def is_closing(text: str) -> bool:
    """True when a user has nothing more to ask: the closing sign, or thanks or a farewell with no question in it."""
    if CLOSING_SIGN in text:
        return True
    said = text.casefold().replace("\u2019", "'").strip()
    if len(said) > _LONGEST_FAREWELL or "?" in said or "\uff1f" in said:
        return False
    parts = [part.strip() for part in _SEGMENT.split(said)]
    return any(map(_FAREWELL.match, parts)) and not any(map(_REQUEST.match, parts))


def is_of_assistant(text: str) -> bool:
    """True for the words of an assistant, where a user was to speak (``As an AI``, ``How can I help you``)."""
    return _ASSISTANT.search(text.casefold().replace("\u2019", "'")) is not None


def _speaker(mark: re.Match[str]) -> Speaker:
    return "user" if mark["label"].casefold() in ("user", "human") else "assistant"


def _plain(text: str) -> str:
    return " ".join(text.split()).casefold()
