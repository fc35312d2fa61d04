"""Assemble an answer that arrives piece by piece, as server-sent events, into the body of an ordinary answer.

No network here. The format: https://html.spec.whatwg.org/multipage/server-sent-events.html#parsing-an-event-stream
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from selfinstruct.backends.openai.error_body import decoded

__all__ = ["EventStream", "StreamCutError", "StreamError"]

_MAX_LINE = 16 << 20  # bytes; the same limit as for an ordinary answer
_MAX_TEXT = 16 << 20  # characters of all choices
_DONE = "[DONE]"
_WITHOUT = {
    True: "at [DONE] and without a finish reason",
    False: "without a finish reason and without [DONE]. If all answers of this server end so, none can be told from a "
    "cut one: ask for whole answers (--set openai.stream=false), or through a gateway that sends finish reasons",
}
"""What is missing at the end of a stream, by whether ``[DONE]`` arrived."""


class StreamError(Exception):
    """The stream is broken or too long."""


class StreamCutError(StreamError):
    """The stream ended before the answer did."""


@dataclass(slots=True)
class _Choice:
    """A choice as far as it has arrived.

    Attributes:
        texts: Pieces of each text field of the message (``content``, ``reasoning_content``).
        lists: Items of each list field (``tool_calls``, a content of several parts).
        other: The last value of each other field of the message.
        fields: The last value of each field of the choice itself (``finish_reason``).
    """

    texts: dict[str, list[str]] = field(default_factory=dict)
    lists: dict[str, list[Any]] = field(default_factory=dict)
    other: dict[str, Any] = field(default_factory=dict)
    fields: dict[str, Any] = field(default_factory=dict)

    def add(self, delta: Mapping[str, Any]) -> int:
        """Add a piece of the message; return the number of characters in it."""
        size = 0
        for name, value in delta.items():
            if name == "role" or value is None:
                self.other.setdefault(name, value)
            elif isinstance(value, str):
                size += len(value)
                if name in self.lists:
                    self.lists[name].append({"type": "text", "text": value})
                else:
                    self.texts.setdefault(name, []).append(value)
            elif isinstance(value, list):
                before = "".join(self.texts.pop(name, []))
                self.lists.setdefault(name, [{"type": "text", "text": before}] if before else []).extend(value)
                size += len(value)
            else:
                self.other[name] = value
        return size

    @property
    def has_ended(self) -> bool:
        """Whether the server gave a reason for its end."""
        return bool(self.fields.get("finish_reason") or self.fields.get("error"))

    def message(self) -> dict[str, Any]:
        """Return the message of an ordinary answer."""
        texts = {name: "".join(pieces) for name, pieces in self.texts.items()}
        return {"role": "assistant", "content": None, **self.other, **texts, **self.lists}


class EventStream:
    """The pieces of one answer.

    Args:
        chat: True for the chat endpoint, False for the plain one.
    """

    def __init__(self, *, chat: bool) -> None:
        self._chat = chat
        self._rest = bytearray()  # the beginning of a line whose end has not arrived
        self._data: list[str] = []  # the data lines of the current event
        self._is_events: bool | None = None  # unknown before the first byte that is not white space
        self._size = 0
        self._choices: dict[int, _Choice] = {}
        self._top: dict[str, Any] = {}
        self._error: Any = None
        self._done = False

    def feed(self, piece: bytes) -> None:
        """Add the next bytes.

        Raises:
            StreamError: An event is not JSON, or the answer is too long.
        """
        self._rest += piece
        if self._is_events is None and (start := self._rest.removeprefix(b"\xef\xbb\xbf").lstrip()):
            self._is_events = start[0] not in b"{[<"
            self._rest = start
        if self._is_events and (b"\n" in piece or b"\r" in piece):
            self._read_lines()
        if len(self._rest) > _MAX_LINE:
            raise StreamError(f"an answer of more than {_MAX_LINE >> 20} MiB, which no completion takes")

    @property
    def names_ending(self) -> bool:
        """Whether the server gave a reason for the end of each choice."""
        return bool(self._choices) and all(choice.has_ended for choice in self._choices.values())

    @property
    def is_unnamed(self) -> bool:
        """Whether the stream ended in order, with choices and ``[DONE]``, but without a reason for the end of one."""
        return self._done and bool(self._choices) and self._error is None and not self.names_ending

    def end(self) -> None:
        """Read what the last bytes began: no more arrive."""
        if self._is_events:
            self.feed(b"\n\n")

    def body(self, *, accept_unnamed: bool = False) -> bytes:
        """Return the body of an ordinary answer: a completion, or an error object that came in the middle.

        Args:
            accept_unnamed: Whether ``is_unnamed`` is the end of an answer. Servers that name a reason send such a
                stream if they lose the answer.

        Raises:
            StreamCutError: The stream ended before the answer did.
        """
        if not self._is_events:
            return bytes(self._rest)  # a server that ignores ``stream``, or an error in the usual form
        if self._error is not None:
            return json.dumps({"error": self._error}).encode()
        if not self._choices:
            raise StreamCutError("the stream ended without any choice")
        if not (self.names_ending or (accept_unnamed and self.is_unnamed)):
            raise StreamCutError(f"the stream ended before the answer did, {_WITHOUT[self._done]}")
        return json.dumps({**self._top, "choices": [self._choice(index) for index in sorted(self._choices)]}).encode()

    def _choice(self, index: int) -> dict[str, Any]:
        choice = self._choices[index]
        message = choice.message()
        content = {"message": message} if self._chat else {"text": message.get("text") or ""}
        return {"index": index, **choice.fields, **content}

    def _read_lines(self) -> None:
        """Read the lines that have arrived. A CR at the end waits for the next bytes: it may be half a line ending."""
        held = self._rest.endswith(b"\r")
        text = bytes(self._rest[:-1] if held else self._rest).replace(b"\r\n", b"\n").replace(b"\r", b"\n")
        lines = text.split(b"\n")
        self._rest = bytearray(lines.pop()) + (b"\r" if held else b"")
        for line in lines:
            self._read_line(line.decode("utf-8", "replace"))

    def _read_line(self, line: str) -> None:
        name, _, value = line.partition(":")
        if not line:
            data, self._data = "\n".join(self._data).strip(), []
            if data:
                self._read_event(data)
        elif name == "data":  # a comment has no name; ``event``, ``id`` and ``retry`` decide nothing here
            if len(self._data) == 1 and _is_event(self._data[0]):  # some servers send no empty line after an event
                self._read_line("")
            self._data.append(value.removeprefix(" "))

    def _read_event(self, data: str) -> None:
        if data == _DONE:
            self._done = True
            return
        if self._done or self._error is not None:
            return
        event = decoded(data.encode("utf-8", "replace"))
        if not isinstance(event, Mapping):
            raise StreamError(f"the stream has an event that is not a JSON object ({len(data)} characters)")
        listed = event.get("choices")
        if error := event.get("error"):
            self._error = error
        elif not listed and "choices" not in event and "usage" not in event and _is_error(event):
            self._error = dict(event)
        for item in listed if isinstance(listed, list) else ():
            if isinstance(item, Mapping):
                self._read_choice(item)
        for name, value in event.items():
            if name != "choices" and value is not None:
                self._top[name] = value
        if self._size > _MAX_TEXT:
            raise StreamError(f"an answer of more than {_MAX_TEXT >> 20} MiB, which no completion takes")

    def _read_choice(self, item: Mapping[str, Any]) -> None:
        index = item.get("index")
        choice = self._choices.setdefault(index if isinstance(index, int) else 0, _Choice())
        delta, message = item.get("delta"), item.get("message")
        if isinstance(delta, Mapping):
            self._size += choice.add(delta)
        elif isinstance(message, Mapping):  # the full message, not a piece of it
            choice.texts, choice.lists = {}, {}
            self._size += choice.add(message)
        if isinstance(text := item.get("text"), str):
            self._size += choice.add({"text": text})
        for name, value in item.items():
            if name not in ("index", "delta", "message", "text", "logprobs") and value is not None:
                choice.fields[name] = value


def _is_event(data: str) -> bool:
    return data.strip() == _DONE or decoded(data.encode("utf-8", "replace")) is not None


def _is_error(event: Mapping[str, Any]) -> bool:
    """Return whether an event without choices is an error that some servers send without an envelope."""
    return any(isinstance(event.get(name), str) for name in ("message", "detail", "msg")) and any(
        name in event for name in ("code", "type", "status", "detail")
    )
