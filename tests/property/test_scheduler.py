"""The scheduler under every order of arrival: the same outcomes give the same bytes, however often it is killed."""

from __future__ import annotations

import random
from dataclasses import replace
from functools import cache
from typing import ClassVar

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from selfinstruct.backends.replay import ReplayOptions
from selfinstruct.common.codec import canonical, dumps, loads
from selfinstruct.common.config import build, merge
from selfinstruct.common.resources import builtin_prompts, builtin_seeds
from selfinstruct.common.rng import Rng
from selfinstruct.engine.methods import build_methods, build_options, build_strategy, discovered_options
from selfinstruct.engine.plan import RunPlan, Settings
from selfinstruct.engine.row_filters import FilterOptions
from selfinstruct.engine.run_state import RunState
from selfinstruct.engine.scheduler import Scheduler
from selfinstruct.engine.verdict_cache import VerdictCache
from selfinstruct.errors import RunChangedError
from selfinstruct.ledger import RecordedOutcome
from selfinstruct.pool import MethodProgress
from selfinstruct.prompts import Prompts
from selfinstruct.records import (
    Candidate,
    Choice,
    Completion,
    CounterKey,
    Failure,
    Outcome,
    Received,
    Request,
    Sampling,
    Usage,
)
from selfinstruct.seeds import load_seeds
from selfinstruct.strategies import QualityOptions, QualityStrategy, strategy_class
from selfinstruct.strategies.abilities import data_files, templates_for
from selfinstruct.strategies.mixture import MixtureOptions
from tests.scripted import SETTINGS, continuation, message

SEEDS = tuple(load_seeds(builtin_seeds()))


STRATEGY_NAMES = tuple(SETTINGS)
"""Every strategy, a mixed run whose weights adapt to the yield of its methods, and a mixed run with a judge."""

ROWS = {"conversation": 15, "quality": 10}
"""Fewer rows where each takes many requests: a restart judges all of them again."""


def plan(strategy: str, lag: int = 32, n: int = 40, seed: int = 0) -> RunPlan:
    """Return the plan of a run with the settings in ``SETTINGS``."""
    if strategy == "mix":
        return mixed_plan(lag, n, seed)
    if strategy == "quality":
        return judged_plan(lag, n, seed)
    chosen = strategy_class(strategy)
    section = SETTINGS[strategy].get(strategy, {})
    discovered = discovered_options({"strategy": strategy, strategy: section}, lambda: None)
    options = build_options(chosen, merge(discovered[strategy], section), strategy)
    prompts = Prompts.load(templates_for(chosen, options), "completion", builtin_prompts())
    data = {name: chosen.read_data(path) for name, path in data_files(chosen, options).items()}
    prompts = Prompts({**prompts.texts, **data}, "completion")
    filters = build(FilterOptions, chosen.defaults.get("filters", {}))
    settings = Settings(strategy, lag=lag, n=n, seed=seed, filters=filters)
    return RunPlan(settings, options, ReplayOptions(), SEEDS, prompts, chosen(options, prompts))


def mixed_plan(lag: int, n: int, seed: int) -> RunPlan:
    entries = SETTINGS["mix"]["strategies"]
    methods, options = build_methods(entries), MixtureOptions()
    names = {name: used for method in methods for name, used in method.templates.items()}
    prompts = Prompts.load(names, "completion", builtin_prompts())
    data = {name: method.kind.read_data(path) for method in methods for name, path in method.data.items()}
    prompts = Prompts({**prompts.texts, **data}, "completion")
    strategy = build_strategy(methods, options, prompts, adapt=True)
    chosen = Settings("mix", tuple(entries), adapt=True, lag=lag, n=n, seed=seed)
    return RunPlan(chosen, options, ReplayOptions(), SEEDS, prompts, strategy, methods=methods)


def judged_plan(lag: int, n: int, seed: int) -> RunPlan:
    """Return the plan of a mixed run whose rows are the best of several answers, judged and tagged."""
    quality, mixed = build(QualityOptions, SETTINGS["quality"]["quality"]), mixed_plan(lag, n, seed)
    templates = Prompts.load(QualityStrategy.templates_of(quality), "completion", builtin_prompts())
    prompts = Prompts({**mixed.prompts.texts, **templates.texts}, "completion")
    return replace(
        mixed,
        prompts=prompts,
        strategy=QualityStrategy(mixed.strategy, quality, prompts),
        settings=replace(mixed.settings, quality=quality),
    )


@cache
def outcome_of(texts: tuple[str, ...], raw: bool, number: int, count: int) -> Outcome:
    """Return the scripted model's answer; every 13th request fails permanently, and some bring fewer choices."""
    if number % 13 == 7:
        return Failure("bad_request", "no")
    rng = Rng("outcome", number, *texts)
    count = max(1, count - rng.below(2))
    replies = [continuation(texts[0], number, index) if raw else message(texts, number) for index in range(count)]
    choices = [Choice(one, "stop") if isinstance(one, str) else Choice(one.text, one.finish_reason) for one in replies]
    usage = Usage(sum(map(len, texts)) // 4, 30) if rng.random() < 0.9 else Usage()
    return Completion(tuple(choices), usage, "scripted")


def reply(request: Request) -> Outcome:
    texts = tuple(turn.text for turn in request.turns)
    return outcome_of(texts, request.is_raw, request.number, request.sampling.n)


def digest_of(state: RunState) -> bytes:
    return canonical(
        [
            [
                row.id,
                row.task,
                row.candidate.instruction,
                row.candidate.input,
                row.candidate.output,
                row.candidate.extras,
            ]
            for row in state.rows
        ]
    )


@cache
def in_order(strategy: str, lag: int, n: int, seed: int) -> tuple[bytes, dict[int, str]]:
    """Return the rows and request digests of a run with one request in flight at a time."""
    state = RunState(plan(strategy, lag, n, seed), n)
    digests = {}
    while not state.done:
        number = state.scheduler.decided
        digests[number] = state.scheduler.open[number].digest
        state.receive(number, reply(state.scheduler.open[number]))
    return digest_of(state), digests


@pytest.mark.parametrize("strategy", STRATEGY_NAMES)
@settings(max_examples=8)
@given(
    st.sampled_from([1, 8, 32]),
    st.integers(1, 64),
    st.integers(0, 2),
    st.integers(),
)
def test_arrival_order_concurrency_and_kills_change_nothing(
    strategy: str, lag: int, window: int, seed: int, chaos: int
) -> None:
    n = ROWS.get(strategy, 25)
    rows, digests = in_order(strategy, lag, n, seed)
    dice = random.Random(chaos)
    stored: dict[int, Outcome] = {}
    sent_ever: dict[int, str] = {}
    state = RunState(plan(strategy, lag, n, seed), n)
    flight: dict[int, Request] = {}
    while not state.done:
        for number, request in state.scheduler.open.items():
            if len(flight) < window and number not in stored and number not in flight:
                flight[number] = request
                sent_ever.setdefault(number, request.digest)
        number = dice.choice(list(flight))
        stored[number] = reply(flight.pop(number))  # stored before it is processed
        if dice.random() < 0.05:  # killed: requests in flight are lost, stored outcomes are not
            flight = {}
            state = RunState(plan(strategy, lag, n, seed), n, sent_ever)
            for stored_number in dice.sample(sorted(stored), len(stored)):
                state.receive(stored_number, stored[stored_number])
        else:
            state.receive(number, stored[number])
    assert digest_of(state) == rows
    assert all(sent_ever[number] == digest for number, digest in digests.items())


@pytest.mark.parametrize("strategy", STRATEGY_NAMES)
def test_fewer_rows_are_a_prefix_of_more(strategy: str) -> None:
    small, large = RunState(plan(strategy, n=15), 15), RunState(plan(strategy, n=40), 40)
    for state in (small, large):
        while not state.done:
            state.receive(state.scheduler.decided, reply(state.scheduler.open[state.scheduler.decided]))
    assert large.rows[:15] == small.rows
    assert len(large.rows) == 40


@pytest.mark.parametrize("strategy", STRATEGY_NAMES)
@settings(max_examples=5)
@given(
    st.sampled_from([1, 8, 32]),
    st.integers(0, 2),
    st.integers(),
)
def test_a_state_restored_from_a_checkpoint_continues_like_the_original(
    tmp_path_factory: pytest.TempPathFactory, strategy: str, lag: int, seed: int, chaos: int
) -> None:
    """Saved to a file and restored at random moments, with outcomes waiting out of order."""
    n, dice = ROWS.get(strategy, 25), random.Random(chaos)
    rows, digests = in_order(strategy, lag, n, seed)
    run_plan, state = plan(strategy, lag, n, seed), RunState(plan(strategy, lag, n, seed), n)
    stored: dict[int, Outcome] = {}
    folder = tmp_path_factory.mktemp("run")
    verdicts = VerdictCache(folder, run_plan)
    while not state.done:
        number = dice.choice([number for number in state.scheduler.open if number not in stored])
        stored[number] = reply(state.scheduler.open[number])
        state.receive(number, stored[number])
        if dice.random() < 0.1:
            verdicts.save(state)
        if dice.random() < 0.1:
            verdicts = VerdictCache(folder, run_plan)
            checkpoint = verdicts.load(Outcomes(stored))
            restored = RunState(run_plan, n, digests)
            if checkpoint is not None:
                restored.restore(checkpoint)
            for stored_number in dice.sample(sorted(stored), len(stored)):
                restored.receive(stored_number, stored[stored_number])
            assert restored.equals(state)
            state = restored
    assert digest_of(state) == rows


class Outcomes:
    """The part of a ledger's reader that the verdict cache uses."""

    def __init__(self, stored: dict[int, Outcome]) -> None:
        self.stored = stored

    def outcome(self, number: int) -> RecordedOutcome | None:
        return RecordedOutcome(number, self.stored[number], 0.0) if number in self.stored else None


def test_the_window_grows_slowly_up_to_the_lag() -> None:
    state = RunState(plan("alpaca", lag=20, n=1000), 1000)
    widths = []
    for _ in range(30):
        widths.append(state.scheduler.numbered - state.scheduler.decided)
        state.receive(state.scheduler.decided, Failure("bad_request", "no"))
    assert widths == [min(20, 8 + decided) for decided in range(30)]


def test_a_rebuilt_request_that_differs_is_refused() -> None:
    state = RunState(plan("alpaca"), 40)
    digests = {number: request.digest for number, request in state.scheduler.open.items()}
    RunState(plan("alpaca"), 40, digests)
    with pytest.raises(RunChangedError, match="request 3 is rebuilt differently"):
        RunState(plan("alpaca"), 40, {**digests, 3: "0" * 64})


class OneTask:
    """A strategy with two proposals, each with a pending task whose follow-up asks for its instance."""

    name = "one-task"
    templates: ClassVar = {}

    def __init__(self, prompts: Prompts) -> None:
        self.prompts = prompts
        self.proposed = 0

    def propose(self, view, rng):
        if self.proposed == 2:
            return None
        self.proposed += 1
        return self._request("draft")

    def _request(self, stage: str, **context) -> Request:
        return Request(stage, self.prompts.turns("t", text=stage), Sampling(5), context)

    def receive(self, request, completion, view):
        if request.stage == "draft":
            task, text = request.candidate_id(0), "Describe the colour of the evening sky"
            follow_up = self._request("rows", task=task)
            return Received((Candidate(text, kind="pending_task", on_accept=follow_up, id=task),))
        return Received((Candidate("Describe the colour", output="deep red and gold", task=request.context["task"]),))


def test_a_pending_task_is_followed_up_only_if_accepted_and_the_scheduler_ends() -> None:
    scheduler = Scheduler(OneTask(Prompts({"t": "$text"}, "completion")), SEEDS, FilterOptions(), seed=0, lag=8)
    stages = []
    while not scheduler.exhausted:
        stages.append(scheduler.open[scheduler.decided].stage)
        scheduler.process(Completion((Choice("x", "stop"),), Usage(), "m"))
    assert stages == ["draft", "draft", "rows"]  # the second task repeats the first and has no follow-up
    assert [row.id for row in scheduler.pool.rows] == ["2.0"]
    assert [task.id for task in scheduler.pool.tasks] == ["0.0"]


class InTurn:
    """A strategy that works on three items in turn, and asks once more for a rejected candidate."""

    name = "in-turn"
    templates: ClassVar = {}

    def __init__(self, prompts: Prompts) -> None:
        self.prompts = prompts

    def propose(self, view, rng):
        item = view.progress_by_method["part"].next_item
        return self._request("part/first", item=item) if item < 3 else None

    def _request(self, stage: str, item: int) -> Request:
        return Request(stage, self.prompts.turns("t", text=stage), Sampling(5), item=item)

    def receive(self, request, completion, view):
        again = None if request.stage.endswith("again") else self._request("part/again", item=request.item)
        return Received(
            (Candidate(completion.text, output="deep red and gold", on_reject=again),),
            counters=(CounterKey("a", "b", "c"),),
        )


def test_items_are_taken_in_turn_and_a_rejected_candidate_has_a_follow_up() -> None:
    scheduler = Scheduler(InTurn(Prompts({"t": "$text"}, "completion")), SEEDS, FilterOptions(), seed=0, lag=8)
    sent = []
    while not scheduler.exhausted:
        request = scheduler.open[scheduler.decided]
        sent.append((request.stage, request.item))
        text = ("Suggest a name for a bakery", "No", "List the moons of Jupiter")[request.item]
        scheduler.process(Completion((Choice(text, "stop"),), Usage(7, 3), "m"))
    assert sent == [("part/first", 0), ("part/first", 1), ("part/first", 2), ("part/again", 1)]
    progress = scheduler.pool.progress_by_method["part"]
    assert progress.next_item == 3
    assert list(progress.recent) == [(1, 10), (0, 10), (1, 10), (0, 10)]


@given(st.permutations(range(12)))
def test_progress_knows_the_lowest_item_that_is_not_taken(order: list[int]) -> None:
    progress, taken = MethodProgress(), set()
    for item in order:
        progress.take(item)
        taken.add(item)
        progress = MethodProgress.from_json(loads(dumps(progress.to_json())))
        assert progress.next_item == min(set(range(13)) - taken)
