"""Perplexity of texts, and the difficulty of following an instruction, by a small causal language model.

The model part (extra ``train``: torch and transformers) only gives log-probabilities of tokens; everything that
decides is arithmetic on them. In place of a model any function that gives them will do.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any, ClassVar, TypeAlias

from selfinstruct.errors import MissingExtraError, UsageError
from selfinstruct.filters.base import Filter
from selfinstruct.reasons import RejectReason
from selfinstruct.records import Verdict

__all__ = ["Ifd", "Perplexity", "Scorer", "ifd", "perplexity"]

# For each pair of a context and a text the natural log-probabilities of the text's tokens, given the context and the
# tokens before. The same text must have the same tokens after any context.
Scorer: TypeAlias = Callable[[Sequence[tuple[str, str]]], Sequence[Sequence[float]]]

# Between instruction and answer, where the model has no template of its own.
SEPARATOR = "\n\n"
BATCH = 8  # texts a forward pass
MAX_TOKENS = 1024  # of context and text together: the context loses its beginning first, then the text its end


def perplexity(logprobs: Sequence[float]) -> float:
    """Exponential of the mean negative log-probability of the tokens; NaN for none, infinite beyond floats."""
    if not logprobs:
        return math.nan
    mean = -math.fsum(logprobs) / len(logprobs)
    return math.exp(mean) if mean < 709 else math.inf


def ifd(conditioned: Sequence[float], direct: Sequence[float]) -> float:
    """Instruction-following difficulty: perplexity of the answer after its instruction, over that of the answer alone.

    Li et al. 2023 (arXiv:2308.12032) introduce the ratio, there of the mean losses; Li et al. 2024 (arXiv:2402.00530)
    take it of the perplexities, as here. Both are below 1 where the instruction helps. NaN for no tokens.

    Args:
        conditioned, direct: Log-probabilities of the same tokens of the answer.
    """
    if len(conditioned) != len(direct):
        raise UsageError(
            f"{len(conditioned)} tokens after the instruction but {len(direct)} alone; they must be the same"
        )
    if not direct:
        return math.nan
    exponent = (math.fsum(direct) - math.fsum(conditioned)) / len(direct)
    return math.exp(exponent) if exponent < 709 else math.inf


@dataclass(frozen=True)
class Perplexity(Filter):
    """Texts that a model finds plausible, but not too much so.

    The score is the perplexity. Reasons: ``perplexity`` above ``max``, ``repetitive`` below ``min``. A text without
    tokens is kept unjudged, without a score.

    Attributes:
        model: Directory or name of a causal model for transformers, or a ``Scorer``.
        max, min: Bounds that are still kept. They belong to the model and to the texts: look at a sample first.
    """

    filter: ClassVar[str] = "perplexity"
    model: str | Path | Scorer
    max: float = field(kw_only=True)
    min: float = field(default=0.0, kw_only=True)

    def __post_init__(self) -> None:
        _check(self.min, self.max)

    def judge(self, texts: Sequence[str]) -> list[Verdict]:
        """Judge each text."""
        logprobs = _scorer(self.model)([("", text) for text in texts])
        return [self._verdict(perplexity(one)) for one in logprobs]

    def verdict(self, text: str) -> Verdict:
        """Judge one text; ``judge`` is faster for many."""
        return self.judge([text])[0]

    def _verdict(self, score: float) -> Verdict:
        return _decide(self.filter, score, self.min, self.max, (RejectReason.REPETITIVE, RejectReason.PERPLEXITY))


@dataclass(frozen=True)
class Ifd:
    """Rows whose instruction helps a model to the answer, and whose answer it doesn't know by heart.

    The score is the IFD. Reasons: ``unhelpful`` above ``max`` (by the paper, instruction and answer don't belong
    together from 1 on), ``easy`` below ``min``. An empty answer is kept unjudged, without a score.

    ``Dataset.filter(Ifd(model), batched=True, input_columns=["instruction", "output"])``.

    Attributes:
        model: As in ``Perplexity``.
        separator: Stands between instruction and answer.
    """

    filter: ClassVar[str] = "ifd"
    model: str | Path | Scorer
    max: float = field(default=1.0, kw_only=True)
    min: float = field(default=0.0, kw_only=True)
    separator: str = field(default=SEPARATOR, kw_only=True)

    def __post_init__(self) -> None:
        _check(self.min, self.max)

    def judge(self, instructions: Sequence[str], answers: Sequence[str]) -> list[Verdict]:
        """Judge each instruction with its answer.

        Raises:
            UsageError: There are not as many of the one as of the other.
        """
        if len(instructions) != len(answers):
            raise UsageError(f"{len(instructions)} instructions but {len(answers)} answers")
        score = _scorer(self.model)
        conditioned = score([(one + self.separator, answer) for one, answer in zip(instructions, answers, strict=True)])
        direct = score([("", answer) for answer in answers])
        return [self._verdict(ifd(*pair)) for pair in zip(conditioned, direct, strict=True)]

    def __call__(self, instructions: Sequence[str], answers: Sequence[str]) -> list[bool]:
        """True for each row that is kept."""
        return [verdict.kept for verdict in self.judge(instructions, answers)]

    def _verdict(self, score: float) -> Verdict:
        return _decide(self.filter, score, self.min, self.max, (RejectReason.EASY, RejectReason.UNHELPFUL))


def _check(low: float, high: float) -> None:
    if not 0 <= low <= high:
        raise UsageError(f"min {low} and max {high} are no bounds; 0 <= min <= max is expected")


def _decide(name: str, score: float, low: float, high: float, reasons: tuple[str, str]) -> Verdict:
    if math.isnan(score):
        return Verdict(name, True)
    if low <= score <= high:
        return Verdict(name, True, "", score)
    reason = reasons[0] if score < low else reasons[1]
    if math.isinf(score):  # JSON has no infinity
        return Verdict(name, False, reason, None, detail={"infinite": True})
    return Verdict(name, False, reason, score)


def _scorer(model: str | Path | Scorer) -> Scorer:
    return model if callable(model) else _loaded(str(model))


@lru_cache(maxsize=1)
def _loaded(model: str) -> Scorer:
    """A scorer of a causal model for transformers, on a GPU where there is one.

    Raises:
        MissingExtraError: torch or transformers is not installed.
    """
    try:
        import torch
        from transformers import AutoModelForCausalLM, AutoTokenizer
    except ImportError:
        raise MissingExtraError("torch or transformers", "train") from None
    tokenizer = AutoTokenizer.from_pretrained(model, trust_remote_code=False)
    network: Any = AutoModelForCausalLM.from_pretrained(model, trust_remote_code=False, use_safetensors=True)
    network = network.to("cuda" if torch.cuda.is_available() else "cpu").eval()
    return lambda pairs: _score(torch, tokenizer, network, pairs)


def _score(torch: Any, tokenizer: Any, network: Any, pairs: Sequence[tuple[str, str]]) -> list[list[float]]:
    # Every sequence begins with one mark, so that the first token of a text alone has a probability too.
    start = tokenizer.bos_token_id if tokenizer.bos_token_id is not None else tokenizer.eos_token_id
    if start is None:
        raise UsageError("the model's tokenizer has neither a first nor a last token; another model is needed")
    limit = min(MAX_TOKENS, getattr(network.config, "max_position_embeddings", None) or MAX_TOKENS)
    rows: list[tuple[list[int], int]] = []  # tokens, and how many of them are the text's
    for context, text in pairs:
        # Apart, so that the text has the same tokens after any context.
        before = tokenizer(context, add_special_tokens=False)["input_ids"] if context else []
        own = tokenizer(text, add_special_tokens=False)["input_ids"][: limit // 2] if text else []
        room = limit - 1 - len(own)
        rows.append(([start, *(before[-room:]), *own], len(own)))
    found: list[list[float]] = [[] for _ in rows]
    order = sorted((at for at, (_, own) in enumerate(rows) if own), key=lambda at: len(rows[at][0]))
    for begin in range(0, len(order), BATCH):
        batch = order[begin : begin + BATCH]
        longest = max(len(rows[at][0]) for at in batch)
        # Padded on the right: causal attention keeps what comes before free of it.
        ids = torch.tensor([rows[at][0] + [start] * (longest - len(rows[at][0])) for at in batch])  # (B, T)
        with torch.inference_mode():
            logits = network(input_ids=ids.to(network.device)).logits[:, :-1].float()  # (B, T - 1, V)
        wanted = ids[:, 1:].to(network.device).unsqueeze(-1)
        logprobs = (logits.gather(-1, wanted).squeeze(-1) - logits.logsumexp(-1)).cpu()  # (B, T - 1)
        for row, at in enumerate(batch):
            tokens, own = rows[at]
            found[at] = logprobs[row, len(tokens) - 1 - own : len(tokens) - 1].tolist()
    return found
