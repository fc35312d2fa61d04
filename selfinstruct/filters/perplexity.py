"""Perplexity of texts, and the difficulty of following an instruction, computed by a small causal language model.

The model (extra ``train``: torch and transformers) only provides log-probabilities of tokens; the rest is arithmetic on
them. Any function that provides log-probabilities can replace the model.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any, ClassVar, TypeAlias

from selfinstruct.errors import UsageError
from selfinstruct.filters.base import Filter, Reads
from selfinstruct.filters.pretrained import BATCH, load_pretrained
from selfinstruct.reasons import RejectReason
from selfinstruct.records import Verdict

__all__ = ["Ifd", "Perplexity", "Scorer", "ifd", "load_scorer", "perplexity"]

# For each pair of a context and a text, the natural log-probabilities of the text's tokens, given the context and the
# preceding tokens. The same text must have the same tokens after every context.
Scorer: TypeAlias = Callable[[Sequence[tuple[str, str]]], Sequence[Sequence[float]]]

SEPARATOR = "\n\n"  # between instruction and answer, since the model need not have a chat template
MAX_TOKENS = 1024  # of context and text together: the start of the context is cut first, then the end of the text
MAX_EXPONENT = 709  # of math.exp before a double overflows


def perplexity(logprobs: Sequence[float]) -> float:
    """Return the exponential of the mean negative log-probability: NaN without tokens, infinite beyond floats."""
    if not logprobs:
        return math.nan
    mean = -math.fsum(logprobs) / len(logprobs)
    return math.exp(mean) if mean < MAX_EXPONENT else math.inf


def ifd(conditioned: Sequence[float], direct: Sequence[float]) -> float:
    """Return the instruction-following difficulty: perplexity of the answer after its instruction over that without it.

    Li et al. 2023 (arXiv:2308.12032) introduce the ratio, of mean losses; Li et al. 2024 (arXiv:2402.00530) use
    perplexities, as here. Both are below 1 where the instruction helps. The result is NaN without tokens.

    Args:
        conditioned: Log-probabilities of the answer's tokens after the instruction.
        direct: Log-probabilities of the same tokens without the instruction.

    Raises:
        UsageError: The numbers of tokens differ.
    """
    if len(conditioned) != len(direct):
        raise UsageError(
            f"{len(conditioned)} tokens after the instruction but {len(direct)} alone; they must be the same"
        )
    if not direct:
        return math.nan
    exponent = (math.fsum(direct) - math.fsum(conditioned)) / len(direct)
    return math.exp(exponent) if exponent < MAX_EXPONENT else math.inf


@dataclass(frozen=True)
class Perplexity(Filter):
    """Keeps texts whose perplexity lies between two bounds: plausible, but not repetitive.

    The score is the perplexity. Reasons: ``perplexity`` above ``max``, ``repetitive`` below ``min``. A text without
    tokens is kept, without a score.

    Attributes:
        model: Directory or name of a causal model for transformers, or a ``Scorer``.
        max, min: Highest and lowest perplexity that is kept. They depend on the model and the texts: inspect a sample
            first.
    """

    name: ClassVar[str] = "perplexity"
    reads: ClassVar[Reads] = "output"
    model: str | Path | Scorer
    max: float = field(kw_only=True)
    min: float = field(default=0.0, kw_only=True)

    def __post_init__(self) -> None:
        _check_bounds(self.min, self.max)

    def decide(self, texts: Sequence[str]) -> list[Verdict]:
        """Decide on each text.

        Raises:
            MissingExtraError: torch or transformers is not installed.
            UsageError: The model cannot be loaded.
        """
        scorer = load_scorer(self.model)
        return [self._verdict(perplexity(logprobs)) for logprobs in scorer([("", text) for text in texts])]

    def _verdict(self, score: float) -> Verdict:
        return _bounded_verdict(
            self.name, score, self.min, self.max, (RejectReason.REPETITIVE, RejectReason.PERPLEXITY)
        )


@dataclass(frozen=True)
class Ifd:
    """Keeps rows whose instruction helps a model to the answer, and whose answer is not predictable without it.

    The score is the IFD. Reasons: ``unhelpful`` above ``max`` (according to the paper, instruction and answer do not
    fit together from 1 on), ``easy`` below ``min``. A row with an empty answer is kept, without a score.

    ``Dataset.filter(Ifd(model), batched=True, input_columns=["instruction", "output"])``.

    Attributes:
        model: As in ``Perplexity``.
        max, min: Highest and lowest IFD that is kept.
        separator: Text between instruction and answer.
    """

    name: ClassVar[str] = "ifd"
    model: str | Path | Scorer
    max: float = field(default=1.0, kw_only=True)
    min: float = field(default=0.0, kw_only=True)
    separator: str = field(default=SEPARATOR, kw_only=True)

    def __post_init__(self) -> None:
        _check_bounds(self.min, self.max)

    def decide(self, instructions: Sequence[str], answers: Sequence[str]) -> list[Verdict]:
        """Decide on each instruction with its answer.

        Raises:
            MissingExtraError: torch or transformers is not installed.
            UsageError: The numbers of instructions and answers differ, or the model cannot be loaded.
        """
        if len(instructions) != len(answers):
            raise UsageError(f"{len(instructions)} instructions but {len(answers)} answers")
        scorer = load_scorer(self.model)
        pairs = zip(instructions, answers, strict=True)
        conditioned = scorer([(instruction + self.separator, answer) for instruction, answer in pairs])
        direct = scorer([("", answer) for answer in answers])
        return [self._verdict(ifd(*logprobs)) for logprobs in zip(conditioned, direct, strict=True)]

    def __call__(self, instructions: Sequence[str], answers: Sequence[str]) -> list[bool]:
        """Return True for each row that is kept."""
        return [verdict.kept for verdict in self.decide(instructions, answers)]

    def _verdict(self, score: float) -> Verdict:
        return _bounded_verdict(self.name, score, self.min, self.max, (RejectReason.EASY, RejectReason.UNHELPFUL))


def _check_bounds(low: float, high: float) -> None:
    if not 0 <= low <= high:
        raise UsageError(f"min {low} and max {high} are not valid bounds; 0 <= min <= max is expected")


def _bounded_verdict(name: str, score: float, low: float, high: float, reasons: tuple[str, str]) -> Verdict:
    """Return the verdict on a score; ``reasons`` are the codes for a score below and above the bounds."""
    if math.isnan(score):
        return Verdict(name, True)
    if low <= score <= high:
        return Verdict(name, True, "", score)
    reason = reasons[0] if score < low else reasons[1]
    if math.isinf(score):  # JSON has no infinity
        return Verdict(name, False, reason, None, detail={"infinite": True})
    return Verdict(name, False, reason, score)


def load_scorer(model: str | Path | Scorer) -> Scorer:
    """Return a scorer that runs a causal model for transformers, on a GPU if there is one.

    Args:
        model: Directory or name of the model, or a scorer, which is returned unchanged.

    Raises:
        MissingExtraError: torch or transformers is not installed.
        UsageError: The model cannot be loaded.
    """
    return model if callable(model) else _load(str(model))


@lru_cache(maxsize=1)
def _load(model: str) -> Scorer:
    tokenizer, network, _ = load_pretrained(model, "AutoModelForCausalLM", "language model")
    return lambda pairs: _score(tokenizer, network, pairs)


def _score(tokenizer: Any, network: Any, pairs: Sequence[tuple[str, str]]) -> list[list[float]]:
    import torch

    # Every sequence begins with a special token, so that the first token of a text without context has a probability.
    start = tokenizer.bos_token_id if tokenizer.bos_token_id is not None else tokenizer.eos_token_id
    if start is None:
        raise UsageError("the model's tokenizer has neither a first nor a last token; choose another model")
    limit = min(MAX_TOKENS, getattr(network.config, "max_position_embeddings", None) or MAX_TOKENS)
    rows: list[tuple[list[int], int]] = []  # tokens of context and text, and the number that belong to the text
    for context, text in pairs:
        # Tokenized separately, so that the text has the same tokens after every context.
        before = tokenizer(context, add_special_tokens=False)["input_ids"] if context else []
        tokens = tokenizer(text, add_special_tokens=False)["input_ids"][: limit // 2] if text else []
        room = limit - 1 - len(tokens)
        rows.append(([start, *(before[-room:]), *tokens], len(tokens)))
    scores: list[list[float]] = [[] for _ in rows]
    by_length = sorted((row for row, (_, count) in enumerate(rows) if count), key=lambda row: len(rows[row][0]))
    for begin in range(0, len(by_length), BATCH):
        batch = by_length[begin : begin + BATCH]
        longest = max(len(rows[row][0]) for row in batch)
        # Padding on the right: under causal attention it does not influence the tokens before it.
        ids = torch.tensor([rows[row][0] + [start] * (longest - len(rows[row][0])) for row in batch])  # (B, T)
        with torch.inference_mode():
            logits = network(input_ids=ids.to(network.device)).logits[:, :-1].float()  # (B, T - 1, V)
        targets = ids[:, 1:].to(network.device).unsqueeze(-1)
        logprobs = (logits.gather(-1, targets).squeeze(-1) - logits.logsumexp(-1)).cpu()  # (B, T - 1)
        for number, row in enumerate(batch):
            tokens, count = rows[row]
            scores[row] = logprobs[number, len(tokens) - 1 - count : len(tokens) - 1].tolist()
    return scores
