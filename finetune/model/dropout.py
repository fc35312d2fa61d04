"""Dropout, switched off while the model stays in training mode, in which alone activations are recomputed."""

from __future__ import annotations

from typing import Any

from torch import nn

__all__ = ["disable_dropout"]


def disable_dropout(model: nn.Module) -> None:
    """Set every dropout probability of a model to 0; its configuration, which is saved with it, is unchanged.

    Layers keep their probabilities in modules (``nn.Dropout``), or as numbers that they pass to functions
    (``attention_dropout``, ``layerdrop``).
    """
    for module in model.modules():
        if isinstance(module, nn.modules.dropout._DropoutNd):
            module.p = 0.0
        for name, value in vars(module).items():
            if isinstance(value, float) and _is_probability(name):
                setattr(module, name, 0.0)


def _is_probability(name: Any) -> bool:
    return isinstance(name, str) and any(word in name for word in ("dropout", "pdrop", "layerdrop"))
