"""Paths of the built-in seeds, prompts and presets.

In a source tree (or an editable install) seeds and prompts are top-level folders that users edit; in an installed wheel
they are inside the package. The source tree takes precedence, since an editable install may also hold a stale copy.
Presets are always inside the package.
"""

from __future__ import annotations

from pathlib import Path

__all__ = ["builtin_personas", "builtin_prompts", "builtin_seeds", "preset"]

_PACKAGE = Path(__file__).resolve().parent.parent


def _folder(name: str) -> Path:
    tree = _PACKAGE.parent
    if (tree / "pyproject.toml").is_file() and (tree / name).is_dir():
        return tree / name
    return _PACKAGE / "_data" / name


def preset(name: str) -> Path:
    """Return the path of a configuration file that the package ships."""
    return _PACKAGE / "presets" / f"{name}.yaml"


def builtin_seeds() -> Path:
    """Return the path of the built-in seed tasks (JSONL)."""
    return _folder("seeds") / "seed_tasks.jsonl"


def builtin_personas() -> Path:
    """Return the path of the built-in personas (JSONL)."""
    return _folder("seeds") / "personas.jsonl"


def builtin_prompts() -> Path:
    """Return the path of the folder of the built-in prompt templates."""
    return _folder("prompts")
