from __future__ import annotations

import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from selfinstruct.common.codec import MAX_DEPTH, canonical, digest, dumps, loads

TEXT = st.text(st.characters(exclude_categories=("Cs",)))
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | TEXT,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(TEXT, inner, max_size=4),
    max_leaves=20,
)


@given(VALUES)
def test_values_survive_a_round_trip(value: object) -> None:
    assert loads(dumps(value)) == value
    assert loads(canonical(value)) == value
    assert canonical(loads(canonical(value))) == canonical(value)


@given(st.dictionaries(TEXT, VALUES, min_size=2))
def test_key_order_does_not_change_the_digest(value: dict[str, object]) -> None:
    assert digest(value) == digest(dict(reversed(value.items())))


@given(TEXT)
def test_loads_raises_nothing_but_value_error(text: str) -> None:
    with contextlib.suppress(ValueError):
        loads(text)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ('{"a": NaN}', "NaN"),
        ("[-Infinity]", "-Infinity"),
        ("1e999", "out of range"),
        ('{"a": 1, "b": 2, "a": 3}', "'a' is given twice"),
        ("[" * 100_000 + "]" * 100_000, "nested deeper"),
        ('{"a":' * 100_000 + "1" + "}" * 100_000, "nested deeper"),
        ("9" * 5000, "digits"),
        (r'"\ud800"', "surrogate"),
        (r'{"\udfff": 1}', "surrogate"),
        (b"\xff", "not UTF-8 at byte 0"),
        ('{"a": 1', "not JSON"),
        ("", "not JSON"),
    ],
)
def test_refused(text: str | bytes, says: str) -> None:
    with pytest.raises(ValueError, match=says):
        loads(text)


def test_kept_exactly() -> None:
    text = "\u2028\u2029\u0085\x00\x1f😀\\u0041 [[[{{{"
    assert loads(dumps({"text": text})) == {"text": text}
    assert loads(r'"😀"') == "😀"
    assert loads('"' + "[" * (MAX_DEPTH + 50) + '"') == "[" * (MAX_DEPTH + 50)


def test_values_that_are_not_json_are_not_written() -> None:
    for bad in (float("nan"), float("inf"), "\ud800"):
        with pytest.raises(ValueError, match=r"JSON|surrogate|surrogates|compliant"):
            dumps([bad])
        with pytest.raises(ValueError, match=r"JSON|surrogate|surrogates|compliant"):
            canonical([bad])
