"""The answer in a model's text: without its thoughts, and without the special tokens of its chat template.

Thoughts stand at the beginning of a text, in tags of many names. The opening tag may be missing, since some chat
templates write it into the prompt. A tag that the text only speaks about is text: inside code, in quotation marks, or
in the middle of a sentence. gpt-oss writes channels instead of tags (the format "harmony").
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from selfinstruct.parse.text import fence_spans, outside_fences, strip_span

__all__ = ["Span", "Thoughts", "find_answer"]

Span = tuple[int, int]

_CORE = r"(?:think(?:ing)?|thoughts?|thought_process|reasoning|inner_thoughts|inner_monologue)"
_LOOSE = r"(?:reason|reflection|scratchpad)"  # an answer may well consist of these elements
_PREFIX = r"(?:[\w-]{1,20}[:_])?"
_ATTRIBUTES = r"(?:\s[^<>\n]{0,80})?"
_OPEN = re.compile(
    rf"<{_PREFIX}{_CORE}{_ATTRIBUTES}>|\[(?-i:THINK|THINKING)\]|\u25c1{_CORE}\u25b7"
    rf"|<\|(?:begin_of_|start_of_|start_|begin_)?{_CORE}(?:_start|_begin)?\|>|<\|channel>\s?thought\b|<unused94>thought\b",
    re.IGNORECASE,
)
_CLOSE = re.compile(
    rf"</{_PREFIX}{_CORE}>|\[/(?-i:THINK|THINKING)\]|\u25c1/{_CORE}\u25b7"
    rf"|<\|(?:/|end_of_|end_){_CORE}\|>|<\|{_CORE}_end\|>|<channel\|>|<unused95>",
    re.IGNORECASE,
)
_LOOSE_BLOCK = re.compile(rf"<(?P<name>{_LOOSE}){_ATTRIBUTES}>.*?</(?P=name)>", re.IGNORECASE | re.DOTALL)
_WRAPPERS = r"(?:answer|output|response|solution|final|final_answer)"
_WRAPPER_OPEN = re.compile(rf"<{_WRAPPERS}>|<\|(?:begin_of_solution|start_response)\|>", re.IGNORECASE)
_WRAPPER_CLOSE = re.compile(rf"</{_WRAPPERS}>|<\|(?:end_of_solution|end_response)\|>", re.IGNORECASE)
_HEADING = re.compile(
    r"(?:#{1,6}[ \t]{0,2})?[*_]{0,3}(?:the )?(?:final )?answer[*_]{0,3}(?::[*_]{0,3}|[ \t]*$)",
    re.IGNORECASE | re.MULTILINE,
)

_CHANNEL = re.compile(
    r"(?:<\|start\|>\w{0,20})?<\|channel\|>\s?(?P<name>\w{1,20})[^<\n]{0,80}(?:<\|constrain\|>\w{0,20})?<\|message\|>"
)
_CHANNEL_END = re.compile(r"<\|(?:end|return|call|start|channel)\|>")
_BARE_ANALYSIS = re.compile(r"\s*analysis(?=[A-Z0-9\"'(*\[])")
_BARE_FINAL = "assistantfinal"

_ENDS = (
    r"<[|\uff5c](?:im_end|eot_id|eom_id|eot|end|return|endoftext|end_of_text|end_of_turn|end_of_turn_token"
    r"|end[\u2581_ ]of[\u2581_ ]sentence|assistant_end|eos|endofturn|end_of_role)[|\uff5c]>"
    r"|</s>|<eos>|<end_of_turn>|<turn\|>|<EOT>"
)
_STARTS = (
    r"<[|\uff5c](?:im_start|start_header_id|start|user|assistant|system|begin_of_text|startoftext|start_of_turn_token"
    r"|start_of_role|begin[\u2581_ ]of[\u2581_ ]sentence)[|\uff5c]>|<s>|<bos>|<start_of_turn>|<\|turn>|\[INST\]"
)
_END = re.compile(_ENDS, re.IGNORECASE)
_START = re.compile(_STARTS, re.IGNORECASE)
_ROLE = r"(?:(?:assistant|model)(?:<\|end_header_id\|>)?(?=\s)|<\|end_header_id\|>)?"
_TOKEN = re.compile(rf"{_ENDS}|{_STARTS}", re.IGNORECASE)
_HEAD = re.compile(rf"(?:\s*(?:{_STARTS}){_ROLE})+\s*", re.IGNORECASE)

_QUOTES = "\"'`\u201c\u201d\u2018\u2019\u00ab\u00bb"
_BEFORE = re.compile(r"[^\s.!?:\u2026][ \t]\Z")  # the middle of a sentence, before a tag
_AFTER = re.compile(r"[ \t][a-z(]|[,.;:!?)](?:\s|\Z)")  # and after it
_NOTHING = re.compile(r"\s*+\Z")
_REST_OF_LINE = re.compile(r"[ \t\r]*(?:\n|\Z)")
_LINE = 400  # characters of a line that are examined before a tag
_MARKS = re.compile(r"[<\[\u25c1]|\banalysis[A-Z0-9\"'(*\[]|\Aanalysis")


@dataclass(frozen=True, slots=True)
class Thoughts:
    """The parts of a text.

    Attributes:
        answer: Spans of the answer, in order; the whole text if it holds no thought and no special token.
        reasoning: Spans of the thoughts, without tags and surrounding space.
        unfinished: True if a thought is never closed, so that the text ends inside it.
    """

    answer: tuple[Span, ...]
    reasoning: tuple[Span, ...] = ()
    unfinished: bool = False


def find_answer(text: str, *, chat: bool = True) -> Thoughts:
    """Separate the answer in a text from thoughts and special tokens, in time linear in its length.

    Args:
        chat: Whether the text is an answer in a chat, which ends at the first token that ends a turn. In the
            continuation of a raw prompt only tokens at its very end are removed.
    """
    if _MARKS.search(text) is None:
        return Thoughts(((0, len(text)),) if text else ())
    if (channels := _read_channels(text)) is not None:
        return channels
    head = _HEAD.match(text)
    reader = _Reader(text, head.end() if head else 0)
    reader.read()
    begin, end = reader.begin, _end(text, reader.begin, chat=chat)
    if reader.reasoning:
        begin, end = _unwrapped(text, begin, end)
    pieces: list[Span] = []
    for start, stop in (*reader.inside, (end, end)):
        if begin < min(start, end):
            pieces.append((begin, min(start, end)))
        begin = max(begin, stop)
    return Thoughts(tuple(pieces), tuple(reader.reasoning), reader.unfinished)


class _Reader:
    """One pass over a text: thoughts at its beginning, then thoughts between the parts of the answer.

    Attributes:
        begin: Start of the answer.
        reasoning: Spans of the thoughts.
        inside: Spans of thoughts inside the answer, tags included.
        unfinished: Whether the last thought is never closed.
    """

    def __init__(self, text: str, begin: int) -> None:
        self.text, self.begin = text, begin
        self.reasoning: list[Span] = []
        self.inside: list[Span] = []
        self.unfinished = False

    def read(self) -> None:
        """Find all thoughts."""
        while self._leading():
            pass
        if not self.unfinished:
            self._later()

    def _leading(self) -> bool:
        """Read one thought at the beginning; return whether there is one that is closed."""
        text = self.text
        start = strip_span(text, self.begin, len(text))[0]
        opened = _OPEN.match(text, start)
        if opened is None:
            block = _LOOSE_BLOCK.match(text, start)
            if block is None or _NOTHING.match(text, block.end()):
                return False
            inner = text.index(">", start) + 1, text.rindex("</", start, block.end())
            self.reasoning.append(strip_span(text, *inner))
            self.begin = block.end()
            return True
        closed = _CLOSE.search(text, opened.end())
        end = closed.start() if closed else len(text)
        self.reasoning.append(strip_span(text, opened.end(), end))
        self.begin = closed.end() if closed else len(text)
        self.unfinished = closed is None
        return closed is not None

    def _later(self) -> None:
        """Read the thoughts after the beginning; a closing tag without an opening one ends a thought before it."""
        text, tags = self.text, _tags(self.text, self.begin)
        opening: re.Match[str] | None = None
        mentioned = False  # an opening tag that is text, and so is the tag that closes it
        last_closing: re.Match[str] | None = None
        for index, tag in enumerate(tags):
            if _CLOSE.fullmatch(tag.group()) is None:
                following = tags[index + 1] if index + 1 < len(tags) else None
                if opening is None and _opens_thought(text, tag, following):
                    opening, mentioned = tag, False
                else:
                    mentioned = opening is None
            elif opening is not None:
                self.reasoning.append(strip_span(text, opening.end(), tag.start()))
                self.inside.append((opening.start(), tag.end()))
                opening = None
            elif mentioned:
                mentioned = False
            elif not self.inside:
                last_closing = tag
        if last_closing is not None:
            self.reasoning.insert(0, strip_span(text, self.begin, last_closing.start()))
            self.begin = last_closing.end()
        if opening is not None:
            self.reasoning.append(strip_span(text, opening.end(), len(text)))
            self.inside.append((opening.start(), len(text)))
            self.unfinished = True


def _tags(text: str, start: int) -> list[re.Match[str]]:
    """Return the opening and closing tags that are no mentions, in order."""
    tags = sorted((*_OPEN.finditer(text, start), *_CLOSE.finditer(text, start)), key=re.Match.start)
    return [tag for tag in outside_fences(tags, fence_spans(text, 0)) if not _is_mention(text, tag)]


def _opens_thought(text: str, tag: re.Match[str], following: re.Match[str] | None) -> bool:
    """Return whether an opening tag inside an answer begins a thought: alone on its line, or closed on it.

    In the middle of a sentence it does not.
    """
    before = text[max(0, tag.start() - _LINE) : tag.start()].rpartition("\n")[2]
    if before.strip() and _BEFORE.search(before):
        return False
    if not before.strip() and _REST_OF_LINE.match(text, tag.end()):
        return True
    is_closed = following is not None and _CLOSE.fullmatch(following.group()) is not None
    return following is not None and is_closed and "\n" not in text[tag.end() : following.start()]


def _is_mention(text: str, tag: re.Match[str]) -> bool:
    """Return whether a text only speaks about a tag: in code, in quotation marks or in the middle of a sentence."""
    start, end = tag.span()
    before, after = text[max(0, start - _LINE) : start].rpartition("\n")[2], text[end : end + 2]
    if before.count("`") % 2 or (before[-1:] and before[-1] in _QUOTES and after[:1] and after[0] in _QUOTES):
        return True
    return _BEFORE.search(before) is not None and _AFTER.match(after) is not None


def _end(text: str, begin: int, *, chat: bool) -> int:
    """Return the end of the answer: before the first token that ends a turn, or before special tokens at the end."""
    start = _START.search(text, begin)
    shown = len(text) if start is None else start.start()  # from there on, the answer shows a chat template
    struck = text.find("<s>", begin)
    tail = begin if chat else _tail(text, begin)
    for mark in outside_fences(_END.finditer(text, begin, shown), fence_spans(text, begin)):
        if mark.start() < tail or (mark.group() == "</s>" and 0 <= struck < mark.start()):  # the latter in HTML
            continue
        if not _is_mention(text, mark):
            return len(text[begin : mark.start()].rstrip()) + begin
    if start is not None and not text[start.end() :].strip():
        return len(text[begin : start.start()].rstrip()) + begin
    return len(text)


def _tail(text: str, begin: int) -> int:
    """Return the start of the special tokens at the end of a text; its length without any."""
    tail = len(text)
    for token in reversed(list(_TOKEN.finditer(text, begin))):
        if text[token.end() : tail].strip():
            break
        tail = token.start()
    return tail


def _unwrapped(text: str, begin: int, end: int) -> Span:
    """Return the span of the answer after the thoughts, without its tags or heading."""
    begin, end = strip_span(text, begin, end)
    if wrapper := _WRAPPER_OPEN.match(text, begin, end):
        closed = _WRAPPER_CLOSE.search(text, wrapper.end(), end)
        return strip_span(text, wrapper.end(), closed.start() if closed else end)
    heading = _HEADING.match(text, begin, end)
    return strip_span(text, heading.end(), end) if heading else (begin, end)


def _read_channels(text: str) -> Thoughts | None:
    """Separate the final channel from the others; None for a text without channels."""
    bare = _BARE_ANALYSIS.match(text)
    if bare is not None:  # a server that removed the special tokens
        final = text.find(_BARE_FINAL, bare.end())
        thought = strip_span(text, bare.end(), final if final >= 0 else len(text))
        answer = strip_span(text, final + len(_BARE_FINAL), len(text)) if final >= 0 else (len(text), len(text))
        return Thoughts((answer,) if answer[0] < answer[1] else (), (thought,), final < 0)
    channels = [mark for mark in _CHANNEL.finditer(text) if not _is_mention(text, mark)]
    before = text[: channels[0].start()].rstrip() if channels else ""
    # The prompt may have opened the first channel.
    if not channels or (before and not before.endswith("|>")):
        return None
    reasoning = [(0, len(before))] if before else []
    for mark in outside_fences(channels, fence_spans(text, 0)):
        ended = _CHANNEL_END.search(text, mark.end())
        span = strip_span(text, mark.end(), ended.start() if ended else len(text))
        if mark["name"].lower() == "final":
            return Thoughts((span,) if span[0] < span[1] else (), tuple(reasoning))
        reasoning.append(span)
    return Thoughts((), tuple(reasoning), True)
