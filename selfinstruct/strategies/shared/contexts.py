"""The one codec between the context dataclasses of strategies and ``Request.context``.

Each stage of a strategy declares a frozen dataclass with the data that it needs to read the completion. Fields are
strings, numbers, booleans, tuples, named tuples, mappings and further dataclasses. A field that is None is left out; a
field made with ``stored_as`` is stored under another key.
"""

from __future__ import annotations

import dataclasses
import types
import typing
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cache, partial
from typing import TYPE_CHECKING, Any, Literal, TypeAlias, TypeVar, Union

from selfinstruct.common.codec import Json
from selfinstruct.errors import LedgerError
from selfinstruct.records import Request

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

__all__ = ["context_json", "from_json", "read_context", "stored_as"]

_KEY = "key"
_NAMES = {"Json": Json, "Mapping": Mapping, "Sequence": Sequence}  # ``Json`` refers to itself by name
_Context = TypeVar("_Context")
_Decoder: TypeAlias = Callable[[Any], Any]


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
    for name, key, is_optional, decode in _fields(kind):  # type: ignore[arg-type]  # a class is hashable
        if key in value or not is_optional:
            fields[name] = decode(value[key])
    return kind(**fields)


@cache
def _fields(kind: Any) -> tuple[tuple[str, str, bool, _Decoder], ...]:
    """Return name, key, optionality and decoder of each field."""
    hints = typing.get_type_hints(kind, localns=_NAMES)
    return tuple(
        (field.name, _key(field), type(None) in typing.get_args(hints[field.name]), _decoder(hints[field.name]))
        for field in dataclasses.fields(kind)
    )


def _key(field: dataclasses.Field[Any]) -> str:
    return str(field.metadata.get(_KEY, field.name))


def _encode(value: Any) -> Json:
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return context_json(value)
    if isinstance(value, tuple):
        return [_encode(item) for item in value]
    return value  # type: ignore[no-any-return]  # strings, numbers, booleans and mappings are JSON


def _decoder(hint: Any) -> _Decoder:
    """Return the function that reads a JSON value as the type ``hint``."""
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin in (Union, types.UnionType):
        return _decoder(next(part for part in arguments if part is not type(None)))
    if origin is tuple:
        return _tuple_decoder(hint, arguments, tuple)
    if isinstance(hint, type) and issubclass(hint, tuple):  # a named tuple
        return _tuple_decoder(hint, tuple(typing.get_type_hints(hint).values()), lambda items: hint(*items))
    if dataclasses.is_dataclass(hint):
        return partial(_decode_dataclass, hint)
    if origin is Literal:
        return partial(_checked, hint, lambda value: value in arguments)
    is_plain = origin is None  # a string, a number or a boolean; otherwise a mapping of JSON
    return partial(_checked, hint, lambda value: type(value) is hint if is_plain else isinstance(value, origin))


def _tuple_decoder(hint: Any, arguments: tuple[Any, ...], make: Callable[[Iterator[Any]], Any]) -> _Decoder:
    """Return a decoder for a tuple whose items have the types ``arguments``; (X, ...) means any number of X."""
    decoders = [_decoder(part) for part in arguments if part is not Ellipsis]
    any_length = arguments[-1] is Ellipsis

    def decode(value: Any) -> Any:
        _checked(hint, lambda items: isinstance(items, Sequence) and not isinstance(items, str), value)
        parts = decoders * len(value) if any_length else decoders
        return make(decode_item(item) for decode_item, item in zip(parts, value, strict=True))

    return decode


def _decode_dataclass(kind: Any, value: Any) -> Any:
    return from_json(kind, _checked(kind, lambda fields: isinstance(fields, Mapping), value))


def _checked(hint: Any, is_valid: Callable[[Any], bool], value: Any) -> Any:
    """Return ``value`` if it has the right type."""
    if not is_valid(value):
        raise TypeError(f"{value!r:.80} is not a {getattr(hint, '__name__', hint)}")
    return value
