"""The calls of a server's Batch API, each repeated while its failure may pass.

The server keeps working on a batch regardless of any call. A lost connection or a 503 therefore never fails a request:
the call is repeated, and the user is informed.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Literal, TypeVar

from selfinstruct.backends.base import StatusCallback
from selfinstruct.backends.batch.journal import BatchJournal, BatchRecord, ResultLines, is_valid_id
from selfinstruct.backends.openai.server import Server
from selfinstruct.errors import BackendError, TransientError

__all__ = ["BatchApi", "RefusedError"]

T = TypeVar("T")

_START_ATTEMPTS = 5  # a wrong address must be reported soon,
_OUTAGE_S = 3600.0  # while a server that fails later gets an hour to recover
_PAGE = 100  # batches per page of the list
_MAX_PAGES = 100
_FILE = ("requests.jsonl", "application/jsonl")
_RUN, _MARK = "selfinstruct_run", "selfinstruct_batch"  # keys of a batch's metadata


class RefusedError(BackendError):
    """The server refused the call and did nothing.

    Attributes:
        status, body: The server's answer; 0 if it does not know the path.
    """

    def __init__(self, message: str, status: int = 0, body: bytes = b"") -> None:
        super().__init__(message)
        self.status = status
        self.body = body


class BatchApi:
    """The calls of a Batch API.

    Args:
        server: The server that receives the calls.
        journal: The journal of the run.
        poll_s: Longest wait between two attempts at a call, unless the server asks for a longer one.
        on_status: Receives progress and retries.

    Attributes:
        detached: Set once nobody waits any more; no call is repeated and no pause is made from then on.
    """

    def __init__(self, server: Server, journal: BatchJournal, poll_s: float, on_status: StatusCallback) -> None:
        self.detached = asyncio.Event()
        self._server = server
        self._journal = journal
        self._poll_s = poll_s
        self._on_status = on_status

    async def check(self) -> None:
        """Check that the server is reachable, accepts the key and has a Batch API.

        Raises:
            BackendError: One of these fails.
        """
        await self._list({"limit": 1}, attempts=_START_ATTEMPTS)

    async def upload(self, content: bytes) -> str:
        """Upload a file of requests and return its id."""
        upload = {
            "body": {"purpose": "batch"},
            "files": [("file", (_FILE[0], content, _FILE[1]))],
            "options": {"headers": {"Content-Type": "multipart/form-data"}},
        }
        return self._id(await self._repeat(lambda _: self._call("post", "/files", **upload)))

    async def create(self, batch: BatchRecord, file: str, endpoint: str) -> str:
        """Create the batch of an uploaded file, exactly once, and return its id.

        Raises:
            RefusedError: The server refuses to create it.
            BackendError: It is not known whether it was created.
        """
        body = {
            "input_file_id": file,
            "endpoint": f"/v1{endpoint}",
            "completion_window": "24h",
            "metadata": {_RUN: self._journal.run, _MARK: batch.mark},
        }

        async def attempt(previous: int) -> str:
            # The batch may exist although the answer to the first call was lost.
            if previous and (existing := await self._look_up(batch.mark)):
                return existing
            return self._id(await self._call("post", "/batches", body=body))

        return await self._repeat(attempt)

    async def _look_up(self, mark: str) -> str:
        try:
            return (await self.find_batches([mark])).get(mark, "")
        except RefusedError as error:  # the list was refused; the batch may exist
            problem = str(error)
        raise BackendError(problem)

    async def state(self, batch: BatchRecord) -> Mapping[str, Any]:
        """Return the batch as the server describes it."""
        return await self._repeat(lambda _: self._call("get", f"/batches/{batch.id}"))

    async def results(self, file: str, take: Callable[[Mapping[str, Any]], None]) -> None:
        """Pass each line of a file of results to ``take``; start over if the connection is lost."""
        await self._repeat(lambda _: self._download(file, take))

    async def _download(self, file: str, take: Callable[[Mapping[str, Any]], None]) -> None:
        lines = ResultLines(take)
        status, headers, body = await self._server.call("get", f"/files/{file}/content", lines.feed)
        if status == 200:
            lines.end()
        elif status != 404:  # files expire after 30 days. The batch itself is visible, so the key is right.
            failure = self._server.refusal(status, headers, body)
            raise failure if isinstance(failure, TransientError) else RefusedError(str(failure))

    async def find_batches(self, marks: list[str]) -> dict[str, str]:
        """Return the server's ids of those batches in ``marks`` that exist, by mark.

        Raises:
            BackendError: Waiting was stopped before the result was certain.
        """
        ids: dict[str, str] = {}
        for last in (False, True) if marks else ():
            ids = await self._search(marks)
            if len(ids) == len(marks) or last:
                break
            await self.pause(self._poll_s)  # a batch created a moment ago may not be listed yet
            if self.detached.is_set():
                raise BackendError(
                    "stopped before it was certain which batches the server has: run the same command again"
                )
        return ids

    async def _search(self, marks: list[str]) -> dict[str, str]:
        """Search the server's list for our batches with these marks."""
        ids: dict[str, str] = {}
        params: dict[str, Any] = {"limit": _PAGE}
        for _ in range(_MAX_PAGES):
            page = await self._list(params)
            data = page.get("data")
            batches = [batch for batch in data if isinstance(batch, Mapping)] if isinstance(data, list) else []
            for batch in batches:
                metadata = batch.get("metadata")
                if isinstance(metadata, Mapping) and metadata.get(_RUN) == self._journal.run:
                    ids[str(metadata.get(_MARK))] = self._id(batch)
            if ids.keys() >= set(marks) or not batches or not page.get("has_more"):
                break
            params["after"] = self._id(batches[-1])
        return {mark: ids[mark] for mark in marks if mark in ids}

    async def _list(self, params: Mapping[str, Any], attempts: int | None = None) -> Mapping[str, Any]:
        options = {"params": dict(params)}
        return await self._repeat(lambda _: self._call("get", "/batches", options=options), attempts)

    async def _repeat(self, attempt: Callable[[int], Awaitable[T]], attempts: int | None = None) -> T:
        """Return the result of ``attempt``, repeated while its failure may pass.

        Args:
            attempt: Receives the number of previous attempts.
            attempts: Most attempts; None repeats for an hour.

        Raises:
            BackendError: The last attempt failed too.
        """
        clock = asyncio.get_running_loop().time
        first_failure, count = 0.0, 0
        while True:
            try:
                return await attempt(count)
            except TransientError as error:
                failure = error
            first_failure, count = first_failure or clock(), count + 1
            wait = min(self._poll_s, 0.5 * 2.0 ** min(count, 10))
            if failure.retry_after is not None:
                wait = max(wait, failure.retry_after)
            exhausted = count >= attempts if attempts is not None else clock() + wait - first_failure > _OUTAGE_S
            if exhausted or self.detached.is_set():
                break
            self.report(f"{failure}; asking again in {wait:.0f} s")
            await self.pause(wait)
        advice = ". The server keeps working on its batches: run the same command again to collect them"
        raise BackendError(f"{failure}{advice if self._journal.batches else ''}")

    async def _call(self, method: Literal["get", "post"], path: str, **arguments: Any) -> Mapping[str, Any]:
        """Call once and return the JSON object in the answer.

        Raises:
            TransientError: Another attempt may succeed.
            BackendError: No further attempt will succeed.
        """
        status, headers, body = await self._server.call(method, path, **arguments)
        if status != 200:
            failure = self._server.refusal(status, headers, body)
            if status in (404, 405):
                raise RefusedError(f"{failure}. {self._advice(path)}")
            # An error of the whole batch, since no single request can be at fault.
            raise failure if isinstance(failure, TransientError) else RefusedError(str(failure), status, body)
        with contextlib.suppress(ValueError, RecursionError):
            if isinstance(value := json.loads(body), Mapping):
                return value
        raise TransientError(f"the server's answer to {method.upper()} {path} is not a JSON object")

    def _advice(self, path: str) -> str:
        """Return what to do if the server does not know the path."""
        if path.startswith("/batches/"):
            return (
                f"The batch was created with another key, or is gone: set that key, or remove {self._journal.path} to "
                "send all unanswered requests again"
            )
        return "If it has no Batch API, use --backend openai"

    def _id(self, value: Mapping[str, Any]) -> str:
        """Return the id in an answer. An id that contains the key is invalid, since ids are written to disk."""
        name = value.get("id")
        if not is_valid_id(name) or self._server.hide(str(name)) != name:
            raise TransientError("the server's answer contains no valid id")
        return name

    def report(self, text: str) -> None:
        """Show a line to the user, without the key."""
        self._on_status(self._server.hide(text))

    async def pause(self, seconds: float) -> None:
        """Wait for some seconds, or until ``detached`` is set."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self.detached.wait()
