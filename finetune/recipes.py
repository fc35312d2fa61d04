"""Recipes: named sets of training settings, and how user settings override them."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from finetune.options import TrainingOptions
from selfinstruct.common.config import assign, build, merge, read_yaml, suggest
from selfinstruct.errors import ConfigError, UsageError

__all__ = ["load_options", "recipe_names", "recipe_path"]

_FOLDER = Path(__file__).resolve().parent / "recipes"


def recipe_names() -> list[str]:
    """Return the names of the built-in recipes, sorted."""
    return sorted(path.stem for path in _FOLDER.glob("*.yaml"))


def recipe_path(name: str) -> Path:
    """Return the file of a recipe.

    Raises:
        UsageError: There is no recipe of this name.
    """
    if name not in recipe_names():
        raise UsageError(
            f"no recipe {name!r}{suggest(name, recipe_names())}; settings of your own go into --config FILE"
        )
    return _FOLDER / f"{name}.yaml"


def load_options(
    recipe: str = "alpaca", config: Path | None = None, assignments: Iterable[str] = ()
) -> TrainingOptions:
    """Return the settings of a recipe, overridden by a YAML file and then by ``key=value`` assignments.

    Raises:
        UsageError: There is no such recipe.
        ConfigError: A key is unknown or a value invalid. Where the error is in the file, the message begins with
            ``file:line:``.
    """
    values, _ = read_yaml(recipe_path(recipe))
    lines: dict[str, int] = {}
    if config is not None:
        file_values, lines = read_yaml(config)
        values = merge(values, file_values)
    assigned: dict[str, Any] = {}
    for assignment in assignments:
        assign(assigned, assignment)
        lines.pop(assignment.partition("=")[0].strip(), None)  # an error in it is not in the file
    try:
        return build(TrainingOptions, merge(values, assigned))
    except ConfigError as error:
        if line := _line(error, lines):
            raise ConfigError(f"{config}:{line}: {error}", key=error.key) from None
        raise


def _line(error: ConfigError, lines: dict[str, int]) -> int | None:
    """Return the line of the file that an error is about: the longest key that begins its message, or its own key."""
    path = str(error).replace(": ", ".")  # "lora: rank: at least 1" is about lora.rank
    matches = [key for key in lines if path.startswith(f"{key}.")]
    return lines.get(max(matches, key=len, default=error.key))
