"""How the engine treats a backend that is not ready yet, one that works on batches, and one that cannot be reached."""

from __future__ import annotations

import asyncio
import socket
import sqlite3
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import pytest

from selfinstruct.backends.base import BatchBackend, StatusCallback, StillPendingError
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


class NeverReady:
    """A backend whose start never ends, or fails."""

    def __init__(self, error: Exception | None = None) -> None:
        self.error = error
        self.starting = asyncio.Event()
        self.start_cancelled = False

    async def start(self) -> None:
        self.starting.set()
        if self.error is not None:
            raise self.error
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            self.start_cancelled = True
            raise

    async def complete(self, request: Request) -> Completion:
        raise AssertionError("no request may be sent")

    async def close(self) -> None:
        pass


async def run(folder: Path, backend: NeverReady, *, interrupt: bool) -> str:
    plan = make_plan({"backend": "openai", "openai": {"model": "m"}})
    with Ledger(folder, plan.meta(), plan.texts()) as ledger, Reader(folder) as reader:
        state = RunState.from_ledger(plan, reader)
        parts: Any = (plan, state, ledger, reader, backend, Budget(plan.settings.budget, reader.spending()))
        engine = Engine(*parts, RunProgress(plan.settings.n, state.stats))
        running = asyncio.create_task(engine.run())
        await backend.starting.wait()
        if interrupt:
            engine.interrupt()
        return await running


def test_an_interrupt_cancels_the_start_and_sends_nothing(tmp_path: Path) -> None:
    async def main() -> None:
        backend = NeverReady()
        assert await run(tmp_path, backend, interrupt=True) == "interrupted"
        assert backend.start_cancelled

    asyncio.run(main())


def test_a_start_that_fails_raises_its_own_error(tmp_path: Path) -> None:
    async def main() -> None:
        with pytest.raises(BackendError, match="no memory"):
            await run(tmp_path, NeverReady(BackendError("no memory")), interrupt=False)

    asyncio.run(main())


class EndlessBatches(BatchBackend):
    """A server that never answers, except that the batch of the first request expires."""

    def __init__(self) -> None:
        self.detached = asyncio.Event()

    async def start(self) -> None:
        pass

    async def close(self) -> None:
        pass

    def open_journal(self, folder: Path, on_status: StatusCallback) -> None:
        pass

    async def resume(self, requests: Iterable[Request]) -> set[int]:
        return set()

    async def wait_for_batch(self, request: Request) -> None:
        pass

    def active_count_changed(self, count: int) -> None:
        pass

    def use_room(self, enlarged: Callable[[Request], Request], observe: Callable[[Request, Completion], None]) -> None:
        pass

    def detach(self) -> None:
        self.detached.set()

    async def complete(self, request: Request) -> Completion:
        if request.number == 0:
            raise TransientError("its batch expired")
        await self.detached.wait()
        raise StillPendingError


def test_a_time_limit_ends_the_wait_for_batches_once_the_budget_is_spent(tmp_path: Path) -> None:
    limits = {"max_requests": 8, "time_limit_s": 0.3}
    plan = make_plan({"backend": "openai", "openai": {"model": "m"}, "budget": limits, "retry": {"base_s": 0.0}})

    async def main() -> tuple[str, int]:
        with Ledger(tmp_path, plan.meta(), plan.texts()) as ledger, Reader(tmp_path) as reader:
            state = RunState.from_ledger(plan, reader)
            budget = Budget(plan.settings.budget, reader.spending())
            parts: Any = (plan, state, ledger, reader, EndlessBatches(), budget)
            engine = Engine(*parts, RunProgress(plan.settings.n, state.stats))
            async with asyncio.timeout(60):
                return await engine.run(), engine.in_batches

    assert asyncio.run(main()) == ("budget", 7)


class PartlyUnreachable:
    """Clients of a server and of a port without one: request 2 is first sent to the latter, all others are answered."""

    def __init__(self, url: str, unreachable_url: str, times: int) -> None:
        self.reachable, self.unreachable = (
            OpenAIBackend(OpenAIOptions(base_url=address, model="m", api="completion"))
            for address in (url, unreachable_url)
        )
        self.remaining = times

    async def start(self) -> None:
        await self.reachable.start()
        await self.unreachable.start()

    async def close(self) -> None:
        await self.reachable.close()
        await self.unreachable.close()

    async def complete(self, request: Request) -> Completion:
        if request.number == 2 and self.remaining:
            self.remaining -= 1
            return await self.unreachable.complete(request)
        return await self.reachable.complete(request)


def test_a_request_that_reached_no_server_is_sent_again_once_others_are_answered(tmp_path: Path) -> None:
    """It is not at fault, however many attempts it made, and the run continues."""
    section = {"model": "m", "api": "completion"}
    plan = make_plan({"strategy": "alpaca", "backend": "openai", "openai": section, "n": 12, "concurrency": 4,
                      "retry": {"base_s": 0.0, "attempts": 3}})  # fmt: skip

    async def main() -> str:
        with (
            Loopback(reply) as server,
            socket.socket() as free,
            Ledger(tmp_path, plan.meta(), plan.texts()) as ledger,
            Reader(tmp_path) as reader,
        ):
            free.bind(("127.0.0.1", 0))  # bound, but not listening
            backend = PartlyUnreachable(server.url, f"http://127.0.0.1:{free.getsockname()[1]}/v1", times=4)
            state = RunState.from_ledger(plan, reader)
            budget = Budget(plan.settings.budget, reader.spending())
            parts: Any = (plan, state, ledger, reader, backend, budget)
            try:
                return await Engine(*parts, RunProgress(plan.settings.n, state.stats)).run()
            finally:
                await backend.close()

    assert asyncio.run(main()) == "complete"
    with sqlite3.connect(tmp_path / "run.sqlite") as connection:
        assert connection.execute("SELECT COUNT(*) FROM sends WHERE k = 2").fetchone() == (5,), "3 attempts, then 2"
        assert connection.execute("SELECT COUNT(*) FROM outcomes WHERE kind = 'failure'").fetchone() == (0,)
    connection.close()
