"""Architectures other than Llama: how documents are isolated, which weights get adapters, what is refused."""

from __future__ import annotations

import copy
import json
import sys
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch._dynamo.testing import CompileCounter
from transformers import MixtralForCausalLM

from finetune.data.batch import collate
from finetune.data.corpus import Corpus, Document
from finetune.data.plan import EpochPlan
from finetune.model.adapters import add_adapters, load_adapters, save_adapters
from finetune.model.anatomy import find_decoder, find_layers
from finetune.model.isolation import check_head, probe_length
from finetune.model.loading import load
from finetune.model.lora_targets import coverage, describe_coverage
from finetune.model.packed_lm import BLOCK_MASK_TOKENS, PackedCausalLM
from finetune.model.saving import save
from finetune.options import Evaluation, Lora, TrainingOptions
from finetune.session import train
from finetune.training.distributed import SINGLE_PROCESS
from finetune.training.loop import TrainingLoop
from finetune.training.optimizer import FlatAdamW
from finetune.training.setup import RuntimeSetup, compile_layers, prepare
from selfinstruct.errors import UsageError
from tests.cli import ROOT

sys.path.insert(0, str(ROOT / "bench"))  # its scripts import each other by name
import architectures
from tiny_models import VOCABULARY, make_config, make_model

LENGTHS = (6, 40, 11, 25)


@pytest.fixture(autouse=True)
def _one_thread() -> Any:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def tiny(model_type: str, **fields: Any) -> Any:
    return make_model(make_config(model_type, **fields))


def corpus(lengths: tuple[int, ...] = LENGTHS) -> Corpus:
    rng = np.random.default_rng(0)
    return Corpus.of(
        Document(rng.integers(10, VOCABULARY, size).astype(np.int32), np.arange(size) >= size // 2, f"row {size}")
        for size in lengths
    )


def ready(model: Any, *, packing: bool = True, longest: int = max(LENGTHS)) -> tuple[PackedCausalLM, list[str]]:
    setup = RuntimeSetup.of(TrainingOptions(packing=packing), torch.device("cpu"))
    lines: list[str] = []
    return prepare(model, setup, SINGLE_PROCESS, recompute=False, longest=longest, notify=lines.append), lines


def losses_alone(model: Any, documents: Corpus, **options: Any) -> list[float]:
    """Return the mean loss of each document by a new copy of a model of transformers."""
    losses = []
    for index in range(len(documents)):
        ids = torch.from_numpy(documents[index].ids.astype(np.int64))
        labels = torch.where(torch.from_numpy(documents[index].supervised), ids, -100)
        with torch.no_grad():
            losses.append(float(copy.deepcopy(model)(input_ids=ids[None], labels=labels[None], **options).loss))
    return losses


def packed_losses(packed_lm: PackedCausalLM, documents: Corpus) -> list[float]:
    losses = packed_lm.token_losses(collate(documents, range(len(documents)), max_seqlen=int(documents.lengths.max())))
    counts = documents.targets.tolist()
    return [float(part.mean()) for part in losses.split(counts)]


# Frequencies that follow the length of a document.

DYNAMIC = {"rope_type": "dynamic", "factor": 4.0, "rope_theta": 10_000.0}
LONGROPE = {
    "rope_type": "longrope", "short_factor": [1.0] * 4, "long_factor": [1.0, 2.0, 4.0, 8.0], "rope_theta": 10_000.0,
    "original_max_position_embeddings": 16, "factor": 8.0,
}  # fmt: skip
ROPES = {
    "dynamic": ("llama", {"max_position_embeddings": 16, "rope_parameters": DYNAMIC}),
    "longrope": ("phi3", {"rope_parameters": LONGROPE, "original_max_position_embeddings": 16}),
    "phimoe": ("phimoe", {"rope_parameters": {**LONGROPE, "short_mscale": 1.1, "long_mscale": 1.4}}),
}


@pytest.mark.parametrize("name", ROPES)
@pytest.mark.parametrize("order", [(6, 40, 11, 25), (40, 25, 6, 11)])
def test_frequencies_follow_the_length_of_each_packed_document(name, order) -> None:
    model_type, fields = ROPES[name]
    model, documents = tiny(model_type, **fields), corpus(order)
    expected = losses_alone(model, documents)
    packed_lm, lines = ready(model)
    assert packed_lm.attention == "sdpa", lines
    packed_lm.eval()
    assert packed_losses(packed_lm, documents) == pytest.approx(expected, abs=2e-5)
    alone = [packed_losses(packed_lm, documents.subset([index]))[0] for index in range(4)]
    assert alone == pytest.approx(expected, abs=2e-5), "earlier documents leave no trace"


def test_the_probe_reaches_past_every_limit_that_the_run_reaches() -> None:
    config = make_config("phi3", rope_parameters=LONGROPE, original_max_position_embeddings=16, sliding_window=48)
    assert probe_length(config, 12) == 11
    assert probe_length(config, 40) == 16 + 8
    assert probe_length(config, 100) == 48 + 8
    assert probe_length(config, 1000) == 128 + 8


def test_a_difference_beyond_a_limit_is_found_and_another_way_is_taken(monkeypatch) -> None:
    """A window that the layers don't name: without it, documents longer than it would see too much."""
    monkeypatch.setattr("finetune.model.attention._window", lambda *_: 0)
    model, documents = tiny("mistral", sliding_window=16), corpus()
    expected = losses_alone(model, documents)
    packed_lm, lines = ready(copy.deepcopy(model))
    assert packed_lm.block_mask
    assert "isolated by a mask" in lines[0]
    assert packed_losses(packed_lm.eval(), documents) == pytest.approx(expected, abs=2e-5)
    packed_lm, lines = ready(model, longest=12)
    assert (packed_lm.attention, lines) == ("sdpa", []), "no document of the run reaches the window"


# Ways to isolate documents.

WAYS = {
    "gemma2": "eager", "gpt_oss": "eager", "vaultgemma": "eager", "gptj": "mask", "llama4_text": "mask",
    "bloom": "", "mamba": "", "jamba": "", "gpt2": "sdpa", "opt": "sdpa",
}  # fmt: skip


@pytest.mark.parametrize("model_type", WAYS)
def test_documents_are_isolated_in_the_first_exact_way(model_type, tmp_path) -> None:
    """Each is loaded from a folder: some have no attention through PyTorch's function."""
    model, documents = tiny(model_type), corpus()
    expected = losses_alone(model, documents)
    save(model, architectures.tokenizer(), tmp_path / "model")
    packed_lm, lines = ready(load(str(tmp_path / "model"), dtype=torch.float32).model)
    assert (packed_lm.attention or ("mask" if packed_lm.block_mask else "")) == WAYS[model_type]
    assert bool(lines) == (WAYS[model_type] != "sdpa")
    packed_lm.eval()
    groups = [range(4)] if packed_lm.packs else [[index] for index in range(4)]
    losses = [loss for group in groups for loss in packed_losses(packed_lm, documents.subset(list(group)))]
    assert losses == pytest.approx(expected, abs=2e-5)


def test_the_plan_follows_the_way_of_packing() -> None:
    options = TrainingOptions(batch_size=4, epochs=1)
    plan = EpochPlan.of(corpus(), options, budget=32_768)
    packed, _ = ready(tiny("llama"))
    masked, _ = ready(tiny("gptj"))
    single, _ = ready(tiny("mamba"))
    assert plan.limited(packed.token_budget(plan.packing.budget)) is plan
    assert plan.limited(masked.token_budget(plan.packing.budget)).packing.budget == BLOCK_MASK_TOKENS
    unpacked = plan.limited(single.token_budget(plan.packing.budget))
    assert [len(step) for step in unpacked.epoch(0)] == [4]
    assert sorted(unpacked.epoch(0)[0]) == [(0,), (1,), (2,), (3,)]


@pytest.mark.parametrize(
    ("model_type", "notice"),
    [
        ("mamba", "documents are trained one at a time, without packing: "),
        ("gemma2", "the model's own eager attention"),
    ],
)
def test_a_run_reports_how_it_packs(model_type, notice, tmp_path) -> None:
    save(tiny(model_type), architectures.tokenizer(), tmp_path / "model")
    rows = tmp_path / "rows.jsonl"
    rows.write_text("".join(f'{{"instruction": "Count to {n}.", "output": "{"1 " * n}."}}\n' for n in range(1, 6)))
    options = TrainingOptions(
        format="completion", batch_size=3, epochs=1, max_length=300, evaluation=Evaluation(fraction=0.2, samples=1)
    )
    lines: list[str] = []
    result = train(str(tmp_path / "model"), str(rows), tmp_path / "run", options, notify=lines.append)
    assert result.complete
    assert any(notice in line for line in lines), lines
    assert load(str(tmp_path / "run"), dtype=torch.float32).model.config.model_type == model_type


@pytest.mark.parametrize("packing", [True, False])
@pytest.mark.parametrize(("model_type", "fields"), [("bert", {"is_decoder": False}), ("xlnet", {}), ("cpmant", {})])
def test_a_model_that_sees_later_tokens_is_refused(model_type, fields, packing) -> None:
    with pytest.raises(UsageError, match=f"type '{model_type}' sees the tokens that it has to predict"):
        ready(tiny(model_type, **fields), packing=packing)


def test_a_soft_cap_is_noticed_however_small_the_logits() -> None:
    model = tiny("gemma2", final_logit_softcapping=30.0)
    with torch.no_grad():
        model.get_input_embeddings().weight.mul_(1e-2)
    assert not check_head(PackedCausalLM(model))
    assert check_head(PackedCausalLM(tiny("gemma2", final_logit_softcapping=None)))


# Parts of a model.

PARTS = {"gpt2": 2, "opt": 2, "gptj": 2, "bloom": 2, "gemma3": 2, "llama4_text": 2, "qwen2_vl": 2, "falcon_h1": 2}


@pytest.mark.parametrize("model_type", PARTS)
def test_decoder_and_layers_are_found(model_type) -> None:
    model = tiny(model_type)
    layers = find_layers(find_decoder(model))
    assert len(layers) == PARTS[model_type]
    assert all("Layer" in type(layer).__name__ or "Block" in type(layer).__name__ for layer in layers)


@pytest.mark.parametrize("model_type", ["gpt2", "opt"])
def test_layers_without_that_name_are_compiled(model_type, monkeypatch) -> None:
    model, documents = tiny(model_type), corpus((6, 9))
    packed_lm, _ = ready(copy.deepcopy(model))
    packed_lm.eval()
    setup = RuntimeSetup.of(TrainingOptions(), torch.device("cpu"))
    counter = CompileCounter()
    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend=counter))
    compile_layers(packed_lm, setup)
    losses = packed_losses(packed_lm, documents)
    assert counter.frame_count > 0
    assert losses == pytest.approx(losses_alone(model, documents), abs=2e-5)


@pytest.mark.parametrize("model_type", ["gemma3", "qwen2_vl", "mistral3", "llava"])
def test_the_text_model_of_a_vision_model_is_trained_and_all_of_it_saved(model_type, tmp_path) -> None:
    processor = {"preprocessor_config.json": b'{"size": 28}'}
    save(tiny(model_type), architectures.tokenizer(), tmp_path / "model", extra=processor)
    loaded = load(str(tmp_path / "model"), dtype=torch.float32)
    assert loaded.extra == processor
    before = {name: parameter.detach().clone() for name, parameter in loaded.model.named_parameters()}
    packed_lm, lines = ready(loaded.model)
    assert packed_lm.packs, lines
    options = TrainingOptions(batch_size=4, epochs=1, learning_rate=1e-2, warmup=0.0)
    TrainingLoop(
        packed_lm, FlatAdamW(packed_lm.parameters(), options), EpochPlan.of(corpus(), options, budget=128)
    ).run()
    save(loaded.model, loaded.tokenizer, tmp_path / "trained")
    after = dict(load(str(tmp_path / "trained"), dtype=torch.float32).model.named_parameters())
    assert after.keys() == before.keys()
    changed = {name for name, parameter in after.items() if not torch.equal(parameter, before[name])}
    inside = {name for name in before if "vision" not in name and "visual" not in name and "project" not in name}
    assert changed == inside & changed
    assert len(changed) > 0.8 * len(inside)
    config = json.loads((tmp_path / "trained" / "config.json").read_text())
    assert config["model_type"] == model_type
    assert "vision_config" in config


# Adapters.


def covered(model_type: str, **lora: Any) -> tuple[Any, set[str]]:
    """Return the adapted model, and the names of its matrices without adapters."""
    model = add_adapters(tiny(model_type), Lora(rank=2, **lora))
    return model, set(coverage(model)[1])


@pytest.mark.parametrize(
    ("model_type", "left_out"),
    [
        ("llama", set()), ("gpt2", set()), ("deepseek_v3", {"mlp.gate"}), ("glm4_moe", {"mlp.gate"}),
        ("qwen2_moe", {"mlp.gate"}), ("mixtral", {"mlp.gate"}), ("gpt_oss", {"mlp.router"}),
        ("granitemoe", {"block_sparse_moe.router"}), ("phimoe", {"mlp.router"}),
        ("jamba", {"feed_forward.router", "mamba.dt_proj"}), ("falcon_h1", {"mamba.out_proj"}),
        ("mamba", {"mixer.x_proj", "mixer.dt_proj", "mixer.out_proj"}),  # read by the kernels on a GPU
        ("qwen3_5_text", set()), ("qwen3_next", {"mlp.gate"}),
        ("dbrx", {f"ffn.experts.mlp.{name}" for name in ("w1", "v1", "w2")}),  # read by another module
    ],
)  # fmt: skip
def test_all_linear_covers_dense_layers_and_experts_or_names_them(model_type, left_out, tmp_path) -> None:
    model, without = covered(model_type)
    assert without == left_out
    assert bool(describe_coverage(model)) == bool(left_out)
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.1)
    ids = torch.arange(10, 40)[None]
    model.eval()
    with torch.no_grad():
        expected = model(input_ids=ids, use_cache=False).logits
    from finetune.model.loading import Base

    save_adapters(model, architectures.tokenizer(), tmp_path / "adapters", Base("base", "0" * 64))
    again = load_adapters(tiny(model_type), tmp_path / "adapters")
    with torch.no_grad():
        assert torch.equal(again(input_ids=ids, use_cache=False).logits, expected)
        merged = again.merge_and_unload()(input_ids=ids, use_cache=False).logits
    torch.testing.assert_close(merged, expected, rtol=1e-3, atol=1e-4)


def test_every_adapter_of_a_mixture_of_experts_learns() -> None:
    model = add_adapters(tiny("qwen2_moe"), Lora(rank=2))
    model(input_ids=torch.arange(10, 200)[None], labels=torch.arange(10, 200)[None]).loss.backward()
    gradients = {name: parameter.grad for name, parameter in model.named_parameters() if "lora_B" in name}
    assert sum("experts" in name for name in gradients) == 4
    assert all(gradient is not None and gradient.abs().sum() > 0 for gradient in gradients.values())


def test_experts_are_left_out_and_counted_where_adapters_have_dropout() -> None:
    model, without = covered("qwen2_moe", dropout=0.1)
    assert {"mlp.experts.gate_up_proj", "mlp.experts.down_proj"} <= without
    (line,) = describe_coverage(model)
    assert "2 x mlp.experts.down_proj (4,096 weights)" in line


def test_experts_can_be_named_as_targets() -> None:
    _, without = covered("mixtral", targets="experts.down_proj")
    assert "mlp.experts.gate_up_proj" in without
    assert "mlp.experts.down_proj" not in without


@pytest.mark.parametrize(("model_type", "name"), [("mamba", "x_proj"), ("dbrx", "mlp.w1")])
def test_a_weight_that_adapters_would_not_reach_is_no_target(model_type, name) -> None:
    with pytest.raises(UsageError, match=f"no layer that takes adapters is called {name}; there are "):
        covered(model_type, targets=name)


def test_qlora_states_the_size_of_experts_in_full_precision(tmp_path) -> None:
    pytest.importorskip("bitsandbytes")
    save(tiny("deepseek_v3", hidden_size=64), architectures.tokenizer(), tmp_path / "model")
    model = load(str(tmp_path / "model"), dtype=torch.bfloat16, lora=Lora(rank=2, base="nf4")).model
    text = "\n".join(describe_coverage(model))
    assert "QLoRA holds 2 parameters with experts in full precision, 0.00 GiB" in text
    assert "1 x mlp.shared_experts.gate_proj" in text, "in 4 bits, and not a target that peft can take"


# The load-balancing loss.

BALANCED = {"output_router_logits": True, "router_aux_loss_coef": 0.5}


def balanced_step(packed_lm: PackedCausalLM, documents: Corpus, groups: list[list[int]]) -> tuple[float, Any]:
    """Return loss and gradients of one step."""
    batches = [collate(documents, group, max_seqlen=64) for group in groups]
    load = packed_lm.balancing.load(sum(map(packed_lm.expert_counts, batches)))
    packed_lm.zero_grad()
    losses = [packed_lm(batch, 1 / int(documents.targets.sum()), load) for batch in batches]
    for loss in losses:
        loss.backward()
    total = float(sum(loss.detach() for loss in losses))
    return total, {name: parameter.grad.clone() for name, parameter in packed_lm.causal.named_parameters()}


@pytest.mark.parametrize("model_type", ["mixtral", "qwen2_moe", "granitemoe", "jetmoe", "gpt_oss", "olmoe"])
def test_the_load_balancing_loss_is_that_of_transformers_for_any_split(model_type) -> None:
    """All documents have one length, so that transformers can take them as one batch without padding."""
    coefficient = {"aux_loss_coef": 0.5} if model_type == "jetmoe" else {"router_aux_loss_coef": 0.5}
    plain = tiny(model_type, output_router_logits=True, **coefficient)
    documents = corpus((12, 12, 12, 12))
    ids = torch.from_numpy(documents.ids.astype(np.int64)).reshape(4, 12)
    labels = torch.where(torch.from_numpy(documents.supervised).reshape(4, 12), ids, -100)
    outputs = plain(input_ids=ids, labels=labels, use_cache=False)
    outputs.loss.backward()
    assert float(outputs.aux_loss.detach()) > 0.5
    expected = {name: parameter.grad for name, parameter in plain.named_parameters()}
    other = copy.deepcopy(plain)
    packed_lm, _ = ready(other)
    packed_lm.eval()
    for groups in ([[0, 1, 2, 3]], [[0, 2], [1], [3]], [[3, 2, 1], [], [0]]):
        loss, gradients = balanced_step(packed_lm, documents, groups)
        assert loss == pytest.approx(float(outputs.loss.detach()), rel=1e-5)
        for name, gradient in gradients.items():
            torch.testing.assert_close(gradient, expected[name], rtol=1e-3, atol=1e-5)


def test_the_loop_adds_the_load_balancing_loss() -> None:
    documents, results = corpus((12, 12, 12, 12)), []
    for budget in (64, 24):
        packed_lm, _ = ready(tiny("mixtral", **BALANCED))
        options = TrainingOptions(batch_size=4, epochs=1, learning_rate=1e-2, warmup=0.0)
        losses: list[float] = []
        optimizer = FlatAdamW(packed_lm.parameters(), options)
        plan = EpochPlan.of(documents, options, budget=budget)
        TrainingLoop(
            packed_lm, optimizer, plan, log=lambda _, values, losses=losses: losses.append(values["loss"])
        ).run()
        results.append((losses[0], torch.cat([parameter.detach().flatten() for parameter in packed_lm.parameters()])))
    without, _ = ready(tiny("mixtral"))
    expected = sum(packed_losses(without.eval(), documents)) / 4
    assert results[0][0] > expected + 0.5
    assert results[0][0] == pytest.approx(results[1][0], rel=1e-6)
    torch.testing.assert_close(results[0][1], results[1][1], rtol=1e-4, atol=1e-5)


def test_a_load_balancing_loss_of_another_kind_is_refused_with_the_remedy(monkeypatch) -> None:
    def squares(gates: Any, *_: Any) -> torch.Tensor:
        return sum(gate.square().mean() for gate in gates)

    monkeypatch.setattr(sys.modules[MixtralForCausalLM.__module__], "load_balancing_loss_func", squares)
    with pytest.raises(UsageError, match="set output_router_logits to false"):
        ready(tiny("mixtral", **BALANCED))
    ready(tiny("mixtral"))


def test_a_load_balancing_loss_that_transformers_fails_to_compute_is_refused_with_the_remedy() -> None:
    """With this setting, the forward pass of these architectures raises an IndexError."""
    with pytest.raises(UsageError, match=r"index out of range.*set output_router_logits to false"):
        ready(tiny("doge", output_router_logits=True))


def test_a_load_balancing_loss_that_transformers_does_not_add_is_refused_with_the_remedy() -> None:
    with pytest.raises(UsageError, match=r"where transformers computes none.*set output_router_logits to false"):
        ready(tiny("llama4_text", output_router_logits=True))


# All architectures.


def test_some_architectures_train_as_in_a_plain_loop(tmp_path: Path) -> None:
    for model_type in architectures.SHORT:
        row = architectures.try_type(model_type, tmp_path)
        assert isinstance(row, architectures.Row), row
        assert row.exact, row


def test_an_architecture_that_is_not_trained_has_a_row_with_the_reason(tmp_path: Path) -> None:
    row = architectures.try_type("bart", tmp_path)
    assert isinstance(row, architectures.Row)
    assert row.refused
    assert "has an encoder" in row.packing
    unknown = architectures.NotBuilt("unknown", "KeyError: 'unknown'")
    assert architectures.try_type("unknown", tmp_path) == unknown
    assert "| unknown | KeyError: 'unknown' |" in architectures.report([row], [unknown])


@pytest.mark.prove
def test_every_architecture_that_is_trained_is_trained_exactly(promise) -> None:
    from tiny_models import causal_types, vision_types

    results = list(architectures.measure(sorted({*causal_types(), *vision_types()})))
    rows = [row for row in results if isinstance(row, architectures.Row)]
    trained = [row for row in rows if not row.refused]
    assert [row for row in trained if not row.exact] == []
    assert len(trained) >= 165
    promise("architectures", f"{len(trained)} of {len(rows)} architectures train with the gradients of a plain loop")
