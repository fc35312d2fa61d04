"""Attempts, waits and the shared gate, with short real times on a real event loop unless a test replaces the sleep."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable

import pytest

from selfinstruct.backends.base import Backend
from selfinstruct.common.config import build
from selfinstruct.engine.dispatch.concurrency import ConcurrencyLimiter
from selfinstruct.engine.dispatch.retry import Retry, RetryOptions
from selfinstruct.errors import BackendError, ConfigError, RequestError, TransientError
from selfinstruct.records import Choice, Completion, PromptMessage, Request, Sampling, Usage

DONE = Completion((Choice("done", "stop"),), Usage(), "m")
QUICK = RetryOptions(attempts=4, base_s=0.001, cap_s=0.002, total_s=60)


def make(number: int = 0) -> Request:
    return Request("s", (PromptMessage("prompt", "t", {}, "p"),), Sampling(1), number=number)


class Scripted(Backend):
    """Answers each call as the script decides: with an error to raise, or with a completion if it returns None."""

    def __init__(self, script: Callable[[int, Request], Exception | None]) -> None:
        self.script = script
        self.calls = 0

    async def complete(self, request: Request) -> Completion:
        self.calls += 1
        if (error := self.script(self.calls, request)) is not None:
            raise error
        return DONE


class Log:
    def __init__(self) -> None:
        self.attempts: list[int] = []
        self.waits: list[float] = []

    async def before(self, request: Request, attempt: int) -> None:
        self.attempts.append(attempt)

    def waited(self, request: Request, error: TransientError, seconds: float) -> None:
        self.waits.append(seconds)


def attempt(script: Callable[[int, Request], Exception | None], options: RetryOptions = QUICK):
    """Return the outcome or error, the backend and the log of one request."""
    backend, log = Scripted(script), Log()

    async def go() -> Completion:
        return await Retry(options, on_wait=log.waited).complete(backend, make(), log.before)

    try:
        return asyncio.run(go()), backend, log
    except (BackendError, RequestError) as error:
        return error, backend, log


def test_first_success_is_returned_without_a_wait() -> None:
    outcome, backend, log = attempt(lambda call, _: None)
    assert outcome is DONE
    assert (backend.calls, log.attempts, log.waits) == (1, [1], [])


def test_transient_errors_are_retried_and_before_attempt_precedes_each_send() -> None:
    outcome, backend, log = attempt(lambda call, _: TransientError("down") if call < 3 else None)
    assert outcome is DONE
    assert log.attempts == [1, 2, 3]
    assert backend.calls == 3
    assert len(log.waits) == 2
    assert all(0 <= wait <= 0.002 for wait in log.waits)


def test_when_attempts_run_out_the_message_counts_them() -> None:
    outcome, backend, log = attempt(lambda call, _: TransientError(f"down {call}", retry_after=0.0))
    assert isinstance(outcome, TransientError)
    assert str(outcome) == "down 4 (after 4 attempts)"
    assert outcome.retry_after == 0.0
    assert backend.calls == 4
    assert len(log.waits) == 3, "no wait after the last attempt"


def test_a_429_uses_up_no_attempt_and_only_the_total_time_ends_it() -> None:
    def throttled(call: int, _: Request) -> TransientError | None:
        return TransientError("slow down", retry_after=0.002, throttled=True) if call <= 20 else None

    outcome, backend, _ = attempt(throttled, RetryOptions(attempts=2, base_s=0.0, total_s=60))
    assert outcome is DONE
    assert backend.calls == 21
    outcome, backend, _ = attempt(throttled, RetryOptions(attempts=2, base_s=0.0, total_s=0.0))
    assert isinstance(outcome, TransientError)
    assert outcome.throttled
    assert backend.calls == 1


def test_one_attempt_means_no_retry() -> None:
    outcome, backend, log = attempt(lambda *_: TransientError("down"), RetryOptions(attempts=1))
    assert str(outcome) == "down (after 1 attempt)"
    assert (backend.calls, log.waits) == (1, [])


@pytest.mark.parametrize("error", [RequestError("bad_request", "no"), BackendError("no key")])
def test_other_errors_are_raised_at_once_and_unchanged(error: Exception) -> None:
    outcome, backend, log = attempt(lambda *_: error)
    assert outcome is error
    assert (backend.calls, log.waits) == (1, [])


def test_retry_after_is_obeyed_to_the_second_even_above_the_cap() -> None:
    waited = RetryOptions(attempts=2, base_s=0.0, cap_s=0.0, total_s=60)
    _, _, log = attempt(lambda call, _: TransientError("busy", retry_after=0.02) if call == 1 else None, waited)
    assert log.waits == [0.02]


def test_a_wait_beyond_the_total_time_is_not_begun() -> None:
    outcome, backend, log = attempt(lambda *_: TransientError("busy", retry_after=3600.0))
    assert isinstance(outcome, TransientError)
    assert "next in 3.6e+03 s would be past the total of 60 s" in str(outcome)
    assert (backend.calls, log.waits) == (1, [])


@pytest.mark.parametrize(
    ("retry_after", "waits"), [(None, [0.25, 0.5, 1.0, 1.5, 1.5]), (7.0, [7.0] * 5), (0.0, [0.0] * 5)]
)
def test_each_further_attempt_after_a_5xx_sleeps_first(
    retry_after: float | None, waits: list[float], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Sends and sleeps alternate, and each sleep has the length of the server's Retry-After or of the backoff."""
    monkeypatch.setattr(random, "random", lambda: 0.5)  # half of the longest wait
    events: list[str | float] = []

    def script(call: int, _: Request) -> TransientError | None:
        events.append("send")
        return TransientError("server answered 503", retry_after=retry_after) if call < 6 else None

    async def sleep(seconds: float) -> None:
        events.append(seconds)

    async def main() -> Completion:
        retry = Retry(RetryOptions(attempts=6, base_s=0.5, cap_s=3.0), sleep=sleep)
        return await retry.complete(Scripted(script), make(), Log().before)

    assert asyncio.run(main()) is DONE
    assert events == ["send", *(event for wait in waits for event in (wait, "send"))]


def test_waits_double_up_to_the_cap() -> None:
    options = RetryOptions(attempts=12, base_s=1.0, cap_s=30.0)
    retry = Retry(options)
    for number in range(1, 2000):
        longest = max(retry._wait_s(TransientError(""), number) for _ in range(20))
        assert longest <= min(30.0, 2.0 ** min(number - 1, 10))


@pytest.mark.parametrize("asked", [0.0, -5.0, None])
def test_a_429_that_asks_for_no_wait_still_backs_off(asked: float | None) -> None:
    retry = Retry(RetryOptions(base_s=1.0, cap_s=30.0))
    failure = TransientError("slow down", retry_after=asked, throttled=True)
    for number in (*range(1, 8), 1000):
        longest = min(30.0, 2.0 ** min(number - 1, 10))
        assert all(longest / 2 <= retry._wait_s(failure, number) <= longest for _ in range(20))
    assert Retry(RetryOptions(base_s=0.0, cap_s=0.0))._wait_s(failure, 1) >= 0.005
    assert retry._wait_s(TransientError("", retry_after=50.0, throttled=True), 1) == 50.0


def test_a_server_that_always_throttles_receives_few_requests_until_the_total_time() -> None:
    options = RetryOptions(attempts=2, base_s=0.02, total_s=1.0)
    outcome, backend, log = attempt(lambda *_: TransientError("slow", retry_after=0.0, throttled=True), options)
    assert isinstance(outcome, TransientError)
    assert "would be past the total of 1 s" in str(outcome)
    assert 2 < backend.calls <= 8, "waits of at least 10, 20, 40, 80, 160 and 320 ms fit in 1 s"
    assert min(log.waits) >= 0.009


def test_an_error_of_before_attempt_passes_through() -> None:
    backend = Scripted(lambda *_: None)

    async def before(request: Request, number: int) -> None:
        raise LookupError("over budget")

    with pytest.raises(LookupError):
        asyncio.run(Retry(QUICK).complete(backend, make(), before))
    assert backend.calls == 0


def test_a_429_to_one_request_pauses_all() -> None:
    """While the gate is closed nothing is sent; once it opens, every request is."""
    pause = 0.05

    async def go() -> None:
        loop, sent = asyncio.get_running_loop(), []

        def script(call: int, request: Request) -> Exception | None:
            sent.append(loop.time())
            if call == 1:
                return TransientError("slow down", retry_after=pause, throttled=True)
            return None

        retry, backend, log = Retry(QUICK), Scripted(script), Log()
        tasks = [asyncio.create_task(retry.complete(backend, make(k), log.before)) for k in range(9)]
        await asyncio.gather(*tasks)
        assert len(sent) == 10
        first, rest = sent[0], sent[1:]
        early = [time for time in rest if time - first < pause - 0.001]
        assert early == [], "no request is sent before the time that the server asked for"

    asyncio.run(go())


def test_a_pause_beyond_the_total_time_ends_all_requests() -> None:
    """It ends the request that received the 429, and those not sent yet, with the 429 as the reason."""

    async def go() -> None:
        retry, backend, log = (
            Retry(QUICK),
            Scripted(lambda *_: TransientError("", retry_after=1e6, throttled=True)),
            Log(),
        )
        for attempts in (1, 0, 0):
            with pytest.raises(TransientError, match=f"after {attempts} attempts?, and the next in 1e") as caught:
                await retry.complete(backend, make(), log.before)
            assert caught.value.throttled
        assert (backend.calls, log.waits) == (1, [])

    asyncio.run(go())


def test_a_request_that_waits_for_another_requests_429_ends_with_that_429() -> None:
    """It met a passing fault, and before its next attempt another request received a long 429."""

    async def go() -> None:
        throttled = asyncio.Event()

        class Mixed(Scripted):
            async def complete(self, request: Request) -> Completion:
                if request.number == 0:
                    await throttled.wait()
                    raise TransientError("down")
                throttled.set()
                raise TransientError("slow down", retry_after=1e6, throttled=True)

        retry, log = Retry(QUICK), Log()
        tasks = [retry.complete(Mixed(lambda *_: None), make(number), log.before) for number in (0, 1)]
        for error in await asyncio.gather(*tasks, return_exceptions=True):
            assert isinstance(error, TransientError)
            assert error.throttled
            assert "slow down (after 1 attempt, and the next in" in str(error)

    asyncio.run(go())


def test_an_error_other_than_a_429_pauses_no_other_request() -> None:
    async def go() -> None:
        def script(call: int, request: Request) -> Exception | None:
            return TransientError("down", retry_after=30.0) if request.number == 0 else None

        retry, log = Retry(QUICK), Log()
        stuck = asyncio.create_task(retry.complete(Scripted(script), make(0), log.before))
        await asyncio.sleep(0)
        assert await retry.complete(Scripted(script), make(1), log.before) is DONE
        assert not stuck.done()
        stuck.cancel()
        with pytest.raises(asyncio.CancelledError):
            await stuck

    asyncio.run(go())


def test_moving_to_another_server_costs_a_send_but_no_attempt_and_no_wait() -> None:
    def script(call: int, _: Request) -> TransientError | None:
        return TransientError("dead", elsewhere=2) if call <= 2 else None

    outcome, backend, log = attempt(script, RetryOptions(attempts=1, base_s=60.0, total_s=0.0))
    assert outcome is DONE
    assert (backend.calls, log.attempts, log.waits) == (3, [1, 2, 3], [0.0, 0.0])


def test_a_request_on_which_servers_fail_moves_once_per_other_server() -> None:
    outcome, backend, log = attempt(lambda *_: TransientError("dead", elsewhere=2))
    assert str(outcome) == "dead (after 6 attempts)"
    assert backend.calls == QUICK.attempts + 2
    assert log.waits.count(0.0) == 2


def test_a_429_pauses_no_request_while_another_server_is_up() -> None:
    def script(call: int, _: Request) -> TransientError | None:
        return TransientError("", retry_after=1e6, throttled=True, elsewhere=1) if call <= 5 else None

    async def go() -> None:
        limiter, backend, log = ConcurrencyLimiter(4), Scripted(script), Log()
        retry = Retry(RetryOptions(attempts=1, base_s=60.0), limiter, on_wait=log.waited)
        assert await retry.complete(backend, make(), log.before) is DONE
        assert await retry.complete(backend, make(), log.before) is DONE, "the gate is open"
        assert (backend.calls, log.waits, limiter.width) == (7, [0.0] * 5, 4)

    asyncio.run(go())


def test_a_429_after_the_total_time_ends_the_request_even_if_another_server_is_up() -> None:
    outcome, backend, _ = attempt(
        lambda *_: TransientError("slow", throttled=True, elsewhere=1), RetryOptions(attempts=1, total_s=0.0)
    )
    assert isinstance(outcome, TransientError)
    assert outcome.throttled
    assert backend.calls == 1


@pytest.mark.parametrize("wrong", [{"attempts": 0}, {"base_s": -1.0}, {"total_s": -0.1}])
def test_options_out_of_range_are_refused(wrong: dict) -> None:
    with pytest.raises(ValueError, match=r"^(attempts must be|base_s, cap_s and total_s are)"):
        RetryOptions(**wrong)
    with pytest.raises(ConfigError, match=r"^retry: (attempts|base_s)"):
        build(RetryOptions, wrong, "retry")
