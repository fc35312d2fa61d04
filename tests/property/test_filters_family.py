"""Every filter decides on any text, also on a megabyte that is constructed to be slow; spans match the text."""

import json
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from selfinstruct.filters.decontaminate import Decontaminator
from selfinstruct.filters.patterns import Boilerplate
from selfinstruct.filters.pii import Pii, Span
from selfinstruct.filters.refusals import Refusals
from selfinstruct.filters.repetition import Repetition
from selfinstruct.filters.text import find_words
from selfinstruct.filters.token_spans import token_spans

ITEMS = ("a " * 60, "Name the three longest rivers of the world and the seas that they flow into", "say it to me again")
FILTERS = [Repetition(min_words=0), Refusals(), Boilerplate(), Pii(), Decontaminator(ITEMS)]
MEGA = 10**6

# Units whose repetition a careless pattern would read again from each of its characters.
UNITS = (
    *("a", "a ", "a@", "a.", "a@a.", "1", "1 ", "1.", "1-", "+1", "4111 ", "1234-", "(202) ", "2001:", "DE89", "DE89 "),
    *("-----BEGIN PRIVATE KEY-----", "-----BEGIN ", "eyJaaaaaaaaa.", "sk-aaaaaaaa", "ghp_", " ", "\n", "\n\n", "x\n"),
    *("-", "I'm sorry ", "as an ai ", "é", "e\u0301", "\u0301", "写", "ab ab ac ", "\t \n"),
)

# Texts that are rich in matches.
PIECES = st.sampled_from(
    [*UNITS, "a@b.co", "8.8.4.40", "I can't help", "sure!", "AKIA", "river", "the ", "\ud800", "ß", "ﬁ", "\u1100\u1161"]
)
TEXTS = st.one_of(st.text(), st.lists(st.one_of(PIECES, st.text(max_size=3)), max_size=40).map("".join))


@settings(max_examples=300, deadline=None)
@given(TEXTS)
def test_every_filter_decides_on_any_text_and_every_verdict_is_json(text):
    for member in FILTERS:
        (verdict,) = member.decide([text])
        assert verdict.kept == (verdict.reason == "")
        assert member.verdict(text) == verdict
        json.dumps(verdict.detail)
        for start, end, *_ in verdict.detail.get("spans", []):
            assert 0 <= start <= end <= len(text)


@settings(max_examples=300, deadline=None)
@given(TEXTS)
def test_redacted_text_contains_no_further_match(text):
    redacted, spans = Pii().redact(text)
    assert [span for span in spans if span.start >= span.end] == []
    assert all(one.end <= two.start for one, two in pairwise(spans))
    rest, end = [], 0
    for span in spans:
        rest.append(text[end : span.start])
        end = span.end
    marks = [f"[{span.kind.upper()}]" for span in spans]
    assert redacted == "".join(part + mark for part, mark in zip(rest, marks, strict=True)) + text[end:]
    assert all(isinstance(span, Span) for span in spans)


@settings(max_examples=500, deadline=None)
@given(TEXTS)
def test_every_token_has_a_span_and_spans_are_in_order(text):
    spans = token_spans(text)
    assert len(spans) == len(find_words(text))
    assert all(0 <= start < end <= len(text) for start, end in spans)
    assert [start for start, _ in spans] == sorted(start for start, _ in spans)


@pytest.mark.parametrize("unit", UNITS)
def test_a_megabyte_of_any_repeated_unit_is_decided(unit):
    """If a filter were quadratic, this would take hours, so no clock is needed."""
    text = (unit * (MEGA // len(unit) + 1))[:MEGA]
    for member in (Refusals(), Boilerplate(), Pii()):
        member.verdict(text)
    for member in (Repetition(), Decontaminator(ITEMS)):
        member.verdict(text[: MEGA // 4])


@pytest.mark.parametrize("member", FILTERS, ids=lambda member: member.name)
def test_a_dataset_is_filtered_in_two_processes_as_in_one(member):
    from datasets import Dataset, disable_progress_bars

    disable_progress_bars()
    texts = ["fine", "", "I must decline.", "Sure! Yes.", "x@mail-server.org", "no " * 99, ITEMS[1]] * 3
    expected = [text for text, kept in zip(texts, member(texts), strict=True) if kept]
    assert len(expected) < len(texts)
    dataset = Dataset.from_dict({"text": texts})
    kept = dataset.filter(member, batched=True, input_columns="text", num_proc=2, load_from_cache_file=False)
    assert kept["text"][:] == expected
