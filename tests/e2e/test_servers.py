"""One run on several real servers, distributed by load: exactly N rows despite crashes, refusals and pauses."""

from __future__ import annotations

import asyncio
import signal
import sqlite3
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest

from selfinstruct import generate
from selfinstruct.backends.openai.backend import OpenAIBackend, OpenAIOptions
from selfinstruct.common.rng import derive
from selfinstruct.engine.progress import RunProgress
from selfinstruct.errors import BackendError, SelfInstructError, TransientError
from selfinstruct.records import PromptMessage, Request, Sampling
from tests.cli import ROOT, dataset, environment, run_cli
from tests.conftest import Promise
from tests.crash.test_budgets import Shop
from tests.crash.test_kill import commits, number_of
from tests.loopback import Fault, Loopback
from tests.scripted import reply

N = 120
Servers = Callable[..., Loopback]


class StatusLog:
    """A display that shows nothing and records every status line about the servers."""

    def __init__(self) -> None:
        self.servers: list[str] = []

    @contextmanager
    def __call__(self, progress: RunProgress) -> Iterator[None]:
        lines = self.servers

        class Recording(type(progress)):  # type: ignore[misc]
            def __setattr__(self, name: str, value: Any) -> None:
                if name == "servers":
                    lines.append(value)
                super().__setattr__(name, value)

        progress.__class__ = Recording
        yield


def settings(*urls: str, rows: int = N, **more: Any) -> dict[str, Any]:
    section = {"base_url": list(urls), "model": "scripted", "api": "completion"}
    return {"strategy": "alpaca", "backend": "openai", "openai": section, "n": rows, "concurrency": 8,
            "retry": {"base_s": 0.01}, **more}  # fmt: skip


def sends(run: Path) -> Counter[int]:
    """Return the recorded number of sends of each request."""
    with sqlite3.connect(run / "run.sqlite") as ledger:
        counts = Counter(dict(ledger.execute("SELECT k, COUNT(*) FROM sends GROUP BY k")))
    ledger.close()
    return counts


def outcomes(run: Path) -> dict[str, int]:
    with sqlite3.connect(run / "run.sqlite") as ledger:
        counts = dict(ledger.execute("SELECT kind, COUNT(*) FROM outcomes GROUP BY kind"))
    ledger.close()
    return counts


def arrived(*servers: Loopback) -> Counter[int]:
    """Return how often each request arrived."""
    return Counter(number_of(call.body) for server in servers for call in server.arrived)


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """The dataset of a run with one server."""
    run = tmp_path_factory.mktemp("alone") / "run"
    with Loopback(reply) as server:
        generate(run, settings(server.url))
    return dataset(run)


def test_requests_are_distributed_by_load(tmp_path: Path, loopback: Servers, alone: bytes) -> None:
    """From its tenth request on, one server answers nothing until the other has received ten more requests."""
    held: list[int] = []
    until: list[int] = []

    def holds(number: int, body: Any) -> Fault | None:
        if number < 10:
            return None
        if not until:
            until.append(len(fast.arrived) + 10)
        for _ in range(5000):
            if len(fast.arrived) >= until[0] or held:
                break
            time.sleep(0.002)
        held.append(len(slow.arrived))
        return None

    slow, fast = loopback(reply, holds), loopback(reply)
    assert len(generate(tmp_path / "run", settings(slow.url, fast.url)).rows) == N
    assert dataset(tmp_path / "run") == alone
    assert len(fast.arrived) >= until[0]
    assert 10 <= held[0] <= 9 + 4, "half of the eight requests in flight"
    assert arrived(slow, fast) == sends(tmp_path / "run"), "each arrived once, and is recorded"
    assert set(sends(tmp_path / "run").values()) == {1}


def test_a_server_that_crashes_during_a_run_costs_nothing_and_is_used_again_once_it_is_back(
    tmp_path: Path, loopback: Servers, alone: bytes, monkeypatch: pytest.MonkeyPatch, promise: Promise
) -> None:
    """It crashes with two requests in flight, which the other server receives at once; it returns a little later."""
    monkeypatch.setattr("selfinstruct.backends.openai.server_pool._FIRST_PAUSE_S", 0.01)
    with ExitStack() as stack:
        back: list[Loopback] = []
        dead = threading.Event()

        def dies(number: int, body: Any) -> Fault | None:
            if number == 6:
                mortal.die()
                dead.set()
            return Fault(how="hang") if number > 4 else None

        def revives(number: int, body: Any) -> Fault | None:
            if dead.is_set() and not back and number % 8 == 0:
                back.append(stack.enter_context(Loopback(reply, port=mortal.port)))
            return None

        mortal = loopback(reply, dies)
        other = loopback(reply, revives, delay=lambda body: 0.05 if back and len(back[0].arrived) < 3 else 0.005)
        log = StatusLog()
        result = generate(tmp_path / "run", settings(mortal.url, other.url), show=log)
        assert len(result.rows) == N
        assert dataset(tmp_path / "run") == alone
        assert len(mortal.arrived) >= 6  # another one may arrive during the crash
        assert len(back[0].arrived) > 1, "one request tested it, then it received more"
        received, sent = arrived(mortal, other, *back), sends(tmp_path / "run")
        refused = sum(sent.values()) - sum(received.values())
        assert not received - sent, "every arrival is recorded"
        assert 0 <= refused <= 12, "probes that reached no server"
        answered = arrived(other, *back)
        answered.update(number_of(call.body) for call in mortal.arrived[:4])
        assert set(answered.values()) == {1}, "no answered request was sent again"
        assert outcomes(tmp_path / "run") == {"completion": len(answered)}
    assert f"{mortal.url} set aside: " in log.servers[0]
    assert log.servers[0].endswith("; 1 of 2 servers left")
    assert log.servers[-1] == ""
    again = sum(received.values()) - len(received)
    promise("servers: one of two dies", f"exactly {N} rows, the same bytes; {again} requests lost with it, sent again")


def test_if_all_servers_crash_the_run_stops_and_the_same_command_continues_it(
    tmp_path: Path, loopback: Servers, alone: bytes
) -> None:
    def dies(number: int, body: Any) -> Fault | None:
        if number == 4:
            for server in servers:
                server.die()
        return None

    servers = [loopback(reply, dies), loopback(reply), loopback(reply)]
    options = settings(*(server.url for server in servers), retry={"base_s": 0.01, "attempts": 3})
    with pytest.raises(TransientError, match="0 of 3 servers left") as caught:
        generate(tmp_path / "run", options)
    assert all(server.url in str(caught.value) for server in servers)
    assert set(outcomes(tmp_path / "run")) == {"completion"}, "no request is recorded as a failure"
    assert not arrived(*servers) - sends(tmp_path / "run")
    answered = set(commits(tmp_path / "run"))
    with Loopback(reply, port=servers[1].port) as server:
        assert len(generate(tmp_path / "run", {}).rows) == N, "one reachable address is enough"
        assert not arrived(server).keys() & answered, "no answered request is sent again"
    assert dataset(tmp_path / "run") == alone


def test_a_server_that_fails_on_every_request_is_set_aside(tmp_path: Path, loopback: Servers, alone: bytes) -> None:
    """It answers fastest, so it always has the fewest requests in flight."""
    broken = loopback(reply, lambda number, body: Fault(500))
    good = loopback(reply, delay=0.01)
    log = StatusLog()
    generate(tmp_path / "run", settings(broken.url, good.url, retry={"base_s": 0.01, "attempts": 4}), show=log)
    assert dataset(tmp_path / "run") == alone
    assert 3 <= len(broken.arrived) <= 12
    assert arrived(broken, good) == sends(tmp_path / "run")
    assert "failure" not in outcomes(tmp_path / "run")
    assert log.servers[-1] == (
        f"{broken.url} set aside: answered 500 (Internal Server Error): fault 500; 1 of 2 servers left"
    )


def test_a_server_that_stops_answering_is_set_aside_and_its_requests_do_not_fail(
    tmp_path: Path, loopback: Servers, alone: bytes
) -> None:
    """It behaves like a host without power: no reset, only the timeout, after which no attempt would remain."""
    silent = loopback(reply, lambda number, body: Fault(how="hang") if number > 3 else None)
    other = loopback(reply, delay=0.01)
    options = settings(silent.url, other.url, retry={"attempts": 1, "total_s": 0.0})
    options["openai"]["timeout_s"] = 3.0
    generate(tmp_path / "run", options)
    assert dataset(tmp_path / "run") == alone
    assert len(silent.arrived) > 3
    assert arrived(silent, other) == sends(tmp_path / "run")
    assert "failure" not in outcomes(tmp_path / "run")


def test_a_429_pauses_only_its_own_server(tmp_path: Path, loopback: Servers, alone: bytes) -> None:
    """It asks for an hour, which would end the run if there were no other server."""
    busy = loopback(reply, lambda number, body: Fault(429, {"Retry-After": "3600"}) if number > 4 else None)
    other = loopback(reply, delay=0.01)
    log = StatusLog()
    generate(tmp_path / "run", settings(busy.url, other.url), show=log)
    assert dataset(tmp_path / "run") == alone
    assert 5 <= len(busy.arrived) <= 4 + 8, "no more than were in flight"
    assert arrived(busy, other) == sends(tmp_path / "run")
    assert log.servers == [], "a busy server is not down"


def test_a_429_of_every_server_pauses_every_request(tmp_path: Path, loopback: Servers, alone: bytes) -> None:
    def busy(number: int, body: Any) -> Fault | None:
        return Fault(429, {"retry-after-ms": "40"}) if 3 <= number <= 6 else None

    servers = [loopback(reply, busy), loopback(reply, busy)]
    generate(tmp_path / "run", settings(*(server.url for server in servers)))
    assert dataset(tmp_path / "run") == alone
    assert arrived(*servers) == sends(tmp_path / "run")
    hour = [loopback(reply, lambda number, body: Fault(429, {"Retry-After": "3600"})) for _ in range(2)]
    with pytest.raises(TransientError, match="past the total of 300 s"):
        generate(tmp_path / "other", settings(*(server.url for server in hour)))
    assert sum(len(server.arrived) for server in hour) <= 8 + 8
    assert outcomes(tmp_path / "other") == {}


@pytest.mark.parametrize("status", [401, 403, 404])
def test_a_server_that_refuses_is_set_aside_and_reported(
    tmp_path: Path, loopback: Servers, alone: bytes, status: int
) -> None:
    wrong = loopback(reply, lambda number, body: Fault(status))
    good = loopback(reply, delay=0.01)
    log = StatusLog()
    generate(tmp_path / "run", settings(wrong.url, good.url), show=log)
    assert dataset(tmp_path / "run") == alone
    assert 1 <= len(wrong.arrived) <= (16 if status == 403 else 8), "no more than were in flight"
    assert arrived(wrong, good) == sends(tmp_path / "run")
    assert f"{wrong.url} set aside: answered {status}" in log.servers[-1]


@pytest.mark.parametrize("status", [400, 403, 451])
def test_a_server_whose_account_runs_dry_is_set_aside_and_loses_no_task(
    tmp_path: Path, loopback: Servers, alone: bytes, status: int
) -> None:
    dry = loopback(reply, lambda number, body: Fault(status) if number > 3 else None)
    good = loopback(reply, delay=0.01)
    log = StatusLog()
    result = generate(tmp_path / "run", settings(dry.url, good.url), show=log)
    assert result.stats.failures == {}
    assert dataset(tmp_path / "run") == alone
    assert f"{dry.url} set aside: answered {status}" in log.servers[-1]


def test_if_the_accounts_of_all_servers_run_dry_every_request_stays_open(tmp_path: Path, loopback: Servers) -> None:
    servers = [loopback(reply, lambda number, body: Fault(400) if number > 4 else None) for _ in range(2)]
    with pytest.raises(BackendError, match="Nothing is recorded as failed"):
        generate(tmp_path / "run", settings(*(server.url for server in servers)))
    assert outcomes(tmp_path / "run") == {"completion": 8}


def test_a_prompt_that_every_server_refuses_is_recorded(tmp_path: Path, loopback: Servers) -> None:
    poison = derive("request", 0, 3)
    servers = [loopback(reply, lambda _, body: Fault(400) if body["seed"] == poison else None) for _ in range(2)]
    log = StatusLog()
    result = generate(tmp_path / "run", settings(*(server.url for server in servers)), show=log)
    assert result.stats.failures == {"bad_request": 1}
    assert not any(log.servers), "no server is set aside"


def test_if_all_servers_refuse_the_run_stops_with_their_answers(tmp_path: Path, loopback: Servers) -> None:
    servers = [loopback(reply, lambda number, body: Fault(401)), loopback(reply, lambda number, body: Fault(404))]
    with pytest.raises(BackendError) as caught:
        generate(tmp_path / "run", settings(*(server.url for server in servers)))
    assert not isinstance(caught.value, TransientError)
    for server, status in zip(servers, (401, 404), strict=True):
        assert f"{server.url} set aside: answered {status}" in str(caught.value)
    assert arrived(*servers) == sends(tmp_path / "run")
    assert outcomes(tmp_path / "run") == {}


@pytest.mark.parametrize("limit", ["max_requests", "max_tokens"])
def test_a_budget_holds_while_requests_move_between_servers(tmp_path: Path, loopback: Servers, limit: str) -> None:
    """Both servers bill every request, at its worst case if they do not answer: they may have generated the text."""
    shops = [Shop(fails=3), Shop(fails=1)]

    def dies(order: int, body: Any) -> Fault | None:
        fault = shops[0].fault(order, body)
        if order == 6:
            mortal.die()
        return fault

    mortal, other = loopback(shops[0].answer, dies), loopback(shops[1].answer, shops[1].fault)
    options = settings(mortal.url, other.url, rows=400, retry={"base_s": 0.01, "attempts": 8})
    for value in (20, 30) if limit == "max_requests" else (150_000, 250_000):
        result = generate(tmp_path / "run", {**options, "budget": {limit: value}})
        assert result.ending == "budget"
        billed = sum(shop.of(limit) for shop in shops)
        assert value / 4 < billed <= value
    assert len(mortal.arrived) >= 6
    assert not arrived(mortal, other) - sends(tmp_path / "run")


def test_a_server_process_that_is_killed(tmp_path: Path, alone: bytes) -> None:
    """The command line, with a server in a separate process that is killed by SIGKILL while requests are in flight."""
    line = [sys.executable, str(ROOT / "tests" / "loopback.py"), "--delay", "0.02"]
    with subprocess.Popen(line, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment()) as child:
        assert child.stdout is not None

        def kills(number: int, body: Any) -> Fault | None:
            if number == 12:
                child.kill()
            return None

        mortal = child.stdout.readline().strip()
        with Loopback(reply, kills, delay=0.02) as other:
            output = run_cli("generate", tmp_path / "run", "--backend", "openai", "--model", "scripted", "--base-url",
                           mortal, "--base-url", other.url, "--api", "completion", "--strategy", "alpaca", "-n", N,
                           "--concurrency", 8)  # fmt: skip
            assert not arrived(other) - sends(tmp_path / "run")
            assert set(arrived(other).values()) == {1}
        assert child.wait() == -signal.SIGKILL
    assert f"{N} of {N} rows" in output
    assert f"{mortal} set aside: " in output
    assert "; 1 of 2 servers left" in output
    assert dataset(tmp_path / "run") == alone
    assert len(dataset(tmp_path / "run").splitlines()) == N


def test_addresses_may_change_during_the_life_of_a_run(tmp_path: Path, loopback: Servers, alone: bytes) -> None:
    """From one address to several and back."""
    servers = [loopback(reply), loopback(reply)]
    first, both = servers[0].url, [server.url for server in servers]
    args = ("--backend", "openai", "--model", "scripted", "--api", "completion", "--strategy", "alpaca", "-q")
    run_cli("generate", tmp_path / "run", *args, "--base-url", first, "-n", 5, "--concurrency", 1)
    assert f"base_url: {first}\n" in (tmp_path / "run" / "config.yaml").read_text()
    config = tmp_path / "c.yaml"
    config.write_text(f"openai:\n  base_url:\n  - {both[0]}\n  - {both[1]}\n")
    run_cli("generate", tmp_path / "run", "--config", config, "-n", 20, "--concurrency", 4, "-q")
    assert servers[1].arrived
    before = len(servers[0].arrived)
    assert len(generate(tmp_path / "run", {"openai": {"base_url": both[1]}, "n": N}).rows) == N
    assert len(servers[0].arrived) == before
    assert dataset(tmp_path / "run") == alone


def test_each_server_receives_only_its_own_key(loopback: Servers, monkeypatch: pytest.MonkeyPatch) -> None:
    """OpenAI's key goes only to OpenAI, even next to other servers; a named key goes to all of them."""
    monkeypatch.setenv("OPENAI_API_KEY", "sk-openai")
    monkeypatch.setenv("MY_KEY", "sk-mine")
    server = loopback(reply)
    request = Request("s", (PromptMessage("prompt", "t", {}, "1."),), Sampling(9))

    async def keys(*urls: str, **more: Any) -> list[str]:
        backend = OpenAIBackend(OpenAIOptions(base_url=urls, model="m", **more))
        await backend.start()
        await backend._servers[-1].complete(request)
        await backend.close()
        return [each._secret for each in backend._servers] + [server.arrived[-1].headers["authorization"]]

    mixed = ("https://api.openai.com/v1", server.url)
    assert asyncio.run(keys(*mixed)) == ["sk-openai", "", "Bearer none"]
    assert asyncio.run(keys(*mixed, api_key_env="MY_KEY")) == ["sk-mine", "sk-mine", "Bearer sk-mine"]
    monkeypatch.delenv("OPENAI_API_KEY")
    with pytest.raises(SelfInstructError, match="set the environment variable OPENAI_API_KEY"):
        asyncio.run(keys(*mixed))
