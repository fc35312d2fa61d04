"""Sample answers of a model."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from finetune.data.render import Renderer, RenderError
from finetune.data.rows import ChatTurn, Example
from finetune.evaluation.samples import generate, sample_answers
from finetune.model.attention import use_packed_attention
from finetune.model.packed_lm import PackedCausalLM
from tests.finetune_fixtures import make_model, tiny_tokenizer  # noqa: F401

PROMPTS = [[7, 8, 9], [250], [30, 31, 32, 33, 34, 35, 36, 37, 38], [9, 8], [101, 55, 3, 77]]
NO_STOP = frozenset({299})


def greedy(model: Any, prompt: list[int], stop_ids: frozenset[int], max_tokens: int) -> list[int]:
    """Decode a single prompt greedily, without a cache."""
    ids = list(prompt)
    with torch.no_grad():
        for _ in range(max_tokens):
            token = int(model(input_ids=torch.tensor([ids]), use_cache=False).logits[0, -1].argmax())
            if token in stop_ids:
                break
            ids.append(token)
    return ids[len(prompt) :]


def test_batched_answers_equal_those_of_separate_prompts() -> None:
    model = make_model(300)
    separate = [greedy(model, prompt, NO_STOP, 12) for prompt in PROMPTS]
    assert all(len(answer) == 12 for answer in separate)
    assert len(set(map(tuple, separate))) == len(PROMPTS)
    assert generate(model, PROMPTS, NO_STOP, 12) == separate


def test_several_batches_keep_the_order_of_the_prompts() -> None:
    model = make_model(300)
    prompts = [[number, number + 1] for number in range(3, 40)]
    assert generate(model, prompts, NO_STOP, 2) == [greedy(model, prompt, NO_STOP, 2) for prompt in prompts]
    assert generate(model, [], NO_STOP, 2) == []


def test_an_answer_ends_at_a_stop_token_but_not_at_padding() -> None:
    model = make_model(300)
    unstopped = [greedy(model, prompt, NO_STOP, 12) for prompt in PROMPTS]
    stops = frozenset({unstopped[0][5], unstopped[2][3]})
    expected = [greedy(model, prompt, stops, 12) for prompt in PROMPTS]
    assert len({len(answer) for answer in expected}) > 1
    assert generate(model, PROMPTS, stops, 12) == expected


def test_generation_settings_of_the_model_are_ignored() -> None:
    model = make_model(300)
    expected = generate(model, PROMPTS, NO_STOP, 12)
    model.generation_config.repetition_penalty = 5.0
    model.generation_config.no_repeat_ngram_size = 1
    model.generation_config.do_sample = True
    model.generation_config.temperature = 3.0
    original = model.generation_config
    assert generate(model, PROMPTS, NO_STOP, 12) == expected
    assert model.generation_config is original


def test_a_mixture_of_experts_that_balances_its_load_generates() -> None:
    """transformers would compare the tokens of one step with the mask of the whole prompt."""
    from transformers import Qwen2MoeConfig, Qwen2MoeForCausalLM

    torch.manual_seed(0)
    sizes = {"hidden_size": 16, "intermediate_size": 32, "moe_intermediate_size": 8, "num_hidden_layers": 2}
    heads = {"num_attention_heads": 2, "num_key_value_heads": 2, "num_experts": 4, "num_experts_per_tok": 2}
    config = Qwen2MoeConfig(vocab_size=300, shared_expert_intermediate_size=8, **sizes, **heads)
    model = Qwen2MoeForCausalLM(config).eval()
    expected = generate(model, PROMPTS, NO_STOP, 4)
    model.config.output_router_logits = True
    assert generate(model, PROMPTS, NO_STOP, 4) == expected
    assert model.config.output_router_logits


def test_answers_stay_within_the_context_length() -> None:
    from transformers import GPT2Config, GPT2LMHeadModel

    torch.manual_seed(0)
    model = GPT2LMHeadModel(GPT2Config(vocab_size=300, n_embd=16, n_layer=1, n_head=2, n_positions=12)).eval()
    assert [len(answer) for answer in generate(model, [[5] * 10], NO_STOP, 50)] == [2]


def test_sampling_uses_the_original_attention_and_restores_the_packed_one(
    tiny_tokenizer: Any,  # noqa: F811
) -> None:
    model = make_model(len(tiny_tokenizer))
    renderer = Renderer(tiny_tokenizer, "chat", max_length=128)
    examples = [
        Example("x:1", (ChatTurn("user", "Name three colours."), ChatTurn("assistant", "red, green, blue"))),
        Example("x:2", (ChatTurn("user", "The fox?"), ChatTurn("assistant", "jumps"))),
    ]
    expected = [
        tiny_tokenizer.decode(
            greedy(model, renderer.prompt(example), renderer.stop_ids, 8), skip_special_tokens=True
        ).strip()
        for example in examples
    ]
    use_packed_attention(model, "sdpa")
    packed_lm = PackedCausalLM(model).train()
    assert sample_answers(packed_lm, tiny_tokenizer, renderer, examples, 8) == expected
    assert any(expected)
    assert packed_lm.training
    assert model.config._attn_implementation == "finetune_sdpa"
    assert sample_answers(packed_lm, tiny_tokenizer, renderer, [], 8) == []


def test_generation_does_not_recompile_layers_for_each_token() -> None:
    compiled: list[int] = []

    def count(graph: Any, _inputs: Any) -> Any:
        compiled.append(1)
        return graph.forward

    model = make_model(300)
    expected = generate(model, PROMPTS, NO_STOP, 4)
    for layer in model.model.layers:
        layer.compile(backend=count, dynamic=False)
    assert generate(model, PROMPTS, NO_STOP, 4) == expected
    assert compiled == []


def test_an_example_without_a_prompt_leaves_the_mode_unchanged(tiny_tokenizer: Any) -> None:  # noqa: F811
    packed_lm = PackedCausalLM(make_model(len(tiny_tokenizer))).train()
    renderer = Renderer(tiny_tokenizer, "alpaca", max_length=128)
    turns = (ChatTurn("user", "a"), ChatTurn("assistant", "b"), ChatTurn("user", "c"), ChatTurn("assistant", "d"))
    with pytest.raises(RenderError):
        sample_answers(packed_lm, tiny_tokenizer, renderer, [Example("x:1", turns)], 8)
    assert packed_lm.training
