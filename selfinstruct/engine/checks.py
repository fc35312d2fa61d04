"""Checks of a run's settings against the capabilities of its backend, made before anything is sent."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from pathlib import Path

from selfinstruct.backends import Capabilities
from selfinstruct.common.resources import builtin_prompts
from selfinstruct.common.suggestions import suggest
from selfinstruct.engine.methods import Method
from selfinstruct.errors import ConfigError
from selfinstruct.prompts import Api
from selfinstruct.strategies import QualityOptions
from selfinstruct.strategies.abilities import NeedsRawPrompts
from selfinstruct.strategies.quality.options import RUBRICS
from selfinstruct.strategies.respond import RespondOptions

__all__ = ["check_choices", "check_raw", "check_reasoning", "check_rubrics", "check_schemas"]


def check_raw(backend: str, capabilities: Capabilities, methods: Sequence[Method]) -> None:
    """Refuse a method that needs raw prompts if the backend can only send chat messages."""
    for method in methods:
        if issubclass(method.kind, NeedsRawPrompts) and not capabilities.raw_prompts:
            raise ConfigError(
                f"{method.label} needs raw completions, and {backend} is set to send chat messages: use --api "
                "completion if the server has an endpoint that passes prompts on unchanged (vLLM and llama-server do, "
                "OpenAI's chat models don't)",
                key=f"{backend}.api",
            )


def check_schemas(backend: str, capabilities: Capabilities, needed: Collection[Api]) -> None:
    """Refuse structured output in kinds of prompt that the backend cannot send with a JSON schema.

    Args:
        needed: Kinds of prompt for which the strategy asks for JSON.
    """
    missing = set(needed) - capabilities.schema_apis
    if "completion" in missing and (option := capabilities.schema_option):
        raise ConfigError(
            f"how does the server take a JSON schema for raw completions? Name its field, as in --set "
            f"{backend}.{option}=structured_outputs (vLLM), ask with --api chat, or set structured to false",
            key=f"{backend}.{option}",
        )
    if missing:
        kinds = " and ".join(sorted(missing))
        raise ConfigError(
            f"{backend} can't send {kinds} prompts with a JSON schema: set structured to false in the strategy's "
            "section, or use another backend",
            key="backend",
        )


def check_reasoning(quality: QualityOptions, methods: Sequence[Method]) -> None:
    """Refuse ``best_of`` for rows with separate reasoning, because further answers would have none."""
    if quality.best_of > 1 and any(
        isinstance(method.options, RespondOptions) and method.options.reasoning for method in methods
    ):
        raise ConfigError(
            "quality.best_of: further answers are requested without reasoning, and the row would keep the reasoning of "
            "its first answer; leave out best_of or respond.reasoning",
            key="quality.best_of",
        )


def check_rubrics(quality: QualityOptions, folder: Path | None, recorded: Collection[str]) -> None:
    """Refuse a rubric that has no template.

    Args:
        quality: The quality settings.
        folder: The user's folder of templates.
        recorded: Names of the templates in the run's ledger.

    Raises:
        ConfigError: If a rubric has no template.
    """
    folders = [each / RUBRICS for each in (folder, builtin_prompts()) if each is not None]
    rubrics = {path.stem for each in folders for path in each.glob("*.txt")}
    rubrics |= {name.removeprefix(f"{RUBRICS}/") for name in recorded if name.startswith(f"{RUBRICS}/")}
    for name in quality.rubrics:
        if name not in rubrics:
            raise ConfigError(
                f"quality.judge.rubrics: no rubric {name!r}{suggest(name, rubrics)}; to add one, put a template "
                f"{RUBRICS}/{name}.txt into the folder that --prompts names",
                key="quality.judge.rubrics",
            )


def check_choices(quality: QualityOptions, backend: str, capabilities: Capabilities) -> None:
    """Refuse more answers in one completion than the backend can return."""
    count, limit, option = quality.best_of - 1, capabilities.max_choices, capabilities.max_choices_option
    if limit is not None and count > limit:
        remedy = f"raise that with --set {backend}.{option}={count}, or ask for fewer" if option else "ask for fewer"
        raise ConfigError(
            f"quality.best_of: {quality.best_of} asks for {count} further answers at once, and {backend} returns at "
            f"most {limit}: {remedy}",
            key="quality.best_of",
        )
