"""Verifiers, kind by kind: right answers, wrong answers, and specifications that are refused."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from selfinstruct.common.codec import Json
from selfinstruct.errors import DataError, MissingExtraError
from selfinstruct.seeds import load_seeds
from selfinstruct.verifiers import check_verifier, kind_of, kind_registry, use_journal, verify
from selfinstruct.verifiers.answers import numbers
from selfinstruct.verifiers.constraints import sentences
from tests.cli import run_cli


def right(answer: str, kind: str, **spec: Any) -> bool:
    verdict = verify(check_verifier({"kind": kind, **spec}), answer)
    assert verdict.filter == "verifier"
    assert verdict.reason == ("" if verdict.kept else "wrong_answer")
    assert set(verdict.detail) >= {"kind", "expected", "found"}
    assert all(len(str(verdict.detail[name])) <= 500 for name in ("expected", "found"))
    return verdict.kept


def found(answer: str, kind: str, **spec: Any) -> str:
    """Return what the verdict on a wrong answer says was found."""
    verdict = verify(check_verifier({"kind": kind, **spec}), answer)
    assert not verdict.kept
    return str(verdict.detail["found"])


@pytest.mark.parametrize(
    ("text", "values"),
    [
        ("It is 1,042 in all.", [1042]),
        ("1,000,000.50", [1000000.5]),
        ("$1{,}042$ and 1\\,042 and 1\u202f042", [1042, 1042, 1042]),
        ("1.5e3 and 1.5E-3", [1500, 0.0015]),
        ("1.5\u00d710^3, 2 x 10^2, 1.5 \\times 10^{-3}", [1500, 200, 0.0015]),
        ("3/4 and \\frac{3}{4} and 1 3/4", [0.75, 0.75, 1.75]),
        ("$12, -$12, $-12, \\$12", [12, -12, -12, 12]),
        ("-3 and \u22125 and (-7) and -.5", [-3, -5, -7, -0.5]),
        ("10-4=6, 10 - 4 and 20\u201330", [10, 4, 6, 10, 4, 20, 30]),
        ("**42** _43_ =44 Answer:45 46.", [42, 43, 44, 45, 46]),
        ("12kg, 5 % less", [12, (5, 0.05)]),
        ("50%", [(50, 0.5)]),
        ("\u0663", [3]),
        # No numbers: parts of words, ordinals, dates, times, versions.
        ("abc123 GPT-4 H2O x_1 x-5 the 3rd 21st", []),
        ("2024-05-01 1/2/2024 01-02-2024 10:30 1.2.3 v1.2.3 3/4/5", []),
        # Numbers that nobody can be sure of.
        ("5k", [()]),
        ("3,5", [()]),
        ("1,2,3", [()]),
        ("3x", [()]),
        ("1/0", [()]),
        ("9e99999999", [()]),
        ("1" * 1000, [()]),
    ],
)
def test_the_numbers_of_a_text(text: str, values: list[Any]) -> None:
    expected = [value if isinstance(value, tuple) else (value,) for value in values]
    assert [tuple(float(value) for value in readings) for _, readings in numbers(text)] == expected


def test_a_number() -> None:
    assert right("So it is 1,042.", "number", value=1042)
    assert not right("So it is 1,043.", "number", value=1042)
    assert not right("Many.", "number", value=1042)
    assert right("1042.0", "number", value=1042)
    assert right("50%", "number", value=0.5)
    assert right("\\frac{1}{3}", "number", value=0.333333333)
    assert not right("0.33", "number", value=0.333333333)
    assert right("0.33", "number", value=0.333333333, tolerance=0.01)
    assert right("0.3", "number", value=0.1, tolerance=0.2), "as written"
    assert not right("1000001", "number", value=1000000), "an integer is exact"
    assert not right("0", "number", value=1e-9)
    assert not right("10", "number", value=100, tolerance=0.5), "a tolerance is absolute, not relative"


def test_where_a_number_is_read() -> None:
    assert right("First 7, then 42", "number", value=42)
    assert right("\\boxed{42}, as 7 + 35 says", "number", value=42)
    assert right("\\boxed{x = \\frac{1}{2}} for n = 3", "number", value=0.5)
    assert not right("6 or 42", "number", value=42, where="only")
    assert right("I say 42.", "number", value=42, where="only")
    after = {"after": "Answer:"}
    assert right("1 + 1. ANSWER: 2 (not 3)", "number", value=2, where=after)
    assert not right("2", "number", value=2, where=after)
    assert right("Answer: 1? No. Answer: 2", "number", value=2, where=after)


READ = [
    ("-\\frac{3}{4}", -0.75), ("\\boxed{-\\frac{1}{2}}", -0.5), ("x = - \\frac{1}{2}", -0.5), ("2\\frac{1}{2}", 2.5),
    ("\\frac{-1}{-2}", 0.5), ("\\nicefrac{1}{2}", 0.5), ("1 / 2", 0.5), ("1/-2", -0.5), ("5/2.5", 2),
    ("10/1,000", 0.01), ("42 cm^2.", 42), ("9.8 m/s^2", 9.8), ("5 m^(-1)", 5), ("42\\text{ cm}^2", 42),
    ("$90^{\\circ}$", 90), ("90^\\circ", 90), ("-5°C", -5), ("5/hour", 5), ("w/ 5 items", 5), ("x = - 5", -5),
    ("\\boxed{- 5}", -5), ("(- 5)", -5), ("$5$ - $3$", 3), ("A list:\n- 5", 5),
    ("\uff11\uff0c\uff10\uff10\uff10", 1000), ("\uff11\uff0e\uff15", 1.5), ("5 \uff05", 0.05), ("5\u00d710⁻³", 0.005),
    ("2·10^3", 2000), ("5e\u22123", 0.005), ("1.5 x 10^(-3)", 0.0015), ("In 2024 200 came", 200),
    ("It costs $1,200 in 2024.", 2024), ("about 3/4 cup", 0.75), ("3.5e10", 3.5e10), ("x=5", 5), ("5 x 4 = 20", 20),
    ("€ 5", 5), ("[3]", 3), ("a) 7", 7), ("No. 5", 5), ("page 3 / 10", 0.3), ("2^{10} = 1024", 1024), ("x² = 9", 9),
    ("50%,60%", 0.6), ("\\sqrt[3]{8} = 2", 2), ("the 5^{th} term is 9", 9), ("5 千克", 5), ("**5**", 5), ("42[^1]", 42),
]  # fmt: skip


@pytest.mark.parametrize(("answer", "value"), READ)
def test_a_number_as_people_write_it(answer: str, value: float) -> None:
    assert right(answer, "number", value=value)


UNCLEAR = [
    ("2^{10}", (2, 10, 1024)), ("10^3", (10, 3)), ("10²", (10, 2)), ("10⁻³", (10, 3)), ("2**10", (2, 10)),
    ("2^0.5", (2, 0.5, 5)), ("2^{3^2}", (2, 3)), ("2^\\frac{1}{2}", (2, 0.5)), ("(2+3)^2", (2, 3)), ("(2)²", (2,)),
    ("\\frac{3}{4}^2", (0.75, 2)), ("5 \u00d7 10^n", (5, 10)), ("2π", (2,)), ("2 pi", (2,)),
    ("\\frac{1}{2}\\pi", (0.5,)), ("π/2", (2,)), ("3π/4", (3, 4)), ("x^2/2", (2,)), ("(a+b)/2", (2,)),
    ("1 / 2 / 3", (0.5, 3)), ("1/(2)", (1, 2)), ("1/√2", (1, 2)), ("3√2", (3, 2)), ("√16", (16,)),
    ("\\sqrt{16}", (16,)), ("sqrt(16)", (16,)), ("∛8", (8,)), ("\\sqrt[3]{8}", (3, 8)), ("5½", (5, 0.5)),
    ("2 ½", (2,)), ("I ate 3, he ½", (3,)), ("\\frac34", (3, 4, 34)), ("\\frac{\\sqrt{3}}{2}", (3, 2)),
    ("\\binom{5}{2}", (5, 2)), ("0.\\overline{3}", (0, 3)), ("0.(3)", (0, 3)), ("0,500", (500, 0)),
    ("12 500", (12, 500)), ("20 000 people", (20, 0)), ("1'000", (1, 0)), ("5'000'000", (5, 0)), ("1_000", (1, 0)),
    ("1_000_000", (1, 0)), ("42\\ 000", (42, 0)), ("42~000", (42, 0)), ("1.234,56", (1.234, 56)),
    ("-1.234,56", (56,)), ("12 000,5", (5,)), ("1\u202f234,56", (1234, 56)), ("$3,5", (3, 5)), ("-3,5", (-3, 5)),
    ("\u0663\u066b\u0665", (3, 5)), ("₹1,00,000", (1, 0)), ("Of 3, it is 1.000.000", (3, 1, 0)),
    ("Of 3, it is 1.000.000.", (3, 1, 0)),
    ("$1.000.000", (1, 0)), ("101_2", (101, 2)), ("101_{2}", (101, 2)), ("1010₂", (1010,)), ("x_{5}", (5,)),
    ("4.5:1", (4.5, 1)), ("5‰", (5,)), ("5 million", (5,)), ("5 Million", (5,)), ("5-million", (5,)),
    ("5\\text{ million}", (5,)), ("$5 bn", (5,)), ("$5 B", (5,)), ("5 hundredths", (5,)), ("5万", (5,)), ("5 億", (5,)),
    ("3/4 million", (0.75,)),
]  # fmt: skip


@pytest.mark.parametrize(("answer", "wrong"), UNCLEAR)
def test_a_number_with_an_unclear_value_equals_none_of_its_parts(answer: str, wrong: tuple[float, ...]) -> None:
    for value in wrong:
        assert not right(answer, "number", value=value), value
        assert not right(answer, "number", value=value, where="only"), value
        begins_with_another = answer.startswith(("(2", "Of 3", "I ate"))
        assert right(f"Answer: {answer}", "number", value=value, where={"after": "Answer:"}) <= begins_with_another


def test_a_mixed_number_too_long_to_read_does_not_equal_its_fraction() -> None:
    assert right("Answer: 3 1/2", "number", value=3.5)
    for too_long in ("9" * 401, "5e99999"):
        assert not right(f"Answer: {too_long} 1/2", "number", value=0.5)


@pytest.mark.parametrize("answer", ["Answer: 5M", "Answer: 5k", "$5B. Answer: $5B", "ANSWER: 5K", "Answer: 5M for you"])
def test_a_suffix_of_thousands_after_a_label_is_not_a_unit(answer: str) -> None:
    assert not right(answer, "number", value=5, where={"after": "Answer:"})
    assert right("Answer: 5m", "number", value=5, where={"after": "Answer:"})


def test_the_sign_after_a_label_that_ends_with_an_equals_sign() -> None:
    assert right("x = - 5", "number", value=-5, where={"after": "x ="})
    assert not right("x = - 5", "number", value=5, where={"after": "x ="})


def test_the_last_box_counts() -> None:
    assert right("\\boxed{7}? No: \\boxed{42} and not 7", "number", value=42)
    assert not right("\\boxed{7}? No: \\boxed{42} and not 7", "number", value=7)
    assert not right("5, so \\boxed{none}", "number", value=5)


HUGE = 10**400


@pytest.mark.parametrize("kind", ["number", "python"])
def test_an_integer_beyond_every_float(kind: str, tmp_path: Path) -> None:
    assert right(str(HUGE // 10), kind, value=HUGE // 10)
    assert not right("5", kind, value=HUGE)
    assert not right("1e300", kind, value=HUGE)
    assert right("5", kind, value=4, tolerance=HUGE)
    assert not right("5.5", kind, value=HUGE, tolerance=0.5)
    assert not right("5", kind, value=0.5, tolerance=0), "exactly"
    seeds = [{"instruction": f"Add {name}", "output": "5", "verifier": {"kind": kind, "value": 4, **more}}
             for name, more in (("one", {"value": HUGE}), ("a lot", {"tolerance": HUGE}))]  # fmt: skip
    (tmp_path / "seeds.jsonl").write_text("".join(json.dumps(seed) + "\n" for seed in seeds))
    assert [task.verifier for task in load_seeds(tmp_path / "seeds.jsonl")] == [seed["verifier"] for seed in seeds]
    assert "OverflowError" not in run_cli("seeds", "check", tmp_path / "seeds.jsonl", code=0)


def test_a_text() -> None:
    assert right("**Paris.**", "text", value="paris")
    assert right(' "Rome"  ', "text", values=["Paris", "Rome"])
    assert right("New\n  York", "text", value="new york")
    assert right("巴黎。", "text", value="巴黎")
    assert right("巴黎", "text", value="巴黎。")
    assert not right("Paris, France", "text", value="Paris")
    assert not right("", "text", value="Paris")


def test_a_pattern() -> None:
    assert right("so 2024-05-01 it was", "regex", pattern=r"\d{4}-\d\d-\d\d")
    assert not right("so 2024-05-01 it was", "regex", pattern=r"\d{4}-\d\d-\d\d", full=True)
    assert right("ab", "regex", pattern="a|ab", full=True), "all alternatives are tried"
    assert right("YES", "regex", pattern="(?i)^yes$")
    assert right("a\nyes\nb", "regex", pattern="(?m)^yes$")
    assert not right("a" * 50_000, "regex", pattern="(a|a)*b"), "no backtracking"
    assert right("[x", "regex", pattern="[[a]x"), "a warning of Python would be an error in these tests"


def test_a_text_too_long_for_a_large_pattern_is_a_wrong_answer() -> None:
    large = "(?:x?){1000}" * 10 + "y"
    assert right("x" * 5_000 + "y", "regex", pattern=large)
    assert "this pattern can search at most" in found("x" * 100_000 + "y", "regex", pattern=large)


def test_a_pattern_has_the_syntax_of_re2() -> None:
    assert not right("yes\n", "regex", pattern="^yes$"), "$ is the end of the text"
    assert right("yes\n", "regex", pattern=r"^yes\s*$")
    assert not right("\u0663", "regex", pattern=r"\d"), "classes are ASCII"
    assert right("\u0663é", "regex", pattern=r"^\p{Nd}\p{L}$")
    assert right("é", "regex", pattern="^.$"), "a character is a code point"


def test_json() -> None:
    schema = {
        "type": "object",
        "required": ["name", "tags"],
        "additionalProperties": False,
        "properties": {
            "name": {"type": "string", "minLength": 1, "pattern": "^[a-z]+$"},
            "tags": {"type": "array", "items": {"$ref": "#/$defs/tag"}, "uniqueItems": True, "maxItems": 3},
        },
        "$defs": {"tag": {"enum": ["a", "b", 1]}},
    }
    assert right('{"name": "x", "tags": ["a", 1.0]}', "json", schema=schema)
    assert right('Here:\n```json\n{"name": "x", "tags": []}\n```', "json", schema=schema)
    assert not right('{"name": "x", "tags": []} as you wished', "json")
    assert not right("```\n{}\n```\n```\n{}\n```", "json"), "with two code blocks the answer is ambiguous"
    assert not right('{"a": NaN}', "json")
    assert not right('{"a": 1, "a": 2}', "json")
    assert (
        found('{"name": "x", "tags": ["a", "c"]}', "json", schema=schema)
        == '$.tags[1]: "c" is not one of ["a", "b", 1]'
    )
    assert found('{"name": "x", "tags": [], "y": 1}', "json", schema=schema) == "$.y: not allowed"
    for wrong in ('{"name": "X", "tags": []}', '{"name": "x"}', '{"name": "x", "tags": [1, 1.0]}',
                  '{"name": "", "tags": []}', "[]"):  # fmt: skip
        assert not right(wrong, "json", schema=schema), wrong


def test_a_message_about_a_large_value_is_short() -> None:
    assert len(found(json.dumps(list(range(10_000))), "json", schema={"type": "string"})) <= 200


def test_the_end_of_a_pattern_in_a_schema_is_the_end_of_the_text() -> None:
    for pattern in ("^[a-z]+$", "^(?:[a-z]+$|1)"):
        assert right('"abc"', "json", schema={"pattern": pattern})
        assert not right('"abc\\n"', "json", schema={"pattern": pattern})
        assert not right('{"abc\\n": 1}', "json", schema={"propertyNames": {"pattern": pattern}})
        assert right('{"abc\\n": 1}', "json", schema={"patternProperties": {pattern: False}})
    assert right('"a\\nb"', "json", schema={"pattern": "(?m)^a$"})


# By the text of JSON Schema 2020-12, each with values that are valid and values that are not.
SCHEMAS: list[tuple[Any, list[Any], list[Any]]] = [
    ({"type": "integer"}, [1, 1.0, -(10**30)], [1.5, True, "1", None]),
    ({"type": ["null", "number"]}, [None, 0.5], [False, []]),
    ({"enum": [1, "a", [True]]}, [1.0, [True]], [True, [1], "A"]),
    ({"const": {"a": [1, 2]}}, [{"a": [1.0, 2]}], [{"a": [2, 1]}]),
    ({"const": False}, [False], [0, None]),
    ({"multipleOf": 0.1}, [0.3, 1, "x"], [0.35]),
    ({"minimum": 1, "exclusiveMaximum": 2}, [1, 1.9, "x"], [0.9, 2]),
    ({"exclusiveMinimum": 1, "maximum": 2}, [2], [1, 2.1]),
    ({"minLength": 2, "maxLength": 3}, ["ab", 1], ["a", "abcd"]),
    ({"prefixItems": [{"type": "string"}], "items": {"type": "integer"}}, [["a", 1], [], ["a"]], [["a", "b"], [1]]),
    ({"contains": {"type": "integer"}, "minContains": 2, "maxContains": 3}, [[1, 2, "a"]], [[1], [1, 2, 3, 4]]),
    ({"uniqueItems": True}, [[1, True, "1"], [{"a": 1}, {"a": 2}]], [[1, 1.0], [{"a": 1, "b": 2}, {"b": 2, "a": 1}]]),
    ({"patternProperties": {"^x": {"type": "integer"}}, "additionalProperties": False},
     [{"xa": 1}], [{"y": 1}, {"x": ""}]),
    ({"propertyNames": {"maxLength": 2}}, [{"ab": 1}], [{"abc": 1}]),
    ({"minProperties": 1, "maxProperties": 1}, [{"a": 1}, []], [{}, {"a": 1, "b": 2}]),
    ({"dependentRequired": {"a": ["b"]}}, [{}, {"a": 1, "b": 2}], [{"a": 1}]),
    ({"dependentSchemas": {"a": {"required": ["b"]}}}, [{"b": 1}], [{"a": 1}]),
    ({"allOf": [{"minimum": 1}, {"maximum": 2}]}, [1.5], [0, 3]),
    ({"anyOf": [{"type": "null"}, {"minimum": 1}]}, [None, 2], [0]),
    ({"oneOf": [{"multipleOf": 2}, {"multipleOf": 3}]}, [2, 3], [6, 1]),
    ({"not": {"type": "string"}}, [1], ["a"]),
    ({"if": {"type": "string"}, "then": {"minLength": 1}, "else": {"minimum": 0}}, ["a", 1], ["", -1]),
    ({"$ref": "#/$defs/a~1b%25", "$defs": {"a/b%": {"type": "null"}}}, [None], [1]),
    ({"properties": {"next": {"$ref": "#"}}, "additionalProperties": False},
     [{"next": {"next": {}}}], [{"next": {"x": 1}}]),
    ({"$schema": "http://json-schema.org/draft-07/schema#", "items": {"$ref": "#"}, "type": "array"}, [[[]]], [[1]]),
    (True, [1], []),
    (False, [], [1]),
]  # fmt: skip


@pytest.mark.parametrize(("schema", "valid", "not_valid"), SCHEMAS)
def test_every_keyword_of_a_schema(schema: Any, valid: list[Any], not_valid: list[Any]) -> None:
    for value in valid:
        assert right(json.dumps(value), "json", schema=schema), value
    for value in not_valid:
        assert not right(json.dumps(value), "json", schema=schema), value


def test_a_circular_or_exponential_schema_ends() -> None:
    circular = {"$defs": {"a": {"$ref": "#/$defs/a"}}, "$ref": "#/$defs/a"}
    assert "levels deep" in found("1", "json", schema=circular)
    defs = {f"d{n}": {"anyOf": [{"$ref": f"#/$defs/d{n + 1}"}] * 2} for n in range(30)}
    doubling = {"$ref": "#/$defs/d0", "$defs": {**defs, "d30": {"type": "string"}}}
    assert "steps" in found("1", "json", schema=doubling)


@pytest.mark.parametrize(
    ("answer", "value", "kept"),
    [
        ("2 + 3 * 4", 14, True),
        ("2 + 3 * 4", 15, False),
        ("```python\nsorted([3, 1, 2])\n```", [1, 2, 3], True),
        ("The squares:\n[x**2 for x in range(4)]", [0, 1, 4, 9], True),
        ("So:\n`0.1 + 0.2`", 0.3, True),
        ("# ten\nsum(range(5))", 10, True),
        ("{'a': (1, None)}", {"a": [1, None]}, True),
        ("{1, 2}", [2, 1], True),
        ("range(3)", [0, 1, 2], True),
        ("1 == 1", True, True),
        ("1 == 1", 1, False),
        ("1", True, False),
        ("4 / 2", 2, True),
        ("'4'", 4, False),
        ("None", None, True),
        ("It is fourteen.", 14, False),
        ("print(14)", 14, False),
        ("x = 14", 14, False),
        ("14\n15", 14, False),
    ],
)
def test_an_expression(answer: str, value: Any, kept: bool) -> None:
    assert right(answer, "python", value=value) is kept


@pytest.mark.parametrize(
    ("answer", "value", "kept"),
    [
        ("5999998/2", 3000000, False),
        ("2999999", 3000000, False),
        ("6000000/2", 3000000, True),
        ("0.1 * 30", 3, True),
        ("3.0000001", 3, False),
        ("3.0000001", 3.0, True),
        ("{1, 2}", [1, 1], False),
        ("{1, 2}", [1, 2, 2], False),
        ("{1, 2}", [1, 2, 3], False),
        ("{True}", [1], False),
        ("{1}", [True], False),
        ("{3, 4}", [1, 2], False),
        ("{3, 4}", [4, 3], True),
        ("{'a': 1, 'b': 2}", {"a": 1}, False),
        ("{'a': 1}", {"a": 1, "b": 2}, False),
        ("```\n1\n```\nNo:\n```\n2\n```", 2, True),
        ("```\n1\n```\nNo:\n```\n2\n```", 1, False),
    ],
)
def test_a_value_similar_to_the_expected_one(answer: str, value: Any, kept: bool) -> None:
    assert right(answer, "python", value=value) is kept


def test_a_long_answer_is_read_by_its_last_line() -> None:
    prose = "It goes on and on.\n" * 1000
    assert right(f"{prose}[1,2]", "python", value=[1, 2])
    assert not right(f"{prose}[1,2]", "python", value=[1, 3])
    assert not right(f"[1,2]\n{prose}", "python", value=[1, 2])
    assert not right("1" + " " * 20_000 + "+ 1", "python", value=1), "a long line is not cut to a shorter expression"


@pytest.mark.parametrize(
    "answer",
    [
        "'Hello'.upper().replace('H', 'J')",
        "f'{2 + 3:>6}'",
        "(lambda n: n * 2)(4)",
        "sorted({'b', 'a', 'c'})",
        "math.sqrt(16)",
        "max(['aa', 'b'], key=len)",
        "dict(zip('ab', [1, 2]))",
        "[a + b for a, b in [(1, 2), (3, 4)]]",
        "'abc'[::-1]",
        "divmod(-7, 3)",
    ],
)
def test_an_expression_has_the_value_that_python_gives_it(answer: str) -> None:
    import math

    value = eval(answer, {"math": math})
    assert right(answer, "python", value=list(value) if isinstance(value, tuple) else value)


def test_the_reason_why_an_expression_has_no_value() -> None:
    assert found("It is fourteen.", "python", value=14) == "no Python expression"
    assert found("1 / 0", "python", value=14) == "ZeroDivisionError: division by zero"
    assert found("[x for x in range(10**12)]", "python", value=14) == "it takes more than 64 MiB of memory"
    assert found("'a' * 200_000", "python", value="a") == "a value of more than 100,000 characters"
    assert found("1" + " " * 20_000 + "+ 1", "python", value=1) == "an expression of more than 10,000 characters"


ADD = "assert add(1, 2) == 3\nassert add(0, -1) == -1"
BUBBLE = """Here is the code:

```python
from dataclasses import dataclass, field
from collections import Counter, defaultdict
import itertools, json, re


@dataclass
class Stack:
    items: list[int] = field(default_factory=list)

    def push(self, item: int) -> None:
        self.items.append(item)

    def pop(self) -> int:
        if not self.items:
            raise IndexError("empty")
        return self.items.pop()


def most_common(text: str) -> str:
    return Counter(re.findall(r"[a-z]+", text.lower())).most_common(1)[0][0]
```

Run it with:

```bash
python stack.py
```
"""


def test_code_passes_its_tests() -> None:
    assert right("def add(a, b):\n    return a + b", "tests", tests=ADD)
    assert right("```python\ndef add(a, b):\n    return a + b\n```\nIt adds.", "tests", tests=ADD)
    tests = """
stack = Stack()
stack.push(1)
assert stack.pop() == 1
try:
    stack.pop()
except IndexError:
    pass
else:
    assert False, "no error"
assert most_common("The sea, the sky, the land") == "the"
"""
    assert right(BUBBLE, "tests", tests=tests)
    assert right("```py\na = 1\n```\nand\n```\nb = a + 1\n```", "tests", tests="assert b == 2"), "blocks are joined"
    assert right("def add(a, b):\n    print('x' * 1000)\n    return a + b", "tests", tests=ADD), "prints are ignored"


@pytest.mark.parametrize(
    ("answer", "says"),
    [
        ("def add(a, b):\n    return a - b", "the tests, line 1: AssertionError: assert -1 == 3"),
        ("def add(a, b):\n    return abs(a + b)", "the tests, line 2: AssertionError: assert 1 == -1"),
        ("def sub(a, b):\n    return a - b", "the tests, line 1: NameError: name 'add' is not defined"),
        ("def add(a, b):\n    return a / 0", "the tests, line 1: ZeroDivisionError: division by zero"),
        ("x = 1 / 0", "the code, line 1: ZeroDivisionError: division by zero"),
        ("def add(a, b):\n    while True: pass", "the tests: it takes more than 0.2 s"),
        ("while True: pass", "the code: it takes more than 0.2 s"),
        ("def add(a, b): return add(a, b)", "the tests, line 1: RecursionError: maximum recursion depth exceeded"),
        ("\nx = 'a'\nwhile True: x += x", "the code, line 3: it takes more than 64 MiB of memory"),
        ("I can't do that.", "the code, line 1: SyntaxError: "),
        ("class A(B): pass", "the code, line 1: unsupported Python: class inheritance and metaclasses"),
        ("def f():\n    yield 1", "the code, line 2: unsupported Python: yield expressions"),
        ("import heapq", "the code, line 1: ModuleNotFoundError: No module named 'heapq'"),
        ("raise SystemExit", "the code, line 1: SystemExit"),
        ("```bash\nls\n```", "no Python code"),
    ],
)
def test_the_reason_why_tests_fail(answer: str, says: str) -> None:
    seconds = 0.2 if "0.2" in says else 30
    assert found(answer, "tests", tests=ADD, seconds=seconds).startswith(says)


def test_the_same_program_has_the_same_result_every_time() -> None:
    imports = "import datetime, random, time"
    answer = f"{imports}\nseen = (random.random(), time.time(), datetime.datetime.now(), list({{'b', 'a'}}))"
    verdicts = {found(answer, "tests", tests="assert seen == 1") for _ in range(5)}
    assert len(verdicts) == 1


class Recorder:
    """A journal in memory."""

    def __init__(self) -> None:
        self.results: dict[str, Mapping[str, Json]] = {}

    def get(self, key: str) -> Mapping[str, Json] | None:
        return self.results.get(key)

    def put(self, key: str, result: Mapping[str, Json]) -> None:
        self.results[key] = result


@pytest.mark.parametrize("wrapped", [False, True])
def test_a_recorded_result_is_not_computed_again(wrapped: bool) -> None:
    spec: dict[str, Any] = {"kind": "tests", "tests": ADD, "seconds": 0.1}
    verifier = {"kind": "all", "of": [{"kind": "no_commas"}, spec]} if wrapped else spec
    slow, good = "while True: pass", "def add(*n): return sum(n)"
    journal = Recorder()
    with use_journal(journal):
        verdicts = [verify(verifier, slow), verify(verifier, good)]
    assert [verdict.kept for verdict in verdicts] == [False, True]
    assert len(journal.results) == 2
    swapped = Recorder()
    swapped.results = dict(zip(journal.results, reversed(journal.results.values()), strict=True))
    with use_journal(swapped):
        assert [verify(verifier, slow).kept, verify(verifier, good).kept] == [True, False]
        assert not verify({"kind": "words", "min": 9}, slow).kept
    assert len(swapped.results) == 2, "kinds that run no code are not recorded"
    assert verify(verifier, good).kept, "no journal is used outside the block"


@pytest.mark.parametrize(
    ("spec", "module", "package"),
    [
        ({"kind": "regex", "pattern": "never seen before"}, "re2", "google-re2"),
        ({"kind": "json", "schema": {}}, "jsonschema", "jsonschema"),
        ({"kind": "tests", "tests": ADD}, "pydantic_monty", "pydantic-monty"),
    ],
)
def test_a_missing_package_is_named_with_the_command_that_installs_it(
    spec: Any, module: str, package: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    from selfinstruct.verifiers import schema

    schema._validators.cache_clear()
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(
        MissingExtraError, match=rf"{package}.* is not installed; run: pip install 'selfinstruct\[verify\]'"
    ):
        check_verifier(spec)


def test_the_form_of_an_answer() -> None:
    assert right("one two three", "words", min=3, max=3)
    assert not right("one two three", "words", min=4)
    assert right("漢字", "words", min=2), "a character is a word where there are no spaces"
    assert right("One. Two!", "sentences", min=2, max=2)
    assert right("- a\n* b\n-c\ntext - d", "bullets", count=2)
    assert not right("- a\n* b\n- c", "bullets", count=2)
    assert not right("- a", "bullets", count=2)
    assert right("The Sea is BLUE.", "contains", words=["sea", "blue"])
    assert not right("The seaside is blue.", "contains", words=["sea"])
    assert right("New York!", "contains", words=["new york"])
    assert right("The seaside.", "excludes", words=["sea"])
    assert not right("The sea-side.", "excludes", words=["Sea"])
    assert right(" Dear John, yes", "starts_with", text="Dear John")
    assert right("Yes. Bye.\n", "ends_with", text="Bye.")
    assert right("all of 3 ß", "lowercase")
    assert not right("all Of", "lowercase")
    assert right("ALL OF 3 ß", "uppercase")
    assert not right("ALL oF", "uppercase")
    assert not right("a, b", "no_commas")
    assert not right("a\uff0cb", "no_commas")
    for kind in ("lowercase", "uppercase", "no_commas"):
        assert not right(" \n", kind), "a blank answer is never right"


def test_sentences() -> None:
    assert sentences("Dr. Smith came, e.g. today. He left") == 2
    assert sentences("1. One.\n2. Two.") == 2
    assert sentences("It is 3.5 m long (or so.) Is it?") == 2
    assert sentences("天气很好。我们走吧\uff01") == 2
    assert sentences("...") == sentences("") == 0


@pytest.mark.parametrize(
    ("text", "count"),
    [
        ("No. I can't do that.", 2),
        ("The answer is no. It rains.", 2),
        ("See no. 5 and No. **6** there.", 1),
        ("He likes a fig. She does not.", 2),
        ("See Fig. 3 there.", 1),
        ("As Al. He said so.", 2),
        ("Zhou et al. showed it. So did Wang et\nal. later.", 2),
        ("We saw St. Peter's today.", 1),
        ("It stands in the main st. next to it.", 2),
        ("He lives in Main St. and she does too.", 2),
        ("It took 5 ms. Then it ended.", 2),
        ("We met Ms. Smith, Mr. Wu and Prof. Li there.", 1),
        ("Cats vs. dogs, cf. page 3, i.e. there.", 1),
        ("Is it so?! Yes!!! (No...) Well.", 4),
    ],
)
def test_the_full_stop_of_an_abbreviation_does_not_end_a_sentence(text: str, count: int) -> None:
    assert sentences(text) == count


def test_all_names_what_failed() -> None:
    parts = [{"kind": "words", "max": 2}, {"kind": "no_commas"}, {"kind": "all", "of": [{"kind": "lowercase"}]}]
    verdict = verify(check_verifier({"kind": "all", "of": parts}), "one, Two, three")
    assert (verdict.kept, verdict.reason) == (False, "wrong_answer")
    assert [part["kind"] for part in verdict.detail["failed"]] == ["words", "no_commas", "all"]
    assert verdict.detail["failed"][0] == {"kind": "words", "expected": "at most 2 words", "found": "3 words"}
    assert right("one two", "all", of=parts)


@pytest.mark.parametrize(
    ("spec", "says"),
    [
        (3, "must be an object with a 'kind' of number, text, regex, json, python, tests, words"),
        ({}, "must be an object with a 'kind'"),
        ({"kind": "numbr"}, "unknown kind \"numbr\" (did you mean 'number'?)"),
        ({"kind": "number"}, "'number' needs 'value'"),
        ({"kind": "number", "value": "3"}, "'value' must be a number, found \"3\""),
        ({"kind": "number", "value": True}, "'value' must be a number, found true"),
        ({"kind": "number", "value": 3, "tolerence": 1}, "no setting \"tolerence\" (did you mean 'tolerance'?)"),
        ({"kind": "number", "value": 3, "tolerance": -1}, "'tolerance' must be at least 0"),
        ({"kind": "number", "value": 3, "where": "first"}, '\'where\' must be "last", "only" or'),
        ({"kind": "text"}, "'text' needs 'value' or 'values'"),
        ({"kind": "text", "value": "a", "values": ["b"]}, "exclude each other"),
        ({"kind": "text", "value": "."}, "consists of punctuation only"),
        ({"kind": "regex", "pattern": "("}, "'pattern' must be a regular expression in RE2 syntax: missing )"),
        (
            {"kind": "regex", "pattern": "a(?=b)"},
            "'pattern' must be a regular expression in RE2 syntax: invalid perl operator: (?=",
        ),
        (
            {"kind": "regex", "pattern": r"(a)\1"},
            "'pattern' must be a regular expression in RE2 syntax: invalid escape sequence: \\1",
        ),
        (
            {"kind": "regex", "pattern": "(a{99}){99}"},
            "'pattern' must be a regular expression in RE2 syntax: invalid repetition size",
        ),
        (
            {"kind": "regex", "pattern": "a{1000}" * 200},
            "'pattern' must be a regular expression in RE2 syntax: pattern too",
        ),
        ({"kind": "regex", "pattern": "a" * 3000}, "'pattern' must have at most 2,000 characters"),
        ({"kind": "regex", "pattern": "a", "full": 1}, "'full' must be true or false"),
        ({"kind": "json", "schema": {"typ": "x"}}, "$: unknown keyword \"typ\" (did you mean 'type'?)"),
        ({"kind": "json", "schema": {"items": {"type": "strin"}}}, "$.items.type: 'strin' is not"),
        (
            {"kind": "json", "schema": {"$ref": "http://example.org"}},
            '$.$ref must refer to a part of this schema (#/$defs/name), found "http',
        ),
        ({"kind": "json", "schema": {"$ref": "#/$defs/a"}}, "$.$ref must refer to a part of this schema"),
        ({"kind": "json", "schema": {"$ref": "#/default", "default": {"typ": 1}}}, '$.$ref: unknown keyword "typ"'),
        ({"kind": "json", "schema": {"pattern": "("}}, '$.pattern "(" must be a regular expression'),
        ({"kind": "json", "schema": {"unevaluatedProperties": False}}, "unknown keyword"),
        ({"kind": "json", "schema": {"minLength": -1}}, "$.minLength: -1 is less than the minimum of 0"),
        ({"kind": "json", "schema": {"items": {"$schema": "x"}}}, '$.items: unknown keyword "$schema"'),
        ({"kind": "json", "schema": 3}, "$ must be an object, true or false, found 3"),
        ({"kind": "python"}, "'python' needs 'value'"),
        ({"kind": "tests"}, "'tests' needs 'tests'"),
        ({"kind": "tests", "tests": " "}, "'tests' must be a text that is not blank"),
        ({"kind": "tests", "tests": "x = 1"}, "must fail without the code of an answer"),
        ({"kind": "tests", "tests": "x = 1\nassert ("}, "must be Python that the sandbox supports: line"),
        ({"kind": "tests", "tests": "\nclass A(B): pass"}, "line 2: unsupported Python: class inheritance"),
        ({"kind": "tests", "tests": "assert x", "seconds": 0}, "'seconds' must be above 0 and at most 60, found 0"),
        ({"kind": "words"}, "'words' needs 'min' or 'max'"),
        ({"kind": "words", "min": 3, "max": 2}, "'min' is above 'max'"),
        ({"kind": "bullets", "count": -1}, "'count' must be an integer of at least 0, found -1"),
        ({"kind": "contains", "words": []}, "'words' must be a list of at least one text"),
        ({"kind": "contains", "words": ["!"]}, "has no letter and no digit"),
        ({"kind": "lowercase", "text": "a"}, "it has no settings"),
        (
            {"kind": "all", "of": [{"kind": "no_commas"}, {"kind": "words", "min": "1"}]},
            "'verifier', part 2: 'min' must be",
        ),
    ],
)
def test_a_specification_from_outside_is_refused_in_a_sentence(spec: Any, says: str) -> None:
    with pytest.raises(ValueError) as caught:  # noqa: PT011
        check_verifier(spec)
    assert says in str(caught.value)
    assert "\n" not in str(caught.value)


def test_the_nesting_of_all_is_limited() -> None:
    spec: Any = {"kind": "no_commas"}
    for _ in range(7):
        spec = {"kind": "all", "of": [spec]}
    with pytest.raises(ValueError, match="too deeply"):
        check_verifier(spec)


def test_the_error_about_a_bad_verifier_of_a_seed_names_its_line(tmp_path: Path) -> None:
    good = {"instruction": "Add 2 and 3", "output": "5", "verifier": {"kind": "number", "value": 5}}
    bad = {**good, "verifier": {"kind": "number", "valeu": 5}}
    path = tmp_path / "seeds.jsonl"
    path.write_text("".join(json.dumps(one) + "\n" for one in (good, bad)))
    with pytest.raises(DataError, match=r"seeds.jsonl:2: 'verifier': 'number' has no setting \"valeu\""):
        load_seeds(path)
    assert "seeds.jsonl:2: 'verifier'" in run_cli("seeds", "check", path, code=1)
    path.write_text(json.dumps(good) + "\n")
    assert load_seeds(path)[0].verifier == good["verifier"]


def test_filtering_a_file_by_its_own_verifiers(tmp_path: Path) -> None:
    check = {"kind": "number", "value": 5}
    rows = [
        {"instruction": "Add 2 and 3", "output": "It is 5.", "verifier": check},
        {"instruction": "Add 2 and 3", "output": "It is 6.", "verifier": check},
        {"instruction": "Say hello", "output": "Hello"},
        {"instruction": "Add 4 and 1", "output": "5", "verifier": {"kind": "nmber"}},
    ]
    (tmp_path / "in.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    said = run_cli("filter", tmp_path / "in.jsonl", "-o", tmp_path / "out.jsonl", "--verify",
                   "--report", tmp_path / "why.jsonl", code=1)  # fmt: skip
    assert "in.jsonl:4: 'verifier': unknown kind" in said
    assert (tmp_path / "out.jsonl").read_text() == "".join(json.dumps(rows[place]) + "\n" for place in (0, 2))
    (why,) = map(json.loads, (tmp_path / "why.jsonl").read_text().splitlines())
    assert (why["row"], why["filter"], why["reason"], why["text"]) == (2, "verifier", "wrong_answer", "It is 6.")
    assert why["detail"] == {"kind": "number", "expected": "5", "found": '"6"'}


def test_every_kind_is_documented() -> None:
    import selfinstruct.verifiers

    documentation = (selfinstruct.verifiers.__doc__ or "") + Path("docs/verifiers.md").read_text()
    assert all(f"``{kind}``" in documentation and f"`{kind}`" in documentation for kind in kind_registry.builtins)


def test_an_unknown_kind_is_an_error() -> None:
    assert kind_of("number") is kind_registry.builtins["number"]
    with pytest.raises(ValueError, match="unknown kind"):
        kind_of("numbr")
