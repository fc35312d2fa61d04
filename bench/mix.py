"""What it takes to draw which method asks next: proposals a second of a mixed run, with full accounts.

    python bench/mix.py [--seconds S]

Each method is alpaca with its published options; ``alone`` is what it takes without a mix.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable

from selfinstruct.common.resources import builtin_prompts, builtin_seeds
from selfinstruct.common.rng import Rng
from selfinstruct.pool import Pool
from selfinstruct.prompts import Prompts
from selfinstruct.records import Request
from selfinstruct.seeds import load_seeds
from selfinstruct.strategies import Alpaca
from selfinstruct.strategies.mixture import MixtureMember, MixtureOptions, MixtureStrategy, last_of_race

JUDGED = 256  # requests of each method in its account, with 0 to 8 rows


def pool_of(labels: str) -> Pool:
    """A pool in which every method has brought about as much."""
    pool = Pool(load_seeds(builtin_seeds()))
    for label in labels:
        for number in range(JUDGED):
            pool.progress_by_method[label].add(number % 9, 900 + number % 50)
    return pool


def rate(call: Callable[[int], object], seconds: float) -> float:
    """Calls a second, the best of three spells."""
    best, number = 0.0, 0
    for _ in range(3):
        began, before = time.perf_counter(), number
        while time.perf_counter() - began < seconds:
            call(number)
            number += 1
        best = max(best, (number - before) / (time.perf_counter() - began))
    return best


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=1.0, help="of each of three spells")
    seconds = parser.parse_args().seconds
    alpaca = Alpaca(Alpaca.Options(), Prompts.load(Alpaca.templates, "completion", builtin_prompts()))
    pool = pool_of("")

    def alone(number: int) -> Request | None:
        return alpaca.propose(pool, Rng("propose", 0, number))

    print("| methods | proposals a second | of them the race alone |")
    print("|---|---|---|")
    print(f"| alone | {rate(alone, seconds):,.0f} | - |")
    for count in (2, 3, 5, 10):
        labels = "abcdefghij"[:count]
        mixed = MixtureStrategy(MixtureOptions(), [MixtureMember(label, 1.0, alpaca) for label in labels], adapt=True)
        view = pool_of(labels)
        shapes, exposures = [65] * count, [1000.0] * count
        asked = rate(lambda number, m=mixed, v=view: m.propose(v, Rng("propose", 0, number)), seconds)
        raced = rate(lambda number, s=shapes, e=exposures: last_of_race(s, e, Rng("race", number)), seconds)
        print(f"| {count} | {asked:,.0f} | {raced:,.0f} |")


if __name__ == "__main__":
    main()
