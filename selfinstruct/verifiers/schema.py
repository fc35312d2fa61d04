"""Whether JSON is as a schema says: the keywords of JSON Schema 2020-12 that a bounded number of steps can check.

A keyword that is not known is refused, not passed over: a demand that nobody checks would accept wrong answers. Left
out are those that go by names or annotations (``$dynamicRef``, ``$anchor``, ``unevaluatedProperties``), and ``$ref`` to
anything outside of the schema. ``format`` is a remark, as the standard has it by default. Patterns are those of
``patterns.py``, and each step is counted, so that no schema and no answer can take long.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from fractions import Fraction
from typing import Any, TypeAlias
from urllib.parse import unquote

from selfinstruct.common.codec import canonical
from selfinstruct.verifiers.base import short
from selfinstruct.verifiers.patterns import compile_pattern

__all__ = ["DEPTH", "TYPES", "fault", "is_number", "resolved"]

STEPS = 1_000_000
DEPTH = 100  # of schemas within schemas, references followed

TYPES: dict[str, Callable[[Any], bool]] = {
    "null": lambda value: value is None,
    "boolean": lambda value: isinstance(value, bool),
    "integer": lambda value: is_number(value) and (isinstance(value, int) or value.is_integer()),
    "number": lambda value: is_number(value),  # noqa: PLW0108  (it stands below)
    "string": lambda value: isinstance(value, str),
    "array": lambda value: isinstance(value, list),
    "object": lambda value: isinstance(value, dict),
}


def is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


class _Wrong(Exception):  # noqa: N818  (an answer to a question, not an error)
    """What is wrong, and where in the value."""


class _Check:
    """One value held against one schema."""

    def __init__(self, root: Any) -> None:
        self._root = root
        self._steps = 0
        self._depth = 0

    def spend(self, steps: int) -> None:
        self._steps += steps
        if self._steps > STEPS:
            raise ValueError(f"checking takes more than {STEPS:,} steps")

    def check(self, schema: Any, value: Any, place: str) -> None:
        """Raise ``_Wrong`` on the first thing that is wrong."""
        self.spend(1)
        if isinstance(schema, bool):
            if not schema:
                raise _Wrong(f"{place} is not allowed")
            return
        self._depth += 1
        if self._depth > DEPTH:
            raise ValueError(f"the schema leads more than {DEPTH} levels deep")
        try:
            for keyword, wanted in schema.items():
                self.spend(1)
                if keyword in _KEYWORDS:
                    _KEYWORDS[keyword](self, wanted, value, place, schema)
        finally:
            self._depth -= 1

    def fits(self, schema: Any, value: Any) -> bool:
        try:
            self.check(schema, value, "")
        except _Wrong:
            return False
        return True

    def matches(self, pattern: str, value: str) -> bool:
        found = compile_pattern(pattern, ecma=True)
        self.spend(1 + len(value) * found.size // 64)  # by what it may take at the worst
        return found.matches(value)

    def key(self, value: Any) -> bytes:
        """Equal of values that JSON Schema calls equal, and of no others."""
        found = canonical(_plain(value))
        self.spend(1 + len(found) // 8)
        return found

    # --- keywords: each with its value, what is checked, where that is, and the schema around it ---

    def type(self, wanted: Any, value: Any, place: str, _: Any) -> None:
        names = [wanted] if isinstance(wanted, str) else wanted
        if not any(TYPES[name](value) for name in names):
            raise _Wrong(f"{place} is no {' or '.join(names)}")

    def enum(self, wanted: Any, value: Any, place: str, _: Any) -> None:
        key = self.key(value)
        if all(self.key(one) != key for one in wanted):
            raise _Wrong(f"{place} is none of {short(wanted)}")

    def const(self, wanted: Any, value: Any, place: str, _: Any) -> None:
        if self.key(value) != self.key(wanted):
            raise _Wrong(f"{place} is not {short(wanted)}")

    def multiple_of(self, wanted: Any, value: Any, place: str, _: Any) -> None:
        if is_number(value):
            self.spend(len(repr(value)) // 8)
            if Fraction(repr(value)) % Fraction(repr(wanted)):
                raise _Wrong(f"{place} is no multiple of {wanted}")

    def pattern(self, wanted: Any, value: Any, place: str, _: Any) -> None:
        if isinstance(value, str) and not self.matches(wanted, value):
            raise _Wrong(f"{place} does not match {short(wanted)}")

    def unique_items(self, wanted: Any, value: Any, place: str, _: Any) -> None:
        if wanted and isinstance(value, list) and len({self.key(one) for one in value}) < len(value):
            raise _Wrong(f"{place} has the same item twice")

    def prefix_items(self, wanted: Any, value: Any, place: str, _: Any) -> None:
        if isinstance(value, list):
            for number, (schema, one) in enumerate(zip(wanted, value, strict=False)):
                self.check(schema, one, f"{place}[{number}]")

    def items(self, wanted: Any, value: Any, place: str, schema: Any) -> None:
        if isinstance(value, list):
            for number in range(len(schema.get("prefixItems", ())), len(value)):
                self.check(wanted, value[number], f"{place}[{number}]")

    def contains(self, wanted: Any, value: Any, place: str, schema: Any) -> None:
        if isinstance(value, list):
            found = sum(self.fits(wanted, one) for one in value)
            if not schema.get("minContains", 1) <= found <= schema.get("maxContains", math.inf):
                raise _Wrong(f"{place} has {found} items as wanted")

    def required(self, wanted: Any, value: Any, place: str, _: Any) -> None:
        if isinstance(value, dict):
            self.spend(len(wanted))
            for name in wanted:
                if name not in value:
                    raise _Wrong(f"{place} has no {short(name)}")

    def properties(self, wanted: Any, value: Any, place: str, _: Any) -> None:
        if isinstance(value, dict):
            for name, schema in wanted.items():
                self.spend(1)
                if name in value:
                    self.check(schema, value[name], _inside(place, name))

    def pattern_properties(self, wanted: Any, value: Any, place: str, _: Any) -> None:
        if isinstance(value, dict):
            for pattern, schema in wanted.items():
                for name, one in value.items():
                    self.spend(1)
                    if self.matches(pattern, name):
                        self.check(schema, one, _inside(place, name))

    def additional_properties(self, wanted: Any, value: Any, place: str, schema: Any) -> None:
        if isinstance(value, dict):
            known, patterns = schema.get("properties", {}), schema.get("patternProperties", {})
            for name, one in value.items():
                self.spend(1)
                if name not in known and not any(self.matches(pattern, name) for pattern in patterns):
                    self.check(wanted, one, _inside(place, name))

    def property_names(self, wanted: Any, value: Any, place: str, _: Any) -> None:
        if isinstance(value, dict):
            for name in value:
                self.check(wanted, name, f"the name of {_inside(place, name)}")

    def dependent_required(self, wanted: Any, value: Any, place: str, _: Any) -> None:
        if isinstance(value, dict):
            for name, others in wanted.items():
                self.spend(1)
                if name in value:
                    self.required(others, value, place, None)

    def dependent_schemas(self, wanted: Any, value: Any, place: str, _: Any) -> None:
        if isinstance(value, dict):
            for name, schema in wanted.items():
                self.spend(1)
                if name in value:
                    self.check(schema, value, place)

    def all_of(self, wanted: Any, value: Any, place: str, _: Any) -> None:
        for schema in wanted:
            self.check(schema, value, place)

    def any_of(self, wanted: Any, value: Any, place: str, _: Any) -> None:
        if not any(self.fits(schema, value) for schema in wanted):
            raise _Wrong(f"{place} fits none of the {len(wanted)} schemas of anyOf")

    def one_of(self, wanted: Any, value: Any, place: str, _: Any) -> None:
        found = sum(self.fits(schema, value) for schema in wanted)
        if found != 1:
            raise _Wrong(f"{place} fits {found} of the {len(wanted)} schemas of oneOf")

    def negated(self, wanted: Any, value: Any, place: str, _: Any) -> None:
        if self.fits(wanted, value):
            raise _Wrong(f"{place} is as it must not be")

    def condition(self, wanted: Any, value: Any, place: str, schema: Any) -> None:
        self.check(schema.get("then" if self.fits(wanted, value) else "else", True), value, place)

    def reference(self, wanted: Any, value: Any, place: str, _: Any) -> None:
        self.check(resolved(self._root, wanted), value, place)


def resolved(root: Any, reference: str) -> Any:
    """The part of a schema that a reference within it names.

    Raises:
        ValueError: There is none.
    """
    pointer = unquote(reference)
    if pointer != "#" and not pointer.startswith("#/"):
        raise ValueError(f"is a place in this schema, such as #/$defs/name, found {short(reference)}")
    found = root
    for part in pointer.split("/")[1:]:
        name = part.replace("~1", "/").replace("~0", "~")
        if isinstance(found, Mapping) and name in found:
            found = found[name]
        elif isinstance(found, list) and name.isascii() and name.isdecimal() and int(name) < len(found):
            found = found[int(name)]
        else:
            raise ValueError(f"names nothing in this schema: {short(reference)}")
    if not isinstance(found, (bool, Mapping)):
        raise ValueError(f"names no schema: {short(reference)}")
    return found


def _inside(place: str, name: str) -> str:
    return f"{place}.{name[:40]}"[:200]


def _plain(value: Any) -> Any:
    """A value with integers in place of floats that are some."""
    if isinstance(value, float) and value.is_integer():
        return int(value)
    if isinstance(value, list):
        return [_plain(one) for one in value]
    return {name: _plain(one) for name, one in value.items()} if isinstance(value, dict) else value


_Keyword: TypeAlias = Callable[[_Check, Any, Any, str, Any], None]


def _bound(
    applies: Callable[[Any], bool], size: Callable[[Any], Any], fits: Callable[[Any, Any], bool], says: str
) -> _Keyword:
    def keyword(_check: _Check, wanted: Any, value: Any, place: str, _: Any) -> None:
        if applies(value) and not fits(size(value), wanted):
            raise _Wrong(f"{place} {says} {wanted}")

    return keyword


def _least(found: Any, wanted: Any) -> bool:
    return bool(found >= wanted)


def _most(found: Any, wanted: Any) -> bool:
    return bool(found <= wanted)


def _itself(value: Any) -> Any:
    return value


_KEYWORDS: dict[str, _Keyword] = {
    "type": _Check.type, "enum": _Check.enum, "const": _Check.const, "multipleOf": _Check.multiple_of,
    "minimum": _bound(is_number, _itself, _least, "is below"),
    "maximum": _bound(is_number, _itself, _most, "is above"),
    "exclusiveMinimum": _bound(is_number, _itself, lambda found, wanted: found > wanted, "is not above"),
    "exclusiveMaximum": _bound(is_number, _itself, lambda found, wanted: found < wanted, "is not below"),
    "minLength": _bound(TYPES["string"], len, _least, "has fewer characters than"),
    "maxLength": _bound(TYPES["string"], len, _most, "has more characters than"),
    "minItems": _bound(TYPES["array"], len, _least, "has fewer items than"),
    "maxItems": _bound(TYPES["array"], len, _most, "has more items than"),
    "minProperties": _bound(TYPES["object"], len, _least, "has fewer properties than"),
    "maxProperties": _bound(TYPES["object"], len, _most, "has more properties than"),
    "pattern": _Check.pattern, "uniqueItems": _Check.unique_items, "prefixItems": _Check.prefix_items,
    "items": _Check.items, "contains": _Check.contains, "required": _Check.required, "properties": _Check.properties,
    "patternProperties": _Check.pattern_properties, "additionalProperties": _Check.additional_properties,
    "propertyNames": _Check.property_names, "dependentRequired": _Check.dependent_required,
    "dependentSchemas": _Check.dependent_schemas, "allOf": _Check.all_of, "anyOf": _Check.any_of,
    "oneOf": _Check.one_of, "not": _Check.negated, "if": _Check.condition, "$ref": _Check.reference,
}  # fmt: skip


def fault(schema: Any, value: Any) -> str:
    """What is wrong with a value by a good schema, and where; "" if nothing is.

    A check that would take too long finds the value wrong, by its number of steps.
    """
    try:
        _Check(schema).check(schema, value, "$")
    except (_Wrong, ValueError) as error:
        return str(error)
    return ""
