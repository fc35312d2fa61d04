"""The settings of a run that are not a strategy's or a backend's own."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from selfinstruct.engine.dispatch.budget import BudgetOptions
from selfinstruct.engine.dispatch.retry import RetryOptions
from selfinstruct.engine.methods import DEFAULT
from selfinstruct.engine.row_filters import FilterOptions
from selfinstruct.engine.saturation import SaturationOptions
from selfinstruct.strategies import QualityOptions

__all__ = ["Settings"]


@dataclass(frozen=True)
class Settings:
    """The settings that are not a strategy's or a backend's own.

    Attributes:
        strategies: Of a run of several methods, each with its ``name``, its ``weight``, a ``label`` of its own and
            options of its strategy (docs/mix.md).
        adapt: Whether the weights follow what each of several methods brings.
        seeds: Path of a seed file, or ``builtin``; for a strategy that begins with tasks, also any dataset or run.
        prompts: Folder of templates that go before the built-in ones.
        seed: Every random choice of the run derives from it.
        lag: Most requests between the last judged and the last numbered one. The default for vllm is 1024, and
            for openai-batch 2048.
        n: Rows to make.
        concurrency: Requests in flight; null takes what suits the backend.
        quality: What is asked about each row before it is one (docs/quality.md); null for nothing.
        saturation: When to stop because the model repeats itself.
        patience: Requests in a row that bring nothing (no row, no task, no follow-up) after which the run stops, rather
            than spend for ever.
    """

    strategy: str = DEFAULT
    strategies: tuple[Mapping[str, Any], ...] | None = None
    adapt: bool = False
    backend: str = "llamacpp"
    seeds: str = "builtin"
    prompts: str | None = None
    seed: int = 0
    lag: int = 256
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
        if self.adapt and self.strategies is None:
            raise ValueError("adapt weighs several methods; name them under strategies")
