"""Places at the server: halved by a 429, widened by answers, given by number."""

from __future__ import annotations

import asyncio

import pytest

from selfinstruct.engine.dispatch.concurrency import ConcurrencyLimiter


def test_a_throttled_window_halves_the_places_once() -> None:
    async def go() -> list[int]:
        pace, widths = ConcurrencyLimiter(16), []
        tickets = []
        for number in range(16):
            async with pace.place(number) as ticket:
                tickets.append(ticket)
        for ticket in tickets:  # all of one window are told the same
            pace.throttled(ticket)
            widths.append(pace.width)
        async with pace.place(99) as ticket:
            pace.throttled(ticket)
        widths.append(pace.width)
        return widths

    assert asyncio.run(go()) == [8] * 16 + [4]


def test_answers_widen_by_one_a_window_and_never_beyond_the_most() -> None:
    async def go() -> list[int]:
        pace = ConcurrencyLimiter(8)
        async with pace.place(0) as ticket:
            pace.throttled(ticket)
        widths = [pace.width]
        for _ in range(3):
            for _ in range(pace.width + 1):  # the fractions add up from below
                pace.answered()
            widths.append(pace.width)
        for _ in range(100):
            pace.answered()
        return [*widths, pace.width]

    assert asyncio.run(go()) == [4, 5, 6, 7, 8]


def test_there_is_always_a_place() -> None:
    async def go() -> int:
        pace = ConcurrencyLimiter(4)
        for number in range(10):
            async with pace.place(number) as ticket:
                pace.throttled(ticket)
        return pace.width

    assert asyncio.run(go()) == 1


def test_never_more_than_the_places_are_taken_and_the_lowest_number_goes_first() -> None:
    async def go() -> tuple[int, list[int]]:
        pace, inside, most, order = ConcurrencyLimiter(3), 0, 0, []

        async def stay(number: int) -> None:
            nonlocal inside, most
            async with pace.place(number):
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


def test_who_gives_up_waiting_takes_no_place() -> None:
    async def go() -> list[str]:
        pace, said = ConcurrencyLimiter(1), []

        async def stay(name: str, number: int, release: asyncio.Event) -> None:
            async with pace.place(number):
                said.append(name)
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
        async with pace.place(3):
            given = asyncio.create_task(stay("given", 4, rest))
            await asyncio.sleep(0)
        given.cancel()  # it was let in just now, and has not come in yet
        with pytest.raises(asyncio.CancelledError):
            await given
        await asyncio.wait_for(stay("last", 5, rest), 5)
        return said

    assert asyncio.run(go()) == ["holder", "late", "last"]
