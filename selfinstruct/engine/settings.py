"""The settings of a run that belong neither to a strategy nor to a backend."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from selfinstruct.engine.dispatch.budget import BudgetOptions
from selfinstruct.engine.dispatch.retry import RetryOptions
from selfinstruct.engine.methods import DEFAULT
from selfinstruct.engine.row_filters import FilterOptions
from selfinstruct.engine.saturation import SaturationOptions
from selfinstruct.records.endings import ending
from selfinstruct.strategies import QualityOptions

__all__ = ["Settings"]

_MOST_REASONING = 1_000_000  # tokens, more than any model's context


@dataclass(frozen=True)
class Settings:
    """The settings that belong neither to a strategy nor to a backend.

    Attributes:
        strategy: Name of the strategy; ``mix`` for a run of several.
        strategies: The methods of a mixed run, each with a ``name``, a ``weight``, a ``label`` and options of its
            strategy (docs/mix.md).
        adapt: Whether the weights of a mixed run adapt to the yield of each method.
        backend: Name of the backend.
        preset: Defaults that suit the model: ``embedded`` (a small chat model), ``small-base`` (a small base model),
            ``none``, or ``auto``, which takes ``embedded`` for the embedded model and ``small-base`` for a GGUF file of
            up to 1.5 GB without a chat template.
        seeds: Path of a seed file, or ``builtin``. A strategy that works on its seeds also accepts a dataset or a run.
        skip_malformed: Leave rows of ``seeds`` that can't be read out, instead of refusing the file.
        prompts: Folder with templates that override built-in ones.
        seed: Seed of every random choice of the run.
        lag: Maximum number of requests between the last processed and the last numbered one. The default is 256, for
            vllm 1024, and for openai-batch 2048.
        accept_endings: Further finish reasons of a server that mark a complete answer; ``unknown`` is for a server that
            names none.
        reasoning_tokens: Tokens for a model's reasoning on top of the limit of each answer in a chat. null finds out
            whether the model reasons, and then adds 8,192, or 32,768 if these are too few; 0 adds none.
        n: Number of rows to generate.
        concurrency: Maximum number of requests in flight; null for the default of the backend.
        patience: Number of consecutive requests without a row, a task or a follow-up after which the run stops.
        quality: Checks and scores of each row before it is accepted (docs/quality.md); null for none.
        saturation: When to stop because the model repeats itself.
        filters: The filters and their thresholds.
        retry: Attempts and waits after transient errors.
        budget: Limits on requests, tokens, cost and time.
    """

    strategy: str = DEFAULT
    strategies: tuple[Mapping[str, Any], ...] | None = None
    adapt: bool = False
    backend: str = "llamacpp"
    preset: Literal["auto", "none", "embedded", "small-base"] = "auto"
    seeds: str = "builtin"
    skip_malformed: bool = False
    prompts: str | None = None
    seed: int = 0
    lag: int = 256
    accept_endings: tuple[str, ...] = ()
    reasoning_tokens: int | None = None
    n: int = 100
    concurrency: int | None = None
    patience: int = 200
    quality: QualityOptions | None = None
    saturation: SaturationOptions = field(default_factory=SaturationOptions)
    filters: FilterOptions = field(default_factory=FilterOptions)
    retry: RetryOptions = field(default_factory=RetryOptions)
    budget: BudgetOptions = field(default_factory=BudgetOptions)

    def __post_init__(self) -> None:
        for name in ("n", "lag", "patience", "concurrency"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ValueError(f"{name} must be at least 1")
        if self.reasoning_tokens is not None and not 0 <= self.reasoning_tokens <= _MOST_REASONING:
            raise ValueError(f"reasoning_tokens must be from 0 to {_MOST_REASONING:,}")
        if wrong := [name for name in self.accept_endings if ending(name) != name]:
            raise ValueError(f"accept_endings: write {wrong[0]!r} as {ending(wrong[0])!r}")
        if self.adapt and self.strategies is None:
            raise ValueError("adapt needs several methods; list them under strategies")
