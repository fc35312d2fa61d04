"""Rendering of examples as documents: token ids and a loss mask.

Each document is rendered once and tokenized once. The loss mask follows from the character spans of the responses and
the token offsets, and every masked span is decoded and compared with its response. A response ends
with its stop token, which is supervised; nothing after it is (ChatML, for one, writes a newline there). The pad token
plays no part.
"""

from __future__ import annotations

import unicodedata
from bisect import bisect_left, bisect_right
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import pairwise
from typing import Any

import numpy as np

from finetune.data.chat_documents import ChatDocuments
from finetune.data.corpus import Corpus, Document
from finetune.data.encoder import Encoded, Encoder, added_tokens, backend_of, special_tokens
from finetune.data.formats import RenderedText, RenderError, ResponseSpan, alpaca, completion
from finetune.data.rows import ChatTurn, Example
from finetune.data.templates import ChatTemplate
from selfinstruct.common.console import plural
from selfinstruct.errors import UsageError

__all__ = ["FORMATS", "RenderError", "RenderResult", "Rendered", "Renderer", "render_all"]

FORMATS = ("alpaca", "chat", "completion")
_PLACEHOLDER_ANSWER = "x"  # used as the response when only the prompt is rendered


@dataclass(frozen=True)
class Rendered:
    """The documents rendered from an example.

    Attributes:
        documents: At full length: one, or one for each answer that the chat template renders differently as the last.
        errors: An error for each answer that can't be learnt although others of the example can.
        notes: What the rendering leaves out or changes, one phrase for each kind.
    """

    documents: list[Document]
    errors: list[RenderError]
    notes: frozenset[str]


@dataclass(frozen=True)
class RenderResult:
    """The documents rendered from a list of examples.

    Attributes:
        corpus: The documents.
        dropped: Name, reason and detail of each example, or answer of an example, that could not be rendered.
        truncated: Number of documents that were cut to the maximum length.
        divided: Number of examples that became several documents.
        notes: Number of examples with each note of their rendering.
    """

    corpus: Corpus
    dropped: list[tuple[str, str, str]]
    truncated: int
    divided: int = 0
    notes: Counter[str] = field(default_factory=Counter)

    def notices(self) -> list[str]:
        """Return a line for each kind of change to the examples that are used."""
        lines = [f"{plural(count, 'row')} {note}" for note, count in self.notes.items()]
        if self.divided:
            lines.append(
                f"{plural(self.divided, 'row')} with several documents each: the chat template renders an answer "
                "differently once another turn follows, so that each answer is learnt as the last one"
            )
        return lines


def render_all(examples: Iterable[Example], renderer: Renderer) -> RenderResult:
    """Render examples in order; errors are recorded in the result, not raised."""
    documents: list[Document] = []
    dropped: list[tuple[str, str, str]] = []
    truncated = divided = 0
    notes: Counter[str] = Counter()
    for example in examples:
        try:
            rendered = renderer.render(example)
        except RenderError as error:
            dropped.append((example.name, error.reason, error.detail))
            continue
        kept = 0
        errors = list(rendered.errors)
        for full in rendered.documents:
            try:
                document = renderer.truncate(full)
            except RenderError as error:
                errors.append(error)
                continue
            documents.append(document)
            kept += 1
            truncated += len(document) < len(full)
        dropped += [(example.name, error.reason, error.detail) for error in errors]
        divided += kept > 1
        if kept:
            notes.update(rendered.notes)
    return RenderResult(Corpus.of(documents), dropped, truncated, divided, notes)


class Renderer:
    """Renderer of examples in one format for one tokenizer.

    Args:
        tokenizer: A fast tokenizer of transformers; it is not modified.
        format: ``alpaca``, ``chat``, ``completion``, or ``auto``: chat if there is a chat template, otherwise alpaca.
        max_length: Maximum tokens of a document; the rest is cut.
        template_arguments: Further arguments of the chat template, such as ``enable_thinking``; an example's own
            arguments take precedence.

    Attributes:
        format: The format, never ``auto``.
        stop_ids: Ids of the tokens that end a response.

    Raises:
        UsageError: The tokenizer is slow, has no usable chat template or no eos token; the format is unknown; or an
            argument is unknown to the chat template.
    """

    def __init__(
        self,
        tokenizer: Any,
        format: str,  # noqa: A002 the name of the option
        *,
        max_length: int,
        template_arguments: Mapping[str, Any] | None = None,
    ) -> None:
        self._backend = backend_of(tokenizer)
        if format == "auto":
            format = "chat" if getattr(tokenizer, "chat_template", None) else "alpaca"  # noqa: A001 likewise
        if format not in FORMATS:
            raise UsageError(f"no format {format!r}; known: auto, {', '.join(FORMATS)}")
        self.format = format
        self.max_length = max_length
        token_ids = {token: token_id for token_id, token in added_tokens(tokenizer).items()}
        eos = tokenizer.eos_token or ""
        stops: set[str] = {eos} & set(token_ids)
        control = special_tokens(tokenizer) | stops
        self._template: ChatTemplate | None = None
        if format == "chat":
            self._template = ChatTemplate(tokenizer, template_arguments)
            tokens = self._template.tokens
            stops, control = stops | tokens.stops, control | tokens.control
            self._chat = ChatDocuments(self._template, frozenset(stops))
        elif not stops:
            raise UsageError(
                f"the tokenizer has no eos token, so that a response in the format {format} could not end; "
                "set eos_token in its tokenizer_config.json"
            )
        self._eos: str = eos
        self.stop_ids: frozenset[int] = frozenset(token_ids[stop] for stop in stops)
        self._encoder = Encoder(tokenizer, control)
        # The model was trained with the BOS that its tokenizer puts first.
        bos = tokenizer.bos_token_id
        self._bos = [bos] if bos is not None and tokenizer("a").input_ids[:1] == [bos] else []

    def document(self, example: Example) -> Document:
        """Render an example that is one document, cut to ``max_length`` tokens.

        Raises:
            RenderError: The example, or an answer of it, can't be rendered; or it is several documents.
        """
        texts, errors = self._texts(example)
        if errors:
            raise errors[0]
        if len(texts) > 1:
            raise RenderError("rewritten", f"the chat template rewrites earlier answers: {len(texts)} documents")
        return self.truncate(self._document(texts[0], example.name))

    def render(self, example: Example) -> Rendered:
        """Render an example as documents, however long they are.

        Raises:
            RenderError: No answer of the example can be rendered, or the masked tokens don't decode to the response.
        """
        texts, errors = self._texts(example)
        notes = {note for text in texts for note in text.notes}
        if self._template and (unread := self._template.unread(example.template_arguments)):
            notes.add(f"with the template argument {', '.join(unread)}, which the chat template does not read")
        separate = [part for text in texts for part in self._separate(text)]
        return Rendered([self._document(text, example.name) for text in separate], errors, frozenset(notes))

    def _separate(self, text: RenderedText) -> list[RenderedText]:
        """Give each response a document of its own whose tokens differ from those in the history of a later one."""
        *earlier, last = text.responses
        joined = self._encoder.joined(text) - {len(earlier)} if earlier else set()
        kept = tuple(response for index, response in enumerate(earlier) if index not in joined)
        alone = []
        for index in sorted(joined):
            end = earlier[index].close
            content = tuple(span for span in text.content if span[1] <= end)
            alone.append(RenderedText(text.text[:end], content, (earlier[index],)))
        return [*alone, replace(text, responses=(*kept, last))]

    def _texts(self, example: Example) -> tuple[list[RenderedText], list[RenderError]]:
        if self._template:
            return self._chat.render(example)
        return [(alpaca if self.format == "alpaca" else completion)(example, self._eos)], []

    def _document(self, rendered: RenderedText, name: str) -> Document:
        encoded = self._encoder.encode(rendered)
        bos = self._missing_bos(encoded.ids)
        ids = np.array(bos + encoded.ids, np.int32)
        supervised = np.zeros(len(ids), np.bool_)
        for response in rendered.responses:
            first, stop = self._token_span(rendered, encoded, response)
            supervised[len(bos) + first : len(bos) + stop + 1] = True
        supervised[:1] = False  # no token precedes it from which it could be predicted
        return Document(ids, supervised, name)

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
        answered = turns[:-1] if turns and turns[-1].role == "assistant" else turns
        if self._template:
            rendered = self._chat.prompt(replace(example, turns=answered))
        else:
            answer = ChatTurn("assistant", _PLACEHOLDER_ANSWER)
            (full,), _ = self._texts(replace(example, turns=(*answered, answer)))
            end = full.responses[0].start
            rendered = RenderedText(full.text[:end], ((0, end),), ())
        ids = self._encoder.encode(rendered).ids
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
        stop = bisect_right(encoded.ends, response.stop, lo=first)  # the first token that ends after its beginning
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
