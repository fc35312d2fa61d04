"""Second attempts against a real server: arrivals, waits, faults that stop the run at once, and oversized answers.

No test waits: the event loop's clock jumps ahead when a wait begins.
"""

from __future__ import annotations

import asyncio
import gzip
import json
import socket
import sqlite3
import subprocess
import sys
import threading
import zlib
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from selfinstruct.backends.openai.backend import OpenAIBackend, OpenAIOptions
from selfinstruct.common.rng import derive
from selfinstruct.engine.dispatch.concurrency import ConcurrencyLimiter
from selfinstruct.engine.dispatch.retry import Retry, RetryOptions
from selfinstruct.errors import SelfInstructError, TransientError
from selfinstruct.records import Completion, PromptMessage, Request, Sampling
from tests.cli import dataset, environment, run_cli
from tests.conftest import Promise
from tests.loopback import Fault, Loopback
from tests.scripted import reply

PATIENT = RetryOptions(attempts=4, base_s=0.5, cap_s=30.0, total_s=1e12)


class JumpingLoop(asyncio.SelectorEventLoop):
    """An event loop whose clock a test can move ahead."""

    ahead = 0.0

    def time(self) -> float:
        return super().time() + self.ahead

    def jump(self, seconds: float) -> None:
        self.ahead += seconds


def go(main: Coroutine[Any, Any, Any]) -> Any:
    with asyncio.Runner(loop_factory=JumpingLoop) as runner:
        return runner.run(main)


def make(number: int = 0) -> Request:
    return Request("s", (PromptMessage("prompt", "t", {}, f"p{number}"),), Sampling(9), number=number)


class Client:
    """A backend behind ``Retry``; the clock jumps over each wait while ``jumps`` is true.

    Attributes:
        waits: Seconds of each wait that was reported.
        sends: Number and time of each request sent.
    """

    def __init__(self, url: str, options: RetryOptions = PATIENT, *, width: int = 64, **more: Any) -> None:
        self.backend = OpenAIBackend(OpenAIOptions(base_url=url, model="m", **more))
        self.limiter = ConcurrencyLimiter(width)
        self.retry = Retry(options, self.limiter, on_wait=self._waits)
        self.waits: list[float] = []
        self.waiting = asyncio.Event()
        self.sends: list[tuple[int, float]] = []
        self.jumps = True

    def _waits(self, request: Request, error: TransientError, seconds: float) -> None:
        self.waits.append(seconds)
        self.waiting.set()
        if self.jumps:
            loop = asyncio.get_running_loop()
            loop.call_soon(loop.jump, seconds)  # type: ignore[attr-defined]  # once the sleep has begun

    async def _before(self, request: Request, attempt: int) -> None:
        self.sends.append((request.number, asyncio.get_running_loop().time()))

    async def complete(self, number: int = 0) -> Completion:
        return await self.retry.complete(self.backend, make(number), self._before)

    async def __aenter__(self) -> Client:
        await self.backend.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.backend.close()


def complete(
    server: Loopback, options: RetryOptions = PATIENT, **more: Any
) -> tuple[Completion | SelfInstructError, Client]:
    """Complete one request with all its attempts, and return its outcome and its client."""

    async def main() -> tuple[Completion | SelfInstructError, Client]:
        async with Client(server.url, options, **more) as client:
            try:
                return await client.complete(), client
            except SelfInstructError as error:
                return error, client

    return go(main())


async def settle() -> None:
    """Let every task run as far as it can without the network."""
    for _ in range(200):
        await asyncio.sleep(0)


# Arrivals

PASSING = [
    *(Fault(status, {"x-should-retry": "true"}) for status in (408, 409, 500, 502, 503, 504, 529)),
    Fault(200, body='{"choices": [{"te'),
    Fault(200, body={"choices": []}),
    Fault(how="half"),
    Fault(how="reset"),
]


def test_exactly_our_attempts_arrive(promise: Promise) -> None:
    """The client library does not retry by itself, not even if a server asks it to."""
    for fault in PASSING:
        with Loopback(faults=lambda number, body, fault=fault: fault) as server:
            outcome, client = complete(server)
            arrived = server.arrived
        assert isinstance(outcome, TransientError), fault
        assert "after 4 attempts" in str(outcome)
        assert (len(arrived), len(client.sends), len(client.waits)) == (4, 4, 3), fault
        assert {call.headers.get("x-stainless-retry-count", "0") for call in arrived} == {"0"}
    promise("retry: attempts", f"4 of 4 allowed arrived for each of {len(PASSING)} faults, none by the client library")


def test_429s_use_up_no_attempt() -> None:
    with Loopback(faults=lambda number, body: Fault(429) if number <= 9 else None) as server:
        outcome, client = complete(server, RetryOptions(attempts=2, total_s=1e6))
        assert isinstance(outcome, Completion)
        assert (len(server.arrived), len(client.waits)) == (10, 9)


# Waits


@pytest.mark.parametrize("status", [429, 503])
@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ({"Retry-After": "7"}, 7.0),
        ({"Retry-After": "4000"}, 4000.0),
        ({"Retry-After": "7.25"}, 7.25),
        ({"retry-after-ms": "81500"}, 81.5),
        ({"retry-after-ms": "81500", "Retry-After": "9"}, 81.5),
    ],
)
def test_a_wait_in_seconds_is_obeyed(status: int, headers: dict[str, str], seconds: float) -> None:
    with Loopback(faults={1: Fault(status, headers)}) as server:
        outcome, client = complete(server)
    assert isinstance(outcome, Completion)
    (_, first), (_, second) = client.sends
    assert client.waits == [pytest.approx(seconds, abs=1e-6)]
    assert second - first >= seconds


def test_a_wait_until_a_date_is_obeyed(promise: Promise) -> None:
    """The wait is at most the time until the date before the request, and at least the time after the answer."""
    until = datetime(2199, 12, 31, 23, 59, 59, tzinfo=UTC)
    with Loopback(faults={1: Fault(429, {"Retry-After": "Tue, 31 Dec 2199 23:59:59 GMT"})}) as server:
        most = (until - datetime.now(UTC)).total_seconds()
        outcome, client = complete(server)
        least = (until - datetime.now(UTC)).total_seconds()
    assert isinstance(outcome, Completion)
    [wait] = client.waits
    assert least <= wait <= most
    promise("retry: Retry-After", "seconds, milliseconds and HTTP dates waited for in full")


@pytest.mark.parametrize("headers", [{}, {"Retry-After": "soon"}, {"Retry-After": "0"}, {"Retry-After": "-9"}])
def test_a_429_without_a_usable_wait_backs_off(headers: dict[str, str]) -> None:
    with Loopback(faults=dict.fromkeys(range(1, 9), Fault(429, headers))) as server:
        outcome, client = complete(server, RetryOptions(attempts=2, base_s=1.0, cap_s=16.0, total_s=1e6))
    assert isinstance(outcome, Completion)
    longest = [1.0, 2.0, 4.0, 8.0, 16.0, 16.0, 16.0, 16.0]
    assert all(most / 2 <= wait <= most for wait, most in zip(client.waits, longest, strict=True)), client.waits


def test_no_attempt_begins_after_the_total_time(promise: Promise) -> None:
    with Loopback(faults=lambda number, body: Fault(429, {"Retry-After": "100"})) as server:
        outcome, client = complete(server, RetryOptions(total_s=350.0))
        assert isinstance(outcome, TransientError)
        assert "and the next in 100 s would be past the total of 350 s" in str(outcome)
        assert len(server.arrived) == len(client.sends) == 4
    (_, first), *_, (_, last) = client.sends
    assert last - first <= 350.0
    promise("retry: total", "350 s allowed, 100 s asked for: 4 sends, the last within the total")


# 429s


def test_a_429_to_one_request_pauses_all(promise: Promise) -> None:
    """Eight more requests are ready, and none is sent before the time that the server asked for."""

    async def main(server: Loopback) -> tuple[int, int]:
        async with Client(server.url) as client:
            client.jumps = False
            refused = asyncio.create_task(client.complete(0))
            await client.waiting.wait()
            others = [asyncio.create_task(client.complete(number)) for number in range(1, 9)]
            await settle()
            early = len(client.sends) - 1
            loop = asyncio.get_running_loop()
            assert isinstance(loop, JumpingLoop)
            loop.jump(3590.0)
            await settle()
            early += len(client.sends) - 1
            loop.jump(11.0)
            await asyncio.gather(refused, *others)
            return early, len(client.sends)

    with Loopback(faults={1: Fault(429, {"Retry-After": "3600"})}) as server:
        early, sends = go(main(server))
        assert (early, sends, len(server.arrived)) == (0, 10, 10)
    promise("retry: pause", "429 to 1 of 9: 0 sends before the server's hour was over, 9 after it")


def test_a_pause_beyond_the_total_time_does_not_fail_a_request() -> None:
    """The request that met it and one that was never sent both end as throttled, so that they stay open."""

    async def main(server: Loopback) -> list[Any]:
        async with Client(server.url, RetryOptions(attempts=4, base_s=0.0, total_s=300.0)) as client:
            first = await asyncio.gather(client.complete(0), return_exceptions=True)
            return [*first, *await asyncio.gather(client.complete(1), return_exceptions=True)]

    with Loopback(faults=lambda number, body: Fault(429, {"Retry-After": "86400"})) as server:
        errors = go(main(server))
        assert len(server.arrived) == 1
    for error, attempts in zip(errors, (1, 0), strict=True):
        assert isinstance(error, TransientError)
        assert error.throttled
        assert f"(after {attempts} attempt" in str(error)
        assert "would be past the total of 300 s" in str(error)


def test_the_first_429_of_a_window_halves_the_requests_in_flight(promise: Promise) -> None:
    """Sixteen simultaneous requests are refused; then eight arrive together, twice, and never more."""
    inside, most, lock = [0], [0], threading.Lock()
    together, half = threading.Barrier(16, timeout=60), threading.Barrier(8, timeout=60)

    def refuse(number: int, body: Any) -> Fault | None:
        if number <= 16:
            together.wait()
            return Fault(429, {"Retry-After": "1"})
        with lock:
            inside[0] += 1
            most[0] = max(most[0], inside[0])
        return None

    def answer(body: Any) -> str:
        half.wait()
        with lock:
            inside[0] -= 1
        return "ok"

    async def main(server: Loopback) -> int:
        async with Client(server.url, width=16) as client:
            await asyncio.gather(*(client.complete(number) for number in range(16)))
            return client.limiter.width

    with Loopback(answer, refuse) as server:
        width = go(main(server))
        assert len(server.arrived) == 32
    assert most == [8]
    assert width == 9, "one more slot after a window of answers"
    promise("retry: concurrency", f"16 at once refused, then {most[0]} at once at most")


# Faults that stop the run at once


QUOTA = {"error": {"message": "You exceeded your quota", "type": "insufficient_quota", "code": "insufficient_quota"}}
FINAL = {
    "401": Fault(401),
    "403": Fault(403),
    "404": Fault(404),
    "quota": Fault(429, {"Retry-After": "1", "x-should-retry": "true"}, QUOTA),
}


def args(run: Path, url: str, *more: object) -> list[object]:
    return ["generate", run, "--backend", "openai", "--model", "scripted", "--base-url", url, "--api", "completion",
            "--strategy", "alpaca", "-q", *more]  # fmt: skip


@pytest.mark.parametrize("name", FINAL)
def test_a_permanent_fault_stops_the_run_after_the_requests_in_flight(
    tmp_path: Path, name: str, promise: Promise
) -> None:
    """The server answers a few requests, then refuses all of a full window at once.

    A 403 may be about the prompt, so a request that was answered before is sent once more, and before the last of the
    refusals is read, their places in the window may be filled.
    """
    width, answered = 8, 12
    least = answered + width + (name == "403")
    most = least + (width - 1 if name == "403" else 0)
    together = threading.Barrier(width, timeout=60)

    def refuse(number: int, body: Any) -> Fault | None:
        if number <= answered:
            return None
        if number <= answered + width:
            together.wait()
        return FINAL[name]

    with Loopback(reply, refuse) as server:
        run_cli(*args(tmp_path / "a", server.url, "-n", 200, "--concurrency", width), code=1)
        sent = len(server.arrived)
        assert least <= sent <= most
    with sqlite3.connect(tmp_path / "a" / "run.sqlite") as ledger:
        assert ledger.execute("SELECT COUNT(*) FROM sends").fetchone() == (sent,)
        assert ledger.execute("SELECT kind, COUNT(*) FROM outcomes GROUP BY kind").fetchall() == [
            ("completion", answered)
        ]
    ledger.close()
    promise(f"retry: {name}", f"{width} in flight, {sent - answered} arrivals, requests stay open")


def test_a_request_that_always_fails_is_recorded_and_never_sent_again(tmp_path: Path, promise: Promise) -> None:
    poison = derive("request", 0, 2)  # the sampling seed of request 2
    quick = ("--set", "retry.base_s=0.001", "--set", "retry.attempts=3", "--concurrency", 4)

    def fails(number: int, body: Any) -> Fault | None:
        return Fault(500) if body["seed"] == poison else None

    with Loopback(reply, fails) as server:
        run_cli(*args(tmp_path / "a", server.url, "-n", 12, *quick))
        assert sum(call.body["seed"] == poison for call in server.arrived) == 3 + 3
    with sqlite3.connect(tmp_path / "a" / "run.sqlite") as ledger:
        assert ledger.execute("SELECT k FROM outcomes WHERE kind = 'failure'").fetchall() == [(2,)]
    ledger.close()
    assert json.loads(run_cli("status", tmp_path / "a", "--json"))["failures"] == {"attempts": 1}
    with Loopback(reply) as server:
        run_cli(*args(tmp_path / "a", server.url, "-n", 30))
        assert all(call.body["seed"] != poison for call in server.arrived)
    assert len(dataset(tmp_path / "a").splitlines()) == 30
    promise("retry: failed for good", "3 attempts, twice; 1 terminal record, 0 sends after it")


# Answers that never end


@contextmanager
def raw_server(talk: Callable[[socket.socket, threading.Event], None]) -> Iterator[tuple[str, list[int]]]:
    """Run a minimal server that reads a request's head, then calls ``talk``; yields its URL and a list of calls."""
    calls: list[int] = []
    closing = threading.Event()

    def serve(connection: socket.socket) -> None:
        with connection:
            head = b""
            while b"\r\n\r\n" not in head:
                piece = connection.recv(65536)
                if not piece:
                    return
                head += piece
            calls.append(1)
            with suppress(OSError):  # the client hangs up, as the test expects
                talk(connection, closing)

    def accept(listening: socket.socket) -> None:
        while True:
            try:
                connection, _ = listening.accept()
            except OSError:
                return
            threading.Thread(target=serve, args=(connection,), daemon=True).start()

    listening = socket.create_server(("127.0.0.1", 0))
    thread = threading.Thread(target=accept, args=(listening,), daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{listening.getsockname()[1]}/v1", calls
    finally:
        closing.set()
        listening.shutdown(socket.SHUT_RDWR)
        listening.close()
        thread.join()


HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\n"


def trickle(start: bytes, each: bytes) -> Callable[[socket.socket, threading.Event], None]:
    def talk(connection: socket.socket, closing: threading.Event) -> None:
        connection.sendall(start)
        while not closing.wait(0.01):
            connection.sendall(each)

    return talk


SLOW = {
    "silent": trickle(b"", b""),
    "a byte at a time": trickle(HEAD + b"content-length: 1000000\r\n\r\n", b" "),
    "a header without end": trickle(HEAD + b"x-long: ", b"x"),
    "after the headers": trickle(HEAD + b"content-length: 90\r\n\r\n", b""),
    "chunks without end": trickle(HEAD + b"transfer-encoding: chunked\r\n\r\n", b"1\r\n \r\n"),
    "within a chunk": trickle(HEAD + b"transfer-encoding: chunked\r\n\r\nff\r\n", b""),
    "an error without end": trickle(b"HTTP/1.1 500 Oops\r\ncontent-length: 1000000\r\n\r\n", b" "),
    "interim answers without end": trickle(b"", b"HTTP/1.1 102 Processing\r\n\r\n"),
}


@pytest.mark.parametrize("how", SLOW)
def test_the_time_limit_holds_however_slowly_a_server_answers(how: str, promise: Promise) -> None:
    """A limit on silence would restart with each byte; this limit covers the whole answer, and each attempt has it."""

    async def main(url: str) -> SelfInstructError:
        async with Client(url, RetryOptions(attempts=2, base_s=0.0), timeout_s=0.5) as client:
            with pytest.raises(TransientError) as caught:
                await client.complete()
            return caught.value

    with raw_server(SLOW[how]) as (url, calls):
        message = str(go(main(url)))
        assert len(calls) == 2
    assert "no complete answer" in message or "did not answer in time" in message
    assert "after 2 attempts" in message
    if how == "within a chunk":
        promise("retry: deadline", f"{len(SLOW)} ways of never ending ended, 2 of 2 attempts made")


# Oversized answers

GIB = 1 << 30


def bomb(encoding: str) -> bytes:
    """Return a JSON object of 1 GiB in the given content encoding."""
    squeeze = zlib.compressobj(9, zlib.DEFLATED, zlib.MAX_WBITS | (16 if encoding.startswith("gzip") else 0))
    packed = squeeze.compress(b'{"choices": [{"finish_reason": "stop", "text": "')
    packed += squeeze.flush(zlib.Z_FULL_FLUSH)
    squeeze.compress(b"x" * (1 << 20))
    packed += squeeze.flush(zlib.Z_FULL_FLUSH) * (
        GIB >> 20
    )  # independent blocks; the missing checksum would be noticed too late
    return gzip.compress(packed, mtime=0) if "," in encoding else packed


# A client in a separate process, whose memory may grow by a fixed amount, far below a gigabyte.
FRUGAL = """
import asyncio, resource, sys
from selfinstruct.backends.openai.backend import OpenAIBackend, OpenAIOptions
from selfinstruct.errors import SelfInstructError
from selfinstruct.records import PromptMessage, Request, Sampling

async def main(url, more):
    backend = OpenAIBackend(OpenAIOptions(base_url=url, model="m"))
    await backend.start()
    request = Request("s", (PromptMessage("prompt", "t", {}, "p"),), Sampling(9))
    print((await backend.complete(request)).text)  # everything is loaded and connected
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with open("/proc/self/statm") as file:
        used = int(file.read().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + more, used + more))
    for _ in range(int(sys.argv[3])):
        try:
            print((await backend.complete(request)).text)
        except SelfInstructError as error:
            print(type(error).__name__, error)
    print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
    await backend.close()

asyncio.run(main(sys.argv[1], int(sys.argv[2])))
"""


def test_a_gzip_bomb_is_refused_with_little_memory(promise: Promise) -> None:
    """Errors and redirects may be bombs too; the body of a redirect, which is followed, is not read."""
    kinds = [("gzip", 200), ("gzip, gzip", 200), ("deflate", 200), ("gzip", 500), ("gzip", 307)]
    bodies = [bomb(encoding) for encoding, _ in kinds]
    faults = {
        number: Fault(status, {"content-encoding": encoding, "location": "/v1/completions"}, body)
        for number, ((encoding, status), body) in enumerate(zip(kinds, bodies, strict=True), start=2)
    }
    with Loopback(lambda _: "fine", faults) as server:
        line = [sys.executable, "-c", FRUGAL, server.url, str(160 << 20), str(len(kinds) + 1)]
        done = subprocess.run(line, capture_output=True, text=True, check=False, timeout=90, env=environment())
        assert {call.headers["accept-encoding"] for call in server.arrived} == {"gzip"}
        assert len(server.arrived) == 1 + len(kinds) + 1 + 1
    assert done.returncode == 0, done.stderr
    first, *refused, followed, last, grown = done.stdout.splitlines()
    assert first == followed == last == "fine"
    assert len(refused) == 4
    assert all("TransientError" in line and "answered with more than 16 MiB" in line for line in refused), refused
    more = int(grown) >> 10
    assert more < 100, f"{more} MiB more: much of the 1,024 MiB was read"
    least = min(map(len, bodies))
    promise("retry: size of an answer", f"{len(kinds)} bombs of 1 GiB (from {least:,} bytes) cost {more} MiB at most")
