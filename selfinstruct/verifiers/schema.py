"""The kind ``json``: JSON that satisfies a JSON Schema (2020-12), checked by ``jsonschema`` with a bound on its work.

Schemas and answers may be hostile, so three things are stricter than in the library:

- Each application of a keyword is counted, by the size of the values involved: no schema and no answer takes long.
- Patterns are matched by RE2 (``patterns.py``); equality takes linear time, and multiples are exact.
- Unknown keywords are refused, since a misspelt one would accept wrong answers. So are references to other documents,
  keywords that name or move schemas (``$anchor``, ``$dynamicRef``, ``$id``) and keywords that depend on annotations
  (``unevaluatedItems``, ``unevaluatedProperties``). ``format`` is an annotation, the standard's default.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from fractions import Fraction
from functools import lru_cache
from typing import Any

from selfinstruct.common.codec import canonical, loads
from selfinstruct.errors import MissingExtraError
from selfinstruct.verifiers.base import Finding, Kind, Spec, code_blocks, nearest_name, short, shorten
from selfinstruct.verifiers.patterns import check_pattern, search, worst_case

__all__ = ["JSON"]

_MAX_STEPS = 100_000  # of one validation: about a second
_MAX_DEPTH = 100  # keywords applied within keywords, references followed
_MAX_NESTING = 30  # schemas within a schema
_MAX_SCHEMAS = 2_000  # in one
_CHARS_PER_STEP = 64
_MAX_MESSAGE = 200  # characters

_ANNOTATIONS = frozenset({
    "$comment", "title", "description", "default", "examples", "deprecated", "readOnly", "writeOnly",
    "format", "contentEncoding", "contentMediaType",
})  # fmt: skip
_SCHEMA = frozenset({"items", "contains", "additionalProperties", "propertyNames", "not", "if", "then", "else"})
_SCHEMA_LISTS = frozenset({"prefixItems", "allOf", "anyOf", "oneOf"})
_SCHEMAS_BY_NAME = frozenset({"properties", "patternProperties", "dependentSchemas", "$defs", "definitions"})
_VALUES = frozenset({
    "type", "enum", "const", "multipleOf", "minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "minLength",
    "maxLength", "minItems", "maxItems", "minProperties", "maxProperties", "minContains", "maxContains", "uniqueItems",
    "required", "dependentRequired", "pattern", "$ref",
})  # fmt: skip
_KEYWORDS = _ANNOTATIONS | _SCHEMA | _SCHEMA_LISTS | _SCHEMAS_BY_NAME | _VALUES


class _TooMuchWorkError(Exception):
    """A validation exceeded its number of steps or its depth."""


@dataclass
class _Work:
    """The work of one validation so far."""

    steps: int = 0
    depth: int = 0

    def spend(self, steps: int) -> None:
        self.steps += steps
        if self.steps > _MAX_STEPS:
            raise _TooMuchWorkError(f"checking it against the schema takes more than {_MAX_STEPS:,} steps")

    def enter(self) -> None:
        self.depth += 1
        if self.depth > _MAX_DEPTH:
            raise _TooMuchWorkError(f"the schema leads more than {_MAX_DEPTH} levels deep")


_work: ContextVar[_Work] = ContextVar("schema_work")


@contextmanager
def _bounded() -> Iterator[None]:
    """Count the work done within the block; exceeding the bounds raises ValueError."""
    token = _work.set(_Work())
    try:
        yield
    except _TooMuchWorkError as error:
        raise ValueError(str(error)) from None
    finally:
        _work.reset(token)


# --- keywords, as functions of jsonschema: (validator, value of the keyword, instance, schema) -> errors ---

_Errors = Iterator[Any]  # of jsonschema.ValidationError
_Keyword = Callable[[Any, Any, Any, Mapping[str, Any]], _Errors | None]


def _pattern(_validator: Any, wanted: str, instance: Any, _schema: Any) -> _Errors:
    if isinstance(instance, str) and not _search(wanted, instance):
        yield _error(f"{short(instance)} does not match {short(wanted)}")


def _pattern_properties(validator: Any, wanted: Mapping[str, Any], instance: Any, _schema: Any) -> _Errors:
    if isinstance(instance, dict):
        for pattern, subschema in wanted.items():
            for name in _matching(pattern, instance):
                yield from validator.descend(instance[name], subschema, path=name, schema_path=pattern)


def _additional_properties(validator: Any, wanted: Any, instance: Any, schema: Mapping[str, Any]) -> _Errors:
    if isinstance(instance, dict):
        names = {name: None for name in instance if name not in schema.get("properties", {})}
        for pattern in schema.get("patternProperties", {}):
            for name in _matching(pattern, names):
                del names[name]
        for name in names:
            if wanted is False:
                yield _error("not allowed", name)
            else:
                yield from validator.descend(instance[name], wanted, path=name)


def _unique_items(_validator: Any, wanted: bool, instance: Any, _schema: Any) -> _Errors:
    if wanted and isinstance(instance, list) and len({_key(item) for item in instance}) < len(instance):
        yield _error(f"{short(instance)} has the same item twice")


def _multiple_of(_validator: Any, wanted: float, instance: Any, _schema: Any) -> _Errors:
    is_number = isinstance(instance, (int, float)) and not isinstance(instance, bool)
    if is_number and Fraction(repr(instance)) % Fraction(repr(wanted)):  # as written: 0.3 is a multiple of 0.1
        yield _error(f"{short(instance)} is not a multiple of {wanted}")


def _enum(_validator: Any, wanted: list[Any], instance: Any, _schema: Any) -> _Errors:
    key = _key(instance)
    if all(_key(value) != key for value in wanted):
        yield _error(f"{short(instance)} is not one of {short(wanted)}")


def _const(_validator: Any, wanted: Any, instance: Any, _schema: Any) -> _Errors:
    if _key(instance) != _key(wanted):
        yield _error(f"{short(instance)} is not {short(wanted)}")


_OWN: dict[str, _Keyword] = {
    "pattern": _pattern, "patternProperties": _pattern_properties, "additionalProperties": _additional_properties,
    "uniqueItems": _unique_items, "multipleOf": _multiple_of, "enum": _enum, "const": _const,
}  # fmt: skip


def _error(message: str, *path: str) -> Any:
    from jsonschema import ValidationError

    return ValidationError(message, path=path)


def _matching(pattern: str, names: Mapping[str, Any]) -> list[str]:
    return [name for name in names if _search(pattern, name)]


def _search(pattern: str, text: str) -> bool:
    _work.get().spend(1 + worst_case(pattern, text) // 1000)
    return search(pattern, text)


def _key(value: Any) -> bytes:
    """Return bytes that are equal for values that JSON Schema considers equal, and for no others."""
    key = canonical(_plain(value))
    _work.get().spend(1 + len(key) // _CHARS_PER_STEP)
    return key


def _plain(value: Any) -> Any:
    """Return `value` with integral floats as integers, which JSON Schema does not distinguish."""
    if isinstance(value, float) and value.is_integer():
        return int(value)
    if isinstance(value, list):
        return [_plain(item) for item in value]
    return {name: _plain(item) for name, item in value.items()} if isinstance(value, dict) else value


def _counted(keyword: _Keyword) -> _Keyword:
    """Return `keyword` as a function that counts its work."""

    def apply(validator: Any, wanted: Any, instance: Any, schema: Mapping[str, Any]) -> _Errors:
        work = _work.get()
        work.spend(1 + _size(instance) + (_size(wanted) if isinstance(wanted, list) else 0))
        work.enter()
        try:
            yield from keyword(validator, wanted, instance, schema) or ()
        finally:
            work.depth -= 1

    return apply


def _size(value: Any) -> int:
    if isinstance(value, str):
        return len(value) // _CHARS_PER_STEP
    if isinstance(value, int):
        return value.bit_length() // _CHARS_PER_STEP
    return len(value) if isinstance(value, (list, dict)) else 0


@lru_cache(maxsize=1)
def _validators() -> tuple[Any, Any]:
    """Return jsonschema's validator of 2020-12 with counted keywords, and its own validator of the meta-schema."""
    try:
        from jsonschema import Draft202012Validator
        from jsonschema.validators import extend
    except ImportError:
        raise MissingExtraError("jsonschema, which checks JSON schemas,", "verify") from None
    keywords = {**Draft202012Validator.VALIDATORS, **_OWN}
    counted = extend(Draft202012Validator, {name: _counted(keyword) for name, keyword in keywords.items()})
    return counted, Draft202012Validator(Draft202012Validator.META_SCHEMA)


# --- the check of a schema ---


def _check_schema(value: Any) -> None:
    """Raise ValueError unless `value` is a schema that can be checked; the message gives the position."""
    _, meta_validator = _validators()
    schema = _undeclared(value)
    try:
        _check_keywords(schema)
        error = next(meta_validator.iter_errors(schema), None)
        if error is not None:
            raise ValueError(_message(error))
    except RecursionError:
        raise ValueError("must be a JSON schema that can be checked: it is nested too deeply") from None
    except ValueError as error:
        raise ValueError(f"must be a JSON schema that can be checked: {error}") from None


def _check_keywords(root: Any) -> None:
    """Raise ValueError on an unknown keyword, a bad pattern, or a reference to anything but a part of the schema."""
    pending: list[tuple[Any, str, int]] = [(root, "$", 0)]
    seen: set[int] = set()
    count = 0
    while pending:
        schema, position, depth = pending.pop()
        count += 1
        if count > _MAX_SCHEMAS:
            raise ValueError(f"more than {_MAX_SCHEMAS:,} schemas within one")
        if isinstance(schema, bool) or id(schema) in seen:
            continue
        seen.add(id(schema))
        if not isinstance(schema, Mapping):
            raise ValueError(f"{position} must be an object, true or false, found {short(schema)}")
        if depth > _MAX_NESTING:
            raise ValueError(f"{position} is nested too deeply")
        for keyword, wanted in schema.items():
            if keyword not in _KEYWORDS:
                raise ValueError(f"{position}: unknown keyword {short(keyword)}{nearest_name(str(keyword), _KEYWORDS)}")
            _check_patterns(keyword, wanted, f"{position}.{keyword}")
            if keyword == "$ref":
                pending.append((_resolved(root, wanted, f"{position}.$ref"), f"{position}.$ref", depth + 1))
            pending += [(inner, f"{position}.{keyword}{name}", depth + 1) for name, inner in _inner(keyword, wanted)]


def _resolved(root: Any, reference: Any, position: str) -> Any:
    """Return the part of the schema that a reference names."""
    from referencing import Registry
    from referencing.exceptions import Unresolvable
    from referencing.jsonschema import DRAFT202012

    try:
        if isinstance(reference, str) and reference.startswith("#"):
            return Registry().resolver_with_root(DRAFT202012.create_resource(root)).lookup(reference).contents
    except (Unresolvable, ValueError, TypeError):  # the last two: a pointer into a list or a text
        pass
    raise ValueError(f"{position} must refer to a part of this schema (#/$defs/name), found {short(reference)}")


def _undeclared(schema: Any) -> Any:
    """Return a schema without its ``$schema``, which would make the library switch to another validator."""
    return {key: value for key, value in schema.items() if key != "$schema"} if isinstance(schema, Mapping) else schema


def _check_patterns(keyword: str, wanted: Any, position: str) -> None:
    patterns = [wanted] if keyword == "pattern" else wanted if keyword == "patternProperties" else ()
    for pattern in patterns if isinstance(patterns, (list, Mapping)) else ():
        try:
            check_pattern(pattern)
        except ValueError as error:
            raise ValueError(f"{position} {short(pattern)} {error}") from None


def _inner(keyword: str, wanted: Any) -> list[tuple[str, Any]]:
    """Return the schemas in the value of a keyword, each with its position in it."""
    if keyword in _SCHEMA:
        return [("", wanted)]
    if keyword in _SCHEMA_LISTS and isinstance(wanted, list):
        return [(f"[{index}]", schema) for index, schema in enumerate(wanted)]
    if keyword in _SCHEMAS_BY_NAME and isinstance(wanted, Mapping):
        return [(f".{name}", schema) for name, schema in wanted.items()]
    return []


# --- the check of an answer ---


def _message(error: Any) -> str:
    """Return where the value is wrong (``$.tags[1]``) and why."""
    position = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in error.absolute_path)
    return shorten(f"${position}: {error.message}", _MAX_MESSAGE)


def _read(answer: str) -> Any:
    """Return the JSON in an answer: all of it, or else its only code block.

    Raises:
        ValueError: The answer holds no JSON; the message says why.
    """
    try:
        return loads(answer.strip())
    except ValueError:
        blocks = code_blocks(answer)
        if len(blocks) != 1:
            raise
    return loads(blocks[0].code.strip())


def _verify(spec: Spec, answer: str) -> Finding:
    expected = "JSON that satisfies the schema" if "schema" in spec else "JSON"
    try:
        value = _read(answer)
        if "schema" in spec:
            from referencing import Registry

            with _bounded():
                validator = _validators()[0](_undeclared(spec["schema"]), registry=Registry())
                error = next(validator.iter_errors(value), None)
            if error is not None:
                return Finding(False, expected, _message(error))
    except ValueError as error:
        return Finding(False, expected, str(error))
    return Finding(True, expected, short(value))


JSON = Kind(_verify, {"schema": _check_schema})
