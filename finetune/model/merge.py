"""Adapters into the weights that they were trained beside, with a report of what that changed."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from finetune.model.adapters import recorded
from finetune.model.loading import load_adapted, load_config, save
from finetune.record import require_complete
from selfinstruct.common.files import require_vacant

__all__ = ["Parity", "merge"]

_TEXTS = (
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
    """A merged model beside the one that was trained, over a few texts.

    Attributes:
        largest: Largest difference of two logits.
        divergence: Kullback-Leibler divergence of the merged model's next token from the trained one's: mean, in nats.
        agreement: Share of places at which both hold the same token for the likeliest.
        places: How many places were compared.
    """

    largest: float
    divergence: float
    agreement: float
    places: int

    @classmethod
    def of(cls, trained: list[Tensor], merged: list[Tensor]) -> Parity:
        """Compare logits: one (places, vocabulary) array for each text."""
        one, other = torch.cat(trained).double(), torch.cat(merged).double()
        log_one, log_other = one.log_softmax(-1), other.log_softmax(-1)
        return cls(
            largest=float((one - other).abs().max()),
            divergence=max(0.0, float((log_one.exp() * (log_one - log_other)).sum(-1).mean())),
            agreement=float((one.argmax(-1) == other.argmax(-1)).double().mean()),
            places=len(one),
        )


def merge(folder: Path, out: Path, *, base: str | None = None, dtype: torch.dtype | None = None) -> Parity:
    """Write the whole model that the adapters in ``folder`` make of their base, into ``out``, in one step.

    Adapters of QLoRA were trained beside weights in 4 bits, and are merged into those weights as they were before: the
    parity then tells how far the two models are apart.

    Args:
        base: Where the base model lies now, if not where it lay. It must have the weights that were recorded.
        dtype: Of the merged weights; those of the base, if not given. The sums are made in float32.

    Raises:
        UsageError: There are no adapters in ``folder``, or something in ``out``.
        RunChangedError: The base is another one.
        MissingExtraError: The adapters are of QLoRA, and bitsandbytes is not installed.
        SelfInstructError: The model can't be written.
    """
    require_complete(folder)
    require_vacant(out)
    loaded = load_adapted(folder, base=base, dtype=torch.float32, whole=True)
    texts = [loaded.tokenizer(text, return_tensors="pt").input_ids for text in _TEXTS]
    if recorded(folder)["held"] == "nf4":
        trained = _logits(load_adapted(folder, base=base, dtype=torch.float32).model, texts)
    else:
        trained = _logits(loaded.model, texts)
    merged = loaded.model.merge_and_unload().to(dtype or load_config(loaded.base.name).dtype or torch.float32)
    parity = Parity.of(trained, _logits(merged, texts))
    kept = folder / "finetune.json"
    save(merged, loaded.tokenizer, out, extra={kept.name: kept.read_bytes()} if kept.is_file() else None)
    return parity


@torch.no_grad()
def _logits(model: Any, texts: list[Tensor]) -> list[Tensor]:
    return [model(ids).logits[0].float() for ids in texts]
