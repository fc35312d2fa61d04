"""The seeds, templates and other texts of a run: from their files, or from the ledger that kept them.

The ledger's are taken when that is wanted, and when the run's own files have gone.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path

from selfinstruct.common.codec import loads
from selfinstruct.common.resources import builtin_prompts, builtin_seeds
from selfinstruct.engine.methods import Method, methods_in
from selfinstruct.engine.settings import Settings
from selfinstruct.errors import UsageError
from selfinstruct.ledger import Reader
from selfinstruct.prompts import Api, Prompts
from selfinstruct.records import Task
from selfinstruct.seeds import load_seeds, load_tasks, seeds_from_json
from selfinstruct.strategies.abilities import BeginsWithTasks, ReadsDataFiles

__all__ = ["prompts_of", "recorded_seeds", "seeds_of", "with_data"]


def seeds_of(settings: Settings, methods: Sequence[Method], base: Reader | None, *, recorded: bool) -> list[Task]:
    """The seed tasks. Where a method begins with them, they need no answer, and come from any dataset or run.

    Raises:
        UsageError: The file can't be read, or has wrong lines.
    """
    path = builtin_seeds() if settings.seeds == "builtin" else Path(settings.seeds)
    gone = base is not None and not os.path.exists(path) and settings.seeds == base.meta("config")["seeds"]
    if base is not None and (recorded or gone):
        return recorded_seeds(base)
    begins = any(issubclass(method.kind, BeginsWithTasks) for method in methods)
    return load_tasks(path) if begins else load_seeds(path)


def prompts_of(
    settings: Settings, names: Mapping[str, frozenset[str]], api: Api, base: Reader | None, *, recorded: bool
) -> Prompts:
    """The templates.

    Args:
        names: Of those that are needed, with their variables.

    Raises:
        UsageError: A folder or a template is absent, or a template is wrong.
    """
    folder = Path(settings.prompts) if settings.prompts else None
    missing = folder is not None and not os.path.isdir(folder)
    gone = base is not None and missing and settings.prompts == base.meta("config")["prompts"]
    if base is not None and (recorded or gone):
        texts = base.templates()
        if new := {name: used for name, used in names.items() if name not in texts}:  # of an option that was off then
            folders = [] if folder is None or missing else [folder]
            texts = {**texts, **Prompts.load(new, api, *folders, builtin_prompts()).texts}
        return Prompts({name: texts[name] for name in names}, api)  # what was on then may be off
    if missing:
        raise UsageError(f"no folder of prompts at {folder}")
    if folder is not None and base is None and not any(os.path.isfile(folder / f"{name}.txt") for name in names):
        wanted = ", ".join(f"{name}.txt" for name in sorted(names))
        raise UsageError(f"{folder} replaces no template of this strategy; it may hold {wanted}")
    return Prompts.load(names, api, *([folder] if folder else []), builtin_prompts())


def with_data(prompts: Prompts, methods: Sequence[Method], base: Reader | None, *, recorded: bool) -> Prompts:
    """With what the methods read from files of their own; not from the ledger where they are others than the run's.

    Raises:
        UsageError: A file can't be read, or is wrong.
    """
    known = () if base is None else methods_in(base.meta("config"))
    before = {name: path for one in known for name, path in one.data.items()}
    texts: dict[str, str] = {}
    for method in methods:
        for name, path in method.data.items():
            if base is not None and (recorded or not os.path.exists(path)) and path == before.get(name):
                texts[name] = base.templates()[name]
            elif issubclass(method.kind, ReadsDataFiles):
                texts[name] = method.kind.read_data(path)
    return Prompts({**prompts.texts, **texts}, prompts.api) if texts else prompts


def recorded_seeds(base: Reader) -> list[Task]:
    """Those that a run was begun with."""
    return seeds_from_json(loads(base.text(base.meta("seeds"))))
