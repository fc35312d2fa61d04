"""Rendering of examples as documents: token ids and a loss mask.

Each example is rendered once and tokenized once. The loss mask follows from the character spans of the responses and
the token offsets, and every masked span is decoded and compared with its response. A response ends
with its stop token, which is supervised; nothing after it is (ChatML, for one, writes a newline there). The pad token
plays no part.
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
from finetune.data.templates import ChatTemplate, RenderedText, RenderError, ResponseSpan, alpaca, completion
from selfinstruct.errors import UsageError

__all__ = ["FORMATS", "RenderError", "RenderResult", "Renderer", "render_all"]

FORMATS = ("alpaca", "chat", "completion")
_PLACEHOLDER_ANSWER = "x"  # used as the response when only the prompt is rendered


@dataclass(frozen=True)
class RenderResult:
    """The documents rendered from a list of examples.

    Attributes:
        corpus: The documents.
        dropped: Name, reason and detail of each example that could not be rendered.
        truncated: Number of documents that were cut to the maximum length.
    """

    corpus: Corpus
    dropped: list[tuple[str, str, str]]
    truncated: int


def render_all(examples: Iterable[Example], renderer: Renderer) -> RenderResult:
    """Render examples in order; errors are recorded in the result, not raised."""
    documents: list[Document] = []
    dropped: list[tuple[str, str, str]] = []
    truncated = 0
    for example in examples:
        try:
            full = renderer.full_document(example)
            document = renderer.truncate(full)
        except RenderError as error:
            dropped.append((example.name, error.reason, error.detail))
            continue
        documents.append(document)
        truncated += len(document) < len(full)
    return RenderResult(Corpus.of(documents), dropped, truncated)


class Renderer:
    """Renderer of examples in one format for one tokenizer.

    Args:
        tokenizer: A fast tokenizer of transformers; it is not modified.
        format: ``alpaca``, ``chat``, ``completion``, or ``auto``: chat if there is a chat template, otherwise alpaca.
        max_length: Maximum tokens of a document; the rest is cut.

    Attributes:
        format: The format, never ``auto``.
        stop_ids: Ids of the tokens that end a response.

    Raises:
        UsageError: The tokenizer is slow, has no usable chat template or no eos token; or the format is unknown.
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
            tokens = self._chat.probe(added.values())
            stops, control = stops | tokens.stops, control | tokens.control
        elif not stops:
            raise UsageError(
                f"the tokenizer has no eos token, so that a response in the format {format} could not end; "
                "set eos_token in its tokenizer_config.json"
            )
        self._eos: str = eos
        token_ids = {token: token_id for token_id, token in added.items()}
        self.stop_ids: frozenset[int] = frozenset(token_ids[stop] for stop in stops)
        self._control_ids = frozenset(token_ids[token] for token in control)
        self._encoder = Encoder(tokenizer, control)
        # The model was trained with the BOS that its tokenizer puts first.
        bos = tokenizer.bos_token_id
        self._bos = [bos] if bos is not None and tokenizer("a").input_ids[:1] == [bos] else []

    def document(self, example: Example) -> Document:
        """Render an example, cut to ``max_length`` tokens.

        Raises:
            RenderError: The example can't be rendered.
        """
        return self.truncate(self.full_document(example))

    def full_document(self, example: Example) -> Document:
        """Render an example, however long it is.

        Raises:
            RenderError: The example can't be rendered, or the masked tokens don't decode to the response.
        """
        rendered = self._render(example)
        encoded = self._encoder.encode(rendered)
        bos = self._missing_bos(encoded.ids)
        ids = np.array(bos + encoded.ids, np.int32)
        supervised = np.zeros(len(ids), np.bool_)
        untrained = {index for index, turn in enumerate(example.turns, start=1) if not turn.trained}
        for response in rendered.responses:
            if response.turn in untrained:
                continue
            first, stop = self._token_span(rendered, encoded, response)
            supervised[len(bos) + first : len(bos) + stop + 1] = True
        supervised[:1] = False  # no token precedes it from which it could be predicted
        return Document(ids, supervised, example.name)

    def truncate(self, document: Document) -> Document:
        """Return the first ``max_length`` tokens of a document.

        Raises:
            RenderError: None of them is supervised.
        """
        if len(document) <= self.max_length:
            return document
        span = slice(0, self.max_length)
        if not document.supervised[span].any():
            detail = f"the prompt alone has more than max_length = {self.max_length} tokens"
            raise RenderError("too long", detail)
        return Document(document.ids[span], document.supervised[span], document.name)

    def prompt(self, example: Example | Sequence[ChatTurn]) -> list[int]:
        """Return the token ids before the last response: the exact beginning of the document, for generation.

        Args:
            example: An example or a conversation. If its last turn is a response, that is left out of the prompt.

        Raises:
            RenderError: The prompt can't be rendered.
        """
        if not isinstance(example, Example):
            example = Example("prompt", tuple(example))
        turns = example.turns
        if not turns or turns[-1].role != "assistant":
            example = replace(example, turns=(*turns, ChatTurn("assistant", _PLACEHOLDER_ANSWER)))
        elif not turns[-1].content.strip():
            example = replace(example, turns=(*turns[:-1], ChatTurn("assistant", _PLACEHOLDER_ANSWER)))
        rendered = self._render(example, strict=False)
        end = rendered.responses[-1].start
        content = tuple((start, min(stop, end)) for start, stop in rendered.content if start < end)
        ids = self._encoder.encode(RenderedText(rendered.text[:end], content, rendered.responses[:-1])).ids
        return self._missing_bos(ids) + ids

    def pieces(self, document: Document) -> list[tuple[str, bool]]:
        """Return the decoded text of a document in runs, each with whether it is supervised."""
        mask = document.supervised
        changes = [0, *(np.flatnonzero(mask[1:] != mask[:-1]) + 1).tolist(), len(mask)]
        text = self._decode(document.ids.tolist())
        prefixes = [self._decode(document.ids[:end].tolist()) for end in changes[:-1]]
        # The first token, which is never supervised, may be part of a character: alone it decodes to U+FFFD.
        prefixes = [prefix if text.startswith(prefix) else prefix.rstrip("\ufffd") for prefix in prefixes]
        runs = pairwise([*map(len, prefixes), len(text)])
        return [(text[start:end], bool(mask[change])) for (start, end), change in zip(runs, changes, strict=False)]

    def _render(self, example: Example, *, strict: bool = True) -> RenderedText:
        if self._chat:
            last = max((index for index, turn in enumerate(example.turns) if turn.role == "assistant"), default=None)
            if last is None:
                raise RenderError("turns", "the conversation has no assistant message")
            return self._chat.render(example.turns[: last + 1], strict=strict)
        return (alpaca if self.format == "alpaca" else completion)(example, self._eos)

    def _missing_bos(self, ids: list[int]) -> list[int]:
        """Return the BOS if the tokenizer begins with it and the template did not write it."""
        return [] if ids[:1] == self._bos else self._bos

    def _token_span(self, rendered: RenderedText, encoded: Encoded, response: ResponseSpan) -> tuple[int, int]:
        """Return the indices of a response's first token and of its stop token.

        Raises:
            RenderError: No stop token follows, or the tokens before it don't decode to the response.
        """
        ids, where = encoded.ids, f"turn {response.turn}"
        first = bisect_left(encoded.starts, response.start)
        limit = min((start for start, _ in rendered.content if start >= response.end), default=len(rendered.text))
        stop = bisect_left(encoded.ends, response.end + 1, lo=first)
        while stop < len(ids) and ids[stop] not in self._control_ids and encoded.starts[stop] < limit:
            stop += 1
        if stop == len(ids) or ids[stop] not in self.stop_ids:
            raise RenderError("no stop", f"{where}: no stop token follows the response")
        expected = rendered.text[response.start : encoded.starts[stop]]
        decoded = self._decode(ids[:stop])[len(self._decode(ids[:first])) :]
        if first == 0:  # sentencepiece decoders drop a space at the beginning of a text
            expected, decoded = expected.lstrip(" "), decoded.lstrip(" ")
        if encoded.starts[stop] < response.end or not _equivalent(decoded, expected):
            raise RenderError("decoding", f"{where}: the tokens of the response decode to {decoded[:60]!r}")
        return first, stop

    def _decode(self, ids: Sequence[int]) -> str:
        return str(self._backend.decode(ids, skip_special_tokens=False))


def _equivalent(first: str, second: str) -> bool:
    """Return whether two texts are equal up to NFKC, which some tokenizers apply."""
    return first == second or unicodedata.normalize("NFKC", first) == unicodedata.normalize("NFKC", second)
