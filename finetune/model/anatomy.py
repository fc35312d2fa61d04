"""Parts of a model of transformers, read from the model itself: its text decoder, repeated layers and linear weights.

Names differ between architectures (``model.layers``, ``transformer.h``, ``decoder.layers``), and a text model may be
a part of a vision model. Nothing here depends on a name.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import transformers
from torch import nn
from transformers import AutoModelForCausalLM, PreTrainedModel

__all__ = [
    "auto_class", "find_decoder", "find_layers", "freeze_other_modalities", "has_other_modalities", "text_config",
]  # fmt: skip


def text_config(config: Any) -> Any:
    """Return the configuration of the text decoder, which is ``config`` itself for a text model."""
    try:
        return config.get_text_config(decoder=True)
    except (AttributeError, ValueError):  # several parts could be meant
        return config


def has_other_modalities(config: Any) -> bool:
    """Return whether a text model is only a part of the model, next to encoders of images or sound."""
    return type(text_config(config)) is not type(config)


def auto_class(config: Any) -> Any:
    """Return the auto class that loads the model with all its parts.

    For a model with other modalities, ``AutoModelForCausalLM`` may know no class, or one for its text part only: what
    it saves would no longer be the model that was loaded.
    """
    if has_other_modalities(config):
        for name in ("AutoModelForImageTextToText", "AutoModelForMultimodalLM"):
            candidate: Any = getattr(transformers, name, None)
            if candidate is not None and type(config) in candidate._model_mapping:
                return candidate
    return AutoModelForCausalLM


def find_decoder(causal: Any) -> Any:
    """Return the text model below the head, whose output has ``last_hidden_state``; None if there is no such module."""
    if not has_other_modalities(causal.config):
        decoder = getattr(causal, causal.base_model_prefix or "", None)
        if decoder is not None and decoder is not causal:
            return decoder
    kind, embedding = type(text_config(causal.config)), causal.get_input_embeddings()
    for module in causal.modules():  # from the outside in
        if (
            isinstance(module, PreTrainedModel)
            and module is not causal
            and type(module.config) is kind
            and module.get_output_embeddings() is None
            and any(part is embedding for part in module.modules())
        ):
            return module
    return None


def find_layers(decoder: nn.Module) -> list[nn.Module]:
    """Return the layers of a decoder in order: the items of its outermost module lists that have parameters."""
    layers: dict[int, nn.Module] = {}  # a layer may be repeated
    for items in _outermost_lists(decoder):
        for layer in items:
            if not isinstance(layer, nn.ModuleList | nn.ModuleDict) and next(layer.parameters(), None) is not None:
                layers.setdefault(id(layer), layer)
    return list(layers.values())


def _outermost_lists(module: nn.Module) -> Iterator[nn.ModuleList]:
    for child in module.children():
        if isinstance(child, nn.ModuleList):
            yield child
        else:
            yield from _outermost_lists(child)


def freeze_other_modalities(causal: Any) -> None:
    """Freeze all parameters outside the text decoder and the head of a model with other modalities."""
    decoder = find_decoder(causal) if has_other_modalities(causal.config) else None
    if decoder is None:
        return
    parts = [decoder, causal.get_output_embeddings()]
    trained = {id(parameter) for part in parts if part is not None for parameter in part.parameters()}
    for parameter in causal.parameters():
        parameter.requires_grad_(id(parameter) in trained)
