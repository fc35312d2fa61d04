"""Compare text with JSON by schema, for the embedded model: accepted rows, and tokens and seconds per row.

    python bench/structured.py [--requests N] [--seeds N] [--strategy NAME,...] [--api run|chat] [-o FILE.md]

Both forms use the same seeds and the same number of requests, with the settings of the quickstart (``make data``)
except for the one that is compared. Their runs alternate.
"""

from __future__ import annotations

import argparse
import os
import platform
import tempfile
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from reporting import RESULTS, processors, today

from selfinstruct import generate

STAGES = {"alpaca": ("tasks",), "self-instruct": ("instructions", "output_first")}  # stages that have a JSON form


@dataclass
class Totals:
    """The sums over the runs of one setting."""

    requests: int = 0
    instructions: int = 0
    rows: int = 0
    tokens: int = 0
    prompt_tokens: int = 0
    seconds: float = 0.0
    by_seed: list[int] = field(default_factory=list)
    rejected: Counter[str] = field(default_factory=Counter)
    discarded: Counter[str] = field(default_factory=Counter)


def run(strategy: str, structured: bool, api: str, seed: int, requests: int, threads: int, into: Totals) -> None:
    """Run until the budget of requests is spent, and add the figures to ``into``."""
    section: dict[str, Any] = {"structured": structured}
    if api != "run":
        section |= {stage: {"api": api} for stage in STAGES[strategy]}
    settings = {
        "strategy": strategy, "seed": seed, "n": 1_000_000, "patience": 1_000_000, "saturation": {"novelty": 0.0},
        "budget": {"max_requests": requests}, "llamacpp": {"threads": threads}, strategy: section,
    }  # fmt: skip
    with tempfile.TemporaryDirectory(prefix="structured-") as folder:
        start = time.perf_counter()
        result = generate(Path(folder) / "run", settings)
        into.seconds += time.perf_counter() - start
    assert result.ending == "budget", result.ending
    stats = result.stats
    assert not stats.failures, stats.failures
    into.requests += stats.requests
    into.instructions += stats.instructions
    into.rows += stats.rows
    into.by_seed.append(stats.rows)
    into.tokens += stats.completion_tokens
    into.prompt_tokens += stats.prompt_tokens - stats.cached_tokens
    into.rejected += stats.rejected
    into.discarded += stats.discarded


def line(strategy: str, structured: bool, totals: Totals) -> str:
    """Return one row of the table."""
    rows, reasons = max(1, totals.rows), (totals.rejected + totals.discarded).most_common()
    return (
        f"| {strategy} | {'JSON' if structured else 'text'} | {totals.requests} | {totals.instructions} "
        f"| {totals.rows} ({', '.join(map(str, totals.by_seed))}) | {totals.rows / totals.requests:.2f} "
        f"| {totals.tokens / rows:.0f} | {totals.prompt_tokens / rows:.0f} | {totals.seconds / rows:.1f} "
        f"| {', '.join(f'{reason} {count}' for reason, count in reasons)} |"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--requests", type=int, default=80, help="requests of each run")
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--strategy", default="alpaca,self-instruct")
    parser.add_argument("--api", choices=("run", "chat"), default="run", help="API of the compared stages")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("-o", "--out", type=Path)
    arguments = parser.parse_args()
    load = os.getloadavg()[0]
    lines = []
    for strategy in arguments.strategy.split(","):
        sums = {structured: Totals() for structured in (False, True)}
        for seed in range(arguments.seeds):
            for structured, into in sums.items():
                run(strategy, structured, arguments.api, seed, arguments.requests, arguments.threads, into)
        lines += [line(strategy, structured, into) for structured, into in sums.items()]
        print("\n".join(lines[-2:]), flush=True)
    count, model = processors()
    command = f"python bench/structured.py --requests {arguments.requests} --seeds {arguments.seeds}"
    command += f" --strategy {arguments.strategy} --api {arguments.api} --threads {arguments.threads}"
    text = "\n".join([
        f"# Structured output, {today()}", "",
        f"{arguments.threads} threads of {count} of {model}, "
        f"Python {platform.python_version()}, load {load:.1f} at the start. Printed by `{command}`.", "",
        "The embedded model with the quickstart's settings. Rows are counted after all filters, in brackets by seed. "
        "Tokens read are prompt tokens that were not in the cache. Seconds include loading the model. The last column "
        "counts rejected candidates and discarded pieces of text by reason.", "",
        "| strategy | form | requests | instructions | rows | rows per request | tokens written per row "
        "| tokens read per row | seconds per row | rejected or discarded |",
        "|---|---|---|---|---|---|---|---|---|---|", *lines, "",
    ])  # fmt: skip
    (arguments.out or RESULTS / f"structured-{today()}.md").write_text(text, encoding="utf-8")
    print(text)


if __name__ == "__main__":
    main()
