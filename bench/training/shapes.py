"""Models (by shape, with random weights) and random documents of the training benchmark."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from finetune.data.corpus import Corpus, Document

__all__ = ["LENGTHS", "SHAPES", "Cell", "Lengths", "Shape", "config", "documents", "flops", "make"]


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
        lora: Whether to train adapters of rank 16 instead of the weights.
    """

    kind: str
    fields: dict[str, Any]
    goal: float | None = None
    batch: int = 128
    documents: int = 256
    rows: int = 64
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


@dataclass(frozen=True)
class Lengths:
    """Lengths of random documents: those of a prompt and of its answer are log-normal, and together limited.

    Attributes:
        prompt, answer: Median and spread (standard deviation of the logarithm), in tokens; spread 0 makes all equal.
        longest: Maximum tokens of a document.
        mean: About the mean tokens of a document.
    """

    prompt: tuple[float, float]
    answer: tuple[float, float]
    longest: int
    mean: int


LENGTHS = {
    "512": Lengths((256, 0.0), (256, 0.0), 512, 512),
    "alpaca-like": Lengths((70, 0.3), (40, 0.9), 512, 133),  # short instructions in Alpaca's prompt
    "tulu-like": Lengths((120, 1.0), (260, 0.9), 2048, 550),  # a mixture of chats, with some long answers
}

SHAPES = {
    "smollm2-135m": Shape("LlamaConfig", _decoder(49152, 576, 1536, 30, 9, 3), 397_000, documents=1536),
    "qwen3-0.6b": Shape("Qwen3Config", _decoder(151936, 1024, 3072, 28, 16, 8, head_dim=128), 124_000, documents=512),
    "llama-3.2-1b": Shape("LlamaConfig", _decoder(128256, 2048, 8192, 16, 32, 8), 77_000),
    "llama-3.1-8b": Shape("LlamaConfig", _8B, 12_300, batch=64, documents=64, rows=8),
    "llama-3.1-8b-lora": Shape("LlamaConfig", _8B, 17_200, batch=64, documents=64, rows=16, lora=True),
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
        lengths: A key of ``LENGTHS``.
    """

    model: str
    trainer: str
    setting: str
    options: dict[str, Any]
    device: str
    batch: int
    documents: int
    turns: int
    lengths: str

    @property
    def shape(self) -> Shape:
        return SHAPES[self.model]

    @property
    def longest(self) -> int:
        """Maximum tokens of a document."""
        return LENGTHS[self.lengths].longest

    def plain(self) -> dict[str, Any]:
        return asdict(self)


def config(shape: Shape) -> Any:
    """Return the configuration of a model; token ids 0 to 2 are padding, BOS and EOS."""
    import transformers

    return getattr(transformers, shape.kind)(**shape.fields, pad_token_id=0, bos_token_id=1, eos_token_id=2)


def make(cell: Cell, attention: str = "sdpa", dtype: Any = None) -> Any:
    """Build the model with random weights on its device: by default bfloat16 on a GPU, float32 on a CPU."""
    import torch
    from transformers import AutoModelForCausalLM

    torch.manual_seed(0)
    dtype = dtype or (torch.bfloat16 if cell.device == "cuda" else torch.float32)
    with torch.device(cell.device):
        return AutoModelForCausalLM.from_config(config(cell.shape), dtype=dtype, attn_implementation=attention)


def documents(cell: Cell) -> Corpus:
    """Return documents of random tokens, whose answers are supervised."""
    random, lengths = np.random.default_rng(0), LENGTHS[cell.lengths]
    corpus = []
    for number in range(cell.documents):
        prompt = int(np.clip(_draw(random, lengths.prompt), 16, lengths.longest * 0.8))
        answer = int(np.clip(_draw(random, lengths.answer), 2, lengths.longest - prompt))
        ids = random.integers(3, cell.shape.fields["vocab_size"], prompt + answer).astype(np.int32)
        corpus.append(Document(ids, np.arange(len(ids)) >= prompt, f"random:{number}"))
    return Corpus.of(corpus)


def _draw(random: np.random.Generator, spread: tuple[float, float]) -> int:
    return round(random.lognormal(np.log(spread[0]), spread[1]))


def flops(cell: Cell, corpus: Corpus) -> float | None:
    """Return the floating-point operations of a training step per token."""
    import torch

    from finetune.model.footprint import measure_footprint
    from finetune.options import Lora

    lora = Lora(rank=16, alpha=32) if cell.shape.lora else None
    footprint = measure_footprint(config(cell.shape), dtype=torch.bfloat16, lora=lora)
    length = float((corpus.lengths**2).sum() / corpus.lengths.sum())
    return footprint and footprint.flops_per_token(length, supervised=float(corpus.supervised.mean()))
