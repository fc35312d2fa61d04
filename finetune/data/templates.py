"""Rows as text: the Alpaca prompt, prompt and completion, and any chat template.

A layout is the text of a document, and in it the places of what the row brought (as opposed to what the format wrote)
and of what the model learns to write.

In a chat, places are found by rendering twice: as it is, and with two private characters around each message that
travel through the template. Without them both must be the same text. Whitespace around a message stays outside, so that
a template which trims does what it always does; a template that does more to a message, or leaves it out, is noticed.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

from finetune.data.rows import ChatTurn, Example
from selfinstruct.common.chat_template import LIMIT_S, TODAY, EndlessError, bounded
from selfinstruct.errors import DataError, UsageError

__all__ = ["ChatTemplate", "Layout", "Probe", "RenderError", "Response", "alpaca", "completion"]

_ALPACA = "Below is an instruction that describes a task. Write a response that appropriately completes the request."
_ALPACA_INPUT = (
    "Below is an instruction that describes a task, paired with an input that provides further context. "
    "Write a response that appropriately completes the request."
)
# A template's date must not change: this macro, put before the template, takes the place of transformers' function.
_NO_CLOCK = f"{{% macro strftime_now(format) %}}{TODAY}{{% endmacro %}}{{{{ '' }}}}"
_PRIVATE = range(0xF0000, 0xFFFFE)  # private characters of Unicode's plane 15, to mark where messages begin and end


class RenderError(DataError):
    """A row that can't become a document.

    Attributes:
        reason: A short word for counting: ``empty``, ``turns``, ``template``, ``rewritten``, ``no stop``, ``special``,
            ``decoding``, ``too long``.
        detail: What is wrong, for people.
    """

    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(detail)
        self.reason = reason
        self.detail = detail


@dataclass(frozen=True, slots=True)
class Response:
    """Places of one response, in characters of the layout's text.

    Attributes:
        turn: Its turn's number, from 1, for messages.
        start: Where the model begins to write. In a chat: where the generation prompt ends, so that what the template
            writes between it and the response (a space, an empty ``<think>`` block) is learned too.
        body, end: The response itself, without whitespace around it.
    """

    turn: int
    start: int
    body: int
    end: int


@dataclass(frozen=True, slots=True)
class Layout:
    """The text of a document.

    Attributes:
        text: All of it, the stop tokens' strings included.
        content: Start and end of each piece that the row brought, in order: no special token is read in it.
        responses: What the model learns to write, in order.
    """

    text: str
    content: tuple[tuple[int, int], ...]
    responses: tuple[Response, ...]


def alpaca(example: Example, stop: str) -> Layout:
    """The prompt of Stanford Alpaca (Taori et al. 2023), the output right after its last colon, and the stop token.

    A system prompt takes the place of the sentences that the prompt begins with: they say no more than that there is a
    task.

    Raises:
        RenderError: More than one question and answer, or an empty answer.
    """
    system = example.turns[0].content if example.turns and example.turns[0].role == "system" else ""
    asked, output = _exchange(replace(example, turns=example.turns[1:]) if system else example, "alpaca")
    instruction, given = (asked, "") if example.instruction is None else (example.instruction, example.input or "")
    parts = [system or (_ALPACA_INPUT if given else _ALPACA), f"### Instruction:\n{instruction}"]
    parts += [f"### Input:\n{given}"] if given else []
    return _prompted("\n\n".join([*parts, "### Response:"]), output, stop)


def completion(example: Example, stop: str) -> Layout:
    """The prompt, the completion right after it, and the stop token.

    Raises:
        RenderError: As ``alpaca``.
    """
    asked, output = _exchange(example, "completion")
    return _prompted(asked, output, stop)


def _exchange(example: Example, name: str) -> tuple[str, str]:
    roles = [turn.role for turn in example.turns]
    if roles != ["user", "assistant"]:
        found = ", ".join(roles)
        raise RenderError("turns", f"the format {name} holds one question and its answer, not {found}; use chat")
    return example.turns[0].content, example.turns[1].content


def _prompted(prompt: str, output: str, stop: str) -> Layout:
    if not output.strip():
        raise RenderError("empty", "the response is empty")
    start, end = len(prompt), len(prompt) + len(output)
    return Layout(prompt + output + stop, ((0, end),), (Response(2, start, start, end),))


@dataclass(frozen=True, slots=True)
class Probe:
    """What a chat template writes by itself.

    Attributes:
        stops: Tokens that end a response.
        control: Those, and all outside of what the model writes: they open turns, and no text may spell them.
    """

    stops: frozenset[str]
    control: frozenset[str]


@dataclass(frozen=True, slots=True)
class _Region:
    """Where a message came out; ``exact`` if unchanged."""

    turn: int
    start: int
    end: int
    exact: bool


class ChatTemplate:
    """The chat template of a tokenizer.

    Raises:
        UsageError: It has none, or one that is no template.
    """

    def __init__(self, tokenizer: Any) -> None:
        if not getattr(tokenizer, "chat_template", None):
            raise UsageError(
                "the tokenizer has no chat template; choose another format (--set format=alpaca or completion), "
                "or a model that has one, often the one with Instruct or Chat in its name"
            )
        self._tokenizer = tokenizer
        template: str = tokenizer.get_chat_template()
        self._template = _NO_CLOCK + template if "strftime_now" in template else template

    def layout(self, turns: Sequence[ChatTurn], *, strict: bool = True) -> Layout:
        """The whole conversation, every turn of an assistant a response.

        Args:
            strict: Every response must come out unchanged; else only the last (for prompts, where the others are
                not learned).

        Raises:
            RenderError: An empty response; the template refuses the conversation, leaves out or changes a message.
        """
        learned = [place for place, turn in enumerate(turns) if turn.role == "assistant"]
        for place in learned if strict else learned[-1:]:
            if not turns[place].content.strip():
                raise RenderError("empty", f"turn {place + 1}: the response is empty")
        text, regions = self._regions(turns)
        responses = []
        for place in learned:
            found = [region for region in regions if region.turn == place]
            if len(found) == 1 and found[0].exact:
                before = max((region.end for region in regions if region.end <= found[0].start), default=0)
                start = self._start(turns[:place], text, before, found[0].start)
                responses.append(Response(place + 1, start, found[0].start, found[0].end))
            elif strict or place == learned[-1]:
                raise RenderError("rewritten", f"turn {place + 1}: the chat template changes the response")
        return Layout(text, tuple((region.start, region.end) for region in regions), tuple(responses))

    def probe(self, tokens: Collection[str]) -> Probe:
        """Find which of ``tokens`` the template writes, and where, in small conversations.

        Raises:
            UsageError: It renders none of them, or ends a response with none of ``tokens``.
        """
        pair = [ChatTurn("user", "q"), ChatTurn("assistant", "a")]
        stops: set[str] = set()
        control: set[str] = set()
        refused: RenderError | None = None
        rendered = 0
        for turns in (pair, pair * 2, [ChatTurn("system", "s"), *pair]):
            try:
                layout = self.layout(turns)
            except RenderError as error:
                refused = refused or error
                continue
            rendered += 1
            written, end = _written(layout, tokens), 0
            for response in layout.responses:
                control |= {token for place, token in written if end <= place < response.start}
                after = [(place, token) for place, token in written if place >= response.end]
                end = after[0][0] if after else len(layout.text)
            # After an earlier response may come the next turn's first token; after the last, only its own end.
            stops |= {token for _, token in after[:1]}
            control |= {token for place, token in written if place >= end}
        if not rendered:
            raise UsageError(f"the chat template can't be rendered: {refused}")
        if not stops:
            raise UsageError(
                "the chat template ends a response with no special token, so the model would never learn to stop; "
                "write {{ eos_token }} after the response in the template, or use --set format=alpaca"
            )
        return Probe(frozenset(stops), frozenset(control))

    def _render(self, turns: Sequence[ChatTurn], *, generation: bool = False) -> str:
        messages = [{"role": turn.role, "content": turn.content} for turn in turns]
        import jinja2

        try:
            with bounded():
                return str(
                    self._tokenizer.apply_chat_template(
                        messages, chat_template=self._template, tokenize=False, add_generation_prompt=generation
                    )
                )
        except EndlessError:
            raise RenderError("template", f"the chat template is not done after {LIMIT_S:g} s") from None
        except (
            *(jinja2.TemplateError, TypeError, ValueError, LookupError, AttributeError),
            *(ArithmeticError, RecursionError, MemoryError),
        ) as error:
            raise RenderError("template", f"the chat template refuses the conversation: {error}") from None

    def _start(self, turns: Sequence[ChatTurn], text: str, before: int, body: int) -> int:
        """Where the model begins to write the response to ``turns``: between ``before`` and ``body``."""
        if not turns:
            return body
        try:
            prompt = self._render(turns, generation=True)
        except RenderError:
            return body
        # Some templates prompt with what they don't write around a finished response, or rewrite the turns before it.
        return len(prompt) if before <= len(prompt) <= body and text.startswith(prompt) else body

    def _regions(self, turns: Sequence[ChatTurn]) -> tuple[str, list[_Region]]:
        """The rendered conversation, and where each message came out."""
        bodies = [turn.content.strip() for turn in turns]
        marks = _marks("".join(bodies), 2 * len(turns))
        marked = []
        for place, (turn, body) in enumerate(zip(turns, bodies, strict=True)):
            lead = turn.content[: len(turn.content) - len(turn.content.lstrip())]
            tail = turn.content[len(lead) + len(body) :]
            inner = marks[2 * place] + body + marks[2 * place + 1] if body else ""
            marked.append(ChatTurn(turn.role, lead + inner + tail))
        text = self._render(turns)
        pieces = re.split(f"([{re.escape(marks)}])", self._render(marked)) if marks else [text]
        if "".join(pieces[::2]) != text:
            raise RenderError("rewritten", "the chat template changes the messages depending on how they begin or end")
        regions = sorted(_paired(pieces, marks, bodies, text), key=lambda region: region.start)
        for place, body in enumerate(bodies):
            if body and not any(region.turn == place for region in regions):
                raise RenderError(
                    "rewritten", f"turn {place + 1}: the chat template leaves out the {turns[place].role}"
                )
        return text, regions


def _marks(content: str, count: int) -> str:
    """Private characters that ``content`` has not."""
    used = set(content)
    free = (chr(code) for code in _PRIVATE if chr(code) not in used)
    return "".join(mark for mark, _ in zip(free, range(count), strict=False))


def _paired(pieces: list[str], marks: str, bodies: list[str], text: str) -> Iterator[_Region]:
    """Regions between the marks of one message; of a lone mark, as far as the text is that of the message."""
    place = 0
    opened: dict[int, int] = {}
    for piece, mark in zip(pieces[::2], [*pieces[1::2], ""], strict=True):
        place += len(piece)
        if not mark:
            break
        turn, closes = divmod(marks.index(mark), 2)
        if not closes:
            opened[turn] = place
            continue
        start = opened.pop(turn, None)
        if start is None:
            start = place - _common(text[:place][::-1], bodies[turn][::-1])
        yield _Region(turn, start, place, text[start:place] == bodies[turn])
    for turn, start in opened.items():
        end = start + _common(text[start:], bodies[turn])
        yield _Region(turn, start, end, text[start:end] == bodies[turn])


def _common(one: str, other: str) -> int:
    """Length of the beginning that two strings share."""
    length = min(len(one), len(other))
    return next((place for place in range(length) if one[place] != other[place]), length)


def _written(layout: Layout, tokens: Collection[str]) -> list[tuple[int, str]]:
    """Places of ``tokens`` in the template's own text."""
    longest = sorted(tokens, key=len, reverse=True)
    pattern = re.compile("|".join(map(re.escape, longest)) or "(?!)")
    return [(match.start(), match.group()) for match in pattern.finditer(layout.text)]
