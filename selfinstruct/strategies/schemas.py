"""JSON schemas of what a strategy asks for.

They keep to what every backend knows: an object at the root, all of its keys required and no others, as OpenAI's strict
mode demands. A model writes the keys in the order in which the schema names them.
"""

from __future__ import annotations

from selfinstruct.codec import Json

__all__ = ["records", "strings"]


def records(key: str, fields: tuple[str, ...], most: int) -> dict[str, Json]:
    """``{key: [{field: text, ...}, ...]}`` with 1 to ``most`` objects."""
    return _array(key, _object({field: {"type": "string"} for field in fields}), most)


def strings(key: str, most: int) -> dict[str, Json]:
    """``{key: [text, ...]}`` with 1 to ``most`` texts."""
    return _array(key, {"type": "string"}, most)


def _array(key: str, item: dict[str, Json], most: int) -> dict[str, Json]:
    return _object({key: {"type": "array", "minItems": 1, "maxItems": most, "items": item}})


def _object(properties: dict[str, Json]) -> dict[str, Json]:
    return {
        "type": "object",
        "properties": properties,
        "required": list(properties),
        "additionalProperties": False,
    }
