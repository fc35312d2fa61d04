"""Answers of a model to a few instructions, for a look at what training changed."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from transformers import GenerationConfig

from finetune.data.render import Renderer
from finetune.data.rows import Example
from finetune.model.attention import unpacked
from finetune.model.packed_lm import PackedCausalLM

__all__ = ["generate", "generating", "sample"]

_TOGETHER = 16  # prompts in a batch


def sample(
    trainee: PackedCausalLM, tokenizer: Any, renderer: Renderer, examples: Sequence[Example], max_tokens: int
) -> list[str]:
    """The greedy answer to each example's prompt, at most ``max_tokens`` tokens, special tokens left out.

    Raises:
        RenderError: An example has no prompt in this format.
    """
    prompts = [renderer.prompt(example) for example in examples]
    training = trainee.training
    trainee.eval()
    try:
        with unpacked(trainee.causal):
            answers = generate(trainee.model, prompts, renderer.stop_ids, max_tokens, through=trainee.generate)
    finally:
        trainee.train(training)
    return [tokenizer.decode(answer, skip_special_tokens=True).strip() for answer in answers]


def generate(
    model: Any, prompts: Sequence[Sequence[int]], stop_ids: frozenset[int], max_tokens: int,
    *, through: Callable[..., Tensor] | None = None,
) -> list[list[int]]:  # fmt: skip
    """Greedy continuations: the new ids of each prompt, before the first stop id.

    Prompts go through the model in batches, filled up on the left; the filler is masked, so that each answer is the
    one that the prompt has alone.

    Args:
        through: What is called in the place of ``model.generate``.
    """
    found: list[list[int]] = []
    for start in range(0, len(prompts), _TOGETHER):
        part = prompts[start : start + _TOGETHER]
        found += _batch(model, through or model.generate, part, stop_ids, max_tokens)
    return found


@torch.no_grad()
def _batch(
    model: Any, call: Callable[..., Tensor], prompts: Sequence[Sequence[int]], stop_ids: frozenset[int], max_tokens: int
) -> list[list[int]]:
    device = next(model.parameters()).device
    width = max(map(len, prompts))
    ids = torch.full((len(prompts), width), min(stop_ids), dtype=torch.int64)
    mask = torch.zeros_like(ids)
    for row, prompt in enumerate(prompts):
        ids[row, width - len(prompt) :] = torch.tensor(prompt)
        mask[row, width - len(prompt) :] = 1
    room = getattr(model.config, "max_position_embeddings", None) or width + max_tokens
    config = GenerationConfig(  # type: ignore[no-untyped-call]
        do_sample=False,
        max_new_tokens=max(1, min(max_tokens, room - width)),
        eos_token_id=sorted(stop_ids),
        pad_token_id=min(stop_ids),
    )
    with generating(model, config):
        rows = call(input_ids=ids.to(device), attention_mask=mask.to(device), generation_config=config)
    return [_until(row[width:].tolist(), stop_ids) for row in rows]


@contextmanager
def generating(model: Any, config: GenerationConfig) -> Iterator[None]:
    """Generate by these settings alone, and by layers as they were written.

    What a model brings (a penalty on repetitions, a temperature) would be mixed in by transformers. Compiled layers
    would be compiled anew for each token.
    """
    causal = model.get_base_model() if hasattr(model, "get_base_model") else model
    own = causal.generation_config
    causal.generation_config = config
    try:
        with torch.compiler.set_stance("force_eager"):
            yield
    finally:
        causal.generation_config = own


def _until(ids: list[int], stop_ids: frozenset[int]) -> list[int]:
    return next((ids[:place] for place, one in enumerate(ids) if one in stop_ids), ids)
