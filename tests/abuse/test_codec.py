"""The JSON codec compared with an independent implementation of the standard, for reading and for writing."""

from __future__ import annotations

import json
import math
import re
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from selfinstruct.common.codec import MAX_DEPTH, canonical, digest, dumps, loads

TEXT = st.text(st.characters(exclude_categories=("Cs",)))
# Numbers at the borders: beyond a double's integers, negative zero, subnormal, the largest.
NUMBERS = st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.sampled_from([-0.0, 5e-324, 10**4000])
VALUES = st.recursive(
    st.none() | st.booleans() | NUMBERS | TEXT,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(TEXT, inner, max_size=4),
    max_leaves=20,
)
# JSON's own characters, and their neighbours that other readers let through.
PIECES = st.sampled_from(
    [
        *"{}[]:,\"\\/-+.eE0123456789 \t\n\r'\x00\x1f\x7f\xa0\u2028\ufeff\u0661",
        *("null", "true", "false", "NaN", "Infinity", "-Infinity", "undefined", "True", "None", "nan", "inf"),
        *("\\u", "\\ud800", "\\udc00", "\\u0000", "\\x41", "\\'", "0x1", "01", "1.", ".5", "+1", "1e999", "1_0"),
        *("//", "/*", "*/", '"a"', '"a":1'),
    ]
)

_STRING = r'"(?:[^"\\\x00-\x1f]|\\(?:["\\/bfnrt]|u[0-9a-fA-F]{4}))*"'
_VALUE = r"-?(?:0|[1-9][0-9]*)(?:\.[0-9]+)?(?:[eE][+-]?[0-9]+)?|true|false|null"
_TOKEN = re.compile(rf"[ \t\n\r]*(?:(?P<s>{_STRING})|(?P<v>{_VALUE})|(?P<p>[\[\]{{}}:,]))[ \t\n\r]*")
_INNERMOST = re.compile(r"\[(?:[sv](?:,[sv])*)?\]|\{(?:s:[sv](?:,s:[sv])*)?\}")


def is_json(text: str) -> bool:
    """RFC 8259, by reduction: each token a letter, then every innermost array or object becomes a value."""
    shape, at = "", 0
    while at < len(text):
        if (found := _TOKEN.match(text, at)) is None:
            return False
        shape += "s" if found["s"] else "v" if found["v"] else found["p"]
        at = found.end()
    while (shorter := _INNERMOST.sub("v", shape)) != shape:
        shape = shorter
    return shape in ("s", "v")


def shown(value: Any) -> str:
    """A value with the types that ``==`` passes over: 1, 1.0 and True, 0.0 and -0.0."""
    if isinstance(value, dict):
        return "{" + ",".join(f"{key!r}:{shown(value[key])}" for key in sorted(value)) + "}"
    if isinstance(value, list):
        return "[" + ",".join(map(shown, value)) + "]"
    return f"{type(value).__name__}:{hex(value) if isinstance(value, int) else repr(value)}"


@settings(deadline=None)
@given(VALUES)
def test_values_survive_a_round_trip_with_their_types(value: Any) -> None:
    for text in (dumps(value), canonical(value), json.dumps(value)):
        assert shown(loads(text)) == shown(value)
    assert is_json(dumps(value))
    assert is_json(canonical(value).decode("utf-8"))
    assert "\n" not in dumps(value), "dumps writes one line"


@settings(deadline=None)
@given(VALUES, VALUES)
def test_digests_are_equal_only_for_equal_values(one: Any, other: Any) -> None:
    assert (digest(one) == digest(other)) == (shown(one) == shown(other))
    assert canonical(loads(canonical(one))) == canonical(one)


def _turned(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _turned(inner) for key, inner in reversed(value.items())}
    return [_turned(inner) for inner in value] if isinstance(value, list) else value


@settings(deadline=None)
@given(VALUES)
def test_key_order_at_any_depth_does_not_change_the_digest(value: Any) -> None:
    assert canonical(_turned(value)) == canonical(value)


EXTRAS = re.compile(r"given twice|out of range|nested deeper|surrogate|limit \(\d+ digits\)|at most \d+ digits")


def _check(text: str) -> bool:
    """Read a text both ways; True if it was accepted."""
    standard = is_json(text)
    try:
        value = loads(text)
    except ValueError as error:
        if standard and not EXTRAS.search(str(error)):
            raise
        return False
    assert standard, f"{text!r} is no JSON, and was read as {value!r}"
    assert shown(loads(text.encode("utf-8"))) == shown(value)
    assert shown(json.loads(text)) == shown(value)
    return True


@settings(deadline=None, max_examples=400)
@given(st.lists(PIECES, max_size=12).map("".join))
@example("[1,]")
@example('{"a":1,}')
@example('"\x7f"')
@example("-0")
@example("\ufeff1")
@example("\xa01")
def test_invalid_json_is_refused(text: str) -> None:
    _check(text)


@settings(deadline=None, max_examples=400)
@given(VALUES, st.data())
def test_mutated_json_is_read_only_if_it_is_still_valid(value: Any, data: st.DataObject) -> None:
    text = json.dumps(value, ensure_ascii=data.draw(st.booleans()))
    at = data.draw(st.integers(0, len(text)))
    cut = data.draw(st.integers(0, 2))
    _check(text[:at] + data.draw(PIECES | st.just("")) + text[at + cut :])


@settings(deadline=None)
@given(st.binary(max_size=40) | TEXT.map(lambda text: f'"{text}"'.encode("utf-16")))
def test_bytes_are_utf8_or_refused(raw: bytes) -> None:
    try:
        text = raw.decode("utf-8")
    except UnicodeDecodeError:
        with pytest.raises(ValueError, match="not UTF-8 at byte"):
            loads(raw)
    else:
        _check(text)


@pytest.mark.parametrize("text", ['"\ud800"', '{"\udfff": 1}', '["a\ud83d"]'])
def test_lone_surrogates_are_refused_in_every_notation(text: str) -> None:
    with pytest.raises(ValueError, match="surrogate"):
        loads(text)


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf, "\ud800", {"\ud800": 1}, {"a": ["\udfff"]}])
def test_values_that_cannot_be_read_are_not_written(value: Any) -> None:
    for write in (dumps, canonical, digest):
        with pytest.raises(ValueError, match=r"JSON|surrogate|compliant"):
            write([value])


@pytest.mark.parametrize("kind", ["[]", "{}"])
def test_the_depth_limit_is_exact(kind: str) -> None:
    opening, closing = ("[", "]") if kind == "[]" else ('{"a":', "}")
    for depth, fits in ((MAX_DEPTH, True), (MAX_DEPTH + 1, False), (100_000, False)):
        text = opening * depth + "1" + closing * depth
        if fits:
            assert canonical(loads(text)).decode() == text
        else:
            with pytest.raises(ValueError, match=f"nested deeper than {MAX_DEPTH}"):
                loads(text)
            with pytest.raises(ValueError, match=f"nested deeper than {MAX_DEPTH}"):
                loads(text[: len(opening) * depth])  # without its end
