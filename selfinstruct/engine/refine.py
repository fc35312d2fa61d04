"""The section ``quality`` of a run's settings, checked against what the run has: its templates and its backend."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from selfinstruct.config import merge, nearest, read_yaml
from selfinstruct.errors import ConfigError
from selfinstruct.resources import builtin_prompts, preset
from selfinstruct.strategies import QualityOptions
from selfinstruct.strategies.quality_options import RUBRICS

__all__ = ["check_choices", "check_rubrics", "with_preset"]


def with_preset(values: Mapping[str, Any], given: Mapping[str, Any]) -> Mapping[str, Any]:
    """The settings that a fork begins with: where it is the first to ask for quality, what suits a small model goes in.

    Args:
        values: The other run's settings.
        given: What is to differ.
    """
    merged = merge(values, given)
    section = merged.get("llamacpp") or {}
    embedded = merged.get("backend") == "llamacpp" and isinstance(section, Mapping) and not section.get("model")
    if not given.get("quality") or values.get("quality") or not embedded:
        return values
    return {**values, "quality": read_yaml(preset("embedded"))[0]["quality"]}


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
