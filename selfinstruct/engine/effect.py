"""Refusal of settings and templates that have no effect, and of a preset with such a setting."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from selfinstruct.common.config import flatten, merge, read_yaml, section, to_plain
from selfinstruct.common.resources import builtin_prompts
from selfinstruct.common.unused import Unused, unused_settings
from selfinstruct.engine.methods import ENTRY_FIELDS, MIX, Method, build_options, entry_label
from selfinstruct.engine.settings import Settings
from selfinstruct.errors import ConfigError
from selfinstruct.prompts import Api, Prompts
from selfinstruct.strategies import QualityOptions, QualityStrategy, strategy_class
from selfinstruct.strategies.abilities import unused_options

__all__ = ["check_effect", "check_preset", "check_templates"]


@dataclass(frozen=True)
class _Part:
    """The user's settings of one method: a section, or an entry of a mixed run.

    Attributes:
        where: Dotted name of the section or the entry.
        name: Name of the strategy.
        settings: The options that the user wrote there.
        base: The options that they override.
        complete: The options of the run, before any is derived from the model.
    """

    where: str
    name: str
    settings: Mapping[str, Any]
    base: Mapping[str, Any]
    complete: Mapping[str, Any]

    def problems(self, api: Api) -> dict[str, str]:
        """Return a message for each setting without effect, by its name in the section."""
        if not self.settings:
            return {}
        kind = strategy_class(self.name)
        options = build_options(kind, self.complete, self.name)
        before = to_plain(build_options(kind, self.base, self.name))
        return unused_settings(options, unused_options(kind, options, api), self.settings, before, self.where, api)


def check_effect(settings: Mapping[str, Any], base: Mapping[str, Any], run: Settings, api: Api) -> None:
    """Refuse a setting of the user that changes nothing.

    Args:
        settings: The user's settings.
        base: The settings that they override: a preset, or the configuration of an existing run.
        run: The resolved settings.
        api: The run's API.

    Raises:
        ConfigError: A setting has no effect. The message names it, the reason and the remedy.
    """
    for parts in _parts(settings, base):
        problems = [part.problems(api) for part in parts]
        for name, message in problems[0].items():
            if all(name in others for others in problems):  # one section may serve several methods
                raise ConfigError(message, key=f"{parts[0].where}.{name}")
    if run.strategies is not None and not run.adapt and section(settings, MIX).get("explore") is not None:
        raise ConfigError("mix.explore has no effect while adapt is false: set adapt to true", key="mix.explore")
    if run.quality is not None:
        before = merge(to_plain(QualityOptions(tags=True)), section(base, "quality"))
        unused = QualityStrategy.unused_options(run.quality, api)
        ours = section(settings, "quality")
        for name, message in unused_settings(run.quality, unused, ours, before, "quality", api).items():
            raise ConfigError(message, key=f"quality.{name}")


def _parts(settings: Mapping[str, Any], base: Mapping[str, Any]) -> Iterator[list[_Part]]:
    """Yield the user's settings of each method; parts that come from the same section together."""
    recorded: Sequence[Mapping[str, Any]] = base.get("strategies") or ()
    entries: Sequence[Mapping[str, Any]] | None = settings.get("strategies")
    if entries is None and (not recorded or settings.get("strategy") not in (None, MIX)):
        name = str(settings.get("strategy", base.get("strategy", Settings.strategy)))
        ours, before = section(settings, name), section(base, name)
        yield [_Part(name, name, ours, before, merge(before, ours))]
        return
    previous = {entry_label(entry): entry for entry in recorded}
    sections: dict[str, list[_Part]] = {}
    for index, entry in enumerate(recorded if entries is None else entries):
        name, earlier = str(entry["name"]), previous.get(entry_label(entry), {})
        before = _options(earlier) if earlier.get("name") == name else dict(section(base, name))
        ours, written = section(settings, name), {} if entries is None else _options(entry)
        complete = merge(merge(before, ours), written)
        sections.setdefault(name, []).append(_Part(name, name, ours, before, complete))
        yield [_Part(f"strategies.{index}", name, written, before, complete)]
    yield from sections.values()


def _options(entry: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in entry.items() if key not in ENTRY_FIELDS}


def check_templates(folder: Path, prompts: Prompts, methods: Sequence[Method], run: Settings) -> None:
    """Refuse a template of the user from which no request is rendered.

    A copy of a built-in template changes nothing and is accepted: a folder may begin as a copy of all of them.

    Args:
        folder: The user's folder of templates.
        prompts: The templates of the run.
        methods: The methods of the run.
        run: The resolved settings.

    Raises:
        ConfigError: The message names the file, the reason and the remedy.
    """
    api = prompts.api
    uses = []
    for method in methods:
        unused = unused_options(method.kind, method.options, api)
        uses.append((method.templates, _reasons(unused, method.options, method.name, api)))
    if run.quality is not None:
        unused = QualityStrategy.unused_options(run.quality, api)
        uses.append((QualityStrategy.templates_of(run.quality), _reasons(unused, run.quality, "quality", api)))
    for name, text in prompts.texts.items():
        reasons = [texts.get(name, "") for templates, texts in uses if name in templates]
        file, builtin = folder / f"{name}.txt", builtin_prompts() / f"{name}.txt"
        if not reasons or not all(reasons) or not file.is_file():
            continue
        if not builtin.is_file() or builtin.read_text(encoding="utf-8").removesuffix("\n") != text:
            raise ConfigError(f"{file} {reasons[0]}, or remove the file", key="prompts")


def _reasons(unused: Iterable[Unused], options: object, where: str, api: Api) -> dict[str, str]:
    """Return why each unused template has no effect."""
    values = flatten(to_plain(options))
    return {name: reason.explain(values, where, api) for reason in unused for name in reason.templates}


def check_preset(path: Path, names: Iterable[str], api: Api) -> None:
    """Refuse a preset with an option that the preset itself leaves without effect in the section of a strategy.

    An option is excused if the option responsible is one that the preset leaves to the user, such as the style of a
    conversation. The kind of prompt belongs to the preset: a setting for chats is an error where raw prompts are sent.

    Args:
        path: The file of the preset.
        names: Names of the strategies whose sections are checked.
        api: The API of a run that the preset is for.

    Raises:
        ConfigError: The message names the file, the line, the option, the reason and the remedy.
    """
    values, lines = read_yaml(path)
    for name in names:
        ours = section(values, name)
        kind = strategy_class(name)
        options, defaults = build_options(kind, ours, name), to_plain(build_options(kind, {}, name))
        unused = [reason for reason in unused_options(kind, options, api)
                  if reason.cause.endswith(".api") or reason.cause in flatten(ours)]  # fmt: skip
        for option, message in unused_settings(options, unused, ours, defaults, name, api).items():
            key = f"{name}.{option}"
            raise ConfigError(f"{path}:{lines[key]}: {message}", key=key)
