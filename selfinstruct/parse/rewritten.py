"""The task in an answer to the request to rewrite one: without what chat models say about it before and after.

Before the task stand greetings, headings and labels ("### Rewritten task", "**Evolved instruction:**"), after it
remarks on what was changed ("(Added a constraint.)", "Note: I made it harder."). A remark is recognised by what it
speaks about, the rewriting, and not by its form alone: a task may end in parentheses, or with a note to its reader.
A paragraph that states a constraint ("The constraint added is x > 3.") is part of the task, unless the task says the
same already.
"""

from __future__ import annotations

import re
from itertools import islice

from selfinstruct.parse.preamble import skip_preamble
from selfinstruct.parse.text import BLANK_LINE, fence_spans, strip_emphasis, strip_span

__all__ = ["rewritten_task", "without_remarks"]

Span = tuple[int, int]

_FLAGS = re.IGNORECASE | re.MULTILINE
_STRONG = r"(?:re-?written|revised|evolved|created|updated|modified|improved|enhanced|expanded)"
_HOW = (
    rf"(?:{_STRONG}|new|adapted|refined|final|complicated|complex|challenging|difficult|upgraded|transformed|generated"
    r"|alternative|more|much|\w+er)"
)
_WHAT = r"(?:task|prompt|instruction|question|problem|request|exercise|challenge)s?"
_MARKS = r"(?:>[ \t]?)?(?:#{1,6}[ \t]{0,2})?[*_]{0,3}"
_ARTICLE = r"(?:the |your |a |an |my )?"
_ASIDE = r"(?:[ \t]\([^()\n]{0,40}\))?"
_END = r"\#?[*_]{0,3}(?:[ \t]?:[*_]{0,3}[ \t]*|[ \t]*$)"
_DASH = r"[*_]{0,3}[ \t](?:\u2192|->|[-\u2013\u2014])[ \t]"

# Before the task.
_LABEL = re.compile(
    rf"{_MARKS}{_ARTICLE}(?:{_HOW} ){{0,3}}(?:{_WHAT}|(?:{_HOW} )version|rewrite){_ASIDE}{_END}", _FLAGS
)
_STRONG_LABEL = re.compile(
    rf"^[ \t]{{0,3}}{_MARKS}(?:here(?:['\u2019]s| is) )?{_ARTICLE}"
    rf"(?:(?:final(?:ly)? )?{_STRONG}(?: {_HOW}){{0,2}} (?:{_WHAT}|version)|rewrite)"
    rf"{_ASIDE}(?: is| would be| could be| reads| as follows)?(?:{_END}|{_DASH})",
    _FLAGS,
)
_SOURCE_LABEL = re.compile(
    rf"^[ \t]{{0,3}}{_MARKS}(?:given|original|old|initial|first) (?:{_WHAT}|version)\b[^\n:]{{0,20}}:", _FLAGS
)
_GREET = r"(?:sure|certainly|of course|absolutely|okay|ok|great)"
_SPEAKS_OF_IT = (
    rf"(?:(?:{_STRONG}|new|harder|deeper|more \w{{1,20}}) (?:\w{{1,20}} ){{0,2}}(?:{_WHAT}|version|one)"
    r"|re-?writ(?:e|ten|ing)|rewrote|(?:make|made|making) (?:it|the task|this))"
)
_ANNOUNCEMENT = re.compile(
    rf"(?:{_GREET}\b[!,.]?(?![^\n]{{0,20}}\b(?:my|our)\b)[^\n]{{0,200}}?\b(?:{_HOW}|{_WHAT}|version|rewrite|it)\b"
    r"|(?:as requested|here|below|this is|let me|let['\u2019]s|the following|to "
    r"|i(?:['\u2019]ve| have)? (?=re-?wr(?:ote|itten)\b|made\b|added\b|changed\b|revised\b))"
    r"(?! is my\b|['\u2019]s my\b)"
    rf"[^\n]{{0,200}}?\b{_SPEAKS_OF_IT}\b)[^\n]{{0,160}}:[*_]{{0,3}}[ \t]*$",
    _FLAGS,
)
_GREETING = re.compile(rf"{_GREET}(?: thing)?\b(?:(?-i:!(?=[ \t][A-Z]))|[!.,][^\n:?]{{0,60}}$)", _FLAGS)

# After the task.
_CHANGED = (
    r"(?:added|made (?:it|the|this)|increased|rewrote|rewritten|expanded|introduced|changed|modified|replaced|raised"
    r"|deepened|extended|adjusted|incorporated)"
)
_ABOUT = re.compile(
    rf"\b(?:re-?writ(?:e|ten|ing)|evolved|revis(?:ed|ion)|i(?:['\u2019]ve| have)? (?:also )?{_CHANGED}"
    rf"|(?:has|have|was|were|is) (?:been )?{_CHANGED}"
    r"|added (?:a|an|the|one|two|three|\d+|more|further|new|constraints?|requirements?|depth)\b|added(?=:)"
    r"|adds? (?:a|an|the|one|two|more|further|new|depth|\d+)\b|adding (?:a|an|the|one|two|more|constraints?)\b"
    r"|(?:add\w*|further|additional|extra|more|new) (?:\w+ ){0,2}constraints?"
    r"|constraints? (?:was |were )?(?:added|about|on|makes?|adds?)|complexity|difficulty"
    r"|making it (?:more|harder|deeper)"
    r"|(?:harder|deeper|more (?:complex|challenging|difficult|demanding|specific|concrete)) "
    r"(?:than|version|task|because|by)"
    rf"|(?:original|given|previous|new|updated|modified|harder) (?:{_WHAT}|version)"
    r"|\d+ (?:more|extra|additional|further) words|total:? \d+ words|word count|words? (?:were )?added"
    r"|increas(?:es|ed|ing) (?:the )?(?:depth|breadth|reasoning))\b",
    re.IGNORECASE,
)
_REMARK = re.compile(
    r"(?:[^\w\s]{0,3}[ \t])?(?:[-*>#_(\[\s\u2013\u2014]{0,6})(?:p\.?s|note"
    r"|explanation|rationale|comment|commentary|changes?|modifications?"
    r"|improvements?|additions?|added|adds|adding|constraints? added|what|why|how|justification|word count|total"
    rf"|summary|key|in this|this|these|those|the (?:added|above|{_HOW}|{_WHAT}|version|constraint|requirement|rewrite)"
    r"|i|by|here|new|now|it|reasoning|i['\u2019]ve|deepened|increased|rewritten|revised|made|expanded|\d+)\b",
    re.IGNORECASE,
)
_REMARK_TITLE = re.compile(
    rf"^[ \t]{{0,3}}{_MARKS}(?:explanation|rationale|commentary|justification|what (?:i |was |has been )?changed"
    r"|(?:key |summary of |list of )?(?:changes|modifications|improvements|additions)(?: made)?|added constraints?"
    r"|constraints? added|word count|(?:how|why) (?:this|it) (?:\w+ ){0,3}(?:harder|deeper|more \w+)"
    rf"|reasoning behind [^\n:]{{0,40}}){_END}",
    _FLAGS,
)
_OFFER = re.compile(
    r"(?:let me know|feel free|(?:i )?hope (?:this|that|it)|would you like|do you want (?:me|another)"
    r"|if you(?:['\u2019]d| would) like|is there anything|shall i|happy to)\b",
    re.IGNORECASE,
)
_OFFER_ABOUT = re.compile(
    rf"\b(?:if you|if this|me to|helps?|another|further|adjust|rewrite|{_HOW} (?:version|{_WHAT})|changes)\b",
    re.IGNORECASE,
)
_CONSTRAINT = r"(?:constraint|requirement|condition|restriction|limitation|rule|limit)s?"
_STATEMENT = re.compile(  # what follows is the constraint itself
    rf"(?:note: )?(?:(?:the|an?|one|this|these|my|our|your|\d+) )?(?:(?:added|adding|new|additional|further|extra"
    rf"|more|second|third|final|only|main|key) ){{0,3}}(?:{_CONSTRAINT}(?: (?:(?:that|which|i|we|was|were|is|are"
    r"|has|have|been|now|to be|here|newly) ){0,3}(?:added|introduced|imposed|included|applied|set|required))?"
    r"|added(?=:))[*_]{0,3}(?:[ \t]?[:=][*_]{0,3}| (?:is|are|reads?|says|states|requires?)(?: now)?"
    r"(?: as follows)?:?(?: that)?)\s+(?P<content>\S.*)",
    re.IGNORECASE | re.DOTALL,
)
_TALK = re.compile(  # what a constraint is about or for, and not what it says
    r"(?:(?:now|also|there|here|in place|added|included|needed|necessary|meant|designed|intended|supposed)\b"
    r"|(?:about|on|concerning|regarding|related to) |to (?:make|increase|raise|deepen|challenge|encourage|add|test)\b"
    rf"|(?:an? |one |two |the |some )?(?:(?:new|further|extra|additional|more|specific) )*(?:{_CONSTRAINT}\b|{_WHAT}\b"
    r"|depth|complexity|difficulty|detail)"
    r"|(?:it|this|the (?:task|prompt|instruction|question|model|answerer)) (?:now )?(?:is|becomes|makes|adds|asks)\b"
    r"|(?:harder|deeper|more)\b)",
    re.IGNORECASE,
)
_TOKEN = re.compile(r"\w+|[<>=\u2264\u2265+*/^%-]")
_OPENING_MARKS = " \t>#*_-([\u2013\u2014"
_MOST_STATED = 1000  # characters of a constraint that are compared with the task
_LEAST_STATED = 2  # words of a constraint; one alone names a subject ("length")
_SAID = 0.6  # share of a statement's words in the task from which it says nothing new
_PARENTHESIS = re.compile(r"[*_]{0,2}(?:\([^()]{1,400}\)|\[[^\[\]]{1,400}\])[*_]{0,2}\.?\Z")
_WRAPPED = re.compile(
    r"(?P<ticks>`{3,}|~{3,})[ \t]?(?:text|txt|plain|plaintext|markdown|md)?[ \t]*\n(?P<body>.*?)\n?(?P=ticks)\Z",
    re.DOTALL | re.IGNORECASE,
)
_END_MARK = re.compile(  # a rule, "#End#", "End of rewritten task.", "(12 words)"
    rf"\n[ \t]*(?:(?:[*_-][ \t]*){{3,}}|\#{{1,6}}[ \t]?end[ \t]?\#{{0,6}}|end of (?:the )?{_STRONG} {_WHAT}\.?"
    r"|\(\d{1,4} words\))[ \t]*\Z",
    re.IGNORECASE,
)
_ITEM = re.compile(r"[ \t]{0,3}(?:[-*+\u2022]|\d{1,3}[.)])[ \t]")
_TAGGED = re.compile(
    rf"<(?P<name>(?:(?:{_STRONG}|new)[ _-])?{_WHAT})>(?P<body>.*)</(?P=name)>", re.DOTALL | re.IGNORECASE
)
_MOST = 12  # remarks removed, one after the other, and titles of remarks considered


def rewritten_task(text: str) -> Span:
    """Return the span of the task in a model's answer; an empty span without one."""
    start, end = skip_preamble(text, 0, len(text))
    start = _after_announcements(text, start, end)
    start, end = without_remarks(text, start, end)
    if wrapped := _WRAPPED.fullmatch(text, start, end) or _TAGGED.fullmatch(text, start, end):
        start, end = without_remarks(text, *wrapped.span("body"))
        start = _after_announcements(text, start, end)
    start, end = strip_span(text, start, end)
    if text.startswith("> ", start) and "\n" not in text[start:end]:
        start += 2
    return strip_emphasis(text, start, end)


def without_remarks(text: str, start: int, end: int) -> Span:
    """Return the span of a task without the remarks after it; never an empty span for a text that is not blank."""
    start, end = strip_span(text, start, end)
    if (source := _SOURCE_LABEL.search(text, start + 1, end)) and text[start : source.start()].strip():
        start, end = strip_span(text, start, source.start())
    for _ in range(_MOST):
        begin = _last_remark(text, start, end)
        if begin is None:
            break
        start, end = strip_span(text, start, begin)
    return start, end


def _after_announcements(text: str, start: int, end: int) -> int:
    """Return the start of the task after greetings, headings and labels."""
    label = next((mark for mark in _STRONG_LABEL.finditer(text, start, end) if text[mark.end() : end].strip()), None)
    if label is not None and not _in_fence(text, label.start()):
        start = label.end()
    for _ in range(_MOST):
        start = strip_span(text, start, end)[0]
        marks = (pattern.match(text, start, end) for pattern in (_LABEL, _ANNOUNCEMENT, _GREETING))
        mark = next((mark for mark in marks if mark and text[mark.end() : end].strip()), None)
        if mark is None or mark.end() == start:
            return start
        start = mark.end()
    return start


def _last_remark(text: str, start: int, end: int) -> int | None:
    """Return the start of the last remark of a task: its last paragraph, line or parenthesis; None without one."""
    for title in islice(_REMARK_TITLE.finditer(text, start + 1, end), _MOST):
        task, remark = text[start : title.start()], text[title.start() : min(end, title.start() + _MOST_STATED)]
        if not _announces(task) and not _states_constraint(remark, task):
            return title.start()
    if end_mark := _END_MARK.search(text, max(start + 1, end - 80), end):
        return end_mark.start()
    last = start
    for gap in BLANK_LINE.finditer(text, start, end):
        last = gap.end()
    line = text.rfind("\n", start, end) + 1
    parenthesis = _PARENTHESIS.search(text, max(start, end - 410), end)
    if (
        parenthesis is not None
        and not _announces(text[start : parenthesis.start()])
        and _is_remark(parenthesis.group(), text[start : parenthesis.start()])
    ):
        return parenthesis.start()
    for begin in dict.fromkeys((last, line)):
        is_item = _ITEM.match(text, begin, end) is not None  # of a list that may belong to the task
        piece = text[begin:end].partition("\n")[0] if is_item else text[begin:end]
        if (
            begin > start
            and not _announces(text[start:begin])
            and not _in_fence(text, begin)
            and not (is_item and begin != last)
            and _is_remark(piece, text[start:begin])
        ):
            return begin
    return None


def _is_remark(text: str, task: str) -> bool:
    """Return whether a paragraph, line or parenthesis after a task speaks about the rewriting, or offers more."""
    plain = text.lstrip(_OPENING_MARKS)
    if _OFFER.match(plain):
        return _OFFER_ABOUT.search(plain) is not None
    is_remark = _REMARK.match(text) is not None and _ABOUT.search(plain) is not None
    return is_remark and not _states_constraint(text, task)


def _states_constraint(text: str, task: str) -> bool:
    """Return whether a text says what is asked for, and the task before it does not say so."""
    statement = _STATEMENT.match(text.lstrip(_OPENING_MARKS))
    if statement is None:
        return False
    content = statement["content"].strip(" \t\r\n*_)].")
    tokens = [token for token in _TOKEN.findall(content.casefold()) if len(token) > 3 or not token.isalpha()]
    if _TALK.match(content.lstrip("-* \t")) or len(content.split()) < _LEAST_STATED:
        return False
    said = set(_TOKEN.findall(task.casefold()))
    return sum(token in said for token in tokens) < _SAID * len(tokens)


def _announces(text: str) -> bool:
    """Return whether a text is blank or ends with a colon, so that what follows belongs to the task."""
    return text.rstrip()[-1:] in ("", ":")


def _in_fence(text: str, position: int) -> bool:
    return any(first < position < last for first, last in fence_spans(text, 0))
