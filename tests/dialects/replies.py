"""What a scripted server sends for one request, before a dialect gives it the JSON of a real server."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from tests.loopback import Fault

Json = dict[str, Any]

HALF = "The answer begins, and in the middle of its first"
INVALID = "invalid_request_error"

OMITTED = object()
"""Stands for a field that is not sent at all, where None is sent as ``null``."""


@dataclass(frozen=True)
class Answer:
    """An answer with status 200.

    Attributes:
        text: The text; None for ``null``, ``OMITTED`` for a message without the field.
        finish: The finish reason, in the server's own words; None and ``OMITTED`` as for the text.
        thought: The reasoning before the text.
        task: Number of the task, so that a dialect with several forms can use all of them.
        message, choice, top: Further fields of the message, the choice and the body.
        usage: The value to send instead of the token counts, in a tuple; ``OMITTED`` for a body without the field.
    """

    text: Any
    finish: Any = "stop"
    thought: str = ""
    task: int = 0
    message: Mapping[str, Any] = field(default_factory=dict)
    choice: Mapping[str, Any] = field(default_factory=dict)
    top: Mapping[str, Any] = field(default_factory=dict)
    usage: tuple[Any] | None = None


@dataclass(frozen=True)
class Broken:
    """A reply without a usable answer.

    Attributes:
        reply: The reply: an answer, a body with status 200, or an error.
        passes: Whether the next request for the same task is answered.
    """

    reply: Answer | Json | Fault
    passes: bool = False


@dataclass(frozen=True)
class Dialect:
    """The HTTP API of one kind of server.

    Attributes:
        name: Name for the table.
        path: Path of the base URL.
        model: Name of the requested model.
        shape: Returns the body for an answer.
        cut: Replies with half an answer.
        empty: Replies without text.
        refused: Replies to a prompt that the server refuses to process.
        dry: Errors of an account, or a server, that answers nothing any more; each is tried in a run.
        throttled: Errors that ask for a pause.
        refuses: Sampling parameters that the model refuses.
        refusal: Returns the error about one or more of these parameters.
        only_streams: Error for a request without ``stream``, where the model thinks; None if the server sends whole
            bodies.
        without_usage: Values of ``usage`` where nothing was counted.
    """

    name: str
    path: str
    model: str
    shape: Callable[[Answer], Json]
    cut: tuple[Broken, ...]
    empty: tuple[Broken, ...]
    refused: tuple[Broken, ...]
    dry: tuple[Fault, ...]
    throttled: tuple[Fault, ...]
    refuses: tuple[str, ...] = ()
    refusal: Callable[[list[str]], Fault] = lambda names: Fault(400)
    only_streams: Fault | None = None
    without_usage: tuple[Any, ...] = (OMITTED, None, {"prompt_tokens": 0, "completion_tokens": 0, "total_tokens": 0})


def error(status: int, message: Any, headers: Mapping[str, str] | None = None, /, **fields: Any) -> Fault:
    """Return an error of the usual shape: an object ``error`` with a message and further fields."""
    return Fault(status, headers or {}, {"error": {"message": message, **fields}})


def flat(status: int, message: str, **fields: Any) -> Fault:
    """Return an error without an envelope."""
    return Fault(status, {}, {"object": "error", "message": message, "param": None, **fields})


def openai_error(
    status: int,
    message: str,
    kind: str | None = INVALID,
    code: str | int | None = None,
    param: str | None = None,
    headers: Mapping[str, str] | None = None,
) -> Fault:
    """Return an error with the fields of OpenAI's own: message, type, parameter and code."""
    return error(status, message, headers, type=kind, param=param, code=code)


def cut(*finishes: Any, passes: str = "") -> tuple[Broken, ...]:
    """Return half answers with these finish reasons; the one called ``passes`` is complete at the next attempt."""
    return tuple(Broken(Answer(HALF, finish), passes=finish == passes) for finish in finishes)


def without_text(*texts: Any) -> tuple[Broken, ...]:
    """Return answers with these texts, in which there is nothing to read."""
    return tuple(Broken(Answer(text)) for text in texts)


TOOL_CALL = Broken(
    Answer(
        None,
        "tool_calls",
        message={"tool_calls": [{"id": "call_1", "type": "function", "function": {"name": "find", "arguments": "{}"}}]},
    )
)


def reasoned(answer: Answer, name: str = "reasoning_content") -> Json:
    """Return the fields of a message whose reasoning stands in a field of its own."""
    return {"content": answer.text} | ({name: answer.thought} if answer.thought else {})


def chat(
    answer: Answer, model: str, *, message: Mapping[str, Any] | None = None, details: bool = False, **top: Any
) -> Json:
    """Return the body that all dialects have in common.

    Args:
        message: Fields of the message that replace the plain ``content``.
        details: Whether the usage counts reasoning tokens.
        top: Further fields of the body.
    """
    fields = dict(message) if message is not None else {"content": answer.text}
    words = len(str(answer.text or "").split()) if isinstance(answer.text, str) else 0
    thought = len(answer.thought.split())
    usage: Any = {"prompt_tokens": 21, "completion_tokens": words + thought, "total_tokens": 21 + words + thought}
    if details:
        usage["completion_tokens_details"] = {"reasoning_tokens": thought}
    if answer.usage is not None:
        (usage,) = answer.usage
    whole = {
        "id": f"chatcmpl-{answer.task}",
        "object": "chat.completion",
        "created": 1764547200,
        "model": model,
        "choices": [
            {
                "index": 0,
                "message": {"role": "assistant", **fields, **answer.message},
                "finish_reason": answer.finish,
                **answer.choice,
            }
        ],
        "usage": usage,
        **top,
        **answer.top,
    }
    for choice in whole["choices"] or []:
        choice["message"] = _sent(choice["message"])
    whole["choices"] = [_sent(choice) for choice in whole["choices"]] if whole["choices"] else whole["choices"]
    return _sent(whole)


def _sent(fields: Json) -> Json:
    return {name: value for name, value in fields.items() if value is not OMITTED}


def streamed(body: Json, *, include_usage: bool) -> Fault:
    """Return the body as server-sent events, the text in two pieces, as a server does that is asked to stream."""
    return Fault(200, {"content-type": "text/event-stream"}, "".join(_events(body, include_usage=include_usage)))


def _events(body: Json, *, include_usage: bool) -> Iterator[str]:
    head = {**{name: body.get(name) for name in ("id", "created", "model")}, "object": "chat.completion.chunk"}

    def event(choices: list[Json], **more: Any) -> str:
        return f"data: {json.dumps({**head, 'choices': choices, **more}, ensure_ascii=False)}\n\n"

    for choice in body["choices"] or []:
        deltas: list[Json] = [{"role": "assistant", "content": ""}]
        for name, value in choice["message"].items():
            if isinstance(value, str) and name != "role":
                half = len(value) // 2
                deltas += [{name: value[:half]}, {name: value[half:]}]
            elif value:
                deltas.append({name: value})
        for delta in deltas:
            yield event([{"index": 0, "delta": delta, "finish_reason": None}])
        yield event([{"delta": {}, **{name: value for name, value in choice.items() if name != "message"}}])
    if include_usage:
        yield event([], usage=body.get("usage"))
    yield "data: [DONE]\n\n"
