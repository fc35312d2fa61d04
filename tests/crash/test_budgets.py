"""The server's own count stays within the limit: in any order, with faults, timeouts, kills and false usage."""

from __future__ import annotations

import json
import random
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from selfinstruct import generate
from selfinstruct.common.rng import Rng
from selfinstruct.engine.dispatch.budget import Budget, BudgetOptions, worst_case
from selfinstruct.engine.progress import RunProgress
from selfinstruct.ledger import Ledger, Reader, Spending
from selfinstruct.prompts import Prompts
from selfinstruct.records import Choice, Completion, Failure, Request, Sampling, Usage
from tests.cli import run_cli
from tests.conftest import Promise
from tests.crash.test_kill import Life, Nursery, commits, made, number_of, options, out_of_order
from tests.loopback import Body, Fault, Loopback
from tests.scripted import STRATEGIES, reply

WIDTHS = (1, 8, 64)
PRICES = {"price_input": 3.0, "price_output": 15.0}
FLAGS = {"max_requests": "--max-requests", "max_tokens": "--max-tokens", "max_cost": "--max-cost"}

TRUE = "what the server counted"
# Usage that servers have reported: none is a complete count, and none may make a run spend more.
NONSENSE: tuple[Any, ...] = (
    None,
    {},
    [],
    "none",
    {"prompt_tokens": 0, "completion_tokens": 0},
    {"prompt_tokens": None, "completion_tokens": None},
    {"prompt_tokens": -5, "completion_tokens": -100_000},
    {"prompt_tokens": "12", "completion_tokens": "40"},
    {"prompt_tokens": 10.5, "completion_tokens": True},
    {"prompt_tokens": 1 << 80, "completion_tokens": 1 << 80},
    {"prompt_tokens": 0, "completion_tokens": TRUE},
    {"completion_tokens": TRUE},
)
PROMPT_ALONE: tuple[Any, ...] = (
    {"prompt_tokens": TRUE, "completion_tokens": 0},
    {"prompt_tokens": TRUE, "completion_tokens": None},
    {"prompt_tokens": TRUE, "completion_tokens": "40"},
    {"prompt_tokens": TRUE, "completion_tokens": 1 << 80},
    {"prompt_tokens": TRUE},
)
FAULTS = (
    Fault(503),
    Fault(500, body="<html>oops</html>"),
    Fault(429, {"retry-after-ms": "5"}),
    Fault(how="reset"),
    Fault(how="half"),
    Fault(200, body='{"choices": [{"text": "ha'),
)


class Shop:
    """A server that counts what it bills, regardless of the usage that it reports.

    A byte counts as a token. A refusal for the rate (429) costs nothing, as with real servers; a request that gets no
    completion for any other reason counts at its maximum.

    Args:
        lies: Values reported in place of the count, more often than not.
        fails: How many of ten requests fail on the first and on the second attempt.
        hangs: Numbers of requests that get no response on the first attempt.
        silent: Whether no request gets a response, until this is set to False.

    Attributes:
        requests: Billed requests.
        prompt_tokens: Billed prompt tokens.
        completion_tokens: Billed completion tokens.
        answered: Numbers of the requests that got a completion.
    """

    def __init__(
        self, *, lies: tuple[Any, ...] = (), fails: int = 0, hangs: tuple[int, ...] = (), silent: bool = False
    ) -> None:
        self.requests = self.prompt_tokens = self.completion_tokens = 0
        self.answered: set[int] = set()
        self.silent = silent
        self.lies, self._fails, self._hangs = lies, fails, hangs
        self._came: Counter[int] = Counter()
        self._lock = threading.Lock()

    @property
    def tokens(self) -> int:
        return self.prompt_tokens + self.completion_tokens

    @property
    def cost(self) -> float:
        return (self.prompt_tokens * PRICES["price_input"] + self.completion_tokens * PRICES["price_output"]) / 1e6

    def of(self, limit: str) -> float:
        return {"max_requests": self.requests, "max_tokens": self.tokens, "max_cost": self.cost}[limit]

    def fault(self, _order: int, body: Body) -> Fault | None:
        number = number_of(body)
        with self._lock:
            self._came[number] += 1
            fault = self._chosen(number, self._came[number])
            self.requests += 1
            if not fault or fault.status != 429:
                self.prompt_tokens += len(body["prompt"].encode())
                self.completion_tokens += body["max_tokens"] if fault else self._generated(body)
            if not fault:
                self.answered.add(number)
        return fault

    def answer(self, body: Body) -> dict[str, Any]:
        text = reply(body)
        counted = {"prompt_tokens": len(body["prompt"].encode()), "completion_tokens": self._generated(body)}
        dice = Rng("usage", body["seed"])
        usage = dice.choice(self.lies) if self.lies and dice.random() < 0.6 else counted
        if isinstance(usage, dict):
            usage = {name: counted[name] if value == TRUE else value for name, value in usage.items()}
        return {"model": "scripted", "choices": [{"index": 0, "finish_reason": "stop", "text": text}], "usage": usage}

    def _chosen(self, number: int, time: int) -> Fault | None:
        if self.silent or (time == 1 and number in self._hangs):
            return Fault(how="hang")
        dice = Rng("fault", number, time)
        return dice.choice(FAULTS) if time <= 2 and dice.below(10) < self._fails else None

    def _generated(self, body: Body) -> int:
        return min(body["max_tokens"], len(reply(body).encode()))


@contextmanager
def opened(shop: Shop) -> Iterator[Loopback]:
    with Loopback(shop.answer, shop.fault, delay=out_of_order) as server:
        yield server


def line(run: Path, strategy: str, url: str, rows: int, *more: object) -> list[object]:
    prices = [part for name, price in PRICES.items() for part in ("--set", f"budget.{name}={price}")]
    small = {"alpaca": ["--set", "alpaca.tasks.max_tokens=300"]}.get(strategy, [])
    again = ["--set", "retry.base_s=0.01", "--set", "retry.attempts=8"]
    return ["generate", run, *options(strategy, url, rows, *prices, *small, *again, *more)]


@pytest.fixture(scope="module")
def nursery() -> Iterator[Nursery]:
    with Nursery() as one:
        yield one


@dataclass
class Climb:
    """A run under increasing limits until its target is reached, and the bill under each limit."""

    limits: list[float] = field(default_factory=list)
    billed: list[float] = field(default_factory=list)
    requests: int = 0

    @property
    def fullest(self) -> float:
        """The largest fraction of a limit that was billed."""
        return max(billed / limit for billed, limit in zip(self.billed, self.limits, strict=True))


def climb(tmp_path: Path, nursery: Nursery, shop: Shop, limit: str, width: int, *, strategy: str, rows: int,
          first: float, kills: int = 0) -> Climb:  # fmt: skip
    """Raise the limit by half whenever it stops the run, and compare with a run without a limit.

    Args:
        first: The first limit.
        kills: How many processes are killed before that, under the first limit, after a few requests each.
    """
    log, climbed = tmp_path / "log", Climb()
    honest = Shop(lies=shop.lies)  # the same completions and usage, and no faults
    with opened(honest) as server:
        nursery.run(log, *line(tmp_path / "free", strategy, server.url, rows, "--concurrency", width))
    with opened(shop) as server:
        args = line(tmp_path / "run", strategy, server.url, rows, "--concurrency", width,
                    "--set", "openai.timeout_s=2")  # fmt: skip
        value: float = first
        for kill in range(kills):
            life, until = Life(nursery, log, *args, FLAGS[limit], value), shop.requests + 3 * (kill + 1)
            over = threading.Event()
            watch = threading.Thread(target=_kill_at, args=(life, shop, until, over))
            watch.start()
            life.wait()
            over.set()
            watch.join()
            assert shop.of(limit) <= value
        ending = 1
        while ending:
            life = Life(nursery, log, *args, FLAGS[limit], value)
            ending = life.wait()
            printed = log.read_text()
            assert ending == 0 or (ending == 1 and "stopped at the budget" in printed), printed
            climbed.limits.append(value)
            climbed.billed.append(shop.of(limit))
            assert shop.of(limit) <= value, f"the limit was {value} and the server counted {shop.of(limit)}"
            value = value * 1.5 if limit == "max_cost" else int(value * 1.5)
    climbed.requests = shop.requests
    assert len(climbed.limits) > 1, "the first limit never stopped the run"
    stored, sends = commits(tmp_path / "run"), commits(tmp_path / "run", "k, COUNT(*)", "sends GROUP BY k")
    assert sum(sends.values()) >= shop.requests, "a request arrived that the ledger has not recorded"
    assert not any(json.loads(body).get("code") for body in stored.values()), "the faults should be transient"
    assert made(tmp_path / "run") == made(tmp_path / "free")
    return climbed


def _kill_at(life: Life, shop: Shop, requests: int, over: threading.Event) -> None:
    while shop.requests < requests and not over.wait(0.001):
        pass
    life.kill()


FIRST = {"max_requests": 8, "max_tokens": 25_000, "max_cost": 0.12}


@pytest.mark.parametrize(
    ("limit", "width", "lies"), [("max_tokens", 8, NONSENSE), ("max_cost", 64, PROMPT_ALONE)], ids=["nonsense", "half"]
)
def test_the_server_s_own_count_stays_within_the_limit(
    tmp_path: Path, limit: str, width: int, lies: tuple[Any, ...], nursery: Nursery
) -> None:
    shop = Shop(lies=lies, fails=2)
    climb(tmp_path, nursery, shop, limit, width, strategy="alpaca", rows=40, first=FIRST[limit])


@pytest.mark.prove
def test_the_server_s_own_count_stays_within_every_limit_for_any_server(
    tmp_path: Path, nursery: Nursery, promise: Promise
) -> None:
    shops = {
        "honest": Shop,
        "failing": lambda: Shop(fails=5),
        "with false usage": lambda: Shop(lies=NONSENSE),
        "with usage of the prompt alone": lambda: Shop(lies=PROMPT_ALONE),
        "hanging, failing and with false usage": lambda: Shop(lies=NONSENSE + PROMPT_ALONE, fails=3, hangs=(2, 11)),
    }
    climbs = [
        climb(_made(tmp_path / f"{strategy} {limit} {width} {name}"), nursery, shop(), limit, width,
              strategy=strategy, rows={"alpaca": 60}.get(strategy, 12), first=FIRST[limit],
              kills=3 if "hanging" in name else 0)
        for place, limit in enumerate(FLAGS)
        for width in WIDTHS
        for name, shop in shops.items()
        for strategy in [sorted(STRATEGIES)[(place + WIDTHS.index(width)) % len(STRATEGIES)]]
    ]  # fmt: skip
    promise(
        "budgets",
        f"{len(climbs)} runs ({', '.join(FLAGS.values())}; concurrency {', '.join(map(str, WIDTHS))}; servers "
        f"{'; '.join(shops)}), {sum(len(one.limits) for one in climbs)} limits, "
        f"{sum(one.requests for one in climbs):,} requests by the servers' count: at most "
        f"{max(one.fullest for one in climbs):.1%} of a limit spent, and each run ended with the bytes of one without",
    )


def _made(folder: Path) -> Path:
    folder.mkdir()
    return folder


@pytest.mark.parametrize("limit", ["max_requests", "max_tokens", pytest.param("max_cost", marks=pytest.mark.prove)])
def test_requests_in_flight_at_a_kill_count_permanently(tmp_path: Path, limit: str, nursery: Nursery) -> None:
    """Two processes get no response and are killed: the third one has only the rest of the budget."""
    log, shop, width = tmp_path / "log", Shop(silent=True), 8
    with opened(shop) as server:
        args = line(tmp_path / "run", "alpaca", server.url, 60, "--concurrency", width)
        for life_number in (1, 2):
            life = Life(nursery, log, *args, FLAGS[limit], 10_000_000)
            _kill_at(life, shop, life_number * width, threading.Event())
            assert life.wait() == -9
        assert shop.requests == 2 * width
        shop.silent = False
        before = shop.of(limit)
        most = before + {"max_requests": 3, "max_tokens": 12_000, "max_cost": 0.05}[limit]
        assert "stopped at the budget" in nursery.run(log, *args, FLAGS[limit], most, code=1)
        assert before < shop.of(limit) <= most
        nursery.run(log, *args, "--set", f"budget.{limit}=null")
    with opened(Shop()) as server:
        nursery.run(log, *line(tmp_path / "free", "alpaca", server.url, 60, "--concurrency", width))
    assert made(tmp_path / "run") == made(tmp_path / "free")


class Held:
    """Completions that wait until the run sends nothing new.

    Args:
        shop: The server.
        free: Number of completions that don't wait.
    """

    def __init__(self, shop: Shop, free: int) -> None:
        self.progress: RunProgress | None = None
        self._shop, self._free, self._lock = shop, free, threading.Lock()
        self._came = 0

    @contextmanager
    def show(self, progress: RunProgress) -> Iterator[None]:
        self.progress = progress
        yield

    def answer(self, body: Body) -> dict[str, Any]:
        with self._lock:
            self._came += 1
            waits = self._came > self._free
        until = time.monotonic() + 20.0  # makes a run that never drains fail instead of hang
        while waits and self.progress and self.progress.phase == "running" and time.monotonic() < until:
            time.sleep(0.002)
        return self._shop.answer(body)


@pytest.mark.parametrize(("width", "free"), [(1, 3), (8, 12), (64, 90)])
def test_at_the_time_limit_requests_in_flight_are_stored_and_nothing_new_is_sent(
    tmp_path: Path, width: int, free: int
) -> None:
    shop = Shop()
    held = Held(shop, free)
    settings = {"backend": "openai", "strategy": "alpaca", "n": 400, "concurrency": width}
    with Loopback(held.answer, shop.fault) as server:
        openai = {"base_url": server.url, "model": "scripted", "api": "completion"}
        limit = {"budget": {"time_limit_s": 0.3}}
        result = generate(tmp_path / "run", {**settings, **limit, "openai": openai}, show=held.show)
        assert result.ending == "time"
        assert shop.requests <= free + width, "something new went out after the time limit"
        assert commits(tmp_path / "run").keys() == shop.answered
        assert sum(commits(tmp_path / "run", "k, COUNT(*)", "sends GROUP BY k").values()) == shop.requests
        # Without the time limit, the run continues to the same bytes.
        held.progress = None
        rows = len(result.rows) + 5
        more = {**settings, "n": rows, "openai": openai}
        assert generate(tmp_path / "run", {**more, "budget": {"time_limit_s": None}}).ending == "complete"
        generate(tmp_path / "free", more)
    assert made(tmp_path / "run") == made(tmp_path / "free")


def test_requests_in_flight_are_stored_when_the_budget_is_spent(tmp_path: Path, nursery: Nursery) -> None:
    """Eight requests are sent and answered only after the last one arrived, and all eight are stored."""
    shop, all_came = Shop(), threading.Event()

    def answer(body: Body) -> dict[str, Any]:
        if shop.requests == 8:
            all_came.set()
        assert all_came.wait(60)
        return shop.answer(body)

    with Loopback(answer, shop.fault) as server:
        args = line(tmp_path / "run", "alpaca", server.url, 60, "--concurrency", 64, "--max-requests", 8)
        assert "stopped at the budget" in nursery.run(tmp_path / "log", *args, code=1)
    assert shop.requests == len(commits(tmp_path / "run")) == 8


@settings(max_examples=25, deadline=None)
@given(
    st.sampled_from(["completion", "chat"]),
    st.one_of(st.none(), st.integers(0, 25)),
    st.one_of(st.none(), st.integers(0, 40_000)),
    st.one_of(st.none(), st.floats(0.0, 0.3)),
    st.integers(),
)
def test_no_bill_within_the_worst_cases_exceeds_a_limit(
    api: str, requests: int | None, tokens: int | None, cost: float | None, chaos: int
) -> None:
    """Budget and ledger alone: sends that succeed, fail, are repeated or lost, in any order, and kills."""
    dice, limits = random.Random(chaos), BudgetOptions(requests, tokens, cost, **PRICES)
    prompts = Prompts({"t": "$text"}, api)
    billed = Shop()
    with tempfile.TemporaryDirectory() as folder:
        ledger = Ledger(Path(folder), {}, {})
        budget, flight = Budget(limits, Spending(0, 0, 0, 0, 0)), {}
        for number in range(40):
            text, most = "é" * dice.randrange(1, 700), dice.randrange(1, 900)
            request = Request("s", prompts.turns("t", text=text), Sampling(most), number=number)
            if budget.fits(request):
                budget.reserve(request)
                flight[number] = request, *_sent(ledger, billed, request, dice, first=True)
            event = dice.random()
            if flight and event < 0.6:
                over = dice.choice(list(flight))
                request, send, used = flight.pop(over)
                if event < 0.2 and budget.fits(request):  # it failed and is sent again
                    budget.reserve(request)
                    flight[over] = request, *_sent(ledger, billed, request, dice, first=False)
                elif event < 0.3:
                    ledger.record_outcome(over, send, Failure("attempts", "no"), 0.0).result()
                else:
                    usage = Usage() if event < 0.35 else used
                    ledger.record_outcome(over, send, Completion((Choice("x", "stop"),), usage, "m"), 0.0).result()
                    budget.settle(request, usage)
            elif event > 0.95:  # killed: requests in flight are lost
                ledger.close()
                ledger = Ledger(Path(folder), {}, {})
                with Reader(Path(folder)) as reader:
                    again = Budget(limits, reader.spending())
                figures = [(one.sends, one.prompt_tokens, one.completion_tokens) for one in (budget, again)]
                assert figures[0] == figures[1], "a resumed run has other figures"
                budget, flight = again, {}
            assert requests is None or billed.requests <= requests
            assert tokens is None or billed.tokens <= tokens
            assert cost is None or billed.cost <= cost
        ledger.close()


def _sent(ledger: Ledger, billed: Shop, request: Request, dice: random.Random, *, first: bool) -> tuple[int, Usage]:
    """Record a send: the server bills anything up to the worst case, and reports it with a completion."""
    send, committed = ledger.record_send(request, worst_case(request), first=first)
    committed.result()
    used = Usage(*(dice.choice([most, dice.randrange(1, most + 1)]) for most in worst_case(request)))
    billed.requests += 1
    billed.prompt_tokens += used.prompt_tokens
    billed.completion_tokens += used.completion_tokens
    return send, used


def test_a_limit_on_cost_needs_prices(tmp_path: Path) -> None:
    said = run_cli("generate", tmp_path, *options("alpaca", "http://127.0.0.1:9/v1", 5), "--max-cost", 1, code=2)
    assert "price_input and price_output" in said
