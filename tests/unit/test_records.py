"""Records: ids of candidates, counters, and the stored context of requests."""

from __future__ import annotations

from dataclasses import replace

import pytest

from selfinstruct.records import Candidate, CounterKey, CounterRow, Received, Request, Sampling

REQUEST = Request("answer", (), Sampling(5), {"task": "3.0"}, 3, 7)


def test_candidates_without_an_id_are_numbered_by_position() -> None:
    received = Received((Candidate("Name a bird."), Candidate("Name a tree."))).with_ids(REQUEST)
    assert [candidate.id for candidate in received.candidates] == ["7.0", "7.1"]


def test_a_dropped_candidate_does_not_renumber_the_others() -> None:
    candidates = [Candidate(f"Task {index}", id=REQUEST.candidate_id(index)) for index in range(3)]
    received = Received((candidates[0], candidates[2])).with_ids(REQUEST)
    assert [candidate.id for candidate in received.candidates] == ["7.0", "7.2"]


@pytest.mark.parametrize("ids", [("7.1", ""), ("7.0", "7.0"), ("8.0",)])
def test_equal_ids_and_ids_of_another_request_are_refused(ids: tuple[str, ...]) -> None:
    received = Received(tuple(Candidate("Name a bird.", id=candidate_id) for candidate_id in ids))
    with pytest.raises(ValueError, match=r"request 7 \(answer\) has wrong candidate ids"):
        received.with_ids(REQUEST)


def test_item_and_demonstrations_are_stored_in_the_context() -> None:
    request = replace(REQUEST, item=0, demonstrations=("s1", "s2"))
    stored = request.stored_context
    assert stored == {"item": 0, "demonstrations": ["s1", "s2"], "task": "3.0"}
    again = Request.from_stored(request.stage, request.turns, request.sampling, stored, request.parent, request.number)
    assert again == request
    assert again.digest == request.digest != REQUEST.digest


def test_an_empty_list_of_demonstrations_differs_from_none() -> None:
    request = replace(REQUEST, demonstrations=())
    assert request.stored_context == {"demonstrations": [], "task": "3.0"}
    assert REQUEST.stored_context == {"task": "3.0"}
    assert request.digest != REQUEST.digest


@pytest.mark.parametrize("key", ["item", "demonstrations"])
def test_the_context_may_not_use_the_keys_of_fields(key: str) -> None:
    with pytest.raises(ValueError, match=r"Request\.item"):
        Request("answer", (), Sampling(5), {key: 0})


def test_counters_are_read_from_their_text() -> None:
    key = CounterRow("evol", "epoch 1, deepen").column("passed")
    assert str(key) == "evol|epoch 1, deepen|passed"
    assert CounterKey.from_text(str(key)) == key
    assert CounterKey.from_text("a|b|c|d") == CounterKey("a", "b", "c|d"), "a plugin's reason may contain anything"
    assert CounterRow.from_text("evol|epoch 1") == CounterRow("evol", "epoch 1")


def test_methods_of_a_mixed_run_have_separate_tables() -> None:
    assert str(CounterRow("evol", "epoch 1").for_method("hard")) == "hard: evol|epoch 1"
    assert str(CounterKey("quality", "clarity", "4").for_method("hard")) == "hard: quality|clarity|4"
    assert CounterKey("quality", "clarity", "4").for_method("") == CounterKey("quality", "clarity", "4")
