"""GPU-only behaviour: variable-length attention, compiled layers, synchronisation, memory."""

from __future__ import annotations

import copy
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM, MistralConfig, MistralForCausalLM, Qwen3Config, Qwen3ForCausalLM

from finetune.data.batch import Batch, collate
from finetune.data.corpus import Corpus, Document
from finetune.data.plan import EpochPlan
from finetune.data.shapes import FixedShapes
from finetune.evaluation.held_out import evaluate
from finetune.model.packed_lm import PackedCausalLM
from finetune.options import TrainingOptions
from finetune.training.distributed import World
from finetune.training.estimate import CostEstimate
from finetune.training.loop import OutOfMemoryError, TrainingLoop
from finetune.training.optimizer import FlatAdamW, join_float32
from finetune.training.setup import RuntimeSetup, compile_layers, prepare

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")

WORLD = World(torch.device("cuda"))
SHAPE: dict[str, Any] = {
    "vocab_size": 512, "hidden_size": 256, "intermediate_size": 512, "num_hidden_layers": 2, "num_attention_heads": 8,
    "num_key_value_heads": 2, "head_dim": 64, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2,
}  # fmt: skip


def llama(**more: Any) -> Any:
    torch.manual_seed(0)
    return LlamaForCausalLM(LlamaConfig(**{**SHAPE, **more}))


def qwen() -> Any:
    torch.manual_seed(0)
    return Qwen3ForCausalLM(Qwen3Config(**SHAPE))


def mistral() -> Any:
    torch.manual_seed(0)
    return MistralForCausalLM(MistralConfig(**{**SHAPE, "sliding_window": 32}))


def corpus(count: int = 24, longest: int = 200) -> Corpus:
    rng = np.random.default_rng(0)
    lengths = rng.integers(8, longest + 1, count)
    return Corpus.of(
        Document(rng.integers(3, 512, size).astype(np.int32), np.arange(size) >= size // 2, f"rows.jsonl:{number}")
        for number, size in enumerate(lengths, start=1)
    )


def prepared(model: Any, **options: Any) -> tuple[PackedCausalLM, RuntimeSetup]:
    setup = RuntimeSetup.of(TrainingOptions(**options), WORLD.device)
    return prepare(model.to(setup.dtype).to(WORLD.device), setup, WORLD, recompute=False), setup


def batch(documents: Corpus, indices: list[int], pad_to: int | None = None) -> Batch:
    return collate(documents, indices, max_seqlen=int(documents.lengths.max()), pad_to=pad_to).to(WORLD.device)


def gradients(packed_lm: PackedCausalLM) -> torch.Tensor:
    return torch.cat([weight.grad.float().flatten() for weight in packed_lm.parameters() if weight.grad is not None])


@pytest.mark.parametrize("make", [llama, qwen, mistral])
def test_packed_gradients_equal_those_of_separate_documents(make: Any) -> None:
    """Compared with float32, the error of packed bfloat16 is about that of unpacked bfloat16."""
    documents = corpus(6)
    exact, _ = prepared(make(), attention="sdpa", dtype="float32")
    separate, _ = prepared(make(), attention="sdpa")
    packed, _ = prepared(make(), attention="varlen")
    for index in range(6):
        exact(batch(documents, [index]), 0.01).backward()
        separate(batch(documents, [index]), 0.01).backward()
    packed(batch(documents, list(range(6))), 0.01).backward()
    reference = gradients(exact)
    error, usual = (float((gradients(model) - reference).norm() / reference.norm()) for model in (packed, separate))
    assert error < max(1.5 * usual, 0.01), (error, usual)


def test_padding_changes_neither_loss_nor_gradient() -> None:
    documents = corpus(5)
    plain, _ = prepared(llama(), attention="varlen")
    filled, _ = prepared(llama(), attention="varlen")
    tokens = int(documents.lengths.sum())
    losses = [plain(batch(documents, [0, 1, 2, 3, 4]), 0.01)]
    losses.append(filled(batch(documents, [0, 1, 2, 3, 4], pad_to=-(-tokens // 512) * 512), 0.01))
    for loss in losses:
        loss.backward()
    torch.testing.assert_close(losses[0], losses[1], rtol=1e-3, atol=1e-3)
    torch.testing.assert_close(gradients(plain), gradients(filled), rtol=2e-2, atol=2e-3)


def train(options: TrainingOptions, **more: Any) -> tuple[list[dict[str, Any]], FlatAdamW]:
    setup = RuntimeSetup.of(options, WORLD.device)
    plan = EpochPlan.of(corpus(), options, budget=1024)
    packed_lm = prepare(llama().to(setup.dtype).to(WORLD.device), setup, WORLD, recompute=bool(options.recompute))
    optimizer = FlatAdamW(packed_lm.parameters(), options)
    if setup.compile:
        compile_layers(packed_lm, setup)
    lines: list[dict[str, Any]] = []
    TrainingLoop(
        packed_lm, optimizer, plan, WORLD, log=lambda _step, values: lines.append(dict(values)),
        shapes=FixedShapes.of(plan) if setup.fixed_shapes else None, **more,
    ).run()  # fmt: skip
    return lines, optimizer


@pytest.mark.parametrize(
    "options",
    [{"compile": True}, {"compile": True, "recompute": True}, {"attention": "sdpa"}],
)
def test_all_settings_lead_to_the_same_losses(options: dict[str, Any]) -> None:
    usual = {"batch_size": 8, "epochs": 3, "learning_rate": 1e-3, "warmup": 0.0, "checkpoint_every": 0}
    plain, _ = train(TrainingOptions(**usual, attention="varlen", compile=False))
    other, _ = train(TrainingOptions(**{**usual, "compile": False, **options}))
    assert len(plain) == 9
    for line, expected in zip(other, plain, strict=True):
        assert line["loss"] == pytest.approx(expected["loss"], rel=1e-2), (line, expected)


def test_losses_in_8_bits_are_close_to_those_in_16() -> None:
    usual: dict[str, Any] = {"batch_size": 8, "epochs": 3, "learning_rate": 1e-3, "warmup": 0.0, "checkpoint_every": 0}
    plain, _ = train(TrainingOptions(**usual))
    rounded, _ = train(TrainingOptions(**usual, fp8=True))
    losses, expected = ([line["loss"] for line in lines] for lines in (rounded, plain))
    assert losses == pytest.approx(expected, rel=5e-2)
    assert losses != expected


def test_batches_of_many_lengths_compile_only_a_few_times() -> None:
    from torch._dynamo.utils import counters

    torch._dynamo.reset()
    counters.clear()
    train(TrainingOptions(batch_size=5, epochs=6, checkpoint_every=0, compile=True, attention="varlen"))
    assert counters["stats"]["unique_graphs"] <= 40, dict(counters["stats"])
    assert not [name for name in counters["unimplemented"] if "recompile" in str(name)]


def test_steps_do_not_synchronise_with_the_gpu() -> None:
    """After a warm-up, steps run in a mode in which any synchronisation is an error."""
    options = TrainingOptions(batch_size=8, epochs=6, checkpoint_every=0, log_every=100, compile=False)
    setup = RuntimeSetup.of(options, WORLD.device)
    packed_lm = prepare(llama().bfloat16().to(WORLD.device), setup, WORLD, recompute=False)
    optimizer = FlatAdamW(packed_lm.parameters(), options)
    plan = EpochPlan.of(corpus(), options, budget=1024)
    loop = TrainingLoop(packed_lm, optimizer, plan, WORLD)
    TrainingLoop(packed_lm, optimizer, EpochPlan.of(corpus(), replace(options, epochs=1), budget=1024), WORLD).run()
    kept: list[torch.Tensor] = []
    batches = [batch.to(WORLD.device) for batch in loop._batches(0, plan.steps)]
    torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode("error")
    try:
        finite, remaining = torch.ones((), dtype=torch.bool, device=WORLD.device), iter(batches)
        for step in range(plan.steps):
            loss, _, finite = loop._step(step, 1e-4, remaining, finite)
            kept.append(loss)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert all(float(loss) > 0 for loss in kept)


def test_bfloat16_weights_follow_float32_adamw() -> None:
    """With the same gradients, weights and remainders together equal the weights of AdamW in float32."""
    torch.manual_seed(0)
    exact = torch.nn.Parameter(torch.randn(300, 40, device="cuda").bfloat16().float())
    ours = torch.nn.Parameter(exact.detach().bfloat16())
    options = TrainingOptions(weight_decay=0.1)
    optimizer, reference = FlatAdamW([ours], options), torch.optim.AdamW([exact], lr=1e-3, weight_decay=0.1)
    one = torch.ones((), device="cuda")
    for step in range(1, 21):
        gradient = torch.randn(300, 40, device="cuda").bfloat16()
        assert ours.grad is not None
        ours.grad.copy_(gradient)
        exact.grad = gradient.float()
        optimizer.step(step, 1e-3, one, one.bool())
        reference.step()
    group = optimizer.groups[0]
    assert group.remainder is not None
    weights = join_float32(group.weight, group.remainder)[: exact.numel()].view_as(exact)
    torch.testing.assert_close(weights, exact.detach(), rtol=1e-5, atol=1e-6)


def test_held_out_losses_on_the_gpu_equal_those_on_the_cpu() -> None:
    documents = corpus(12)
    on_gpu, _ = prepared(llama())
    cpu = World(torch.device("cpu"))
    on_cpu = prepare(llama(), RuntimeSetup.of(TrainingOptions(), cpu.device), cpu, recompute=False)
    losses, expected = (
        evaluate(on_gpu, documents, budget=1024, world=WORLD),
        evaluate(on_cpu, documents, budget=1024, world=cpu),
    )
    assert losses.mean == pytest.approx(expected.mean, rel=5e-3)


def test_an_out_of_memory_error_names_the_setting() -> None:
    model = llama(hidden_size=1024, intermediate_size=4096, num_hidden_layers=8)
    options = TrainingOptions(batch_size=24, epochs=1, compile=False, checkpoint_every=0)
    packed_lm, _ = prepared(model)
    optimizer = FlatAdamW(packed_lm.parameters(), options)
    plan = EpochPlan.of(corpus(), options, budget=8192)
    torch.cuda.empty_cache()
    total = torch.cuda.get_device_properties(0).total_memory
    torch.cuda.set_per_process_memory_fraction(min(1.0, (torch.cuda.memory_reserved() + (64 << 20)) / total))
    try:
        with pytest.raises(OutOfMemoryError, match="micro_batch_tokens=") as caught:
            TrainingLoop(packed_lm, optimizer, plan, WORLD).run()
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)
    assert "longest document" in str(caught.value)


@pytest.mark.parametrize("recompute", [False, True])
def test_predicted_memory_is_close_to_the_measured_peak(recompute: bool) -> None:
    model = llama(hidden_size=1024, intermediate_size=4096, num_hidden_layers=8, vocab_size=32_000, head_dim=128)
    options = TrainingOptions(
        batch_size=64, epochs=1, compile=False, checkpoint_every=0, recompute=recompute, micro_batch_tokens=4096
    )
    documents = Corpus.of([corpus(1, 512)[0]] * 64)
    plan = EpochPlan.of(documents, options, budget=4096)
    setup = RuntimeSetup.of(options, WORLD.device)
    estimate = CostEstimate.of(copy.deepcopy(model.config), documents, options, setup)
    torch.cuda.empty_cache()
    before = torch.cuda.memory_allocated()
    torch.cuda.reset_peak_memory_stats()
    packed_lm = prepare(model.to(setup.dtype).to(WORLD.device), setup, WORLD, recompute=recompute)
    TrainingLoop(packed_lm, FlatAdamW(packed_lm.parameters(), options), plan, WORLD).run()
    measured = torch.cuda.max_memory_allocated() - before
    assert sum(estimate.memory.values()) == pytest.approx(measured, rel=0.35), (estimate.memory, measured)
