"""Whether a JSON schema is one that ``schema.py`` can check a value by, all of it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

from selfinstruct.verifiers.base import near, short
from selfinstruct.verifiers.patterns import compile_pattern
from selfinstruct.verifiers.schema import DEPTH, TYPES, is_number, resolved

__all__ = ["check_schema"]

_REMARKS = (
    "$schema", "$comment", "title", "description", "default", "examples", "deprecated", "readOnly", "writeOnly",
    "format", "contentEncoding", "contentMediaType",
)  # fmt: skip


def check_schema(schema: Any) -> None:
    """See that a schema is one, and has nothing in it that isn't checked here.

    Raises:
        ValueError: It is none; the message says where.
    """
    left: list[tuple[Any, str, int]] = [(schema, "$", 0)]
    seen: set[int] = set()
    named: list[tuple[Any, str]] = []
    while left:
        one, place, depth = left.pop()
        if isinstance(one, bool):
            continue
        seen.add(id(one))
        if not isinstance(one, Mapping):
            raise ValueError(f"{place} is an object, true or false, found {short(one)}")
        if depth > DEPTH // 2:
            raise ValueError(f"{place} is nested too deeply")
        for keyword, wanted in one.items():
            if keyword not in _FORMS:
                raise ValueError(f"{place}: unknown keyword {short(keyword)}{near(str(keyword), sorted(_FORMS))}")
            try:
                _FORMS[keyword](wanted)
                if keyword == "$ref":
                    named.append((resolved(schema, wanted), f"{place}.$ref"))
            except ValueError as error:
                raise ValueError(f"{place}.{keyword} {error}") from None
            left += [(inner, f"{place}.{keyword}{name}", depth + 1) for name, inner in _inner(keyword, wanted)]
    for one, place in named:
        if not isinstance(one, bool) and id(one) not in seen:
            raise ValueError(f"{place} names something that is not used as a schema")


def _inner(keyword: str, wanted: Any) -> Iterable[tuple[str, Any]]:
    """The schemas in the value of a keyword, each with its place in it."""
    if keyword in _ONE:
        return [("", wanted)]
    if keyword in _LIST:
        return [(f"[{number}]", one) for number, one in enumerate(wanted)]
    return [(f".{name}", one) for name, one in wanted.items()] if keyword in _BY_NAME else ()


_ONE = {"items", "contains", "additionalProperties", "propertyNames", "not", "if", "then", "else"}
_LIST = {"prefixItems", "allOf", "anyOf", "oneOf"}
_BY_NAME = {"properties", "patternProperties", "dependentSchemas", "$defs", "definitions"}


def _form(good: Callable[[Any], bool], says: str) -> Callable[[Any], None]:
    def check(value: Any) -> None:
        if not good(value):
            raise ValueError(f"is {says}, found {short(value)}")

    return check


def _strings(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(one, str) for one in value)


def _pattern(value: Any) -> None:
    _form(TYPES["string"], "a regular expression")(value)
    try:
        compile_pattern(value, ecma=True)
    except ValueError as error:
        raise ValueError(f"{short(value)} {error}") from None


def _patterns(value: Any) -> None:
    _OBJECT(value)
    for pattern in value:
        _pattern(pattern)


def _known_type(value: Any) -> bool:
    names = [value] if isinstance(value, str) else value
    return isinstance(names, list) and bool(names) and all(isinstance(one, str) and one in TYPES for one in names)


_OBJECT = _form(TYPES["object"], "an object")
_SCHEMA = _form(lambda value: isinstance(value, (bool, dict)), "a schema")
_SCHEMAS = _form(lambda value: isinstance(value, list) and bool(value), "a list of at least one schema")
_COUNT = _form(lambda value: TYPES["integer"](value) and value >= 0, "a whole number of 0 or more")
_NUMBER = _form(is_number, "a number")
_ANY = _form(lambda _: True, "")

_FORMS: dict[str, Callable[[Any], None]] = {
    **dict.fromkeys(_REMARKS, _ANY),
    **dict.fromkeys(_ONE, _SCHEMA),
    **dict.fromkeys(_LIST, _SCHEMAS),
    **dict.fromkeys(_BY_NAME, _OBJECT),
    **dict.fromkeys(("minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum"), _NUMBER),
    **dict.fromkeys(("minLength", "maxLength", "minItems", "maxItems", "minProperties", "maxProperties"), _COUNT),
    **dict.fromkeys(("minContains", "maxContains"), _COUNT),
    "type": _form(_known_type, f"one or more of {', '.join(TYPES)}"),
    "enum": _form(lambda value: isinstance(value, list) and bool(value), "a list of at least one value"),
    "const": _ANY,
    "multipleOf": _form(lambda value: is_number(value) and value > 0, "a number above 0"),
    "uniqueItems": _form(TYPES["boolean"], "true or false"),
    "required": _form(_strings, "a list of names"),
    "dependentRequired": _form(
        lambda value: isinstance(value, dict) and all(map(_strings, value.values())), "an object of lists of names"
    ),
    "pattern": _pattern,
    "patternProperties": _patterns,
    "$ref": _form(TYPES["string"], "a text"),
}
