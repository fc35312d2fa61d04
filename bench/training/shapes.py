"""Models (by shape, with random weights) and random documents of the training benchmark."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np

from finetune.data.corpus import Corpus, Document

__all__ = ["SHAPES", "Cell", "Shape", "config", "documents", "flops", "make"]


@dataclass(frozen=True)
class Shape:
    """A model and its settings on a GPU.

    Attributes:
        kind: Name of its configuration class in transformers.
        fields: Fields of the configuration.
        goal: Target tokens/s without padding on one H200, for documents of 512 tokens in bfloat16.
        batch: Documents per optimizer step.
        documents: Documents per turn: 2 to 3 seconds of work.
        rows: Rows of 512 tokens in a micro-batch of TRL.
        ours: Settings of this project's trainer where the default would not fit.
        lora: Whether to train adapters of rank 16 instead of the weights.
    """

    kind: str
    fields: dict[str, Any]
    goal: float | None = None
    batch: int = 128
    documents: int = 256
    rows: int = 64
    ours: dict[str, Any] = field(default_factory=dict)
    lora: bool = False


def _decoder(
    vocab: int, width: int, inner: int, layers: int, heads: int, kv_heads: int, **fields: Any
) -> dict[str, Any]:
    return {
        "vocab_size": vocab, "hidden_size": width, "intermediate_size": inner, "num_hidden_layers": layers,
        "num_attention_heads": heads, "num_key_value_heads": kv_heads, "max_position_embeddings": 8192,
        "tie_word_embeddings": True, **fields,
    }  # fmt: skip


_8B = _decoder(128256, 4096, 14336, 32, 32, 8, tie_word_embeddings=False)

SHAPES = {
    "smollm2-135m": Shape("LlamaConfig", _decoder(49152, 576, 1536, 30, 9, 3), 350_000, documents=1536),
    "qwen3-0.6b": Shape("Qwen3Config", _decoder(151936, 1024, 3072, 28, 16, 8, head_dim=128), 105_000, documents=512),
    "llama-3.2-1b": Shape("LlamaConfig", _decoder(128256, 2048, 8192, 16, 32, 8), 62_000),
    "llama-3.1-8b": Shape(
        "LlamaConfig", _8B, 10_500, batch=64, documents=64, rows=8,
        ours={"micro_batch_tokens": 16_384, "recompute": True},
    ),
    "llama-3.1-8b-lora": Shape(
        "LlamaConfig", _8B, 15_500, batch=64, documents=64, rows=16, ours={"micro_batch_tokens": 8_192}, lora=True
    ),
    "tiny": Shape("LlamaConfig", _decoder(512, 64, 128, 2, 4, 2), batch=16, documents=64, rows=8),
}  # fmt: skip


@dataclass(frozen=True)
class Cell:
    """One trainer on one model with one setting.

    Attributes:
        model: A key of ``SHAPES``.
        trainer: ``ours`` or ``trl``.
        setting: Label of the setting in the table.
        options: Options of the trainer: fields of ``finetune.TrainingOptions``, or of ``SFTConfig`` and ``attention``.
        device: ``cpu`` or ``cuda``.
        batch: Documents per optimizer step.
        documents: Documents per turn.
        turns: Number of turns, including the first, which warms up.
    """

    model: str
    trainer: str
    setting: str
    options: dict[str, Any]
    device: str
    batch: int
    documents: int
    turns: int

    @property
    def shape(self) -> Shape:
        return SHAPES[self.model]

    def plain(self) -> dict[str, Any]:
        return asdict(self)


def config(shape: Shape) -> Any:
    """Return the configuration of a model; token ids 0 to 2 are padding, BOS and EOS."""
    import transformers

    return getattr(transformers, shape.kind)(**shape.fields, pad_token_id=0, bos_token_id=1, eos_token_id=2)


def make(cell: Cell, attention: str = "sdpa") -> Any:
    """Build the model with random weights on its device: bfloat16 on a GPU, float32 on a CPU."""
    import torch
    from transformers import AutoModelForCausalLM

    torch.manual_seed(0)
    dtype = torch.bfloat16 if cell.device == "cuda" else torch.float32
    with torch.device(cell.device):
        return AutoModelForCausalLM.from_config(config(cell.shape), dtype=dtype, attn_implementation=attention)


def documents(cell: Cell) -> Corpus:
    """Return documents of random tokens. On a GPU each has 512 tokens, of which the second half is supervised.

    On a CPU, lengths resemble instructions in Alpaca's prompt: a prompt of about 73 tokens (log-normal, median 70) and
    an answer of about 60 (log-normal, median 40), together at most 512.
    """
    random = np.random.default_rng(0)
    corpus = []
    for number in range(cell.documents):
        if cell.device == "cuda":
            prompt, answer = 256, 256
        else:
            prompt = int(np.clip(random.lognormal(np.log(70), 0.3), 40, 400))
            answer = int(np.clip(random.lognormal(np.log(40), 0.9), 2, 512 - prompt))
        ids = random.integers(3, cell.shape.fields["vocab_size"], prompt + answer).astype(np.int32)
        corpus.append(Document(ids, np.arange(len(ids)) >= prompt, f"random:{number}"))
    return Corpus.of(corpus)


def flops(cell: Cell, corpus: Corpus) -> float | None:
    """Return the floating-point operations of a training step per token."""
    import torch

    from finetune.model.footprint import measure_footprint
    from finetune.options import Lora

    lora = Lora(rank=16, alpha=32) if cell.shape.lora else None
    footprint = measure_footprint(config(cell.shape), dtype=torch.bfloat16, lora=lora)
    length = float((corpus.lengths**2).sum() / corpus.lengths.sum())
    return footprint and footprint.flops_per_token(length, supervised=float(corpus.supervised.mean()))
