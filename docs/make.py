"""Writes the generated pages of the documentation: commands.md and configuration.md. Run it with: make docs."""

from __future__ import annotations

import dataclasses
import inspect
import re
from pathlib import Path
from typing import Any

import click
import yaml

from finetune.cli import cli as finetune
from finetune.options import Lora, TrainingOptions
from finetune.recipes import recipe_names, recipe_path
from selfinstruct.backends import OPTIONS
from selfinstruct.cli import cli as selfinstruct
from selfinstruct.common.config import build, to_plain
from selfinstruct.engine.plan import Settings
from selfinstruct.strategies import STRATEGIES, QualityOptions
from selfinstruct.strategies.mixture import MixtureStrategy
from selfinstruct.strategies.quality.options import JudgeOptions

DOCS = Path(__file__).resolve().parent
COMMANDS = {"selfinstruct": selfinstruct, "finetune": finetune}
QUALITY = QualityOptions(judge=JudgeOptions())  # a run has none unless it is asked for
NOTE = "<!-- Written by docs/make.py: change the source of what it says, then run `make docs`. -->\n"


def commands() -> str:
    """Every command's help."""
    parts = ["# Commands\n", NOTE]
    for path, command, inner in walk():
        parts += [f"## {' '.join(path)}\n", "```text", command.get_help(inner), "```\n"]
    return "\n".join(parts)


def walk() -> Any:
    """Every command of both command lines: its words, itself, its context."""
    for name, cli in COMMANDS.items():
        yield from _walk((name,), cli, _context(name, cli))


def _context(name: str, command: click.Command, parent: click.Context | None = None) -> click.Context:
    """As when the command is called: with the settings that it has for its help."""
    return click.Context(command, parent, info_name=name, terminal_width=100, **command.context_settings)


def _walk(path: tuple[str, ...], command: click.Command, context: click.Context) -> Any:
    yield path, command, context
    if isinstance(command, click.Group):
        for name in command.list_commands(context):
            inner = command.get_command(context, name)
            if inner is not None:
                yield from _walk((*path, name), inner, _context(name, inner, context))


def configuration() -> str:
    """Every setting with its default and what it does."""
    parts = [
        "# Configuration\n",
        NOTE,
        "A configuration file is YAML. The settings of a run stand at its top; each strategy and each backend has a "
        "section of its own name.\nAnything may also be given as `--set key=value`, with dots for "
        "sections: `--set alpaca.demonstrations=4`, `--set filters.novelty.threshold=0.6`.\n"
        "A run keeps its settings in its `config.yaml`, every default spelled out.\n",
        "With the embedded model, what is not given is taken from `selfinstruct/presets/embedded.yaml` first, and "
        "for quality from `embedded-quality.yaml` beside it: it is too small and too slow for the published numbers, "
        "which are the defaults below.\n",
        _section("Settings of a run", Settings(), to_plain(Settings())),
        _section("Section `quality`", QUALITY, to_plain(QUALITY)),
    ]
    methods = {name: one.Options for name, one in STRATEGIES.items()} | {MixtureStrategy.name: MixtureStrategy.Options}
    for title, known in (("Strategy", methods), ("Backend", OPTIONS)):
        for name, options in sorted(known.items()):
            parts.append(_section(f"{title} `{name}`", build(options, {}), {name: to_plain(build(options, {}))}))
    parts += [
        "# Training\n",
        "`finetune train` takes its settings from a recipe, then from `--config FILE` (YAML, these keys), then from "
        "`--set key=value`.\n",
        _section("Settings of a training run", TrainingOptions(lora=Lora()), to_plain(TrainingOptions())),
    ]
    for name in recipe_names():
        parts += [f"## Recipe `{name}`\n", "```yaml", recipe_path(name).read_text(encoding="utf-8") + "```\n"]
    return "\n".join(parts)


def _section(title: str, options: Any, values: Any) -> str:
    """The default values, and an entry for each option of ``options``."""
    text = yaml.safe_dump(values, sort_keys=False, width=110, allow_unicode=True)
    return "\n".join([f"## {title}\n", "```yaml", text + "```\n", *_entries(options, "")]) + "\n"


def _entries(options: Any, prefix: str) -> list[str]:
    """What the docstring says of each option, those of sections inside it included."""
    found = re.search(r"Attributes:\n(.*)", inspect.getdoc(type(options)) or "", re.DOTALL)
    names = r"^    (\w+(?:, \w+)*): "  # one entry may tell of several
    parts = re.split(names, found[1] if found else "", flags=re.MULTILINE)[1:]
    lines = []
    for several, text in zip(parts[::2], parts[1::2], strict=True):
        listed = ", ".join(f"`{prefix}{name}`" for name in several.split(", "))
        lines.append(f"- {listed}: {' '.join(text.split())}")
    for field in dataclasses.fields(options):
        if dataclasses.is_dataclass(value := getattr(options, field.name)):
            lines += _entries(value, f"{prefix}{field.name}.")
    return lines


if __name__ == "__main__":
    (DOCS / "commands.md").write_text(commands(), encoding="utf-8")
    (DOCS / "configuration.md").write_text(configuration(), encoding="utf-8")
