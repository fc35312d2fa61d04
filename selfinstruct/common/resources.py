"""Where the built-in seeds, prompts and presets lie.

In a source tree (an editable install included) seeds and prompts are top-level folders, which one edits; in an
installed wheel they are inside the package. The tree is looked at first, since an editable install may hold a stale
copy too. Presets are always inside the package.
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
    """A configuration file that comes with the package."""
    return _PACKAGE / "presets" / f"{name}.yaml"


def builtin_seeds() -> Path:
    """The JSONL file of the project's own seed tasks."""
    return _folder("seeds") / "seed_tasks.jsonl"


def builtin_personas() -> Path:
    """The JSONL file of the project's own personas."""
    return _folder("seeds") / "personas.jsonl"


def builtin_prompts() -> Path:
    """The folder of the project's own prompt templates."""
    return _folder("prompts")
