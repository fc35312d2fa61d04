import pytest
from hypothesis import given
from hypothesis import strategies as st

from selfinstruct.errors import UsageError
from selfinstruct.filters.balance import Balance


def rows(values):
    return [{"domain": value, "row": number} for number, value in enumerate(values)]


def test_the_first_rows_of_each_value_are_kept():
    assert Balance("domain", max_count=2).select(rows("aabacbcb")) == [0, 1, 2, 4, 5, 6]


def test_a_rejected_row_has_reason_score_and_cap():
    verdicts = Balance("domain", max_count=1).decide(rows("aab"))
    assert [verdict.kept for verdict in verdicts] == [True, False, True]
    assert (verdicts[1].filter, verdicts[1].reason, verdicts[1].score) == ("balance", "over_count", 2)
    assert verdicts[1].detail == {"value": "a", "cap": 1}


def test_a_share_refers_to_the_kept_rows():
    data = rows("a" * 90 + "b" * 6 + "c" * 4)
    kept = Balance("domain", 0.5).select(data)
    values = [data[row]["domain"] for row in kept]
    assert (values.count("a"), values.count("b"), values.count("c")) == (10, 6, 4)
    assert Balance("domain", 0.5).decide(data)[50].reason == "over_share"
    assert Balance("domain", 1.0).select(data) == list(range(100))
    assert Balance("domain", 0.9).select(data) == list(range(100))


def test_shares_are_decimal_not_binary():
    data = rows("abcdefghij")
    assert Balance("domain", 0.1).select(data) == list(range(10))


def test_a_share_that_no_selection_can_have_is_refused():
    with pytest.raises(UsageError, match=r"2 values can't each have at most 0\.4 of the rows: that takes at least 3"):
        Balance("domain", 0.4).select(rows("ab"))
    assert Balance("domain", 0.4).select([]) == []


def test_a_function_may_give_the_value():
    assert Balance(lambda row: row["row"] % 2, max_count=1).select(rows("aaaa")) == [0, 1]
    verdict = Balance(lambda row: (row["domain"], 1), max_count=1).decide(rows("aa"))[1]
    assert verdict.detail["value"] == "('a', 1)"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, "either"),
        ({"max_share": 0.5, "max_count": 1}, "either"),
        ({"max_share": 0.0}, "above 0"),
        ({"max_share": 1.1}, "at most 1"),
        ({"max_count": 0}, "at least 1"),
    ],
)
def test_invalid_options_are_refused(options, message):
    with pytest.raises(UsageError, match=message):
        Balance("domain", **options)


def test_rows_that_cannot_be_counted_are_refused():
    with pytest.raises(UsageError, match="row 1 has no 'domain'"):
        Balance("domain", 0.5).select([{"domain": "a"}, {}])
    with pytest.raises(UsageError, match="row 0: a list can't be counted"):
        Balance("domain", 0.5).select([{"domain": []}])


def test_a_dataset_is_balanced():
    from datasets import Dataset

    dataset = Dataset.from_list(rows("aabab"))
    assert dataset.select(Balance("domain", max_count=1).select(dataset))["row"][:] == [0, 2]
    with pytest.raises(UsageError, match="no column 'x'; there are domain, row"):
        Balance("x", 0.5).select(dataset)


@given(st.lists(st.sampled_from("abcdef"), max_size=60), st.sampled_from([0.2, 0.25, 0.3, 0.5, 0.75]))
def test_the_cap_is_the_widest_that_satisfies_the_share(values, share):
    data = rows(values)
    try:
        kept = Balance("domain", share).select(data)
    except UsageError:
        kept = []
    counts = [values.count(value) for value in set(values)]

    def fits(cap):
        taken = [min(count, cap) for count in counts]
        return max(taken, default=0) * 100 <= round(share * 100) * sum(taken)

    best = max(cap for cap in range(len(values) + 1) if fits(cap))
    assert len(kept) == sum(min(count, best) for count in counts)
