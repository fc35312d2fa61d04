"""Rendering of examples as text: the Alpaca prompt, prompt and completion, and any chat template.

Besides the text of a document, rendering yields the character spans of the row's own content (as opposed to what the
format wrote) and of the responses that the model is trained on.

In a chat, spans are located by rendering twice: unmodified, and with two private-use characters around each message,
which travel through the template. Without those marks both renderings must be equal. Whitespace around a message stays
outside its marks, so that a template which trims messages behaves as usual; a template that rewrites a message, or
leaves it out, is detected.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

from finetune.data.rows import ChatTurn, Example
from selfinstruct.common.chat_template import LIMIT_S, TODAY, EndlessError, bounded
from selfinstruct.errors import DataError, UsageError

__all__ = ["ChatTemplate", "RenderError", "RenderedText", "ResponseSpan", "TemplateTokens", "alpaca", "completion"]

_ALPACA = "Below is an instruction that describes a task. Write a response that appropriately completes the request."
_ALPACA_INPUT = (
    "Below is an instruction that describes a task, paired with an input that provides further context. "
    "Write a response that appropriately completes the request."
)
# The date in a template must not change: this macro, prepended to the template, shadows the function of transformers.
_NO_CLOCK = f"{{% macro strftime_now(format) %}}{TODAY}{{% endmacro %}}{{{{ '' }}}}"
_PRIVATE = range(0xF0000, 0xFFFFE)  # private-use characters of Unicode's plane 15, which mark message boundaries


class RenderError(DataError):
    """A row that can't be rendered as a document.

    Attributes:
        reason: A code for counting: ``empty``, ``turns``, ``template``, ``rewritten``, ``no stop``, ``special``,
            ``decoding``, ``too long``.
        detail: A description for people.
    """

    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(detail)
        self.reason = reason
        self.detail = detail


@dataclass(frozen=True, slots=True)
class ResponseSpan:
    """Character span of one response.

    Attributes:
        turn: Number of its turn, from 1, for messages.
        start: Where the model begins to write. In a chat this is the end of the generation prompt, so that text which
            the template writes before the response (a space, an empty ``<think>`` block) is supervised too.
        body, end: Span of the response itself, without surrounding whitespace.
    """

    turn: int
    start: int
    body: int
    end: int


@dataclass(frozen=True, slots=True)
class RenderedText:
    """The text of a document with its spans.

    Attributes:
        text: The full text, including the strings of the stop tokens.
        content: Start and end of each piece of the row's own content, in order. Special tokens in it are plain text.
        responses: Spans of the supervised responses, in order.
    """

    text: str
    content: tuple[tuple[int, int], ...]
    responses: tuple[ResponseSpan, ...]


def alpaca(example: Example, stop: str) -> RenderedText:
    """Render the prompt of Stanford Alpaca (Taori et al. 2023), the output directly after it, and the stop token.

    A system prompt replaces the introductory sentences of the Alpaca prompt, which only announce a task.

    Raises:
        RenderError: The example is not a single question with an answer, or the answer is empty.
    """
    system = example.turns[0].content if example.turns and example.turns[0].role == "system" else ""
    question, output = _single_exchange(replace(example, turns=example.turns[1:]) if system else example, "alpaca")
    if example.instruction is None:
        instruction, input_text = question, ""
    else:
        instruction, input_text = example.instruction, example.input or ""
    parts = [system or (_ALPACA_INPUT if input_text else _ALPACA), f"### Instruction:\n{instruction}"]
    parts += [f"### Input:\n{input_text}"] if input_text else []
    return _prompt_and_output("\n\n".join([*parts, "### Response:"]), output, stop)


def completion(example: Example, stop: str) -> RenderedText:
    """Render the prompt, the completion directly after it, and the stop token.

    Raises:
        RenderError: As ``alpaca``.
    """
    prompt, output = _single_exchange(example, "completion")
    return _prompt_and_output(prompt, output, stop)


def _single_exchange(example: Example, name: str) -> tuple[str, str]:
    roles = [turn.role for turn in example.turns]
    if roles != ["user", "assistant"]:
        raise RenderError(
            "turns", f"the format {name} holds one question and its answer, not {', '.join(roles)}; use chat"
        )
    return example.turns[0].content, example.turns[1].content


def _prompt_and_output(prompt: str, output: str, stop: str) -> RenderedText:
    if not output.strip():
        raise RenderError("empty", "the response is empty")
    start, end = len(prompt), len(prompt) + len(output)
    return RenderedText(prompt + output + stop, ((0, end),), (ResponseSpan(2, start, start, end),))


@dataclass(frozen=True, slots=True)
class TemplateTokens:
    """The special tokens that a chat template writes.

    Attributes:
        stops: Tokens that end a response.
        control: The stop tokens and all tokens outside responses: they delimit turns, and no row may spell them.
    """

    stops: frozenset[str]
    control: frozenset[str]


@dataclass(frozen=True, slots=True)
class _MessageSpan:
    """Character span of a rendered message; ``exact`` if the template left it unchanged."""

    turn: int
    start: int
    end: int
    exact: bool


class ChatTemplate:
    """The chat template of a tokenizer.

    Raises:
        UsageError: The tokenizer has no chat template, or an invalid one.
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

    def render(self, turns: Sequence[ChatTurn], *, strict: bool = True) -> RenderedText:
        """Render a conversation, with every assistant turn as a response.

        Args:
            strict: Whether every response must be rendered unchanged. False requires it only of the last one (for
                prompts, whose earlier responses are not supervised).

        Raises:
            RenderError: A response is empty; or the template rejects the conversation, or omits or changes a message.
        """
        responses = [index for index, turn in enumerate(turns) if turn.role == "assistant"]
        for index in responses if strict else responses[-1:]:
            if not turns[index].content.strip():
                raise RenderError("empty", f"turn {index + 1}: the response is empty")
        text, messages = self._message_spans(turns)
        spans = []
        for index in responses:
            matches = [message for message in messages if message.turn == index]
            if len(matches) == 1 and matches[0].exact:
                body = matches[0]
                previous_end = max((message.end for message in messages if message.end <= body.start), default=0)
                start = self._response_start(turns[:index], text, previous_end, body.start)
                spans.append(ResponseSpan(index + 1, start, body.start, body.end))
            elif strict or index == responses[-1]:
                raise RenderError("rewritten", f"turn {index + 1}: the chat template changes the response")
        return RenderedText(text, tuple((message.start, message.end) for message in messages), tuple(spans))

    def probe(self, tokens: Collection[str]) -> TemplateTokens:
        """Find out which of ``tokens`` the template writes, and where, by rendering short conversations.

        Raises:
            UsageError: None of the conversations can be rendered, or none of ``tokens`` ends a response.
        """
        exchange = [ChatTurn("user", "q"), ChatTurn("assistant", "a")]
        stops: set[str] = set()
        control: set[str] = set()
        failure: RenderError | None = None
        rendered = 0
        for turns in (exchange, exchange * 2, [ChatTurn("system", "s"), *exchange]):
            try:
                conversation = self.render(turns)
            except RenderError as error:
                failure = failure or error
                continue
            rendered += 1
            written, end = _token_offsets(conversation.text, tokens), 0
            for response in conversation.responses:
                control |= {token for offset, token in written if end <= offset < response.start}
                after = [(offset, token) for offset, token in written if offset >= response.end]
                end = after[0][0] if after else len(conversation.text)
            # The first token after an earlier response may belong to the next turn; only the last one is sure to stop.
            stops |= {token for _, token in after[:1]}
            control |= {token for offset, token in written if offset >= end}
        if not rendered:
            raise UsageError(f"the chat template can't be rendered: {failure}")
        if not stops:
            raise UsageError(
                "the chat template ends a response with no special token, so the model would never learn to stop; "
                "write {{ eos_token }} after the response in the template, or use --set format=alpaca"
            )
        return TemplateTokens(frozenset(stops), frozenset(control))

    def _apply(self, turns: Sequence[ChatTurn], *, generation_prompt: bool = False) -> str:
        messages = [{"role": turn.role, "content": turn.content} for turn in turns]
        import jinja2

        try:
            with bounded():
                return str(
                    self._tokenizer.apply_chat_template(
                        messages, chat_template=self._template, tokenize=False, add_generation_prompt=generation_prompt
                    )
                )
        except EndlessError:
            raise RenderError("template", f"the chat template is not done after {LIMIT_S:g} s") from None
        except (
            *(jinja2.TemplateError, TypeError, ValueError, LookupError, AttributeError),
            *(ArithmeticError, RecursionError, MemoryError),
        ) as error:
            raise RenderError("template", f"the chat template refuses the conversation: {error}") from None

    def _response_start(self, turns: Sequence[ChatTurn], text: str, previous_end: int, body: int) -> int:
        """Return where the model begins to write the response to ``turns``: between ``previous_end`` and ``body``."""
        if not turns:
            return body
        try:
            prompt = self._apply(turns, generation_prompt=True)
        except RenderError:
            return body
        # Some templates write a generation prompt that differs from what precedes a finished response, or rewrite
        # earlier turns.
        return len(prompt) if previous_end <= len(prompt) <= body and text.startswith(prompt) else body

    def _message_spans(self, turns: Sequence[ChatTurn]) -> tuple[str, list[_MessageSpan]]:
        """Return the rendered conversation and the span of each message in it."""
        bodies = [turn.content.strip() for turn in turns]
        marks = _unused_marks("".join(bodies), 2 * len(turns))
        marked = []
        for index, (turn, body) in enumerate(zip(turns, bodies, strict=True)):
            lead = turn.content[: len(turn.content) - len(turn.content.lstrip())]
            tail = turn.content[len(lead) + len(body) :]
            inner = marks[2 * index] + body + marks[2 * index + 1] if body else ""
            marked.append(ChatTurn(turn.role, lead + inner + tail))
        text = self._apply(turns)
        pieces = re.split(f"([{re.escape(marks)}])", self._apply(marked)) if marks else [text]
        if "".join(pieces[::2]) != text:
            raise RenderError("rewritten", "the chat template changes the messages depending on how they begin or end")
        spans = sorted(_spans_between_marks(pieces, marks, bodies, text), key=lambda span: span.start)
        for index, body in enumerate(bodies):
            if body and not any(span.turn == index for span in spans):
                raise RenderError(
                    "rewritten", f"turn {index + 1}: the chat template leaves out the {turns[index].role}"
                )
        return text, spans


def _unused_marks(content: str, count: int) -> str:
    """Return ``count`` private-use characters that don't occur in ``content``."""
    used = set(content)
    free = (chr(code) for code in _PRIVATE if chr(code) not in used)
    return "".join(mark for mark, _ in zip(free, range(count), strict=False))


def _spans_between_marks(pieces: list[str], marks: str, bodies: list[str], text: str) -> Iterator[_MessageSpan]:
    """Yield the spans between the two marks of each message.

    Where a template dropped one mark, the span extends as far as the text matches the message.
    """
    offset = 0
    opened: dict[int, int] = {}
    for piece, mark in zip(pieces[::2], [*pieces[1::2], ""], strict=True):
        offset += len(piece)
        if not mark:
            break
        turn, closes = divmod(marks.index(mark), 2)
        if not closes:
            opened[turn] = offset
            continue
        start = opened.pop(turn, None)
        if start is None:
            start = offset - _common_prefix(text[:offset][::-1], bodies[turn][::-1])
        yield _MessageSpan(turn, start, offset, text[start:offset] == bodies[turn])
    for turn, start in opened.items():
        end = start + _common_prefix(text[start:], bodies[turn])
        yield _MessageSpan(turn, start, end, text[start:end] == bodies[turn])


def _common_prefix(first: str, second: str) -> int:
    """Return the length of the common prefix of two strings."""
    length = min(len(first), len(second))
    return next((index for index in range(length) if first[index] != second[index]), length)


def _token_offsets(text: str, tokens: Collection[str]) -> list[tuple[int, str]]:
    """Return the offset of each occurrence of ``tokens`` in ``text``."""
    longest_first = sorted(tokens, key=len, reverse=True)
    pattern = re.compile("|".join(map(re.escape, longest_first)) or "(?!)")
    return [(match.start(), match.group()) for match in pattern.finditer(text)]
