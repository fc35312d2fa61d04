"""Recipes: named sets of training settings, and how user settings override them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, TypeVar, overload

from finetune.options import DpoOptions, RewardOptions, TrainingOptions
from selfinstruct.common.config import assign, build, merge, read_yaml, suggest, to_plain
from selfinstruct.common.unused import unused_settings
from selfinstruct.errors import ConfigError, UsageError

__all__ = ["load_options", "recipe_names", "recipe_path"]

_FOLDER = Path(__file__).resolve().parent / "recipes"
_SUBFOLDERS = {TrainingOptions: "", DpoOptions: "prefer", RewardOptions: "reward"}

Options = TypeVar("Options", bound=TrainingOptions)


def recipe_names(kind: type[TrainingOptions] = TrainingOptions) -> list[str]:
    """Return the names of the built-in recipes for a kind of settings, sorted."""
    return sorted(path.stem for path in (_FOLDER / _SUBFOLDERS[kind]).glob("*.yaml"))


def recipe_path(name: str, kind: type[TrainingOptions] = TrainingOptions) -> Path:
    """Return the file of a recipe.

    Raises:
        UsageError: There is no recipe of this name for this kind of settings.
    """
    if name not in recipe_names(kind):
        raise UsageError(
            f"no recipe {name!r}{suggest(name, recipe_names(kind))}; settings of your own go into --config FILE"
        )
    return _FOLDER / _SUBFOLDERS[kind] / f"{name}.yaml"


@overload
def load_options(
    recipe: str = "alpaca", config: Path | None = None, assignments: Iterable[str] = ()
) -> TrainingOptions: ...


@overload
def load_options(
    recipe: str, config: Path | None = None, assignments: Iterable[str] = (), *, kind: type[Options]
) -> Options: ...


def load_options(
    recipe: str = "alpaca",
    config: Path | None = None,
    assignments: Iterable[str] = (),
    *,
    kind: type[TrainingOptions] = TrainingOptions,
) -> TrainingOptions:
    """Return the settings of a recipe, overridden by a YAML file and then by ``key=value`` assignments.

    Args:
        recipe: Name of a recipe.
        config: The YAML file.
        assignments: The assignments.
        kind: The settings: ``TrainingOptions``, ``DpoOptions`` (recipes ``dpo`` and ``tulu``) or ``RewardOptions``
            (recipe ``reward``).

    Raises:
        UsageError: There is no such recipe.
        ConfigError: A key is unknown, a value invalid, or a setting without effect under the others. Where the error is
            in the file, the message begins with ``file:line:``.
    """
    path = recipe_path(recipe, kind)
    values, recipe_lines = read_yaml(path)
    defaults = _build(values, values, kind(), path, recipe_lines)
    lines: dict[str, int] = {}
    written: dict[str, Any] = {}
    if config is not None:
        written, lines = read_yaml(config)
    assigned: dict[str, Any] = {}
    for assignment in assignments:
        assign(assigned, assignment)
        lines.pop(assignment.partition("=")[0].strip(), None)  # an error in it is not in the file
    written = merge(written, assigned)
    return _build(merge(values, written), written, defaults, config, lines)


def _build(
    values: Mapping[str, Any],
    written: Mapping[str, Any],
    base: Options,
    path: Path | None,
    lines: Mapping[str, int],
) -> Options:
    """Build the settings from ``values``.

    Args:
        written: The values that a person wrote, each of which must have an effect.
        base: The settings that they override.
        path: The file that they are from.
        lines: The lines of its keys.
    """
    try:
        options = build(type(base), values)
    except ConfigError as error:
        if line := _line(error, lines):
            raise ConfigError(f"{path}:{line}: {error}", key=error.key) from None
        raise
    for name, message in unused_settings(options, options.unused(), written, to_plain(base)).items():
        raise ConfigError(f"{path}:{lines[name]}: {message}" if name in lines else message, key=name)
    return options


def _line(error: ConfigError, lines: Mapping[str, int]) -> int | None:
    """Return the line of the file that an error is about: the longest key that begins its message, or its own key."""
    path = str(error).replace(": ", ".")  # "lora: rank: at least 1" is about lora.rank
    matches = [key for key in lines if path.startswith(f"{key}.")]
    return lines.get(max(matches, key=len, default=error.key))
