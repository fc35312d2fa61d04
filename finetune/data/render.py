"""Examples as documents: token ids, and which of them the model learns to write.

A document is rendered once and encoded once. The mask comes from the places of the responses in the text and the
offsets of the tokens, and each masked span is decoded and compared with the response that it stands for. A response
ends on its stop token, which is learned; nothing after it is (the newline that ChatML writes there, for one). The pad
token has no part in it.
"""

from __future__ import annotations

import unicodedata
from bisect import bisect_left
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any

import numpy as np

from finetune.data.corpus import Corpus, Document
from finetune.data.encoder import Encoded, Encoder, added_tokens, backend_of
from finetune.data.rows import ChatTurn, Example
from finetune.data.templates import ChatTemplate, Layout, RenderError, Response, alpaca, completion
from selfinstruct.errors import UsageError

__all__ = ["FORMATS", "RenderError", "Rendered", "Renderer", "render_all"]

FORMATS = ("alpaca", "chat", "completion")
_ANSWER = "x"  # stands for the response in a prompt


@dataclass(frozen=True)
class Rendered:
    """Examples as documents.

    Attributes:
        dropped: Name, reason and detail of each example that became none.
        truncated: Number of documents that were cut at the longest length.
    """

    corpus: Corpus
    dropped: list[tuple[str, str, str]]
    truncated: int


def render_all(examples: Iterable[Example], renderer: Renderer) -> Rendered:
    """Render examples, in their order; those that can't be rendered are told, not raised."""
    documents: list[Document] = []
    dropped: list[tuple[str, str, str]] = []
    truncated = 0
    for example in examples:
        try:
            whole = renderer.whole(example)
            document = renderer.cut(whole)
        except RenderError as error:
            dropped.append((example.name, error.reason, error.detail))
            continue
        documents.append(document)
        truncated += len(document) < len(whole)
    return Rendered(Corpus.of(documents), dropped, truncated)


class Renderer:
    """Renders examples in one format for one tokenizer.

    Args:
        tokenizer: A fast tokenizer of transformers; it is not changed.
        format: ``alpaca``, ``chat``, ``completion``, or ``auto``: chat if there is a chat template, else alpaca.
        max_length: Longest document in tokens; the rest is cut off.

    Attributes:
        format: The format, never ``auto``.
        stop_ids: Tokens that end a response.

    Raises:
        UsageError: A slow tokenizer; no chat template or a useless one; no eos token; an unknown format.
    """

    def __init__(self, tokenizer: Any, format: str, *, max_length: int) -> None:  # noqa: A002
        self._backend = backend_of(tokenizer)
        if format == "auto":
            format = "chat" if getattr(tokenizer, "chat_template", None) else "alpaca"  # noqa: A001
        if format not in FORMATS:
            raise UsageError(f"no format {format!r}; known: auto, {', '.join(FORMATS)}")
        self.format = format
        self.max_length = max_length
        added = added_tokens(tokenizer)
        special = {token.content for token in self._backend.get_added_tokens_decoder().values() if token.special}
        eos = tokenizer.eos_token or ""
        stops: set[str] = {eos} & set(added.values())
        control = special | stops
        self._chat = ChatTemplate(tokenizer) if format == "chat" else None
        if self._chat:
            probe = self._chat.probe(added.values())
            stops, control = stops | probe.stops, control | probe.control
        elif not stops:
            raise UsageError(
                f"the tokenizer has no eos token, so that a response in the format {format} could not end; "
                "set eos_token in its tokenizer_config.json"
            )
        self._eos: str = eos
        numbers = {token: number for number, token in added.items()}
        self.stop_ids: frozenset[int] = frozenset(numbers[stop] for stop in stops)
        self._control_ids = frozenset(numbers[token] for token in control)
        self._encoder = Encoder(tokenizer, control)
        # What the tokenizer itself puts first is what the model was trained with.
        bos = tokenizer.bos_token_id
        self._bos = [bos] if bos is not None and tokenizer("a").input_ids[:1] == [bos] else []

    def document(self, example: Example) -> Document:
        """The document of an example, cut at ``max_length``.

        Raises:
            RenderError: There is no such document.
        """
        return self.cut(self.whole(example))

    def whole(self, example: Example) -> Document:
        """The document of an example, however long.

        Raises:
            RenderError: There is none, or what is masked is not the response.
        """
        layout = self._layout(example)
        encoded = self._encoder.encode(layout)
        opening = self._opening(encoded.ids)
        ids = np.array(opening + encoded.ids, np.int32)
        supervised = np.zeros(len(ids), np.bool_)
        for response in layout.responses:
            first, stop = self._span(layout, encoded, response)
            supervised[len(opening) + first : len(opening) + stop + 1] = True
        supervised[:1] = False  # nothing comes before it from which it could be predicted
        return Document(ids, supervised, example.name)

    def cut(self, document: Document) -> Document:
        """The first ``max_length`` tokens of a document.

        Raises:
            RenderError: Nothing in them is learned.
        """
        if len(document) <= self.max_length:
            return document
        part = slice(0, self.max_length)
        if not document.supervised[part].any():
            detail = f"the prompt alone has more than max_length = {self.max_length} tokens"
            raise RenderError("too long", detail)
        return Document(document.ids[part], document.supervised[part], document.name)

    def prompt(self, example: Example | Sequence[ChatTurn]) -> list[int]:
        """Everything before the response, for generation: the beginning of the document, token by token.

        Args:
            example: Its last response, if it has one, is not part of the prompt; earlier ones are.

        Raises:
            RenderError: It can't be rendered.
        """
        if not isinstance(example, Example):
            example = Example("prompt", tuple(example))
        turns = example.turns
        if not turns or turns[-1].role != "assistant":
            example = replace(example, turns=(*turns, ChatTurn("assistant", _ANSWER)))
        elif not turns[-1].content.strip():
            example = replace(example, turns=(*turns[:-1], ChatTurn("assistant", _ANSWER)))
        layout = self._layout(example, strict=False)
        start = layout.responses[-1].start
        content = tuple((begin, min(end, start)) for begin, end in layout.content if begin < start)
        ids = self._encoder.encode(Layout(layout.text[:start], content, layout.responses[:-1])).ids
        return self._opening(ids) + ids

    def pieces(self, document: Document) -> list[tuple[str, bool]]:
        """A document as text, in runs that are supervised or not; joined they are the decoded document."""
        mask = document.supervised
        changes = [0, *(np.flatnonzero(mask[1:] != mask[:-1]) + 1).tolist(), len(mask)]
        text = self._decode(document.ids.tolist())
        heads = [self._decode(document.ids[:end].tolist()) for end in changes[:-1]]
        # The first token, which is never supervised, may be a part of a character: it decodes to U+FFFD by itself.
        heads = [head if text.startswith(head) else head.rstrip("\ufffd") for head in heads]
        runs = pairwise([*map(len, heads), len(text)])
        return [(text[start:end], bool(mask[change])) for (start, end), change in zip(runs, changes, strict=False)]

    def _layout(self, example: Example, *, strict: bool = True) -> Layout:
        if self._chat:
            last = max((place for place, turn in enumerate(example.turns) if turn.role == "assistant"), default=None)
            if last is None:
                raise RenderError("turns", "the conversation has no message of an assistant")
            return self._chat.layout(example.turns[: last + 1], strict=strict)
        return (alpaca if self.format == "alpaca" else completion)(example, self._eos)

    def _opening(self, ids: list[int]) -> list[int]:
        """BOS, if the tokenizer begins with it and the template didn't."""
        return [] if ids[:1] == self._bos else self._bos

    def _span(self, layout: Layout, encoded: Encoded, response: Response) -> tuple[int, int]:
        """Indices of a response's first token and of its stop token.

        Raises:
            RenderError: The tokens between are not the response, or no stop token follows.
        """
        ids, where = encoded.ids, f"turn {response.turn}"
        first = bisect_left(encoded.starts, response.start)
        limit = min((start for start, _ in layout.content if start >= response.end), default=len(layout.text))
        stop = bisect_left(encoded.ends, response.end + 1, lo=first)
        while stop < len(ids) and ids[stop] not in self._control_ids and encoded.starts[stop] < limit:
            stop += 1
        if stop == len(ids) or ids[stop] not in self.stop_ids:
            raise RenderError("no stop", f"{where}: no stop token follows the response")
        expected = layout.text[response.start : encoded.starts[stop]]
        found = self._decode(ids[:stop])[len(self._decode(ids[:first])) :]
        if first == 0:  # decoders of sentencepiece drop a space that begins a text
            expected, found = expected.lstrip(" "), found.lstrip(" ")
        if encoded.starts[stop] < response.end or not _same(found, expected):
            raise RenderError("decoding", f"{where}: the tokens of the response decode to {found[:60]!r}")
        return first, stop

    def _decode(self, ids: Sequence[int]) -> str:
        return str(self._backend.decode(ids, skip_special_tokens=False))


def _same(one: str, other: str) -> bool:
    """Equal, or equal but for the composition of characters, which some tokenizers normalize."""
    return one == other or unicodedata.normalize("NFKC", one) == unicodedata.normalize("NFKC", other)
