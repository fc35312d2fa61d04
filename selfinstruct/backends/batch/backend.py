"""OpenAI's Batch API: half the price, within a day. Also of other servers that speak it.

All that can be asked before the next answer goes out together: a file of requests is uploaded, a batch made of it, its
state asked for now and then, and its files of results are read when it has ended. Each ``complete`` waits for its own
line. The batches go on at the server whatever happens here, so they are noted (``batches.py``) before and after they
are made.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Coroutine, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from selfinstruct.backends.base import StillThereError
from selfinstruct.backends.batch.client import BatchApi, RefusedError
from selfinstruct.backends.batch.journal import BatchJournal, BatchRecord, custom_id, input_line, is_name
from selfinstruct.backends.openai.options import OpenAIOptions
from selfinstruct.backends.openai.server import Server
from selfinstruct.errors import BackendError, RequestError, SelfInstructError, TransientError
from selfinstruct.records import Completion, Request

__all__ = ["OpenAIBatchBackend", "OpenAIBatchOptions"]

_Answer = Completion | Exception

_ENDED = frozenset({"completed", "expired", "cancelled"})
_MOST_REQUESTS = 50_000  # of a batch, and
_MOST_INPUT = 190_000_000  # bytes of its file: OpenAI's limits (200 MB)


@dataclass(frozen=True, slots=True)
class OpenAIBatchOptions(OpenAIOptions):
    """Where and what to ask, and how to gather it.

    Attributes:
        base_url, model, api, api_key_env, max_tokens_name, omit, extra_body, schema_field: As for ``openai``.
        timeout_s: Seconds for one call (an upload, a download, a look at a batch), not for a batch.
        concurrency: Requests at the server at once, in all batches together. An account has a limit of enqueued tokens.
        batch_size: Most requests of one batch; more are several batches.
        poll_s: Seconds between two looks at a batch.
    """

    FREE: ClassVar[frozenset[str]] = OpenAIOptions.FREE | {"batch_size", "poll_s"}
    LAG: ClassVar[int] = 2048
    """The run's ``lag``, where none is given: no more requests than that can be in batches at once."""

    concurrency: int = 2048
    batch_size: int = _MOST_REQUESTS
    poll_s: float = 30.0

    def __post_init__(self) -> None:
        OpenAIOptions.__post_init__(self)
        if len(self.addresses) > 1:
            raise ValueError("base_url must be a single address: batches stay at the server that they were given to")
        if not 1 <= self.batch_size <= _MOST_REQUESTS:
            raise ValueError(f"batch_size must be from 1 to {_MOST_REQUESTS:,}")
        if self.poll_s <= 0:
            raise ValueError("poll_s must be above 0")


@dataclass(slots=True)
class _Waiting:
    """A request that somebody waits for.

    Attributes:
        awaited: Somebody is in ``complete`` for it now.
        there: It is in the server's hands.
        line, endpoint: What goes into the file, and where the server shall send it.
    """

    request: Request
    answer: asyncio.Future[_Answer]
    awaited: bool = False
    there: bool = False
    line: bytes = b""
    endpoint: str = ""


class OpenAIBatchBackend:
    """The openai-batch backend; see ``BatchBackend`` for what the engine may expect of it."""

    name: ClassVar[str] = "openai-batch"

    def __init__(self, options: OpenAIBatchOptions) -> None:
        self.concurrency = options.concurrency
        self._options = options
        self._server = Server(options, options.addresses[0])
        self._waiting: dict[str, _Waiting] = {}  # by custom id
        self._doors: list[asyncio.Future[None]] = []  # of those that are gathered
        self._queue: list[str] = []  # of those that commit their sends, then come with them
        self._inside = 0  # how many wait here, at doors and for answers,
        self._all = 1 << 30  # and how many will, before an answer lets others come
        self._tasks: set[asyncio.Task[None]] = set()

    def keep_in(self, folder: Path, tell: Callable[[str], None]) -> None:
        self._notes = BatchJournal.read(folder)
        self._api = BatchApi(self._server, self._notes, self._options.poll_s, tell)

    async def start(self) -> None:
        """Check the options, the key, and that the server has a Batch API.

        Raises:
            ConfigError: As for ``openai``.
            BackendError: The server can't be reached, refuses the key, or knows no batches.
        """
        await self._server.start()
        await self._api.check()

    async def resume(self, requests: Iterable[Request]) -> set[int]:
        names = {custom_id(request, self._server.body(request)): request for request in requests}
        notes, held = self._notes, set()
        notes.drop(names)
        found = await self._api.found([one.mark for one in notes.batches if one.state == "asked"])
        for batch in notes.batches:
            if batch.state == "asked":
                batch.id = found.get(batch.mark, "")
                batch.state = "there" if batch.id else "lost"
        notes.drop(name for one in notes.batches if one.state != "lost" for name in one.requests)
        if notes.path.exists() or notes.batches:
            notes.write()
        for batch in notes.batches:
            held |= {names[name].number for name in batch.requests}
            if batch.state != "void":
                for name in batch.requests:
                    self._waiting[name] = _Waiting(names[name], self._future(), there=True)
                self._go(self._guarded(batch, self._follow(batch, list(batch.requests))))
        return held

    async def gathered(self, request: Request) -> None:  # noqa: ARG002  (all wait at the same gate)
        door: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._doors.append(door)
        self._inside += 1
        self._go_on()
        try:
            await door
        finally:
            if door.cancelled():
                self._inside -= 1

    def under_way(self, count: int) -> None:
        self._all = count
        self._go_on()

    async def complete(self, request: Request) -> Completion:
        """Wait for a request's answer, which may take a day; see ``Backend.complete`` for the errors.

        Raises:
            StillThereError: After ``leave``, once the server has the request.
        """
        body = self._server.body(request)
        name = custom_id(request, body)
        waiting = self._waiting.get(name)
        if waiting is None:
            endpoint = "/completions" if request.is_raw else "/chat/completions"
            waiting = _Waiting(request, self._future(), line=input_line(name, endpoint, body), endpoint=endpoint)
            self._waiting[name] = waiting
            self._queue.append(name)
        elif waiting.there and self._api.leaving.is_set():
            self._settle(waiting, StillThereError())
        if not waiting.answer.done():
            waiting.awaited = True
            self._inside += 1
            self._go_on()
        try:
            answer = await asyncio.shield(waiting.answer)
        finally:
            if not waiting.answer.done():
                waiting.awaited = False
                self._inside -= 1
        if isinstance(answer, StillThereError):
            raise answer
        self._waiting.pop(name, None)
        if isinstance(answer, Exception):
            raise answer
        return answer

    def leave(self) -> None:
        self._api.leaving.set()
        for waiting in self._waiting.values():
            if waiting.there:
                self._settle(waiting, StillThereError())

    async def close(self) -> None:
        """Let go of the connections; the batches go on."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._server.close()

    def _future(self) -> asyncio.Future[_Answer]:
        return asyncio.get_running_loop().create_future()

    def _settle(self, waiting: _Waiting, answer: _Answer) -> None:
        if not waiting.answer.done():
            self._inside -= waiting.awaited
            waiting.answer.set_result(answer)

    def _go_on(self) -> None:
        """When nobody else can come: let those at the doors commit their sends; when they have, send them off."""
        if self._inside < self._all:
            return
        doors, self._doors = [door for door in self._doors if not door.done()], []
        if doors:
            self._inside -= len(doors)
            for door in doors:
                door.set_result(None)
        elif self._queue:
            names, self._queue = sorted(self._queue, key=lambda name: self._waiting[name].request.number), []
            for part in self._parts(names):
                self._go(self._carry(part))

    def _parts(self, names: Iterable[str]) -> Iterator[list[str]]:
        """Batches: one endpoint each, and within the limits."""
        by_endpoint: dict[str, list[str]] = {}
        for name in names:
            by_endpoint.setdefault(self._waiting[name].endpoint, []).append(name)
        for group in by_endpoint.values():
            part: list[str] = []
            size = 0
            for name in group:
                length = len(self._waiting[name].line)
                if part and (len(part) == self._options.batch_size or size + length > _MOST_INPUT):
                    yield part
                    part, size = [], 0
                part.append(name)
                size += length
            yield part

    def _go(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _carry(self, names: list[str]) -> None:
        """One batch, from its file to its answers."""
        try:
            batch = self._notes.begin(names)
        except SelfInstructError as error:
            self._fail(names, error)
            return
        await self._guarded(batch, self._make_and_follow(batch, names))

    async def _guarded(self, batch: BatchRecord, work: Coroutine[Any, Any, None]) -> None:
        """Whatever goes wrong with a batch, its requests are told of it."""
        names = list(batch.requests)
        try:
            await work
        except Exception as error:
            self._fail(names, error)

    def _fail(self, names: Iterable[str], error: Exception) -> None:
        for name in names:
            if name in self._waiting:
                self._settle(self._waiting[name], error)

    async def _make_and_follow(self, batch: BatchRecord, names: list[str]) -> None:
        endpoint = self._waiting[names[0]].endpoint
        content = b"".join(self._waiting[name].line for name in names)
        file = await self._api.upload(content)
        self._notes.put(batch, "asked")
        try:
            batch.id = await self._api.make(batch, file, endpoint)
        except RefusedError:
            self._notes.put(batch, "void")
            raise
        self._notes.put(batch, "there")
        for name in names:
            waiting = self._waiting[name]
            waiting.there, waiting.line = True, b""
            if self._api.leaving.is_set():
                self._settle(waiting, StillThereError())
        await self._follow(batch, names)

    async def _follow(self, batch: BatchRecord, names: list[str]) -> None:
        """Ask for a batch's state until it has ended; then hand on its answers."""
        while not self._api.leaving.is_set():
            found = await self._api.state(batch)
            status = found.get("status")
            if status == "failed":
                self._notes.put(batch, "void")
                raise BackendError(self._server.hide(self._refused(batch, found)))
            self._api.tell(f"batch {batch.id}: {_done(found)} of {len(names)} done")
            if status in _ENDED:
                await self._collect(batch, names, found)
                return
            await self._api.pause(self._options.poll_s)

    async def _collect(self, batch: BatchRecord, names: list[str], found: Mapping[str, Any]) -> None:
        lines: dict[str, Mapping[str, Any]] = {}
        known = set(names)

        def take(line: Mapping[str, Any]) -> None:
            name = line.get("custom_id")
            if isinstance(name, str) and name in known:
                lines.setdefault(name, line)

        for file in (found.get("output_file_id"), found.get("error_file_id")):
            if is_name(file):
                await self._api.results(file, take)
        again = batch.state == "collected"
        what = f"batch {batch.id} ({found['status']})"
        answers = {name: self._read(name, lines.get(name), what, again=again) for name in names}
        self._notes.put(batch, "collected")
        for name in sorted(names, key=lambda name: isinstance(answers[name], Exception)):
            self._settle(self._waiting[name], answers[name])  # completions first: they tell that the server is well

    def _read(self, name: str, line: Mapping[str, Any] | None, what: str, *, again: bool) -> _Answer:
        """The answer in a line of results.

        Args:
            again: It was handed on before: what was the account's fault then may be mended now.
        """
        if line is None:
            return TransientError(f"{what} has no answer to it")
        response, error = line.get("response"), line.get("error")
        code = response.get("status_code") if isinstance(response, Mapping) else None
        if not isinstance(response, Mapping) or not isinstance(code, int):
            words = _words(error, self._server.hide) if isinstance(error, Mapping) else "no answer"
            return TransientError(self._server.hide(f"{what}: {words}"))
        body = json.dumps(response.get("body")).encode()
        try:
            return self._server.read(self._waiting[name].request, code, {}, body)
        except RequestError as found:
            return found
        except BackendError as found:
            # Whatever the server asked to wait, in a batch it has had its time.
            return TransientError(str(found)) if again or isinstance(found, TransientError) else found

    def _refused(self, batch: BatchRecord, found: Mapping[str, Any]) -> str:
        errors = found.get("errors")
        data = errors.get("data") if isinstance(errors, Mapping) else None
        told = [one for one in data if isinstance(one, Mapping)] if isinstance(data, list) else []
        words = "; ".join(_words(one, self._server.hide) for one in told[:3]) or "it does not say why"
        if any(one.get("code") == "token_limit_exceeded" for one in told):
            remedy = (
                f"Wait until the account's other batches are done, or ask for less at once (--concurrency, now "
                f"{self._options.concurrency}), then"
            )
        else:
            remedy = "When that is mended,"
        return f"batch {batch.id} was refused: {words}. {remedy} give the same command to go on"


def _done(found: Mapping[str, Any]) -> int:
    counts = found.get("request_counts")
    values = [counts.get(name) for name in ("completed", "failed")] if isinstance(counts, Mapping) else []
    return sum(value for value in values if isinstance(value, int))


def _words(error: Mapping[str, Any], hide: Callable[[str], str]) -> str:
    """What the server says of an error; a key in it is hidden before the text is cut."""
    words = ": ".join(str(error[name]) for name in ("code", "message") if error.get(name))
    line = f" (line {error['line']})" if error.get("line") else ""
    words = "".join(char if char.isprintable() else " " for char in words)
    return " ".join(hide(words).split())[:300] + line
