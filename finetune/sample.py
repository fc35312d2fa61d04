"""Answers of a model to a few instructions, for a look at what training changed."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from finetune.attention import unpacked
from finetune.data import Example
from finetune.render import Renderer
from finetune.trainee import Trainee

__all__ = ["generate", "sample"]


def sample(
    trainee: Trainee, tokenizer: Any, renderer: Renderer, examples: Sequence[Example], max_tokens: int
) -> list[str]:
    """The greedy answer to each example's prompt, at most ``max_tokens`` tokens, special tokens left out."""
    if not examples:
        return []
    prompts = [renderer.prompt(example) for example in examples]
    training = trainee.training
    trainee.eval()
    try:
        with unpacked(trainee.causal):
            answers = generate(trainee.model, prompts, renderer.stop_ids, max_tokens)
    finally:
        trainee.train(training)
    return [tokenizer.decode(answer, skip_special_tokens=True).strip() for answer in answers]


@torch.no_grad()
def generate(
    model: Any, prompts: Sequence[Sequence[int]], stop_ids: frozenset[int], max_tokens: int
) -> list[list[int]]:
    """Greedy continuations, batched: prompts are filled up on the left, and the filler is masked.

    Returns:
        The new ids of each prompt, before the first stop id.
    """
    device = next(model.parameters()).device
    width = max(map(len, prompts))
    ids = torch.zeros(len(prompts), width, dtype=torch.int64)
    mask = torch.zeros_like(ids)
    for row, prompt in enumerate(prompts):
        ids[row, width - len(prompt) :] = torch.tensor(prompt)
        mask[row, width - len(prompt) :] = 1
    found = model.generate(
        input_ids=ids.to(device), attention_mask=mask.to(device), do_sample=False, max_new_tokens=max_tokens,
        eos_token_id=sorted(stop_ids), pad_token_id=min(stop_ids), temperature=None, top_p=None, top_k=None,
    )  # fmt: skip
    return [_until(row[width:].tolist(), stop_ids) for row in found]


def _until(ids: list[int], stop_ids: frozenset[int]) -> list[int]:
    return next((ids[:place] for place, one in enumerate(ids) if one in stop_ids), ids)
