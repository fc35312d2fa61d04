"""Who is at fault for a failed request: decided by the order of sends and answers."""

from __future__ import annotations

import pytest

from selfinstruct.engine.dispatch.suspects import Suspects
from selfinstruct.errors import BackendError, RequestError, TransientError, UnreachableError
from selfinstruct.records import Request, Sampling

REFUSED = RequestError("bad_request", "no")


def request(number: int, stage: str = "answer") -> Request:
    return Request(stage, (), Sampling(max_tokens=1), number=number)


def numbers(taken: list) -> list[int]:
    return [suspect.request.number for suspect in taken]


def test_only_a_request_that_was_sent_after_the_failure_arrived_is_evidence() -> None:
    suspects = Suspects()
    suspects.add(request(0), REFUSED, 1, newest=5)
    for send in (2, 5):
        suspects.answered(request(send), send)
        assert not suspects.take_to_ask_again()
    suspects.answered(request(6), 6)
    assert numbers(suspects.take_to_ask_again()) == [0]
    assert not suspects


def test_the_second_failure_is_final_and_the_first_is_not() -> None:
    suspects = Suspects()
    suspects.add(request(0), REFUSED, 1, newest=1)
    suspects.answered(request(1), 2)
    assert not suspects.take_guilty()
    assert numbers(suspects.take_to_ask_again()) == [0]
    suspects.add(request(0), REFUSED, 3, newest=3)
    assert numbers(suspects.take_guilty()) == [0]
    assert not suspects


def test_a_request_that_is_answered_when_asked_again_starts_with_a_clean_record() -> None:
    suspects = Suspects()
    suspects.add(request(0), REFUSED, 1, newest=1)
    suspects.answered(request(1), 2)
    suspects.take_to_ask_again()
    suspects.answered(request(0), 3)
    suspects.add(request(0), REFUSED, 4, newest=4)
    suspects.answered(request(1), 5)
    assert not suspects.take_guilty()


def test_requests_of_another_stage_are_no_evidence() -> None:
    suspects = Suspects()
    suspects.add(request(0, "judge"), REFUSED, 1, newest=1)
    suspects.answered(request(1, "answer"), 2)
    assert not suspects.take_to_ask_again()
    suspects.answered(request(1, "answer"), 3, control_of="judge")
    assert numbers(suspects.take_to_ask_again()) == [0]


@pytest.mark.parametrize("error", [TransientError("busy", throttled=True), UnreachableError("no", unheard=True)])
def test_a_request_that_no_server_read_is_never_at_fault(error: TransientError) -> None:
    suspects = Suspects()
    for send in range(1, 9, 2):
        suspects.add(request(0), error, send, newest=send)
        suspects.answered(request(1), send + 1)
        assert not suspects.take_guilty()
        assert numbers(suspects.take_to_ask_again()) == [0]
    suspects.add(request(0), error, 9, newest=9)
    assert suspects.first_to_test is None, "a control would say nothing about it"


def test_a_refusal_after_an_attempt_that_no_server_read_counts_as_the_first() -> None:
    suspects = Suspects()
    suspects.add(request(0), UnreachableError("no", unheard=True), 1, newest=1)
    suspects.answered(request(1), 2)
    suspects.take_to_ask_again()
    suspects.add(request(0), REFUSED, 3, newest=3)
    suspects.answered(request(2), 4)
    assert not suspects.take_guilty()


def test_series_of_refusals_and_of_failed_attempts() -> None:
    suspects = Suspects()
    for number in range(8):
        assert not suspects.is_series
        suspects.add(request(number), REFUSED, number, newest=number)
    assert suspects.is_series
    suspects.answered(request(8), 2)
    assert not suspects.is_series, "an answer ends the series, also of a request that was sent before"
    assert not suspects.take_to_ask_again()[2:], "while it is no evidence for later failures"
    suspects = Suspects()
    for number in range(3):
        assert not suspects.is_series
        suspects.add(request(number), TransientError("500"), number, newest=number)
    assert suspects.is_series
    assert not suspects.is_outage


def test_the_error_names_the_first_request_and_the_remedy() -> None:
    suspects = Suspects()
    suspects.add(request(7), REFUSED, 1, newest=1)
    suspects.add(request(3), RequestError("forbidden", "credit too low"), 2, newest=2)
    error = suspects.fault(request(1), RequestError("bad_request", "credit too low"))
    assert isinstance(error, BackendError)
    assert str(error).startswith("request 3: credit too low. 2 requests are refused; request 1, which was answered")
    assert "Nothing is recorded as failed" in str(error)
    lost = UnreachableError("gone")
    suspects.add(request(1), lost, 3, newest=3)
    assert suspects.fault(None) is lost, "an outage needs no explanation"
