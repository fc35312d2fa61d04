"""Completions in any order, at any concurrency: the same bytes."""

from __future__ import annotations

import random
import threading
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import Promise
from tests.crash.test_kill import Nursery, commits, made, number_of, options, out_of_order
from tests.loopback import Body, Fault, Loopback
from tests.scripted import SETTINGS, reply

WIDTHS = (1, 8, 64)
QUIET_S = 0.02  # after this time without a new request, the server assumes that no more are coming

Pick = Callable[[Sequence[int]], Sequence[int]]
"""Chooses from the numbers of the held requests, lowest first, those to answer now, in order."""

PICKS: dict[str, Callable[[], Pick]] = {
    "lowest last": lambda: lambda held: held[-1:],  # while the lowest is held, nothing can be processed
    "all, backwards": lambda: lambda held: held[::-1],
    "random": lambda: at_random(random.Random(5)),
}
LAGS = {"alpaca": 64, "self-instruct": 64}
LAG_ELSEWHERE = 16  # where a row takes many requests, a small lag lets them depend on earlier answers after a few rows
ROWS = {"alpaca": 60, "self-instruct": 40, "quality": 3}
ROWS_ELSEWHERE = 6
ORDERS = ("as they come", "slow by digest", "after faults", *PICKS)


def at_random(dice: random.Random) -> Pick:
    return lambda held: [dice.choice(held)]


@pytest.fixture(scope="module")
def nursery() -> Iterator[Nursery]:
    with Nursery() as one:
        yield one


class Conductor:
    """A model that holds requests until no more can arrive, and then answers the ones that ``pick`` chooses.

    It assumes that no more can arrive once it holds ``width``, or when no new one has arrived for ``QUIET_S``. If that
    is too short, the order is a different one, and never a wrong one.

    Attributes:
        overtaken: The largest number of completions that were sent before one to a lower request number.
    """

    def __init__(self, pick: Pick, width: int) -> None:
        self.overtaken = 0
        self._pick, self._width = pick, width
        self._held: dict[int, threading.Event] = {}
        self._came, self._ended = 0, False
        self._given: list[int] = []
        self._news = threading.Condition()
        self._thread = threading.Thread(target=self._conduct)

    def __enter__(self) -> Conductor:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        with self._news:
            self._ended = True
            self._news.notify()
        self._thread.join()

    def __call__(self, body: Body) -> str:
        go = threading.Event()
        with self._news:
            self._held[number_of(body)] = go
            self._came += 1
            self._news.notify()
        go.wait()
        return reply(body)

    def _conduct(self) -> None:
        with self._news:
            while not self._ended:
                seen = self._came
                if len(self._held) < self._width and self._news.wait_for(
                    lambda seen=seen: self._ended or self._came != seen, QUIET_S if self._held else None
                ):
                    continue
                for number in self._pick(sorted(self._held)):
                    self._held.pop(number).set()
                    self.overtaken = max(self.overtaken, sum(given > number for given in self._given))
                    self._given.append(number)
            for go in self._held.values():
                go.set()


def first_fails(arrived: Counter[int]) -> Callable[[int, Any], Fault | None]:
    """Let every third request fail on its first attempt."""

    def fault(_order: int, body: Body) -> Fault | None:
        number = number_of(body)
        arrived[number] += 1
        if number % 3 or arrived[number] > 1:
            return None
        return (Fault(503), Fault(429, {"retry-after-ms": "10"}), Fault(how="reset"))[number % 9 // 3]

    return fault


def generate(run: Path, nursery: Nursery, strategy: str, order: str, width: int, rows: int) -> tuple[Any, int]:
    """Make a run whose completions arrive in an order.

    Returns:
        Its dataset and manifest with the digest of each processed request, and ``Conductor.overtaken``.
    """
    plain = order not in PICKS
    with Conductor(PICKS.get(order, lambda: lambda held: held)(), width) as conductor, Loopback(
        reply if plain else conductor,
        first_fails(Counter()) if order == "after faults" else None,
        delay=out_of_order if order == "slow by digest" else 0.0,
    ) as server:  # fmt: skip
        lag = LAGS.get(strategy, LAG_ELSEWHERE)
        more = ["--concurrency", width, "--set", "retry.base_s=0.01", "--set", f"lag={lag}"]
        nursery.run(run.with_suffix(".log"), "generate", run, *options(strategy, server.url, rows, *more))
    digests = commits(run, "k, digest", "requests")
    shared = {number: digests[number] for number in commits(run)}
    return (made(run), shared), conductor.overtaken


def compare(tmp_path: Path, nursery: Nursery, strategy: str, cases: Sequence[tuple[str, int]], rows: int) -> list[int]:
    """Run each case, an order and a concurrency, and compare it with a sequential run."""
    (plain, plain_digests), _ = generate(tmp_path / "plain", nursery, strategy, "as they come", 1, rows)
    overtaken = []
    for number, (order, width) in enumerate(cases):
        run = tmp_path / str(number)
        (result, digests), most = generate(run, nursery, strategy, order, width, rows)
        assert result == plain, (order, width)
        # A wider run sends further ahead; requests that both sent are equal.
        assert plain_digests.items() <= digests.items(), (order, width)
        if order in PICKS:
            overtaken.append(most)
            assert (most > 0) == (width > 1), "the intended order did not occur"
    return overtaken


@pytest.mark.parametrize("strategy", SETTINGS)
def test_completions_in_an_adverse_order_give_the_same_bytes(tmp_path: Path, strategy: str, nursery: Nursery) -> None:
    second = ("random", 8) if strategy == "alpaca" else ("after faults", 8)
    compare(tmp_path, nursery, strategy, [("lowest last", 64), second], ROWS.get(strategy, ROWS_ELSEWHERE))


@pytest.mark.prove
@pytest.mark.parametrize("strategy", SETTINGS)
def test_every_order_at_every_concurrency_gives_the_same_bytes(
    tmp_path: Path, strategy: str, nursery: Nursery, promise: Promise
) -> None:
    cases = [(order, width) for order in ORDERS for width in WIDTHS]
    rows = {"alpaca": 250, "self-instruct": 100}.get(strategy, 24)
    overtaken = compare(tmp_path, nursery, strategy, cases, rows)
    answers = sum(len(commits(tmp_path / str(number))) for number in range(len(cases)))
    promise(
        "determinism",
        f"{strategy}: {len(cases)} runs ({len(ORDERS)} orders of answers: {', '.join(ORDERS)}; concurrency "
        f"{', '.join(map(str, WIDTHS))}), {answers:,} answers, one of them after {max(overtaken)} answers to later "
        "requests: dataset and manifest are the same bytes",
    )
