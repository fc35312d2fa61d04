"""Configuration: YAML and ``--set`` in, validated frozen dataclasses out.

A configuration is a mapping with a few keys of its own (``Settings``) and one section for each strategy and backend,
under its name::

    strategy: alpaca
    alpaca: {demonstrations: 3}
    backend: llamacpp
    llamacpp: {slots: 4}
    n: 30

Options are declared as frozen dataclasses beside the code that reads them; ``build`` turns a section into one.
"""

from __future__ import annotations

import dataclasses
import difflib
import math
import types
import typing
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, TypeVar, get_args, get_origin, get_type_hints

import yaml
from pydantic import TypeAdapter, ValidationError

from selfinstruct.common.codec import MAX_DEPTH
from selfinstruct.common.files import reason
from selfinstruct.errors import ConfigError

__all__ = [
    "ADDED",
    "NAMES_FILE",
    "assign",
    "build",
    "flatten",
    "identity_fields",
    "merge",
    "nearest",
    "read_yaml",
    "section",
    "to_plain",
    "to_yaml",
]

T = TypeVar("T")

_MOST = 100_000  # values of a configuration; YAML's anchors make billions of a few lines
_SHOWN = 120  # characters of a value that a message repeats


def nearest(word: str, known: Iterable[str]) -> str:
    """`` (did you mean 'lag'?)`` or, where nothing is close, the known names."""
    names = sorted(str(name) for name in known)
    if close := difflib.get_close_matches(word, names, n=1, cutoff=0.6):
        return f" (did you mean {close[0]!r}?)"
    return f" (known: {', '.join(names)})" if names else ""


def build(cls: type[T], values: Mapping[str, Any], where: str = "") -> T:
    """Make a dataclass of options from plain values, defaults filled in.

    Args:
        where: Dotted place of the section, for messages (``alpaca``).

    Raises:
        ConfigError: An unknown key (with the nearest known one), a value of the wrong type or out of range, or
            anything that JSON can't hold: a run's settings are recorded as JSON.
    """
    _check_values(values, where)
    _check_keys(cls, values, where)
    try:
        return TypeAdapter(cls).validate_python(dict(values))
    except ValidationError as error:
        first = error.errors()[0]
    # Raised outside the handler: pydantic's error quotes every value, and would hang on to this one.
    place = _dotted(where, *_keys(values, first["loc"]))
    text = first["msg"].removeprefix("Value error, ")
    given = first["input"]  # told only where it is short: a list may hold what is too much, or a secret
    short = isinstance(given, int | float | None) or (isinstance(given, str) and len(given) <= _SHOWN)
    found = "" if isinstance(given, Mapping) else f", found {given!r}" if short else f", found a {type(given).__name__}"
    raise ConfigError(_at(place, f"{text[:1].lower()}{text[1:]}{found}"), key=place)


def _keys(values: Any, place: Iterable[int | str]) -> Iterator[str]:
    """The keys of a place in ``values``; what else a place holds names the types that were tried there."""
    for part in place:
        listed = isinstance(values, list | tuple) and isinstance(part, int)
        if listed or (isinstance(values, Mapping) and part in values):
            values = values[part]
            yield str(part)


def _at(place: str, text: str) -> str:
    return f"{place}: {text}" if place else text


def _check_values(value: Any, place: str, depth: int = 0) -> None:
    """Refuse what JSON can't hold, with its dotted key; YAML has dates, infinities and keys of every kind."""
    if depth > MAX_DEPTH:  # a YAML anchor may also hold itself
        raise ConfigError(_at(place[:80], f"nested deeper than {MAX_DEPTH} levels"), key=place)
    if isinstance(value, Mapping):
        for key, inner in value.items():
            if not isinstance(key, str):
                key_place = _dotted(place, str(key))
                raise ConfigError(_at(place, f"the key {key!r} must be a string; write it in quotes"), key=key_place)
            if not _is_text(key):
                key_place = _dotted(place, key)
                raise ConfigError(_at(place, f"the key {key!r} holds a lone surrogate or NUL"), key=key_place)
            _check_values(inner, _dotted(place, key), depth + 1)
    elif isinstance(value, list | tuple):
        for number, inner in enumerate(value):
            _check_values(inner, _dotted(place, str(number)), depth + 1)
    elif isinstance(value, str):
        if not _is_text(value):
            raise ConfigError(
                _at(place, f"holds a lone surrogate or NUL, which no text has: {value[:80]!r}"), key=place
            )
    elif isinstance(value, float):
        if not math.isfinite(value):
            raise ConfigError(_at(place, f"must be a finite number, found {value!r}"), key=place)
    elif value is not None and not isinstance(value, bool | int):
        kind = type(value).__name__
        raise ConfigError(_at(place, f"{value!s} is a {kind}; for a string, write it in quotes"), key=place)


def _is_text(text: str) -> bool:
    return not any("\ud800" <= character <= "\udfff" or character == "\0" for character in text)


def _check_keys(cls: type, values: Mapping[str, Any], where: str) -> None:
    hints = get_type_hints(cls)
    fields = {field.name: hints[field.name] for field in dataclasses.fields(cls) if field.init}
    for key, value in values.items():
        if key not in fields:
            place = _dotted(where, str(key))
            raise ConfigError(f"unknown key {place!r}{nearest(str(key), fields)}", key=place)
        inner = _dataclass_in(fields[key])
        if inner and isinstance(value, Mapping):
            _check_keys(inner, value, _dotted(where, key))


def _dataclass_in(hint: Any) -> type | None:
    """The dataclass of a field's type, also inside ``X | None``."""
    if dataclasses.is_dataclass(hint):
        return typing.cast("type", hint)
    if get_origin(hint) in (typing.Union, types.UnionType):
        return next((found for part in get_args(hint) if (found := _dataclass_in(part))), None)
    return None


def _dotted(*parts: str) -> str:
    return ".".join(part for part in parts if part)


def to_plain(options: Any) -> Any:
    """A dataclass of options as plain JSON values: what ``build`` would make it from."""
    if dataclasses.is_dataclass(options) and not isinstance(options, type):
        return {f.name: to_plain(getattr(options, f.name)) for f in dataclasses.fields(options) if f.init}
    if isinstance(options, Mapping):
        return {str(key): to_plain(value) for key, value in options.items()}
    if isinstance(options, tuple | list | frozenset):
        return [to_plain(value) for value in options]
    return str(options) if isinstance(options, Path) else options


ADDED: Mapping[str, Any] = {"added": True}
"""Metadata of an option that a later version of a dataclass has, and an earlier one had not."""


NAMES_FILE: Mapping[str, Any] = {"names_file": True}
"""Metadata of an option that is the path of a file: what the file holds belongs to the run, not where it lies."""


def identity_fields(options: Any) -> dict[str, Any]:
    """Options as plain values, without paths (``NAMES_FILE``), and those that were ``ADDED`` and are at their default.

    What a run was begun with is compared for its whole life: an option that it could not know of must not show.
    """
    plain: dict[str, Any] = to_plain(options)
    fields = dataclasses.fields(options)
    unset = {one.name for one in fields if one.metadata.get("added") and getattr(options, one.name) == one.default}
    paths = {one.name for one in fields if one.metadata.get("names_file")}
    return {name: value for name, value in plain.items() if name not in unset | paths}


def read_yaml(path: Path) -> tuple[dict[str, Any], dict[str, int]]:
    """A configuration file and the line of each dotted key.

    Raises:
        ConfigError: The file can't be read, is no YAML mapping, or gives a key twice.
    """
    try:
        text = path.read_text(encoding="utf-8")
        node = yaml.compose(text, Loader=yaml.SafeLoader)
        values = yaml.safe_load(text)
    except OSError as error:
        raise ConfigError(f"can't read {path}: {reason(error)}") from None
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path}: not UTF-8 at byte {error.start}") from None
    except yaml.MarkedYAMLError as error:
        line = f":{error.problem_mark.line + 1}" if error.problem_mark else ""
        raise ConfigError(f"{path}{line}: {error.problem or 'not YAML'}") from None
    except (yaml.YAMLError, ValueError) as error:  # a ValueError is that of a date like 2020-13-45
        raise ConfigError(f"{path}: {error}") from None
    except RecursionError:
        raise ConfigError(f"{path}: nested too deeply") from None
    if node is None:
        return {}, {}
    if not isinstance(node, yaml.MappingNode):
        raise ConfigError(f"{path}:1: a mapping of keys to values is expected")
    if _unfolded(values, {}) > _MOST:
        raise ConfigError(f"{path}: its anchors unfold to more than {_MOST:,} values")
    lines: dict[str, int] = {}
    _walk(node, "", lines, path)
    return values, lines


def _walk(node: yaml.MappingNode, prefix: str, lines: dict[str, int], path: Path, depth: int = 0) -> None:
    if depth > MAX_DEPTH:  # an anchor may hold itself
        raise ConfigError(f"{path}:{node.start_mark.line + 1}: nested deeper than {MAX_DEPTH} levels")
    for key_node, value_node in node.value:
        line = key_node.start_mark.line + 1
        key = _dotted(prefix, str(key_node.value))
        if key in lines:
            raise ConfigError(f"{path}:{line}: key {key!r} is given twice (first on line {lines[key]})")
        lines[key] = line
        if isinstance(value_node, yaml.MappingNode):
            _walk(value_node, key, lines, path, depth + 1)
        elif isinstance(value_node, yaml.SequenceNode):
            for place, item in enumerate(value_node.value):
                if isinstance(item, yaml.MappingNode):
                    lines[_dotted(key, str(place))] = item.start_mark.line + 1
                    _walk(item, _dotted(key, str(place)), lines, path, depth + 1)


def _unfolded(value: Any, known: dict[int, int]) -> int:
    """How many values there are, each counted wherever an anchor repeats it."""
    if not isinstance(value, dict | list):
        return 1
    if id(value) not in known:
        known[id(value)] = 1  # of one that holds itself
        inner = value.values() if isinstance(value, dict) else value
        known[id(value)] = 1 + sum(_unfolded(one, known) for one in inner)
    return known[id(value)]


def assign(values: dict[str, Any], assignment: str) -> None:
    """Carry out one ``--set key.sub=value`` on ``values``; the value is read as YAML.

    Raises:
        ConfigError: There is no ``=``, or the path runs through a value that is no section.
    """
    key, equals, text = assignment.partition("=")
    if not equals or not key.strip():
        raise ConfigError(f"--set {assignment!r}: write it as key=value, for example --set alpaca.demonstrations=4")
    try:
        value = yaml.safe_load(text)
    except (yaml.YAMLError, ValueError, RecursionError):
        value = text
    if _unfolded(value, {}) > _MOST:
        raise ConfigError(f"--set {key.strip()}: its anchors unfold to more than {_MOST:,} values")
    *path, last = key.strip().split(".")
    for part in path:
        inner = values.setdefault(part, {})
        if not isinstance(inner, dict):
            raise ConfigError(f"--set {assignment!r}: {part!r} is a value, not a section")
        values = inner
    values[last] = value


def merge(base: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    """``base`` with ``over`` laid on it, section by section."""
    merged = dict(base)
    for key, value in over.items():
        old = merged.get(key)
        merged[key] = merge(old, value) if isinstance(old, Mapping) and isinstance(value, Mapping) else value
    return merged


def section(values: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    """One section of options; an empty one where it is not there.

    Raises:
        ConfigError: What is there is no section.
    """
    found = values.get(name)
    if found is None:
        return {}
    if not isinstance(found, Mapping):
        raise ConfigError(f"{name!r} is a section of options, found {found!r}", key=name)
    return found


def flatten(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Dotted keys to leaf values: the form in which two configurations are compared."""
    flat: dict[str, Any] = {}
    for key, value in values.items():
        if isinstance(value, Mapping) and value:
            flat.update(flatten(value, _dotted(prefix, key)))
        else:
            flat[_dotted(prefix, key)] = value
    return flat


def to_yaml(values: Mapping[str, Any]) -> bytes:
    """Plain values as YAML, keys in their order."""
    text: str = yaml.safe_dump(dict(values), sort_keys=False, allow_unicode=True, width=120)
    return text.encode("utf-8")
