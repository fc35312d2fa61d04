"""Reward models: a causal language model whose head is replaced by a score of one number.

The score is read at the last token of a document, where the models for sequence classification of transformers read it:
at the last token that is not padding. Documents therefore must not end with the padding token of the saved model.

Shapes: T tokens in a micro-batch, D documents, H the hidden size.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from copy import deepcopy
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AutoModelForSequenceClassification

from finetune.data.batch import Batch
from finetune.data.comparisons import ComparisonBatch
from finetune.model.anatomy import find_decoder
from finetune.model.packed_lm import PackedCausalLM
from finetune.model.saving import save
from selfinstruct.errors import UsageError

__all__ = ["PackedRewardModel", "choose_padding", "save_reward_model", "to_reward_model"]


class PackedRewardModel(PackedCausalLM):
    """A reward model over packed documents."""

    def rewards(self, batch: ComparisonBatch) -> Tensor:
        """Return (D,) float32 (or wider): the score of each document."""
        last = self._states(batch).index_select(0, batch.ends)  # (D, H)
        scores: Tensor = self.causal.score(last)[:, 0]
        return scores if scores.dtype == torch.float64 else scores.float()

    def _logits(self, batch: Batch) -> Tensor:
        """Return (M, 1): the score at positions of a document; the head of transformers reads the last one only."""
        scores: Tensor = self.causal.score(self._hidden(batch))
        return scores.float()


def to_reward_model(causal: Any) -> Any:
    """Return a model for sequence classification with the layers of ``causal`` and a score that is 0 for every text.

    Raises:
        UsageError: transformers has no such model with a linear score on top of these layers.
    """
    config = deepcopy(causal.config)
    config.num_labels = 1
    config.id2label, config.label2id = {0: "reward"}, {"reward": 0}
    prefix = causal.base_model_prefix
    auto: Any = AutoModelForSequenceClassification
    try:
        with torch.device("meta"):
            model = auto.from_config(config, dtype=causal.dtype)
        same = type(getattr(model, prefix)) is type(getattr(causal, prefix))
    except (ValueError, AttributeError):
        same = False
    head = getattr(model, "score", None) if same else None
    if not isinstance(head, nn.Linear) or head.out_features != 1:
        raise UsageError(
            f"transformers has no reward model of type {config.model_type!r} (a sequence classification model with a "
            "linear score); start from another model"
        )
    setattr(model, prefix, getattr(causal, prefix))
    if find_decoder(model) is not getattr(causal, prefix):
        raise UsageError(
            f"a reward model of type {config.model_type!r} can't be trained here: it is more than a text model"
        )
    embedding = causal.get_input_embeddings().weight
    model.score = nn.Linear(
        head.in_features, 1, bias=head.bias is not None, dtype=causal.dtype, device=embedding.device
    )
    for parameter in model.score.parameters():
        nn.init.zeros_(parameter)
    model.generation_config = None  # it generates nothing, and ``finetune.model.saving.save`` looks for one
    return model


def choose_padding(tokenizer: Any, last_tokens: Collection[int]) -> int:
    """Return a padding token with which no document ends: the tokenizer's own, or else one of its special tokens.

    Args:
        last_tokens: Ids of the last tokens of all documents.

    Raises:
        UsageError: Documents end with every special token.
    """
    candidates = [tokenizer.pad_token_id, tokenizer.unk_token_id, tokenizer.bos_token_id, *tokenizer.all_special_ids]
    for candidate in candidates:
        if candidate is not None and candidate not in last_tokens:
            return int(candidate)
    raise UsageError(
        "the tokenizer has no special token for padding except the ones with which documents end; add a pad_token to "
        "its tokenizer_config.json"
    )


def save_reward_model(
    model: Any, tokenizer: Any, folder: Path, padding: int, *, state: Mapping[str, Tensor] | None = None
) -> None:
    """Write a folder that ``AutoModelForSequenceClassification`` loads; its one logit is the reward.

    Args:
        padding: The id of ``choose_padding``, which is written into configuration and tokenizer.
        state: The full weights if the model is sharded.

    Raises:
        UsageError: ``folder`` exists already.
        SelfInstructError: The files can't be written.
    """
    model.config.get_text_config().pad_token_id = padding
    tokenizer.pad_token = tokenizer.convert_ids_to_tokens(padding)
    save(model, tokenizer, folder, state=state)
