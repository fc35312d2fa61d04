"""The ledger, in a real file."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from selfinstruct.common.codec import Json, canonical, loads
from selfinstruct.engine.dispatch.budget import Budget, BudgetOptions, worst_case
from selfinstruct.errors import LedgerError, RunLockedError
from selfinstruct.ledger import Ledger, Reader, Spending, has_run, pack, unpack
from selfinstruct.ledger.schema import LONG_TEXT, seal
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
def test_acknowledged_requests_and_outcomes_are_read_back_unchanged(
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
            with Reader(folder) as reader:  # while the run is being written
                assert reader.request(number) == sent
                assert reader.request_digest(number) == sent.digest
                recorded = reader.outcome(number)
                assert recorded is not None
                assert recorded.outcome == outcome
    with Reader(folder) as reader:
        assert [recorded.outcome for recorded in reader.outcomes()] == outcomes
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


def with_context(context: dict[str, Json], number: int = 0) -> Request:
    return Request("s", PROMPTS.turns("t", a="x", b="y"), Sampling(5), context, None, number)


def stored_body(folder: Path, number: int = 0) -> bytes:
    with closing(sqlite3.connect(folder / "run.sqlite")) as connection:
        (body,) = connection.execute("SELECT body FROM requests WHERE k = ?", (number,)).fetchone()
    return bytes(body)


def test_long_texts_of_contexts_are_stored_once(tmp_path: Path) -> None:
    text = "a text that several requests carry in their contexts " * 100
    contexts: list[dict[str, Json]] = [{"current": ["seed", text]}, {"deep": {"list": [1, [text, "short"]]}, "x": text}]
    with Ledger(tmp_path, META, TEXTS) as ledger:
        for number, context in enumerate(contexts):
            ledger.record_send(with_context(context, number), (1, 1), first=True)[1].result()
    with Reader(tmp_path) as reader:
        assert [reader.request(number) for number in (0, 1)] == [
            with_context(contexts[0]),
            with_context(contexts[1], 1),
        ]
    assert text.encode() not in stored_body(tmp_path, 0) + stored_body(tmp_path, 1)
    with closing(sqlite3.connect(tmp_path / "run.sqlite")) as connection:
        assert connection.execute("SELECT COUNT(*) FROM texts WHERE body = ?", (text.encode(),)).fetchone() == (1,)


def test_a_context_that_resembles_a_reference_is_read_back_unchanged(tmp_path: Path) -> None:
    context: dict[str, Json] = {"a": {"text": "0" * 64}, "b": None, "context_texts": [["a", "0" * 64]]}
    with Ledger(tmp_path, META, TEXTS) as ledger:
        ledger.record_send(with_context(context), (1, 1), first=True)[1].result()
    with Reader(tmp_path) as reader:
        assert reader.request(0) == with_context(context)


STRINGS = TEXT | TEXT.map(lambda text: f"{text}long " * 200)
VALUES: st.SearchStrategy[Json] = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | STRINGS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXT, inner, max_size=3),
    max_leaves=8,
)


@settings(deadline=None)
@given(st.dictionaries(TEXT, VALUES, max_size=3))
def test_any_context_is_packed_and_unpacked_unchanged(context: dict[str, Json]) -> None:
    request = with_context(context)
    value, texts = pack(request)
    restored = unpack(loads(canonical(value)), 0, PROMPTS, lambda name: texts[name].decode())
    assert restored == request
    assert restored.digest == request.digest
    assert all(len(text) > LONG_TEXT for text in texts.values())


def test_a_ledger_with_whole_contexts_is_read_and_continued(tmp_path: Path) -> None:
    """Schema 2 stored contexts inside the request, and the golden ledgers still do."""
    before, later = with_context({"current": "old " * 300}), with_context({"current": "old " * 300}, 1)
    with Ledger(tmp_path, META, TEXTS) as ledger:
        ledger.record_send(before, (1, 1), first=True)[1].result()
    body = canonical(
        {key: item for key, item in pack(before)[0].items() if key != "context_texts"} | {"context": before.context}
    )
    with closing(sqlite3.connect(tmp_path / "run.sqlite")) as connection:
        connection.execute("UPDATE requests SET body = ?, seal = ?", (body, seal(0, before.digest, body)))
        connection.execute("PRAGMA user_version = 2")
        connection.commit()
    with Reader(tmp_path) as reader:
        assert reader.request(0) == before
    with Ledger(tmp_path, META, TEXTS) as ledger:
        ledger.record_send(later, (1, 1), first=True)[1].result()
    with Reader(tmp_path) as reader:
        assert [reader.request(0), reader.request(1)] == [before, later]
    assert stored_body(tmp_path) == body, "a stored request is never rewritten"
    for name, version in (("run.sqlite", 3), ("run.sqlite.schema-2", 2)):
        with closing(sqlite3.connect(tmp_path / name)) as connection:
            assert connection.execute("PRAGMA user_version").fetchone() == (version,)


def test_a_second_writer_is_refused_and_a_stale_lock_is_ignored(tmp_path: Path) -> None:
    with Ledger(tmp_path, META, TEXTS), pytest.raises(RunLockedError, match=r"in use by process \d+"):
        Ledger(tmp_path, META, TEXTS)
    Ledger(tmp_path, META, TEXTS).close()


def test_an_outcome_is_final(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path, META, TEXTS)
    send, _ = ledger.record_send(request(0), (1, 1), first=True)
    ledger.record_outcome(0, send, completion("first"), 0).result()
    with pytest.raises(LedgerError, match="UNIQUE"):
        ledger.record_outcome(0, send, completion("second"), 0).result()
    with pytest.raises(LedgerError):  # nothing later is acknowledged: the file would have a gap
        ledger.record_outcome(1, send, completion("later"), 0).result()
    ledger.close()
    with Reader(tmp_path) as reader:
        assert [recorded.outcome for recorded in reader.outcomes()] == [completion("first")]


def test_a_send_of_unknown_usage_counts_at_its_worst_case(tmp_path: Path) -> None:
    with Ledger(tmp_path, META, TEXTS) as ledger:
        answered, _ = ledger.record_send(request(0), (100, 50), first=True)
        ledger.record_outcome(0, answered, completion("x", 3), 0)
        ledger.record_send(request(1), (100, 50), first=True)  # killed before a completion arrived
        again, _ = ledger.record_send(request(1), (100, 50), first=False)
        ledger.record_outcome(1, again, completion("x", 4), 0)
        uncounted, _ = ledger.record_send(request(2), (100, 50), first=True)
        ledger.record_outcome(2, uncounted, completion("x", 0), 0).result()  # a server that does not count
    with Reader(tmp_path) as reader:
        spent = reader.spending()
    assert (spent.sends, spent.prompt_tokens, spent.completion_tokens) == (4, 7, 7)
    assert (spent.lost_prompt_tokens, spent.lost_completion_tokens) == (200, 100)


def test_a_resumed_run_has_the_same_spending(tmp_path: Path) -> None:
    """The live budget and the ledger follow the same rule for each kind of outcome."""
    usages = [Usage(3, 2), Usage(0, 2), Usage(3, 0), Usage(0, 0), None]
    budget = Budget(BudgetOptions(), Spending(0, 0, 0, 0, 0))
    with Ledger(tmp_path, META, TEXTS) as ledger:
        for number, usage in enumerate(usages):
            for first in (True, False):  # the first send leads to no outcome
                budget.reserve(request(number))
                send, _ = ledger.record_send(request(number), worst_case(request(number)), first=first)
            outcome: Outcome = Failure("bad_request", "no") if usage is None else Completion((), usage, "m")
            ledger.record_outcome(number, send, outcome, 0).result()
            if usage is not None:
                budget.settle(request(number), usage)
    with Reader(tmp_path) as reader:
        spent = reader.spending()
    prompt, answer = worst_case(request(0))
    assert spent == Spending(10, 3, 2, 9 * prompt, 9 * answer), (
        "five lost sends, three uncounted completions, a failure"
    )
    resumed = Budget(BudgetOptions(), spent)
    assert (budget.sends, budget.prompt_tokens, budget.completion_tokens) == (10, 3 + 9 * prompt, 2 + 9 * answer)
    assert vars(resumed) == vars(budget)


def test_the_worst_case_of_a_chat_exceeds_its_bytes_and_that_of_a_raw_prompt_does_not() -> None:
    turns = (PromptMessage("system", "t", {}, "é"), PromptMessage("user", "t", {}, "abc"))
    assert worst_case(Request("s", turns, Sampling(7, n=2))) == (2 + 3 + 256 + 2 * 16, 14)
    assert worst_case(Request("s", turns[1:], Sampling(7))) == (3 + 256 + 16, 7)
    assert worst_case(Request("s", (PromptMessage("prompt", "t", {}, "é"),), Sampling(7))) == (2, 7)


def test_the_file_of_another_program_is_refused_and_unchanged(tmp_path: Path) -> None:
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


def test_a_run_without_outcomes_can_be_replaced(tmp_path: Path) -> None:
    with Ledger(tmp_path, META, TEXTS) as ledger:
        ledger.record_send(request(0), (1, 1), first=True)[1].result()
        ledger.reset({**META, "identity": {"x": 2}}, TEXTS)
        with Reader(tmp_path) as reader:
            assert reader.meta("identity") == {"x": 2}
            assert reader.request_digests() == {}
            assert reader.spending().sends == 1
            assert not reader.has_outcomes()
