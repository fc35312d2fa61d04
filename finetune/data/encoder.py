"""Tokenization in which only the format writes special tokens, never the text of a row.

A copy of the tokenizer knows each control token by a placeholder: a private-use character repeated to the same length,
which preserves offsets. Placeholders replace the control tokens that the format wrote and nothing else, so that
``<|im_end|>`` in an instruction is ordinary text. All other text is tokenized as usual, because the copy has the same
normalizer, pre-tokenizer and model.
"""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from finetune.data.formats import RenderedText, RenderError
from selfinstruct.errors import UsageError

__all__ = ["Encoded", "Encoder"]

_SEPARATOR = "\U0010fffd"
_PLACEHOLDERS = range(0x100000, 0x10FFFD)  # private-use characters of Unicode's plane 16
_RESERVED = re.compile("[\U00100000-\U0010fffd]")


@dataclass(frozen=True, slots=True)
class Encoded:
    """Token ids with character offsets.

    Attributes:
        ids: Token ids.
        starts, ends: Start and end offset of each token in the text.
    """

    ids: list[int]
    starts: list[int]
    ends: list[int]


class Encoder:
    """Tokenizer for rendered documents.

    Args:
        tokenizer: A fast tokenizer of transformers.
        control: Strings of the special tokens that only the format may write.

    Raises:
        UsageError: The tokenizer is a slow one, which reports no offsets.
    """

    def __init__(self, tokenizer: Any, control: Collection[str]) -> None:
        self._backend, added = backend_of(tokenizer), added_tokens(tokenizer)
        token_ids = {token: token_id for token_id, token in added.items()}
        placeholders = {
            token: chr(code) * len(token) for token, code in zip(sorted(control), _PLACEHOLDERS, strict=False)
        }
        self._placeholders = placeholders
        longest_first = sorted(control, key=len, reverse=True)
        self._control = re.compile("|".join(map(re.escape, longest_first)) or "(?!)")
        self._copy = _with_placeholders(self._backend, placeholders)
        self._original_ids = {
            self._copy.token_to_id(placeholders.get(token, token)): token_id for token, token_id in token_ids.items()
        }
        self._separator = self._copy.token_to_id(_SEPARATOR)
        # Ids that text must never produce: a vocabulary may hold the string of a control token, and word-level and
        # WordPiece models then find it in plain text. The unknown token is exempt: unknown text becomes it.
        placeholder_ids = {self._copy.token_to_id(placeholder) for placeholder in placeholders.values()}
        self._forbidden = {token_ids[token] for token in control} - placeholder_ids - {tokenizer.unk_token_id}

    def encode(self, rendered: RenderedText) -> Encoded:
        """Tokenize a rendered document, with a token boundary at the start of every response.

        The tokens before a response equal the tokenization of the text before it alone, which is what the model is
        prompted with at inference. Where tokenizing the full text would merge characters across that boundary, or split
        the text before it differently, the text is tokenized in pieces.

        Raises:
            RenderError: The row contains reserved characters, or its text becomes a special token.
        """
        text = self._replace_control_tokens(rendered)
        unsplit = self._copy.encode(text, add_special_tokens=False)
        boundaries = [response.start for response in rendered.responses]
        encoded = self._encode_split(text, boundaries)
        if encoded.ids != unsplit.ids:
            needed = [boundary for boundary in boundaries if not self._is_prefix(text[:boundary], unsplit.ids)]
            encoded = self._encode_split(text, needed)
        if not self._forbidden.isdisjoint(encoded.ids):
            raise RenderError("special", "the tokenizer reads a special token in the row's own text")
        ids = [self._original_ids.get(token_id, token_id) for token_id in encoded.ids]
        return Encoded(ids, encoded.starts, encoded.ends)

    def joined(self, rendered: RenderedText) -> set[int]:
        """Return the indices of the responses at whose start the tokenization of the whole text has no boundary.

        As part of the history of a later response, inference would tokenize such a response differently.
        """
        text = self._replace_control_tokens(rendered)
        unsplit = self._copy.encode(text, add_special_tokens=False).ids
        boundaries = [response.start for response in rendered.responses]
        if self._encode_split(text, boundaries).ids == unsplit:
            return set()
        return {index for index, start in enumerate(boundaries) if not self._is_prefix(text[:start], unsplit)}

    def _is_prefix(self, text: str, ids: Sequence[int]) -> bool:
        prefix = self._copy.encode(text, add_special_tokens=False).ids
        return bool(ids[: len(prefix)] == prefix)

    def _encode_split(self, text: str, boundaries: Sequence[int]) -> Encoded:
        """Tokenize with token boundaries at ``boundaries``, forced by a special token that is removed afterwards."""
        pieces = [text[start:end] for start, end in pairwise([0, *boundaries, len(text)])]
        encoding = self._copy.encode(_SEPARATOR.join(pieces), add_special_tokens=False)
        ids, starts, ends = [], [], []
        separators = 0
        for token_id, (start, end) in zip(encoding.ids, encoding.offsets, strict=True):
            if token_id == self._separator:
                separators += 1
                continue
            ids.append(token_id)
            starts.append(start - separators)
            ends.append(end - separators)
        return Encoded(ids, starts, ends)

    def _replace_control_tokens(self, rendered: RenderedText) -> str:
        """Return the text with placeholders for the control tokens that the format wrote."""
        text, parts, done = rendered.text, [], 0
        if _RESERVED.search(text):
            raise RenderError("special", "the row holds private characters (from U+100000) that are reserved here")
        for start, end in [*rendered.content, (len(text), len(text))]:
            if start > done:
                parts.append(self._control.sub(lambda match: self._placeholders[match.group()], text[done:start]))
                done = start
            if end > done:
                parts.append(text[done:end])
                done = end
        return "".join(parts)


def backend_of(tokenizer: Any) -> Any:
    """Return the ``tokenizers.Tokenizer`` inside a fast tokenizer.

    Raises:
        UsageError: The tokenizer is a slow one.
    """
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None:
        raise UsageError(
            f"{type(tokenizer).__name__} is a slow tokenizer, which reports no token offsets; "
            "save the model with a fast one (tokenizer.json), as AutoTokenizer does for most models"
        )
    return backend


def added_tokens(tokenizer: Any) -> dict[int, str]:
    """Return the added tokens by id, which are split from the text before normalization."""
    return {token_id: token.content for token_id, token in backend_of(tokenizer).get_added_tokens_decoder().items()}


def special_tokens(tokenizer: Any) -> frozenset[str]:
    """Return the added tokens that are special."""
    tokens = backend_of(tokenizer).get_added_tokens_decoder().values()
    return frozenset(token.content for token in tokens if token.special)


def _with_placeholders(backend: Any, placeholders: dict[str, str]) -> Any:
    """Return a copy that knows control tokens by their placeholders and neither truncates, pads nor adds tokens."""
    from tokenizers import AddedToken, Tokenizer

    state = json.loads(backend.to_str())
    state.update(truncation=None, padding=None, post_processor=None)
    for token in state["added_tokens"]:
        token["content"] = placeholders.get(token["content"], token["content"])
    copy = Tokenizer.from_str(json.dumps(state))
    copy.add_special_tokens([AddedToken(_SEPARATOR, normalized=False)])
    return copy
