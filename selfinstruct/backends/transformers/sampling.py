"""The choice of each row's next token from its logits."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from selfinstruct.backends.transformers.text import Sequence as TokenSequence

__all__ = ["InvalidLogitsError", "choose"]

_LIKELY = 1024  # tokens that contain the nucleus of almost every distribution


class InvalidLogitsError(Exception):
    """The model computed a logit that is not a number."""


def choose(logits: Tensor, sequences: Sequence[TokenSequence]) -> list[int]:
    """Return the next token of each row: the most likely one at temperature 0, otherwise one drawn at random.

    A row's token depends on its logits, its sampling and its generator only. It is drawn by inverting the cumulative
    distribution at one random number, so differences in the last bits of logits rarely change it.

    Args:
        logits: Shape (rows, vocabulary). They are changed.
        sequences: The sequence of each row.

    Raises:
        InvalidLogitsError: A logit is not a number.
    """
    for row, sequence in enumerate(sequences):
        _penalise(logits[row], sequence)
    peaks, tokens = logits.max(dim=-1)
    if bool(peaks.isnan().any()):
        raise InvalidLogitsError
    drawn = [row for row, sequence in enumerate(sequences) if sequence.sampling.temperature > 0]
    if drawn:
        tokens[drawn] = _draw(logits[drawn], [sequences[row] for row in drawn])
    return [int(token) for token in tokens.tolist()]


def _penalise(logits: Tensor, sequence: TokenSequence) -> None:
    """Subtract the penalties of the tokens in a completion, as OpenAI's API defines them."""
    frequency, presence = sequence.sampling.frequency_penalty, sequence.sampling.presence_penalty
    if not sequence.tokens or (frequency == 0 and presence == 0):
        return
    tokens, counts = torch.unique(torch.tensor(sequence.tokens, device=logits.device), return_counts=True)
    logits[tokens] -= frequency * counts.to(logits.dtype) + presence


def _draw(logits: Tensor, sequences: Sequence[TokenSequence]) -> Tensor:
    """Return a random token of each row, of shape (rows,)."""
    precision = torch.float32 if logits.device.type == "mps" else torch.float64  # Apple's GPUs have no float64

    def column(values: list[Any]) -> Tensor:
        return torch.tensor(values, dtype=torch.float64).to(precision).to(logits.device).unsqueeze(1)

    temperatures = column([sequence.sampling.temperature for sequence in sequences])
    probabilities = (logits.to(precision) / temperatures).softmax(dim=-1)  # (rows, vocabulary)
    for row, sequence in enumerate(sequences):
        if sequence.sampling.top_p < 1:
            _keep_nucleus(probabilities[row], sequence.sampling.top_p)
    cumulative = probabilities.cumsum(dim=-1)
    points = column([sequence.random() for sequence in sequences]) * cumulative[:, -1:]
    tokens = torch.searchsorted(cumulative, points, right=True).squeeze(1)
    # Rounding can place a point behind the last probable token.
    return torch.where(tokens < logits.shape[1], tokens, probabilities.argmax(dim=-1))


def _keep_nucleus(probabilities: Tensor, top_p: float) -> None:
    """Set the probabilities outside the nucleus to 0: it holds the fewest tokens whose sum reaches ``top_p``.

    Source: Holtzman et al. 2020, arXiv:1904.09751, section 3.1. Tokens as likely as its last one are kept as well.
    """
    size = probabilities.shape[0]
    likely = probabilities.topk(min(_LIKELY, size)).values
    if likely.sum() < top_p:
        likely = probabilities.sort(descending=True).values
    before = likely.cumsum(dim=0) - likely
    last = likely[int((before < top_p).sum()) - 1]
    probabilities[probabilities < last] = 0
