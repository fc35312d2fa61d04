"""Measure whether the numba engines of the two indexes are worth a dependency, on a large pool.

    python bench/numba_ratio.py [--data FILE.jsonl.gz] [--pool N] [--bulk N] [--index NAME] [--write]

For each index (ROUGE-L and MinHash), both engines do the same work in turns, so that other load on the machine slows
both. Times are processor seconds (neither engine uses a second thread). The ratio of a turn is the time of numpy
divided by the time of numba; the table shows the median over the turns. A turn fails if the engines disagree on any
verdict. Numba stays for an index only if it is at least twice as fast in ``offer_many`` against the full pool.

The texts are the instructions of the data file, or generated texts without a file (``filters.load``). If the pool needs
more texts than the file has, each further text joins the beginning of one instruction to the end of another, both cut
at random words, which keeps the lengths and word frequencies of the file. Offered texts are a third each: instructions
that the pool lacks, recombined instructions, and texts of the pool with three random edits.
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import platform
import random
import statistics
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from unittest.mock import patch

from filters import edited, load
from reporting import RESULTS, hardware, today

from selfinstruct.filtering import FilterFileOptions, filter_file
from selfinstruct.filters import NearDuplicateIndex, NoveltyIndex

ENGINES = ("numpy", "numba")
INDEXES = {"ROUGE-L": NoveltyIndex, "MinHash": NearDuplicateIndex}
FILTERS = {"ROUGE-L": FilterFileOptions(rouge=0.7), "MinHash": FilterFileOptions(minhash=0.8)}
SEED = 15
BLOCK = 2_000  # texts offered at once by a bulk caller
BLOCK_TURNS = 3
COMPLETION = 6  # texts offered at once by a generation run: the tasks of one completion of `alpaca`
COMPLETIONS = 200  # completions in one turn
COMPLETION_TURNS = 3
BULK_TURNS = 3


@dataclass(frozen=True)
class Measurement:
    """The processor seconds that each engine took, turn by turn, for `texts` texts a turn."""

    index: str
    work: str
    texts: int
    seconds: dict[str, list[float]]

    @property
    def ratios(self) -> list[float]:
        return sorted(numpy / numba for numpy, numba in zip(*self.seconds.values(), strict=True))

    def line(self) -> str:
        per_text = [
            f"{statistics.median(self.seconds[engine]):.2f} s "
            f"({statistics.median(self.seconds[engine]) / self.texts * 1e6:,.0f} µs)"
            for engine in ENGINES
        ]
        ratio = f"{statistics.median(self.ratios):.2f}"
        spread = f"{self.ratios[0]:.2f} to {self.ratios[-1]:.2f}"
        cells = [self.index, self.work, f"{self.texts:,}", str(len(self.ratios)), *per_text, ratio, spread]
        return f"| {' | '.join(cells)} |"


def recombined(texts: list[str], count: int, rng: random.Random) -> list[str]:
    """Return `count` texts, each the beginning of one instruction joined to the end of another."""
    combinations = []
    for _ in range(count):
        first, second = rng.choice(texts).split(" "), rng.choice(texts).split(" ")
        beginning, end = first[: rng.randint(1, len(first))], second[rng.randrange(len(second)) :]
        combinations.append(" ".join(beginning + end))
    return combinations


def take_turns(index: str, work: str, texts: int, turns: int, do: Callable[[str, int], object]) -> Measurement:
    """Time `do(engine, turn)` for both engines in each turn; the engine that starts alternates."""
    seconds: dict[str, list[float]] = {engine: [] for engine in ENGINES}
    for turn in range(turns):
        results = {}
        for engine in ENGINES if turn % 2 else reversed(ENGINES):
            gc.collect()
            start = time.process_time()
            results[engine] = do(engine, turn)
            seconds[engine].append(time.process_time() - start)
        assert results["numpy"] == results["numba"], f"{index}, {work}: the engines disagree"
    measurement = Measurement(index, work, texts, seconds)
    print(measurement.line(), flush=True)
    return measurement


def measure(name: str, pool: list[str], offers: list[str], bulk: list[str]) -> list[Measurement]:
    """Measure one index: building it, offers against it in blocks and in small groups, and deduplication in bulk."""
    make = INDEXES[name]
    for engine in ENGINES:  # compiles the kernels
        make(engine=engine).fit(pool[:6_000]).offer_many(offers[:100])
    indexes = {engine: make(engine=engine) for engine in ENGINES}
    measurements = [
        take_turns(name, "fit, empty index", len(pool), 1, lambda engine, _: len(indexes[engine].fit(pool)))
    ]
    blocks = [offers[start : start + BLOCK] for start in range(0, BLOCK_TURNS * BLOCK, BLOCK)]
    measurements.append(
        take_turns(
            name,
            f"offer_many, {BLOCK:,} texts, full pool",
            BLOCK,
            BLOCK_TURNS,
            lambda engine, turn: indexes[engine].offer_many(blocks[turn]),
        )
    )
    rest = offers[BLOCK_TURNS * BLOCK :]

    def offer_completions(engine: str, turn: int) -> object:
        texts = rest[turn * COMPLETIONS * COMPLETION :][: COMPLETIONS * COMPLETION]
        return [indexes[engine].offer_many(texts[i : i + COMPLETION]) for i in range(0, len(texts), COMPLETION)]

    measurements.append(
        take_turns(
            name,
            f"offer_many, {COMPLETION} texts, full pool",
            COMPLETIONS * COMPLETION,
            COMPLETION_TURNS,
            offer_completions,
        )
    )
    indexes.clear()
    measurements.append(
        take_turns(
            name,
            "offer_many, all texts, empty index",
            len(bulk),
            BULK_TURNS,
            lambda engine, _: make(engine=engine).offer_many(bulk),
        )
    )
    return [*measurements, measure_command(name, bulk)]


def measure_command(name: str, texts: list[str]) -> Measurement:
    """Measure `selfinstruct filter` on a file of the texts, including reading and writing."""
    with tempfile.TemporaryDirectory() as folder:
        source = Path(folder) / "rows.jsonl"
        source.write_text("".join(json.dumps({"instruction": text}) + "\n" for text in texts), encoding="utf-8")

        def run(engine: str, _: int) -> int:
            modules = (
                "selfinstruct.filters.rouge.numpy_join.available",
                "selfinstruct.filters.minhash.index.available",
            )
            with patch(modules[0], lambda: engine == "numba"), patch(modules[1], lambda: engine == "numba"):
                return filter_file(str(source), str(Path(folder) / f"{engine}.jsonl"), FILTERS[name]).progress.kept

        flag = "--rouge" if name == "ROUGE-L" else "--minhash"
        return take_turns(name, f"selfinstruct filter {flag}", len(texts), BULK_TURNS, run)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, help="JSON lines with a field `instruction`, gzipped")
    parser.add_argument("--pool", type=int, default=500_000, help="texts of the pool")
    parser.add_argument("--bulk", type=int, default=60_000, help="texts of the pool that are deduplicated in bulk")
    parser.add_argument("--index", choices=list(INDEXES), action="append", help="measure one index; may be repeated")
    parser.add_argument("--write", action="store_true", help="also write the table into bench/results/")
    options = parser.parse_args()
    needed = BLOCK_TURNS * BLOCK + COMPLETION_TURNS * COMPLETIONS * COMPLETION
    rng = random.Random(SEED)
    texts, source = load(options.data, options.pool)
    rng.shuffle(texts)
    held_out, texts = texts[: needed // 3], texts[needed // 3 :]
    pool = texts[: options.pool] + recombined(texts, max(options.pool - len(texts), 0), rng)
    offers = held_out + recombined(texts, needed // 3, rng)
    offers += [edited(rng.choice(pool), rng, 3) for _ in range(needed - len(offers))]
    rng.shuffle(offers)
    bulk = pool[: options.bulk]
    head = [
        f"# Numba against numpy, {today()}",
        "",
        f"{len(pool):,} texts: {min(len(texts), len(pool)):,} instructions ({source}) and "
        f"{max(len(pool) - len(texts), 0):,} recombined from them (seed {SEED}), {hardware()}, "
        f"Python {platform.python_version()}, load {os.getloadavg()[0]:.1f} at the start. "
        f"Printed by `python bench/numba_ratio.py{f' --data {source}' if options.data else ''}`.",
        "",
        "| index | work | texts | turns | numpy, CPU (per text) | numba, CPU (per text) | ratio, median | range |",
        "|---|---|---|---|---|---|---|---|",
    ]
    print("\n".join(head), flush=True)
    measurements = [line for name in options.index or INDEXES for line in measure(name, pool, offers, bulk)]
    if options.write:
        lines = [*head, *(measurement.line() for measurement in measurements), ""]
        (RESULTS / f"numba-{today()}.md").write_text("\n".join(lines), encoding="utf-8")


if __name__ == "__main__":
    main()
