"""One completion while it is generated: its tokens, its text, and where it ends."""

from __future__ import annotations

import secrets
from typing import Any

import torch

from selfinstruct.common.rng import derive
from selfinstruct.records import Choice, Sampling

__all__ = ["Sequence"]

# Tokens of the prompt that are decoded with the completion: some tokenizers drop the blank before a text's first word.
_TAIL = 6
_UNFINISHED = "\ufffd"  # what an incomplete character is decoded to


class Sequence:
    """One completion while it is generated.

    Args:
        prompt: Tokens of the prompt.
        sampling: The sampling of the request.
        index: Position among the choices of the request.
        tokenizer: A tokenizer of transformers.
        stop_ids: Tokens that end the completion; they are not part of its text.

    Attributes:
        tokens: The tokens so far, the one that ended it included.
        finish_reason: ``stop`` or ``length`` once it has ended; "" before.
    """

    def __init__(
        self, prompt: list[int], sampling: Sampling, index: int, tokenizer: Any, stop_ids: frozenset[int]
    ) -> None:
        self.prompt = prompt
        self.sampling = sampling
        self.tokens: list[int] = []
        self.finish_reason = ""
        self._tokenizer = tokenizer
        self._stop_ids = stop_ids
        self._generator = torch.Generator()  # on the CPU for every device, so that the draws are the same
        seed = secrets.randbits(32) if sampling.seed is None else sampling.seed
        self._generator.manual_seed(derive("choice", seed, index))
        self._cut: str | None = None  # the text before a stop string
        self._watched = ""  # the text so far, where stop strings are searched
        self._read = self._start = 0  # tokens in that text; first token that the next piece is decoded with

    @property
    def length(self) -> int:
        """Number of tokens of prompt and completion so far."""
        return len(self.prompt) + len(self.tokens)

    @property
    def most_tokens(self) -> int:
        """Largest number of tokens of prompt and completion."""
        return len(self.prompt) + self.sampling.max_tokens

    def random(self) -> float:
        """Return the next random number of this completion, in [0, 1)."""
        return float(torch.rand((), dtype=torch.float64, generator=self._generator))

    def add(self, token: int) -> None:
        """Add a token, and decide whether the completion ends with it."""
        self.tokens.append(token)
        if token in self._stop_ids or self._reaches_stop_string():
            self.finish_reason = "stop"
        elif len(self.tokens) >= self.sampling.max_tokens:
            self.finish_reason = "length"

    def choice(self) -> Choice:
        """Return the text, up to a stop string."""
        if self._cut is not None:
            return Choice(self._cut, "stop")
        ended = bool(self.tokens) and self.tokens[-1] in self._stop_ids
        text = self._decode(0, self.tokens[:-1] if ended else self.tokens)
        cut = self._before_stop(text, 0)  # only if the last character is incomplete, so that it was not searched yet
        return Choice(text, self.finish_reason) if cut is None else Choice(cut, "stop")

    def _reaches_stop_string(self) -> bool:
        """Decode the tokens that are not in the text yet, and search the text's end for stop strings.

        A piece is decoded with the piece before it, since a token's text may depend on its neighbours, and not before
        its last character is complete.
        """
        if not self.sampling.stop:
            return False
        piece = self._decode(self._start, self.tokens)[len(self._decode(self._start, self.tokens[: self._read])) :]
        if not piece or piece.endswith(_UNFINISHED):
            return False
        self._watched += piece
        self._start, self._read = self._read, len(self.tokens)
        self._cut = self._before_stop(self._watched, len(self._watched) - len(piece))
        return self._cut is not None

    def _before_stop(self, text: str, new: int) -> str | None:
        """Return the text before its first stop string; None if it has none that ends behind position ``new``."""
        starts = (text.find(stop, max(0, new - len(stop) + 1)) for stop in self.sampling.stop if stop)
        return min((text[:start] for start in starts if start >= 0), key=len, default=None)

    def _decode(self, start: int, tokens: list[int]) -> str:
        """Return the text of the tokens from ``start`` on."""
        before = self.prompt[-_TAIL:] if start == 0 else []
        text = self._text([*before, *tokens[start:]])
        known = self._text(before) if before else ""
        return text[len(known) :] if text.startswith(known) else self._text(tokens[start:])

    def _text(self, tokens: list[int]) -> str:
        return str(self._tokenizer.decode(tokens, skip_special_tokens=True, clean_up_tokenization_spaces=False))
