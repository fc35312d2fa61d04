"""Rows as tokens, with a mask of those that the model learns to write.

A text is made once, of parts that are known: those of the prompt format, and those of the row. Offsets of the fast
tokenizer say which tokens a response became; they must decode to it again, and a stop token must follow, which is
learned too. What fails is dropped and told. Nothing is ever inferred from the padding token.

What a row holds is text: a special token's name in it becomes ordinary tokens, never the special one.
"""

from __future__ import annotations

import bisect
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from itertools import groupby
from typing import Any, Final, Literal

import numpy as np

from finetune.corpus import Corpus, Document
from finetune.data import Example, Turn
from selfinstruct.errors import SelfInstructError, UsageError

__all__ = ["RenderError", "Rendered", "Renderer", "render_all"]

# The prompts of the Alpaca release, to the byte: models trained on them expect just these.
_WITH_INPUT: Final = (
    "Below is an instruction that describes a task, paired with an input that provides further context. "
    "Write a response that appropriately completes the request.\n\n"
    "### Instruction:\n", "\n\n### Input:\n", "\n\n### Response:",
)  # fmt: skip
_WITHOUT_INPUT: Final = (
    "Below is an instruction that describes a task. Write a response that appropriately completes the request.\n\n"
    "### Instruction:\n", "\n\n### Response:",
)  # fmt: skip


class RenderError(SelfInstructError):
    """A row that can't become a document.

    Attributes:
        reason: A few words, the same for all rows of the kind.
        detail: What it was in this row.
    """

    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(f"{reason}: {detail}")
        self.reason, self.detail = reason, detail


@dataclass(frozen=True)
class Rendered:
    """A dataset as tokens.

    Attributes:
        corpus: The documents.
        dropped: (name, reason, detail) of each row that is not among them.
        truncated: Documents that were cut to the longest length.
    """

    corpus: Corpus
    dropped: list[tuple[str, str, str]] = field(default_factory=list)
    truncated: int = 0


@dataclass(frozen=True)
class _Part:
    """A piece of a text: of the format, of the row (``text``), or what the model is to write (``answer``).

    An empty ``border`` stands where the prompt of an answer ends. No token reaches across it: the model is trained
    on the very tokens that it gets when it is asked.
    """

    text: str
    kind: Literal["format", "text", "answer", "border"]


_BORDER = _Part("", "border")


class Renderer:
    """Makes documents of examples.

    Args:
        tokenizer: A fast tokenizer of transformers.
        format: ``alpaca``, ``chat``, ``completion``, or ``auto``: chat where the tokenizer has a template.
        max_length: Longest document in tokens.

    Attributes:
        format: The one in use.
        stop_ids: The tokens that end a response.

    Raises:
        UsageError: The tokenizer has no offsets, no end token, or no template that the format needs.
    """

    def __init__(self, tokenizer: Any, format: str = "auto", *, max_length: int = 512) -> None:  # noqa: A002
        if not getattr(tokenizer, "is_fast", False):
            kind = type(tokenizer).__name__
            raise UsageError(f"{kind} has no offsets, by which masks are made: the model needs a tokenizer.json")
        if format == "auto":
            format = "chat" if tokenizer.chat_template else "alpaca"  # noqa: A001
        if format == "chat" and not tokenizer.chat_template:
            raise UsageError("the tokenizer has no chat template: train with --set format=alpaca, or another model")
        if tokenizer.eos_token_id is None:
            raise UsageError("the tokenizer names no end of text token: set eos_token in its tokenizer_config.json")
        self.tokenizer, self.format, self.max_length = tokenizer, format, max_length
        added = {str(token) for token in tokenizer.added_tokens_decoder.values() if token.special}
        specials = sorted(added.union(tokenizer.all_special_tokens), key=len, reverse=True)
        self._special = re.compile("|".join(map(re.escape, specials)) or "(?!)")
        self._ids = {text: tokenizer.convert_tokens_to_ids(text) for text in specials}
        first = tokenizer("a").input_ids[:1]
        self._bos = first if tokenizer.bos_token_id is not None and first == [tokenizer.bos_token_id] else []
        ends = {self._turn_end()} if format == "chat" else set()
        self.stop_ids = frozenset({tokenizer.eos_token_id, *ends})

    def document(self, example: Example) -> Document:
        """The tokens of an example, and which of them are supervised; not yet cut to the longest length.

        Raises:
            RenderError: A response is empty, is not found again in the tokens, or no stop token follows it.
        """
        parts = self._parts(example)
        if any(not part.text.strip() for part in parts if part.kind == "answer"):
            raise RenderError("empty response", "there is nothing to learn to write")
        ids, starts, borders = self._encode(parts)
        supervised = np.zeros(len(ids), dtype=np.bool_)
        at = 0
        for part in parts:
            at += len(part.text)
            if part.kind == "answer":
                first, last = borders.pop(0), bisect.bisect_left(starts, at)
                self._verify(part.text, ids, first, last)
                supervised[first : last + 1] = True
        if supervised[0]:
            raise RenderError("no prompt", "the response is the first token")
        return Document(np.array(ids, dtype=np.int32), supervised, example.name)

    def _verify(self, answer: str, ids: list[int], first: int, last: int) -> None:
        decoded = self._decode(ids[first:last])
        if not decoded.endswith(answer) or decoded[: len(decoded) - len(answer)].strip():
            raise RenderError("response changed", f"{answer[:40]!r} became {decoded[:40]!r} in the tokenizer")
        if last >= len(ids) or ids[last] not in self.stop_ids:
            raise RenderError("no stop token", f"nothing ends the response {answer[-40:]!r}")

    def prompt(self, example: Example | Sequence[Turn]) -> list[int]:
        """The ids of everything before the last response, or before the one still to come."""
        if isinstance(example, Example):
            turns = example.turns
        else:
            turns = tuple(example)
            example = Example("prompt", turns)
        if turns[-1].role == "assistant":
            turns = turns[:-1]
        if self.format == "chat":
            parts = self._chat(turns, answering=True)
        else:
            parts = self._parts(replace(example, turns=(*turns, Turn("assistant", "?"))))
            parts = parts[: parts.index(_BORDER)]
        return self._encode(parts)[0]

    def pieces(self, document: Document) -> list[tuple[str, bool]]:
        """The decoded document in runs, each with whether it is supervised."""
        runs = groupby(zip(document.ids.tolist(), document.supervised.tolist(), strict=True), key=lambda pair: pair[1])
        return [(self._decode([token for token, _ in run]), supervised) for supervised, run in runs]

    def _parts(self, example: Example) -> list[_Part]:
        if self.format == "chat":
            return self._chat(example.turns)
        end = _Part(self.tokenizer.eos_token, "format")
        if self.format == "completion":
            if example.prompt is not None and example.completion is not None:
                asked, answered = example.prompt, example.completion
            else:
                asked, answered = _exchange(example)
            return [_Part(asked, "text"), _BORDER, _Part(answered, "answer"), end]
        if example.instruction is not None and example.output is not None:
            asked, given, answered = example.instruction, example.input or "", example.output
        else:
            (asked, answered), given = _exchange(example), ""
        frame, texts = (_WITH_INPUT, [asked, given]) if given else (_WITHOUT_INPUT, [asked])
        parts = [_Part(frame[0], "format")]
        for text, following in zip(texts, frame[1:], strict=True):
            parts += [_Part(text, "text"), _Part(following, "format")]
        return [*parts, _BORDER, _Part(answered, "answer"), end]

    def _chat(self, turns: Sequence[Turn], *, answering: bool = False) -> list[_Part]:
        """The template's text in parts: rendered with marks in place of the contents, then checked against the real."""
        contents = [turn.content for turn in turns]
        mark = _mark(contents)
        marks = [f"{mark}{number}{mark}" for number in range(len(turns))]
        marked = [replace(turn, content=one) for turn, one in zip(turns, marks, strict=True)]
        frame = re.split(f"{mark}(\\d+){mark}", self._template(marked, answering))
        if frame[1::2] != [str(number) for number in range(len(turns))]:
            raise RenderError("chat template", "it leaves out, repeats or reorders messages")
        whole = self._template(turns, answering)
        for texts in (contents, [text.strip() for text in contents]):
            between = [part for pair in zip(frame[::2], texts, strict=False) for part in pair] + [frame[-1]]
            if "".join(between) == whole:
                break
        else:
            raise RenderError("chat template", "it rewrites the messages, so that what is theirs can't be told")
        parts = [_Part(frame[0], "format")]
        at = len(frame[0])
        for number, (turn, text, following) in enumerate(zip(turns, texts, frame[2::2], strict=True)):
            if turn.role == "assistant":
                parts[-1:] = self._cut(parts[-1].text, self._asked(turns[:number], whole, at))
                parts.append(_Part(text, "answer"))
            else:
                parts.append(_Part(text, "text"))
            parts.append(_Part(following, "format"))
            at += len(text) + len(following)
        return parts

    def _asked(self, turns: Sequence[Turn], whole: str, at: int) -> int:
        """How many characters of white space before ``at`` are the model's to write: the prompt ends before them."""
        if not turns:
            return 0
        try:
            prompt = self._template(turns, answering=True)
        except RenderError:  # a template that takes whole conversations only
            return 0
        after = whole[len(prompt) : at]
        return len(after) if whole.startswith(prompt) and len(prompt) <= at and not after.strip() else 0

    @staticmethod
    def _cut(text: str, spaces: int) -> list[_Part]:
        border = len(text) - spaces
        return [_Part(text[:border], "format"), _BORDER, *([_Part(text[border:], "format")] if spaces else [])]

    def _template(self, turns: Sequence[Turn], answering: bool) -> str:
        messages = [{"role": turn.role, "content": turn.content} for turn in turns]
        try:
            text: str = self.tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=answering)
        except Exception as error:  # whatever a template raises: Jinja's errors, and those of its expressions
            raise RenderError("chat template", f"it refuses the messages: {error}") from None
        return text

    def _turn_end(self) -> int:
        """The special token that the template writes after a response."""
        parts = self._chat([Turn("user", "a"), Turn("assistant", "b")])
        found = self._special.match(parts[-1].text)
        if found is None:
            raise UsageError("the chat template ends a response by no special token, so that a model would never stop")
        return int(self._ids[found[0]])

    def _encode(self, parts: Sequence[_Part]) -> tuple[list[int], list[int], list[int]]:
        """Ids, the character of the joined parts at which each begins, and the number of ids before each border.

        Exactly one BOS, where the tokenizer or the format writes one.
        """
        ids: list[int] = []
        starts: list[int] = []
        borders: list[int] = []
        at = 0
        for stretch in _stretches(parts):
            whole = "".join(part.text for part in stretch)
            harmless = not any(self._special.search(part.text) for part in stretch if part.kind != "format")
            found = self._encode_whole(whole) if harmless else self._encode_apart(stretch, whole)
            if at == 0 and self._bos and [token for token, _ in found[:1]] != self._bos:
                found = [(self._bos[0], 0), *found]
            ids += [token for token, _ in found]
            starts += [at + start for _, start in found]
            borders.append(len(ids))
            at += len(whole)
        return ids, starts, borders

    def _encode_whole(self, text: str) -> list[tuple[int, int]]:
        found = self.tokenizer.backend_tokenizer.encode(text, add_special_tokens=False)
        return [(token, start) for token, (start, _) in zip(found.ids, found.offsets, strict=True)]

    def _encode_apart(self, parts: Sequence[_Part], whole: str) -> list[tuple[int, int]]:
        """As ``_encode_whole``, where the row names special tokens: only those of the format become special."""
        found: list[tuple[int, int]] = []
        at = 0
        backend = self.tokenizer.backend_tokenizer
        before = backend.encode_special_tokens
        backend.encode_special_tokens = True  # that is: as text
        try:
            for start, end in [*_specials(parts, self._special), (len(whole), len(whole))]:
                if at < start:
                    found += [(token, at + place) for token, place in self._encode_whole(whole[at:start])]
                if start < end:
                    found.append((self._ids[whole[start:end]], start))
                at = end
        finally:
            backend.encode_special_tokens = before
        return found

    def _decode(self, ids: Sequence[int]) -> str:
        text: str = self.tokenizer.decode(ids, skip_special_tokens=False, clean_up_tokenization_spaces=False)
        return text


def render_all(examples: Iterable[Example], renderer: Renderer) -> Rendered:
    """Documents of all examples that can be rendered, each cut to the renderer's longest length."""
    documents: list[Document] = []
    dropped: list[tuple[str, str, str]] = []
    truncated = 0
    for example in examples:
        try:
            document = renderer.document(example)
        except RenderError as error:
            dropped.append((example.name, error.reason, error.detail))
            continue
        if len(document) > renderer.max_length:
            cut = slice(renderer.max_length)
            whole = len(document)
            document = Document(document.ids[cut], document.supervised[cut], document.name)
            if not document.supervised.any():
                dropped.append(
                    (example.name, "too long", f"no response within {renderer.max_length} of {whole} tokens")
                )
                continue
            truncated += 1
        documents.append(document)
    return Rendered(Corpus.of(documents), dropped, truncated)


def _exchange(example: Example) -> tuple[str, str]:
    roles = [turn.role for turn in example.turns]
    if roles != ["user", "assistant"]:
        raise RenderError("not one exchange", f"the turns are {', '.join(roles)}; --set format=chat takes any")
    return example.turns[0].content, example.turns[1].content


def _stretches(parts: Sequence[_Part]) -> list[list[_Part]]:
    """The parts between borders."""
    found: list[list[_Part]] = [[]]
    for part in parts:
        if part.kind == "border":
            found.append([])
        else:
            found[-1].append(part)
    return found


def _mark(contents: Sequence[str]) -> str:
    """A character of the private use areas that is in none of the texts."""
    used = set().union(*contents)
    return next(chr(code) for code in range(0xE000, 0xF8FF) if chr(code) not in used)


def _specials(parts: Sequence[_Part], special: re.Pattern[str]) -> Iterator[tuple[int, int]]:
    """Where in the joined parts the format's own special tokens stand."""
    at = 0
    for part in parts:
        if part.kind == "format":
            yield from ((at + found.start(), at + found.end()) for found in special.finditer(part.text))
        at += len(part.text)
