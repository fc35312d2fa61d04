"""How fast the engine is by itself: a model that answers at once, every filter on, a real ledger on disk.

    python bench/engine.py [--strategy NAME,...] [--rows N] [--repeats N] [--concurrency N] [-o FILE.md]

The answers are made beforehand, so that what is measured is ours: proposing, rendering, committing, parsing, judging.
Each turn is a run of its own in a fresh folder; the time is that from the first request to the last row.
"""

from __future__ import annotations

import argparse
import asyncio
import cProfile
import datetime
import platform
import pstats
import resource
import shutil
import statistics
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from selfinstruct.engine.dispatch.budget import Budget
from selfinstruct.engine.loop import Engine
from selfinstruct.engine.plan import make_plan
from selfinstruct.engine.progress import RunProgress
from selfinstruct.engine.run_state import RunState
from selfinstruct.ledger import LEDGER_FILE, Ledger, Reader
from selfinstruct.records import Choice, Completion, Request, Usage
from selfinstruct.runs.export import update_dataset

RESULTS = Path(__file__).parent / "results"
WORDS = 20_000
LATER = 7  # tasks of an answer
PROFILED = 4_000  # rows
SHOWN = 25  # functions of a profile


@dataclass(frozen=True)
class Turn:
    """What one run came to."""

    seconds: float
    rows: int
    candidates: int
    requests: int
    megabytes: float


class Null:
    """A model of no size: its answers lie ready."""

    def __init__(self, strategy: str, rows: int, concurrency: int) -> None:
        self.concurrency = concurrency
        self._random = np.random.default_rng(0)
        self._words = ["".join(chr(97 + one) for one in word) for word in self._random.integers(0, 26, (WORDS, 6))]
        self._lists = [self._list(strategy) for _ in range(rows // LATER * 3 // 2 + 300)]  # the line asks ahead
        self._instances = [f"\nOutput: {self._text(25)}" for _ in range(rows * 2)]
        self._asked = self._tasks = 0

    async def start(self) -> None:
        """Nothing to do."""

    async def close(self) -> None:
        """Nothing to do."""

    async def complete(self, request: Request) -> Completion:
        if request.stage in ("instructions", "tasks"):
            first = int(str(request.context["first"]))
            text = self._lists[self._asked % len(self._lists)].replace("@", str(first), 1)
            self._asked += 1
            for place in range(1, LATER):
                text = text.replace("@", str(first + place), 1)
        elif request.stage == "classify":
            text = " no"
        else:
            text = self._instances[self._tasks % len(self._instances)]
            self._tasks += 1
        return Completion((Choice(text, "stop"),), Usage(700, len(text) // 4), "null")

    def _text(self, words: int) -> str:
        return " ".join(self._words[one] for one in self._random.integers(0, WORDS, words))

    def _list(self, strategy: str) -> str:
        if strategy == "self-instruct":
            return "\n".join(f"@. {self._text(14)}".removeprefix("@." if not place else "") for place in range(LATER))
        blocks = [
            f"{'' if not place else '### Task @' + chr(10) + 'Instruction:'} {self._text(14)}\n"
            f"Input: <noinput>\nOutput: {self._text(25)}"
            for place in range(LATER)
        ]
        return "\n\n".join(blocks)


def turn(strategy: str, rows: int, concurrency: int) -> Turn:
    """One run."""
    folder = Path(tempfile.mkdtemp(prefix="engine-"))
    try:
        settings = {"strategy": strategy, "backend": "openai", "openai": {"model": "null", "base_url": "http://[::1]/v1"},
                    "n": rows, "concurrency": concurrency}  # fmt: skip
        plan = make_plan(settings)
        backend: Any = Null(strategy, rows, concurrency)
        with Ledger(folder, plan.meta(), plan.texts()) as ledger, Reader(folder) as reader:
            state = RunState.from_ledger(plan, reader)
            budget = Budget(plan.settings.budget, reader.spending())
            progress = RunProgress(rows, state.stats, plan.settings.budget)
            began = time.perf_counter()
            ending = asyncio.run(Engine(plan, state, ledger, reader, backend, budget, progress).run())
            seconds = time.perf_counter() - began
            assert ending == "complete", (ending, state.stats)
            update_dataset(folder, plan, state)
        stats = state.stats
        size = (folder / LEDGER_FILE).stat().st_size / 2**20
        return Turn(seconds, stats.rows, stats.rows + stats.tasks, stats.requests, size)
    finally:
        shutil.rmtree(folder)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--strategy", default="alpaca,self-instruct")
    parser.add_argument("--rows", type=int, default=20_000)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--concurrency", type=int, default=64)
    parser.add_argument("-o", "--out", type=Path)
    arguments = parser.parse_args()
    strategies = arguments.strategy.split(",")
    turn(strategies[0], 200, arguments.concurrency)  # compiles the kernels
    lines = []
    for strategy in strategies:
        turns = [turn(strategy, arguments.rows, arguments.concurrency) for _ in range(arguments.repeats)]
        accepted = sorted(one.candidates / one.seconds for one in turns)
        rows = statistics.median(one.rows / one.seconds for one in turns)
        asked = statistics.median(one.requests / one.seconds for one in turns)
        one = turns[-1]
        lines.append(
            f"| {strategy} | {one.rows:,} | {one.requests:,} | {statistics.median(accepted):,.0f} "
            f"({accepted[0]:,.0f} to {accepted[-1]:,.0f}) | {rows:,.0f} | {asked:,.0f} | {one.megabytes:.0f} MiB |"
        )
        print(lines[-1], flush=True)
    write(arguments, lines, [profiled(strategy, PROFILED, arguments.concurrency) for strategy in strategies])


def profiled(strategy: str, rows: int, concurrency: int) -> str:
    """Where the time of one run goes: the project's own functions, with what they call."""
    profile = cProfile.Profile()
    profile.enable()
    turn(strategy, rows, concurrency)
    profile.disable()
    stats: Any = pstats.Stats(profile)
    began = stats.stats[next(key for key in stats.stats if key[2] == "run" and key[0].endswith("engine/loop.py"))][3]
    found = [
        (cumulated, own, calls, f"{Path(file).parent.name}/{Path(file).name} {name}")
        for (file, _, name), (_, calls, own, cumulated, _) in stats.stats.items()
        if "/selfinstruct/" in file and "<" not in name and cumulated <= began
    ]
    lines = [
        f"{100 * cumulated / began:5.1f}%  {100 * own / began:5.1f}%  {calls:>8,}  {name}"
        for cumulated, own, calls, name in sorted(found, reverse=True)[:SHOWN]
    ]
    return "\n".join((f"{strategy}, {rows:,} rows", "   all     own     calls  function", *lines))


def write(arguments: argparse.Namespace, lines: list[str], profiles: list[str]) -> None:
    today = datetime.datetime.now(datetime.UTC).date().isoformat()
    out = arguments.out or RESULTS / f"engine-{today}.md"
    names = [
        line.split(":")[1].strip() for line in Path("/proc/cpuinfo").read_text().splitlines() if "model name" in line
    ]
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    command = f"python bench/engine.py --rows {arguments.rows} --repeats {arguments.repeats}"
    command += f" --concurrency {arguments.concurrency}"
    head = [
        f"# The engine by itself, {today}", "",
        f"{len(names)} threads of {names[0] if names else platform.machine()}, Python {platform.python_version()}. "
        f"Printed by `{command}`.", "",
        "A model that answers at once; all filters on; every send and every answer committed to a ledger on disk. "
        "Accepted candidates are rows and the tasks that they came from (self-instruct judges both, each with requests "
        f"of its own). Median of {arguments.repeats} runs. Peak memory of all of them: {peak:.1f} GiB.", "",
        "| strategy | rows | requests | accepted candidates/s, median (min to max) | rows/s | requests/s | ledger |",
        "|---|---|---|---|---|---|---|", *lines, "",
        "Where the time goes, of one more run each, under the profiler (which makes it about twice as long): the share "
        "of a function with all that it calls, and its own.", "",
        *(f"```text\n{profile}\n```\n" for profile in profiles),
    ]  # fmt: skip
    out.write_text("\n".join(head), encoding="utf-8")
    print(out.read_text(encoding="utf-8"))


if __name__ == "__main__":
    main()
