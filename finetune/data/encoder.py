"""Text to tokens, where special tokens are those that the format wrote and never what a row spelled.

A copy of the tokenizer knows each control token by a stand-in, a private character repeated to the same length (so
that offsets stay). The stand-ins are put where the format wrote control tokens, and nowhere else: ``<|im_end|>`` in an
instruction is then text like any other, and all else is encoded as the tokenizer itself encodes it, since the copy has
the same normalizer, pre-tokenizer and model.
"""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from finetune.data.templates import Layout, RenderError
from selfinstruct.errors import UsageError

__all__ = ["Encoded", "Encoder"]

_BORDER = "\U0010fffd"
_STAND_INS = range(0x100000, 0x10FFFD)  # private characters of Unicode's plane 16
_RESERVED = re.compile("[\U00100000-\U0010fffd]")


@dataclass(frozen=True, slots=True)
class Encoded:
    """Tokens with their places.

    Attributes:
        ids: Token ids.
        starts, ends: Where each token begins and ends, in characters of the text.
    """

    ids: list[int]
    starts: list[int]
    ends: list[int]


class Encoder:
    """Encodes layouts.

    Args:
        tokenizer: A fast tokenizer of transformers.
        control: Strings of the special tokens that only the format may write.

    Raises:
        UsageError: The tokenizer is a slow one, which tells no offsets.
    """

    def __init__(self, tokenizer: Any, control: Collection[str]) -> None:
        self._backend, added = backend_of(tokenizer), added_tokens(tokenizer)
        known = {token: number for number, token in added.items()}
        stand_ins = {token: chr(code) * len(token) for token, code in zip(sorted(control), _STAND_INS, strict=False)}
        self._stand_ins = stand_ins
        longest = sorted(control, key=len, reverse=True)
        self._control = re.compile("|".join(map(re.escape, longest)) or "(?!)")
        self._copy = _disguised(self._backend, stand_ins)
        self._ids = {self._copy.token_to_id(stand_ins.get(token, token)): number for token, number in known.items()}
        self._border = self._copy.token_to_id(_BORDER)
        # Ids that text must never give. A model's own vocabulary may hold a control token's string, and a model of
        # words or of word pieces can then read it in plain text. The unknown token is what unknown text becomes.
        given = {self._copy.token_to_id(stand_in) for stand_in in stand_ins.values()}
        self._forbidden = {known[token] for token in control} - given - {tokenizer.unk_token_id}

    def encode(self, layout: Layout) -> Encoded:
        """Tokens of a layout's text, a new one beginning wherever a response begins.

        The tokens before a response are those of the text before it, encoded alone: what the model will be prompted
        with. Where encoding the whole text would join characters across that border into one token, or part the text
        before it differently, the text is encoded in two pieces.

        Raises:
            RenderError: The row holds characters that stand for special tokens here, or its text becomes one.
        """
        text = self._disguise(layout)
        whole = self._copy.encode(text, add_special_tokens=False)
        borders = [response.start for response in layout.responses]
        encoded = self._bordered(text, borders)
        if encoded.ids != whole.ids:
            needed = [border for border in borders if not self._begins(whole.ids, text[:border])]
            encoded = self._bordered(text, needed)
        if not self._forbidden.isdisjoint(encoded.ids):
            raise RenderError("special", "the tokenizer reads a special token in the row's own text")
        return Encoded([self._ids.get(one, one) for one in encoded.ids], encoded.starts, encoded.ends)

    def _begins(self, ids: Sequence[int], text: str) -> bool:
        alone = self._copy.encode(text, add_special_tokens=False).ids
        return bool(ids[: len(alone)] == alone)

    def _bordered(self, text: str, borders: Sequence[int]) -> Encoded:
        """Encode with a token border at ``borders``, by a special token that is taken out again."""
        edges = [0, *borders, len(text)]
        pieces = [text[start:end] for start, end in pairwise(edges)]
        found = self._copy.encode(_BORDER.join(pieces), add_special_tokens=False)
        ids, starts, ends = [], [], []
        passed = 0
        for number, (start, end) in zip(found.ids, found.offsets, strict=True):
            if number == self._border:
                passed += 1
                continue
            ids.append(number)
            starts.append(start - passed)
            ends.append(end - passed)
        return Encoded(ids, starts, ends)

    def _disguise(self, layout: Layout) -> str:
        """The text with stand-ins where the format wrote control tokens."""
        text, parts, done = layout.text, [], 0
        if _RESERVED.search(text):
            raise RenderError("special", "the row holds private characters (from U+100000) that are reserved here")
        for start, end in [*layout.content, (len(text), len(text))]:
            if start > done:
                parts.append(self._control.sub(lambda match: self._stand_ins[match.group()], text[done:start]))
                done = start
            if end > done:
                parts.append(text[done:end])
                done = end
        return "".join(parts)


def backend_of(tokenizer: Any) -> Any:
    """The ``tokenizers.Tokenizer`` inside.

    Raises:
        UsageError: There is none.
    """
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None:
        raise UsageError(
            f"{type(tokenizer).__name__} is a slow tokenizer, which doesn't tell where its tokens lie in the text; "
            "save the model with a fast one (tokenizer.json), as AutoTokenizer does for most models"
        )
    return backend


def added_tokens(tokenizer: Any) -> dict[int, str]:
    """Ids and strings of the tokens that are found in text before anything else is done to it."""
    return {number: token.content for number, token in backend_of(tokenizer).get_added_tokens_decoder().items()}


def _disguised(backend: Any, stand_ins: dict[str, str]) -> Any:
    """A copy that knows control tokens by their stand-ins, leaves offsets as they are and adds nothing."""
    from tokenizers import AddedToken, Tokenizer

    state = json.loads(backend.to_str())
    state.update(truncation=None, padding=None, post_processor=None)
    for token in state["added_tokens"]:
        token["content"] = stand_ins.get(token["content"], token["content"])
    copy = Tokenizer.from_str(json.dumps(state))
    copy.add_special_tokens([AddedToken(_BORDER, normalized=False)])
    return copy
