"""The ledger on a real file."""

from __future__ import annotations

import sqlite3
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from selfinstruct.engine.dispatch.budget import Budget, BudgetOptions, worst_case
from selfinstruct.errors import LedgerError, RunLockedError
from selfinstruct.ledger import Ledger, Reader, Spending, has_run
from selfinstruct.prompts import Prompts
from selfinstruct.records import Choice, Completion, Failure, Outcome, PromptMessage, Request, Sampling, Usage

PROMPTS = Prompts({"t": "Say $a and $b"}, "completion")
META = {"templates": PROMPTS.digests(), "identity": {"x": 1}}
TEXTS = {name: text.encode() for text in PROMPTS.texts.values() for name in PROMPTS.digests().values()}
TEXT = st.text(st.characters(exclude_categories=("Cs",)))


def request(number: int, a: str = "x", b: str = "y") -> Request:
    return Request("s", PROMPTS.turns("t", a=a, b=b), Sampling(5, stop=("\n",)), {"k": [1, a]}, None, number)


def completion(text: str, tokens: int = 3) -> Completion:
    return Completion((Choice(text, "stop"),), Usage(tokens, tokens), "m")


@settings(max_examples=25, deadline=None)
@given(TEXT, TEXT, TEXT)
def test_what_is_acknowledged_is_read_again_exactly(
    tmp_path_factory: pytest.TempPathFactory, a: str, b: str, c: str
) -> None:
    folder = tmp_path_factory.mktemp("run")
    long = b * 400
    outcomes: list[Outcome] = [completion(c), Failure("bad", c)]
    with Ledger(folder, META, TEXTS) as ledger:
        for number, outcome in enumerate(outcomes):
            sent = request(number, a, long)
            send, committed = ledger.record_send(sent, (10, 5), first=True)
            committed.result()
            ledger.record_outcome(number, send, outcome, 0.5).result()
            with Reader(folder) as reader:  # while the run is at work
                assert reader.request(number) == sent
                assert reader.request_digest(number) == sent.digest
                recorded = reader.outcome(number)
                assert recorded is not None
                assert recorded.outcome == outcome
    with Reader(folder) as reader:
        assert [one.outcome for one in reader.outcomes()] == outcomes
        assert reader.meta("identity") == {"x": 1}


def test_long_variables_are_stored_once(tmp_path: Path) -> None:
    head = "an example that stands in each prompt " * 100
    with Ledger(tmp_path, META, TEXTS) as ledger:
        futures = [
            ledger.record_send(request(number, str(number), head), (1, 1), first=True)[1] for number in range(200)
        ]
        for future in futures:
            future.result()
    assert (tmp_path / "run.sqlite").stat().st_size < 200 * len(head) / 4
    with Reader(tmp_path) as reader:
        assert reader.request(199) == request(199, "199", head)


def test_a_second_writer_is_refused_and_a_stale_lock_is_not(tmp_path: Path) -> None:
    with Ledger(tmp_path, META, TEXTS), pytest.raises(RunLockedError, match=r"in use by process \d+"):
        Ledger(tmp_path, META, TEXTS)
    Ledger(tmp_path, META, TEXTS).close()


def test_an_outcome_is_final(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path, META, TEXTS)
    send, _ = ledger.record_send(request(0), (1, 1), first=True)
    ledger.record_outcome(0, send, completion("first"), 0).result()
    with pytest.raises(LedgerError, match="UNIQUE"):
        ledger.record_outcome(0, send, completion("second"), 0).result()
    with pytest.raises(LedgerError):  # nothing later is acknowledged: it would leave a hole
        ledger.record_outcome(1, send, completion("later"), 0).result()
    ledger.close()
    with Reader(tmp_path) as reader:
        assert [one.outcome for one in reader.outcomes()] == [completion("first")]


def test_what_is_unknown_counts_at_its_worst(tmp_path: Path) -> None:
    with Ledger(tmp_path, META, TEXTS) as ledger:
        answered, _ = ledger.record_send(request(0), (100, 50), first=True)
        ledger.record_outcome(0, answered, completion("x", 3), 0)
        ledger.record_send(request(1), (100, 50), first=True)  # killed before an answer
        again, _ = ledger.record_send(request(1), (100, 50), first=False)
        ledger.record_outcome(1, again, completion("x", 4), 0)
        silent, _ = ledger.record_send(request(2), (100, 50), first=True)
        ledger.record_outcome(2, silent, completion("x", 0), 0).result()  # a server that does not count
    with Reader(tmp_path) as reader:
        spent = reader.spending()
    assert (spent.sends, spent.prompt_tokens, spent.completion_tokens) == (4, 7, 7)
    assert (spent.lost_prompt_tokens, spent.lost_completion_tokens) == (200, 100)


def test_a_resumed_run_knows_the_same_spending(tmp_path: Path) -> None:
    """One rule for each sort of outcome, live and from the ledger."""
    usages = [Usage(3, 2), Usage(0, 2), Usage(3, 0), Usage(0, 0), None]
    budget = Budget(BudgetOptions(), Spending(0, 0, 0, 0, 0))
    with Ledger(tmp_path, META, TEXTS) as ledger:
        for number, usage in enumerate(usages):
            for first in (True, False):  # the first send brings nothing
                budget.reserve(request(number))
                send, _ = ledger.record_send(request(number), worst_case(request(number)), first=first)
            outcome: Outcome = Failure("bad_request", "no") if usage is None else Completion((), usage, "m")
            ledger.record_outcome(number, send, outcome, 0).result()
            if usage is not None:
                budget.settle(request(number), usage)
    with Reader(tmp_path) as reader:
        spent = reader.spending()
    prompt, answer = worst_case(request(0))
    assert spent == Spending(10, 3, 2, 9 * prompt, 9 * answer), "five lost sends, three uncounted ones, a failure"
    resumed = Budget(BudgetOptions(), spent)
    assert (budget.sends, budget.prompt_tokens, budget.completion_tokens) == (10, 3 + 9 * prompt, 2 + 9 * answer)
    assert vars(resumed) == vars(budget)


def test_a_chat_costs_more_than_its_bytes_and_a_raw_prompt_does_not() -> None:
    turns = (PromptMessage("system", "t", {}, "é"), PromptMessage("user", "t", {}, "abc"))
    assert worst_case(Request("s", turns, Sampling(7, n=2))) == (2 + 3 + 256 + 2 * 16, 14)
    assert worst_case(Request("s", turns[1:], Sampling(7))) == (3 + 256 + 16, 7)
    assert worst_case(Request("s", (PromptMessage("prompt", "t", {}, "é"),), Sampling(7))) == (2, 7)


def test_other_files_are_refused_untouched(tmp_path: Path) -> None:
    path = tmp_path / "run.sqlite"
    with sqlite3.connect(path) as other:
        other.execute("CREATE TABLE t (x)")
    other.close()
    before = path.read_bytes()
    for opening in (lambda: Ledger(tmp_path, META, TEXTS), lambda: Reader(tmp_path), lambda: has_run(tmp_path)):
        with pytest.raises(LedgerError, match="database of another program"):
            opening()
    assert path.read_bytes() == before


def test_a_newer_schema_is_refused(tmp_path: Path) -> None:
    Ledger(tmp_path, META, TEXTS).close()
    with sqlite3.connect(tmp_path / "run.sqlite") as ledger:
        ledger.execute("PRAGMA user_version = 7")
    ledger.close()
    with pytest.raises(LedgerError, match="ledger schema 7, this version of selfinstruct knows schema 3"):
        Reader(tmp_path)


def test_a_run_without_answers_may_become_another(tmp_path: Path) -> None:
    with Ledger(tmp_path, META, TEXTS) as ledger:
        ledger.record_send(request(0), (1, 1), first=True)[1].result()
        ledger.reset({**META, "identity": {"x": 2}}, TEXTS)
        with Reader(tmp_path) as reader:
            assert reader.meta("identity") == {"x": 2}
            assert reader.request_digests() == {}
            assert reader.spending().sends == 1
            assert not reader.has_outcomes()
