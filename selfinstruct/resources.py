"""Where the built-in seeds and prompts lie.

In a source tree (an editable install included) they are the top-level folders, which one edits; in an installed
wheel they are inside the package. The tree is looked at first, since an editable install may hold a stale copy too.
"""

from __future__ import annotations

from pathlib import Path

__all__ = ["builtin_prompts", "builtin_seeds"]

_PACKAGE = Path(__file__).resolve().parent


def _folder(name: str) -> Path:
    tree = _PACKAGE.parent
    if (tree / "pyproject.toml").is_file() and (tree / name).is_dir():
        return tree / name
    return _PACKAGE / "_data" / name


def builtin_seeds() -> Path:
    """The JSONL file of the project's own seed tasks."""
    return _folder("seeds") / "seed_tasks.jsonl"


def builtin_prompts() -> Path:
    """The folder of the project's own prompt templates."""
    return _folder("prompts")
