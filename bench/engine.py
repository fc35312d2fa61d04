"""Measure the speed of the engine alone: a model that answers at once, all filters on, a real ledger on disk.

    python bench/engine.py [--strategy NAME,...] [--rows N] [--repeats N] [--concurrency N] [-o FILE.md]

The completions are made beforehand, so that only this project's work is measured: proposing, rendering, committing,
parsing, filtering. Each repetition is a separate run in a new folder, timed from the first request to the last row.
"""

from __future__ import annotations

import argparse
import asyncio
import cProfile
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
from reporting import RESULTS, hardware, today

from selfinstruct.engine.dispatch.budget import Budget
from selfinstruct.engine.loop import Engine
from selfinstruct.engine.plan import make_plan
from selfinstruct.engine.progress import RunProgress
from selfinstruct.engine.run_state import RunState
from selfinstruct.ledger import LEDGER_FILE, Ledger, Reader
from selfinstruct.records import Choice, Completion, Request, Usage
from selfinstruct.runs.export import update_dataset

WORDS = 20_000
TASKS = 7  # tasks of one completion
PROFILED_ROWS = 4_000
PROFILED_FUNCTIONS = 25


@dataclass(frozen=True)
class RunFigures:
    """The figures of one run."""

    seconds: float
    rows: int
    candidates: int
    requests: int
    megabytes: float


class InstantBackend:
    """A backend that answers at once, with texts that were made beforehand."""

    def __init__(self, strategy: str, rows: int, concurrency: int) -> None:
        self.concurrency = concurrency
        self._random = np.random.default_rng(0)
        self._words = [
            "".join(chr(97 + letter) for letter in word) for word in self._random.integers(0, 26, (WORDS, 6))
        ]
        # More lists than the rows need, since the scheduler requests ahead.
        self._lists = [self._list(strategy) for _ in range(rows // TASKS * 3 // 2 + 300)]
        self._instances = [f"\nOutput: {self._text(25)}" for _ in range(rows * 2)]
        self._lists_sent = self._instances_sent = 0

    async def start(self) -> None:
        """Do nothing."""

    async def close(self) -> None:
        """Do nothing."""

    async def complete(self, request: Request) -> Completion:
        if request.stage in ("instructions", "tasks"):
            first = int(str(request.context["first"]))
            text = self._lists[self._lists_sent % len(self._lists)]
            self._lists_sent += 1
            for number in range(first, first + TASKS):
                text = text.replace("@", str(number), 1)
        elif request.stage == "classify":
            text = " no"
        else:
            text = self._instances[self._instances_sent % len(self._instances)]
            self._instances_sent += 1
        return Completion((Choice(text, "stop"),), Usage(700, len(text) // 4), "null")

    def _text(self, words: int) -> str:
        return " ".join(self._words[index] for index in self._random.integers(0, WORDS, words))

    def _list(self, strategy: str) -> str:
        """Return a list of tasks as the strategy requests it, with "@" for each number."""
        if strategy == "self-instruct":
            return "\n".join(f"@. {self._text(14)}".removeprefix("@." if not index else "") for index in range(TASKS))
        blocks = [
            f"{'' if not index else '### Task @' + chr(10) + 'Instruction:'} {self._text(14)}\n"
            f"Input: <noinput>\nOutput: {self._text(25)}"
            for index in range(TASKS)
        ]
        return "\n\n".join(blocks)


def run(strategy: str, rows: int, concurrency: int) -> RunFigures:
    """Run the engine once, in a temporary folder."""
    folder = Path(tempfile.mkdtemp(prefix="engine-"))
    try:
        settings = {"strategy": strategy, "backend": "openai", "openai": {"model": "null", "base_url": "http://[::1]/v1"},
                    "n": rows, "concurrency": concurrency}  # fmt: skip
        plan = make_plan(settings)
        backend: Any = InstantBackend(strategy, rows, concurrency)
        with Ledger(folder, plan.meta(), plan.texts()) as ledger, Reader(folder) as reader:
            state = RunState.from_ledger(plan, reader)
            budget = Budget(plan.settings.budget, reader.spending())
            progress = RunProgress(rows, state.stats, plan.settings.budget)
            start = time.perf_counter()
            ending = asyncio.run(Engine(plan, state, ledger, reader, backend, budget, progress).run())
            seconds = time.perf_counter() - start
            assert ending == "complete", (ending, state.stats)
            update_dataset(folder, plan, state)
        stats = state.stats
        size = (folder / LEDGER_FILE).stat().st_size / 2**20
        return RunFigures(seconds, stats.rows, stats.rows + stats.tasks, stats.requests, size)
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
    run(strategies[0], 200, arguments.concurrency)  # compiles the kernels
    lines = []
    for strategy in strategies:
        runs = [run(strategy, arguments.rows, arguments.concurrency) for _ in range(arguments.repeats)]
        accepted = sorted(figures.candidates / figures.seconds for figures in runs)
        rows = statistics.median(figures.rows / figures.seconds for figures in runs)
        requests = statistics.median(figures.requests / figures.seconds for figures in runs)
        last = runs[-1]
        lines.append(
            f"| {strategy} | {last.rows:,} | {last.requests:,} | {statistics.median(accepted):,.0f} "
            f"({accepted[0]:,.0f} to {accepted[-1]:,.0f}) | {rows:,.0f} | {requests:,.0f} | {last.megabytes:.0f} MiB |"
        )
        print(lines[-1], flush=True)
    write(arguments, lines, [profiled(strategy, PROFILED_ROWS, arguments.concurrency) for strategy in strategies])


def profiled(strategy: str, rows: int, concurrency: int) -> str:
    """Return a profile of one run: the functions of this project, each including its calls."""
    profile = cProfile.Profile()
    profile.enable()
    run(strategy, rows, concurrency)
    profile.disable()
    stats: Any = pstats.Stats(profile)
    total = stats.stats[next(key for key in stats.stats if key[2] == "run" and key[0].endswith("engine/loop.py"))][3]
    functions = [
        (cumulated, itself, calls, f"{Path(file).parent.name}/{Path(file).name} {name}")
        for (file, _, name), (_, calls, itself, cumulated, _) in stats.stats.items()
        if "/selfinstruct/" in file and "<" not in name and cumulated <= total
    ]
    lines = [
        f"{100 * cumulated / total:5.1f}%  {100 * itself / total:5.1f}%  {calls:>8,}  {name}"
        for cumulated, itself, calls, name in sorted(functions, reverse=True)[:PROFILED_FUNCTIONS]
    ]
    return "\n".join((f"{strategy}, {rows:,} rows", "   all  itself     calls  function", *lines))


def write(arguments: argparse.Namespace, lines: list[str], profiles: list[str]) -> None:
    out = arguments.out or RESULTS / f"engine-{today()}.md"
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    command = f"python bench/engine.py --rows {arguments.rows} --repeats {arguments.repeats}"
    command += f" --concurrency {arguments.concurrency}"
    head = [
        f"# The engine alone, {today()}", "",
        f"{hardware()}, Python {platform.python_version()}. "
        f"Printed by `{command}`.", "",
        "A model that answers at once; all filters on; every send and every completion committed to a ledger on disk. "
        "Accepted candidates are rows and the tasks that they came from (self-instruct requests and filters both "
        f"separately). Median of {arguments.repeats} runs. Peak memory of the process: {peak:.1f} GiB.", "",
        "| strategy | rows | requests | accepted candidates/s, median (min to max) | rows/s | requests/s | ledger |",
        "|---|---|---|---|---|---|---|", *lines, "",
        "Profile of one further run of each strategy (the profiler doubles the time): the share of the time in a "
        "function including its calls, and excluding them.", "",
        *(f"```text\n{profile}\n```\n" for profile in profiles),
    ]  # fmt: skip
    out.write_text("\n".join(head), encoding="utf-8")
    print(out.read_text(encoding="utf-8"))


if __name__ == "__main__":
    main()
