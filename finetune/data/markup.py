"""Control tokens of a tokenizer, and which of them an answer may spell.

Control tokens are the special tokens, and the added tokens that the chat template writes or mentions: ``<think>`` of
Qwen3 is not special, yet no question may write it. In the text of a row they are plain text, with one exception. An
answer is what the model has to produce, so that markup in its proper place in an answer stands for the control token,
as it does at inference:

- a thought that begins the answer: ``<think>``, the thought, ``</think>``. The opening may be missing where the
  generation prompt writes it or the template looks for the end of a thought alone;
- tool calls that end the answer, each on a line of its own: ``<tool_call>``, the call, ``</tool_call>``.

Elsewhere in an answer (``the tag <think>``) and within thoughts and calls, markup is prose, that is, plain text.
Which tokens enclose thoughts and calls follows from their names.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from typing import Literal

__all__ = ["Kind", "Part", "Tags", "is_markup", "mentioned_tokens"]

Kind = Literal["content", "reasoning", "call", "argument", "tools", "markup"]
_THOUGHT = re.compile(r"think|thought|reason", re.I)
_CALL = re.compile(r"(tool|function)[\W_]*call", re.I)
_ENDS = {"begin": "end", "start": "end"}
_THINK = ("<think>", "</think>")  # the usual pair, which some tokenizers have no tokens for


@dataclass(frozen=True, slots=True)
class Part:
    """A part of an answer: its text and its kind; ``markup`` is text that the model writes as control tokens."""

    kind: Kind
    text: str


def is_markup(token: str) -> bool:
    """Return whether an added token looks like a control token, unlike added words, spaces and line breaks."""
    characters = [character for character in token if character not in "▁Ġ"]
    named = any(character.isalnum() for character in characters)
    return named and any(not character.isalnum() and not character.isspace() for character in characters)


@dataclass(frozen=True, slots=True)
class Tags:
    """The pairs of markup that enclose thoughts and tool calls.

    Attributes:
        thoughts, calls: Opening and closing text of each pair.
        lone_ends: Ends of thoughts that need no opening, since the template mentions them.
    """

    thoughts: tuple[tuple[str, str], ...] = (_THINK,)
    calls: tuple[tuple[str, str], ...] = ()
    lone_ends: frozenset[str] = frozenset()

    @classmethod
    def of(cls, tokens: Collection[str], source: str) -> Tags:
        """Find the pairs among the added tokens.

        Args:
            tokens: The added tokens.
            source: The chat template.
        """
        pairs = [(token, end) for token in sorted(tokens) for end in _ends(token) if end in tokens]
        thoughts = dict.fromkeys([*(pair for pair in pairs if _THOUGHT.search(pair[0])), _THINK])
        calls = tuple(pair for pair in pairs if _CALL.search(pair[0]))
        return cls(tuple(thoughts), calls, frozenset(end for _, end in thoughts if end in source))

    def opened_by(self, prompt: str) -> tuple[str, str] | None:
        """Return the pair whose opening ends a generation prompt."""
        text = prompt.rstrip()
        return next((pair for pair in self.thoughts if text.endswith(pair[0])), None)

    def closed_by(self, prompt: str) -> bool:
        """Return whether a generation prompt ends in the end of a thought."""
        return prompt.rstrip().endswith(tuple(end for _, end in self.thoughts))

    def parts(self, answer: str, opened: tuple[str, str] | None = None) -> list[Part]:
        """Divide an answer into a thought, prose and tool calls; joined, the parts are the answer.

        Args:
            opened: The pair that the generation prompt has opened.
        """
        thought, rest = self._split_thought(answer, opened)
        start = self._calls_start(rest)
        prose = [Part("content", rest[:start])] if start else []
        return [*thought, *prose, *self._call_parts(rest[start:])]

    def _split_thought(self, answer: str, opened: tuple[str, str] | None) -> tuple[list[Part], str]:
        body = answer.lstrip()
        lead = answer[: len(answer) - len(body)]
        for opening, end in self.thoughts:
            if body.startswith(opening):
                thought, closing, rest = body[len(opening) :].partition(end)
                parts = [Part("markup", lead + opening)]
                if not closing:  # a thought that was cut
                    return parts, thought
                return [*parts, Part("reasoning", thought), Part("markup", closing)], rest
        for pair in self.thoughts:
            thought, closing, rest = answer.partition(pair[1])
            if closing and pair[0] not in thought and (pair == opened or pair[1] in self.lone_ends):
                return [Part("reasoning", thought), Part("markup", closing)], rest
        return [], answer

    def _calls_start(self, text: str) -> int:
        """Return where the calls begin that end the text; its length if there are none."""
        start = len(text)
        while True:
            before = text[:start].rstrip()
            pair = next((pair for pair in self.calls if before.endswith(pair[1])), None)
            if pair is None:
                return start
            end = len(before) - len(pair[1])
            opening = before.rfind(pair[0], 0, end)
            if opening < 0 or before.find(pair[1], opening + len(pair[0])) != end:
                return start
            earlier = before[:opening].rstrip(" \t")
            if earlier and not earlier.endswith(("\n", *(pair[1] for pair in self.calls))):
                return start
            start = opening

    def _call_parts(self, text: str) -> Iterator[Part]:
        while text:
            pair = next(pair for pair in self.calls if text.startswith(pair[0]))
            end = text.index(pair[1], len(pair[0]))
            after = text[end + len(pair[1]) :]
            rest = after.lstrip()
            yield Part("markup", pair[0])
            yield Part("content", text[len(pair[0]) : end])
            yield Part("markup", pair[1] + after[: len(after) - len(rest)])
            text = rest


def _ends(token: str) -> Iterator[str]:
    """Yield how the closing counterpart of an opening token may be spelled."""
    if bracket := re.match(r"\W+", token):
        yield f"{bracket[0]}/{token[bracket.end() :]}"
        yield f"{bracket[0][:1]}/{token[1:]}"
    for word, end in _ENDS.items():
        for begin, finish in ((word, end), (word.upper(), end.upper()), (word.title(), end.title())):
            if begin in token:
                yield token.replace(begin, finish, 1)


def mentioned_tokens(tokens: Collection[str], source: str) -> frozenset[str]:
    """Return the added tokens that a chat template mentions, without words and spaces."""
    return frozenset(token for token in tokens if is_markup(token) and token in source)
