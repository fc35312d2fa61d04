"""Options without effect: which options the others leave unused, and the refusal of a setting that changes nothing."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from selfinstruct.common.config import flatten, to_plain

__all__ = ["Unused", "covers", "unused_settings"]

_MAX_QUOTED = 60  # characters of a value in a message


@dataclass(frozen=True, slots=True)
class Unused:
    """Options, and templates, that have no effect while another option has its present value.

    Attributes:
        cause: Dotted name of the responsible option, in the same section.
        needed: The value, as a user writes it, with which the options take effect.
        options: Dotted names of the options; a section stands for every option in it.
        templates: Names of the templates.
    """

    cause: str
    needed: str
    options: tuple[str, ...] = ()
    templates: tuple[str, ...] = ()

    def explain(self, values: Mapping[str, Any], where: str, default_api: str = "") -> str:
        """Return the reason and the remedy.

        Args:
            values: The section, flattened.
            where: Dotted name of the section.
            default_api: The kind of prompt of a stage whose ``api`` is ``run``.
        """
        value, cause = values.get(self.cause), f"{where}.{self.cause}" if where else self.cause
        text = default_api if self.cause.endswith("api") and value == "run" else _quote(value)
        return f"has no effect while {cause} is {text}: set {cause} to {self.needed}"


def unused_settings(
    options: object, unused: Iterable[Unused], settings: Mapping[str, Any], base: Mapping[str, Any], where: str = "",
    default_api: str = "",
) -> dict[str, str]:  # fmt: skip
    """Return the user's settings that change nothing, by dotted name, each with the reason and the remedy.

    A setting that equals the value it overrides is no attempt to change something. Neither is a section that lists
    every option: it comes from the recorded configuration of a run.

    Args:
        options: The section's dataclass with every setting applied.
        unused: The options that have no effect in it.
        settings: The section as the user wrote it.
        base: The complete section that it overrides.
        where: Dotted name of the section.
        default_api: As for ``Unused.explain``.
    """
    values, before, reasons = flatten(to_plain(options)), flatten(base), list(unused)
    problems: dict[str, str] = {}
    if values.keys() <= flatten(settings).keys():
        return problems
    for name in flatten(settings):
        if name in before and values.get(name) == before[name]:
            continue
        for reason in reasons:
            if any(covers(option, name) for option in reason.options):
                path = f"{where}.{name}" if where else name
                problems[name] = f"{path} {reason.explain(values, where, default_api)}, or leave out {path}"
    return problems


def covers(option: str, name: str) -> bool:
    """Return whether ``option`` is ``name`` or a section that contains it."""
    return name == option or name.startswith(f"{option}.")


def _quote(value: Any) -> str:
    if isinstance(value, bool) or value is None:
        return {True: "true", False: "false", None: "null"}[value]
    text = value if isinstance(value, str) and value else repr(value)
    return text if len(text) <= _MAX_QUOTED else f"{text[:_MAX_QUOTED]}..."
