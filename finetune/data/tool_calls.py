"""Tools and tool calls of a row in OpenAI's form, which chat templates take."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from selfinstruct.common.nested import parse_nested

__all__ = ["read_calls", "read_tools"]

_ARGUMENTS = ("arguments", "parameters", "args", "input", "kwargs")
_NAMES = ("name", "tool_name", "toolName", "function_name")
_IDS = ("id", "tool_call_id", "toolCallId", "call_id")
_MAX_QUOTED = 60  # characters of a value in a message


def read_tools(text: str) -> tuple[dict[str, Any], ...]:
    """Return descriptions of tools: OpenAI's, plain functions, or Anthropic's.

    Args:
        text: A list of them, or one of them, as JSON; each may be a string of JSON. "" for none.

    Raises:
        ValueError: The text is something else.
    """
    tools = []
    for number, tool in enumerate(_objects(text, "the tools"), start=1):
        function = tool.get("function")
        function = dict(function) if isinstance(function, Mapping) else {k: v for k, v in tool.items() if k != "type"}
        if not isinstance(function.get("name"), str):
            raise ValueError(f"tool {number} has no name")
        if "input_schema" in function:
            function["parameters"] = function.pop("input_schema")
        tools.append({"type": "function", "function": function})
    return tuple(tools)


def read_calls(texts: Iterable[str]) -> tuple[dict[str, Any], ...]:
    """Return tool calls: OpenAI's, Anthropic's, or objects with a name and arguments.

    Args:
        texts: Calls, or lists of them, as JSON.

    Raises:
        ValueError: A text is something else, or the arguments of a call are no JSON object.
    """
    return tuple(_call(call) for text in texts for call in _objects(text, "a tool call"))


def _objects(text: str, what: str) -> Iterator[Mapping[str, Any]]:
    if not text.strip():
        return
    value = parse_nested(text)
    for item in value if isinstance(value, list) else [value]:
        parsed = parse_nested(item) if isinstance(item, str) else item
        objects = parsed if isinstance(parsed, list) else [parsed]
        if all(isinstance(each, Mapping) for each in objects):
            yield from objects
        else:
            raise ValueError(f"{what} can't be read as JSON: {text[:_MAX_QUOTED]!r}")


def _call(call: Mapping[str, Any]) -> dict[str, Any]:
    function = call["function"] if isinstance(call.get("function"), Mapping) else call
    name = next((function[key] for key in _NAMES if isinstance(function.get(key), str)), "")
    if not name:
        raise ValueError(f"a tool call has no name: {dict(call)!r:.{_MAX_QUOTED}}")
    arguments = next((function[key] for key in _ARGUMENTS if key in function), None)
    if isinstance(arguments, str) and arguments.strip():
        arguments = parse_nested(arguments)
    elif arguments is None or arguments == "":
        arguments = {}
    if not isinstance(arguments, Mapping):
        raise ValueError(f"the arguments of the tool call {name!r:.{_MAX_QUOTED}} are no JSON object")
    call_id = next((call[key] for key in _IDS if isinstance(call.get(key), str) and call[key]), "")
    return {"type": "function", **({"id": call_id} if call_id else {}),
            "function": {"name": name, "arguments": dict(arguments)}}  # fmt: skip
