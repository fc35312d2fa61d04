"""Sentences of an answer, by a rule that needs no model and no data file.

The published checkers split by NLTK's English Punkt model (Kiss and Strunk 2006), which has to be downloaded. The rule
below makes the same decisions without the learned tables:

- A run of ``.``, ``?`` and ``!`` ends a sentence if white space, a closing quotation mark or bracket, or one of
  ``*:;@({[`` follows. ``3.14`` and ``example.org`` do not end one. Closing marks belong to the sentence they follow.
- ``?`` and ``!`` always end it. A line break never does: a heading belongs to the sentence after it.
- The number of a list (``1.``) is a sentence of its own unless a small letter follows. The published counts depend on
  that.
- An abbreviation (``Dr.``, ``U.S.``), an initial (``J. Smith``) or an ellipsis ends a sentence only before a word that
  usually begins one (``The``, ``However``).
- Marks that white space separates (``? !``) end one sentence.

Unlike in Punkt's model, ``e.g.``, ``i.e.``, ``cf.``, ``etc.`` before a small letter, ``No.`` and ``Fig.`` before a
number, and a letter that labels an item (``B.``) end no sentence, and curly closing quotation marks count like straight
ones.
"""

from __future__ import annotations

import re

from selfinstruct.verifiers.instructions.lexicon import words_of

__all__ = ["split_sentences"]

_ENDS = re.compile(r"[.?!]+")
_CLOSING = re.compile(r"[\"')\]}\u201d\u2019\u00bb]+(?=\s|$)")
_OPEN_AFTER = frozenset("*:;@({[\"')]}\u201d\u2019\u00bb")
_MORE_MARKS = re.compile(r"\s+[.?!]+(?=\s|$)")
_LAST_WORD = re.compile(r"[\w.'-]+$")
_NEXT_WORD = re.compile(r"[\s*_\"'(\[\u201c\u2018#>-]*([\w']*)")
_LOOKBACK = 24  # characters: the longest abbreviation is far shorter
_LOOKAHEAD = 40

_ABBREVIATIONS = words_of(
    """
    a.m adm al approx ariz aug ave bros calif capt cf cie co col colo conn corp cos dec dr e.g feb fla fri ft gen
    gov hon i.e ill inc jan jr kan lt ltd m.b.a maj messrs mich minn mr mrs ms nov oct okla ore p.m ph.d prof rep
    reps rev sen sep sept sgt sr st tenn tues v va vs wash wed wis yr
    """
)
_BEFORE_NUMBERS = frozenset({"no", "fig", "figs", "vol", "pp", "sec", "eq", "ch"})
_BEFORE_SMALL_LETTERS = frozenset({"etc", "viz", "esp", "incl"})
_INITIALS = re.compile(r"(?:[^\W\d_]\.)*[^\W\d_]")
_STARTERS = words_of(
    """
    according although among and as at both but by despite each even for he her his how however i if in indeed
    instead it its many meanwhile moreover most my nevertheless not now on one our she since so some that the
    their then there these they this those though thus under we what when where while who why with yet you your
    """
)


def split_sentences(text: str) -> list[str]:
    """Return the sentences of a text, without the white space around them; the last one may have no mark at its end."""
    sentences = []
    start = 0
    for match in _ENDS.finditer(text):
        end = match.end()
        if not _may_end(text, end) or not _ends(text, start, match):
            continue
        if closing := _CLOSING.match(text, end):
            end = closing.end()
        if sentence := text[start:end].strip():
            sentences.append(sentence)
        start = end
    if rest := text[start:].strip():
        sentences.append(rest)
    return sentences


def _may_end(text: str, end: int) -> bool:
    following = text[end : end + 1]
    if following.isspace():
        return _MORE_MARKS.match(text, end, end + _LOOKAHEAD) is None
    return not following or following in _OPEN_AFTER


def _ends(text: str, start: int, match: re.Match[str]) -> bool:
    """Return whether a run of marks that may end a sentence does so."""
    run = match.group()
    if run.strip("."):
        return True
    following = _NEXT_WORD.match(text, match.end(), match.end() + _LOOKAHEAD)
    next_word = following.group(1) if following else ""
    if len(run) > 1:
        return next_word[:1].isupper() and next_word.casefold() in _STARTERS
    word_match = _LAST_WORD.search(text, max(start, match.start() - _LOOKBACK), match.start())
    word = word_match.group() if word_match else ""
    if word.isdecimal():
        return not next_word[:1].islower()
    return _full_stop_ends(word.rpartition("-")[2], next_word)


def _full_stop_ends(word: str, next_word: str) -> bool:
    lower = word.casefold()
    if lower in _BEFORE_NUMBERS:
        return not next_word[:1].isdecimal()
    if lower in _BEFORE_SMALL_LETTERS:
        return not next_word[:1].islower()
    if lower in _ABBREVIATIONS or _INITIALS.fullmatch(word):
        return next_word[:1].isupper() and next_word.casefold() in _STARTERS
    return True
