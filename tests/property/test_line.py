"""The line under every order of arrival: same outcomes, same bytes, however often it was killed."""

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
from selfinstruct.common.config import build
from selfinstruct.common.resources import builtin_prompts, builtin_seeds
from selfinstruct.common.rng import Rng
from selfinstruct.engine.methods import methods_of, strategy_of
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
from selfinstruct.strategies.abilities import data_files
from selfinstruct.strategies.mixture import MixtureOptions
from tests.scripted import WORDS, answer

SEEDS = tuple(load_seeds(builtin_seeds()))


ALL = ("alpaca", "self-instruct", "evol-instruct", "personas", "mix", "quality")

MIXED = (
    {"name": "self-instruct", "weight": 2},
    {"name": "alpaca"},
    {"name": "alpaca", "label": "short", "list_length": 5},
)


def mixed_plan(lag: int, n: int, seed: int) -> RunPlan:
    """Three methods, whose weights follow what they bring."""
    methods, options = methods_of(MIXED), MixtureOptions()
    names = {name: used for method in methods for name, used in method.templates.items()}
    prompts = Prompts.load(names, "completion", builtin_prompts())
    strategy = strategy_of(methods, options, prompts, adapt=True)
    chosen = Settings("mix", MIXED, adapt=True, lag=lag, n=n, seed=seed)
    return RunPlan(chosen, options, ReplayOptions(), SEEDS, prompts, strategy, methods=methods)


def plan(strategy: str, lag: int = 32, n: int = 40, seed: int = 0) -> RunPlan:
    if strategy == "mix":
        return mixed_plan(lag, n, seed)
    if strategy == "quality":
        return refined_plan(lag, n, seed)
    chosen = strategy_class(strategy)
    prompts = Prompts.load(chosen.templates, "completion", builtin_prompts())
    options = chosen.Options()
    data = {name: chosen.read_data(path) for name, path in data_files(chosen, options).items()}
    prompts = Prompts({**prompts.texts, **data}, "completion")
    filters = build(FilterOptions, chosen.defaults.get("filters", {}))
    settings = Settings(strategy, lag=lag, n=n, seed=seed, filters=filters)
    return RunPlan(settings, options, ReplayOptions(), SEEDS, prompts, chosen(options, prompts))


def refined_plan(lag: int, n: int, seed: int) -> RunPlan:
    """Several methods whose rows are the best of three answers, judged twice and tagged."""
    asked = {
        "best_of": 3,
        "judge": {"rubrics": ["clarity", "helpfulness"], "threshold": 2},
        "pairs": True,
        "tags": True,
    }
    quality, made = build(QualityOptions, asked), mixed_plan(lag, n, seed)
    texts = {
        **made.prompts.texts,
        **Prompts.load(QualityStrategy.templates_of(quality), "completion", builtin_prompts()).texts,
    }
    prompts = Prompts(texts, "completion")
    return replace(
        made,
        prompts=prompts,
        strategy=QualityStrategy(made.strategy, quality, prompts),
        settings=replace(made.settings, quality=quality),
    )


def judged(text: str, stage: str, number: int) -> Completion | None:
    """What the scripted model says of a row: now and then without a score, cut short, or with an answer missing."""
    rng, said = Rng("judge", text, number), stage.rpartition("/")[2]
    if said == "candidates":
        ends = ("stop" if rng.random() < 0.9 else "length" for _ in range(1 + rng.below(2)))
        choices = [Choice(" ".join(rng.choice(WORDS) for _ in range(rng.below(6))), end) for end in ends]
    elif said == "judge":
        score = f" {1 + rng.below(5)}.{rng.below(3)}\nReason: so"
        choices = [Choice("Hard to say." if rng.random() < 0.1 else score, "stop")]
    elif said == "tags":
        choices = [Choice(f" {rng.choice(['coding', 'poetry'])}\nDifficulty: easy\nLanguage: English", "stop")]
    else:
        return None
    return Completion(tuple(choices), Usage(len(text) // 4, 30) if rng.random() < 0.8 else Usage(), "scripted")


@cache
def outcome_of(text: str, number: int, stage: str) -> Outcome:
    """The scripted model; every 13th request fails for good."""
    if number % 13 == 7:
        return Failure("bad_request", "no")
    return judged(text, stage, number) or Completion(
        (Choice(answer(text), "stop"),), Usage(len(text) // 4, 30), "scripted"
    )


def reply(request: Request) -> Outcome:
    return outcome_of(request.turns[0].text, request.number, request.stage)


def digest_of(course: RunState) -> bytes:
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
            for row in course.rows
        ]
    )


@cache
def in_order(strategy: str, lag: int, n: int, seed: int) -> tuple[bytes, dict[int, str]]:
    """The plainest run there is: one request at a time."""
    course = RunState(plan(strategy, lag, n, seed), n)
    digests = {}
    while not course.done:
        number = course.line.judged
        digests[number] = course.line.open[number].digest
        course.receive(number, reply(course.line.open[number]))
    return digest_of(course), digests


@settings(max_examples=60, deadline=None)
@given(
    st.sampled_from(ALL),
    st.sampled_from([1, 8, 32]),
    st.integers(1, 64),
    st.integers(0, 2),
    st.integers(),
)
def test_arrival_concurrency_and_kills_change_nothing(
    strategy: str, lag: int, window: int, seed: int, chaos: int
) -> None:
    n = 25
    rows, digests = in_order(strategy, lag, n, seed)
    dice = random.Random(chaos)
    stored: dict[int, Outcome] = {}
    sent_ever: dict[int, str] = {}
    course = RunState(plan(strategy, lag, n, seed), n)
    flight: dict[int, Request] = {}
    while not course.done:
        for number, request in course.line.open.items():
            if len(flight) < window and number not in stored and number not in flight:
                flight[number] = request
                sent_ever.setdefault(number, request.digest)
        number = dice.choice(list(flight))
        stored[number] = reply(flight.pop(number))  # the ledger first
        if dice.random() < 0.05:  # killed: what was in flight is lost, what was stored is not
            flight = {}
            course = RunState(plan(strategy, lag, n, seed), n, sent_ever)
            for known in dice.sample(sorted(stored), len(stored)):
                course.receive(known, stored[known])
        else:
            course.receive(number, stored[number])
    assert digest_of(course) == rows
    assert all(sent_ever[number] == digest for number, digest in digests.items())


@pytest.mark.parametrize("strategy", ALL)
def test_fewer_rows_are_a_prefix_of_more(strategy: str) -> None:
    small, large = RunState(plan(strategy, n=15), 15), RunState(plan(strategy, n=40), 40)
    for course in (small, large):
        while not course.done:
            course.receive(course.line.judged, reply(course.line.open[course.line.judged]))
    assert large.rows[:15] == small.rows
    assert len(large.rows) == 40


@settings(max_examples=40, deadline=None)
@given(
    st.sampled_from(ALL),
    st.sampled_from([1, 8, 32]),
    st.integers(0, 2),
    st.integers(),
)
def test_a_line_that_stands_where_another_stood_goes_on_as_that_does(
    tmp_path_factory: pytest.TempPathFactory, strategy: str, lag: int, seed: int, chaos: int
) -> None:
    """Kept in a file and read again at random moments, with outcomes waiting out of order."""
    n, dice = 25, random.Random(chaos)
    rows, digests = in_order(strategy, lag, n, seed)
    the_plan, course = plan(strategy, lag, n, seed), RunState(plan(strategy, lag, n, seed), n)
    stored: dict[int, Outcome] = {}
    folder = tmp_path_factory.mktemp("run")
    verdicts = VerdictCache(folder, the_plan)
    while not course.done:
        number = dice.choice([number for number in course.line.open if number not in stored])
        stored[number] = reply(course.line.open[number])
        course.receive(number, stored[number])
        if dice.random() < 0.1:
            verdicts.save(course)
        if dice.random() < 0.1:
            verdicts = VerdictCache(folder, the_plan)
            kept = verdicts.load(Answers(stored))
            again = RunState(the_plan, n, digests)
            if kept is not None:
                again.restore(kept)
            for known in dice.sample(sorted(stored), len(stored)):
                again.receive(known, stored[known])
            assert again.same(course)
            course = again
    assert digest_of(course) == rows


class Answers:
    """As much of a ledger as the check of kept verdicts asks for."""

    def __init__(self, stored: dict[int, Outcome]) -> None:
        self.stored = stored

    def outcome(self, number: int) -> RecordedOutcome | None:
        return RecordedOutcome(number, self.stored[number], 0.0) if number in self.stored else None


def test_the_window_opens_slowly_and_never_wider_than_the_lag() -> None:
    course = RunState(plan("alpaca", lag=20, n=1000), 1000)
    widths = []
    for _ in range(30):
        widths.append(course.line.numbered - course.line.judged)
        course.receive(course.line.judged, Failure("bad_request", "no"))
    assert widths == [min(20, 8 + judged) for judged in range(30)]


def test_a_rebuilt_request_that_differs_is_refused() -> None:
    course = RunState(plan("alpaca"), 40)
    digests = {number: request.digest for number, request in course.line.open.items()}
    RunState(plan("alpaca"), 40, digests)
    with pytest.raises(RunChangedError, match="request 3 is rebuilt differently"):
        RunState(plan("alpaca"), 40, {**digests, 3: "0" * 64})


class OneTask:
    """A strategy that ends: two proposals, each with a draft whose instance is asked for only if it is kept."""

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
            task = request.candidate_id(0)
            follow = self._request("rows", task=task)
            text = "Describe the colour of the evening sky"
            return Received((Candidate(text, kind="pending_task", on_accept=follow, id=task),))
        return Received((Candidate("Describe the colour", output="deep red and gold", task=request.context["task"]),))


def test_a_draft_is_followed_up_only_if_it_is_kept_and_the_end_is_seen() -> None:
    line = Scheduler(OneTask(Prompts({"t": "$text"}, "completion")), SEEDS, FilterOptions(), seed=0, lag=8)
    stages = []
    while not line.exhausted:
        stages.append(line.open[line.judged].stage)
        line.judge(Completion((Choice("x", "stop"),), Usage(), "m"))
    assert stages == ["draft", "draft", "rows"]  # the second draft repeats the first and is not followed up
    assert [row.id for row in line.pool.rows] == ["2.0"]
    assert [task.id for task in line.pool.tasks] == ["0.0"]


class InTurn:
    """A strategy that works on the given tasks, one after the other: what is rejected is asked for once more."""

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


def test_tasks_are_taken_in_turn_and_a_rejected_candidate_is_followed_up() -> None:
    line = Scheduler(InTurn(Prompts({"t": "$text"}, "completion")), SEEDS, FilterOptions(), seed=0, lag=8)
    asked = []
    while not line.exhausted:
        request = line.open[line.judged]
        asked.append((request.stage, request.item))
        text = ("Suggest a name for a bakery", "No", "List the moons of Jupiter")[request.item]
        line.judge(Completion((Choice(text, "stop"),), Usage(7, 3), "m"))
    assert asked == [("part/first", 0), ("part/first", 1), ("part/first", 2), ("part/again", 1)]
    account = line.pool.progress_by_method["part"]
    assert account.next_item == 3
    assert list(account.recent) == [(1, 10), (0, 10), (1, 10), (0, 10)]


@given(st.permutations(range(12)))
def test_an_account_knows_the_lowest_item_that_was_not_asked_for(order: list[int]) -> None:
    account, asked = MethodProgress(), set()
    for item in order:
        account.take(item)
        asked.add(item)
        account = MethodProgress.from_json(loads(dumps(account.to_json())))
        assert account.next_item == min(set(range(13)) - asked)
