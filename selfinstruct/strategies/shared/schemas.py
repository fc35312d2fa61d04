"""JSON schemas of what a strategy asks for.

They keep to what every backend knows: an object at the root, all of its keys required and no others, as OpenAI's strict
mode demands. A model writes the keys in the order in which the schema names them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from selfinstruct.common.codec import Json

__all__ = ["labels", "records", "score", "strings"]


def records(key: str, fields: tuple[str, ...], most: int) -> dict[str, Json]:
    """``{key: [{field: text, ...}, ...]}`` with 1 to ``most`` objects."""
    return _array(key, _object({field: {"type": "string"} for field in fields}), most)


def strings(key: str, most: int) -> dict[str, Json]:
    """``{key: [text, ...]}`` with 1 to ``most`` texts."""
    return _array(key, {"type": "string"}, most)


def score(low: int, high: int) -> dict[str, Json]:
    """``{"score": whole number of the scale, "reason": text}``."""
    return _object({"score": {"type": "integer", "enum": list(range(low, high + 1))}, "reason": {"type": "string"}})


def labels(vocabularies: Mapping[str, Sequence[str]]) -> dict[str, Json]:
    """``{name: word, ...}``, each word of its own vocabulary."""
    return _object({name: {"type": "string", "enum": list(words)} for name, words in vocabularies.items()})


def _array(key: str, item: dict[str, Json], most: int) -> dict[str, Json]:
    return _object({key: {"type": "array", "minItems": 1, "maxItems": most, "items": item}})


def _object(properties: dict[str, Json]) -> dict[str, Json]:
    return {
        "type": "object",
        "properties": properties,
        "required": list(properties),
        "additionalProperties": False,
    }
