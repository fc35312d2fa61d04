"""A real HTTP server on loopback with OpenAI's files and batches, in addition to the endpoints of ``Loopback``.

It executes a batch when the batch ends, and counts the executed requests. The test decides the outcome of each batch
and line. Batches are numbered from 1 in order of arrival, and end after a number of status queries.
"""

from __future__ import annotations

import json
import re
import threading
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import parse_qs, urlsplit

from tests.loopback import Answer, Body, Fault, Loopback, _Handler


@dataclass
class ServerBatch:
    """A batch at the server."""

    number: int
    lines: list[dict[str, Any]]
    shown: dict[str, Any]
    looks: int = 0
    raw: bytes = b""

    @property
    def names(self) -> list[str]:
        return [line["custom_id"] for line in self.lines]


@dataclass
class Script:
    """The behaviour of the server.

    Attributes:
        looks: Maps a batch's number to the status queries after which it ends.
        ending: Maps a batch's number to its final status, or to the errors with which it fails.
        line: Maps a batch's number and a request's body to None for the regular answer, to a status and body, to the
            code of an error line, or to ``missing``.
        output: Changes the lines of a file of results before it is stored.
        fault: Maps method, path and number of the call to a fault that replaces the answer.
        created: Called with a batch's number after its creation and before the response.
        hold: Batches end only while it is set.
        key: The only accepted key; "" accepts any.
    """

    looks: Callable[[int], int] = lambda number: 1
    ending: Callable[[int], str | list[dict[str, Any]]] = lambda number: "completed"
    line: Callable[[int, Body], Any] = lambda number, body: None
    output: Callable[[int, list[bytes]], list[bytes]] = lambda number, lines: lines
    fault: Callable[[str, str, int], Fault | None] = lambda method, path, times: None
    created: Callable[[int], None] = lambda number: None
    hold: threading.Event = field(default_factory=threading.Event)
    key: str = ""

    def __post_init__(self) -> None:
        self.hold.set()


class Batches(Loopback):
    """The server, running while its context is open.

    Attributes:
        batches: All batches in order of arrival, including refused ones.
        executed: Number of executions by custom id.
        calls: Every call in the form ``"GET /batches/batch_1"``.
    """

    def __init__(self, answer: Answer, script: Script | None = None) -> None:
        super().__init__(answer)
        self._server.RequestHandlerClass = _BatchHandler
        self.script = script or Script()
        self.files: dict[str, bytes] = {}
        self.batches: list[ServerBatch] = []
        self.executed: Counter[str] = Counter()
        self.calls: list[str] = []
        self.lock = threading.RLock()

    def upload(self, raw: bytes, kind: str) -> Body:
        """Store the file in the body of a multipart request, and return its description."""
        boundary = re.search('boundary="?([^";]+)', kind)[1].encode()
        fields = {}
        for part in raw.split(b"--" + boundary)[1:-1]:
            head, _, content = part.strip(b"\r\n").partition(b"\r\n\r\n")
            fields[re.search(rb'name="(\w+)"', head)[1].decode()] = content
        assert fields["purpose"] == b"batch"
        return {"id": self.keep(fields["file"] + b"\n"), "object": "file", "purpose": "batch"}

    def keep(self, content: bytes) -> str:
        name = f"file-{len(self.files) + 1}"
        self.files[name] = content
        return name

    def make(self, body: Body) -> ServerBatch:
        assert body["completion_window"] == "24h"
        raw = self.files[body["input_file_id"]]
        lines = [json.loads(line) for line in raw.splitlines() if line.strip()]
        assert lines
        assert {(line["method"], line["url"]) for line in lines} == {("POST", body["endpoint"])}
        assert len({line["custom_id"] for line in lines}) == len(lines)
        number = len(self.batches) + 1
        shown = {"id": f"batch_{number}", "object": "batch", "status": "validating", "metadata": body["metadata"],
                 "endpoint": body["endpoint"], "input_file_id": body["input_file_id"]}  # fmt: skip
        self.batches.append(ServerBatch(number, lines, shown, raw=raw))
        return self.batches[-1]

    def look(self, batch: ServerBatch) -> Body:
        batch.looks += 1
        if batch.shown["status"] in ("validating", "in_progress"):
            if batch.looks >= self.script.looks(batch.number) and self.script.hold.is_set():
                self.end(batch)
            else:
                batch.shown["status"] = "in_progress"
        return batch.shown

    def end(self, batch: ServerBatch) -> None:
        ending = self.script.ending(batch.number)
        if not isinstance(ending, str):
            batch.shown |= {"status": "failed", "errors": {"object": "list", "data": ending}}
            return
        outputs: list[bytes] = []
        errors: list[bytes] = []
        for line in batch.lines:
            name, outcome = line["custom_id"], self.script.line(batch.number, line["body"])
            if outcome == "missing":
                continue
            if isinstance(outcome, str):
                value = {"response": None, "error": {"code": outcome, "message": "This request could not be executed."}}
            else:
                self.executed[name] += 1
                status, answer = outcome or (200, self.completion(line["url"], line["body"]))
                value = {"response": {"status_code": status, "request_id": "r", "body": answer}, "error": None}
            packed = json.dumps({"id": f"batch_req_{name}", "custom_id": name, **value}).encode()
            (errors if outcome else outputs).append(packed)
        for key, lines in (("output_file_id", outputs), ("error_file_id", errors)):
            if lines:
                batch.shown[key] = self.keep(b"\n".join(self.script.output(batch.number, lines)) + b"\n")
        batch.shown["status"] = ending
        batch.shown["request_counts"] = {"total": len(batch.lines), "completed": len(outputs), "failed": len(errors)}

    def list(self, query: dict[str, list[str]]) -> Body:
        newest = [batch.shown for batch in reversed(self.batches)]
        if "after" in query:
            newest = newest[[shown["id"] for shown in newest].index(query["after"][0]) + 1 :]
        limit = int(query.get("limit", ["20"])[0])
        return {"object": "list", "data": newest[:limit], "has_more": len(newest) > limit}


class _BatchHandler(_Handler):
    def do_GET(self) -> None:  # noqa: N802  (the name in the base class)
        self._meet("GET", b"")

    def do_POST(self) -> None:  # noqa: N802  (the name in the base class)
        raw = self.rfile.read(int(self.headers.get("content-length", 0)))
        if self.path.endswith("/completions"):
            loopback: Batches = self.server.loopback
            loopback.calls.append(f"POST {self.path}")
            self._json(200, loopback.completion(self.path, json.loads(raw)))
        else:
            self._meet("POST", raw)

    def _meet(self, method: str, raw: bytes) -> None:
        server: Batches = self.server.loopback
        parts = urlsplit(self.path)
        path = parts.path.removeprefix("/v1")
        with server.lock:
            server.calls.append(f"{method} {path}")
            times = server.calls.count(f"{method} {path}")
        key = server.script.key
        if key and self.headers.get("authorization") != f"Bearer {key}":
            self._json(401, {"error": {"message": "Incorrect API key provided", "code": "invalid_api_key"}})
            return
        fault = server.script.fault(method, path, times)
        if fault and fault.how != "half":
            if (method, path) == ("POST", "/batches") and fault.status == 504:  # created, but the response is lost
                server.make(json.loads(raw))
            self._fail(fault)
            return
        with server.lock:
            status, value = self._answer(server, method, path, parse_qs(parts.query), raw)
        if isinstance(value, bytes):
            if fault:
                self.close_connection = True
                self._send(status, {}, value[: len(value) // 2], announced=len(value))
            else:
                self._send(status, {"content-type": "application/octet-stream"}, value)
        else:
            self._json(status, value)

    def _answer(self, server: Batches, method: str, path: str, query: Any, raw: bytes) -> tuple[int, Any]:
        if (method, path) == ("POST", "/files"):
            return 200, server.upload(raw, self.headers["content-type"])
        if (method, path) == ("POST", "/batches"):
            batch = server.make(json.loads(raw))
            server.script.created(batch.number)
            return 200, batch.shown
        if (method, path) == ("GET", "/batches"):
            return 200, server.list(query)
        _, kind, name, *_ = [*path.split("/"), ""]
        for batch in server.batches:
            if kind == "batches" and name == batch.shown["id"]:
                return 200, server.look(batch)
        if kind == "files" and path.endswith("/content") and name in server.files:
            return 200, server.files[name]
        return 404, {"error": {"message": f"no {path}"}}
