"""Merging of adapters into their base model, with a comparison of both models."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from finetune.model.adapters import read_base_record
from finetune.model.loading import load_adapted, load_config
from finetune.model.saving import save
from finetune.record import RECORD, require_complete
from selfinstruct.common.files import require_absent

__all__ = ["Parity", "merge_adapters"]

_PROBES = (
    "The capital of France is",
    "Write a short poem about the sea.\n",
    "def add(a, b):\n    return",
    "Question: What is 12 times 3?\nAnswer:",
    "Once upon a time there was a girl who lived by the river with her grandmother, and every morning she",
    "### Instruction:\nName three colours of the rainbow.\n\n### Response:\n",
    "Water boils at 100 degrees Celsius at sea level, because",
    "Dear Sir or Madam,\n\nI am writing to",
)


@dataclass(frozen=True)
class Parity:
    """Comparison of a merged model with the adapted one, over a few texts.

    Attributes:
        largest: Largest absolute difference of two logits.
        divergence: Mean Kullback-Leibler divergence of the next-token distributions, merged from adapted, in nats.
        agreement: Fraction of positions at which both models predict the same most likely token.
        positions: Number of positions compared.
    """

    largest: float
    divergence: float
    agreement: float
    positions: int

    @classmethod
    def of(cls, adapted: list[Tensor], merged: list[Tensor]) -> Parity:
        """Compare logits: for each text an array of shape (positions, V)."""
        first, second = torch.cat(adapted).double(), torch.cat(merged).double()
        log_first, log_second = first.log_softmax(-1), second.log_softmax(-1)
        return cls(
            largest=float((first - second).abs().max()),
            divergence=max(0.0, float((log_first.exp() * (log_first - log_second)).sum(-1).mean())),
            agreement=float((first.argmax(-1) == second.argmax(-1)).double().mean()),
            positions=len(first),
        )


def merge_adapters(
    folder: Path, out: Path, *, base: str | None = None, dtype: torch.dtype | None = None
) -> Parity:  # fmt: skip
    """Merge the adapters in ``folder`` into their base model, and write the result to ``out``, atomically.

    QLoRA adapters were trained on 4-bit weights but are merged into the original weights: the comparison then shows how
    far the two models differ.

    Args:
        folder: The directory of a training run with adapters.
        out: The folder to create.
        base: Current location of the base model, if it has moved. It must have the recorded weights.
        dtype: Precision of the merged weights; by default the base model's. Sums are made in float32.

    Returns:
        The comparison of the merged with the adapted model.

    Raises:
        UsageError: There are no adapters in ``folder``, or ``out`` exists already.
        RunChangedError: The base model has other weights than the recorded ones.
        MissingExtraError: The adapters are of QLoRA, and bitsandbytes is not installed.
        SelfInstructError: The model can't be written.
    """
    require_complete(folder)
    require_absent(out)
    loaded = load_adapted(folder, base=base, dtype=torch.float32, dequantize=True)
    probes = [loaded.tokenizer(text, return_tensors="pt").input_ids for text in _PROBES]
    if read_base_record(folder)["held"] == "nf4":
        adapted = _logits(load_adapted(folder, base=base, dtype=torch.float32).model, probes)
    else:
        adapted = _logits(loaded.model, probes)
    merged = loaded.model.merge_and_unload().to(dtype or load_config(loaded.base.name).dtype or torch.float32)
    parity = Parity.of(adapted, _logits(merged, probes))
    record = {RECORD: (folder / RECORD).read_bytes()} if (folder / RECORD).is_file() else {}
    save(merged, loaded.tokenizer, out, extra={**loaded.extra, **record})
    return parity


@torch.no_grad()
def _logits(model: Any, probes: list[Tensor]) -> list[Tensor]:
    """Return (positions, V) float32 logits for each text."""
    return [model(ids).logits[0].float() for ids in probes]
