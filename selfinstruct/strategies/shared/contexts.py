"""The one codec between the context dataclasses of strategies and ``Request.context``.

Each stage of a strategy declares a frozen dataclass with the data that it needs to read the completion. Fields are
strings, numbers, booleans, tuples, named tuples, mappings and further dataclasses. A field that is None is left out; a
field made with ``stored_as`` is stored under another key.
"""

from __future__ import annotations

import dataclasses
import types
import typing
from collections.abc import Mapping, Sequence
from functools import cache
from typing import TYPE_CHECKING, Any, Literal, TypeVar, Union

from selfinstruct.common.codec import Json
from selfinstruct.errors import LedgerError
from selfinstruct.records import Request

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

__all__ = ["context_json", "from_json", "read_context", "stored_as"]

_KEY = "key"
_NAMES = {"Json": Json, "Mapping": Mapping, "Sequence": Sequence}  # ``Json`` refers to itself by name
_Context = TypeVar("_Context")


def stored_as(key: str) -> Any:
    """Return a dataclass field without a default that is stored under ``key``."""
    return dataclasses.field(metadata={_KEY: key})


def context_json(context: DataclassInstance) -> dict[str, Json]:
    """Return a context dataclass as the JSON of ``Request.context``."""
    values = ((_key(field), getattr(context, field.name)) for field in dataclasses.fields(context))
    return {key: _encode(value) for key, value in values if value is not None}


def read_context(kind: type[_Context], request: Request) -> _Context:
    """Return the context of a request as the dataclass ``kind``.

    Raises:
        LedgerError: A field is missing or has another type.
    """
    try:
        return from_json(kind, request.context)
    except (KeyError, TypeError, ValueError) as error:
        raise LedgerError(
            f"request {request.number} ({request.stage}): its context is not a {kind.__name__} ({error}); "
            "use the version of selfinstruct that made the run"
        ) from None


def from_json(kind: type[_Context], value: Mapping[str, Any]) -> _Context:
    """Return the dataclass ``kind`` from the JSON that ``context_json`` wrote.

    Raises:
        KeyError, TypeError, ValueError: A field is missing or has another type.
    """
    fields = {}
    for name, key, hint in _fields(kind):  # type: ignore[arg-type]  # a class is hashable
        if key in value or not _is_optional(hint):
            fields[name] = _decode(hint, value[key])
    return kind(**fields)


@cache
def _fields(kind: Any) -> tuple[tuple[str, str, Any], ...]:
    """The name, the key and the type of each field."""
    hints = typing.get_type_hints(kind, localns=_NAMES)
    return tuple((field.name, _key(field), hints[field.name]) for field in dataclasses.fields(kind))


def _key(field: dataclasses.Field[Any]) -> str:
    return str(field.metadata.get(_KEY, field.name))


def _is_optional(hint: Any) -> bool:
    return type(None) in typing.get_args(hint)


def _encode(value: Any) -> Json:
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return context_json(value)
    if isinstance(value, tuple):
        return [_encode(item) for item in value]
    return value  # type: ignore[no-any-return]  # strings, numbers, booleans and mappings are JSON


def _decode(hint: Any, value: Any) -> Any:
    """Return a JSON value as the type ``hint``."""
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin in (Union, types.UnionType):
        return _decode(next(part for part in arguments if part is not type(None)), value)
    if origin is tuple:
        _check(isinstance(value, Sequence) and not isinstance(value, str), hint, value)
        parts = arguments[:1] * len(value) if arguments[-1] is Ellipsis else arguments
        return tuple(_decode(part, item) for part, item in zip(parts, value, strict=True))
    if isinstance(hint, type) and issubclass(hint, tuple):  # a named tuple
        parts = tuple(typing.get_type_hints(hint).values())
        return hint(*(_decode(part, item) for part, item in zip(parts, value, strict=True)))
    if dataclasses.is_dataclass(hint):
        _check(isinstance(value, Mapping), hint, value)
        return from_json(hint, value)  # type: ignore[arg-type]
    if origin is Literal:
        _check(value in arguments, hint, value)
    else:  # a mapping of JSON, or a plain type
        _check(isinstance(value, origin) if origin else type(value) is hint, hint, value)
    return value


def _check(valid: bool, hint: Any, value: Any) -> None:
    if not valid:
        raise TypeError(f"{value!r:.80} is not a {getattr(hint, '__name__', hint)}")
