"""Random compared answers, and plain loops over transformers that the losses are checked against."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch.nn.functional import logsigmoid

from finetune.data.comparisons import ComparedDocuments, Comparisons
from finetune.data.corpus import Document
from finetune.options import DpoOptions

VOCAB = 384


def random_comparisons(count: int, *, several: bool = True, seed: int = 0) -> Comparisons:
    """Random prompts of 3 to 20 tokens with answers of 1 to 30.

    Args:
        several: Give every third prompt four answers, of which three pairs are compared.
    """
    random = np.random.default_rng(seed)
    parts = []
    for number in range(count):
        prompt = random.integers(3, VOCAB, int(random.integers(3, 21)))
        answers = 4 if several and number % 3 == 0 else 2
        documents = []
        for answer in range(answers):
            ids = np.concatenate([prompt, random.integers(3, VOCAB, int(random.integers(1, 31)))]).astype(np.int32)
            documents.append(Document(ids, np.arange(len(ids)) >= len(prompt), f"random:{number} (answer {answer})"))
        pairs = ((0, 1), (2, 1), (0, 3)) if answers == 4 else ((0, 1),)
        parts.append(ComparedDocuments(f"random:{number}", tuple(documents), pairs))
    return Comparisons.of(parts)


def ids_of(document: Document) -> torch.Tensor:
    """Token ids as (1, n) int64."""
    return torch.from_numpy(document.ids.astype(np.int64))[None]


def plain_log_prob(model: Any, document: Document) -> torch.Tensor:
    """Log-probability of the supervised tokens, by the model's own logits in float64."""
    logits = model(ids_of(document)).logits[0, :-1].double().log_softmax(-1)
    labels = ids_of(document)[0, 1:]
    return logits[torch.arange(len(labels)), labels][torch.from_numpy(document.supervised[1:])].sum()


def plain_dpo_loss(model: Any, reference: Any, comparisons: Comparisons, options: DpoOptions) -> torch.Tensor:
    """Mean DPO loss of all pairs, one document at a time."""
    terms = []
    for pair in comparisons.pairs.tolist():
        documents = [comparisons.documents[number] for number in pair]
        counts = [int(document.supervised.sum()) for document in documents]
        policy = [plain_log_prob(model, document) for document in documents]
        with torch.no_grad():
            ratios = [own - plain_log_prob(reference, each) for own, each in zip(policy, documents, strict=True)]
        ratios = [own - (own.detach() - ratio.detach()) for own, ratio in zip(policy, ratios, strict=True)]
        if options.length_normalised:
            ratios = [ratio / count for ratio, count in zip(ratios, counts, strict=True)]
        loss = -logsigmoid(options.beta * (ratios[0] - ratios[1]))
        terms.append(loss - options.sft * policy[0] / counts[0])
    return torch.stack(terms).mean()
