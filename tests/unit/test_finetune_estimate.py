"""Predicted costs against counted ones."""

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


class Peak(TorchDispatchMode):
    """The most bytes alive at once of the tensors that operations made."""

    def __init__(self) -> None:
        super().__init__()
        self.now = self.most = 0
        self._seen: set[int] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        known = {one.untyped_storage()._cdata for one in tree_leaves((args, kwargs)) if isinstance(one, torch.Tensor)}
        out = func(*args, **(kwargs or {}))
        for one in tree_leaves(out):
            if isinstance(one, torch.Tensor) and one.untyped_storage()._cdata not in known | self._seen:
                self._add(one.untyped_storage())
        return out

    def _add(self, storage: Any) -> None:
        size, address = storage.nbytes(), storage._cdata
        self._seen.add(address)
        self.now += size
        self.most = max(self.most, self.now)

        def gone() -> None:
            self.now -= size
            self._seen.discard(address)

        weakref.finalize(storage, gone)


@pytest.mark.parametrize("options", [{}, {"num_key_value_heads": 4}, {"tie_word_embeddings": False}])
def test_activations_are_predicted_from_what_autograd_keeps(options: dict[str, Any]) -> None:
    packed_lm, footprint = ready(**options)
    own = {one.untyped_storage()._cdata for one in packed_lm.parameters()}
    kept: dict[int, torch.Tensor] = {}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        kept.setdefault(tensor.untyped_storage()._cdata, tensor)
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        states = packed_lm.hidden(batch())
    found = sum(one.untyped_storage().nbytes() for address, one in kept.items() if address not in own)
    assert len(states) == TOKENS // 2
    assert footprint.memory(tokens=TOKENS)["activations"] == pytest.approx(found, rel=0.15)


@pytest.mark.parametrize("recompute", [False, True])
def test_the_height_of_a_step_is_predicted(recompute: bool) -> None:
    packed_lm, footprint = ready()
    if recompute:
        model = packed_lm.causal  # the name changed within transformers 5
        enable = getattr(model, "activation_checkpointing_enable", None) or model.gradient_checkpointing_enable
        enable()
    optimizer = FlatAdamW(packed_lm.parameters(), TrainingOptions())
    optimizer.zero_grad()
    one = batch()
    with Peak() as height:
        packed_lm(one, 1.0).backward()
    parts = footprint.memory(tokens=TOKENS, supervised=0.5, recompute=recompute)
    assert parts["activations"] + parts["head"] == pytest.approx(height.most, rel=0.25)
    state = optimizer.state()
    moments = sum(tensor.nbytes for name, tensor in state.items() if not name.endswith("weight"))
    assert parts["optimizer"] == pytest.approx(moments, rel=0.02)
    assert parts["weights"] == sum(weight.nbytes for weight in packed_lm.parameters()) == parts["gradients"]


def test_exact_masters_of_bfloat16_weights_are_counted() -> None:
    model = make_model(300).bfloat16()
    footprint = measure_footprint(model.config, dtype=torch.bfloat16)
    assert footprint is not None
    state = FlatAdamW(model.parameters(), TrainingOptions()).state()
    extra = sum(tensor.nbytes for name, tensor in state.items() if not name.endswith("weight"))
    assert footprint.optimizer == pytest.approx(extra, rel=0.02)
    assert footprint.weights == sum(weight.nbytes for weight in model.parameters())


def counted(packed_lm: PackedCausalLM) -> float:
    """Of the matrix products in a step of the layers; one of ours at the head is of a kind that is not counted."""
    with FlopCounterMode(display=False) as counter:
        packed_lm.hidden(batch()).sum().backward()
    operations = counter.get_flop_counts()["Global"]
    return float(sum(number for name, number in operations.items() if "attention" not in str(name)))


NO_ATTENTION = -1.0  # a length for which the formula has none


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
    assert footprint.trained == sum(one.numel() for one in adapted.parameters() if one.requires_grad)
    assert footprint.parameters == sum(one.numel() for one in adapted.parameters())
    assert footprint.gradients == 4 * footprint.trained
    assert footprint.optimizer == 8 * footprint.trained
    # The inputs of the first layer's projections need no gradient, which the formula does not know.
    first = 2 * 64 * (64 + 32 + 32) + 3 * 2 * 4 * 64
    expected = footprint.flops_per_token(NO_ATTENTION, supervised=0.0) - first
    assert counted(PackedCausalLM(adapted)) == expected * TOKENS


def test_attention_counts_the_places_that_a_document_sees() -> None:
    _, footprint = ready()
    # 4 layers, 4 heads of 16. Over a document of 3 tokens 1 + 2 + 3 places are seen, each by a score and a value.
    forward = 4 * 4 * 16 * (1 + 2 + 3) * 2 * 2
    assert 3 * (footprint.flops_per_token(3.0) - footprint.flops_per_token(NO_ATTENTION)) == pytest.approx(3 * forward)


def test_recomputation_adds_a_forward_pass_of_the_layers() -> None:
    _, footprint = ready()
    usual, more = (footprint.flops_per_token(64.0, supervised=0.0, recompute=again) for again in (False, True))
    assert more == pytest.approx(usual * 4 / 3)


def test_tied_weights_count_once_and_embeddings_as_no_arithmetic() -> None:
    (tied, one), (untied, two) = ready(tie_word_embeddings=True), ready(tie_word_embeddings=False)
    for packed_lm, footprint in ((tied, one), (untied, two)):
        assert footprint.parameters == sum(weight.numel() for weight in packed_lm.parameters())
    assert one.flops_per_token(64.0) == two.flops_per_token(64.0)


def test_only_the_experts_that_a_token_meets_are_arithmetic() -> None:
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


def test_weights_in_four_bits_take_about_half_a_byte() -> None:
    model = make_model(300, hidden_size=64, intermediate_size=192)
    full, quarter = (
        measure_footprint(model.config, dtype=torch.float32, lora=Lora(rank=4, base=base))  # type: ignore[arg-type]
        for base in ("full", "nf4")
    )
    assert full is not None
    assert quarter is not None
    linear = sum(one.weight.numel() for one in model.model.modules() if isinstance(one, torch.nn.Linear))
    assert full.weights - quarter.weights == pytest.approx(linear * (4 - 0.516), rel=1e-3)


def test_a_model_that_can_not_be_examined_is_no_error() -> None:
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
def test_no_gpu_takes_the_peak_of_another(name: str, value: float | None) -> None:
    assert peak(name) == value


def test_mfu_is_a_share_of_the_peak() -> None:
    assert mfu(1e5, 989e7, "NVIDIA H200") == pytest.approx(1.0)


def test_what_does_not_fit_is_said_not_to() -> None:
    assert fits_in_memory({"weights": 50, "activations": 30}, 100)
    assert not fits_in_memory({"weights": 50, "activations": 45}, 100)
    assert fits_in_memory({"weights": 1 << 50}, None)
    assert (total_memory(torch.device("cpu")) or 0) > 1 << 28


def test_memory_that_is_not_there_brings_a_remedy() -> None:
    parts = {"weights": 1 << 30, "activations": 3 << 30}
    assert describe_memory(parts) == describe_memory(parts, 5 << 30) == "4.00 GiB (weights 1.00, activations 3.00)"
    said = describe_memory(parts, 4 << 30)
    assert said.endswith("of 4.00 GiB: try a smaller micro_batch_tokens, or --recipe lora, or --set recompute=on")
    assert "recompute" not in describe_memory(parts, 4 << 30, recompute=True)
