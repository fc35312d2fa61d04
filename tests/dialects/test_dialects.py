"""Twelve kinds of servers in eight situations: no row from a broken answer, and no task lost to a fault that passes.

The cells of the table in ``docs/servers.md`` are checked here, each by the test that observes it.
"""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.dialects.replies import Answer
from tests.dialects.servers import BROKEN, TASKS, THOUGHT, Situation
from tests.dialects.table import CONCURRENCY, DIALECTS, HEAD, PAGE, Outcome, observe, sentence

DRY = [(name, variant) for name, dialect in DIALECTS.items() for variant in range(len(dialect.dry))]


def check(name: str, situation: Situation, outcome: Outcome) -> None:
    """Check what holds in every situation, and the cell of the table."""
    assert not outcome.broken, outcome.output
    assert not outcome.lost, outcome.output
    assert "Traceback" not in outcome.output
    assert sentence(outcome) in cell(name, situation).split(" / "), "run: python -m tests.dialects"


def cell(name: str, situation: Situation) -> str:
    """Return a cell of the table in the docs."""
    table = HEAD + PAGE.read_text().partition(HEAD)[2].partition("\n\n")[0]
    head, _, *rows = ([field.strip() for field in line.split("|")] for line in table.splitlines())
    return next(row for row in rows if row[1] == name)[head.index(situation)]


@pytest.mark.parametrize("name", DIALECTS)
@pytest.mark.parametrize("situation", [Situation.CUT, Situation.EMPTY])
def test_an_answer_that_is_cut_or_empty_is_no_row(tmp_path: Path, name: str, situation: Situation) -> None:
    """What the model cut short is final; what the server broke off is asked for again by the same command."""
    outcome = observe(DIALECTS[name], situation, tmp_path)
    check(name, situation, outcome)
    assert outcome.codes[0] == 0, outcome.output
    assert outcome.rows == outcome.final_rows
    assert sum(outcome.rejected.values()) == TASKS - outcome.rows
    assert not outcome.failures


@pytest.mark.parametrize("name", DIALECTS)
def test_a_refused_prompt_does_not_stop_the_others(tmp_path: Path, name: str) -> None:
    """The run ends although the last task is refused too, and ``retry`` asks again once the policy has changed."""
    outcome = observe(DIALECTS[name], Situation.REFUSED, tmp_path)
    check(name, Situation.REFUSED, outcome)
    assert outcome.codes == (0, 0, 0), outcome.output
    assert (outcome.rows, sum(outcome.failures.values())) == (TASKS - len(BROKEN), len(BROKEN))
    assert outcome.final_rows == TASKS


@pytest.mark.parametrize(("name", "variant"), DRY)
def test_a_dry_account_stops_the_run_with_its_requests_open(tmp_path: Path, name: str, variant: int) -> None:
    """The command ends after a few refusals, however often it is repeated, and finishes once there is credit again."""
    outcome = observe(DIALECTS[name], Situation.DRY, tmp_path, variant)
    check(name, Situation.DRY, outcome)
    assert outcome.codes == (1, 1, 0), outcome.output
    assert not outcome.failures
    assert re.search(r"Error: .*http://127\.0\.0\.1", outcome.output)
    assert outcome.final_rows == TASKS
    if DIALECTS[name].dry[variant].status < 500:  # a server that is down may come back: each request has its attempts
        assert max(outcome.refused, outcome.refused_again) <= 2 * CONCURRENCY


@pytest.mark.parametrize("name", DIALECTS)
def test_a_throttled_request_is_sent_again(tmp_path: Path, name: str) -> None:
    outcome = observe(DIALECTS[name], Situation.THROTTLED, tmp_path)
    check(name, Situation.THROTTLED, outcome)
    assert (outcome.codes, outcome.rows) == ((0,), TASKS), outcome.output


@pytest.mark.parametrize("name", DIALECTS)
def test_a_thought_is_no_part_of_an_answer(tmp_path: Path, name: str) -> None:
    """One thought takes more tokens than the limit of the answer, so that it needs room on top of that limit."""
    outcome = observe(DIALECTS[name], Situation.REASONING, tmp_path)
    check(name, Situation.REASONING, outcome)
    assert (outcome.codes, outcome.rows) == ((0,), TASKS), outcome.output


@pytest.mark.parametrize("name", DIALECTS)
def test_a_thought_is_kept_where_reasoning_is_asked_for(tmp_path: Path, name: str) -> None:
    dialect = DIALECTS[name]
    outcome = observe(dialect, Situation.REASONING, tmp_path, 0, "--set", "respond.reasoning=true")
    assert not outcome.broken, outcome.output
    if THOUGHT in str(dialect.shape(Answer("text", thought=THOUGHT))):
        assert (outcome.rows, outcome.reasoning) == (TASKS, {THOUGHT}), outcome.output
    else:  # the service only counts the tokens of its thoughts
        assert outcome.rejected == {"no_reasoning": TASKS}


@pytest.mark.parametrize("name", DIALECTS)
def test_a_parameter_that_the_model_refuses_is_left_out(tmp_path: Path, name: str) -> None:
    """The first requests find out, once for each parameter, and the next command remembers."""
    dialect = DIALECTS[name]
    outcome = observe(dialect, Situation.PARAMETERS, tmp_path)
    check(name, Situation.PARAMETERS, outcome)
    assert outcome.codes == (0, 0), outcome.output
    assert outcome.final_rows == TASKS
    assert outcome.refused <= CONCURRENCY * len(dialect.refuses)
    assert outcome.refused_again == 0
    assert all(parameter in outcome.output for parameter in dialect.refuses), outcome.output


@pytest.mark.parametrize("name", DIALECTS)
def test_a_server_that_counts_no_tokens_is_named(tmp_path: Path, name: str) -> None:
    outcome = observe(DIALECTS[name], Situation.USAGE, tmp_path)
    check(name, Situation.USAGE, outcome)
    assert (outcome.codes, outcome.rows) == ((0,), TASKS), outcome.output
    assert "--max-tokens" in outcome.output
