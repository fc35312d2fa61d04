"""The filters of a run, in their order, and what each leaves in the pool."""

from __future__ import annotations

import pytest

from selfinstruct.engine.row_filters import FilterOptions, FilterOutcome, RowFilters, every_request
from selfinstruct.engine.saturation import Saturation, SaturationOptions
from selfinstruct.engine.stats import Stats
from selfinstruct.pool import Pool
from selfinstruct.records import Candidate, Failure, Received, Request, Sampling, Task, Verdict

SEEDS = [Task("s0", "Describe the colour of the evening sky over the sea")]
THEN = Request("next", (), Sampling(1))


def judge(*candidates: Candidate, options: FilterOptions | None = None) -> tuple[Pool, FilterOutcome]:
    """The candidates of one completion (number 7), judged with nothing but the seeds before them."""
    pool = Pool(SEEDS)
    request = Request("s", (), Sampling(1), number=7)
    return pool, RowFilters(options or FilterOptions(), pool, full_comparison=every_request).apply(
        request, Received(candidates)
    )


@pytest.mark.parametrize(
    ("instruction", "reason"),
    [
        ("Go on then", "too_short"),
        ("word " * 151, "too_long"),
        ("Draw a map of the town centre", "keyword"),
        ("- List the planets of the system", "punctuation"),
        ("Write a program that sorts numbers", "program"),
        ("Describe the colour of the evening sky over the lake", "similar"),
        ("Suggest a name for a small bakery", ""),
    ],
)
def test_each_instruction_filter_gives_its_reason(instruction: str, reason: str) -> None:
    pool, judged = judge(Candidate(instruction, output="an answer of some words"))
    assert judged.candidates[0].reason == reason
    assert judged.candidates[0].id == "7.0"
    assert len(pool.tasks) == len(pool.rows) == (not reason)


def test_novelty_is_recorded_with_the_nearest_and_the_mean() -> None:
    _, judged = judge(Candidate("Describe the colour of the evening sky over the lake", output="a b c d"))
    verdict = judged.candidates[0].verdicts[-1]
    assert (verdict.filter, verdict.kept, verdict.nearest) == ("rouge", False, "s0")
    assert verdict.score == pytest.approx(0.9)
    assert verdict.detail["nearest"] == [["s0", verdict.score]]


def test_a_task_whose_instance_fails_stays_known_and_the_next_like_it_is_no_news() -> None:
    task = "Suggest a name for a small bakery"
    pool, judged = judge(Candidate(task, output=""), Candidate(task, output="Crumb and Crust"))
    assert [one.reason for one in judged.candidates] == ["empty_output", "similar"]
    assert [one.instruction for one in pool.tasks] == [task]
    assert pool.rows == []


def test_instances_of_one_task_are_judged_side_by_side() -> None:
    def row(given: str, output: str, task: str) -> Candidate:
        return Candidate("Name the capital", given, output, task=task)

    pool, judged = judge(
        row("France", "Paris", "3.0"),
        row("France", "Lyon", "3.0"),
        row("Spain", "Madrid", "4.1"),
        row("Spain", "Madrid", "4.1"),
        row("Italy", "Rome", "4.1"),
        row("Peru", "Peru", "4.1"),
    )
    reasons = [one.reason for one in judged.candidates]
    assert reasons == ["conflict", "conflict", "", "duplicate", "", "input_is_output"]
    assert [(one.id, one.task) for one in pool.rows] == [("7.2", "4.1"), ("7.4", "4.1")]
    assert pool.tasks == [], "instances are no tasks of their own"


def test_near_duplicates_are_sought_among_other_tasks_only() -> None:
    text = "The quick brown fox jumps over the lazy dog near the river bank every single morning of the year"

    def row(task: str, extra: str) -> Candidate:
        return Candidate("Repeat what the storyteller said", "one" + extra, text, task=task)

    _, judged = judge(row("3.0", "a"), row("3.0", "b"), row("4.0", "c"))
    assert [one.reason for one in judged.candidates] == ["", "", "near_duplicate"]
    assert judged.candidates[2].verdicts[-1].nearest in {"7.0", "7.1"}
    assert judged.candidates[2].verdicts[-1].score >= 0.8


def test_copies_are_recognised() -> None:
    shown = "Paris is the capital of France and its largest city"
    _, judged = judge(
        Candidate("Name a large city of France", output=shown + ".", shown=("Rome", shown)),
        Candidate("Say this sentence in other words", "the cat sat on the mat", "The cat sat on the mat!"),
    )
    assert [one.reason for one in judged.candidates] == ["copied_demonstration", "copied_input"]


def test_every_filter_but_the_instance_rules_can_be_switched_off() -> None:
    off = FilterOptions(None, None, None, None, None, None, None)
    text = "- Draw"
    _, judged = judge(
        Candidate(text, "x", "y z w v u"), Candidate(text, "x", "y z w v u"), Candidate(text, output=""), options=off
    )
    assert [one.reason for one in judged.candidates] == ["", "", "empty_output"]


def test_drafts_are_judged_as_tasks_alone() -> None:
    pool, judged = judge(
        Candidate("Suggest a name for a small bakery", kind="pending_task", on_accept=THEN),
        Candidate("Go", kind="pending_task", on_accept=THEN),
    )
    assert [one.kept for one in judged.candidates] == [True, False]
    assert [task.id for task in pool.tasks] == ["7.0"]
    assert pool.rows == []


def test_a_trial_is_judged_as_a_row_and_becomes_one_only_when_another_request_offers_it() -> None:
    trial = Candidate(
        "Suggest a name for a small bakery", output="Crumb and Crust", kind="provisional_row", on_accept=THEN
    )
    empty = Candidate("Say how bread is made from flour", output="", kind="provisional_row", on_accept=THEN)
    pool, judged = judge(trial, empty)
    assert [one.reason for one in judged.candidates] == ["", "empty_output"]
    assert [one.id for one in pool.tasks] == ["7.0", "7.1"]
    assert pool.rows == []
    later = RowFilters(FilterOptions(), pool)
    later.index_pool()
    request = Request("score", (), Sampling(1), number=9)
    row = Candidate(trial.instruction, output=trial.output, task="7.0", columns={"score": 4})
    again = later.apply(request, Received((row,)))
    assert again.candidates[0].kept
    assert [(one.id, one.task, one.candidate.columns) for one in pool.rows] == [("9.0", "7.0", {"score": 4})]


def test_what_the_strategy_itself_rejects_enters_no_pool() -> None:
    bad = Verdict("information", False, "no_gain", 0.9)
    pool, judged = judge(Candidate("Suggest a name for a small bakery", output="Crumb and Crust", verdicts=(bad,)))
    assert judged.candidates[0].reason == "no_gain"
    assert judged.candidates[0].verdicts == (bad,)
    assert (pool.tasks, pool.rows) == ([], [])


@pytest.mark.parametrize(("answer", "kept"), [("It is 1,042 in all.", True), ("It is 1,043.", False), ("Many.", False)])
def test_an_answer_that_code_finds_wrong_is_no_row(answer: str, kept: bool) -> None:
    verifier = {"kind": "number", "value": 1042}
    pool, judged = judge(Candidate("Add up these two long numbers", output=answer, verifier=verifier))
    assert judged.candidates[0].reason == ("" if kept else "wrong_answer")
    assert len(pool.rows) == kept


def test_what_is_no_task_is_known_to_the_filters_and_counted_nowhere() -> None:
    person = Candidate("A smith in Riga who collects old coins", kind="pending_task", on_accept=THEN, is_task=False)
    task = Candidate("Suggest a name for a small bakery", kind="pending_task", on_accept=THEN)
    pool, judged = judge(person, person, task, task)
    assert [one.reason for one in judged.candidates] == ["", "similar", "", "similar"]
    assert [[one.id for one in some] for some in (pool.tasks, pool.others)] == [["7.2"], ["7.0"]]
    stats, saturation = Stats(), Saturation(SaturationOptions())
    stats.add(judged, Failure("none", ""))
    saturation.add(judged)
    assert (stats.instructions, stats.tasks, stats.rejected) == (2, 1, {"similar": 2})
    assert saturation.recent == [(True, task.instruction), (False, task.instruction)]
    again = RowFilters(FilterOptions(), pool)
    again.index_pool()
    found = again.apply(Request("s", (), Sampling(1), number=8), Received((person, task)))
    assert [one.reason for one in found.candidates] == ["similar", "similar"]
