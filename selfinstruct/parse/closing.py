"""What tells that a conversation is over: the sign that prompts ask for, and a user's thanks or farewell.

The sign (``CLOSING_SIGN``) is known in every language; words are English. A message of words is a farewell if each of
its clauses is one that such messages are made of, and one of them thanks or takes leave: what is none of them may be a
question or a request, however it is put.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from selfinstruct.parse.text import fenced, unfenced

__all__ = ["CLOSING_SIGN", "closing_sign", "is_closing"]

CLOSING_SIGN = "[END]"

_SIGN = re.escape(CLOSING_SIGN) + r"[*_.!]{0,4}"
_AT_AN_END = re.compile(rf"{_SIGN}`?[ \t\r]*$|^[*_`]{{0,3}}{_SIGN}(?=\s)", re.MULTILINE | re.IGNORECASE)
_ALONE_OR_LAST = re.compile(
    rf"^[ \t]{{0,3}}[*_]{{0,3}}{_SIGN}[ \t\r]*$|[*_]{{0,3}}{_SIGN}\s*\Z", re.MULTILINE | re.IGNORECASE
)

_LONGEST_FAREWELL = 200  # characters; whoever writes more than this has something else to say
_CLAUSE = re.compile(
    r"[.!,;:\n\u2026]+|\s[-\u2013\u2014]\s|\band (?=thank|have a|take care|good ?bye|bye|see you|that)"
)
_EDGES = re.compile(r"^[\W_]+|[\W_]+$")


def _one_of(*ways: str, before: str = "") -> re.Pattern[str]:
    return re.compile(f"{before}(?:{'|'.join(ways)})")


_FILLER = (
    r"(?:(?:oh|ah|aha|ok|okay|great|perfect|wonderful|awesome|excellent|brilliant|amazing|fantastic|lovely|cool|nice"
    r"|good|super|fine|right|alright|all right|well|no|nope|and|so|wow|i see|got it|understood|in that case) )*"
)
_PRAISE = (
    r"(?:helpful|useful|great|good|perfect|wonderful|excellent|amazing|fantastic|brilliant|awesome|lovely|clear|enough"
    r"|interesting|fascinating|informative|insightful|right|kind|welcome|wise|delicious|plenty|a (?:big |great )?help"
    r"|what i (?:need|needed|want|wanted|was looking for))"
)
_VERY = (
    r"(?: (?:been|be|all|so|very|really|quite|such|exactly|just|a|an|most|truly|more|than|extremely|incredibly"
    r"|definitely|certainly|always)){0,3}"
)
_I_HAVE = r"i(?:'ve| have)?(?: (?:really|truly|do|now|also|just))? "

_YES = re.compile(r"yes|yeah|yep|sure")

_THANKS = _one_of(
    r"(?:i )?(?:many thanks|thanks|thank you|thank you all|thx|cheers|much appreciated)"
    r"(?: (?:so much|very much|a lot|a bunch|a million|a ton|again|kindly|once more|everyone|friend|mate|assistant))*"
    rf"(?: (?:for .+|to you|that(?:'s| is| was)? (?:all|helps?|helped|{_PRAISE})(?: .+)?))?",
    before=_FILLER,
)

_LEAVE = _one_of(
    r"(?:good ?bye|bye|bye[ -]bye|farewell|good ?night|so long)(?: (?:for now|then|now|everyone|friend|assistant))?",
    r"see (?:you|ya)(?: (?:later|soon|then|around|again|tomorrow|next time))?",
    r"take care(?: of yourself)?",
    r"(?:i think |i guess )?(?:that|this)(?:'s| is| was| will be|'ll be| would be)(?: about| really)?"
    r" (?:all|it|everything)(?: (?:i|for|from) .+| then| thanks)?",
    r"(?:i(?:'ve| have)? (?:got |have )?|there(?:'s| is) )?(?:no|nothing) (?:more|further|other|else)"
    r"(?: (?:questions?|queries|requests?|doubts?|to (?:ask|add|say|discuss)))?"
    r"(?: (?:for now|for today|for the moment|at the moment|at this time|today|from me|from my side|on this))*",
    r"i(?:'ve| have)? no (?:more |further |other )?questions?(?: .+)?",
    r"have an? (?:very )?(?:nice|good|great|lovely|wonderful|pleasant|fantastic|amazing)"
    r" (?:day|evening|night|morning|afternoon|week|weekend|one|time|trip|rest of .+)(?: ahead)?",
    before=f"(?:yes )?{_FILLER}",
)

# What may stand beside these: of what was said, of what one will do with it, and more good wishes.
_REMARK = _one_of(
    rf"(?:(?:very|really|so|super|most|truly|quite) )?{_PRAISE}",
    r"ok|okay|fine|no|nope|well|oh|ah|wow|i see|got it|understood|sounds good|will do|al(?:l )?right|for (?:now|today)",
    r"not (?:now|right now|at the moment|today)",
    r"(?:i(?:'m| am) )?(?:good|all set|done|glad|happy)(?: (?:for )?now| for today)?",
    r"(?:that|this|it|these|those|you|your \w+|everything|all)(?:'s|'re|'ve| is| was| are| were| has| have| sounds"
    rf"| looks| should| will|'ll){_VERY} {_PRAISE}(?: .+)?",
    r"(?:that|this|it|these|those|you|all)(?:'ve|'ll| will| has| have)?(?: (?:really|all|certainly|definitely|just))?"
    r" (?:helps?|helped|works?|worked|makes? (?:\w+ )?sense|made sense|answers?|answered|clears?|cleared)(?: .+)?",
    r"i(?:'ll| will|'m going to| am going to)(?: (?:definitely|certainly|surely|just))?"
    r" (?:try|give (?:it|that|this|them)|keep|look|check|remember|let you know|be sure to|take|read|think about"
    r"|come back|follow|practi[cs]e|visit|see (?:what|how|if)|do (?:it|that|so))(?: .+)?",
    rf"{_I_HAVE}(?:appreciate|understand|understood|get it|got it|learned|learnt|enjoyed"
    r"|feel (?:much |a lot )?(?:better|ready|more)|have (?:everything|all|what)"
    r"|(?:have to|must|should|need to|got to) (?:go|run|leave))(?: .+)?",
    r"(?:i(?:'m| am) )?(?:really )?looking forward(?: .+)?|(?:talk|speak)(?: to you)? (?:later|soon)",
    r"have fun|good luck|you too|same to you|likewise|(?:until|till) (?:next time|then|tomorrow)",
    before=_FILLER,
)

# With one of these a clause has more to say, however it begins.
_TURNING = re.compile(
    r"\b(?:but|though|although|however|except|unless|please|still|instead|never"
    r"|not(?! (?:now|right now|at the moment|today)$)|\w+n't"
    r"|(?:and|now|then|so) (?:also|please|add|can|could|tell|give|show|write|explain|describe|list|make|let|help|what"
    r"|how|why|compare|suggest|find|do|try|go on|continue))\b"
)


def closing_sign(text: str, start: int, end: int, fences: list[tuple[int, int]] | None = None) -> int | None:
    """Where the closing sign stands in a message, on a line of its own or at the end, and in no code fence; or None.

    Args:
        start, end: Of the message.
        fences: Those of the whole text, if they are known.
    """
    marks: Iterator[re.Match[str]] = _ALONE_OR_LAST.finditer(text, start, end)
    first = next(unfenced(marks, fenced(text, 0) if fences is None else fences), None)
    return None if first is None else first.start()


def is_closing(text: str) -> bool:
    """True when a user has nothing more to ask: the closing sign at an end of a line, or thanks or a farewell alone."""
    if _AT_AN_END.search(text):
        return True
    said = text.casefold().replace("\u2019", "'").strip()
    if len(said) > _LONGEST_FAREWELL or "?" in said or "\uff1f" in said:
        return False
    clauses = [clause for part in _CLAUSE.split(said) if (clause := _EDGES.sub("", part))]
    leaves = any(map(_LEAVE.fullmatch, clauses))
    return all(_is_of_a_farewell(clause, leaves=leaves) for clause in clauses) and (
        leaves or any(map(_THANKS.fullmatch, clauses))
    )


def _is_of_a_farewell(clause: str, *, leaves: bool) -> bool:
    if _YES.fullmatch(clause):  # with no more than thanks it says what the assistant is to do
        return leaves
    return not _TURNING.search(clause) and any(kind.fullmatch(clause) for kind in (_LEAVE, _THANKS, _REMARK))
