"""Hints for messages about unknown names: the nearest known name by edit distance, also in other sections."""

from __future__ import annotations

import dataclasses
import types
import typing
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, get_args, get_origin, get_type_hints

__all__ = ["dataclass_in", "suggest", "suggest_option"]

_MOST = 3  # suggestions in one message


def suggest(word: str, known: Iterable[str]) -> str:
    """Return a hint for a message: `` (did you mean 'lag'?)``, or the known names if none is similar."""
    names = sorted(str(name) for name in known)
    distances = {name: distance for name in names if (distance := _distance(word, name)) is not None}
    if distances:
        return f" (did you mean {min(distances, key=distances.__getitem__)!r}?)"
    return f" (known: {', '.join(names)})" if names else ""


def suggest_option(key: str, names: Iterable[str], sections: Mapping[str, type]) -> str:
    """Return a hint for an unknown option of a section, which may stand in a section within it.

    Args:
        key: The unknown key.
        names: The options of the section.
        sections: Dataclasses of options by their dotted key, in which the option may stand instead.
    """
    names = list(names)
    # In the order of the sections, and within one from the outside in.
    nested = [path for where, cls in sections.items() for path in sorted(_paths(cls, where), key=_depth)]
    nearest = min((distance for name in names if (distance := _distance(key, str(name))) is not None), default=None)
    within = {path: distance for path in nested if (distance := _distance(key, path.rpartition(".")[2])) is not None}
    closest = min(within.values(), default=None)
    if closest is None or (nearest is not None and nearest <= closest):
        return suggest(key, names)
    paths = [path for path, distance in within.items() if distance == closest][:_MOST]
    return f" (did you mean {' or '.join(map(repr, paths))}?)"


def dataclass_in(hint: Any) -> type | None:
    """Return the dataclass that a field's type is, or that ``X | None`` contains; None if there is no dataclass."""
    if dataclasses.is_dataclass(hint):
        return typing.cast("type", hint)
    if get_origin(hint) in (typing.Union, types.UnionType):
        return next((inner for part in get_args(hint) if (inner := dataclass_in(part))), None)
    return None


def _distance(word: str, name: str) -> int | None:
    """Return the edit distance of two names; None if they are not similar. Hyphens and underscores are equal."""
    # Here, because machines that only train have no rapidfuzz, and no misspelled options either.
    from rapidfuzz.distance import OSA

    limit = min(3, (len(word) + 2) // 3)
    distance = OSA.distance(_plain(word), _plain(name), score_cutoff=limit)
    return distance if distance <= limit else None


def _plain(name: str) -> str:
    return name.replace("-", "_").casefold()


def _depth(path: str) -> tuple[int, str]:
    return path.count("."), path


def _paths(cls: type, where: str) -> Iterator[str]:
    """Yield the dotted keys of all options of a dataclass, and of the dataclasses in it."""
    hints = get_type_hints(cls)
    for field in dataclasses.fields(cls):
        if not field.init:
            continue
        path = f"{where}.{field.name}".removeprefix(".")
        yield path
        if inner := dataclass_in(hints[field.name]):
            yield from _paths(inner, path)
