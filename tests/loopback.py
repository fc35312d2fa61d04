"""A real HTTP server on loopback that speaks OpenAI's API and answers or fails as a test decides.

The answer to a request is a function of its body only, so that runs are repeatable in any order of arrival. Faults are
assigned by the number of the request in order of arrival, from 1.

In a test::

    with Loopback(lambda body: body["prompt"].upper(), faults={1: Fault(503)}) as server:
        ...  # server.url, then server.arrived

In a separate process, which prints its URL and ends with its standard input::

    python tests/loopback.py --answer tests.scripted:reply --delay 0.01
"""

from __future__ import annotations

import argparse
import importlib
import json
import socket
import struct
import sys
import threading
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, Literal

Body = dict[str, Any]


@dataclass(frozen=True)
class Reply:
    """A choice with its finish reason; a plain string means ``stop``."""

    text: str | None
    finish_reason: str | None = "stop"


Answer = Callable[[Body], "str | Reply | list[str | Reply] | Body"]
"""Maps a request's body to its choice, its choices, or the JSON object to send."""


@dataclass(frozen=True)
class Fault:
    """What happens to one request instead of an answer.

    Attributes:
        status: Status to send; 200 with a ``body`` is an invalid success.
        headers: Further headers (``Retry-After``).
        body: Text or bytes to send unchanged, or a value to send as JSON. None is an error object of the usual shape.
        how: ``send`` everything; send ``half`` of the body under its full length, then hang up; ``hang`` without a
            byte; ``trickle`` a byte at a time; ``reset`` the connection.
    """

    status: int = 200
    headers: Mapping[str, str] = field(default_factory=dict)
    body: str | bytes | Mapping[str, Any] | list[Any] | None = None
    how: Literal["send", "half", "hang", "trickle", "reset"] = "send"


@dataclass(frozen=True)
class Arrived:
    """A received request, with lower-case header names."""

    number: int
    path: str
    headers: Mapping[str, str]
    body: Any


class Loopback:
    """The server, running while its context is open.

    Args:
        answer: See ``Answer``.
        faults: Faults by number of arrival, from 1; or a function of number and body that returns a fault or None.
        delay: Seconds before each answer, or a function of the body that returns them; closing the server ends a delay.
        port: Port to listen on; 0 for any free one.

    Attributes:
        arrived: All POST requests in order of arrival.
    """

    def __init__(
        self,
        answer: Answer = lambda body: "ok",
        faults: Mapping[int, Fault] | Callable[[int, Any], Fault | None] | None = None,
        *,
        delay: float | Callable[[Body], float] = 0.0,
        port: int = 0,
    ) -> None:
        self.arrived: list[Arrived] = []
        self.closing = threading.Event()
        self.delay = delay
        self._answer = answer
        self._fault = faults if callable(faults) else lambda number, body: (faults or {}).get(number)
        self._lock = threading.Lock()
        self._server = _Server(("127.0.0.1", port), _Handler)
        self._server.loopback = self
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True)

    @property
    def port(self) -> int:
        return int(self._server.server_address[1])

    @property
    def url(self) -> str:
        """Base URL, ``/v1`` included."""
        return f"http://127.0.0.1:{self.port}/v1"

    def __enter__(self) -> Loopback:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.closing.set()
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def die(self) -> None:
        """Behave like a killed process: stop listening and reset every connection."""
        self.closing.set()
        self._server.shutdown()
        self._server.server_close()
        for connection in self._server.connections:
            with suppress(OSError):
                connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                connection.shutdown(socket.SHUT_RDWR)

    def take(self, path: str, headers: Mapping[str, str], body: Any) -> Fault | None:
        """Record a request and return its fault, if any."""
        with self._lock:
            number = len(self.arrived) + 1
            self.arrived.append(Arrived(number, path, headers, body))
        return self._fault(number, body)

    def completion(self, path: str, body: Body) -> Body:
        """Return the response object for a request."""
        answered = self._answer(body)
        if isinstance(answered, dict):
            return answered
        replies = [reply if isinstance(reply, Reply) else Reply(reply) for reply in _as_list(answered)]
        chat = path.endswith("/chat/completions")
        sent = json.dumps(body.get("messages") if chat else body.get("prompt"))
        usage = {
            "prompt_tokens": len(sent.split()),
            "completion_tokens": sum(len((reply.text or "").split()) for reply in replies),
            "prompt_tokens_details": {"cached_tokens": 0},
        }
        return {
            "id": "loopback",
            "object": "chat.completion" if chat else "text_completion",
            "model": body.get("model"),
            "choices": [
                {
                    "index": index,
                    "finish_reason": reply.finish_reason,
                    **({"message": {"role": "assistant", "content": reply.text}} if chat else {"text": reply.text}),
                }
                for index, reply in enumerate(replies)
            ],
            "usage": usage,
        }


def _as_list(answered: Any) -> list[Any]:
    return answered if isinstance(answered, list) else [answered]


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False
    request_queue_size = 128
    loopback: Loopback

    def __init__(self, *arguments: Any) -> None:
        self.connections: list[socket.socket] = []
        super().__init__(*arguments)

    def get_request(self) -> tuple[socket.socket, Any]:
        connection, address = super().get_request()
        self.connections.append(connection)
        return connection, address

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Ignore clients that hang up, as some tests expect; show any other error."""
        if not isinstance(sys.exception(), OSError):
            super().handle_error(request, client_address)


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    server: _Server

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002  (the name in the base class)
        """Log nothing."""

    def do_GET(self) -> None:
        if self.path.endswith("/models"):
            self._json(200, {"object": "list", "data": [{"id": "loopback", "object": "model"}]})
        else:
            self._json(404, {"error": {"message": f"no {self.path}"}})

    def do_POST(self) -> None:
        loopback = self.server.loopback
        announced = int(self.headers.get("content-length", 0))
        raw = self.rfile.read(announced)
        if len(raw) < announced:
            raise ConnectionResetError("the client hung up before its request was complete")
        body = json.loads(raw)
        headers = {name.lower(): value for name, value in self.headers.items()}
        fault = loopback.take(self.path, headers, body)
        delay = loopback.delay(body) if callable(loopback.delay) else loopback.delay
        if delay and loopback.closing.wait(delay):
            return
        if fault is not None:
            self._fail(fault)
        elif self.path.endswith(("/v1/completions", "/v1/chat/completions")):
            self._json(200, loopback.completion(self.path, body))
        else:
            self._json(404, {"error": {"message": f"no {self.path}"}})

    def _json(self, status: int, value: Any) -> None:
        self._send(status, {"content-type": "application/json"}, json.dumps(value).encode())

    def _send(self, status: int, headers: Mapping[str, str], body: bytes, announced: int | None = None) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("content-length", str(len(body) if announced is None else announced))
        self.end_headers()
        self.wfile.write(body)

    def _fail(self, fault: Fault) -> None:
        body = fault.body
        if body is None:
            body = {"error": {"message": f"fault {fault.status}", "type": "fault", "code": None}}
        if not isinstance(body, str | bytes):
            body = json.dumps(body)
        data = body.encode() if isinstance(body, str) else body
        closing = self.server.loopback.closing
        if fault.how == "send":
            self._send(fault.status, fault.headers, data)
            return
        self.close_connection = True
        if fault.how == "half":
            self._send(fault.status, fault.headers, data[: len(data) // 2], announced=len(data))
        elif fault.how == "hang":
            closing.wait()
        elif fault.how == "trickle":
            self._send(fault.status, fault.headers, b"", announced=10_000_000)
            while not closing.wait(0.01):
                self.wfile.write(b" ")
        elif fault.how == "reset":  # closing with a linger of 0 seconds sends RST, not FIN
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            self.connection.close()


def main() -> None:
    """Serve until standard input ends."""
    parser = argparse.ArgumentParser(description="An OpenAI-compatible server on loopback for tests.")
    parser.add_argument("--answer", default="tests.scripted:reply", help="module:function of the request's body")
    parser.add_argument("--delay", type=float, default=0.0, help="seconds before each answer")
    parser.add_argument("--port", type=int, default=0, help="0 for any free one")
    arguments = parser.parse_args()
    module, _, name = arguments.answer.partition(":")
    answer = getattr(importlib.import_module(module), name)
    with Loopback(answer, delay=arguments.delay, port=arguments.port) as server:
        print(server.url, flush=True)
        sys.stdin.read()


if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
    # An answer function returns the `Reply` of the imported module, so that module must serve it.
    importlib.import_module("tests.loopback").main()
