"""What is trained in the benchmark: models by their shapes, with random weights, and random documents."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np

from finetune.data.corpus import Corpus, Document

__all__ = ["SHAPES", "Cell", "Shape", "config", "documents", "flops", "make"]


@dataclass(frozen=True)
class Shape:
    """A model, and what is asked of a GPU.

    Attributes:
        kind: Its class of configuration in transformers.
        fields: Of the configuration.
        goal: Non-pad tokens/s on one H200, documents of 512 tokens, bfloat16.
        batch: Documents in an optimizer step on a GPU.
        documents: Documents in a turn on a GPU: 2 to 3 seconds of work.
        rows: Rows of 512 tokens in a micro-batch of TRL on a GPU.
        ours: Our settings on a GPU, where the default would not fit.
        lora: Train adapters of rank 16 instead of the weights.
    """

    kind: str
    fields: dict[str, Any]
    goal: float | None = None
    batch: int = 128
    documents: int = 256
    rows: int = 64
    ours: dict[str, Any] = field(default_factory=dict)
    lora: bool = False


def _decoder(vocab: int, width: int, inner: int, layers: int, heads: int, narrow: int, **more: Any) -> dict[str, Any]:
    return {
        "vocab_size": vocab, "hidden_size": width, "intermediate_size": inner, "num_hidden_layers": layers,
        "num_attention_heads": heads, "num_key_value_heads": narrow, "max_position_embeddings": 8192,
        "tie_word_embeddings": True, **more,
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
    """One trainer on one model in one setting.

    Attributes:
        model: A name of ``SHAPES``.
        trainer: ``ours`` or ``trl``.
        setting: How the table calls it.
        options: Of the trainer: fields of ``finetune.Options``, or of ``SFTConfig`` and ``attention``.
        device: ``cpu`` or ``cuda``.
        batch: Documents in an optimizer step.
        documents: Documents in a turn.
        turns: Turns that will be asked for, the first (to warm up) included.
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
    """The configuration; ids 0 to 2 are for padding and borders."""
    import transformers

    return getattr(transformers, shape.kind)(**shape.fields, pad_token_id=0, bos_token_id=1, eos_token_id=2)


def make(cell: Cell, attention: str = "sdpa") -> Any:
    """The model with random weights, on its device: bfloat16 on a GPU, float32 on a CPU."""
    import torch
    from transformers import AutoModelForCausalLM

    torch.manual_seed(0)
    dtype = torch.bfloat16 if cell.device == "cuda" else torch.float32
    with torch.device(cell.device):
        return AutoModelForCausalLM.from_config(config(cell.shape), dtype=dtype, attn_implementation=attention)


def documents(cell: Cell) -> Corpus:
    """Random tokens. On a GPU every document has 512, of which the latter half are supervised.

    On a CPU lengths are those of instructions in Alpaca's prompt: a prompt of about 73 tokens (log-normal, median 70),
    an answer of about 60 (log-normal, median 40), together at most 512.
    """
    random = np.random.default_rng(0)
    made = []
    for number in range(cell.documents):
        if cell.device == "cuda":
            prompt, answer = 256, 256
        else:
            prompt = int(np.clip(random.lognormal(np.log(70), 0.3), 40, 400))
            answer = int(np.clip(random.lognormal(np.log(40), 0.9), 2, 512 - prompt))
        ids = random.integers(3, cell.shape.fields["vocab_size"], prompt + answer).astype(np.int32)
        made.append(Document(ids, np.arange(len(ids)) >= prompt, f"random:{number}"))
    return Corpus.of(made)


def flops(cell: Cell, corpus: Corpus) -> float | None:
    """Of a training step, for each token."""
    import torch

    from finetune.model.footprint import measure_footprint
    from finetune.options import Lora

    lora = Lora(rank=16, alpha=32) if cell.shape.lora else None
    footprint = measure_footprint(config(cell.shape), dtype=torch.bfloat16, lora=lora)
    length = float((corpus.lengths**2).sum() / corpus.lengths.sum())
    return footprint and footprint.flops_per_token(length, supervised=float(corpus.supervised.mean()))
