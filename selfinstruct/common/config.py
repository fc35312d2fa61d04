"""Configuration: from YAML files and ``--set`` assignments to validated frozen dataclasses.

A configuration is a mapping with a few top-level keys (``Settings``) and one section for each strategy and backend,
under its name::

    strategy: alpaca
    alpaca: {demonstrations: 3}
    backend: llamacpp
    llamacpp: {slots: 4}
    n: 30

Options are declared as frozen dataclasses in the module that reads them; ``build`` turns a section into one.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, TypeVar, get_type_hints

import yaml
from pydantic import TypeAdapter, ValidationError

from selfinstruct.common.codec import MAX_DEPTH
from selfinstruct.common.files import describe_os_error
from selfinstruct.common.suggestions import dataclass_in, suggest, suggest_option
from selfinstruct.errors import ConfigError, UsageError

__all__ = [
    "ADDED",
    "NAMES_FILE",
    "assign",
    "build",
    "flatten",
    "identity_fields",
    "merge",
    "read_yaml",
    "section",
    "suggest",
    "to_plain",
    "to_yaml",
]

T = TypeVar("T")

_MAX_VALUES = 100_000  # of a configuration, since YAML anchors can expand a few lines to billions of values
_MAX_QUOTED = 120  # characters of a value quoted in a message


def build(cls: type[T], values: Mapping[str, Any], where: str = "") -> T:
    """Build a dataclass of options from plain values, filling in the defaults.

    A section that sets some options of a field keeps the field's defaults for the others: ``answer: {top_p: 0.9}``
    changes one parameter of the stage ``answer``.

    Args:
        where: Dotted key of the section, for messages (``alpaca``).

    Raises:
        ConfigError: A key is unknown (the message suggests the nearest one), a value has the wrong type or is out of
            range, or JSON can't represent it, since a run records its settings as JSON.
    """
    _check_values(values, where)
    _check_keys(cls, values, where)
    values = _with_field_defaults(cls, values)
    try:
        return TypeAdapter(cls).validate_python(values)
    except ValidationError as error:
        first = error.errors()[0]
    except UsageError as error:  # from a filter, whose settings are checked for callers of the library as well
        _build_sections(cls, values, where)
        raise ConfigError(_at(where, str(error)), key=where) from None
    # Raised outside the handler, since pydantic's error quotes every value and would become this one's context.
    key = _dotted(where, *_keys(values, first["loc"]))
    text = first["msg"].removeprefix("Value error, ")
    value = first["input"]  # quoted only if it is short: a list may be long, or hold a secret
    short = isinstance(value, int | float | None) or (isinstance(value, str) and len(value) <= _MAX_QUOTED)
    quoted = (
        "" if isinstance(value, Mapping) else f", found {value!r}" if short else f", found a {type(value).__name__}"
    )
    raise ConfigError(_at(key, f"{text[:1].lower()}{text[1:]}{quoted}"), key=key)


def _build_sections(cls: type, values: Mapping[str, Any], where: str) -> None:
    """Build every section within on its own, so that its error names it."""
    hints = get_type_hints(cls)
    for key, value in values.items():
        inner = dataclass_in(hints[key])
        if inner is not None and isinstance(value, Mapping):
            build(inner, value, _dotted(where, key))


def _keys(values: Any, location: Iterable[int | str]) -> Iterator[str]:
    """Yield the keys of a pydantic error location that occur in ``values``; its other parts name types."""
    for part in location:
        is_item = isinstance(values, list | tuple) and isinstance(part, int)
        if is_item or (isinstance(values, Mapping) and part in values):
            values = values[part]
            yield str(part)


def _at(key: str, text: str) -> str:
    return f"{key}: {text}" if key else text


def _check_values(value: Any, path: str, depth: int = 0) -> None:
    """Refuse values that JSON can't represent (YAML has dates, infinities and keys of any type), naming their key."""
    if depth > MAX_DEPTH:  # a YAML anchor may contain itself
        raise ConfigError(_at(path[:80], f"nested deeper than {MAX_DEPTH} levels"), key=path)
    if isinstance(value, Mapping):
        for key, inner in value.items():
            if not isinstance(key, str):
                inner_key = _dotted(path, str(key))
                raise ConfigError(_at(path, f"the key {key!r} must be a string; write it in quotes"), key=inner_key)
            if not _is_text(key):
                inner_key = _dotted(path, key)
                raise ConfigError(_at(path, f"the key {key!r} holds a lone surrogate or NUL"), key=inner_key)
            _check_values(inner, _dotted(path, key), depth + 1)
    elif isinstance(value, list | tuple):
        for number, inner in enumerate(value):
            _check_values(inner, _dotted(path, str(number)), depth + 1)
    elif isinstance(value, str):
        if not _is_text(value):
            raise ConfigError(
                _at(path, f"holds a lone surrogate or NUL, which text can't contain: {value[:80]!r}"), key=path
            )
    elif isinstance(value, float):
        if not math.isfinite(value):
            raise ConfigError(_at(path, f"must be a finite number, found {value!r}"), key=path)
    elif value is not None and not isinstance(value, bool | int):
        kind = type(value).__name__
        raise ConfigError(_at(path, f"{value!s} is a {kind}; for a string, write it in quotes"), key=path)


def _is_text(text: str) -> bool:
    return not any("\ud800" <= character <= "\udfff" or character == "\0" for character in text)


def _check_keys(cls: type, values: Mapping[str, Any], where: str) -> None:
    hints = get_type_hints(cls)
    fields = {field.name: hints[field.name] for field in dataclasses.fields(cls) if field.init}
    for key, value in values.items():
        if key not in fields:
            path = _dotted(where, str(key))
            nested = {_dotted(where, name): inner for name, hint in fields.items() if (inner := dataclass_in(hint))}
            raise ConfigError(f"unknown key {path!r}{suggest_option(str(key), fields, nested)}", key=path)
        inner = dataclass_in(fields[key])
        if inner and isinstance(value, Mapping):
            _check_keys(inner, value, _dotted(where, key))


def _with_field_defaults(cls: type, values: Mapping[str, Any]) -> dict[str, Any]:
    """Complete nested sections with the defaults of their fields, which may differ from the defaults of their type."""
    completed = dict(values)
    for field in dataclasses.fields(cls):
        value = completed.get(field.name)
        factory = field.default_factory
        default = field.default if factory is dataclasses.MISSING else factory()
        if isinstance(value, Mapping) and dataclasses.is_dataclass(default) and not isinstance(default, type):
            completed[field.name] = merge(to_plain(default), _with_field_defaults(type(default), value))
    return completed


def _dotted(*parts: str) -> str:
    return ".".join(part for part in parts if part)


def to_plain(options: Any) -> Any:
    """Convert a dataclass of options to plain JSON values, the inverse of ``build``."""
    if dataclasses.is_dataclass(options) and not isinstance(options, type):
        return {f.name: to_plain(getattr(options, f.name)) for f in dataclasses.fields(options) if f.init}
    if isinstance(options, Mapping):
        return {str(key): to_plain(value) for key, value in options.items()}
    if isinstance(options, tuple | list | frozenset):
        return [to_plain(value) for value in options]
    return str(options) if isinstance(options, Path) else options


ADDED: Mapping[str, Any] = {"added": True}
"""Field metadata of an option that an earlier version of its dataclass did not have."""


NAMES_FILE: Mapping[str, Any] = {"names_file": True}
"""Field metadata of an option that is a file path: the content of the file belongs to the run, its path does not."""


def identity_fields(options: Any) -> dict[str, Any]:
    """Return the options that are part of a run's identity, as plain values.

    Paths (``NAMES_FILE``) are left out, and so are ``ADDED`` options at their default: a run that was started before an
    option existed must not appear changed.
    """
    identity: dict[str, Any] = {}
    for option in dataclasses.fields(options):
        value = getattr(options, option.name)
        is_unset = option.metadata.get("added") and value == option.default
        if option.init and not is_unset and not option.metadata.get("names_file"):
            is_section = dataclasses.is_dataclass(value) and not isinstance(value, type)
            identity[option.name] = identity_fields(value) if is_section else to_plain(value)
    return identity


def read_yaml(path: Path) -> tuple[dict[str, Any], dict[str, int]]:
    """Read a configuration file; return its values and the line number of each dotted key.

    Raises:
        ConfigError: The file can't be read, is not a YAML mapping, or contains a duplicate key.
    """
    try:
        text = path.read_text(encoding="utf-8")
        node = yaml.compose(text, Loader=yaml.SafeLoader)
        values = yaml.safe_load(text)
    except OSError as error:
        raise ConfigError(f"can't read {path}: {describe_os_error(error)}") from None
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path}: not UTF-8 at byte {error.start}") from None
    except yaml.MarkedYAMLError as error:
        line = f":{error.problem_mark.line + 1}" if error.problem_mark else ""
        raise ConfigError(f"{path}{line}: {error.problem or 'not YAML'}") from None
    except (yaml.YAMLError, ValueError) as error:  # a date such as 2020-13-45 raises ValueError
        raise ConfigError(f"{path}: {error}") from None
    except RecursionError:
        raise ConfigError(f"{path}: nested too deeply") from None
    if node is None:
        return {}, {}
    if not isinstance(node, yaml.MappingNode):
        raise ConfigError(f"{path}:1: a mapping of keys to values is expected")
    if _expanded_size(values, {}) > _MAX_VALUES:
        raise ConfigError(f"{path}: its anchors expand to more than {_MAX_VALUES:,} values")
    lines: dict[str, int] = {}
    _walk(node, "", lines, path)
    return values, lines


def _walk(node: yaml.MappingNode, prefix: str, lines: dict[str, int], path: Path, depth: int = 0) -> None:
    if depth > MAX_DEPTH:  # an anchor may contain itself
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
            for index, item in enumerate(value_node.value):
                if isinstance(item, yaml.MappingNode):
                    lines[_dotted(key, str(index))] = item.start_mark.line + 1
                    _walk(item, _dotted(key, str(index)), lines, path, depth + 1)


def _expanded_size(value: Any, sizes: dict[int, int]) -> int:
    """Count the values, counting a value again for each anchor that repeats it."""
    if not isinstance(value, dict | list):
        return 1
    if id(value) not in sizes:
        sizes[id(value)] = 1  # ends the recursion of a value that contains itself
        inner = value.values() if isinstance(value, dict) else value
        sizes[id(value)] = 1 + sum(_expanded_size(item, sizes) for item in inner)
    return sizes[id(value)]


def assign(values: dict[str, Any], assignment: str) -> None:
    """Apply one ``--set key.sub=value`` assignment to ``values``; the value is parsed as YAML.

    Raises:
        ConfigError: The assignment has no ``=``, or its key leads through a value that is not a section.
    """
    key, equals, text = assignment.partition("=")
    if not equals or not key.strip():
        raise ConfigError(f"--set {assignment!r}: write it as key=value, for example --set alpaca.demonstrations=4")
    try:
        value = yaml.safe_load(text)
    except (yaml.YAMLError, ValueError, RecursionError):
        value = text
    if _expanded_size(value, {}) > _MAX_VALUES:
        raise ConfigError(f"--set {key.strip()}: its anchors expand to more than {_MAX_VALUES:,} values")
    *path, last = key.strip().split(".")
    for part in path:
        inner = values.setdefault(part, {})
        if not isinstance(inner, dict):
            raise ConfigError(f"--set {assignment!r}: {part!r} is a value, not a section")
        values = inner
    values[last] = value


def merge(base: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    """Return ``base`` overridden by ``over``, merged section by section."""
    merged = dict(base)
    for key, value in over.items():
        old = merged.get(key)
        merged[key] = merge(old, value) if isinstance(old, Mapping) and isinstance(value, Mapping) else value
    return merged


def section(values: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    """Return one section of options, empty if it is missing.

    Raises:
        ConfigError: The value under this name is not a section.
    """
    options = values.get(name)
    if options is None:
        return {}
    if not isinstance(options, Mapping):
        raise ConfigError(f"{name!r} must be a section of options, found {options!r}", key=name)
    return options


def flatten(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Return the leaf values by dotted key, the form in which two configurations are compared."""
    flat: dict[str, Any] = {}
    for key, value in values.items():
        if isinstance(value, Mapping) and value:
            flat.update(flatten(value, _dotted(prefix, key)))
        else:
            flat[_dotted(prefix, key)] = value
    return flat


def to_yaml(values: Mapping[str, Any]) -> bytes:
    """Serialize plain values to YAML, keeping the order of the keys."""
    text: str = yaml.safe_dump(dict(values), sort_keys=False, allow_unicode=True, width=120)
    return text.encode("utf-8")
