"""JSON schemas of the answers that strategies request.

They use only what every backend supports: an object at the root, all keys required and no others allowed, as in
OpenAI's strict mode. A model writes the keys in the order of the schema.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from selfinstruct.common.codec import Json

__all__ = ["labels", "records", "score", "strings"]


def records(key: str, fields: tuple[str, ...], limit: int) -> dict[str, Json]:
    """Return the schema of ``{key: [{field: text, ...}, ...]}`` with 1 to ``limit`` objects."""
    return _array(key, _object({field: {"type": "string"} for field in fields}), limit)


def strings(key: str, limit: int) -> dict[str, Json]:
    """Return the schema of ``{key: [text, ...]}`` with 1 to ``limit`` texts."""
    return _array(key, {"type": "string"}, limit)


def score(low: int, high: int) -> dict[str, Json]:
    """Return the schema of ``{"score": integer from low to high, "reason": text}``."""
    return _object({"score": {"type": "integer", "enum": list(range(low, high + 1))}, "reason": {"type": "string"}})


def labels(vocabularies: Mapping[str, Sequence[str]]) -> dict[str, Json]:
    """Return the schema of ``{name: word, ...}``, each word from the vocabulary of its name."""
    return _object({name: {"type": "string", "enum": list(words)} for name, words in vocabularies.items()})


def _array(key: str, item: dict[str, Json], limit: int) -> dict[str, Json]:
    return _object({key: {"type": "array", "minItems": 1, "maxItems": limit, "items": item}})


def _object(properties: dict[str, Json]) -> dict[str, Json]:
    return {
        "type": "object",
        "properties": properties,
        "required": list(properties),
        "additionalProperties": False,
    }
