"""Which server gets a request, and when one is set aside: on a clock that the test moves."""

from __future__ import annotations

import pytest

from selfinstruct.backends.openai.server_pool import ServerPool, Slot
from selfinstruct.errors import BackendError, TransientError, UnreachableError

LOST = UnreachableError("no answer from b: ConnectError (Connection refused)")
BROKEN = TransientError("b answered 500 (Internal Server Error)")


def busy(seconds: float | None = None) -> TransientError:
    return TransientError("b answered 429 (Too Many Requests)", retry_after=seconds, throttled=True)


class Bench:
    """A fleet, its clock, and what was told."""

    def __init__(self, names: str) -> None:
        self.now = 1000.0
        self.told: list[str] = []
        self.fleet = ServerPool(list(names), self.told.append, clock=lambda: self.now)
        self.names = names
        self._open: dict[Slot, object] = {}

    def take(self) -> Slot:
        context = self.fleet.place()
        place = context.__enter__()
        self._open[place] = context
        return place

    def give(self, place: Slot) -> None:
        self._open.pop(place).__exit__(None, None, None)  # type: ignore[attr-defined]

    def at(self, count: int) -> str:
        """Whom so many requests at once are given to."""
        places = [self.take() for _ in range(count)]
        for place in places:
            self.give(place)
        return "".join(self.names[place.at] for place in places)

    def fail(self, name: str, *errors: BackendError) -> list[BackendError]:
        """What becomes of failures of requests that were all at this server at once."""
        places = []
        while sum(self.names[place.at] == name for place in places) < len(errors):
            places.append(self.take())
        mine = [place for place in places if self.names[place.at] == name]
        found = [self.fleet.failed(place, error) for place, error in zip(mine, errors, strict=True)]
        for place in places:
            self.give(place)
        return found

    def answer(self, place: Slot) -> None:
        self.fleet.answered(place)
        self.give(place)


def test_the_next_request_goes_where_the_fewest_are() -> None:
    bench = Bench("abc")
    places = [bench.take() for _ in range(7)]
    assert [place.at for place in places] == [0, 1, 2, 0, 1, 2, 0]
    bench.answer(places[4])
    bench.answer(places[1])
    assert [bench.take().at for _ in range(4)] == [1, 1, 1, 2]


def test_an_unreachable_server_is_set_aside_at_once_and_asked_again_by_one() -> None:
    bench = Bench("ab")
    for error in bench.fail("b", LOST, LOST, LOST):
        assert isinstance(error, TransientError)
        assert (error.elsewhere, error.throttled, error.retry_after) == (1, False, None)
    assert bench.told == ["b set aside: ConnectError (Connection refused); 1 of 2 servers left"]
    assert bench.at(5) == "aaaaa"
    bench.now += 0.5
    assert bench.at(5) == "baaaa", "one tries it, and three failures at once were one"
    [error] = bench.fail("b", LOST)
    assert isinstance(error, TransientError)
    assert error.elsewhere == 1
    bench.now += 0.9
    assert bench.at(3) == "aaa", "the second pause is longer"
    bench.now += 0.1
    [probe, *others] = [bench.take() for _ in range(3)]
    assert [place.at for place in (probe, *others)] == [1, 0, 0]
    bench.answer(probe)
    assert bench.told[-1] == ""
    assert bench.take().at == 1, "back, and with the fewest"


def test_pauses_double_up_to_a_minute_and_begin_anew_after_an_answer() -> None:
    bench = Bench("ab")
    for pause in (0.5, 1, 2, 4, 8, 16, 32, 60, 60):
        bench.fail("b", LOST)
        bench.now += pause - 0.01
        assert bench.at(1) == "a"
        bench.now += 0.02
        assert bench.at(1) == "b"
    bench.answer(bench.take())
    bench.fail("b", LOST)
    bench.now += 0.5
    assert bench.at(1) == "b"


def test_server_errors_count_in_a_row_only() -> None:
    bench = Bench("ab")
    assert bench.fail("b", BROKEN, BROKEN) == [BROKEN, BROKEN]
    held, other = bench.take(), bench.take()
    assert other.at == 1
    bench.answer(other)
    assert bench.fail("b", BROKEN, BROKEN) == [BROKEN, BROKEN]
    [error] = bench.fail("b", BROKEN)
    assert isinstance(error, TransientError)
    assert error.elsewhere == 1
    assert bench.told == ["b set aside: answered 500 (Internal Server Error); 1 of 2 servers left"]
    bench.give(held)


def test_an_answer_on_the_way_brings_a_server_back() -> None:
    bench = Bench("ab")
    _, late, _, lost = [bench.take() for _ in range(4)]
    assert late.at == lost.at == 1
    bench.fleet.failed(lost, LOST)
    assert bench.fleet.standing
    bench.answer(late)
    assert bench.fleet.standing == ""


def test_a_refusal_is_for_good() -> None:
    bench = Bench("ab")
    [error] = bench.fail("b", BackendError("b answered 401 (Unauthorized). Set KEY to a valid key"))
    assert isinstance(error, TransientError)
    assert error.elsewhere == 1
    assert bench.told == ["b set aside: answered 401 (Unauthorized). Set KEY to a valid key; 1 of 2 servers left"]
    bench.now += 1e6
    assert bench.at(4) == "aaaa"
    [error] = bench.fail("a", BackendError("a answered 404"))
    assert type(error) is BackendError
    assert str(error).startswith("a answered 404 (a set aside: answered 404; b set aside: answered 401")
    assert str(error).endswith("0 of 2 servers left)")


def test_a_refusal_where_the_other_is_only_down_is_not_the_end() -> None:
    bench = Bench("ab")
    bench.fail("b", LOST)
    [error] = bench.fail("a", BackendError("a answered 401"))
    assert isinstance(error, TransientError)
    assert (error.elsewhere, error.throttled) == (0, False)
    assert bench.at(3) == "bbb", "though its pause is not over"


def test_where_none_is_up_the_first_whose_pause_ends_is_asked() -> None:
    bench = Bench("ab")
    bench.fail("b", LOST)
    bench.now += 0.1
    [error] = bench.fail("a", LOST.reworded("no answer from a: ConnectError", retry_after=7.0))
    assert isinstance(error, TransientError)
    assert (error.elsewhere, error.throttled, error.retry_after) == (0, False, 7.0)
    assert "0 of 2 servers left" in str(error)
    assert bench.at(2) == "bb"


def test_a_429_pauses_one_server_as_long_as_it_asks() -> None:
    bench = Bench("ab")
    for error in bench.fail("b", busy(30.0), busy(40.0)):
        assert isinstance(error, TransientError)
        assert (error.elsewhere, error.throttled) == (1, True)
    assert bench.told == [], "busy is not down"
    bench.now += 39.9
    assert bench.at(3) == "aaa"
    bench.now += 0.1
    assert bench.at(4) == "abaa", "and then it is given half of the two that it had"


def test_a_429_halves_its_share_once_a_window_and_answers_widen_it() -> None:
    bench = Bench("ab")
    bench.fail("b", *[busy(1.0)] * 8)
    bench.now += 1.0
    assert bench.at(16).count("b") == 4
    places = [bench.take() for _ in range(8)]
    for place in places:
        if place.at == 1:
            bench.fleet.answered(place)
    for place in places:
        bench.give(place)
    assert bench.at(16).count("b") == 5


def test_only_when_all_that_work_are_paused_does_everybody_wait() -> None:
    bench = Bench("abc")
    bench.fail("c", LOST)
    bench.fail("b", busy(30.0))
    bench.now += 10.0
    [error] = bench.fail("a", busy(50.0))
    assert isinstance(error, TransientError)
    assert (error.elsewhere, error.throttled, error.retry_after) == (0, True, pytest.approx(20.0))


def test_a_server_that_dies_while_the_other_is_paused_makes_all_wait_for_that() -> None:
    bench = Bench("ab")
    bench.fail("b", busy(30.0))
    [error] = bench.fail("a", UnreachableError("no answer from a: ReadError"))
    assert isinstance(error, TransientError)
    assert (error.elsewhere, error.throttled, error.retry_after) == (0, True, pytest.approx(30.0))


def test_one_server_alone_is_left_as_it_is() -> None:
    bench = Bench("b")
    for error in (LOST, BROKEN, busy(3.0), BackendError("no")):
        assert bench.fail("b", error) == [error]
    assert bench.told == []


def test_many_servers_that_are_down_are_told_in_few_words() -> None:
    bench = Bench("abcdefgh")
    for name in "abcdefg":
        bench.fail(name, UnreachableError(f"no answer from {name}: " + "x" * 500))
    assert bench.told[-1].endswith("; 3 more set aside; 1 of 8 servers left")
    assert len(bench.told[-1]) < 700
