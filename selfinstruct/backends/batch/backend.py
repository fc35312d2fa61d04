"""OpenAI's Batch API, at half the price and within a day; also other servers that implement it.

Requests that can be asked before the next answer are submitted together: a file of requests is uploaded, a batch is
created from it, its status is polled, and its files of results are read when it has ended. Each ``complete`` waits for
the line of its request. A batch continues at the server regardless of this process, so it is recorded in the journal
before and after it is created.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Coroutine, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from selfinstruct.backends.base import (
    AdaptiveBackend,
    BackendObserver,
    BackendSpec,
    BatchBackend,
    StatusCallback,
    StillPendingError,
)
from selfinstruct.backends.batch.client import BatchApi, RefusedError
from selfinstruct.backends.batch.journal import BatchJournal, BatchRecord, custom_id, input_line, is_valid_id
from selfinstruct.backends.batch.options import OpenAIBatchOptions
from selfinstruct.backends.batch.refusals import LineError, error_text, line_errors, listed_errors, refusal_message
from selfinstruct.backends.openai.backend import OPENAI, openai_capabilities
from selfinstruct.backends.openai.dialect import Demand, Dialect
from selfinstruct.backends.openai.discovery import MAX_ROUNDS, Refusal
from selfinstruct.backends.openai.findings import Findings
from selfinstruct.backends.openai.server import Server
from selfinstruct.errors import BackendError, RequestError, SelfInstructError, TransientError
from selfinstruct.records import Completion, Request

__all__ = ["OPENAI_BATCH", "OpenAIBatchBackend", "OpenAIBatchOptions"]

_Answer = Completion | Exception | Refusal

_ENDED = frozenset({"completed", "expired", "cancelled"})
_MAX_INPUT = 190_000_000  # bytes of a batch's input file; OpenAI's limit is 200 MB


@dataclass(slots=True)
class _Pending:
    """A request that awaits an answer.

    Attributes:
        awaited: Whether a call of ``complete`` waits for it now.
        submitted: Whether the server holds it.
        dialect: The dialect in which it is asked.
        line, endpoint: Its line in the input file, and the endpoint it is for.
    """

    request: Request
    answer: asyncio.Future[_Answer]
    awaited: bool = False
    submitted: bool = False
    dialect: Dialect = field(default_factory=Dialect)
    line: bytes = b""
    endpoint: str = ""


class OpenAIBatchBackend(BatchBackend, AdaptiveBackend):
    """The openai-batch backend.

    A request passes two steps before it is submitted: ``wait_for_batch`` holds it back until no other request can join,
    then the engine commits its send and calls ``complete``, which queues it. Once all active requests are held back or
    queued, the queue becomes a batch.
    """

    def __init__(self, options: OpenAIBatchOptions) -> None:
        self._options = options
        self._server = Server(options, options.addresses[0])
        self._pending: dict[str, _Pending] = {}  # by custom id
        self._held_back: list[asyncio.Future[None]] = []  # calls of wait_for_batch
        self._queue: list[str] = []  # custom ids whose sends are committed
        self._waiting = 0  # calls that wait in wait_for_batch or complete
        self._active = 1 << 30  # requests that are waiting or about to wait; unknown at first
        self._tasks: set[asyncio.Task[None]] = set()
        self._enlarged: Callable[[Request], Request] = lambda request: request
        self._observe: Callable[[Request, Completion], None] = lambda *_: None

    def use_room(self, enlarged: Callable[[Request], Request], observe: Callable[[Request, Completion], None]) -> None:
        self._enlarged, self._observe = enlarged, observe

    def observe(self, observer: BackendObserver) -> None:
        Findings([self._server.discovery], self._options.model or "", observer)

    def open_journal(self, folder: Path, on_status: StatusCallback) -> None:
        self._journal = BatchJournal.read(folder)
        self._api = BatchApi(self._server, self._journal, self._options.poll_s, on_status)

    async def start(self) -> None:
        """Check the options, the key, and that the server has a Batch API.

        Raises:
            ConfigError: As for ``openai``.
            BackendError: The server can't be reached, refuses the key, or has no Batch API.
        """
        await self._server.start()
        await self._api.check()

    async def resume(self, requests: Iterable[Request]) -> set[int]:
        by_name = {custom_id(request, self._server.body(request)): request for request in requests}
        journal, at_server = self._journal, set[int]()
        journal.keep_only(by_name)
        ids = await self._api.find_batches([batch.mark for batch in journal.batches if batch.state == "asked"])
        for batch in journal.batches:
            if batch.state == "asked":
                batch.id = ids.get(batch.mark, "")
                batch.state = "there" if batch.id else "lost"
        journal.keep_only(name for batch in journal.batches if batch.state != "lost" for name in batch.requests)
        if journal.path.exists() or journal.batches:
            journal.write()
        for batch in journal.batches:
            at_server |= {by_name[name].number for name in batch.requests}
            if batch.state != "void":
                for name in batch.requests:
                    dialect = self._server.discovery.dialect
                    self._pending[name] = _Pending(by_name[name], self._future(), submitted=True, dialect=dialect)
                self._spawn(self._guarded(batch, self._follow(batch, list(batch.requests))))
        return at_server

    async def wait_for_batch(self, request: Request) -> None:  # noqa: ARG002  (all requests wait for the same event)
        ready: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._held_back.append(ready)
        self._waiting += 1
        self._submit_if_complete()
        try:
            await ready
        finally:
            if ready.cancelled():
                self._waiting -= 1

    def active_count_changed(self, count: int) -> None:
        self._active = count
        self._submit_if_complete()

    async def complete(self, request: Request) -> Completion:
        """Wait for a request's answer, which may take a day; see ``Backend.complete`` for the errors.

        A request that the server refuses because of a parameter becomes part of another batch, without that parameter.

        Raises:
            StillPendingError: After ``detach``, once the server has the request.
        """
        name = custom_id(request, self._server.body(request))
        for _ in range(MAX_ROUNDS):
            answer = await self._answer(request, name)
            if isinstance(answer, StillPendingError):
                raise answer
            self._pending.pop(name, None)
            if isinstance(answer, Exception):
                raise answer
            if isinstance(answer, Completion):
                self._observe(request, answer)
                return answer
            if self._api.detached.is_set():  # the next invocation reads the refusal again
                raise StillPendingError
            failure = answer.error
        raise failure

    async def _answer(self, request: Request, name: str) -> _Answer:
        """Queue a request unless the server has it, and wait for its answer."""
        pending = self._pending.get(name)
        if pending is None:
            endpoint = "/completions" if request.is_raw else "/chat/completions"
            dialect = self._server.discovery.dialect
            line = input_line(name, endpoint, dialect.apply(self._server.body(self._enlarged(request))))
            pending = _Pending(request, self._future(), dialect=dialect, line=line, endpoint=endpoint)
            self._pending[name] = pending
            self._queue.append(name)
        elif pending.submitted and self._api.detached.is_set():
            self._settle(pending, StillPendingError())
        if not pending.answer.done():
            pending.awaited = True
            self._waiting += 1
            self._submit_if_complete()
        try:
            return await asyncio.shield(pending.answer)
        finally:
            if not pending.answer.done():
                pending.awaited = False
                self._waiting -= 1

    def detach(self) -> None:
        self._api.detached.set()
        for pending in self._pending.values():
            if pending.submitted:
                self._settle(pending, StillPendingError())

    async def close(self) -> None:
        """Close the connections; the batches continue at the server."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._server.close()

    def _future(self) -> asyncio.Future[_Answer]:
        return asyncio.get_running_loop().create_future()

    def _settle(self, pending: _Pending, answer: _Answer) -> None:
        if not pending.answer.done():
            self._waiting -= pending.awaited
            pending.answer.set_result(answer)

    def _submit_if_complete(self) -> None:
        """Release the requests held back once no other can join; submit the queue if none is held back."""
        if self._waiting < self._active:
            return
        held_back, self._held_back = [ready for ready in self._held_back if not ready.done()], []
        if held_back:
            self._waiting -= len(held_back)
            for ready in held_back:
                ready.set_result(None)
        elif self._queue:
            names, self._queue = sorted(self._queue, key=lambda name: self._pending[name].request.number), []
            for part in self._divide(names):
                self._spawn(self._run_batch(part))

    def _divide(self, names: Iterable[str]) -> Iterator[list[str]]:
        """Divide requests into batches of one endpoint each, within the size limits."""
        by_endpoint: dict[str, list[str]] = {}
        for name in names:
            by_endpoint.setdefault(self._pending[name].endpoint, []).append(name)
        for group in by_endpoint.values():
            part: list[str] = []
            size = 0
            for name in group:
                length = len(self._pending[name].line)
                if part and (len(part) == self._options.batch_size or size + length > _MAX_INPUT):
                    yield part
                    part, size = [], 0
                part.append(name)
                size += length
            yield part

    def _spawn(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _run_batch(self, names: list[str]) -> None:
        """Run one batch, from its input file to its answers."""
        try:
            batch = self._journal.begin(names)
        except SelfInstructError as error:
            self._fail(names, error)
            return
        await self._guarded(batch, self._create_and_follow(batch, names))

    async def _guarded(self, batch: BatchRecord, work: Coroutine[Any, Any, None]) -> None:
        """Await ``work``; any error becomes the answer to all requests of the batch."""
        names = list(batch.requests)
        try:
            await work
        except Exception as error:
            self._fail(names, error)

    def _fail(self, names: Iterable[str], error: Exception) -> None:
        for name in names:
            if name in self._pending:
                self._settle(self._pending[name], error)

    async def _create_and_follow(self, batch: BatchRecord, names: list[str]) -> None:
        endpoint = self._pending[names[0]].endpoint
        content = b"".join(self._pending[name].line for name in names)
        file = await self._api.upload(content)
        self._journal.set_state(batch, "asked")
        try:
            batch.id = await self._api.create(batch, file, endpoint)
        except RefusedError as error:
            self._journal.set_state(batch, "void")
            self._adapt(names, [(names[0], error.status, error.body)] if error.status else [], error)
            return
        self._journal.set_state(batch, "there")
        for name in names:
            pending = self._pending[name]
            pending.submitted, pending.line = True, b""
            if self._api.detached.is_set():
                self._settle(pending, StillPendingError())
        await self._follow(batch, names)

    async def _follow(self, batch: BatchRecord, names: list[str]) -> None:
        """Poll a batch's status until it has ended, then deliver its answers."""
        while not self._api.detached.is_set():
            state = await self._api.state(batch)
            status = state.get("status")
            if status == "failed":
                self._journal.set_state(batch, "void")
                text = refusal_message(batch.id, state, self._options.concurrency, self._server.hide)
                self._adapt(names, await self._errors(names, state), BackendError(text))
                return
            self._api.report(f"batch {batch.id}: {_done_count(state)} of {len(names)} done")
            if status in _ENDED:
                await self._collect(batch, names, state)
                return
            await self._api.pause(self._options.poll_s)

    async def _errors(self, names: list[str], state: Mapping[str, Any]) -> list[LineError]:
        """Return the errors of a refused batch: the ones that it lists, and the lines of its error file."""
        errors = list(listed_errors(names, state))
        if is_valid_id(file := state.get("error_file_id")):
            wanted = set(names)
            await self._api.results(file, lambda line: errors.extend(line_errors(wanted, line)))
        return errors

    def _adapt(self, names: list[str], errors: Iterable[LineError], failure: BackendError) -> None:
        """Have the requests of a refused batch submitted again as its errors demand.

        Raises:
            BackendError: ``failure``, if no error names a parameter that can be left out or renamed.
        """
        refused: set[str] = set()
        for name, status, body in errors:
            pending = self._pending[name]
            sent = pending.dialect.apply(self._server.body(pending.request))
            try:
                answer = self._server.read(pending.request, sent, status, {}, body)
            except SelfInstructError:
                continue
            if isinstance(answer, Refusal):
                refused |= answer.demand.refused
        if not refused:
            raise failure
        demand = Demand(frozenset(refused))
        self._server.discovery.adapt(demand)
        for name in names:
            self._settle(self._pending[name], Refusal(demand, failure))

    async def _collect(self, batch: BatchRecord, names: list[str], state: Mapping[str, Any]) -> None:
        lines: dict[str, Mapping[str, Any]] = {}
        expected = set(names)

        def take(line: Mapping[str, Any]) -> None:
            name = line.get("custom_id")
            if isinstance(name, str) and name in expected:
                lines.setdefault(name, line)

        for file in (state.get("output_file_id"), state.get("error_file_id")):
            if is_valid_id(file):
                await self._api.results(file, take)
        again = batch.state == "collected"
        label = f"batch {batch.id} ({state['status']})"
        answers = {name: self._read(name, lines.get(name), label, again=again) for name in names}
        self._journal.set_state(batch, "collected")
        for name in names:
            self._settle(self._pending[name], answers[name])

    def _read(self, name: str, line: Mapping[str, Any] | None, label: str, *, again: bool) -> _Answer:
        """Return the answer in a line of results.

        Args:
            label: The batch, for messages.
            again: Whether it was delivered before; a fault of the account may have been corrected since.
        """
        if line is None:
            return TransientError(f"{label} has no answer to it")
        response, error = line.get("response"), line.get("error")
        code = response.get("status_code") if isinstance(response, Mapping) else None
        if not isinstance(response, Mapping) or not isinstance(code, int):
            message = error_text(error, self._server.hide) if isinstance(error, Mapping) else "no answer"
            return TransientError(self._server.hide(f"{label}: {message}"))
        body = json.dumps(response.get("body")).encode()
        pending, discovery = self._pending[name], self._server.discovery
        sent = pending.dialect.apply(self._server.body(pending.request))
        try:
            answer = self._server.read(pending.request, sent, code, {}, body)
        except RequestError as failure:
            return TransientError(str(failure)) if again and not failure.certain else failure
        except BackendError as failure:
            # A wait that the server asked for has passed since. The copy also drops ``throttled``: one line of a
            # batch must not slow the others down.
            if again:
                return TransientError(str(failure))
            return (
                TransientError(str(failure)).with_facts_of(failure) if isinstance(failure, TransientError) else failure
            )
        if isinstance(answer, Refusal):
            discovery.adapt(answer.demand)
        else:
            discovery.answered(answer, pending.dialect)
        return answer


def _done_count(state: Mapping[str, Any]) -> int:
    counts = state.get("request_counts")
    values = [counts.get(name) for name in ("completed", "failed")] if isinstance(counts, Mapping) else []
    return sum(value for value in values if isinstance(value, int))


OPENAI_BATCH = BackendSpec(
    name="openai-batch",
    options=OpenAIBatchOptions,
    open=lambda options, _: OpenAIBatchBackend(options),
    capabilities=openai_capabilities,
    default_lag=2048,  # the concurrency: no more requests than the lag can be in batches at once
    # A submitted request is found again by the body that it was sent with.
    free_options=OPENAI.free_options - {"thinking", "reasoning_effort"} | {"batch_size", "poll_s"},
    discovered_options=frozenset({"refused"}),
)
