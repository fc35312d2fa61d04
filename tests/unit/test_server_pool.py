"""The choice of a server, and the servers that are set aside, on a clock that the test moves."""

from __future__ import annotations

from contextlib import AbstractContextManager

import pytest

from selfinstruct.backends.openai.server_pool import ServerPool, Slot
from selfinstruct.errors import BackendError, TransientError, UnreachableError

LOST = UnreachableError("no answer from b: ConnectError (Connection refused)")
BROKEN = TransientError("b answered 500 (Internal Server Error)")


def busy(seconds: float | None = None) -> TransientError:
    return TransientError("b answered 429 (Too Many Requests)", retry_after=seconds, throttled=True)


class Bench:
    """A pool with its clock and the status lines that it reported. Servers are named by letters."""

    def __init__(self, names: str) -> None:
        self.now = 1000.0
        self.status_lines: list[str] = []
        self.pool = ServerPool(list(names), self.status_lines.append, clock=lambda: self.now)
        self.names = names
        self._open: dict[Slot, AbstractContextManager[Slot]] = {}

    def acquire(self) -> Slot:
        context = self.pool.acquire()
        slot = context.__enter__()
        self._open[slot] = context
        return slot

    def release(self, slot: Slot) -> None:
        self._open.pop(slot).__exit__(None, None, None)

    def choose(self, count: int) -> str:
        """Return the servers chosen for ``count`` simultaneous requests."""
        slots = [self.acquire() for _ in range(count)]
        for slot in slots:
            self.release(slot)
        return "".join(self.names[slot.index] for slot in slots)

    def fail(self, name: str, *errors: BackendError) -> list[BackendError]:
        """Return the pool's errors after simultaneous requests at one server failed with ``errors``."""
        slots: list[Slot] = []
        while sum(self.names[slot.index] == name for slot in slots) < len(errors):
            slots.append(self.acquire())
        failed = [slot for slot in slots if self.names[slot.index] == name]
        raised = [self.pool.failed(slot, error) for slot, error in zip(failed, errors, strict=True)]
        for slot in slots:
            self.release(slot)
        return raised

    def answer(self, slot: Slot) -> None:
        self.pool.answered(slot)
        self.release(slot)


def test_the_server_with_the_fewest_requests_is_chosen() -> None:
    bench = Bench("abc")
    slots = [bench.acquire() for _ in range(7)]
    assert [slot.index for slot in slots] == [0, 1, 2, 0, 1, 2, 0]
    bench.answer(slots[4])
    bench.answer(slots[1])
    assert [bench.acquire().index for _ in range(4)] == [1, 1, 1, 2]


def test_an_unreachable_server_is_set_aside_at_once_and_tested_by_one_request() -> None:
    bench = Bench("ab")
    for error in bench.fail("b", LOST, LOST, LOST):
        assert isinstance(error, TransientError)
        assert (error.elsewhere, error.throttled, error.retry_after) == (1, False, None)
    assert bench.status_lines == ["b set aside: ConnectError (Connection refused); 1 of 2 servers left"]
    assert bench.choose(5) == "aaaaa"
    bench.now += 0.5
    assert bench.choose(5) == "baaaa", "one request tests it, and three simultaneous failures count as one"
    [error] = bench.fail("b", LOST)
    assert isinstance(error, TransientError)
    assert error.elsewhere == 1
    bench.now += 0.9
    assert bench.choose(3) == "aaa", "the second pause is longer"
    bench.now += 0.1
    [probe, *others] = [bench.acquire() for _ in range(3)]
    assert [slot.index for slot in (probe, *others)] == [1, 0, 0]
    bench.answer(probe)
    assert bench.status_lines[-1] == ""
    assert bench.acquire().index == 1, "it is back, and has the fewest requests"


def test_pauses_double_up_to_a_minute_and_restart_after_an_answer() -> None:
    bench = Bench("ab")
    for pause in (0.5, 1, 2, 4, 8, 16, 32, 60, 60):
        bench.fail("b", LOST)
        bench.now += pause - 0.01
        assert bench.choose(1) == "a"
        bench.now += 0.02
        assert bench.choose(1) == "b"
    bench.answer(bench.acquire())
    bench.fail("b", LOST)
    bench.now += 0.5
    assert bench.choose(1) == "b"


def test_only_consecutive_server_errors_count() -> None:
    bench = Bench("ab")
    assert bench.fail("b", BROKEN, BROKEN) == [BROKEN, BROKEN]
    held, other = bench.acquire(), bench.acquire()
    assert other.index == 1
    bench.answer(other)
    assert bench.fail("b", BROKEN, BROKEN) == [BROKEN, BROKEN]
    [error] = bench.fail("b", BROKEN)
    assert isinstance(error, TransientError)
    assert error.elsewhere == 1
    assert bench.status_lines == ["b set aside: answered 500 (Internal Server Error); 1 of 2 servers left"]
    bench.release(held)


def test_the_answer_to_an_earlier_request_restores_a_server() -> None:
    bench = Bench("ab")
    _, late, _, lost = [bench.acquire() for _ in range(4)]
    assert late.index == lost.index == 1
    bench.pool.failed(lost, LOST)
    assert bench.pool.status_line
    bench.answer(late)
    assert bench.pool.status_line == ""


def test_a_refusal_sets_a_server_aside_permanently() -> None:
    bench = Bench("ab")
    [error] = bench.fail("b", BackendError("b answered 401 (Unauthorized). Set KEY to a valid key"))
    assert isinstance(error, TransientError)
    assert error.elsewhere == 1
    expected = "b set aside: answered 401 (Unauthorized). Set KEY to a valid key; 1 of 2 servers left"
    assert bench.status_lines == [expected]
    bench.now += 1e6
    assert bench.choose(4) == "aaaa"
    [error] = bench.fail("a", BackendError("a answered 404"))
    assert type(error) is BackendError
    assert str(error).startswith("a answered 404 (a set aside: answered 404; b set aside: answered 401")
    assert str(error).endswith("0 of 2 servers left)")


def test_a_refusal_does_not_end_the_run_while_another_server_is_only_down() -> None:
    bench = Bench("ab")
    bench.fail("b", LOST)
    [error] = bench.fail("a", BackendError("a answered 401"))
    assert isinstance(error, TransientError)
    assert (error.elsewhere, error.throttled) == (0, False)
    assert bench.choose(3) == "bbb", "although its pause is not over"


def test_if_no_server_is_up_the_one_whose_pause_ends_first_is_chosen() -> None:
    bench = Bench("ab")
    bench.fail("b", LOST)
    bench.now += 0.1
    [error] = bench.fail("a", LOST.reworded("no answer from a: ConnectError", retry_after=7.0))
    assert isinstance(error, TransientError)
    assert (error.elsewhere, error.throttled, error.retry_after) == (0, False, 7.0)
    assert "0 of 2 servers left" in str(error)
    assert bench.choose(2) == "bb"


def test_a_429_pauses_one_server_for_the_time_it_asks() -> None:
    bench = Bench("ab")
    for error in bench.fail("b", busy(30.0), busy(40.0)):
        assert isinstance(error, TransientError)
        assert (error.elsewhere, error.throttled) == (1, True)
    assert bench.status_lines == [], "a busy server is not down"
    bench.now += 39.9
    assert bench.choose(3) == "aaa"
    bench.now += 0.1
    assert bench.choose(4) == "abaa", "it then receives half of its two requests"


def test_a_429_halves_the_capacity_once_per_window_and_answers_widen_it() -> None:
    bench = Bench("ab")
    bench.fail("b", *[busy(1.0)] * 8)
    bench.now += 1.0
    assert bench.choose(16).count("b") == 4
    slots = [bench.acquire() for _ in range(8)]
    for slot in slots:
        if slot.index == 1:
            bench.pool.answered(slot)
    for slot in slots:
        bench.release(slot)
    assert bench.choose(16).count("b") == 5


def test_every_request_waits_only_if_all_working_servers_are_paused() -> None:
    bench = Bench("abc")
    bench.fail("c", LOST)
    bench.fail("b", busy(30.0))
    bench.now += 10.0
    [error] = bench.fail("a", busy(50.0))
    assert isinstance(error, TransientError)
    assert (error.elsewhere, error.throttled, error.retry_after) == (0, True, pytest.approx(20.0))


def test_if_a_server_fails_while_the_other_is_paused_every_request_waits_for_the_pause() -> None:
    bench = Bench("ab")
    bench.fail("b", busy(30.0))
    [error] = bench.fail("a", UnreachableError("no answer from a: ReadError"))
    assert isinstance(error, TransientError)
    assert (error.elsewhere, error.throttled, error.retry_after) == (0, True, pytest.approx(30.0))


def test_a_pool_of_one_server_passes_errors_on_unchanged() -> None:
    bench = Bench("b")
    for error in (LOST, BROKEN, busy(3.0), BackendError("no")):
        assert bench.fail("b", error) == [error]
    assert bench.status_lines == []


def test_the_status_line_stays_short_with_many_servers_down() -> None:
    bench = Bench("abcdefgh")
    for name in "abcdefg":
        bench.fail(name, UnreachableError(f"no answer from {name}: " + "x" * 500))
    assert bench.status_lines[-1].endswith("; 3 more set aside; 1 of 8 servers left")
    assert len(bench.status_lines[-1]) < 700
