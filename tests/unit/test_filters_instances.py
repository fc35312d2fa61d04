import pytest

from selfinstruct.filters import check_instances
from selfinstruct.records import Instance


def reasons(pairs, truncated=False):
    verdicts = check_instances([Instance(*pair) for pair in pairs], truncated)
    assert all(verdict.kept == (not verdict.reason) for verdict in verdicts)
    assert all(verdict.filter == "instances" for verdict in verdicts)
    return [verdict.reason for verdict in verdicts]


def test_valid_instances_are_kept():
    assert reasons([("a", "1"), ("b", "2")]) == ["", ""]
    assert reasons([]) == []
    assert reasons([], truncated=True) == []


def test_the_last_instance_of_a_truncated_completion_is_rejected():
    assert reasons([("a", "1"), ("b", "2")], truncated=True) == ["", "truncated"]
    assert reasons([("", "1")], truncated=True) == ["truncated"]


@pytest.mark.parametrize(
    ("pair", "reason"),
    [
        (("same", " same\n"), "input_is_output"),
        (("a", ""), "empty_output"),
        (("a", " \n"), "empty_output"),
        (("", ""), "empty_output"),
        (("Sentence:", "x"), "colon"),
        (("a", "The answer is: "), "colon"),
        (("句子\uff1a", "x"), "colon"),
        (("a: b", "c: d"), ""),
    ],
)
def test_invalid_instances_are_rejected(pair, reason):
    assert reasons([pair, ("other", "fine")]) == [reason, ""]


def test_one_input_with_two_outputs_rejects_all_instances():
    assert reasons([("a", "1"), ("b", "2"), ("a ", "3"), ("a", "1")]) == ["conflict"] * 4


def test_an_invalid_instance_causes_no_conflict():
    assert reasons([("a", "1"), ("a", "and:")]) == ["", "colon"]
    assert reasons([("a", "1"), ("a", "3")], truncated=True) == ["", "truncated"]


def test_without_an_input_outputs_may_differ():
    assert reasons([("", "1"), ("", "2"), ("", "1")]) == ["", "", "duplicate"]


def test_the_first_of_equal_instances_is_kept():
    verdicts = check_instances([Instance("a", "1"), Instance("b", "1"), Instance(" a", "1 ")], truncated=False)
    assert [verdict.reason for verdict in verdicts] == ["", "", "duplicate"]
    assert verdicts[2].detail == {"instance": 0}


def test_a_conflict_names_its_counterpart():
    verdicts = check_instances([Instance("x", "0"), Instance("a", "1"), Instance("a", "2")], truncated=False)
    assert [verdict.detail["instance"] for verdict in verdicts] == [1, 2, 1]
