"""What has no CPU kernel, or only matters on a GPU: variable-length and flex attention, compiled layers, waiting."""

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
from finetune.evaluation.held_out import evaluate
from finetune.model.attention import block_mask
from finetune.model.packed_lm import PackedCausalLM
from finetune.options import Options
from finetune.training.distributed import World
from finetune.training.loop import EpochPlan, Loop, OutOfMemoryError
from finetune.training.optimizer import FlatAdamW, join
from finetune.training.setup import Costs, Setup, compile_layers, prepare

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


def ready(model: Any, **options: Any) -> tuple[PackedCausalLM, Setup]:
    setup = Setup.of(Options(**options), WORLD.device)
    return prepare(model.to(setup.dtype).to(WORLD.device), setup, WORLD, recompute=False), setup


def batch(found: Corpus, indices: list[int], attention: str, pad_to: int | None = None) -> Batch:
    one = collate(found, indices, longest=int(found.lengths.max()), pad_to=pad_to).to(WORLD.device)
    if attention == "flex":
        one = replace(one, packed=replace(one.packed, block_mask=block_mask(one.packed, len(one.ids))))
    return one


def gradients(trainee: PackedCausalLM) -> torch.Tensor:
    return torch.cat([one.grad.float().flatten() for one in trainee.parameters() if one.grad is not None])


@pytest.mark.parametrize("make", [llama, qwen, mistral])
@pytest.mark.parametrize("attention", ["varlen", "flex"])
def test_packed_gradients_are_those_of_each_document_alone(make: Any, attention: str) -> None:
    """In bfloat16, against float32 and one document at a time: as near as bfloat16 gets by itself."""
    if attention == "flex" and make is mistral:
        pytest.skip("flex refuses windows")
    found = corpus(6)
    exact, _ = ready(make(), attention="sdpa", dtype="float32")
    rough, _ = ready(make(), attention="sdpa")
    packed, _ = ready(make(), attention=attention)
    for index in range(6):
        exact(batch(found, [index], "sdpa"), 0.01).backward()
        rough(batch(found, [index], "sdpa"), 0.01).backward()
    packed(batch(found, list(range(6)), attention), 0.01).backward()
    reference = gradients(exact)
    off, usual = (float((gradients(one) - reference).norm() / reference.norm()) for one in (packed, rough))
    assert off < max(1.5 * usual, 0.01), (off, usual)


def test_filler_adds_nothing_to_loss_or_gradient() -> None:
    found = corpus(5)
    plain, _ = ready(llama(), attention="varlen")
    filled, _ = ready(llama(), attention="varlen")
    tokens = int(found.lengths.sum())
    losses = [plain(batch(found, [0, 1, 2, 3, 4], "varlen"), 0.01)]
    losses.append(filled(batch(found, [0, 1, 2, 3, 4], "varlen", pad_to=-(-tokens // 512) * 512), 0.01))
    for loss in losses:
        loss.backward()
    torch.testing.assert_close(losses[0], losses[1], rtol=1e-3, atol=1e-3)
    torch.testing.assert_close(gradients(plain), gradients(filled), rtol=2e-2, atol=2e-3)


def train(options: Options, **more: Any) -> tuple[list[dict[str, Any]], FlatAdamW]:
    setup = Setup.of(options, WORLD.device)
    plan = EpochPlan.of(corpus(), options, budget=1024)
    trainee = prepare(llama().to(setup.dtype).to(WORLD.device), setup, WORLD, recompute=bool(options.recompute))
    optimizer = FlatAdamW(trainee.parameters(), options)
    if setup.compile:
        compile_layers(trainee)
    lines: list[dict[str, Any]] = []
    Loop(
        trainee, optimizer, plan, WORLD, log=lambda _step, values: lines.append(dict(values)),
        flex=setup.attention == "flex", fixed=setup.fixed, **more,
    ).run()  # fmt: skip
    return lines, optimizer


@pytest.mark.parametrize(
    "options",
    [{"compile": True}, {"compile": True, "recompute": True}, {"attention": "flex"}, {"attention": "sdpa"}],
)
def test_every_way_of_training_has_the_same_losses(options: dict[str, Any]) -> None:
    usual = {"batch_size": 8, "epochs": 3, "learning_rate": 1e-3, "warmup": 0.0, "checkpoint_every": 0}
    plain, _ = train(Options(**usual, attention="varlen", compile=False))
    other, _ = train(Options(**{**usual, "compile": False, **options}))
    assert len(plain) == 9
    for one, two in zip(plain, other, strict=True):
        assert one["loss"] == pytest.approx(two["loss"], rel=1e-2), (one, two)


def test_batches_of_all_lengths_compile_a_few_times_only() -> None:
    from torch._dynamo.utils import counters

    torch._dynamo.reset()
    counters.clear()
    train(Options(batch_size=5, epochs=6, checkpoint_every=0, compile=True, attention="varlen"))
    assert counters["stats"]["unique_graphs"] <= 40, dict(counters["stats"])
    assert not [name for name in counters["unimplemented"] if "recompile" in str(name)]


def test_nothing_waits_for_the_gpu_between_two_looks() -> None:
    """Warmed up, the steps run under a mode in which any synchronisation is an error."""
    options = Options(batch_size=8, epochs=6, checkpoint_every=0, log_every=100, compile=False)
    setup = Setup.of(options, WORLD.device)
    trainee = prepare(llama().bfloat16().to(WORLD.device), setup, WORLD, recompute=False)
    optimizer = FlatAdamW(trainee.parameters(), options)
    plan = EpochPlan.of(corpus(), options, budget=1024)
    loop = Loop(trainee, optimizer, plan, WORLD)
    Loop(trainee, optimizer, EpochPlan.of(corpus(), replace(options, epochs=1), budget=1024), WORLD).run()
    kept: list[torch.Tensor] = []
    batches = [one.to(WORLD.device) for one in loop._batches(0, plan.steps)]
    torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode("error")
    try:
        sound, remaining = torch.ones((), dtype=torch.bool, device=WORLD.device), iter(batches)
        for step in range(plan.steps):
            loss, _, sound = loop._one(step, 1e-4, remaining, sound)
            kept.append(loss)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert all(float(loss) > 0 for loss in kept)


def test_bfloat16_weights_move_as_float32_ones_do() -> None:
    """From the same gradients, weights and their remainders together are those of AdamW in float32."""
    torch.manual_seed(0)
    exact = torch.nn.Parameter(torch.randn(300, 40, device="cuda").bfloat16().float())
    ours = torch.nn.Parameter(exact.detach().bfloat16())
    options = Options(weight_decay=0.1)
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
    assert group.rest is not None
    found = join(group.weight, group.rest)[: exact.numel()].view_as(exact)
    torch.testing.assert_close(found, exact.detach(), rtol=1e-5, atol=1e-6)


def test_held_out_losses_on_the_gpu_are_those_of_the_cpu() -> None:
    found = corpus(12)
    on_gpu, _ = ready(llama())
    cpu = World(torch.device("cpu"))
    on_cpu = prepare(llama(), Setup.of(Options(), cpu.device), cpu, recompute=False)
    one, two = evaluate(on_gpu, found, budget=1024, world=WORLD), evaluate(on_cpu, found, budget=1024, world=cpu)
    assert one.mean == pytest.approx(two.mean, rel=5e-3)


def test_too_large_a_micro_batch_names_the_setting() -> None:
    model = llama(hidden_size=1024, intermediate_size=4096, num_hidden_layers=8)
    options = Options(batch_size=24, epochs=1, compile=False, checkpoint_every=0)
    trainee, _ = ready(model)
    optimizer = FlatAdamW(trainee.parameters(), options)
    plan = EpochPlan.of(corpus(), options, budget=8192)
    torch.cuda.empty_cache()
    here = torch.cuda.get_device_properties(0).total_memory
    torch.cuda.set_per_process_memory_fraction(min(1.0, (torch.cuda.memory_reserved() + (64 << 20)) / here))
    try:
        with pytest.raises(OutOfMemoryError, match="micro_batch_tokens=") as caught:
            Loop(trainee, optimizer, plan, WORLD).run()
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)
    assert "longest document" in str(caught.value)


@pytest.mark.parametrize("recompute", [False, True])
def test_predicted_memory_is_near_what_is_taken(recompute: bool) -> None:
    model = llama(hidden_size=1024, intermediate_size=4096, num_hidden_layers=8, vocab_size=32_000, head_dim=128)
    options = Options(batch_size=64, epochs=1, compile=False, checkpoint_every=0, recompute=recompute)
    found = Corpus.of([corpus(1, 512)[0]] * 64)
    plan = EpochPlan.of(found, options, budget=4096)
    setup = Setup.of(options, WORLD.device)
    costs = Costs.of(copy.deepcopy(model.config), plan, setup)
    torch.cuda.empty_cache()
    before = torch.cuda.memory_allocated()
    torch.cuda.reset_peak_memory_stats()
    trainee = prepare(model.to(setup.dtype).to(WORLD.device), setup, WORLD, recompute=recompute)
    Loop(trainee, FlatAdamW(trainee.parameters(), options), plan, WORLD).run()
    taken = torch.cuda.max_memory_allocated() - before
    assert sum(costs.memory.values()) == pytest.approx(taken, rel=0.35), (costs.memory, taken)
