"""Verifiers over generated inputs: they agree with Python, and give a verdict on any text."""

from __future__ import annotations

import json
import math
import re
from typing import Any

import pytest
from hypothesis import assume, example, given
from hypothesis import strategies as st

from selfinstruct.common.codec import dumps
from selfinstruct.verifiers import check_verifier, kind_registry, verify, without_nulls
from selfinstruct.verifiers.answers import numbers
from selfinstruct.verifiers.patterns import search
from selfinstruct.verifiers.programs import is_close

# --- expressions ---

PLAIN = (
    "1 < 2 < 3 > 2", "1 < 3 < 2", "0 or '' or []", "1 and 2", "not []", "bool(3)", "bool('')", "bool()", "int()",
    "int('12')", "int('ff', 16)", "int(-2.7)", "float('1e3')", "str(2.50)", "str(None)", "abs(-3)", "abs(True)",
    "round(2.5)", "round(1234, -2)", "divmod(-7, 3)", "-7 // 3", "-7 % 3", "7.5 % -2", "2 ** -1",
    "2 ** 0.5", "pow(3, 4, 5)", "1 << 4 | 3 & 6 ^ 1", "~5", "+True", "-True", "1 / 3", "6 / 3",
    "'ab' * 3", "[1, 2] * -1", "3 * (1,)", "[1] + [2]", "'a' + 'b'", "(1,) + (2, 3)", "len('héllo')", "len({1: 2})",
    "sum([1, 2.5], 3)", "sum([[1], [2]], [])", "min(3, 1, 2)", "max([], default=4)", "min('hello')", "any([])",
    "all([])", "sorted('hello', reverse=True)", "sorted([3, 1, 2])", "list(reversed([1, 2]))",
    "list(zip('ab', range(5)))", "list(enumerate('ab', 1))", "dict([('a', 1)])", "dict(zip('ab', [1, 2]))",
    "{'a': 1}['a']", "'a' in {'a': 1}", "2 in [1, 2]", "'b' in 'abc'", "3 not in (1, 2)", "None is None",
    "True is not False", "[1, 2][-1]", "'abc'[1]", "range(10)[2:8:3]", "list(range(10, 0, -3))", "[1, 2, 3][::-1]",
    "[1, 2, 3][5:]", "set([1, 1]) | {2}", "{1, 2} - {2}", "{1, 2} & {2, 3}", "{1} < {1, 2}",
    "{x: x * x for x in range(3)}", "{x % 2 for x in range(5)} == {0, 1}",
    "[(x, y) for x in range(3) for y in range(x)]", "[a + b for a, b in [(1, 2), (3, 4)]]",
    "[x for x in 'abc' if x > 'a']", "sum(x for x in range(5) if x % 2)", "any(x > 3 for x in range(5))",
    "tuple(x for x in 'ab')", "[len(x) for x in ['a', '']]", "1 if 0 else 2", "math.sqrt(2)", "math.floor(-2.5)",
    "math.ceil(2.1)", "math.gcd(12, 18, 27)", "math.lcm(4, 6)", "math.factorial(10)", "math.comb(10, 3)",
    "math.perm(5, 2)", "math.perm(4)", "math.prod([2, 3.5])", "math.fsum([0.1] * 10)", "math.log(8, 2)",
    "math.log10(1000)", "math.hypot(3, 4)", "math.isqrt(17)", "math.isclose(1, 1 + 1e-12)", "math.pi",
    "math.atan2(1, 1)", "math.pow(2, 10)", "math.isinf(math.inf)", "math.degrees(math.pi)", "math.gcd()",
    "math.lcm()", "2.0 in range(3)", "2.5 in range(3)", "'3' in range(5)",
    "[[x for x in range(y)] for y in range(3)]", "1_000", "0x1f", "1e400",
)  # fmt: skip


def as_json(value: Any) -> Any:
    """Return a Python value as the specification of a verifier would write it."""
    if isinstance(value, (list, tuple, range)):
        return [as_json(item) for item in value]
    if isinstance(value, set):
        return sorted(value)
    return value


@pytest.mark.parametrize("source", PLAIN)
def test_the_sandbox_agrees_with_python(source: str) -> None:
    value = eval(source, {"math": math})
    verdict = verify({"kind": "python", "value": as_json(value)}, source)
    assert verdict.kept, verdict.detail


leaves = st.integers(-20, 20).map(str) | st.sampled_from(
    ("True", "2.5", "-0.5", "'a'", "'ab c'", "[]", "(1, 2)", "'12'")
)
expressions = st.recursive(
    leaves,
    lambda inner: st.one_of(
        st.tuples(inner, st.sampled_from(("+", "-", "*", "//", "%", "==", "<", ">=", "and", "or")), inner).map(
            lambda parts: f"({' '.join(parts)})"
        ),
        st.lists(inner, max_size=3).map(lambda items: f"[{', '.join(items)}]"),
        st.tuples(inner, inner, inner).map(lambda parts: f"({parts[0]} if {parts[1]} else {parts[2]})"),
        st.tuples(inner, inner).map(lambda parts: f"[{parts[0]} for x in [{parts[1]}]]"),
        st.tuples(st.sampled_from(("len", "str", "sorted", "sum", "max", "bool", "abs", "list")), inner).map(
            lambda parts: f"{parts[0]}({parts[1]})"
        ),
    ),
    max_leaves=8,
)


@pytest.mark.filterwarnings("ignore")
@given(expressions)
def test_the_sandbox_agrees_with_python_on_any_expression(source: str) -> None:
    value, error = None, ""
    try:
        value = as_json(eval(source))
    except (ArithmeticError, LookupError, TypeError, ValueError) as raised:
        error = type(raised).__name__
    verdict = verify({"kind": "python", "value": value}, source)
    assert verdict.kept == (not error), (source, value, verdict.detail)
    assert str(verdict.detail["found"]).startswith(error), (source, verdict.detail)


# --- patterns ---

pieces = st.sampled_from((
    "a", "b", ".", "\\d", "\\w", "\\W", "[ab]", "[^a\\n]", "(?i:A)", "é", "\\b", "\\B", "^", "\\A", "\\n", "(?:)",
    "(?s:.)", "(?m:^)", "(?i:[k-l])",
))  # fmt: skip
patterns = st.recursive(
    pieces,
    lambda inner: st.one_of(
        st.tuples(inner, inner).map("".join),
        st.tuples(inner, inner).map(lambda parts: f"(?:{parts[0]}|{parts[1]})"),
        st.tuples(inner, st.sampled_from(("*", "+", "?", "{2}", "{1,3}", "{2,}", "*?", "??"))).map(
            lambda parts: f"({parts[0]}){parts[1]}"
        ),
    ),
    max_leaves=6,
)
texts = st.text(alphabet="abAé1_ \n", max_size=8)


@given(patterns, st.lists(texts, min_size=1, max_size=6), st.booleans())
@example("\\Bb", ["ab", "b", "a b"], False)
@example("(a*)*b", ["aaab", "aaa"], True)
def test_a_pattern_matches_as_in_python_with_ascii_classes(pattern: str, subjects: list[str], full: bool) -> None:
    compiled = re.compile(pattern, re.ASCII)
    for text in subjects:
        assume(text or "\\B" not in pattern)  # changed in Python 3.14
        expected = (compiled.fullmatch if full else compiled.search)(text) is not None
        assert search(pattern, text, full=full) == expected, text


# --- verdicts ---

values = st.recursive(
    st.none() | st.booleans() | st.integers(-5, 5) | st.sampled_from(("", "a", "b", 0.5, 2.0)),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(("a", "b", "c")), inner, max_size=3),
    max_leaves=6,
)


@given(values, values)
def test_a_json_value_equals_only_itself(value: Any, other: Any) -> None:
    def satisfies(instance: Any, schema: Any) -> bool:
        return verify(check_verifier({"kind": "json", "schema": schema}), json.dumps(instance)).kept

    assert satisfies(value, {"const": value})
    assert (
        satisfies(value, {"const": other}) == satisfies(other, {"const": value}) == satisfies(value, {"enum": [other]})
    )
    assert satisfies([value, other], {"uniqueItems": True}) != satisfies(value, {"const": other})
    python = verify({"kind": "python", "value": other}, repr(value))
    if not isinstance(value, dict):
        assert python.kept == satisfies(value, {"const": other})


SPECS = [
    {"kind": "number", "value": 5},
    {"kind": "number", "value": 0.5, "where": {"after": "ß"}},
    {"kind": "text", "value": "a"},
    {"kind": "regex", "pattern": "(a|b|é)*1$"},
    {"kind": "json", "schema": {"type": "array", "items": {"type": "integer"}}},
    {"kind": "python", "value": 5},
    {"kind": "tests", "tests": "assert x", "seconds": 1},
    {"kind": "words", "min": 2},
    {"kind": "sentences", "max": 2},
    {"kind": "bullets", "count": 0},
    {"kind": "contains", "words": ["a"]},
    {"kind": "excludes", "words": ["b", "é"]},
    {"kind": "starts_with", "text": "a"},
    {"kind": "ends_with", "text": "a"},
    {"kind": "lowercase"},
    {"kind": "uppercase"},
    {"kind": "no_commas"},
]
SPECS.append({"kind": "all", "of": SPECS[:]})


@given(st.text() | st.text(alphabet="0123456789.,-+eE$%/\\{}frac boxed ", max_size=40), st.sampled_from(SPECS))
@example("\ud800", SPECS[-1])
@example("\\boxed{", SPECS[-1])
@example("\x00", SPECS[-1])
def test_any_answer_has_a_verdict_that_is_json(answer: str, spec: dict[str, Any]) -> None:
    verdict = verify(check_verifier(spec), answer)
    assert verdict.kept == (verdict.reason == "")
    assert json.loads(json.dumps(verdict.detail)) == verdict.detail
    assert not verdict.kept or answer.strip()
    dumps(verdict.detail)


@given(
    st.integers(-(10**12), 10**12), st.sampled_from(("{}", "is {:,}", "{:,}.", "**{}**", "${}", "\\boxed{{{}}}", "{}%"))
)
def test_a_number_is_found_in_every_notation(value: int, form: str) -> None:
    assert verify({"kind": "number", "value": value}, form.format(value)).kept
    assert not verify({"kind": "number", "value": value + 1}, form.format(value)).kept or (
        form == "{}%" and is_close(value / 100, value + 1, None)
    )


@given(
    st.integers(1000, 10**12), st.sampled_from((" ", "'", "_", ".", "~", "\\ ", ",", "\u202f", "\\,")),
    st.sampled_from(("", "-", "$", "x = -", "about ")), st.sampled_from(("", ",5", ".25", " km", "%", ".")),
)  # fmt: skip
@example(1_000_000, ".", "", "")
@example(1_234, ".", "", ",56")
def test_a_number_with_separators_of_thousands_has_its_value_or_none(
    value: int, separator: str, before: str, after: str
) -> None:
    text = f"{before}{value:,}".replace(",", separator) + after
    if separator == ".":  # 1.234 is a decimal fraction, 1.234.567.25 a version
        assume((value >= 10**6 or after.startswith(",")) and after != ".25")
    ((_, readings),) = numbers(text)
    expected = (value + (float(after) if after == ".25" else 0)) * (-1 if "-" in before else 1)
    assert {float(number) for number in readings} <= {expected, expected / 100}, text


@given(st.sampled_from(SPECS))
def test_the_nulls_that_a_column_adds_are_removed(spec: dict[str, Any]) -> None:
    fields = {field for kind in kind_registry.builtins.values() for field in kind.fields}

    def column(verifier: Any) -> Any:
        parts = {"of": [column(part) for part in verifier["of"]]} if "of" in verifier else {}
        nulls = dict.fromkeys(fields - ({"value"} if verifier["kind"] == "python" else set()))
        return {**nulls, **verifier, **parts}

    nested = {"kind": "all", "of": [spec, {"kind": "all", "of": [spec]}]}
    assert without_nulls(column(spec)) == spec
    assert without_nulls(column(nested)) == nested
    assert without_nulls({"kind": "python", "value": None}) == {"kind": "python", "value": None}
    assert without_nulls(dict.fromkeys(fields)) is without_nulls(None) is None
    assert without_nulls({}) == {}


@given(st.lists(st.sampled_from(("one", "Two", "three.")), max_size=8), st.integers(0, 9))
def test_words_are_counted(words: list[str], most: int) -> None:
    kept = verify(check_verifier({"kind": "words", "max": most}), " ".join(words)).kept
    assert kept == (0 < len(words) <= most)
