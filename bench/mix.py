"""Measure what choosing methods by their yield (`adapt`) gains over fixed weights, and what each choice costs.

    python bench/mix.py [--seeds N] [--budget TOKENS] [--lag N] [--write]

Gain: scripted methods, whose yields are known, share one run. The scheduler, the mixed strategy, the progress of each
method and the novelty filter are the real ones; only the completions are made up. Each scenario runs once with `adapt`
and once with equal fixed weights for every seed. Proposals stop when the token budget is spent, and all open requests
are completed before rows are counted, so that a method whose rows come from follow-ups is not charged for requests
whose rows are missing. `adapt` stays in the project only if it gains rows per token (the interval lies above 0) on at
least two of the three scenarios. The scenarios were fixed before the first measurement; the way in which the end of a
run is counted was changed after it (``bench/results/mix-2026-11-30.md`` has the figures of both).

Cost: proposals per second of a mixed run whose methods have a full record of processed requests; every method is
`alpaca` with its published options. The line "alone" has a single method and no mixture.
"""

from __future__ import annotations

import argparse
import platform
import random
import statistics
import time
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import ClassVar

from reporting import RESULTS, hardware, today

from selfinstruct.common.resources import builtin_prompts, builtin_seeds
from selfinstruct.common.rng import Rng
from selfinstruct.engine.row_filters import FilterOptions
from selfinstruct.engine.scheduler import Scheduler
from selfinstruct.pool import Pool
from selfinstruct.prompts import Prompts
from selfinstruct.records import Candidate, Choice, Completion, PromptMessage, Received, Request, Sampling, Usage
from selfinstruct.seeds import load_seeds
from selfinstruct.strategies import Alpaca
from selfinstruct.strategies.base import Strategy, View
from selfinstruct.strategies.mixture import MixtureMember, MixtureOptions, MixtureStrategy, draw_largest_gamma

PROCESSED = 256  # requests in the progress of each method, with 0 to 8 rows each
SEEDS = tuple(load_seeds(builtin_seeds()))
ALPHABET = "abcdefghijklmnopqrstuvwxyz"
UNLIMITED = 10**9  # ideas of a method that does not run dry
# Only the novelty filter decides: the made-up instructions would pass the others in any case.
FILTERS = FilterOptions(
    word_count=None, keywords=None, punctuation=None, program=None, copied=None, near_duplicate=None
)


@dataclass(frozen=True)
class Script:
    """The yield of a scripted method.

    Attributes:
        rows: Mean number of rows that one completion offers, before the novelty filter.
        ideas: Number of distinct instructions that the method can offer; each offer draws one of them at random, so
            repetitions become more frequent as the pool fills.
        tokens: Mean tokens of one request; each request has between 80% and 120% of it, uniformly.
        follow_ups: Requests that follow each proposal. If there are any, the proposal itself yields no rows.
    """

    rows: float
    ideas: int = UNLIMITED
    tokens: int = 1_000
    follow_ups: int = 0


SCENARIOS: Mapping[str, Mapping[str, Script]] = {
    "one method is better throughout": {"good": Script(4), "poor": Script(2), "weak": Script(2)},
    "yields cross as the pool saturates": {
        "quick": Script(6, ideas=1_500),
        "middle": Script(4, ideas=6_000),
        "steady": Script(2.5),
    },
    "yields are nearly equal": {
        "plain": Script(3.0),
        "better": Script(3.2),
        "staged": Script(3.1 / 2, tokens=333, follow_ups=2),  # 3.1 rows for the 1,000 tokens of its three requests
    },
}


class Scripted(Strategy):
    """A method that offers the lines of a completion as rows."""

    name: ClassVar[str] = "scripted"
    templates: ClassVar[Mapping[str, frozenset[str]]] = {}

    def __init__(self, script: Script, model: ScriptedModel) -> None:
        self._follow_ups = script.follow_ups
        self._model = model

    def propose(self, view: View, rng: Rng) -> Request | None:  # noqa: ARG002
        if self._model.exhausted:
            return None
        return self._request("plan" if self._follow_ups else "rows")

    def receive(self, request: Request, completion: Completion, view: View) -> Received:  # noqa: ARG002
        if request.stage == "plan":
            return Received(follow_ups=tuple(self._request("rows") for _ in range(self._follow_ups)))
        return Received(tuple(Candidate(line, output="An answer.") for line in completion.text.splitlines()))

    def _request(self, stage: str) -> Request:
        return Request(stage, (PromptMessage("prompt", "bench", {}, stage),), Sampling(max_tokens=1))


class ScriptedModel:
    """A model that answers each request as the script of its method says.

    The answer depends on the seed, the method and the number of its requests so far, so that both runs of a pair get
    the same answers in the same order from each method.
    """

    def __init__(self, scripts: Mapping[str, Script], seed: int, budget: int) -> None:
        self.tokens = 0
        self._scripts = scripts
        self._seed = seed
        self._budget = budget
        self._answered: Counter[str] = Counter()

    @property
    def exhausted(self) -> bool:
        """Whether the token budget is spent."""
        return self.tokens >= self._budget

    def complete(self, request: Request) -> Completion:
        script = self._scripts[request.method]
        rng = Rng("answer", self._seed, request.method, self._answered[request.method])
        self._answered[request.method] += 1
        tokens = int(script.tokens * (0.8 + 0.4 * rng.random()))
        self.tokens += tokens
        ideas = [] if request.stage.endswith("/plan") else self._ideas(script, rng)
        text = "\n".join(self._instruction(request.method, idea) for idea in ideas)
        return Completion((Choice(text, "stop"),), Usage(tokens - 1, 1), "scripted")

    @staticmethod
    def _ideas(script: Script, rng: Rng) -> list[int]:
        """Draw a binomial number of ideas out of twice the mean, as parsing and filtering a list of tasks would."""
        slots = round(2 * script.rows + 0.49)
        count = sum(rng.random() < script.rows / slots for _ in range(slots))
        return [rng.below(script.ideas) for _ in range(count)]

    def _instruction(self, method: str, idea: int) -> str:
        """Return eight random words, the same for the same idea, so that only repeated ideas resemble each other."""
        rng = random.Random(f"{self._seed} {method} {idea}")
        return " ".join("".join(rng.choices(ALPHABET, k=6)) for _ in range(8))


@dataclass(frozen=True)
class RunYield:
    """The rows and tokens of one run, and the number of rows from each method."""

    rows: int
    tokens: int
    by_method: Mapping[str, int]

    @property
    def rate(self) -> float:
        """Rows per 1,000 tokens."""
        return 1_000 * self.rows / self.tokens


def run(scripts: Mapping[str, Script], seed: int, budget: int, lag: int, *, adapt: bool) -> RunYield:
    """Run the scheduler until the token budget is spent and all requests, follow-ups included, are processed."""
    model = ScriptedModel(scripts, seed, budget)
    parts = [MixtureMember(label, 1.0, Scripted(script, model)) for label, script in scripts.items()]
    scheduler = Scheduler(MixtureStrategy(MixtureOptions(), parts, adapt=adapt), SEEDS, FILTERS, seed=seed, lag=lag)
    while not scheduler.exhausted:
        scheduler.process(model.complete(scheduler.open[scheduler.decided]))
    by_method = Counter(str(row.candidate.columns["strategy"]) for row in scheduler.pool.rows)
    return RunYield(len(scheduler.pool.rows), model.tokens, by_method)


def gain_table(titles: list[str], seeds: range, budget: int, lag: int) -> list[str]:
    """Compare `adapt` with equal fixed weights, seed by seed."""
    lines = [
        "| scripted yields | fixed weights | `adapt` | gain (95% interval) | seeds with a gain | "
        "rows by method, fixed | rows by method, `adapt` |",
        "|---|---|---|---|---|---|---|",
    ]
    print("\n".join(lines), flush=True)
    for title in titles:
        scripts = SCENARIOS[title]
        fixed, adapted = ([run(scripts, seed, budget, lag, adapt=adapt) for seed in seeds] for adapt in (False, True))
        gains = [after.rate / before.rate - 1 for before, after in zip(fixed, adapted, strict=True)]
        low, high = interval(gains)
        cells = [
            f"{title}: {described(scripts)}",
            f"{statistics.mean(outcome.rate for outcome in fixed):.3f}",
            f"{statistics.mean(outcome.rate for outcome in adapted):.3f}",
            f"{statistics.mean(gains):+.1%} ({low:+.1%} to {high:+.1%})",
            f"{sum(gain > 0 for gain in gains)} of {len(seeds)}",
            shares(fixed),
            shares(adapted),
        ]
        lines.append(f"| {' | '.join(cells)} |")
        print(lines[-1], flush=True)
    return lines


def described(scripts: Mapping[str, Script]) -> str:
    """Return each method's initial yield and, where it has a limit, its number of ideas."""
    texts = []
    for label, script in scripts.items():
        requests = max(script.follow_ups, 1)
        tokens = script.tokens * (1 + script.follow_ups)
        limit = f" of {script.ideas:,} ideas" if script.ideas < UNLIMITED else ""
        texts.append(f"{label} {1_000 * requests * script.rows / tokens:.1f}{limit}")
    return ", ".join(texts)


def shares(runs: list[RunYield]) -> str:
    """Return the share of each method in the rows of all runs."""
    total: Counter[str] = Counter()
    for outcome in runs:
        total.update(outcome.by_method)
    return ", ".join(f"{label} {count / total.total():.0%}" for label, count in sorted(total.items()))


def interval(values: list[float]) -> tuple[float, float]:
    """Return a 95% bootstrap interval of the mean (10,000 resamples)."""
    rng = random.Random(0)
    means = sorted(statistics.fmean(rng.choices(values, k=len(values))) for _ in range(10_000))
    return means[250], means[9_749]


def pool_with_progress(labels: str) -> Pool:
    """Return a pool in which all methods have yielded about the same number of rows."""
    pool = Pool(SEEDS)
    for label in labels:
        for number in range(PROCESSED):
            pool.progress_by_method[label].add(number % 9, 900 + number % 50)
    return pool


def rate(call: Callable[[int], object], seconds: float) -> float:
    """Return calls per second, the best of three measurements."""
    best, number = 0.0, 0
    for _ in range(3):
        start, before = time.perf_counter(), number
        while time.perf_counter() - start < seconds:
            call(number)
            number += 1
        best = max(best, (number - before) / (time.perf_counter() - start))
    return best


def cost_table(seconds: float) -> list[str]:
    """Measure proposals per second for growing numbers of methods."""
    alpaca = Alpaca(Alpaca.Options(), Prompts.load(Alpaca.templates, "completion", builtin_prompts()))
    pool = pool_with_progress("")
    alone = rate(lambda number: alpaca.propose(pool, Rng("propose", 0, number)), seconds)
    lines = [
        "| methods | proposals/s | choices/s, without the proposal |",
        "|---|---|---|",
        f"| alone | {alone:,.0f} | - |",
    ]
    for count in (2, 3, 5, 10):
        labels = "abcdefghij"[:count]
        mixed = MixtureStrategy(MixtureOptions(), [MixtureMember(label, 1.0, alpaca) for label in labels], adapt=True)
        view = pool_with_progress(labels)
        shapes, exposures = [65] * count, [1000.0] * count
        proposals = rate(lambda number, m=mixed, v=view: m.propose(v, Rng("propose", 0, number)), seconds)
        choices = rate(lambda number, s=shapes, e=exposures: draw_largest_gamma(s, e, Rng("race", number)), seconds)
        lines.append(f"| {count} | {proposals:,.0f} | {choices:,.0f} |")
    print("\n".join(lines), flush=True)
    return lines


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=40, help="runs of each scenario with and without `adapt`")
    parser.add_argument("--scenario", choices=list(SCENARIOS), action="append", help="one scenario; may be repeated")
    parser.add_argument("--budget", type=int, default=1_000_000, help="tokens after which proposals stop")
    parser.add_argument("--lag", type=int, default=256, help="the setting `lag` of the runs")
    parser.add_argument("--seconds", type=float, default=0.5, help="length of each of three measurements of the cost")
    parser.add_argument("--write", action="store_true", help="also write the tables into bench/results/")
    options = parser.parse_args()
    gain = gain_table(options.scenario or list(SCENARIOS), range(options.seeds), options.budget, options.lag)
    cost = cost_table(options.seconds)
    if options.write:
        head = f"# Choosing methods by their yield, {today()}\n\n{hardware()}, Python {platform.python_version()}. "
        head += (
            f"Printed by `python bench/mix.py --seeds {options.seeds} --budget {options.budget} --lag {options.lag}`."
        )
        text = "\n".join([head, "", "## Gain over equal fixed weights", "", *gain, "", "## Cost", "", *cost, ""])
        (RESULTS / f"mix-{today()}.md").write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
