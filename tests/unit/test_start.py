"""How an invocation begins and ends by the backend: while it gets ready, and where the server goes on by itself."""

from __future__ import annotations

import asyncio
import socket
import sqlite3
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest

from selfinstruct.backends.base import StillThereError
from selfinstruct.backends.openai.backend import OpenAIBackend, OpenAIOptions
from selfinstruct.engine.dispatch.budget import Budget
from selfinstruct.engine.loop import Engine
from selfinstruct.engine.plan import make_plan
from selfinstruct.engine.progress import RunProgress
from selfinstruct.engine.run_state import RunState
from selfinstruct.errors import BackendError, TransientError
from selfinstruct.ledger import Ledger, Reader
from selfinstruct.records import Completion, Request
from tests.loopback import Loopback
from tests.scripted import reply


class Slow:
    """A backend that never gets ready, or fails to."""

    name = "slow"
    concurrency = 4

    def __init__(self, error: Exception | None = None) -> None:
        self.error = error
        self.begun = asyncio.Event()
        self.given_up = False

    async def start(self) -> None:
        self.begun.set()
        if self.error is not None:
            raise self.error
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            self.given_up = True
            raise

    async def complete(self, request: Request) -> Completion:
        raise AssertionError("nothing may be sent")

    async def close(self) -> None:
        pass


async def go(folder: Path, backend: Slow, *, interrupt: bool) -> str:
    plan = make_plan({"backend": "openai", "openai": {"model": "m"}})
    with Ledger(folder, plan.meta(), plan.texts()) as ledger, Reader(folder) as reader:
        state = RunState.from_ledger(plan, reader)
        parts: Any = (plan, state, ledger, reader, backend, Budget(plan.settings.budget, reader.spending()))
        engine = Engine(*parts, RunProgress(plan.settings.n, state.stats))
        running = asyncio.create_task(engine.run())
        await backend.begun.wait()
        if interrupt:
            engine.interrupt()
        return await running


def test_it_gives_up_the_start_and_sends_nothing(tmp_path: Path) -> None:
    async def main() -> None:
        backend = Slow()
        assert await go(tmp_path, backend, interrupt=True) == "interrupted"
        assert backend.given_up

    asyncio.run(main())


def test_a_start_that_fails_tells_its_own_error(tmp_path: Path) -> None:
    async def main() -> None:
        with pytest.raises(BackendError, match="no memory"):
            await go(tmp_path, Slow(BackendError("no memory")), interrupt=False)

    asyncio.run(main())


class Batches:
    """A server that goes on by itself, for ever; only the first request is sent back."""

    name = "batches"
    concurrency = 8

    def __init__(self) -> None:
        self.left = asyncio.Event()

    async def start(self) -> None:
        pass

    async def close(self) -> None:
        pass

    def keep_in(self, folder: Path, tell: Any) -> None:
        pass

    async def resume(self, requests: Iterable[Request]) -> set[int]:
        return set()

    async def gathered(self, request: Request) -> None:
        pass

    def under_way(self, count: int) -> None:
        pass

    def leave(self) -> None:
        self.left.set()

    async def complete(self, request: Request) -> Completion:
        if request.number == 0:
            raise TransientError("its batch expired")
        await self.left.wait()
        raise StillThereError


def test_a_time_limit_ends_the_wait_for_batches_when_the_budget_allows_no_other_attempt(tmp_path: Path) -> None:
    budget = {"max_requests": 8, "time_limit_s": 0.3}
    plan = make_plan({"backend": "openai", "openai": {"model": "m"}, "budget": budget, "retry": {"base_s": 0.0}})

    async def main() -> tuple[str, int]:
        with Ledger(tmp_path, plan.meta(), plan.texts()) as ledger, Reader(tmp_path) as reader:
            state = RunState.from_ledger(plan, reader)
            parts: Any = (plan, state, ledger, reader, Batches(), Budget(plan.settings.budget, reader.spending()))
            engine = Engine(*parts, RunProgress(plan.settings.n, state.stats))
            async with asyncio.timeout(60):
                return await engine.run(), engine.left

    assert asyncio.run(main()) == ("budget", 7)


class Astray:
    """Two real servers' clients: request 2 finds nobody at its first attempts, all others are answered."""

    name = "openai"
    concurrency = 4

    def __init__(self, url: str, nobody: str, times: int) -> None:
        self.here, self.there = (OpenAIBackend(OpenAIOptions(base_url=one, model="m", api="completion"))
                                 for one in (url, nobody))  # fmt: skip
        self.left = times

    async def start(self) -> None:
        await self.here.start()
        await self.there.start()

    async def close(self) -> None:
        await self.here.close()
        await self.there.close()

    async def complete(self, request: Request) -> Completion:
        if request.number == 2 and self.left:
            self.left -= 1
            return await self.there.complete(request)
        return await self.here.complete(request)


def test_a_request_that_found_no_server_is_sent_once_more_when_others_are_answered(tmp_path: Path) -> None:
    """It is not at fault, whatever its attempts; and a run need not end for it."""
    section = {"model": "m", "api": "completion"}
    plan = make_plan({"strategy": "alpaca", "backend": "openai", "openai": section, "n": 12,
                      "retry": {"base_s": 0.0, "attempts": 3}})  # fmt: skip

    async def main() -> str:
        with (
            Loopback(reply) as server,
            socket.socket() as free,
            Ledger(tmp_path, plan.meta(), plan.texts()) as ledger,
            Reader(tmp_path) as reader,
        ):
            free.bind(("127.0.0.1", 0))  # and listens to nobody
            backend = Astray(server.url, f"http://127.0.0.1:{free.getsockname()[1]}/v1", times=4)
            state = RunState.from_ledger(plan, reader)
            budget = Budget(plan.settings.budget, reader.spending())
            parts: Any = (plan, state, ledger, reader, backend, budget)
            try:
                return await Engine(*parts, RunProgress(plan.settings.n, state.stats)).run()
            finally:
                await backend.close()

    assert asyncio.run(main()) == "complete"
    with sqlite3.connect(tmp_path / "run.sqlite") as found:
        assert found.execute("SELECT COUNT(*) FROM sends WHERE k = 2").fetchone() == (5,), "3 attempts, then 2"
        assert found.execute("SELECT COUNT(*) FROM outcomes WHERE kind = 'failure'").fetchone() == (0,)
    found.close()
