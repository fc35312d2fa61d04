"""Seeds, templates and data files of a run, read from their files or from the run's ledger.

The copies in the ledger are used on request, and when the files of the run no longer exist.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from selfinstruct.common.codec import loads
from selfinstruct.common.resources import builtin_prompts, builtin_seeds
from selfinstruct.engine.methods import Method, recorded_methods
from selfinstruct.engine.settings import Settings
from selfinstruct.errors import ConfigError, UsageError
from selfinstruct.filters.reward import model_identity
from selfinstruct.ledger import Reader
from selfinstruct.prompts import Api, Prompts
from selfinstruct.records import Task
from selfinstruct.seeds import LoadedTasks, load_demonstrations, load_tasks, seeds_from_json
from selfinstruct.strategies import QualityOptions
from selfinstruct.strategies.abilities import AsksItems, BeginsWithTasks, ReadsDataFiles, SendsContext

__all__ = ["add_data_files", "identify_reward_model", "load_run_prompts", "load_run_seeds", "recorded_seeds"]


def load_run_seeds(
    settings: Settings, methods: Sequence[Method], base: Reader | None, *, recorded: bool
) -> LoadedTasks:
    """Return the seed tasks.

    If a method works on its seeds one by one, they need no answer and may come from any dataset or run.

    Args:
        settings: The settings of the run.
        methods: The methods of the run.
        base: The ledger of the run, if it exists.
        recorded: Whether to use the copy in the ledger.

    Raises:
        UsageError: If the file can't be read or a line is wrong.
    """
    for method in methods:
        if issubclass(method.kind, AsksItems):
            return _load_items(method, method.kind, settings, base, recorded=recorded)
    path = builtin_seeds() if settings.seeds == "builtin" else Path(settings.seeds)
    missing = base is not None and not os.path.exists(path) and settings.seeds == base.meta("config")["seeds"]
    if base is not None and (recorded or missing):
        return LoadedTasks(recorded_seeds(base))
    skip = settings.skip_malformed
    if not any(issubclass(method.kind, BeginsWithTasks) for method in methods):
        return load_demonstrations(path, skip_malformed=skip)
    without_context = next((method.name for method in methods if not issubclass(method.kind, SendsContext)), "")
    return load_tasks(path, skip_malformed=skip, without_context=without_context)


def _load_items(
    method: Method, kind: type[AsksItems], settings: Settings, base: Reader | None, *, recorded: bool
) -> LoadedTasks:
    """Return the items of a method that brings its own.

    Raises:
        ConfigError: If a setting of the run is for other methods.
        UsageError: If a file can't be read or a line is wrong.
    """
    for key, unfit in (
        ("strategies", settings.strategies is not None),
        ("quality", settings.quality is not None),
        ("seeds", settings.seeds != "builtin"),
    ):
        if unfit:
            raise ConfigError(f"{key} can't be set for {method.name}, which asks the items of its suites once", key=key)
    missing = not all(map(os.path.exists, method.data.values()))
    if base is not None and (recorded or missing):
        return LoadedTasks(recorded_seeds(base))
    if not method.data:
        raise ConfigError(f"{method.name} has no suite; name one with --suite NAME=FILE", key=f"{method.name}.suites")
    return LoadedTasks(list(kind.read_tasks(method.options)))


def load_run_prompts(
    settings: Settings,
    names: Mapping[str, frozenset[str]],
    api: Api,
    base: Reader | None,
    methods: Sequence[Method],
    *,
    recorded: bool,
) -> Prompts:
    """Return the prompt templates.

    Args:
        settings: The settings of the run.
        names: Names of the required templates, each with its variables.
        api: The kind of prompt to render.
        base: The ledger of the run, if it exists.
        methods: The methods of the run; plugins among them may have a folder of templates.
        recorded: Whether to use the copies in the ledger.

    Raises:
        UsageError: If a folder or a template is missing, or a template is wrong.
    """
    folder = Path(settings.prompts) if settings.prompts else None
    packaged = [method.kind.prompts_folder for method in methods if method.kind.prompts_folder is not None]
    packaged.append(builtin_prompts())
    missing = folder is not None and not os.path.isdir(folder)
    deleted = base is not None and missing and settings.prompts == base.meta("config")["prompts"]
    if base is not None and (recorded or deleted):
        texts = base.templates()
        if new := {name: used for name, used in names.items() if name not in texts}:  # of options enabled since
            folders = [] if folder is None or missing else [folder]
            texts = {**texts, **Prompts.load(new, api, *folders, *packaged).texts}
        return Prompts({name: texts[name] for name in names}, api)  # options may be disabled since
    if missing:
        raise UsageError(f"there is no prompt folder {folder}; name an existing one with --prompts, or leave it out")
    if folder is not None and base is None and not any(os.path.isfile(folder / f"{name}.txt") for name in names):
        files = ", ".join(f"{name}.txt" for name in sorted(names))
        raise UsageError(f"{folder} replaces no template of this strategy; it may hold {files}")
    return Prompts.load(names, api, *([folder] if folder else []), *packaged)


def add_data_files(prompts: Prompts, methods: Sequence[Method], base: Reader | None, *, recorded: bool) -> Prompts:
    """Return ``prompts`` with the data files of the methods added.

    Args:
        prompts: The templates.
        methods: The methods of the run.
        base: The ledger of the run, if it exists; its copies are used only for unchanged paths.
        recorded: Whether to prefer the copies in the ledger to existing files.

    Raises:
        UsageError: If a file can't be read or its content is wrong.
    """
    previous_methods = () if base is None else recorded_methods(base.meta("config"))
    previous = {name: path for method in previous_methods for name, path in method.data.items()}
    texts: dict[str, str] = {}
    for method in methods:
        for name, path in method.data.items():
            if base is not None and (recorded or not os.path.exists(path)) and path == previous.get(name):
                texts[name] = base.templates()[name]
            elif issubclass(method.kind, ReadsDataFiles):
                texts[name] = method.kind.read_data(path)
    return Prompts({**prompts.texts, **texts}, prompts.api) if texts else prompts


def identify_reward_model(quality: QualityOptions | None) -> QualityOptions | None:
    """Return the quality settings with the identity of the reward model, unless they hold it already.

    Raises:
        UsageError: The reward model's folder holds no model.
    """
    if quality is None or quality.reward is None or quality.reward.identity:
        return quality
    identity = model_identity(quality.reward.model)
    return replace(quality, reward=replace(quality.reward, identity=identity))


def recorded_seeds(base: Reader) -> list[Task]:
    """Return the seeds stored in the ledger of a run."""
    return seeds_from_json(loads(base.text(base.meta("seeds"))))
