"""Sample answers of a model to a few prompts, to inspect what training changed."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from transformers import GenerationConfig

from finetune.data.render import Renderer
from finetune.data.rows import Example
from finetune.model.anatomy import text_config
from finetune.model.attention import original_attention
from finetune.model.packed_lm import PackedCausalLM

__all__ = ["generate", "generation_settings", "sample_answers"]

_BATCH_SIZE = 16  # prompts


def sample_answers(
    packed_lm: PackedCausalLM, tokenizer: Any, renderer: Renderer, examples: Sequence[Example], max_tokens: int
) -> list[str]:
    """Return the greedy answer to each example's prompt, at most ``max_tokens`` tokens, without special tokens.

    Raises:
        RenderError: An example has no prompt in this format.
    """
    prompts = [renderer.prompt(example) for example in examples]
    training = packed_lm.training
    packed_lm.eval()
    try:
        with original_attention(packed_lm.causal):
            answers = generate(
                packed_lm.model, prompts, renderer.stop_ids, max_tokens, generate_function=packed_lm.generate
            )
    finally:
        packed_lm.train(training)
    return [tokenizer.decode(answer, skip_special_tokens=True).strip() for answer in answers]


def generate(
    model: Any, prompts: Sequence[Sequence[int]], stop_ids: frozenset[int], max_tokens: int,
    *, generate_function: Callable[..., Tensor] | None = None,
) -> list[list[int]]:  # fmt: skip
    """Return the greedy continuation of each prompt: new token ids up to the first stop id.

    Prompts are batched with padding on the left; the padding is masked, so that each answer is the same as for the
    prompt alone.

    Args:
        generate_function: Called instead of ``model.generate``.
    """
    answers: list[list[int]] = []
    for start in range(0, len(prompts), _BATCH_SIZE):
        batch = prompts[start : start + _BATCH_SIZE]
        answers += _generate_batch(model, generate_function or model.generate, batch, stop_ids, max_tokens)
    return answers


@torch.no_grad()
def _generate_batch(
    model: Any,
    generate_function: Callable[..., Tensor],
    prompts: Sequence[Sequence[int]],
    stop_ids: frozenset[int],
    max_tokens: int,
) -> list[list[int]]:
    device = next(model.parameters()).device
    width = max(map(len, prompts))
    ids = torch.full((len(prompts), width), min(stop_ids), dtype=torch.int64)  # (B, T)
    mask = torch.zeros_like(ids)
    for row, prompt in enumerate(prompts):
        ids[row, width - len(prompt) :] = torch.tensor(prompt)
        mask[row, width - len(prompt) :] = 1
    context = getattr(model.config, "max_position_embeddings", None) or width + max_tokens
    config = GenerationConfig(
        do_sample=False,
        max_new_tokens=max(1, min(max_tokens, context - width)),
        eos_token_id=sorted(stop_ids),
        pad_token_id=min(stop_ids),
    )
    with generation_settings(model, config):
        rows = generate_function(
            input_ids=ids.to(device), attention_mask=mask.to(device), generation_config=config
        )  # (B, T + new)
    return [_before_stop(row[width:].tolist(), stop_ids) for row in rows]


@contextmanager
def generation_settings(model: Any, config: GenerationConfig) -> Iterator[None]:
    """Generate by ``config`` alone, with eager layers, while the context is open.

    transformers would otherwise mix in the model's own settings (a repetition penalty, a temperature), and compiled
    layers would be recompiled for each token. Load balancing is left out: transformers computes it in each step from
    the mask of the whole prompt, and fails.
    """
    causal = model.get_base_model() if hasattr(model, "get_base_model") else model
    text = text_config(causal.config)
    original, balances = causal.generation_config, getattr(text, "output_router_logits", None)
    causal.generation_config = config
    if balances:
        text.output_router_logits = False
    try:
        with torch.compiler.set_stance("force_eager"):
            yield
    finally:
        causal.generation_config = original
        if balances:
            text.output_router_logits = balances


def _before_stop(ids: list[int], stop_ids: frozenset[int]) -> list[int]:
    return next((ids[:index] for index, token_id in enumerate(ids) if token_id in stop_ids), ids)
