"""The rows that a model computes together: prompts are read, a token is added to each row, finished rows leave."""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from selfinstruct.backends.transformers.cache import new_cache, rows_can_join
from selfinstruct.backends.transformers.loading import Loaded
from selfinstruct.backends.transformers.sampling import choose
from selfinstruct.backends.transformers.text import Sequence as TokenSequence

__all__ = ["Batch"]


class Batch:
    """The completions that are generated at the moment, one in each row.

    Rows are aligned at their last token. The attention mask covers the columns before the first token of a row, and
    each row counts its positions from its own first token, so that its logits do not depend on the other rows but for
    the order in which a kernel adds.

    Args:
        loaded: The model.

    Attributes:
        sequences: The completion in each row.
        mixes_lengths: Whether rows of different lengths can share a batch, and new rows can join it.
    """

    def __init__(self, loaded: Loaded) -> None:
        self.sequences: list[TokenSequence] = []
        self.mixes_lengths = rows_can_join(loaded.model.config)
        self._model = loaded.model
        self._device = loaded.device
        parameters = inspect.signature(loaded.model.forward).parameters
        self._takes_positions = "position_ids" in parameters
        self._last_only = {"logits_to_keep": 1} if "logits_to_keep" in parameters else {}
        self._cache_name = "cache_params" if "cache_params" in parameters else "past_key_values"
        self._cache: Any = None
        self._mask = torch.empty(0)  # (rows, columns): 1 for a token, 0 for padding

    @property
    def width(self) -> int:
        """Number of columns."""
        return self._mask.shape[1] if self.sequences else 0

    def admit(self, groups: Sequence[Sequence[TokenSequence]]) -> None:
        """Read prompts, add a first token to each of their sequences, and add the rows to the batch.

        Args:
            groups: The sequences of each prompt. A prompt is read once for all of them.

        Raises:
            InvalidLogitsError: The model computed a logit that is not a number.
        """
        prompts = [group[0].prompt for group in groups]
        width = max(map(len, prompts))
        ids = torch.zeros((len(prompts), width), dtype=torch.int64)
        mask = torch.zeros_like(ids)
        for row, prompt in enumerate(prompts):
            ids[row, width - len(prompt) :] = torch.tensor(prompt)
            mask[row, width - len(prompt) :] = 1
        mask = mask.to(self._device)
        positions = (mask.cumsum(dim=1) - 1).clamp(min=0)
        cache = new_cache(self._model.config)
        logits = self._compute(ids.to(self._device), mask, positions, cache)
        sequences = [sequence for group in groups for sequence in group]
        rows = self._indices([row for row, group in enumerate(groups) for _ in group])
        if len(sequences) > len(groups):
            cache.reorder_cache(rows)
        self._join(sequences, mask[rows], cache)
        self._extend(sequences, logits[rows])

    def step(self) -> None:
        """Add a token to each row.

        Raises:
            InvalidLogitsError: The model computed a logit that is not a number.
        """
        tokens = torch.tensor([[sequence.tokens[-1]] for sequence in self.sequences], device=self._device)
        positions = torch.tensor([[sequence.length - 1] for sequence in self.sequences], device=self._device)
        self._mask = torch.nn.functional.pad(self._mask, (0, 1), value=1)
        self._extend(self.sequences, self._compute(tokens, self._mask, positions, self._cache))

    def keep(self, rows: Sequence[int]) -> None:
        """Remove all other rows, and the columns that hold only padding then."""
        if len(rows) == len(self.sequences):
            return
        self.sequences = [self.sequences[row] for row in rows]
        if not rows:
            self._cache = None
            return
        indices = self._indices(rows)
        self._mask = self._mask[indices]
        self._cache.reorder_cache(indices)
        empty = int((self._mask.sum(dim=0) == 0).sum()) if self.mixes_lengths else 0
        if empty:
            self._mask = self._mask[:, empty:]
            for layer in self._cache.layers:
                if hasattr(layer, "trim"):
                    layer.trim(empty)

    def _compute(self, ids: Tensor, mask: Tensor, positions: Tensor, cache: Any) -> Tensor:
        """Return the logits after the last token of each row, of shape (rows, vocabulary), in float32."""
        arguments = {"position_ids": positions} if self._takes_positions else {}
        with torch.inference_mode():
            output = self._model(
                input_ids=ids, attention_mask=mask, use_cache=True, **{self._cache_name: cache}, **arguments,
                **self._last_only,
            )  # fmt: skip
            logits: Tensor = output.logits[:, -1].float()
            return logits

    def _join(self, sequences: Sequence[TokenSequence], mask: Tensor, cache: Any) -> None:
        if not self.sequences:
            self.sequences, self._mask, self._cache = list(sequences), mask, cache
            return
        width = max(self._mask.shape[1], mask.shape[1])
        padded = [torch.nn.functional.pad(part, (width - part.shape[1], 0)) for part in (self._mask, mask)]
        self._mask = torch.cat(padded)
        for layer, other in zip(self._cache.layers, cache.layers, strict=True):
            if hasattr(layer, "join"):
                layer.join(other)
        self.sequences = [*self.sequences, *sequences]

    @staticmethod
    def _extend(sequences: Sequence[TokenSequence], logits: Tensor) -> None:
        with torch.inference_mode():
            tokens = choose(logits, sequences)
        for sequence, token in zip(sequences, tokens, strict=True):
            sequence.add(token)

    def _indices(self, rows: Sequence[int]) -> Tensor:
        return torch.tensor(rows, dtype=torch.int64, device=self._device)
