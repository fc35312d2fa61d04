"""Packing, loss, resuming and stopping: the guarantees of the trainer."""

from __future__ import annotations

import contextlib
import copy
import math
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.nn import functional
from transformers import LlamaConfig, LlamaForCausalLM, MistralConfig, MistralForCausalLM, Qwen3Config, Qwen3ForCausalLM

from finetune.data.batch import collate
from finetune.data.corpus import Corpus, Document
from finetune.data.plan import EpochPlan
from finetune.evaluation.held_out import Losses, difference, evaluate
from finetune.model.attention import original_attention, resolve_attention, use_packed_attention
from finetune.model.isolation import check_head, check_isolation
from finetune.model.loss import linear_cross_entropy, token_losses
from finetune.model.packed_lm import PackedCausalLM
from finetune.options import Lora, TrainingOptions
from finetune.recipes import load_options
from finetune.training import checkpoint
from finetune.training.loop import DivergedError, TrainingLoop
from finetune.training.optimizer import FlatAdamW
from selfinstruct.errors import ConfigError, SelfInstructError, UsageError

VOCAB = 97
SHAPE: dict[str, Any] = {
    "vocab_size": VOCAB, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4,
    "num_key_value_heads": 2, "head_dim": 8, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 0,
}  # fmt: skip


@pytest.fixture(autouse=True)
def _one_thread() -> Any:
    before = torch.get_num_threads()
    torch.set_num_threads(1)  # several threads would slow tiny matrices down
    yield
    torch.set_num_threads(before)


def llama(seed: int = 0, **fields: Any) -> Any:
    torch.manual_seed(seed)
    return LlamaForCausalLM(LlamaConfig(**{**SHAPE, "tie_word_embeddings": True, **fields}))


def qwen() -> Any:
    torch.manual_seed(0)
    return Qwen3ForCausalLM(Qwen3Config(**SHAPE))


def mistral() -> Any:
    torch.manual_seed(0)
    return MistralForCausalLM(MistralConfig(**{**SHAPE, "sliding_window": 5}))


def corpus(count: int = 24, longest: int = 30, seed: int = 0) -> Corpus:
    rng = np.random.default_rng(seed)
    documents = []
    for number in range(count):
        size = int(rng.integers(4, longest + 1))
        supervised = np.zeros(size, dtype=np.bool_)
        supervised[size // 2 :] = True
        documents.append(
            Document(rng.integers(0, VOCAB, size).astype(np.int32), supervised, f"rows.jsonl:{number + 1}")
        )
    return Corpus.of(documents)


def packed_lm(model: Any = None) -> PackedCausalLM:
    model = model or llama()
    use_packed_attention(model, "sdpa")
    return PackedCausalLM(model)


# Packed documents do not see each other.


@pytest.mark.parametrize("make", [llama, qwen, mistral])
def test_packed_logits_equal_those_of_separate_documents(make) -> None:
    plain, documents = make(), corpus(5, 16)
    ours = packed_lm(copy.deepcopy(plain))
    batch = collate(documents, range(5), max_seqlen=16)
    with torch.no_grad():
        packed = ours.logits(batch)
        separate = []
        for index in range(5):
            logits = plain(torch.from_numpy(documents[index].ids.astype(np.int64))[None]).logits[0, :-1]
            separate.append(logits[torch.from_numpy(documents[index].supervised[1:])])
    torch.testing.assert_close(packed, torch.cat(separate), rtol=1e-4, atol=1e-5)


def test_changing_one_document_does_not_affect_another() -> None:
    ours, documents = packed_lm(), corpus(3, 12)
    changed = Corpus(documents.ids.copy(), documents.supervised, documents.offsets, documents.names)
    changed.ids[2] = (changed.ids[2] + 1) % VOCAB
    first, second = (ours.token_losses(collate(corpus, (0, 1, 2), max_seqlen=12)) for corpus in (documents, changed))
    boundary = int(documents.targets[0])
    assert not torch.equal(first[:boundary], second[:boundary])
    assert torch.equal(first[boundary:], second[boundary:])


def test_a_model_that_leaks_across_documents_is_rejected() -> None:
    ours = packed_lm()
    layer = ours.decoder.layers[0]
    forward = layer.forward

    def leak(hidden: torch.Tensor, *args: Any, **kwargs: Any) -> torch.Tensor:
        return forward(hidden + hidden.roll(1, 1), *args, **kwargs)  # a convolution over two tokens

    layer.forward = leak
    with pytest.raises(UsageError, match="packing=false"):
        check_isolation(ours)


def test_packed_attention_never_generates_without_document_boundaries() -> None:
    plain = llama()
    ours = packed_lm(copy.deepcopy(plain)).model
    ids = torch.tensor([[5, 6, 7]])
    with pytest.raises(UsageError, match="document boundaries"):
        ours(ids)
    with original_attention(ours):
        generated = ours.generate(ids, attention_mask=torch.ones_like(ids), do_sample=False, max_new_tokens=6)
    expected = plain.generate(ids, attention_mask=torch.ones_like(ids), do_sample=False, max_new_tokens=6)
    assert torch.equal(generated, expected)
    assert ours.config._attn_implementation == "finetune_sdpa"


@pytest.mark.parametrize("packing", [True, False])
def test_an_unknown_attention_is_rejected_with_the_alternatives(packing) -> None:
    with pytest.raises(ConfigError, match=r"attention: .*'auto', 'varlen' or 'sdpa'"):
        load_options("alpaca", None, ["attention=flex", f"packing={packing}"])
    with pytest.raises(UsageError, match=r"attention=flex is not available; use .*auto, varlen \(GPU\) or sdpa"):
        resolve_attention("flex", "cpu")


# The loss.


@pytest.mark.parametrize("chunk", [1, 3, 100])
@pytest.mark.parametrize("biased", [False, True])
def test_the_chunked_head_agrees_with_float64(chunk, biased) -> None:
    torch.manual_seed(0)
    hidden, weight = torch.randn(10, 8), torch.randn(VOCAB, 8)
    bias = torch.randn(VOCAB) if biased else None
    labels = torch.randint(0, VOCAB, (10,))
    inputs = [tensor.clone().requires_grad_() if tensor is not None else None for tensor in (hidden, weight, bias)]
    exact = [tensor.double().requires_grad_() if tensor is not None else None for tensor in (hidden, weight, bias)]
    loss = linear_cross_entropy(inputs[0], inputs[1], labels, scale=0.25, chunk=chunk, bias=inputs[2])
    (loss * 2).backward()
    reference = functional.cross_entropy(functional.linear(*exact), labels, reduction="sum") * 0.25
    (reference * 2).backward()
    torch.testing.assert_close(loss.double(), reference, rtol=1e-6, atol=1e-6)
    for tensor, reference in zip(inputs, exact, strict=True):
        if tensor is not None:
            torch.testing.assert_close(tensor.grad.double(), reference.grad, rtol=1e-5, atol=1e-6)
    with torch.no_grad():
        losses = token_losses(hidden, weight, labels, chunk=chunk, bias=bias)
    torch.testing.assert_close(
        losses, functional.cross_entropy(functional.linear(hidden, weight, bias), labels, reduction="none")
    )


def test_bfloat16_logits_are_normalised_in_float32() -> None:
    torch.manual_seed(0)
    hidden, weight = torch.randn(6, 16).bfloat16(), torch.randn(VOCAB, 16).bfloat16()
    labels = torch.randint(0, VOCAB, (6,))
    loss = linear_cross_entropy(hidden.requires_grad_(), weight.requires_grad_(), labels, chunk=2)
    loss.backward()
    exact = [tensor.detach().double().requires_grad_() for tensor in (hidden, weight)]
    reference = functional.cross_entropy(exact[0] @ exact[1].T, labels, reduction="sum")
    reference.backward()
    assert float(loss.detach()) == pytest.approx(float(reference.detach()), rel=1e-2)
    for tensor, expected in zip((hidden, weight), exact, strict=True):
        assert float((tensor.grad.double() - expected.grad).norm() / expected.grad.norm()) < 2e-2


def test_extreme_logits_stay_finite() -> None:
    hidden, weight = torch.full((2, 1), 1e4), torch.tensor([[1.0], [-1.0], [0.0]])
    loss = linear_cross_entropy(hidden.requires_grad_(), weight.requires_grad_(), torch.tensor([1, 0]))
    loss.backward()
    assert float(loss.detach()) == pytest.approx(2e4)
    assert hidden.grad.isfinite().all()
    assert weight.grad.isfinite().all()


def test_a_micro_batch_without_supervised_tokens_has_zero_loss_and_gradient() -> None:
    ours = packed_lm()
    documents = corpus(2)
    masked = Corpus(documents.ids, np.zeros_like(documents.supervised), documents.offsets, documents.names)
    loss = ours(collate(masked, (0, 1), max_seqlen=30), 0.1)
    loss.backward()
    assert float(loss.detach()) == 0
    assert all(float(parameter.grad.abs().max()) == 0 for parameter in ours.parameters() if parameter.grad is not None)


def gradient_of(splits: list[list[int]], documents: Corpus) -> torch.Tensor:
    ours = packed_lm()
    optimizer = FlatAdamW(ours.parameters(), TrainingOptions())
    for indices in splits:
        ours(collate(documents, indices, max_seqlen=30), 1 / int(documents.targets.sum())).backward()
    return torch.cat([group.gradient for group in optimizer.groups])


@pytest.mark.parametrize("splits", [[[0], [1], [2, 3, 4], [5]], [[5, 4, 3], [2, 1, 0]], [[0, 5], [1, 4], [], [2, 3]]])
def test_the_gradient_does_not_depend_on_how_the_batch_is_split(splits) -> None:
    documents = corpus(6)
    expected = gradient_of([list(range(6))], documents)
    torch.testing.assert_close(gradient_of(splits, documents), expected, rtol=1e-5, atol=1e-6)


def test_a_model_that_scales_its_logits_uses_its_own_head() -> None:
    from transformers import CohereConfig, CohereForCausalLM

    torch.manual_seed(0)
    fields = {key: value for key, value in SHAPE.items() if key != "head_dim"}
    scaled = CohereForCausalLM(CohereConfig(**fields, logit_scale=0.25))
    assert not check_head(packed_lm(scaled))
    assert check_head(packed_lm())


# Held-out losses.


def test_held_out_losses_equal_those_of_separate_documents() -> None:
    plain, documents = llama(), corpus(7)
    losses = evaluate(packed_lm(copy.deepcopy(plain)), documents, budget=64)
    for index in range(7):
        ids = torch.from_numpy(documents[index].ids.astype(np.int64))
        labels = torch.where(torch.from_numpy(documents[index].supervised), ids, -100)
        with torch.no_grad():
            mean = plain(ids[None], labels=labels[None]).loss
        assert losses.sums[index] == pytest.approx(float(mean) * documents.targets[index], rel=1e-5)


def test_the_standard_error_agrees_with_resampled_documents() -> None:
    rng = np.random.default_rng(0)
    counts = rng.integers(5, 50, 200)
    losses = Losses(counts * rng.normal(2, 0.5, 200), counts)
    samples = [rng.integers(0, 200, 200) for _ in range(2000)]
    bootstrap = np.std([losses.sums[sample].sum() / counts[sample].sum() for sample in samples])
    assert losses.standard_error == pytest.approx(bootstrap, rel=0.1)
    after = Losses(losses.sums - 0.1 * counts + rng.normal(0, 0.1, 200), counts)
    change, error = difference(losses, after)
    assert change == pytest.approx(-0.1, abs=4 * error)
    assert error < losses.standard_error / 5


# Resuming and stopping.


class KilledError(Exception):
    pass


def run(
    folder: Path, options: TrainingOptions, *, stop: int | None = None, model: Any = None
) -> tuple[FlatAdamW, list[float]]:
    """Train from the latest checkpoint; at step ``stop``, die right after saving one."""
    torch.manual_seed(options.seed)
    ours = packed_lm(model or llama(attention_dropout=0.1))
    optimizer = FlatAdamW(ours.parameters(), options)
    start = 0
    if (latest := checkpoint.latest(folder)) is not None:
        tensors = latest.tensors()
        optimizer.restore(tensors)
        checkpoint.restore_rng_state(tensors)
        start = latest.step
    losses: list[float] = []

    def save(step: int) -> None:
        checkpoint.save(folder, step, {**optimizer.state(), **checkpoint.rng_state()}, {}, keep=options.keep)
        if step == stop:
            raise KilledError

    plan = EpochPlan.of(corpus(), options, budget=64)
    loop = TrainingLoop(ours, optimizer, plan, log=lambda _, values: losses.append(values["loss"]), save=save)
    with contextlib.suppress(KilledError):
        loop.run(start)
    return optimizer, losses


@pytest.mark.parametrize("stop", [2, 5, 8])
def test_a_resumed_run_is_bit_identical_to_an_uninterrupted_one(tmp_path, stop) -> None:
    """An epoch has six steps, so 2, 5 and 8 are within one; attention has dropout, which uses random numbers."""
    options = TrainingOptions(batch_size=4, epochs=2, learning_rate=1e-2, checkpoint_every=1)
    uninterrupted, losses = run(tmp_path / "uninterrupted", options)
    _, first = run(tmp_path / "interrupted", options, stop=stop)
    resumed, second = run(tmp_path / "interrupted", options)
    assert first + second == losses
    assert len(losses) == 12
    for name, tensor in uninterrupted.state().items():
        assert torch.equal(tensor, resumed.state()[name]), name


def test_a_kill_during_a_checkpoint_leaves_the_previous_one(tmp_path) -> None:
    checkpoint.save(tmp_path, 1, {"a": torch.ones(3)}, {"fact": 1}, keep=2)
    partial = tmp_path / ".step-00000002.part"
    shutil.copytree(tmp_path / "step-00000001", partial)
    (partial / "state-0.safetensors").write_bytes(b"half")
    latest = checkpoint.latest(tmp_path)
    assert latest is not None
    assert (latest.step, latest.metadata) == (1, {"fact": 1})
    checkpoint.save(tmp_path, 2, {"a": torch.zeros(3)}, {}, keep=1)
    assert [path.name for path in tmp_path.iterdir()] == ["step-00000002"]


def test_a_damaged_checkpoint_is_reported(tmp_path) -> None:
    checkpoint.save(tmp_path, 1, {"a": torch.ones(3)}, {}, keep=2)
    (tmp_path / "step-00000001" / "state-0.safetensors").write_bytes(b"half")
    with pytest.raises(SelfInstructError, match="remove this folder"):
        checkpoint.latest(tmp_path).tensors()


def test_checkpoints_contain_no_pickle(tmp_path) -> None:
    run(tmp_path, TrainingOptions(batch_size=8, epochs=1, checkpoint_every=1))
    assert {path.suffix for path in tmp_path.rglob("*") if path.is_file()} == {".safetensors", ".json"}


def test_a_loss_that_is_not_finite_stops_before_the_weights_change_and_names_the_row() -> None:
    """A token that occurs in a single row has an infinite embedding."""
    documents = [
        Document(np.array([3, 4, 5, 6], np.int32), np.array([0, 0, 1, 1], bool), f"rows.jsonl:{n}") for n in (1, 2, 3)
    ]
    documents[1] = Document(np.array([3, 96, 5, 6], np.int32), np.array([0, 0, 1, 1], bool), "rows.jsonl:2")
    model = llama(tie_word_embeddings=False)
    with torch.no_grad():
        model.get_input_embeddings().weight[96] = math.inf
    ours = packed_lm(model)
    options = TrainingOptions(batch_size=3, epochs=1, warmup=0.0)
    optimizer = FlatAdamW(ours.parameters(), options)
    before = {name: tensor.clone() for name, tensor in optimizer.state().items()}
    loop = TrainingLoop(ours, optimizer, EpochPlan.of(Corpus.of(documents), options, budget=64))
    with pytest.raises(DivergedError, match=r"step 1: .*rows at fault: rows\.jsonl:2$"):
        loop.run()
    assert all(torch.equal(tensor, before[name]) for name, tensor in optimizer.state().items())


def test_a_dataset_without_supervised_tokens_is_rejected() -> None:
    documents = corpus(2)
    masked = Corpus(documents.ids, np.zeros_like(documents.supervised), documents.offsets, documents.names)
    with pytest.raises(UsageError, match="nothing to train on"):
        EpochPlan.of(masked, TrainingOptions(), budget=64)


def test_an_out_of_memory_error_names_the_batch_and_the_setting() -> None:
    class OutOfMemory(torch.nn.Module):
        def forward(self, batch: Any, scale: float) -> Any:
            raise torch.OutOfMemoryError("CUDA out of memory")

    options = TrainingOptions(batch_size=8, epochs=1)
    ours = packed_lm()
    loop = TrainingLoop(
        OutOfMemory(), FlatAdamW(ours.parameters(), options), EpochPlan.of(corpus(), options, budget=64)
    )
    with pytest.raises(
        SelfInstructError, match=r"micro-batch of \d+ tokens \(longest document 3\d\) at step 1; try --set"
    ):
        loop.run()


def test_training_on_a_few_rows_lowers_the_loss(tmp_path) -> None:
    options = TrainingOptions(batch_size=8, epochs=60, learning_rate=1e-2, checkpoint_every=0, weight_decay=0.0)
    _, losses = run(tmp_path, options, model=llama())
    assert losses[-1] < 0.5 < 4 < losses[0]


def test_adapters_are_trained_and_the_base_is_not() -> None:
    from finetune.model.adapters import add_adapters

    base = llama()
    before = {name: parameter.clone() for name, parameter in base.named_parameters()}
    ours = packed_lm(base)
    ours.model = add_adapters(ours.model, Lora(rank=4))
    options = TrainingOptions(batch_size=8, epochs=4, learning_rate=1e-2, lora=Lora(rank=4))
    losses: list[float] = []
    optimizer = FlatAdamW(ours.parameters(), options)
    TrainingLoop(
        ours,
        optimizer,
        EpochPlan.of(corpus(), options, budget=64),
        log=lambda _, v: losses.append(v["loss"]),
    ).run()
    assert losses[-1] < losses[0]
    for name, parameter in ours.model.named_parameters():
        plain = name.replace("base_model.model.", "").replace(".base_layer", "")
        assert "lora_" in name or torch.equal(parameter, before[plain]), name
