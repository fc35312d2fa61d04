"""Preferences: losses, gradients, the reference, and the reading of compared answers.

Tests are named after the bugs of other trainers that they exclude.
"""

from __future__ import annotations

import contextlib
import copy
import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import finetune
from finetune.data.comparisons import Comparisons
from finetune.data.pairs import compared_answers, read_comparisons
from finetune.data.plan import EpochPlan
from finetune.data.preference_data import read_preference_data, render_comparisons
from finetune.data.render import Renderer
from finetune.evaluation.held_out import evaluate
from finetune.evaluation.pairs import measure_pairs, wilson_interval
from finetune.evaluation.reference import reference_log_probs
from finetune.model.adapters import add_adapters
from finetune.model.attention import use_packed_attention
from finetune.model.dropout import disable_dropout
from finetune.model.isolation import check_repeatable
from finetune.model.loss import linear_log_probs
from finetune.model.packed_lm import PackedCausalLM
from finetune.model.reward import PackedRewardModel, to_reward_model
from finetune.options import DpoOptions, Lora, RewardOptions
from finetune.training import checkpoint
from finetune.training.loop import TrainingLoop
from finetune.training.optimizer import FlatAdamW
from finetune.training.preference import BradleyTerry, DirectPreference, dpo_rewards
from selfinstruct.errors import ConfigError, RunChangedError, SelfInstructError, UsageError
from tests import finetune_fixtures
from tests.comparisons import VOCAB, ids_of, plain_dpo_loss, plain_log_prob, random_comparisons
from tests.finetune_fixtures import make_model

tiny_tokenizer, tiny_model_folder = finetune_fixtures.tiny_tokenizer, finetune_fixtures.tiny_model_folder
LN2 = math.log(2)


@pytest.fixture(autouse=True)
def _one_thread() -> Any:
    before = torch.get_num_threads()
    torch.set_num_threads(1)  # several threads would slow tiny matrices down
    yield
    torch.set_num_threads(before)


def packed(model: Any, kind: type[PackedCausalLM] = PackedCausalLM) -> Any:
    wrapped = kind(model)
    use_packed_attention(wrapped.causal, "sdpa")
    return wrapped


def dpo(packed_lm: PackedCausalLM, comparisons: Comparisons, options: DpoOptions) -> DirectPreference:
    """DPO with the model as it is now as the reference."""
    reference = -evaluate(packed_lm, comparisons.documents, budget=64).sums
    return DirectPreference(comparisons, torch.from_numpy(reference), options)


def fit(packed_lm: Any, objective: Any, options: Any, *, budget: int = 128, **arguments: Any) -> list[float]:
    """Train; return the loss of each step."""
    losses: list[float] = []
    loop = TrainingLoop(
        packed_lm, FlatAdamW(packed_lm.parameters(), options),
        EpochPlan.of(objective.comparisons, options, budget=budget), objective=objective,
        log=lambda _, values: losses.append(values["loss"]), **arguments,
    )  # fmt: skip
    loop.run()
    return losses


ONE_STEP = DpoOptions(batch_size=100, epochs=1, warmup=0.0, checkpoint_every=0)


# The first loss and the gradients.


@pytest.mark.parametrize(("budget", "packing"), [(4096, True), (200, True), (64, True), (4096, False)])
def test_the_first_loss_is_ln_2_and_not_a_sum_over_micro_batches(budget: int, packing: bool) -> None:
    """open-instruct#1900 began at 6 ln 2."""
    comparisons = random_comparisons(12)
    options = replace(ONE_STEP, packing=packing)
    model = packed(make_model(VOCAB)) if packing else PackedCausalLM(make_model(VOCAB))
    plan = EpochPlan.of(comparisons, options, budget=budget)
    assert len(plan.step(0)) in {4096: (1 if packing else 12,), 200: range(3, 6), 64: range(6, 13)}[budget]
    assert fit(model, dpo(model, comparisons, options), options, budget=budget) == [pytest.approx(LN2, abs=1e-6)]


@pytest.mark.parametrize(
    "options", [ONE_STEP, replace(ONE_STEP, beta=5.0, length_normalised=True), replace(ONE_STEP, sft=0.2)]
)
def test_gradients_packed_equal_those_of_a_plain_loop(options: DpoOptions, monkeypatch: pytest.MonkeyPatch) -> None:
    """The policy differs from the reference, so that pairs have different weights."""
    monkeypatch.setattr("finetune.model.loss.CHUNK_BYTES", 7 * VOCAB * 4)  # seven rows of logits per chunk
    comparisons = random_comparisons(6)
    before, after = make_model(VOCAB), make_model(VOCAB, 1)
    with torch.no_grad():
        for weight, other in zip(after.parameters(), before.parameters(), strict=True):
            weight.copy_(0.9 * other + 0.1 * weight)
    plain = copy.deepcopy(after)
    expected = plain_dpo_loss(plain, before, comparisons, options)
    expected.backward()

    objective = replace(dpo(packed(before), comparisons, options))
    model = packed(after)
    parts = [objective.loss(model, objective.collate(indices, max_seqlen=51), 1 / len(comparisons.pairs))
             for indices in ([0, 3, 1], [5], [2, 4])]  # fmt: skip
    loss = sum(parts)
    loss.backward()
    assert float(loss.detach()) == pytest.approx(float(expected.detach()), abs=1e-5)
    assert abs(float(loss.detach()) - LN2) > 1e-3
    for mine, (name, theirs) in zip(after.parameters(), plain.named_parameters(), strict=True):
        assert float(theirs.grad.abs().max()) > 1e-3, name
        assert float((mine.grad - theirs.grad).abs().max()) < 1e-6 * max(1, float(theirs.grad.abs().max())), name


def test_micro_batches_with_unequal_pair_counts_weigh_each_pair_the_same() -> None:
    """ms-swift#10144: a mean of means gives the pairs of a small micro-batch more weight."""
    comparisons = random_comparisons(7)
    options = replace(ONE_STEP, learning_rate=1e-2)
    results = []
    for budget in (4096, 60):
        model = packed(make_model(VOCAB))
        objective = dpo(packed(make_model(VOCAB, 1)), comparisons, options)
        plan = EpochPlan.of(comparisons, options, budget=budget)
        counts = [int(comparisons.targets[list(part)].sum()) for part in plan.step(0)]
        assert budget == 4096 or len(set(counts)) > 1
        losses = fit(model, objective, options, budget=budget)
        results.append((losses, [weight.detach().clone() for weight in model.parameters()]))
    (loss, weights), (other_loss, other_weights) = results
    assert loss == pytest.approx(other_loss, abs=1e-6)
    for weight, other in zip(weights, other_weights, strict=True):
        difference = (weight - other).abs()
        # AdamW divides by the size of the gradient, so that rounding may change a weight with hardly any gradient.
        assert float(difference.max()) < options.learning_rate / 10
        assert float(difference.mean()) < 1e-6


def test_an_empty_micro_batch_has_zero_loss_and_gradient() -> None:
    """Such a micro-batch keeps processes in step."""
    comparisons = random_comparisons(3)
    model = packed(make_model(VOCAB))
    objective = dpo(model, comparisons, ONE_STEP)
    loss = objective.loss(model, objective.collate([], max_seqlen=51), 1.0)
    loss.backward()
    assert float(loss.detach()) == 0
    assert all(weight.grad is None or not weight.grad.any() for weight in model.parameters())


@pytest.mark.parametrize("chunk", [3, 100])
@pytest.mark.parametrize("bias", [True, False])
def test_log_probs_of_the_chunked_head_agree_with_autograd(chunk: int, bias: bool) -> None:
    torch.manual_seed(0)
    hidden, weight = torch.randn(11, 8, dtype=torch.float64), torch.randn(17, 8, dtype=torch.float64)
    shift = torch.randn(17, dtype=torch.float64) if bias else None
    labels, upstream = torch.randint(17, (11,)), torch.randn(11, dtype=torch.float64)
    inputs = [tensor for tensor in (hidden, weight, shift) if tensor is not None]
    for tensor in inputs:
        tensor.requires_grad_()
    mine = linear_log_probs(hidden, weight, labels, chunk=chunk, bias=shift)
    theirs = torch.nn.functional.linear(hidden, weight, shift).log_softmax(-1)[torch.arange(11), labels]
    torch.testing.assert_close(mine, theirs)
    for gradient, other in zip(
        torch.autograd.grad(mine, inputs, upstream), torch.autograd.grad(theirs, inputs, upstream), strict=True
    ):
        torch.testing.assert_close(gradient, other)


# Training.


@pytest.mark.parametrize("lora", [None, Lora(rank=4)])
def test_the_loss_does_not_stay_at_ln_2(lora: Lora | None) -> None:
    """trl#1962 stayed at 0.6931, as it does where the policy is its own reference at every step."""
    comparisons = random_comparisons(12)
    options = DpoOptions(batch_size=12, epochs=8, warmup=0.0, learning_rate=1e-2, checkpoint_every=0)
    model = make_model(VOCAB)
    model = packed(model if lora is None else add_adapters(model, lora))
    losses = fit(model, dpo(model, comparisons, options), options)
    assert losses[0] == pytest.approx(LN2, abs=1e-6)
    assert losses[-1] < 0.5 * LN2


def test_held_out_pairs_are_measured_against_the_model_before_training() -> None:
    """trl#6443 took the trained policy as the reference of the evaluation, so that its loss stayed ln 2."""
    comparisons, held_out = random_comparisons(12), random_comparisons(6, seed=1)
    options = DpoOptions(batch_size=12, epochs=5, warmup=0.0, learning_rate=5e-3, checkpoint_every=0)
    before = make_model(VOCAB)
    model = packed(copy.deepcopy(before))
    reference = dpo(model, held_out, options).reference
    fit(model, dpo(model, comparisons, options), options)
    after = evaluate(model, held_out.documents, budget=64)
    rewards = dpo_rewards(torch.from_numpy(-after.sums), reference, torch.from_numpy(after.counts), options)
    losses, accuracy = measure_pairs(held_out, rewards)
    trained = make_model(VOCAB)
    trained.load_state_dict(model.model.state_dict())
    with torch.no_grad():
        expected = float(plain_dpo_loss(trained, before, held_out, options))
    assert losses.mean == pytest.approx(expected, abs=1e-5)
    assert abs(losses.mean - LN2) > 1e-3
    assert accuracy.counts.tolist() == [3, 1, 1, 3, 1, 1]


def test_dropout_is_off_in_policy_and_reference() -> None:
    comparisons = random_comparisons(4)
    model = add_adapters(make_model(VOCAB, attention_dropout=0.5), Lora(rank=4, dropout=0.5))
    with torch.no_grad():
        for name, weight in model.named_parameters():
            weight.add_(0.1 * ("lora_B" in name))  # otherwise the adapters' dropout changes nothing
    model = packed(model)
    objective = dpo(model, comparisons, ONE_STEP)
    batch = objective.collate(range(4), max_seqlen=51)
    model.train()
    assert float(objective.loss(model, batch, 1 / 8).detach()) != pytest.approx(LN2, abs=1e-3)
    with pytest.raises(UsageError, match="computes at random"):
        check_repeatable(model)
    disable_dropout(model)
    check_repeatable(model)
    assert float(objective.loss(model, batch, 1 / 8).detach()) == pytest.approx(LN2, abs=1e-6)


class KilledError(Exception):
    pass


@pytest.mark.parametrize("stop", [1, 4])
def test_a_resumed_preference_run_is_bit_identical_to_an_uninterrupted_one(tmp_path: Path, stop: int) -> None:
    comparisons = random_comparisons(9)
    options = DpoOptions(batch_size=3, epochs=2, learning_rate=1e-2, checkpoint_every=1)

    def run(folder: Path, stop: int | None = None) -> tuple[list[float], dict[str, torch.Tensor]]:
        model = packed(make_model(VOCAB))
        objective = dpo(model, comparisons, options)
        optimizer = FlatAdamW(model.parameters(), options)
        start = 0
        if latest := checkpoint.latest(folder):
            optimizer.restore(latest.tensors())
            start = latest.step
        losses: list[float] = []

        def save(step: int) -> None:
            checkpoint.save(folder, step, optimizer.state(), {}, keep=1)
            if step == stop:
                raise KilledError

        plan = EpochPlan.of(comparisons, options, budget=100)
        loop = TrainingLoop(
            model, optimizer, plan, objective=objective, log=lambda _, v: losses.append(v["loss"]), save=save
        )
        with contextlib.suppress(KilledError):
            loop.run(start)
        return losses, optimizer.state()

    expected, weights = run(tmp_path / "whole")
    first, _ = run(tmp_path / "parts", stop)
    second, resumed = run(tmp_path / "parts")
    assert first + second == expected
    assert all(torch.equal(tensor, resumed[name]) for name, tensor in weights.items())


# The reference.


def test_new_adapters_have_the_base_model_as_their_reference(tmp_path: Path) -> None:
    comparisons, plain = random_comparisons(3), make_model(VOCAB)
    adapted = packed(add_adapters(make_model(VOCAB), Lora(rank=4)))
    values = reference_log_probs(
        tmp_path / "reference", adapted, {"train": comparisons.documents}, weights="w", precision="p", budget=64
    )["train"]
    with torch.no_grad():
        expected = [
            float(plain_log_prob(plain, document))
            for document in map(comparisons.documents.__getitem__, range(len(values)))
        ]
    assert values.tolist() == pytest.approx(expected, abs=1e-4)


def test_a_reference_is_computed_once_and_refused_for_anything_else(tmp_path: Path) -> None:
    path, documents = tmp_path / "reference", random_comparisons(3).documents
    model = packed(make_model(VOCAB))

    def compute(weights: str = "w", precision: str = "float32", **sets: Any) -> dict[str, Any]:
        return reference_log_probs(path, model, sets, weights=weights, precision=precision, budget=64)

    first = compute(train=documents)
    content = path.read_bytes()
    with torch.no_grad():
        for weight in model.parameters():
            weight.zero_()  # a training step, say
    assert compute(train=documents)["train"].tolist() == first["train"].tolist()
    masked = replace(documents, supervised=np.roll(documents.supervised, 1))
    for arguments, what in (
        ({"weights": "other", "train": documents}, "weights"),
        ({"precision": "bfloat16", "train": documents}, "precision"),
        ({"train": documents.subset([1, 0])}, "documents of train"),
        ({"train": masked}, "documents of train"),
        ({"train": documents, "pairs": documents}, "documents of pairs"),
    ):
        with pytest.raises(RunChangedError, match=f"computed with other {what}; remove it"):
            compute(**arguments)
    assert path.read_bytes() == content
    path.write_bytes(content[:-8])
    with pytest.raises(SelfInstructError, match="remove it"):
        compute(train=documents)


# Reward models.


def test_all_pairs_of_a_prompt_are_learnt_from_one_pass_over_its_answers() -> None:
    comparisons = random_comparisons(4)
    reward = to_reward_model(make_model(VOCAB))
    torch.nn.init.normal_(reward.score.weight)
    plain = copy.deepcopy(reward)
    model, objective = packed(reward, PackedRewardModel), BradleyTerry(comparisons)
    batch = objective.collate(range(4), max_seqlen=51)
    assert len(batch.documents) == 4 + 2 + 2 + 4
    loss = objective.loss(model, batch, 1 / 8)
    loss.backward()
    scores = [plain(ids_of(comparisons.documents[number])).logits[0, 0] for number in range(12)]
    terms = [-torch.nn.functional.logsigmoid(scores[a] - scores[b]) for a, b in comparisons.pairs.tolist()]
    expected = torch.stack(terms).mean()
    expected.backward()
    assert len(terms) == 8
    assert float(loss.detach()) == pytest.approx(float(expected.detach()), abs=1e-6)
    for mine, theirs in zip(reward.parameters(), plain.parameters(), strict=True):
        assert float((mine.grad - theirs.grad).abs().max()) < 1e-6 * max(1, float(theirs.grad.abs().max()))


def test_a_model_without_a_reward_model_in_transformers_is_refused() -> None:
    from transformers import BloomConfig, GitConfig, GitForCausalLM

    bloom = GitForCausalLM(GitConfig(vocab_size=99, hidden_size=16, num_hidden_layers=1, num_attention_heads=2,
                                     intermediate_size=16, vision_config={"hidden_size": 16, "num_hidden_layers": 1,
                                     "num_attention_heads": 2, "intermediate_size": 16}))  # fmt: skip
    assert BloomConfig
    with pytest.raises(UsageError, match="no reward model of type 'git'"):
        to_reward_model(bloom)


def test_the_interval_of_an_accuracy_is_wilsons() -> None:
    assert wilson_interval(0.5, 10) == pytest.approx((0.2366, 0.7634), abs=1e-4)
    assert wilson_interval(1.0, 12) == pytest.approx((0.7575, 1.0), abs=1e-4)
    assert wilson_interval(0.0, 5) == pytest.approx((0.0, 0.4345), abs=1e-4)


# Reading.

USER, GOOD, BAD = ({"role": role, "content": text} for role, text in
                   (("user", "Name a river."), ("assistant", "The Loire."), ("assistant", "Paris.")))  # fmt: skip
LAYOUTS = {
    "export of selfinstruct": {"prompt": [USER], "chosen": [GOOD], "rejected": [BAD], "score_chosen": 9.0,
                               "score_rejected": 2.0},
    "TRL, texts": {"prompt": "Name a river.", "chosen": "The Loire.", "rejected": "Paris."},
    "TRL, messages without prompt": {"chosen": [USER, GOOD], "rejected": [USER, BAD]},
    "UltraFeedback in pairs": {"prompt": "Name a river.", "prompt_id": "1f", "chosen": [USER, GOOD],
                               "rejected": [USER, BAD], "messages": [USER, GOOD], "score_chosen": 8.5,
                               "score_rejected": 8.0},
    "UltraFeedback": {"source": "x", "instruction": "Name a river.", "models": ["a", "b"], "completions": [
        {"model": "b", "response": "Paris.", "overall_score": 3.5, "fine-grained_score": 4.0},
        {"model": "a", "response": "The Loire.", "overall_score": 8.0, "fine-grained_score": 4.0}]},
    "Alpaca fields": {"instruction": "Name a river.", "input": "", "chosen": "The Loire.", "rejected": "Paris."},
    "ShareGPT": {"conversations": [{"from": "human", "value": "Name a river."}],
                 "chosen": {"from": "gpt", "value": "The Loire."}, "rejected": {"from": "gpt", "value": "Paris."}},
    "HH-RLHF": {"chosen": "\n\nHuman: Name a river.\n\nAssistant: The Loire.",
                "rejected": "\n\nHuman: Name a river.\n\nAssistant: Paris."},
    "ranks": {"prompt": "Name a river.", "answers": [{"answer": "Paris.", "rank": 2},
                                                     {"answer": "The Loire.", "rank": 1}]},
    "lists": {"prompt": "Name a river.", "responses": ["The Loire.", "Paris."], "scores": [1, 0]},
    "messages as JSON": {"prompt": json.dumps([USER]), "chosen": json.dumps([GOOD]), "rejected": json.dumps([BAD])},
}  # fmt: skip


@pytest.mark.parametrize("layout", LAYOUTS)
def test_common_layouts_of_compared_answers_are_read(layout: str) -> None:
    compared = compared_answers(LAYOUTS[layout], "rows.jsonl:1")
    (pair,) = compared.pairs
    texts = [[(turn.role, turn.content) for turn in compared.examples[number].turns] for number in pair]
    assert texts == [[("user", "Name a river."), ("assistant", answer)] for answer in ("The Loire.", "Paris.")]


def test_four_scored_answers_give_every_pair_with_different_scores() -> None:
    scored = (("2", 9), ("3", 1), ("two", 9), ("?", "N/A"), ("11", 4))
    completions = [{"response": text, "overall_score": score} for text, score in scored]
    compared = compared_answers({"instruction": "Add 1 and 1.", "completions": completions}, "rows.jsonl:1")
    answers = [example.turns[-1].content for example in compared.examples]
    assert answers == ["2", "3", "two", "11"], "an answer without a score is left out"
    named = {(answers[chosen], answers[rejected]) for chosen, rejected in compared.pairs}
    assert named == {("2", "3"), ("two", "3"), ("2", "11"), ("two", "11"), ("11", "3")}


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"instruction": "a", "output": "b"}, "no answers to compare"),
        ({"prompt": "a", "chosen": "b"}, "no answers to compare"),
        ({"prompt": "a", "chosen": "b", "rejected": "b"}, "are the same"),
        ({"chosen": [USER, GOOD], "rejected": [{"role": "user", "content": "Hi"}, BAD]}, "not to the same prompt"),
        ({"chosen": "b", "rejected": "c"}, "has no prompt"),
        ({"prompt": "a", "responses": ["b", "c"], "scores": [1, 1]}, "the same score"),
        ({"prompt": "a", "responses": ["b", "c"]}, "0 answers with a score"),
        ({"prompt": "a", "chosen": 3, "rejected": "c"}, "must be a string"),
        ({"prompt": "a", "chosen": None, "rejected": "c"}, "no answers to compare"),
    ],
)
def test_a_row_that_compares_nothing_is_refused_with_the_reason(row: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        compared_answers(row, "rows.jsonl:1")


def test_only_the_turns_after_the_common_beginning_are_learnt(tiny_tokenizer: Any) -> None:
    history = [USER, GOOD, {"role": "user", "content": "Another?"}]
    row = {"prompt": history, "chosen": [{"role": "assistant", "content": "The Rhine."}], "rejected": [BAD]}
    renderer = Renderer(tiny_tokenizer, "chat", max_length=512)
    comparisons, _ = render_comparisons([compared_answers(row, "rows.jsonl:1")], renderer, cut=True)
    learnt = ["".join(text for text, on in renderer.pieces(comparisons.documents[n]) if on) for n in (0, 1)]
    assert learnt == ["The Rhine.<|im_end|>", "Paris.<|im_end|>"]


def write(path: Path, rows: list[dict[str, Any]]) -> str:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


def test_rows_without_answer_tokens_are_left_out_by_name(tmp_path: Path, tiny_tokenizer: Any) -> None:
    """trl#6321 and open-instruct#1685: an answer that is cut away has log-probability 0, and NaN per token."""
    rows = [
        {"prompt": "word " * 50, "chosen": "The Loire.", "rejected": "Paris."},  # no room for an answer
        {"prompt": "Name a river.", "chosen": "", "rejected": "Paris."},
        {"prompt": [USER], "chosen": [{**GOOD, "weight": 0}], "rejected": [BAD]},
        {"prompt": "Name a sea.", "chosen": "x" * 200 + "a", "rejected": "x" * 200 + "b"},  # differ after the cut
        {"prompt": "Name a river.", "chosen": "The Loire.", "rejected": "Paris."},
    ]
    renderer = Renderer(tiny_tokenizer, "chat", max_length=64)
    data = read_preference_data(write(tmp_path / "rows.jsonl", rows), renderer, DpoOptions(), cut=True)
    assert [name.rpartition(":")[2] for name in data.train.names] == ["5"]
    assert all(int(count) > 0 for count in data.train.documents.targets)
    named = " ".join(map(str, data.unread))
    for line in (1, 2, 3, 4):
        assert f"rows.jsonl:{line}" in named, line


def test_a_reward_model_leaves_out_rows_that_are_too_long(tmp_path: Path, tiny_tokenizer: Any) -> None:
    rows = [{"prompt": "Name a river.", "chosen": "The Loire. " * 20, "rejected": "Paris."}, LAYOUTS["TRL, texts"]]
    renderer = Renderer(tiny_tokenizer, "chat", max_length=64)
    data = read_preference_data(write(tmp_path / "rows.jsonl", rows), renderer, RewardOptions(), cut=False)
    assert len(data.train) == 1
    assert [(name.rpartition("/")[2], reason) for name, reason, _ in data.rendered.dropped] == [
        ("rows.jsonl:1 (chosen)", "too long")
    ]


def test_the_preference_data_of_a_run_is_read(tmp_path: Path) -> None:
    (tmp_path / "run" / "dataset").mkdir(parents=True)
    (tmp_path / "run" / "run.sqlite").touch()
    with pytest.raises(UsageError, match=r"selfinstruct export .*run --format preference"):
        read_comparisons(str(tmp_path / "run"))
    write(tmp_path / "run" / "dataset" / "preference.jsonl", [LAYOUTS["export of selfinstruct"]])
    for folder in (tmp_path / "run", tmp_path / "run" / "dataset"):
        assert len(read_comparisons(str(folder)).comparisons) == 1


def test_contradicting_scores_and_margins_are_named(tmp_path: Path) -> None:
    row = {**LAYOUTS["TRL, texts"], "score_chosen": 1, "score_rejected": 2, "margin": 0.5}
    notices = read_comparisons(write(tmp_path / "rows.jsonl", [row])).notices
    assert len(notices) == 2
    assert "higher score than the chosen" in notices[1]


def test_comparisons_of_one_prompt_are_on_one_side_of_the_split() -> None:
    base = random_comparisons(6)
    repeated = base.subset([0, 1, 2, 3, 4, 5, 0, 1, 2])
    train, held_out = repeated.split(0.5, seed=3)
    assert len(train) + len(held_out) == 9
    assert set(train.names).isdisjoint(held_out.names)
    assert len(set(held_out.names)) == 3


def test_settings_without_sense_for_preferences_are_refused() -> None:
    for assignment, message in (("lora.dropout=0.1", "lora.dropout"), ("evaluation.seed_tasks=3", "seed_tasks"),
                                ("beta=0", "beta"), ("sft=-1", "sft")):  # fmt: skip
        with pytest.raises(ConfigError, match=message):
            finetune.load_options("dpo", None, [assignment], kind=DpoOptions)
    with pytest.raises(UsageError, match="no recipe 'dpo'"):
        finetune.load_options("dpo")
    with pytest.raises(ConfigError, match=r"lora\.base"):
        finetune.load_options("reward", None, ["lora.base=nf4"], kind=RewardOptions)
