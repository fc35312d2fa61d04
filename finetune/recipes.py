"""Recipes: settings that belong together, by name, and what a user lays on them."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from finetune.options import Options
from selfinstruct.common.config import assign, build, merge, nearest, read_yaml
from selfinstruct.errors import ConfigError, UsageError

__all__ = ["names", "path_of", "read"]

_FOLDER = Path(__file__).resolve().parent / "recipes"


def names() -> list[str]:
    """The recipes that come with the package."""
    return sorted(path.stem for path in _FOLDER.glob("*.yaml"))


def path_of(name: str) -> Path:
    """A recipe's file.

    Raises:
        UsageError: There is none of this name.
    """
    if name not in names():
        raise UsageError(f"no recipe {name!r}{nearest(name, names())}; settings of your own go into --config FILE")
    return _FOLDER / f"{name}.yaml"


def read(recipe: str, config: Path | None = None, assignments: Iterable[str] = ()) -> Options:
    """The settings of a recipe, with those of a file laid on them, and ``key=value`` assignments on top.

    Raises:
        UsageError: There is no such recipe.
        ConfigError: A key is unknown or a value wrong; where it stands in the file, the message begins with
            ``file:line:``.
    """
    values, _ = read_yaml(path_of(recipe))
    lines: dict[str, int] = {}
    if config is not None:
        given, lines = read_yaml(config)
        values = merge(values, given)
    typed: dict[str, Any] = {}
    for assignment in assignments:
        assign(typed, assignment)
        lines.pop(assignment.partition("=")[0].strip(), None)  # what is wrong with it is not the file's fault
    try:
        return build(Options, merge(values, typed))
    except ConfigError as error:
        if line := _line(error, lines):
            raise ConfigError(f"{config}:{line}: {error}", key=error.key) from None
        raise


def _line(error: ConfigError, lines: dict[str, int]) -> int | None:
    """The line at fault, if the file has it: of the longest key that the message begins with, or of the error's."""
    path = str(error).replace(": ", ".")  # "lora: rank: at least 1" is about lora.rank
    named = [key for key in lines if path.startswith(f"{key}.")]
    return lines.get(max(named, key=len, default=error.key))
