"""The filters of a run, their order, and what each adds to the pool."""

from __future__ import annotations

from dataclasses import replace

import pytest

from selfinstruct.engine.earlier_filters import filters_of
from selfinstruct.engine.row_filters import FilterOptions, FilterOutcome, RowFilters, every_request
from selfinstruct.engine.saturation import Saturation, SaturationOptions
from selfinstruct.engine.stats import Stats
from selfinstruct.pool import AcceptedRow, Pool
from selfinstruct.records import Candidate, Failure, Message, Received, Request, Sampling, Task, Verdict

SEEDS = [Task("s0", "Describe the colour of the evening sky over the sea")]
FOLLOW_UP = Request("next", (), Sampling(1))


def apply(*candidates: Candidate, options: FilterOptions | None = None) -> tuple[Pool, FilterOutcome]:
    """Filter the candidates of one completion (number 7) against the seeds."""
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
def test_each_instruction_filter_rejects_with_its_reason(instruction: str, reason: str) -> None:
    pool, filtered = apply(Candidate(instruction, output="an answer of some words"))
    assert filtered.candidates[0].reason == reason
    assert filtered.candidates[0].id == "7.0"
    assert len(pool.tasks) == len(pool.rows) == (not reason)


def test_a_novelty_verdict_lists_the_nearest_texts() -> None:
    _, filtered = apply(Candidate("Describe the colour of the evening sky over the lake", output="a b c d"))
    verdict = filtered.candidates[0].verdicts[-1]
    assert (verdict.filter, verdict.kept, verdict.nearest) == ("rouge", False, "s0")
    assert verdict.score == pytest.approx(0.9)
    assert verdict.detail["nearest"] == [["s0", verdict.score]]


def test_a_task_whose_instance_fails_stays_in_the_novelty_index() -> None:
    task = "Suggest a name for a small bakery"
    pool, filtered = apply(Candidate(task, output=""), Candidate(task, output="Crumb and Crust"))
    assert [candidate.reason for candidate in filtered.candidates] == ["empty_output", "similar"]
    assert [task.instruction for task in pool.tasks] == [task]
    assert pool.rows == []


def test_instances_of_one_task_are_compared_with_each_other() -> None:
    def row(input_: str, output: str, task: str) -> Candidate:
        return Candidate("Name the capital", input_, output, task=task)

    pool, filtered = apply(
        row("France", "Paris", "3.0"),
        row("France", "Lyon", "3.0"),
        row("Spain", "Madrid", "4.1"),
        row("Spain", "Madrid", "4.1"),
        row("Italy", "Rome", "4.1"),
        row("Peru", "Peru", "4.1"),
    )
    reasons = [candidate.reason for candidate in filtered.candidates]
    assert reasons == ["conflict", "conflict", "", "duplicate", "", "input_is_output"]
    assert [(row.id, row.task) for row in pool.rows] == [("7.2", "4.1"), ("7.4", "4.1")]
    assert pool.tasks == [], "instances are not tasks"


def test_near_duplicates_are_compared_across_tasks_only() -> None:
    text = "The quick brown fox jumps over the lazy dog near the river bank every single morning of the year"

    def row(task: str, extra: str) -> Candidate:
        return Candidate("Repeat what the storyteller said", "one" + extra, text, task=task)

    _, filtered = apply(row("3.0", "a"), row("3.0", "b"), row("4.0", "c"))
    assert [candidate.reason for candidate in filtered.candidates] == ["", "", "near_duplicate"]
    assert filtered.candidates[2].verdicts[-1].nearest in {"7.0", "7.1"}
    assert filtered.candidates[2].verdicts[-1].score >= 0.8


def test_copies_of_demonstrations_and_inputs_are_rejected() -> None:
    shown = "Paris is the capital of France and its largest city"
    _, filtered = apply(
        Candidate("Name a large city of France", output=shown + ".", shown_outputs=("Rome", shown)),
        Candidate("Say this sentence in other words", "the cat sat on the mat", "The cat sat on the mat!"),
    )
    assert [candidate.reason for candidate in filtered.candidates] == ["copied_demonstration", "copied_input"]


def test_every_filter_except_the_instance_rules_can_be_disabled() -> None:
    off = FilterOptions(None, None, None, None, None, None, None)
    text = "- Draw"
    _, filtered = apply(
        Candidate(text, "x", "y z w v u"), Candidate(text, "x", "y z w v u"), Candidate(text, output=""), options=off
    )
    assert [candidate.reason for candidate in filtered.candidates] == ["", "", "empty_output"]


def test_pending_tasks_are_filtered_as_tasks_only() -> None:
    pool, filtered = apply(
        Candidate("Suggest a name for a small bakery", kind="pending_task", on_accept=FOLLOW_UP),
        Candidate("Go", kind="pending_task", on_accept=FOLLOW_UP),
    )
    assert [candidate.kept for candidate in filtered.candidates] == [True, False]
    assert [task.id for task in pool.tasks] == ["7.0"]
    assert pool.rows == []


def test_a_provisional_row_is_filtered_as_a_row_and_accepted_only_when_offered_again() -> None:
    provisional = Candidate(
        "Suggest a name for a small bakery", output="Crumb and Crust", kind="provisional_row", on_accept=FOLLOW_UP
    )
    empty = Candidate("Say how bread is made from flour", output="", kind="provisional_row", on_accept=FOLLOW_UP)
    pool, filtered = apply(provisional, empty)
    assert [candidate.reason for candidate in filtered.candidates] == ["", "empty_output"]
    assert [task.id for task in pool.tasks] == ["7.0", "7.1"]
    assert pool.rows == []
    later = RowFilters(FilterOptions(), pool)
    later.index_pool()
    request = Request("score", (), Sampling(1), number=9)
    row = Candidate(provisional.instruction, output=provisional.output, task="7.0", columns={"score": 4})
    again = later.apply(request, Received((row,)))
    assert again.candidates[0].kept
    assert [(row.id, row.task, row.candidate.columns) for row in pool.rows] == [("9.0", "7.0", {"score": 4})]


def test_a_candidate_rejected_by_its_strategy_does_not_enter_the_pool() -> None:
    bad = Verdict("information", False, "no_gain", 0.9)
    pool, filtered = apply(Candidate("Suggest a name for a small bakery", output="Crumb and Crust", verdicts=(bad,)))
    assert filtered.candidates[0].reason == "no_gain"
    assert filtered.candidates[0].verdicts == (bad,)
    assert (pool.tasks, pool.rows) == ([], [])


@pytest.mark.parametrize(("answer", "kept"), [("It is 1,042 in all.", True), ("It is 1,043.", False), ("Many.", False)])
def test_an_answer_that_fails_its_verifier_is_rejected(answer: str, kept: bool) -> None:
    verifier = {"kind": "number", "value": 1042}
    pool, filtered = apply(Candidate("Add up these two long numbers", output=answer, verifier=verifier))
    assert filtered.candidates[0].reason == ("" if kept else "wrong_answer")
    assert len(pool.rows) == kept


def test_a_text_that_is_not_a_task_is_indexed_and_not_counted() -> None:
    person = Candidate(
        "A smith in Riga who collects old coins", kind="pending_task", on_accept=FOLLOW_UP, is_task=False
    )
    task = Candidate("Suggest a name for a small bakery", kind="pending_task", on_accept=FOLLOW_UP)
    pool, filtered = apply(person, person, task, task)
    assert [candidate.reason for candidate in filtered.candidates] == ["", "similar", "", "similar"]
    assert [[text.id for text in texts] for texts in (pool.tasks, pool.others)] == [["7.2"], ["7.0"]]
    stats, saturation = Stats(), Saturation(SaturationOptions())
    stats.add(filtered, Failure("none", ""))
    saturation.add(filtered)
    assert (stats.instructions, stats.tasks, stats.rejected) == (2, 1, {"similar": 2})
    assert saturation.recent == [(True, task.instruction), (False, task.instruction)]
    again = RowFilters(FilterOptions(), pool)
    again.index_pool()
    repeated = again.apply(Request("s", (), Sampling(1), number=8), Received((person, task)))
    assert [candidate.reason for candidate in repeated.candidates] == ["similar", "similar"]


LONG = "The quick brown fox jumps over the lazy dog near the river bank every single morning of the year"


def _answered(question: str, output: str, *, system: str = "", history: tuple[Message, ...] = ()) -> Candidate:
    messages = (*history, Message("user", question), Message("assistant", output)) if history else ()
    return Candidate(question, output=output, system=system, messages=messages)


DIALOGUE = (Message("user", f"Tell a tale. {LONG}"), Message("assistant", f"{LONG}. {LONG}"))
OTHER_DIALOGUE = (Message("user", "Hello."), Message("assistant", "Good morning, what may it be?"))


@pytest.mark.parametrize(
    ("first", "second", "kept"),
    [
        (_answered("Why so?", LONG), _answered("Why so?", LONG), False),
        (_answered("Why so?", LONG, system="Be brief."), _answered("Why so?", LONG, system="Be kind."), True),
        (_answered("Why so?", LONG, system="Be brief."), _answered("Why so?", LONG), True),
        (_answered("Why so?", LONG, system="Be brief."), _answered("Why so?", LONG, system="be  BRIEF."), False),
        (_answered("Why so?", LONG, history=DIALOGUE), _answered("Why so?", LONG, history=OTHER_DIALOGUE), True),
        (_answered("Why so?", LONG, history=DIALOGUE), _answered("Why so?", LONG, history=DIALOGUE), False),
        # The dialogue is most of the text of both rows.
        (_answered("Why so?", "A.", history=DIALOGUE), _answered("Who was it?", "Bo.", history=DIALOGUE), True),
    ],
)
@pytest.mark.parametrize("at_once", [True, False])
def test_near_duplicates_are_compared_within_their_scope(
    first: Candidate, second: Candidate, kept: bool, at_once: bool
) -> None:
    options = FilterOptions(word_count=None, novelty=None)
    filters = RowFilters(options, Pool(SEEDS))
    request = Request("s", (), Sampling(1), number=7)
    batches = [(first, second)] if at_once else [(first,), (second,)]
    candidates = [
        candidate
        for number, batch in enumerate(batches)
        for candidate in filters.apply(replace(request, number=7 + number), Received(batch)).candidates
    ]
    assert [candidate.reason for candidate in candidates] == ["", "" if kept else "near_duplicate"]
    if not at_once:
        pool = Pool(SEEDS)
        pool.rows.append(AcceptedRow("7.0", "7.0", first))
        resumed = RowFilters(options, pool)
        resumed.index_pool()
        (again,) = resumed.apply(replace(request, number=8), Received((second,))).candidates
        assert again.kept == kept


def test_a_run_of_the_first_semantics_compares_whole_rows() -> None:
    filters = RowFilters(filters_of(FilterOptions(word_count=None, novelty=None), 1), Pool(SEEDS))
    request = Request("s", (), Sampling(1), number=7)
    rows = (_answered("Why so?", LONG, system="Be brief."), _answered("Why so?", LONG, system="Be kind."))
    assert [each.reason for each in filters.apply(request, Received(rows)).candidates] == ["", "near_duplicate"]
