"""The rules by which Evol-Instruct eliminates an evolution (Xu et al., 2023, arXiv:2304.12244, section 3).

1. The evolved instruction asks for nothing more: ``similarity`` where no model is needed to decide, otherwise ``gain``,
   which reads the answer of a judge that saw both instructions.
2. The model could not answer the instruction: ``apology``, a "sorry" in a short response.
3. The response consists of punctuation and stop words: ``content``.
4. The evolved instruction repeats words of its prompt: ``wording``.

Each rule returns a verdict, so that a candidate's record shows which rule decided, and on what evidence.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

from selfinstruct.filters.rouge.lcs import f1, lcs_length
from selfinstruct.filters.text import count_words, find_words
from selfinstruct.parse import collapse
from selfinstruct.reasons import RejectReason
from selfinstruct.records import Verdict

__all__ = ["STOP_WORDS", "apology", "complete", "content", "gain", "similarity", "wording"]

_LONGEST = 1 << 13  # compared tokens of an instruction: the time grows with the product of the two lengths
_RUN = 8  # consecutive words of a prompt that no instruction shares by chance

_QUESTION = re.compile(r"\bequal\s+or\s+different\b", re.I)  # the prompt's last line, which a chat model repeats
_DECISION = re.compile(
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
"""English function words, and the parts into which an apostrophe splits them."""


def similarity(evolved: str, current: str, *, threshold: float, current_id: str) -> Verdict:
    """Apply rule 1 without a model: an instruction that is nearly its source asks for nothing more.

    Reasons are ``unchanged`` (equal apart from case and spaces) and ``too_similar``; the score is the ROUGE-L F1.

    Args:
        threshold: F1 from which the two are too similar.
        current_id: Id of the un-evolved instruction.
    """
    if collapse(evolved).casefold() == collapse(current).casefold():
        return Verdict("evol_similarity", False, RejectReason.UNCHANGED, 1.0, current_id)
    first, second = find_words(evolved)[:_LONGEST], find_words(current)[:_LONGEST]
    score = f1(lcs_length(first, second), len(first), len(second))
    kept = score < threshold
    return Verdict("evol_similarity", kept, "" if kept else RejectReason.TOO_SIMILAR, score, current_id)


def gain(answer: str) -> Verdict:
    """Apply rule 1 to a judge's answer to the question whether two instructions are equal or different.

    Reasons are ``equal``, and ``unjudged`` for an answer that says neither, since no gain was established.
    """
    decision = _DECISION.search(_QUESTION.sub(" ", answer))
    if decision is None:
        return Verdict("evol_judge", False, RejectReason.UNJUDGED)
    gained = (decision["other"] is None) != (decision["not"] is None)
    return Verdict("evol_judge", gained, "" if gained else RejectReason.EQUAL)


def apology(response: str, *, min_words: int) -> Verdict:
    """Apply rule 2: a response with "sorry" needs at least ``min_words`` words.

    The reason is ``sorry``; the score is the number of words.
    """
    count = count_words(response)
    kept = count >= min_words or "sorry" not in find_words(response)
    return Verdict("evol_apology", kept, "" if kept else RejectReason.SORRY, count)


def content(response: str) -> Verdict:
    """Apply rule 3: a response must hold more than punctuation and stop words. The reason is ``no_content``."""
    kept = any(word not in STOP_WORDS for word in find_words(response))
    return Verdict("evol_content", kept, "" if kept else RejectReason.NO_CONTENT)


def wording(evolved: str, current: str, phrases: Iterable[str], prompt: str) -> Verdict:
    """Apply rule 4: the evolved instruction must not repeat words of the prompt that its source did not have.

    The reason is ``prompt_words``; ``detail["words"]`` is the first match: a phrase, or eight consecutive words.

    Args:
        phrases: Names that the prompt uses for its parts.
        prompt: The prompt without the instruction.
    """
    evolved_words, current_words = _joined(find_words(evolved)), _joined(find_words(current))
    for words in (*map(find_words, phrases), *_runs(find_words(prompt))):
        piece = _joined(words)
        if words and piece in evolved_words and piece not in current_words:
            return Verdict("evol_wording", False, RejectReason.PROMPT_WORDS, detail={"words": " ".join(words)})
    return Verdict("evol_wording", True)


def complete(truncated: bool) -> Verdict:
    """Reject an instruction or a response that ended at the token limit. This is not one of the paper's rules."""
    return Verdict("evol_whole", not truncated, RejectReason.TRUNCATED if truncated else "")


def _runs(words: Sequence[str]) -> list[Sequence[str]]:
    return [words[start : start + _RUN] for start in range(len(words) - _RUN + 1)]


def _joined(words: Iterable[str]) -> str:
    """Join words with a space at both ends, so that a piece of the result begins and ends with a complete word."""
    return f" {' '.join(words)} "
