"""Keys and values of a batch whose rows come and go."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from transformers.cache_utils import Cache, DummyLayer, DynamicCache, DynamicLayer, get_layer_types_and_kwargs

__all__ = ["new_cache", "rows_can_join"]

_BLOCK = 128  # columns that a layer grows by
_ATTENTION = {"full_attention", "sliding_attention", "dummy"}


class GrowingLayer(DynamicLayer):  # type: ignore[misc]  # transformers is not typed here
    """Keys and values of one layer, of shape (rows, heads, columns, head size), with room for further columns.

    The layer of transformers copies everything for each token; this one does so for each ``_BLOCK`` tokens. It also
    keeps what lies outside a sliding window, which the mask hides, so that rows of any length can share it.
    """

    def lazy_initialization(self, key_states: Tensor, value_states: Tensor) -> None:
        super().lazy_initialization(key_states, value_states)
        self._set(key_states[:, :, :0], value_states[:, :, :0])

    def _set(self, keys: Tensor, values: Tensor) -> None:
        """Hold these, without room."""
        self._room: tuple[Tensor, Tensor] = (keys, values)
        self.keys, self.values = keys, values

    def update(self, key_states: Tensor, value_states: Tensor, *_args: Any, **_kwargs: Any) -> tuple[Tensor, Tensor]:
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
        start = self.keys.shape[2]
        end = start + key_states.shape[2]
        if end > self._room[0].shape[2]:
            self._room = (_enlarged(self.keys, end + _BLOCK), _enlarged(self.values, end + _BLOCK))
        for room, states in zip(self._room, (key_states, value_states), strict=True):
            room[:, :, start:end] = states
        self.keys, self.values = (room[:, :, :end] for room in self._room)
        return self.keys, self.values

    def get_seq_length(self) -> int:
        return int(self.keys.shape[2]) if self.is_initialized else 0

    def reorder_cache(self, beam_idx: Tensor) -> None:
        """Keep these rows, in this order; a row may be repeated."""
        if self.is_initialized:
            self._set(self.keys.index_select(0, beam_idx), self.values.index_select(0, beam_idx))

    def trim(self, columns: int) -> None:
        """Remove the first columns."""
        if self.is_initialized:
            self._set(self.keys[:, :, columns:], self.values[:, :, columns:])

    def join(self, other: GrowingLayer) -> None:
        """Add the rows of another layer, whose last column becomes the last column of this one."""
        if not other.is_initialized:
            return
        width = max(self.get_seq_length(), other.get_seq_length())
        self._set(
            torch.cat([_padded(self.keys, width), _padded(other.keys, width)]),
            torch.cat([_padded(self.values, width), _padded(other.values, width)]),
        )


def _enlarged(states: Tensor, columns: int) -> Tensor:
    rows, heads, width, size = states.shape
    larger = states.new_empty((rows, heads, columns, size))
    larger[:, :, :width] = states
    return larger


def _padded(states: Tensor, columns: int) -> Tensor:
    return torch.nn.functional.pad(states, (0, 0, columns - states.shape[2], 0))


def rows_can_join(config: Any) -> bool:
    """Return whether rows of different lengths can share a cache of this model: if all of its state is attention's.

    Other state, such as of recurrent layers, has no columns that could be masked.
    """
    return set(get_layer_types_and_kwargs(config.get_text_config(decoder=True))[0]) <= _ATTENTION


def new_cache(config: Any) -> Cache:
    """Return an empty cache; its layers are ``GrowingLayer`` where ``rows_can_join``."""
    text_config = config.get_text_config(decoder=True)
    if not rows_can_join(config):
        return DynamicCache(config=text_config)
    types, _ = get_layer_types_and_kwargs(text_config)
    return Cache(layers=[DummyLayer() if kind == "dummy" else GrowingLayer() for kind in types])
