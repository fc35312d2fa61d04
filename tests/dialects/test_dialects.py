"""Twelve kinds of servers in eight situations: no row from a broken answer, and no task lost to a fault that passes."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.conftest import Promise
from tests.dialects.replies import OMITTED, Answer
from tests.dialects.servers import ANSWERED, BROKEN, TASKS, THOUGHT, Situation
from tests.dialects.table import CONCURRENCY, DIALECTS, Outcome, observe, sentence
from tests.cli import ROOT

PAGE = ROOT / "docs" / "servers.md"
DRY = [(name, variant) for name, dialect in DIALECTS.items() for variant in range(len(dialect.dry))]


def check(outcome: Outcome) -> None:
    assert not outcome.broken, outcome.output
    assert not outcome.lost, outcome.output
    assert "Traceback" not in outcome.output


@pytest.mark.parametrize("name", DIALECTS)
@pytest.mark.parametrize("situation", [Situation.CUT, Situation.EMPTY])
def test_an_answer_that_is_cut_or_empty_is_no_row(tmp_path: Path, name: str, situation: Situation) -> None:
    """A cut that the model made is final; one that the server made is asked for again within the same command."""
    outcome = observe(DIALECTS[name], situation, tmp_path)
    check(outcome)
    assert outcome.codes[0] == 0, outcome.output
    assert outcome.rows == outcome.final_rows
    assert sum(outcome.rejected.values()) == TASKS - outcome.rows
    assert not outcome.failures


@pytest.mark.parametrize("name", DIALECTS)
def test_a_refused_prompt_does_not_stop_the_others(tmp_path: Path, name: str) -> None:
    """The run ends although the last task is refused too, and ``retry`` asks again once the policy has changed."""
    outcome = observe(DIALECTS[name], Situation.REFUSED, tmp_path)
    check(outcome)
    assert outcome.codes == (0, 0, 0), outcome.output
    assert (outcome.rows, sum(outcome.failures.values())) == (TASKS - len(BROKEN), len(BROKEN))
    assert outcome.final_rows == TASKS


@pytest.mark.parametrize(("name", "variant"), DRY)
def test_a_dry_account_stops_the_run_with_its_requests_open(tmp_path: Path, name: str, variant: int) -> None:
    """The command ends after a few refusals, as often as it is repeated, and finishes once there is credit again."""
    outcome = observe(DIALECTS[name], Situation.DRY, tmp_path, variant)
    check(outcome)
    assert outcome.codes == (1, 1, 0), outcome.output
    assert not outcome.failures
    assert "Error: http://127.0.0.1" in outcome.output
    assert outcome.final_rows == TASKS
    if DIALECTS[name].dry[variant].status < 500:  # others may pass, so each request is tried several times
        assert max(outcome.refused, outcome.refused_again) <= 2 * CONCURRENCY


@pytest.mark.parametrize("name", DIALECTS)
def test_a_throttled_request_is_sent_again(tmp_path: Path, name: str) -> None:
    outcome = observe(DIALECTS[name], Situation.THROTTLED, tmp_path)
    check(outcome)
    assert (outcome.codes, outcome.rows) == ((0,), TASKS), outcome.output


@pytest.mark.parametrize("name", DIALECTS)
def test_a_thought_is_no_part_of_the_answer(tmp_path: Path, name: str) -> None:
    outcome = observe(DIALECTS[name], Situation.REASONING, tmp_path)
    check(outcome)
    assert outcome.codes[0] == 0, outcome.output
    assert (outcome.rows, sum(outcome.rejected.values())) == (TASKS - 1, 1)


@pytest.mark.parametrize("name", DIALECTS)
def test_a_thought_is_kept_where_reasoning_is_asked_for(tmp_path: Path, name: str) -> None:
    dialect = DIALECTS[name]
    outcome = observe(dialect, Situation.REASONING, tmp_path, 0, "--set", "respond.reasoning=true")
    check(outcome) if _shows_thoughts(name) else None
    if _shows_thoughts(name):
        assert outcome.rows == TASKS - 1, outcome.output
        assert outcome.reasoning == {THOUGHT}
    else:  # the service only counts them
        assert outcome.rejected.get("no_reasoning") == TASKS - 1


@pytest.mark.parametrize("name", DIALECTS)
def test_a_parameter_that_the_model_refuses_is_left_out(tmp_path: Path, name: str) -> None:
    """The first requests find out, for each parameter once, and later commands remember."""
    dialect = DIALECTS[name]
    outcome = observe(dialect, Situation.PARAMETERS, tmp_path)
    check(outcome)
    assert outcome.codes == (0, 0), outcome.output
    assert outcome.final_rows == TASKS
    assert outcome.refused <= CONCURRENCY * len(dialect.refuses)
    assert outcome.refused_again == 0
    assert all(parameter in outcome.output for parameter in dialect.refuses), outcome.output


@pytest.mark.parametrize("name", DIALECTS)
def test_a_server_that_counts_no_tokens_is_named(tmp_path: Path, name: str) -> None:
    outcome = observe(DIALECTS[name], Situation.USAGE, tmp_path)
    check(outcome)
    assert (outcome.codes, outcome.rows) == ((0,), TASKS), outcome.output
    assert "--max-tokens" in outcome.output


def _shows_thoughts(name: str) -> bool:
    shaped = str(DIALECTS[name].shape(Answer("text", thought=THOUGHT)))
    return THOUGHT in shaped
