"""The rules by which Evol-Instruct eliminates an evolution (Xu et al., 2023, arXiv:2304.12244, section 3).

1. The evolved instruction asks for nothing more: ``similarity`` where that can be told without a model, else ``gain``,
   which reads what a judge says that was shown both.
2. The model could not answer it: ``apology``, a "sorry" in a short response.
3. The response is punctuation and stop words: ``content``.
4. The evolved instruction repeats words of the prompt that asked for it: ``wording``.

Each is a verdict, so that whoever looks at a candidate sees which rule decided, and by what.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

from selfinstruct.filters.rouge.lcs import f1, lcs_length
from selfinstruct.filters.text import count_words, tokenize
from selfinstruct.parse import collapse
from selfinstruct.records import Verdict

__all__ = ["STOP_WORDS", "apology", "content", "gain", "similarity", "whole", "wording"]

_LONGEST = 1 << 13  # tokens of an instruction that are compared: the time grows with the product of two lengths
_RUN = 8  # words of a prompt in one piece that no instruction has by chance

_ASKED = re.compile(r"\bequal\s+or\s+different\b", re.I)  # the prompt's last line, which a chat model says again
_JUDGED = re.compile(
    r"(?P<not>(?:\b(?:not|no|neither)|n['\u2019]t)[\s-]+(?:\w+\s+){0,2})?"
    r"\b(?:(?P<other>unequal|different|differs?)|equals?)\b",
    re.I,
)

STOP_WORDS = frozenset(
    """
    a about above after again against all am an and any are as at be because been before being below between both but by
    can could did do does doing down during each few for from further had has have having he her here hers herself him
    himself his how i if in into is it its itself just me more most my myself no nor not now of off on once only or
    other our ours ourselves out over own same she should so some such than that the their theirs them themselves then
    there these they this those through to too under until up very was we were what when where which while who whom why
    will with would you your yours yourself yourselves
    aren couldn d didn doesn don hadn hasn haven isn ll m mustn needn re s shouldn t ve wasn weren won wouldn
    """.split()  # noqa: SIM905 - a list of words is read as text
)
"""English function words, and what an apostrophe leaves of them."""


def similarity(evolved: str, current: str, *, least: float, name: str) -> Verdict:
    """Rule 1 without a model: an instruction that is nearly the one it was made of asks for nothing more.

    Reasons ``unchanged`` (the same but for case and space) and ``too_similar``; the score is the
    ROUGE-L F1.

    Args:
        least: F1 from which on it is too similar.
        name: Id of the un-evolved instruction.
    """
    if collapse(evolved).casefold() == collapse(current).casefold():
        return Verdict("evol_similarity", False, "unchanged", 1.0, name)
    first, second = tokenize(evolved)[:_LONGEST], tokenize(current)[:_LONGEST]
    score = f1(lcs_length(first, second), len(first), len(second))
    kept = score < least
    return Verdict("evol_similarity", kept, "" if kept else "too_similar", score, name)


def gain(answer: str) -> Verdict:
    """Rule 1, what a judge says that was asked whether two instructions are equal or different.

    Reasons ``equal``, and ``unjudged`` where the answer says neither: nobody has found that anything was gained.
    """
    found = _JUDGED.search(_ASKED.sub(" ", answer))
    if found is None:
        return Verdict("evol_judge", False, "unjudged")
    gained = (found["other"] is None) != (found["not"] is None)
    return Verdict("evol_judge", gained, "" if gained else "equal")


def apology(response: str, *, words: int) -> Verdict:
    """Rule 2: a response with "sorry" in it and fewer than so many words. Reason ``sorry``; the score is its words."""
    count = count_words(response)
    kept = count >= words or "sorry" not in tokenize(response)
    return Verdict("evol_apology", kept, "" if kept else "sorry", count)


def content(response: str) -> Verdict:
    """Rule 3: a response of nothing but punctuation and stop words. Reason ``no_content``."""
    kept = any(word not in STOP_WORDS for word in tokenize(response))
    return Verdict("evol_content", kept, "" if kept else "no_content")


def wording(evolved: str, current: str, phrases: Iterable[str], prompt: str) -> Verdict:
    """Rule 4: words of the prompt in the evolved instruction that were not in the un-evolved one.

    Reason ``prompt_words``; ``detail["words"]`` are the first found: one of the phrases by which a prompt names its
    parts, or eight words in one piece of what it says around the instruction.
    """
    ours, before = _joined(tokenize(evolved)), _joined(tokenize(current))
    for words in (*map(tokenize, phrases), *_runs(tokenize(prompt))):
        piece = _joined(words)
        if words and piece in ours and piece not in before:
            return Verdict("evol_wording", False, "prompt_words", detail={"words": " ".join(words)})
    return Verdict("evol_wording", True)


def whole(truncated: bool) -> Verdict:
    """Not one of the four: what ended at the token limit is a part of an instruction or of a response."""
    return Verdict("evol_whole", not truncated, "truncated" if truncated else "")


def _runs(words: Sequence[str]) -> list[Sequence[str]]:
    return [words[start : start + _RUN] for start in range(len(words) - _RUN + 1)]


def _joined(words: Iterable[str]) -> str:
    """So that a piece of it begins and ends with a whole word."""
    return f" {' '.join(words)} "
