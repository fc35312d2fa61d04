"""The chat template of a tokenizer: rendering of conversations, and what the template writes."""

from __future__ import annotations

import inspect
import json
import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from itertools import product
from typing import Any

from finetune.data.encoder import added_tokens, special_tokens
from finetune.data.formats import RenderError
from finetune.data.marks import TOOLS, Marks, Owner, Piece
from finetune.data.markup import Part, Tags, mentioned_tokens
from finetune.data.rows import ChatTurn, Example
from selfinstruct.common.chat_template import LIMIT_S, NO_CLOCK, EndlessError, bounded
from selfinstruct.errors import UsageError

__all__ = ["ChatTemplate", "Rendering", "TemplateTokens"]

_EXCHANGE = (ChatTurn("user", "q"), ChatTurn("assistant", "a"))
_TOOL = {"type": "function", "function": {"name": "probe", "description": "d", "parameters": {
    "type": "object", "properties": {"key": {"type": "string", "description": "k"}}, "required": ["key"]}}}  # fmt: skip
_CALL = {"id": "probe0000", "type": "function", "function": {"name": "probe", "arguments": {"key": "argument"}}}


@dataclass(frozen=True, slots=True)
class TemplateTokens:
    """The control tokens of a chat template.

    Attributes:
        stops: Tokens that end a response.
        control: The tokens that the template writes or mentions, the stop tokens included.
    """

    stops: frozenset[str]
    control: frozenset[str]


@dataclass(frozen=True, slots=True)
class Rendering:
    """A rendered conversation.

    Attributes:
        text: Its text.
        pieces: The row's own texts in it, in order.
        missing: Those which the template left out.
    """

    text: str
    pieces: tuple[Piece, ...]
    missing: tuple[Owner, ...]

    def outside(self) -> str:
        """Return the text that the template wrote, in lines."""
        ends = [0, *(piece.end for piece in self.pieces)]
        starts = [*(piece.start for piece in self.pieces), len(self.text)]
        return "\n".join(self.text[end:start] for end, start in zip(ends, starts, strict=True))


class ChatTemplate:
    """The chat template of a tokenizer.

    Args:
        tokenizer: A tokenizer of transformers.
        arguments: Further arguments of the template, such as ``enable_thinking``; an example's own arguments take
            precedence.

    Attributes:
        tokens: The control tokens.
        tags: The markup of thoughts and calls.
        arguments: As above.

    Some templates write no token after a response (GLM): the model generates the one that opens the next turn, of the
    user or of a tool. Where a conversation ends with a response, that token is appended here.

    Raises:
        UsageError: The tokenizer has no chat template, an invalid one, or one that does not read an argument; or the
            template neither ends a response nor opens the next turn with a special token.
    """

    def __init__(self, tokenizer: Any, arguments: Mapping[str, Any] | None = None) -> None:
        if not getattr(tokenizer, "chat_template", None):
            raise UsageError(
                "the tokenizer has no chat template; choose another format (--set format=alpaca or completion), "
                "or a model that has one, often the one with Instruct or Chat in its name"
            )
        self._tokenizer = tokenizer
        try:
            sources = [tokenizer.get_chat_template(), tokenizer.get_chat_template(tools=[_TOOL])]
        except ValueError as error:  # several templates, none of which is the default
            raise UsageError(f"the chat template can't be chosen: {error}") from None
        self._source = "\n".join(dict.fromkeys(sources))
        self._plain, self._for_tools = (NO_CLOCK + text if "strftime_now" in text else text for text in sources)
        self._reserved = frozenset(inspect.signature(tokenizer.apply_chat_template).parameters) | {"messages"}
        self.arguments = dict(arguments or {})
        if unread := self.unread(self.arguments):
            raise UsageError(f"template_arguments: the chat template does not read {', '.join(unread)}")
        self._keeps_blank, self._calls_as_text, self._in_parts = True, False, False
        self._is_probed = False
        self._openings: dict[bool, str] = {}  # what follows a response, by whether it calls tools
        tokens = frozenset(added_tokens(tokenizer).values())
        mentioned = mentioned_tokens(tokens, self._source) | special_tokens(tokenizer)
        mentioned |= tokens.intersection(getattr(tokenizer, "chat_control_tokens", None) or ())
        self.tags = Tags.of(tokens, self._source)
        for pair in (*self.tags.thoughts, *self.tags.calls):
            if not mentioned.isdisjoint(pair):
                mentioned |= tokens.intersection(pair)
        self._control = _pattern(mentioned)
        self.tokens = self._probe(mentioned, tokens, getattr(tokenizer, "eos_token", None))
        self._control = _pattern(self.tokens.control)
        self._is_probed = True

    def unread(self, arguments: Mapping[str, Any]) -> list[str]:
        """Return the names of the arguments that the template does not read.

        Raises:
            UsageError: An argument has the name of one that rendering sets itself.
        """
        if reserved := sorted(self._reserved & set(arguments)):
            raise UsageError(f"template_arguments: {', '.join(reserved)} can't be set, since rendering sets it")
        return [name for name in arguments if not re.search(rf"\b{re.escape(name)}\b", self._source)]

    def text(self, example: Example, count: int, *, generation_prompt: bool = False) -> str:
        """Render the first ``count`` turns.

        Raises:
            RenderError: The template rejects the conversation.
        """
        return self._apply(self._messages(example.turns[:count]), example, generation_prompt)

    def render(
        self, example: Example, count: int, *, generation_prompt: bool = False, opened: tuple[str, str] | None = None
    ) -> Rendering:
        """Render the first ``count`` turns, and locate the row's own texts.

        Args:
            opened: The pair of markup that the generation prompt of the last turn has opened.

        Raises:
            RenderError: The template rejects the conversation, or renders it differently with marks; it leaves out a
                message, or a call of the last one.
        """
        turns = example.turns[:count]
        arguments = {**self.arguments, **example.template_arguments}
        marks = Marks({*"".join(_strings([turns, example.tools, arguments]))}, self._control)
        marked = replace(
            example,
            tools=tuple(marks.around_strings(TOOLS, "tools", example.tools)),
            template_arguments=marks.around_strings(TOOLS, "tools", arguments),
        )
        text = self.text(example, count, generation_prompt=generation_prompt)
        pieces = marks.pieces(self._apply(self._messages(turns, marks, opened), marked, generation_prompt), text)
        if pieces is None:
            raise RenderError("rewritten", "the chat template changes the messages depending on how they begin or end")
        shown = {piece.owner for piece in pieces}
        missing = tuple(owner for index, owner in enumerate(marks.owners) if index not in shown)
        for owner in missing:
            where = f"turn {owner.turn + 1}: the chat template leaves out"
            # An answer that is left out of the history is left out at inference as well.
            if owner.kind == "content" and (owner.turn == count - 1 or turns[owner.turn].role != "assistant"):
                raise RenderError("rewritten", f"{where} the {turns[owner.turn].role}")
            if owner.kind == "call" and owner.turn == count - 1:
                raise RenderError("tools", f"{where} a tool call; use a model whose template has them")
        return Rendering(text, tuple(pieces), missing)

    def before_token(self, text: str, offset: int) -> int:
        """Return the offset, or the start of the control token that it divides."""
        matches = self._control.finditer(text, max(0, offset - 200), offset + 200)
        return next((match.start() for match in matches if match.start() < offset < match.end()), offset)

    def require_tools(self, example: Example, count: int) -> None:
        """Require that the template renders the tools of an example.

        Raises:
            RenderError: It leaves them out, or rejects the conversation.
        """
        if example.tools and self.text(example, count) == self.text(replace(example, tools=()), count):
            raise RenderError(
                "tools",
                "the chat template leaves out the tools; use a model whose template has them, or describe them in the "
                "system prompt",
            )

    def _messages(
        self, turns: Sequence[ChatTurn], marks: Marks | None = None, opened: tuple[str, str] | None = None
    ) -> list[dict[str, Any]]:
        """Return the messages of turns, with marks around their texts.

        Args:
            opened: The pair of markup that the generation prompt of the last turn has opened.
        """
        messages: list[dict[str, Any]] = []
        waiting: list[Mapping[str, Any]] = []  # calls without a result
        for index, turn in enumerate(turns):
            content, reasoning, calls = turn.content, turn.reasoning, turn.calls
            if marks:
                parts = [Part("content", content)]
                if turn.role == "assistant":
                    parts = self.tags.parts(content, opened if index == len(turns) - 1 else None)
                content = marks.around_parts(index, parts)
                reasoning = marks.around(index, "reasoning", reasoning)
                calls = tuple(_marked_call(marks, index, call) for call in calls)
            message: dict[str, Any] = {"role": turn.role, "content": content}
            if self._in_parts:
                message["content"] = [{"type": "text", "text": content}]
            if not turn.content and turn.calls and not self._keeps_blank:
                del message["content"]
            if turn.reasoning:  # as transformers does, since templates read either name
                message["reasoning_content"] = message["thinking"] = reasoning
            if calls:
                message["tool_calls"] = [self._call(call) for call in calls]
                waiting = list(turn.calls)
            if turn.name:
                message["name"] = marks.around_strings(index, "argument", turn.name) if marks else turn.name
            if turn.role == "tool" and (call_id := turn.call_id or _next_id(waiting, turn.name)):
                message["tool_call_id"] = marks.around_strings(index, "argument", call_id) if marks else call_id
            messages.append(message)
        return messages

    def _call(self, call: Mapping[str, Any]) -> dict[str, Any]:
        function = dict(call["function"])
        if self._calls_as_text and not isinstance(function.get("arguments"), str):
            function["arguments"] = json.dumps(function.get("arguments", {}), ensure_ascii=False)
        return {**call, "function": function}

    def _apply(self, messages: list[dict[str, Any]], example: Example, generation_prompt: bool) -> str:
        arguments = example.template_arguments
        if reserved := sorted(self._reserved & set(arguments)):
            raise RenderError("template", f"the row sets {', '.join(reserved)}, which rendering sets itself")
        import jinja2

        try:
            with bounded():
                text = str(
                    self._tokenizer.apply_chat_template(
                        messages,
                        tools=list(example.tools) or None,
                        chat_template=self._for_tools if example.tools else self._plain,
                        tokenize=False,
                        add_generation_prompt=generation_prompt,
                        **{**self.arguments, **arguments},
                    )
                )
        except EndlessError:
            what = f"the chat template is not done after {LIMIT_S:g} s"
            if self._is_probed:
                raise RenderError("template", what) from None
            raise UsageError(what) from None  # each further probe would take as long
        except (
            *(jinja2.TemplateError, TypeError, ValueError, LookupError, AttributeError),
            *(ArithmeticError, RecursionError, MemoryError),
        ) as error:
            raise RenderError("template", f"the chat template refuses the conversation: {error}") from None
        if not generation_prompt and messages and messages[-1]["role"] == "assistant":
            text += self._openings.get("tool_calls" in messages[-1], "")
        return text

    def _probe(self, mentioned: frozenset[str], tokens: Collection[str], eos: str | None) -> TemplateTokens:
        """Find out which tokens the template writes, and which end a response, by rendering short conversations.

        Raises:
            UsageError: None of the conversations can be rendered, or no token ends a response.
        """
        exchanges, failure = self._probe_exchanges()
        if not exchanges:
            raise UsageError(f"the chat template can't be rendered: {failure}")
        calls = list(self._probe_calls())
        written = [*exchanges.values(), *calls, *self._probe_reasoning()]
        control = mentioned | mentioned_tokens(tokens, "\n".join(rendering.outside() for rendering in written))
        pattern = _pattern(control)
        stops = set()
        for rendering in exchanges.values():
            stops |= _stop(rendering, exchanges.get(len(_EXCHANGE) * 2), pattern, eos)
        if not stops:
            opening = _pattern(control - {getattr(self._tokenizer, "bos_token", None)})
            if after_answer := _opening([exchanges[count] for count in (2, 4) if count in exchanges], opening):
                self._openings = {False: after_answer, True: _opening(calls, opening)}
            stops.update(filter(None, self._openings.values()))
        if not stops:
            raise UsageError(
                "the chat template ends a response with no special token, so the model would never learn to stop; "
                "write {{ eos_token }} after the response in the template, or use --set format=alpaca"
            )
        for rendering in () if self._openings else written:
            if rendering.pieces[-1].kind == "call":
                after = [match[0] for match in pattern.finditer(rendering.text, rendering.pieces[-1].end)]
                if after and stops.isdisjoint(after) and eos not in after:
                    stops.add(after[-1])
        return TemplateTokens(frozenset(stops), frozenset(control | stops))

    def _probe_exchanges(self) -> tuple[dict[int, Rendering], RenderError | None]:
        """Render exchanges, by their number of turns, with messages as strings or, if need be, as lists of parts."""
        failure, exchanges = None, {}
        for self._in_parts in (False, True):
            for turns in (_EXCHANGE, _EXCHANGE * 2, (ChatTurn("system", "s"), *_EXCHANGE)):
                try:
                    exchanges[len(turns)] = self.render(Example("probe", turns), len(turns))
                except RenderError as error:
                    failure = failure or error
            if exchanges:
                break
        return exchanges, failure

    def _probe_calls(self) -> Iterator[Rendering]:
        """Find out in which form the template takes calls; yield a call, and an exchange with its result."""
        user, answer = _EXCHANGE
        turns = (user, ChatTurn("assistant", "", calls=(_CALL,)), ChatTurn("tool", "r", name="probe"), answer)
        example = Example("probe", turns, tools=(_TOOL,))
        for self._calls_as_text, self._keeps_blank in product((False, True), (True, False)):
            try:
                rendering = self.render(example, 2)
            except RenderError:
                continue
            after = rendering.text[rendering.pieces[-1].end :]
            if "argument" in after and "'key'" not in after:  # not as Python writes a dictionary
                yield rendering
                with suppress(RenderError):
                    yield self.render(example, 4)
                return
        self._calls_as_text, self._keeps_blank = False, True

    def _probe_reasoning(self) -> Iterator[Rendering]:
        """Yield an answer with reasoning."""
        with suppress(RenderError):
            yield self.render(Example("probe", (_EXCHANGE[0], ChatTurn("assistant", "a", reasoning="r"))), 2)


def _stop(rendering: Rendering, longer: Rendering | None, pattern: re.Pattern[str], eos: str | None) -> set[str]:
    """Return the token that ends the last response: one of those directly after each other that follow it.

    It is the last one which also ends an earlier response; if there is none, the eos token or the first.

    Args:
        longer: A rendering in which a further turn follows the first response.
    """
    tail, end = rendering.text[rendering.pieces[-1].end :], -1
    tokens: list[re.Match[str]] = []
    for match in pattern.finditer(tail):
        if tokens and match.start() != end:
            break
        tokens.append(match)
        end = match.end()
    following = longer.text[longer.pieces[1].end :] if longer else ""
    shared = [match[0] for match in tokens if following.startswith(tail[: match.end()])]
    if shared:
        return {shared[-1]}
    names = [match[0] for match in tokens]
    return {eos} if eos and eos in names else {*names[:1]}


def _opening(renderings: Sequence[Rendering], pattern: re.Pattern[str]) -> str:
    """Return the token that follows a conversation directly in the rendering of a longer one; "" if there is none."""
    texts = [rendering.text for rendering in renderings]
    if len(texts) < 2 or not texts[1].startswith(texts[0]):
        return ""
    token = pattern.match(texts[1], len(texts[0]))
    return token[0] if token else ""


def _pattern(tokens: Collection[str]) -> re.Pattern[str]:
    """Return a pattern that matches any of the tokens, the longest first."""
    longest_first = sorted(tokens, key=len, reverse=True)
    return re.compile("|".join(map(re.escape, longest_first)) or "(?!)")


def _marked_call(marks: Marks, turn: int, call: Mapping[str, Any]) -> dict[str, Any]:
    """Return a tool call with marks around its name, and around strings that spell a control token."""
    marked: dict[str, Any] = {}
    for key, value in call.items():
        if key == "function":
            marked[key] = _marked_call(marks, turn, value)
        elif key == "name":
            marked[key] = marks.around(turn, "call", value)
        else:
            marked[key] = marks.around_strings(turn, "argument", value)
    return marked


def _next_id(waiting: list[Mapping[str, Any]], name: str) -> str:
    """Remove the call that a result without an id answers, the first or the first of this name; return its id."""
    names = [call["function"].get("name") for call in waiting]
    return str(waiting.pop(names.index(name) if name in names else 0).get("id", "")) if waiting else ""


def _strings(value: Any) -> Iterator[str]:
    """Yield the strings of turns and JSON values."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, ChatTurn):
        yield from _strings([value.content, value.reasoning, value.name, value.call_id, value.calls])
    elif isinstance(value, Mapping):
        yield from _strings([*value.keys(), *value.values()])
    elif isinstance(value, list | tuple):
        for inner in value:
            yield from _strings(inner)
