"""What a run asks for, checked against what its backend can do: before anything is sent."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any

from selfinstruct.common.config import nearest
from selfinstruct.common.resources import builtin_prompts
from selfinstruct.engine.methods import Method
from selfinstruct.errors import ConfigError
from selfinstruct.strategies import QualityOptions
from selfinstruct.strategies.abilities import NeedsRawPrompts, schema_apis
from selfinstruct.strategies.base import Strategy
from selfinstruct.strategies.quality.options import RUBRICS

__all__ = ["check_choices", "check_raw", "check_reasoning", "check_rubrics", "check_schemas"]


def check_raw(backend: str, options: Any, methods: Sequence[Method]) -> None:
    """Refuse a method of raw prompts where only messages can be sent: before any is."""
    for method in methods:
        needs_raw = issubclass(method.kind, NeedsRawPrompts)
        if needs_raw and options.api == "chat" and not getattr(options, "RAW", False):
            raise ConfigError(
                f"{method.label} needs raw completions, and {backend} is to ask in chat messages: give --api "
                "completion if the server has an endpoint for them that leaves prompts as they are (vLLM and "
                "llama-server have, OpenAI's chat models have not)",
                key=f"{backend}.api",
            )


def check_schemas(backend: str, options: Any, strategy: Strategy) -> None:
    """Refuse structured output in raw prompts where the server's name for a schema is not known: before any is sent."""
    if getattr(options, "schema_field", "") is None and "completion" in schema_apis(strategy, options.api):
        raise ConfigError(
            "how does the server take a JSON schema for raw completions? Name its field, as in --set "
            f"{backend}.schema_field=structured_outputs (vLLM), ask with --api chat, or set structured to false",
            key=f"{backend}.schema_field",
        )


def check_reasoning(quality: QualityOptions, methods: Sequence[Method]) -> None:
    """Refuse further answers to a row whose reasoning is kept apart: they would come without theirs."""
    if quality.best_of > 1 and any(getattr(method.options, "reasoning", False) for method in methods):
        raise ConfigError(
            "quality.best_of: further answers are asked for without their reasoning, and the row would keep that of "
            "its first one: leave out best_of, or respond.reasoning",
            key="quality.best_of",
        )


def check_rubrics(quality: QualityOptions, folder: Path | None, recorded: Collection[str]) -> None:
    """Refuse a rubric that has no template.

    Args:
        folder: The user's own templates.
        recorded: Names of those in the run's ledger.

    Raises:
        ConfigError: With the rubrics that there are.
    """
    folders = [each / RUBRICS for each in (folder, builtin_prompts()) if each is not None]
    known = {path.stem for each in folders for path in each.glob("*.txt")}
    known |= {name.removeprefix(f"{RUBRICS}/") for name in recorded if name.startswith(f"{RUBRICS}/")}
    for name in quality.rubrics:
        if name not in known:
            raise ConfigError(
                f"quality.judge.rubrics: no rubric {name!r}{nearest(name, known)}; one of your own is a template, "
                f"{RUBRICS}/{name}.txt, in the folder that --prompts names",
                key="quality.judge.rubrics",
            )


def check_choices(quality: QualityOptions, backend: str, options: Any) -> None:
    """Refuse more answers in one completion than the backend gives.

    Raises:
        ConfigError: llama.cpp has fewer slots.
    """
    count, slots = quality.best_of - 1, getattr(options, "slots", None)
    if slots is not None and count > slots:
        raise ConfigError(
            f"quality.best_of: {quality.best_of} asks for {count} further answers at once, and {backend} has {slots} "
            f"slots: give it more with --set {backend}.slots={count}, or ask for fewer",
            key="quality.best_of",
        )
