"""Predicted memory and arithmetic, compared with measurements."""

from __future__ import annotations

import weakref
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode

from finetune.data.batch import Batch, collate
from finetune.data.corpus import Corpus, Document
from finetune.model.adapters import add_adapters
from finetune.model.attention import use_packed_attention
from finetune.model.footprint import (
    ModelFootprint,
    describe_memory,
    fits_in_memory,
    measure_footprint,
    mfu,
    peak,
    total_memory,
)
from finetune.model.packed_lm import PackedCausalLM
from finetune.options import Lora, TrainingOptions
from finetune.training.optimizer import FlatAdamW
from tests.finetune_fixtures import make_model

TOKENS, LENGTH = 512, 64  # documents of 64 tokens, half of each supervised


def batch(vocabulary: int = 300) -> Batch:
    rng = np.random.default_rng(0)
    documents = [
        Document(rng.integers(0, vocabulary, LENGTH, dtype=np.int32), np.arange(LENGTH) >= LENGTH // 2, "x")
        for _ in range(TOKENS // LENGTH)
    ]
    return collate(Corpus.of(documents), range(len(documents)), max_seqlen=LENGTH)


def ready(**options: Any) -> tuple[PackedCausalLM, ModelFootprint]:
    model = make_model(300, hidden_size=64, intermediate_size=192, num_hidden_layers=4, **options).train()
    footprint = measure_footprint(model.config, dtype=torch.float32)
    assert footprint is not None
    use_packed_attention(model, "sdpa")
    return PackedCausalLM(model), footprint


class PeakMemory(TorchDispatchMode):
    """Measures the peak of the bytes of all tensors that operations create."""

    def __init__(self) -> None:
        super().__init__()
        self.current = self.peak = 0
        self._seen: set[int] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        known = {
            tensor.untyped_storage()._cdata
            for tensor in tree_leaves((args, kwargs))
            if isinstance(tensor, torch.Tensor)
        }
        out = func(*args, **(kwargs or {}))
        for tensor in tree_leaves(out):
            if isinstance(tensor, torch.Tensor) and tensor.untyped_storage()._cdata not in known | self._seen:
                self._add(tensor.untyped_storage())
        return out

    def _add(self, storage: Any) -> None:
        size, address = storage.nbytes(), storage._cdata
        self._seen.add(address)
        self.current += size
        self.peak = max(self.peak, self.current)

        def release() -> None:
            self.current -= size
            self._seen.discard(address)

        weakref.finalize(storage, release)


@pytest.mark.parametrize("options", [{}, {"num_key_value_heads": 4}, {"tie_word_embeddings": False}])
def test_predicted_activations_match_what_autograd_saves(options: dict[str, Any]) -> None:
    packed_lm, footprint = ready(**options)
    model_storage = {tensor.untyped_storage()._cdata for tensor in packed_lm.parameters()}
    saved: dict[int, torch.Tensor] = {}

    def save(tensor: torch.Tensor) -> torch.Tensor:
        saved.setdefault(tensor.untyped_storage()._cdata, tensor)
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(save, lambda tensor: tensor):
        states = packed_lm.hidden(batch())
    measured = sum(
        tensor.untyped_storage().nbytes() for address, tensor in saved.items() if address not in model_storage
    )
    assert len(states) == TOKENS // 2
    assert footprint.memory(tokens=TOKENS)["activations"] == pytest.approx(measured, rel=0.15)


@pytest.mark.parametrize("recompute", [False, True])
def test_predicted_memory_matches_the_peak_of_a_step(recompute: bool) -> None:
    packed_lm, footprint = ready()
    if recompute:
        model = packed_lm.causal  # the name changed within transformers 5
        enable = getattr(model, "activation_checkpointing_enable", None) or model.gradient_checkpointing_enable
        enable()
    optimizer = FlatAdamW(packed_lm.parameters(), TrainingOptions())
    optimizer.zero_grad()
    micro_batch = batch()
    with PeakMemory() as memory:
        packed_lm(micro_batch, 1.0).backward()
    parts = footprint.memory(tokens=TOKENS, supervised=0.5, recompute=recompute)
    assert parts["activations"] + parts["head"] == pytest.approx(memory.peak, rel=0.25)
    state = optimizer.state()
    moments = sum(tensor.nbytes for name, tensor in state.items() if not name.endswith("weight"))
    assert parts["optimizer"] == pytest.approx(moments, rel=0.02)
    assert parts["weights"] == sum(weight.nbytes for weight in packed_lm.parameters()) == parts["gradients"]


def test_the_remainders_of_bfloat16_weights_are_counted() -> None:
    model = make_model(300).bfloat16()
    footprint = measure_footprint(model.config, dtype=torch.bfloat16)
    assert footprint is not None
    state = FlatAdamW(model.parameters(), TrainingOptions()).state()
    state_bytes = sum(tensor.nbytes for name, tensor in state.items() if not name.endswith("weight"))
    assert footprint.optimizer == pytest.approx(state_bytes, rel=0.02)
    assert footprint.weights == sum(weight.nbytes for weight in model.parameters())


def counted(packed_lm: PackedCausalLM) -> float:
    """Count the floating-point operations of the layers' matrix products, without attention."""
    with FlopCounterMode(display=False) as counter:
        packed_lm.hidden(batch()).sum().backward()
    operations = counter.get_flop_counts()["Global"]
    return float(sum(number for name, number in operations.items() if "attention" not in str(name)))


NO_ATTENTION = -1.0  # a length for which the attention term is zero


def test_the_formula_counts_the_matrix_products_of_the_layers() -> None:
    packed_lm, footprint = ready()
    assert counted(packed_lm) == footprint.flops_per_token(NO_ATTENTION, supervised=0.0) * TOKENS


@pytest.mark.parametrize("frozen", [False, True])
def test_the_formula_counts_the_head_for_supervised_tokens(frozen: bool) -> None:
    packed_lm, footprint = ready(tie_word_embeddings=False)
    packed_lm.head.weight.requires_grad_(not frozen)
    states = torch.zeros(TOKENS // 2, 64, requires_grad=True)
    with FlopCounterMode(display=False) as counter:
        torch.nn.functional.linear(states, packed_lm.head.weight).sum().backward()
    known = replace(footprint, head_trained=not frozen)
    head = known.flops_per_token(64.0, supervised=0.5) - known.flops_per_token(64.0, supervised=0.0)
    assert counter.get_total_flops() == head * TOKENS


def test_the_formula_counts_frozen_weights_and_adapters() -> None:
    lora = Lora(rank=4)
    model = make_model(300, hidden_size=64, intermediate_size=192, num_hidden_layers=4)
    footprint = measure_footprint(model.config, dtype=torch.float32, lora=lora)
    assert footprint is not None
    adapted = add_adapters(model, lora)
    use_packed_attention(model, "sdpa")
    assert footprint.trained == sum(tensor.numel() for tensor in adapted.parameters() if tensor.requires_grad)
    assert footprint.parameters == sum(tensor.numel() for tensor in adapted.parameters())
    assert footprint.gradients == 4 * footprint.trained
    assert footprint.optimizer == 8 * footprint.trained
    # The formula ignores that the inputs of the first layer's projections need no gradient.
    first = 2 * 64 * (64 + 32 + 32) + 3 * 2 * 4 * 64
    expected = footprint.flops_per_token(NO_ATTENTION, supervised=0.0) - first
    assert counted(PackedCausalLM(adapted)) == expected * TOKENS


def test_attention_is_counted_within_documents() -> None:
    _, footprint = ready()
    # 4 layers, 4 heads of 16. A document of 3 tokens has 1 + 2 + 3 query-key pairs, each with a score and a value.
    forward = 4 * 4 * 16 * (1 + 2 + 3) * 2 * 2
    assert 3 * (footprint.flops_per_token(3.0) - footprint.flops_per_token(NO_ATTENTION)) == pytest.approx(3 * forward)


def test_recomputation_adds_a_forward_pass_of_the_layers() -> None:
    _, footprint = ready()
    usual, recomputed = (
        footprint.flops_per_token(64.0, supervised=0.0, recompute=recompute) for recompute in (False, True)
    )
    assert recomputed == pytest.approx(usual * 4 / 3)


def test_tied_weights_count_once_and_embeddings_need_no_arithmetic() -> None:
    (tied, tied_footprint), (untied, untied_footprint) = (
        ready(tie_word_embeddings=True),
        ready(tie_word_embeddings=False),
    )
    for packed_lm, footprint in ((tied, tied_footprint), (untied, untied_footprint)):
        assert footprint.parameters == sum(weight.numel() for weight in packed_lm.parameters())
    assert tied_footprint.flops_per_token(64.0) == untied_footprint.flops_per_token(64.0)


def test_only_the_experts_of_a_token_are_counted() -> None:
    from transformers import MixtralConfig

    few, many = (
        measure_footprint(
            MixtralConfig(
                vocab_size=300, hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4,
                num_key_value_heads=2, num_local_experts=experts, num_experts_per_tok=2,
            ),
            dtype=torch.bfloat16,
        )
        for experts in (2, 8)
    )  # fmt: skip
    assert few is not None
    assert many is not None
    routers = 2 * 32 * (8 - 2)
    assert many.trained_matrices == few.trained_matrices + routers
    assert many.parameters > 2 * few.parameters


def test_4bit_weights_take_about_half_a_byte() -> None:
    model = make_model(300, hidden_size=64, intermediate_size=192)
    full, quarter = (
        measure_footprint(model.config, dtype=torch.float32, lora=Lora(rank=4, base=base))  # type: ignore[arg-type]
        for base in ("full", "nf4")
    )
    assert full is not None
    assert quarter is not None
    linear = sum(tensor.weight.numel() for tensor in model.model.modules() if isinstance(tensor, torch.nn.Linear))
    assert full.weights - quarter.weights == pytest.approx(linear * (4 - 0.516), rel=1e-3)


def test_a_model_that_can_not_be_measured_has_no_footprint() -> None:
    from transformers import T5Config

    assert measure_footprint(T5Config(), dtype=torch.float32) is None
    assert mfu(1000.0, None, "NVIDIA H200") is None


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("NVIDIA H200", 989e12),
        ("NVIDIA H100 80GB HBM3", 989e12),
        ("NVIDIA H100 PCIe", 756e12),
        ("NVIDIA GH200 480GB", 989e12),
        ("NVIDIA A100-SXM4-80GB", 312e12),
        ("NVIDIA A100-SXM4-40GB MIG 1g.5gb", None),
        ("NVIDIA A10G", 70e12),
        ("NVIDIA A10", 125e12),
        ("NVIDIA L40S", 362e12),
        ("NVIDIA L4", 121e12),
        ("NVIDIA GeForce RTX 4090", 165e12),
        ("NVIDIA GeForce RTX 4090 Laptop GPU", None),
        ("Tesla T4", None),
        ("cpu", None),
    ],
)
def test_the_peak_follows_from_the_name_of_the_gpu(name: str, value: float | None) -> None:
    assert peak(name) == value


def test_mfu_is_a_fraction_of_the_peak() -> None:
    assert mfu(1e5, 989e7, "NVIDIA H200") == pytest.approx(1.0)


def test_memory_fits_with_a_margin() -> None:
    assert fits_in_memory({"weights": 50, "activations": 30}, 100)
    assert not fits_in_memory({"weights": 50, "activations": 45}, 100)
    assert fits_in_memory({"weights": 1 << 50}, None)
    assert (total_memory(torch.device("cpu")) or 0) > 1 << 28


def test_insufficient_memory_is_reported_with_remedies() -> None:
    parts = {"weights": 1 << 30, "activations": 3 << 30}
    assert describe_memory(parts) == describe_memory(parts, 5 << 30) == "4.00 GiB (weights 1.00, activations 3.00)"
    message = describe_memory(parts, 4 << 30)
    assert message.endswith("of 4.00 GiB: try a smaller micro_batch_tokens, or --recipe lora, or --set recompute=on")
    assert "recompute" not in describe_memory(parts, 4 << 30, recompute=True)
