"""The dotted keys of a run's stages: which setting decides an option of a request."""

from __future__ import annotations

import dataclasses
from typing import Any

from selfinstruct.engine.plan import RunPlan
from selfinstruct.errors import SelfInstructError
from selfinstruct.records import Request
from selfinstruct.strategies.shared.stage import Stage

__all__ = ["explain_refusal", "stage_key"]

_QUALITY_STAGES = {"candidates": "candidates", "judge": "judging", "tags": "tagging"}


def stage_key(plan: RunPlan, stage: str, limit: int) -> str:
    """Return the dotted key of a stage's options, such as ``respond.answer``.

    Args:
        stage: Stage of the requests.
        limit: Their limit of tokens, which identifies a stage whose option has another name.
    """
    name = stage.rpartition("/")[2]
    if plan.settings.quality is not None and name in _QUALITY_STAGES:
        return f"quality.{_QUALITY_STAGES[name]}"
    section, options = _section(plan, stage)
    return f"{section}.{_stage_option(options, name, limit)}"


def explain_refusal(plan: RunPlan, request: Request, error: SelfInstructError) -> None:
    """Add the setting at fault, as it is written on the command line, to an error about an option's value."""
    option = error.refused_option
    if option is None:
        return
    if option.name == "structured":
        section, options = _section(plan, request.stage)
        if not hasattr(options, option.name):
            return
        key = f"{section}.{option.name}"
    else:
        key = f"{stage_key(plan, request.stage, request.sampling.max_tokens)}.{option.name}"
    accepted = option.accepted
    if option.name == "max_tokens" and accepted and int(float(accepted)) >= request.sampling.max_tokens:
        accepted = ""  # the room for reasoning, and not the stage's own limit, is too large
    setting = f"--set {key}={accepted}" if accepted else f"the setting {key}"
    error.args = (f"{error}. In this run that is {setting}",)


def _section(plan: RunPlan, stage: str) -> tuple[str, Any]:
    """Return the section of the strategy that a stage belongs to, and its options."""
    methods = {method.label: (method.name, method.options) for method in plan.methods}
    return methods.get(stage.rpartition("/")[0], (plan.settings.strategy, plan.strategy_options))


def _stage_option(options: Any, name: str, limit: int) -> str:
    """Return the option with this limit, by preference the one that is called like the stage."""
    values = ((field.name, getattr(options, field.name)) for field in dataclasses.fields(options))
    stages = {field: value for field, value in values if isinstance(value, Stage)}
    called = name.replace("-", "_")
    limits = [field for field, stage in stages.items() if stage.max_tokens == limit]
    return called if called in limits or not limits else limits[0]
