"""The slots for requests in flight: halved by a 429, widened by answers, given in order of request number."""

from __future__ import annotations

import asyncio

import pytest

from selfinstruct.engine.dispatch.concurrency import ConcurrencyLimiter


def test_a_throttled_window_halves_the_slots_once() -> None:
    async def go() -> list[int]:
        limiter, widths = ConcurrencyLimiter(16), []
        tickets = []
        for number in range(16):
            async with limiter.slot(number) as ticket:
                tickets.append(ticket)
        for ticket in tickets:  # the whole window receives a 429
            limiter.throttled(ticket)
            widths.append(limiter.width)
        async with limiter.slot(99) as ticket:
            limiter.throttled(ticket)
        widths.append(limiter.width)
        return widths

    assert asyncio.run(go()) == [8] * 16 + [4]


def test_answers_widen_by_one_per_window_up_to_the_maximum() -> None:
    async def go() -> list[int]:
        limiter = ConcurrencyLimiter(8)
        async with limiter.slot(0) as ticket:
            limiter.throttled(ticket)
        widths = [limiter.width]
        for _ in range(3):
            for _ in range(limiter.width + 1):  # the fractions add up to slightly less than 1
                limiter.answered()
            widths.append(limiter.width)
        for _ in range(100):
            limiter.answered()
        return [*widths, limiter.width]

    assert asyncio.run(go()) == [4, 5, 6, 7, 8]


def test_at_least_one_slot_remains() -> None:
    async def go() -> int:
        limiter = ConcurrencyLimiter(4)
        for number in range(10):
            async with limiter.slot(number) as ticket:
                limiter.throttled(ticket)
        return limiter.width

    assert asyncio.run(go()) == 1


def test_no_more_slots_than_the_width_are_used_and_the_lowest_number_goes_first() -> None:
    async def go() -> tuple[int, list[int]]:
        limiter, inside, most, order = ConcurrencyLimiter(3), 0, 0, []

        async def stay(number: int) -> None:
            nonlocal inside, most
            async with limiter.slot(number):
                order.append(number)
                inside += 1
                most = max(most, inside)
                await asyncio.sleep(0)
                inside -= 1

        await asyncio.gather(*(stay(number) for number in (5, 6, 7, 9, 3, 8, 1)))
        return most, order

    most, order = asyncio.run(go())
    assert most == 3
    assert order == [5, 6, 7, 1, 3, 8, 9]


def test_a_cancelled_wait_uses_no_slot() -> None:
    async def go() -> list[str]:
        limiter, entered = ConcurrencyLimiter(1), []

        async def stay(name: str, number: int, release: asyncio.Event) -> None:
            async with limiter.slot(number):
                entered.append(name)
                await release.wait()

        first, rest = asyncio.Event(), asyncio.Event()
        rest.set()
        holder = asyncio.create_task(stay("holder", 0, first))
        await asyncio.sleep(0)
        early = asyncio.create_task(stay("early", 1, rest))
        late = asyncio.create_task(stay("late", 2, rest))
        await asyncio.sleep(0)
        early.cancel()
        first.set()
        await asyncio.wait_for(asyncio.gather(holder, late), 5)
        async with limiter.slot(3):
            admitted = asyncio.create_task(stay("admitted", 4, rest))
            await asyncio.sleep(0)
        admitted.cancel()  # after its admission, and before it has resumed
        with pytest.raises(asyncio.CancelledError):
            await admitted
        await asyncio.wait_for(stay("last", 5, rest), 5)
        return entered

    assert asyncio.run(go()) == ["holder", "late", "last"]
