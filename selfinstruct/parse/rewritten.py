"""The task in an answer to the request to rewrite one: without what chat models say about it before and after.

Before the task stand greetings, headings and labels ("### Rewritten task", "**Evolved instruction:**"), after it
remarks on what was changed ("(Added a constraint.)", "Note: I made it harder."). A remark is recognised by what it
speaks about, the rewriting, and not by its form alone: a task may end in parentheses, or with a note to its reader.
"""

from __future__ import annotations

import re

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
_MOST = 12  # remarks removed, one after the other


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
    for title in _REMARK_TITLE.finditer(text, start + 1, end):
        if not _announces(text[start : title.start()]):
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
        and _is_remark(parenthesis.group())
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
            and _is_remark(piece)
        ):
            return begin
    return None


def _is_remark(text: str) -> bool:
    """Return whether a paragraph, line or parenthesis speaks about the rewriting, or offers more."""
    plain = text.lstrip(" \t>#*_-([\u2013\u2014")
    if _OFFER.match(plain):
        return _OFFER_ABOUT.search(plain) is not None
    return _REMARK.match(text) is not None and _ABOUT.search(plain) is not None


def _announces(text: str) -> bool:
    """Return whether a text is blank or ends with a colon, so that what follows belongs to the task."""
    return text.rstrip()[-1:] in ("", ":")


def _in_fence(text: str, position: int) -> bool:
    return any(first < position < last for first, last in fence_spans(text, 0))
