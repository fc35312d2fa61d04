"""A server's Batch API: its calls, each repeated while time may heal what ails the server.

The server goes on with what it was given whatever becomes of a call. So nothing here fails a request for a connection
that is lost or a 503: it asks again, and says so.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, TypeVar

from selfinstruct.backends.batch.journal import BatchJournal, BatchRecord, Lines, is_name
from selfinstruct.backends.openai.server import Server
from selfinstruct.errors import BackendError, SelfInstructError, TransientError

__all__ = ["BatchApi", "RefusedError"]

T = TypeVar("T")

_START_ATTEMPTS = 5  # a wrong address shall be known at once,
_OUTAGE_S = 3600.0  # but a server that fails later may take its time
_PAGE = 100  # batches of one answer, when all are listed
_MOST_PAGES = 100
_FILE = ("requests.jsonl", "application/jsonl")
_RUN, _MARK = "selfinstruct_run", "selfinstruct_batch"  # keys of a batch's metadata


class RefusedError(BackendError):
    """The server said no: what it was asked to do, it has not done."""


class BatchApi:
    """The calls.

    Args:
        server: What speaks HTTP.
        notes: Of the run.
        poll_s: Longest wait between two attempts at a call, unless the server asks for a longer one.
        tell: Takes what is worth showing.

    Attributes:
        leaving: Set once nobody waits any more: then no call is repeated, and no pause is made.
    """

    def __init__(self, server: Server, notes: BatchJournal, poll_s: float, tell: Callable[[str], None]) -> None:
        self.leaving = asyncio.Event()
        self._server = server
        self._notes = notes
        self._poll_s = poll_s
        self._show = tell

    async def check(self) -> None:
        """See whether the server is there, takes the key and has a Batch API.

        Raises:
            BackendError: It isn't, doesn't or hasn't.
        """
        await self._list({"limit": 1}, attempts=_START_ATTEMPTS)

    async def upload(self, content: bytes) -> str:
        """The id of a new file of requests."""
        upload = {
            "body": {"purpose": "batch"},
            "files": [("file", (_FILE[0], content, _FILE[1]))],
            "options": {"headers": {"Content-Type": "multipart/form-data"}},
        }
        return self._id(await self._patiently(lambda _: self._once("post", "/files", **upload)))

    async def make(self, batch: BatchRecord, file: str, endpoint: str) -> str:
        """The id of the batch of that file, made once.

        Raises:
            RefusedError: The server does not make it.
            BackendError: Nobody knows whether it did.
        """
        wanted = {
            "input_file_id": file,
            "endpoint": f"/v1{endpoint}",
            "completion_window": "24h",
            "metadata": {_RUN: self._notes.run, _MARK: batch.mark},
        }

        async def attempt(tried: int) -> str:
            # An answer that never came does not mean that nothing was made.
            if tried and (found := await self._look_again(batch.mark)):
                return found
            return self._id(await self._once("post", "/batches", body=wanted))

        return await self._patiently(attempt)

    async def _look_again(self, mark: str) -> str:
        try:
            return (await self.found([mark])).get(mark, "")
        except RefusedError as error:  # of the list; the batch may be there
            problem = str(error)
        raise BackendError(problem)

    async def state(self, batch: BatchRecord) -> Mapping[str, Any]:
        """The batch as the server sees it."""
        return await self._patiently(lambda _: self._once("get", f"/batches/{batch.id}"))

    async def results(self, file: str, take: Callable[[Mapping[str, Any]], None]) -> None:
        """Give each line of a file of results to ``take``; when the connection is lost, from the first again."""
        await self._patiently(lambda _: self._download(file, take))

    async def _download(self, file: str, take: Callable[[Mapping[str, Any]], None]) -> None:
        lines = Lines(take)
        status, headers, body = await self._server.call("get", f"/files/{file}/content", lines.feed)
        if status == 200:
            lines.end()
        elif status != 404:  # files are kept for 30 days; the batch itself may be seen, so it is not the key
            raise _wrapped(self._server.refusal(status, headers, body))

    async def found(self, marks: list[str]) -> dict[str, str]:
        """Ids of those batches that were made, of which nobody knows whether they were.

        Raises:
            BackendError: It was left before that was certain.
        """
        found: dict[str, str] = {}
        for last in (False, True) if marks else ():
            found = await self._look(marks)
            if len(found) == len(marks) or last:
                break
            await self.pause(self._poll_s)  # one that was made a moment ago may not be listed yet
            if self.leaving.is_set():
                raise BackendError("stopped before it was certain which batches the server has: give the same command")
        return found

    async def _look(self, marks: list[str]) -> dict[str, str]:
        """Ids of our batches with these marks, among all that the server lists."""
        found: dict[str, str] = {}
        params: dict[str, Any] = {"limit": _PAGE}
        for _ in range(_MOST_PAGES):
            page = await self._list(params)
            data = page.get("data")
            listed = [one for one in data if isinstance(one, Mapping)] if isinstance(data, list) else []
            for one in listed:
                metadata = one.get("metadata")
                if isinstance(metadata, Mapping) and metadata.get(_RUN) == self._notes.run:
                    found[str(metadata.get(_MARK))] = self._id(one)
            if found.keys() >= set(marks) or not listed or not page.get("has_more"):
                break
            params["after"] = self._id(listed[-1])
        return {mark: found[mark] for mark in marks if mark in found}

    async def _list(self, params: Mapping[str, Any], attempts: int | None = None) -> Mapping[str, Any]:
        options = {"params": dict(params)}
        return await self._patiently(lambda _: self._once("get", "/batches", options=options), attempts)

    async def _patiently(self, attempt: Callable[[int], Awaitable[T]], most: int | None = None) -> T:
        """What ``attempt`` gives, called again while time may heal what fails it: for an hour, or ``most`` times.

        Args:
            attempt: Is given the number of attempts before it.

        Raises:
            BackendError: It did not.
        """
        clock = asyncio.get_running_loop().time
        first, tried = 0.0, 0
        while True:
            try:
                return await attempt(tried)
            except TransientError as error:
                failure = error
            first, tried = first or clock(), tried + 1
            wait = min(self._poll_s, 0.5 * 2.0 ** min(tried, 10))
            if failure.retry_after is not None:
                wait = max(wait, failure.retry_after)
            out = tried >= most if most is not None else clock() + wait - first > _OUTAGE_S
            if out or self.leaving.is_set():
                break
            self.tell(f"{failure}; asking again in {wait:.0f} s")
            await self.pause(wait)
        goes_on = ". What is in batches goes on at the server: give the same command to collect it"
        raise BackendError(f"{failure}{goes_on if self._notes.batches else ''}")

    async def _once(self, method: str, path: str, **more: Any) -> Mapping[str, Any]:
        """The object that the server answers.

        Raises:
            TransientError: Time may heal it.
            BackendError: It won't.
        """
        status, headers, body = await self._server.call(method, path, **more)
        if status != 200:
            failure = self._server.refusal(status, headers, body)
            if status in (404, 405):
                raise RefusedError(f"{failure}. {self._unknown(path)}")
            raise _wrapped(failure)
        with contextlib.suppress(ValueError, RecursionError):
            if isinstance(found := json.loads(body), Mapping):
                return found
        raise TransientError(f"the server's answer to {method.upper()} {path} is no JSON object")

    def _unknown(self, path: str) -> str:
        if path.startswith("/batches/"):
            return (
                f"The batch was made with another key or is gone: set that key, or remove {self._notes.path} to send "
                "again what has no answer yet"
            )
        return "If it has no Batch API, use --backend openai"

    def _id(self, found: Mapping[str, Any]) -> str:
        """What the server calls it; a name that holds the key is none, for names are noted on disk."""
        name = found.get("id")
        if not is_name(name) or self._server.hide(str(name)) != name:
            raise TransientError("the server's answer names no id")
        return name

    def tell(self, text: str) -> None:
        """Show it, without the key."""
        self._show(self._server.hide(text))

    async def pause(self, seconds: float) -> None:
        """Wait, but not when nobody waits any more."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self.leaving.wait()


def _wrapped(failure: SelfInstructError) -> BackendError:
    """The error as one of the whole batch: a request's fault it can't be."""
    return failure if isinstance(failure, TransientError) else RefusedError(str(failure))
