"""Choice of the way in which packed documents are isolated: the first that is exact for a model.

In order: the attention of the options (``varlen`` or ``sdpa``), the model's own eager attention called once per
document, the model's own attention with a (T, T) mask of the documents, and no packing.
"""

from __future__ import annotations

from typing import Any

import torch

from finetune.model.attention import NO_PACKING, restore_attention, use_packed_attention
from finetune.model.isolation import MODEL_FAILURES, check_causality, check_isolation
from finetune.model.packed_lm import BLOCK_MASK_TOKENS, PackedCausalLM
from selfinstruct.common.files import first_line
from selfinstruct.errors import UsageError

__all__ = ["isolate_documents"]

_BLOCK_MASK = "block mask"


def isolate_documents(
    packed_lm: PackedCausalLM, attention: str, device: torch.device, *, longest: int = 0
) -> list[str]:  # fmt: skip
    """Switch a model to the first way of packing that isolates documents exactly, and check that it is causal.

    Args:
        attention: ``varlen`` or ``sdpa``, tried first; empty for no packing.
        longest: Tokens of the longest document of the run.

    Returns:
        A message if the model does not pack in the way of ``attention``.

    Raises:
        UsageError: The model is not causal, or can't be trained even one document at a time.
    """
    reasons = []
    for way in dict.fromkeys((attention, "eager", _BLOCK_MASK)) if attention else ():
        try:
            _use(packed_lm, way)
            check_isolation(packed_lm, device, longest=longest)
        except torch.OutOfMemoryError:
            raise
        except (UsageError, *MODEL_FAILURES) as error:
            reasons.append(_reason(error))
            continue
        check_causality(packed_lm, device, longest=longest)
        return [_notice(way, reasons[0])] if reasons else []
    _use(packed_lm, "")
    try:
        check_causality(packed_lm, device, longest=longest)
    except torch.OutOfMemoryError:
        raise
    except MODEL_FAILURES as error:
        model_type = packed_lm.causal.config.model_type
        raise UsageError(f"a model of type {model_type!r} can't be trained here: {first_line(error)}") from None
    return [f"documents are trained one at a time, without packing: {reasons[0]}"] if reasons else []


def _use(packed_lm: PackedCausalLM, way: str) -> None:
    causal: Any = packed_lm.causal
    packed_lm.block_mask = way == _BLOCK_MASK
    if way in ("", _BLOCK_MASK):
        restore_attention(causal)
    else:
        use_packed_attention(causal, way)


def _notice(way: str, reason: str) -> str:
    if way == _BLOCK_MASK:
        return f"packed documents are isolated by a mask, at most {BLOCK_MASK_TOKENS:,} tokens at once: {reason}"
    return f"packed documents go through the model's own eager attention, one after another: {reason}"


def _reason(error: Exception) -> str:
    text = first_line(error) or type(error).__name__
    return text.removesuffix(f"; {NO_PACKING}")
