"""Verifiers over anything: they agree with Python where Python is the measure, and have a verdict on any text."""

from __future__ import annotations

import json
import math
import re
from contextlib import suppress
from typing import Any

import pytest
from hypothesis import assume, example, given
from hypothesis import strategies as st

from selfinstruct.common.codec import dumps
from selfinstruct.verifiers import KINDS, check_verifier, verify, without_nulls
from selfinstruct.verifiers.answers import numbers
from selfinstruct.verifiers.comparing import close
from selfinstruct.verifiers.counting import STEPS, Refused
from selfinstruct.verifiers.evaluator import _Evaluator, _tree, evaluate
from selfinstruct.verifiers.patterns import compile_pattern

# --- expressions ---

NAMES = {name: __builtins__[name] for name in (
    "abs", "all", "any", "bool", "dict", "divmod", "enumerate", "float", "int", "len", "list", "max", "min", "pow",
    "range", "reversed", "round", "set", "sorted", "str", "sum", "tuple", "zip",
)} | {"math": math, "__builtins__": {}}  # fmt: skip

leaves = st.one_of(
    st.integers(-20, 20).map(str),
    st.sampled_from(("True", "False", "None", "2.5", "-0.5", "1e3", "math.pi", "10**6")),
    st.sampled_from(("''", "'a'", "'ab c'", "[]", "()", "{}", "'12'", "range(4)", "x", "y")),
)
OPERATORS = [
    "+",
    "-",
    "*",
    "/",
    "//",
    "%",
    "**",
    "<<",
    ">>",
    "&",
    "|",
    "^",
    "==",
    "!=",
    "<",
    "<=",
    ">",
    ">=",
    "in",
    "and",
    "or",
]


def larger(inner: st.SearchStrategy[str]) -> st.SearchStrategy[str]:
    several = st.lists(inner, max_size=4)
    return st.one_of(
        st.tuples(inner, st.sampled_from(OPERATORS), inner).map(lambda one: f"({one[0]} {one[1]} {one[2]})"),
        st.tuples(st.sampled_from(("-", "+", "~", "not ")), inner).map(lambda one: f"({one[0]}{one[1]})"),
        several.map(lambda many: f"[{', '.join(many)}]"),
        several.map(lambda many: f"({''.join(f'{one}, ' for one in many)})"),
        st.lists(inner, min_size=1, max_size=4).map(lambda many: f"{{{', '.join(many)}}}"),
        st.lists(st.tuples(inner, inner), max_size=3).map(lambda many: f"{{{', '.join(map(': '.join, many))}}}"),
        st.tuples(inner, inner, inner).map(lambda one: f"({one[0]} if {one[1]} else {one[2]})"),
        st.tuples(inner, inner).map(lambda one: f"{one[0]}[{one[1]}]"),
        st.tuples(inner, inner, inner).map(lambda one: f"{one[0]}[{one[1]}:{one[2]}]"),
        st.tuples(inner, inner, inner).map(lambda one: f"[{one[0]} for x in {one[1]} if {one[2]}]"),
        st.tuples(inner, inner, inner).map(lambda one: f"[{one[0]} for x, y in {one[1]} for x in {one[2]}]"),
        st.tuples(inner, inner).map(lambda one: f"sorted({{{one[0]} for x in {one[1]}}})"),
        st.tuples(inner, inner, inner).map(lambda one: f"{{{one[0]}: {one[1]} for x in {one[2]}}}"),
        st.tuples(st.sampled_from(("any", "all", "sum", "max", "min", "list", "tuple")), inner, inner).map(
            lambda one: f"{one[0]}({one[1]} for x in {one[2]})"
        ),
        st.tuples(st.sampled_from(sorted(set(NAMES) - {"math", "__builtins__"})), st.lists(inner, max_size=3)).map(
            lambda one: f"{one[0]}({', '.join(one[1])})"
        ),
        st.tuples(st.sampled_from(("sqrt", "floor", "gcd", "lcm", "comb", "prod", "log", "hypot", "isqrt")),
                  st.lists(inner, max_size=2)).map(lambda one: f"math.{one[0]}({', '.join(one[1])})"),
        inner.map(lambda one: f"list(enumerate({one}))"),
        st.tuples(inner, inner).map(lambda one: f"[x for x in zip({one[0]}, {one[1]})]"),
    )  # fmt: skip


expressions = st.recursive(leaves, larger, max_leaves=12)
bound = expressions.map(lambda one: f"[{one} for x in range(3) for y in ('a', 2)]")


def same(one: Any, other: Any) -> bool:
    """Equal, and of the same types: 1 is not True here."""
    if type(one) is not type(other):
        return False
    if isinstance(one, float):
        return one == other or math.isclose(one, other, rel_tol=1e-12)  # sums: see operations.py
    if isinstance(one, (list, tuple)):
        return len(one) == len(other) and all(map(same, one, other))
    if isinstance(one, dict):
        return same(list(one.items()), list(other.items()))
    return bool(one == other)


@pytest.mark.filterwarnings("ignore")
@given(bound | expressions)
@example("sum([0.1] * 10)")
@example("{1: 'a', True: 'b'}")
@example("[x for x in [1] for x in [x, 2]]")
@example("any(1 / x for x in [1, 0])")
@example("'abc'[::-1] + 'abc'[-2:]")
@example("1.0 in range(3)")
def test_the_evaluator_agrees_with_python_wherever_it_has_a_value(source: str) -> None:
    try:
        ours = evaluate(source)
    except Refused as refused:
        said = str(refused)
        if ": " in said and said.split(":", maxsplit=1)[0].endswith(
            "Error"
        ):  # it says that Python fails here: so it does
            with pytest.raises((ArithmeticError, LookupError, TypeError, ValueError, NameError)):
                bounded(source)
        return
    assert same(ours, bounded(source)), (ours, source)


PLAIN = (
    "1 < 2 < 3 > 2", "1 < 3 < 2", "0 or '' or []", "1 and 2", "not []", "bool(3)", "bool('')", "bool()", "int()",
    "int('12')", "int('ff', 16)", "int(-2.7)", "float('1e3')", "str(2.50)", "str(None)", "abs(-3)", "abs(True)",
    "round(2.5)", "round(2.675, 2)", "round(1234, -2)", "divmod(-7, 3)", "-7 // 3", "-7 % 3", "7.5 % -2", "2 ** -1",
    "2 ** 0.5", "pow(3, 4, 5)", "pow(3, -1, 7)", "1 << 4 | 3 & 6 ^ 1", "~5", "+True", "-True", "1 / 3", "6 / 3",
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


@pytest.mark.parametrize("source", PLAIN)
def test_the_evaluator_knows_what_it_says_that_it_knows(source: str) -> None:
    assert same(evaluate(source), bounded(source))


def bounded(source: str) -> Any:
    found = eval(source, dict(NAMES))
    assert not hasattr(found, "__next__")
    return found


@given(st.text(alphabet="0123456789+-*/%()[]{}<>=!&|^~.,:'\"_ abefginorstux\n\\", max_size=60) | st.text(max_size=40))
def test_any_text_has_a_value_or_is_refused_within_its_steps(source: str) -> None:
    try:
        tree = _tree(source)
    except Refused:
        return
    run = _Evaluator()
    with suppress(Refused, ArithmeticError, LookupError, TypeError, ValueError):
        run.value(tree.body, {})
    assert run._steps <= STEPS + 1_000_000  # the one that was refused is counted, not done


# --- patterns ---

pieces = st.sampled_from((
    "a", "b", ".", "\\d", "\\w", "\\W", "[ab]", "[^a\\n]", "(?i:A)", "é", "\\b", "\\B", "^", "$", "\\A", "\\Z", "\\n",
    "(?:)", "(?s:.)", "(?m:^)", "(?m:$)", "(?a:\\w)", "(?a:\\b)", "(?i:[k-l])",
))  # fmt: skip
patterns = st.recursive(
    pieces,
    lambda inner: st.one_of(
        st.tuples(inner, inner).map("".join),
        st.tuples(inner, inner).map(lambda one: f"(?:{one[0]}|{one[1]})"),
        st.tuples(inner, st.sampled_from(("*", "+", "?", "{2}", "{1,3}", "{0}", "{2,}", "*?", "??", "{,2}?"))).map(
            lambda one: f"({one[0]}){one[1]}"
        ),
    ),
    max_leaves=6,
)
texts = st.text(alphabet="abAé1_ \n\u212ak", max_size=8)


@given(patterns, st.lists(texts, min_size=1, max_size=6), st.booleans())
@example("a$", ["a\n", "a\n\n", "\na"], False)
@example("(?m:^)a", ["b\na", "\n"], False)
@example("\\Bb", ["ab", "b", "a b"], False)
@example("(a*)*b", ["aaab", "aaa"], True)
def test_a_pattern_matches_where_pythons_own_does(pattern: str, given_texts: list[str], full: bool) -> None:
    ours, theirs = compile_pattern(pattern, full=full), re.compile(pattern)
    for text in given_texts:
        assume(text or "\\B" not in pattern)  # Python changed its mind in 3.14
        assert ours.matches(text) == ((theirs.fullmatch if full else theirs.search)(text) is not None), text


# --- verdicts ---

values = st.recursive(
    st.none() | st.booleans() | st.integers(-5, 5) | st.sampled_from(("", "a", "b", 0.5, 2.0)),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(("a", "b", "c")), inner, max_size=3),
    max_leaves=6,
)


@given(values, values)
def test_a_json_value_equals_itself_alone(one: Any, other: Any) -> None:
    def kept(value: Any, schema: Any) -> bool:
        return verify(check_verifier({"kind": "json", "schema": schema}), json.dumps(value)).kept

    assert kept(one, {"const": one})
    assert kept(one, {"const": other}) == kept(other, {"const": one}) == kept(one, {"enum": [other]})
    assert kept([one, other], {"uniqueItems": True}) != kept(one, {"const": other})
    python = verify({"kind": "python", "value": other}, repr(one))
    if not isinstance(one, dict):
        assert python.kept == kept(one, {"const": other})


SPECS = [
    {"kind": "number", "value": 5},
    {"kind": "number", "value": 0.5, "where": {"after": "ß"}},
    {"kind": "text", "value": "a"},
    {"kind": "regex", "pattern": "(a|b|é)*1$"},
    {"kind": "json", "schema": {"type": "array", "items": {"type": "integer"}}},
    {"kind": "python", "value": 5},
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
    found = verify(check_verifier(spec), answer)
    assert found.kept == (found.reason == "")
    assert json.loads(json.dumps(found.detail)) == found.detail
    assert not found.kept or answer.strip()
    dumps(found.detail)


@given(
    st.integers(-(10**12), 10**12), st.sampled_from(("{}", "is {:,}", "{:,}.", "**{}**", "${}", "\\boxed{{{}}}", "{}%"))
)
def test_a_number_is_found_however_it_is_written(value: int, form: str) -> None:
    assert verify({"kind": "number", "value": value}, form.format(value)).kept
    assert not verify({"kind": "number", "value": value + 1}, form.format(value)).kept or (
        form == "{}%" and close(value / 100, value + 1, None)
    )


@given(
    st.integers(1000, 10**12), st.sampled_from((" ", "'", "_", ".", "~", "\\ ", ",", "\u202f", "\\,")),
    st.sampled_from(("", "-", "$", "x = -", "about ")), st.sampled_from(("", ",5", ".25", " km", "%", ".")),
)  # fmt: skip
@example(1_000_000, ".", "", "")
@example(1_234, ".", "", ",56")
def test_thousands_set_apart_are_their_number_or_none(value: int, apart: str, before: str, after: str) -> None:
    said = f"{before}{value:,}".replace(",", apart) + after
    if apart == ".":  # 1.234 is a decimal fraction, 1.234.567.25 a version
        assume((value >= 10**6 or after.startswith(",")) and after != ".25")
    ((_, readings),) = numbers(said)
    meant = (value + (float(after) if after == ".25" else 0)) * (-1 if "-" in before else 1)
    assert {float(one) for one in readings} <= {meant, meant / 100}, said


@given(st.sampled_from(SPECS))
def test_the_nulls_that_a_column_adds_are_taken_away(spec: dict[str, Any]) -> None:
    fields = {field for kind in KINDS.values() for field in kind.fields}

    def column(one: Any) -> Any:
        parts = {"of": [column(part) for part in one["of"]]} if "of" in one else {}
        return {**dict.fromkeys(fields - ({"value"} if one["kind"] == "python" else set())), **one, **parts}

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
