"""Answers that code can check: what is right, what is wrong, and which specifications are refused."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from selfinstruct.errors import DataError
from selfinstruct.seeds import load_seeds
from selfinstruct.verifiers import KINDS, check_verifier, verify
from selfinstruct.verifiers.answers import numbers
from selfinstruct.verifiers.constraints import sentences
from selfinstruct.verifiers.patterns import compile_pattern
from tests.cli import environment, run_cli


def right(answer: str, kind: str, **spec: Any) -> bool:
    found = verify(check_verifier({"kind": kind, **spec}), answer)
    assert found.filter == "verifier"
    assert found.reason == ("" if found.kept else "wrong_answer")
    assert set(found.detail) >= {"kind", "expected", "found"}
    assert all(len(str(found.detail[name])) <= 500 for name in ("expected", "found"))
    return found.kept


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
    wanted = [one if isinstance(one, tuple) else (one,) for one in values]
    assert [tuple(float(one) for one in readings) for _, readings in numbers(text)] == wanted


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
    assert not right("10", "number", value=100, tolerance=0.5), "a tolerance is a difference, no share"


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
def test_what_may_be_another_number_is_none_of_its_parts(answer: str, wrong: tuple[float, ...]) -> None:
    for value in wrong:
        assert not right(answer, "number", value=value), value
        assert not right(answer, "number", value=value, where="only"), value
        begins_with_another = answer.startswith(("(2", "Of 3", "I ate"))
        assert right(f"Answer: {answer}", "number", value=value, where={"after": "Answer:"}) <= begins_with_another


@pytest.mark.parametrize("answer", ["Answer: 5M", "Answer: 5k", "$5B. Answer: $5B", "ANSWER: 5K", "Answer: 5M for you"])
def test_a_thousand_or_a_million_after_a_label_is_no_metre(answer: str) -> None:
    assert not right(answer, "number", value=5, where={"after": "Answer:"})
    assert right("Answer: 5m", "number", value=5, where={"after": "Answer:"})


def test_the_sign_after_a_label_that_is_its_equals_sign() -> None:
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
    (tmp_path / "seeds.jsonl").write_text("".join(json.dumps(one) + "\n" for one in seeds))
    assert [task.verifier for task in load_seeds(tmp_path / "seeds.jsonl")] == [one["verifier"] for one in seeds]
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
    assert right("YES\n", "regex", pattern="(?i)^yes$")
    assert not right("a" * 50_000, "regex", pattern="(a|a)*b"), "no backtracking"
    long = verify({"kind": "regex", "pattern": "a{1000}b"}, "a" * 50_000)
    assert "too many for this pattern" in str(long.detail["found"])
    assert right("[x", "regex", pattern="[[a]x"), "and no warning: here one is an error"


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
    assert not right("```\n{}\n```\n```\n{}\n```", "json"), "which one?"
    assert not right('{"a": NaN}', "json")
    found = verify({"kind": "json", "schema": schema}, '{"name": "x", "tags": ["a", "c"]}')
    assert found.detail["found"] == '$.tags[1] is none of ["a", "b", 1]'
    for wrong in ('{"name": "X", "tags": []}', '{"name": "x"}', '{"name": "x", "tags": [], "y": 1}',
                  '{"name": "x", "tags": [1, 1.0]}', '{"name": "", "tags": []}', "[]"):  # fmt: skip
        assert not right(wrong, "json", schema=schema), wrong


def test_the_end_of_a_pattern_in_a_schema_is_the_end() -> None:
    """JSON Schema's patterns are those of ECMA-262: ``$`` is not before a newline at the end, as it is in Python."""
    for pattern in ("^[a-z]+$", "^(?:[a-z]+$|1)"):
        assert right('"abc"', "json", schema={"pattern": pattern})
        assert not right('"abc\\n"', "json", schema={"pattern": pattern})
        assert not right('{"abc\\n": 1}', "json", schema={"propertyNames": {"pattern": pattern}})
        assert right('{"abc\\n": 1}', "json", schema={"patternProperties": {pattern: False}})
    assert right('"a\\nb"', "json", schema={"pattern": "(?m)^a$"}), "of each line, where that is asked for"
    assert right("abc\n", "regex", pattern="^[a-z]+$"), "Python's own"


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
    (True, [1], []),
    (False, [], [1]),
]  # fmt: skip


@pytest.mark.parametrize(("schema", "valid", "not_valid"), SCHEMAS)
def test_every_keyword_of_a_schema(schema: Any, valid: list[Any], not_valid: list[Any]) -> None:
    for one in valid:
        assert right(json.dumps(one), "json", schema=schema), one
    for one in not_valid:
        assert not right(json.dumps(one), "json", schema=schema), one


def test_a_schema_that_leads_round_or_takes_too_long_ends() -> None:
    round_ = {"$defs": {"a": {"$ref": "#/$defs/a"}}, "$ref": "#/$defs/a"}
    assert "levels deep" in str(verify({"kind": "json", "schema": round_}, "1").detail["found"])
    defs = {f"d{n}": {"anyOf": [{"$ref": f"#/$defs/d{n + 1}"}] * 2} for n in range(30)}
    doubling = {"$ref": "#/$defs/d0", "$defs": {**defs, "d30": {"type": "string"}}}
    assert "steps" in str(verify({"kind": "json", "schema": doubling}, "1").detail["found"])


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
def test_a_value_that_is_like_another(answer: str, value: Any, kept: bool) -> None:
    assert right(answer, "python", value=value) is kept


def test_a_long_answer_is_read_by_its_last_line() -> None:
    prose = "It goes on and on.\n" * 1000
    assert right(f"{prose}[1,2]", "python", value=[1, 2])
    assert not right(f"{prose}[1,2]", "python", value=[1, 3])
    assert not right(f"[1,2]\n{prose}", "python", value=[1, 2])
    assert not right("1" + " " * 20_000 + "+ 1", "python", value=1), "a long line is not cut to a shorter expression"


ORDERLESS = (
    "sum({('a',), ('b',)}, ())", "sorted({'a', 1})", "{1: 2}[zip()]", "max({'a', 'b', 1})", "min({(1, 'a'), (1, 2)})",
    "sorted({'b', 'a', 'c'})", "sum({0.1, 0.2, 0.3, 1e16})", "math.prod({0.1, 0.2, 0.3, 7})", "{'a', 'b', 'c'}",
    "math.fsum({0.1, 'a', 'b'})", "sum({1, 'a', 'b'})", "[1, 2][enumerate([])]", "{zip(): 1}",
)  # fmt: skip
FINDINGS = f"""
from selfinstruct.verifiers.comparing import judged
for source in {ORDERLESS!r}:
    print(source, judged([source], 5, None)["found"])
"""


def test_what_is_found_is_the_same_whatever_the_order_of_a_set() -> None:
    told = set()
    for seed in ("0", "1", "2", "3"):
        done = subprocess.run([sys.executable, "-c", FINDINGS], capture_output=True, text=True, check=True,
                              env=environment(PYTHONHASHSEED=seed))  # fmt: skip
        assert done.stdout.count("\n") == len(ORDERLESS)
        assert " at 0x" not in done.stdout
        told.add(done.stdout)
    assert len(told) == 1


def test_demands_on_the_form() -> None:
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
def test_an_abbreviation_ends_no_sentence_where_it_is_one(text: str, count: int) -> None:
    assert sentences(text) == count


def test_all_names_what_failed() -> None:
    parts = [{"kind": "words", "max": 2}, {"kind": "no_commas"}, {"kind": "all", "of": [{"kind": "lowercase"}]}]
    found = verify(check_verifier({"kind": "all", "of": parts}), "one, Two, three")
    assert (found.kept, found.reason) == (False, "wrong_answer")
    assert [one["kind"] for one in found.detail["failed"]] == ["words", "no_commas", "all"]
    assert found.detail["failed"][0] == {"kind": "words", "expected": "at most 2 words", "found": "3 words"}
    assert right("one two", "all", of=parts)


@pytest.mark.parametrize(
    ("spec", "says"),
    [
        (3, "is an object with a 'kind' of number, text, regex, json, python, words"),
        ({}, "is an object with a 'kind'"),
        ({"kind": "numbr"}, "unknown kind \"numbr\" (did you mean 'number'?)"),
        ({"kind": "number"}, "'number' needs 'value'"),
        ({"kind": "number", "value": "3"}, "'value' is a number, found \"3\""),
        ({"kind": "number", "value": True}, "'value' is a number, found true"),
        ({"kind": "number", "value": 3, "tolerence": 1}, "no setting \"tolerence\" (did you mean 'tolerance'?)"),
        ({"kind": "number", "value": 3, "tolerance": -1}, "'tolerance' is 0 or more"),
        ({"kind": "number", "value": 3, "where": "first"}, '\'where\' is "last", "only" or'),
        ({"kind": "text"}, "'text' needs 'value' or 'values'"),
        ({"kind": "text", "value": "a", "values": ["b"]}, "not given together"),
        ({"kind": "text", "value": "."}, "nothing but marks"),
        ({"kind": "regex", "pattern": "("}, "'pattern' is no regular expression: missing )"),
        ({"kind": "regex", "pattern": "a(?=b)"}, "'pattern' has a look-ahead or look-behind in it"),
        ({"kind": "regex", "pattern": r"(a)\1"}, "'pattern' has a back reference in it"),
        ({"kind": "regex", "pattern": "(a{99}){99}"}, "'pattern' is too large"),
        ({"kind": "regex", "pattern": "(" * 900 + ")" * 900}, "'pattern' is "),
        ({"kind": "regex", "pattern": "a", "full": 1}, "'full' is true or false"),
        ({"kind": "json", "schema": {"typ": "x"}}, "$: unknown keyword \"typ\" (did you mean 'type'?)"),
        ({"kind": "json", "schema": {"items": {"type": "strin"}}}, "$.items.type is one or more of null"),
        ({"kind": "json", "schema": {"$ref": "http://example.org"}}, "$.$ref is a place in this schema"),
        ({"kind": "json", "schema": {"$ref": "#/$defs/a"}}, "names nothing in this schema"),
        ({"kind": "json", "schema": {"$ref": "#/default", "default": {}}}, "not used as a schema"),
        ({"kind": "json", "schema": {"pattern": "("}}, '$.pattern "(" is no regular expression'),
        ({"kind": "json", "schema": {"unevaluatedProperties": False}}, "unknown keyword"),
        ({"kind": "python"}, "'python' needs 'value'"),
        ({"kind": "words"}, "'words' needs 'min' or 'max'"),
        ({"kind": "words", "min": 3, "max": 2}, "'min' is above 'max'"),
        ({"kind": "bullets", "count": -1}, "'count' is a whole number of 0 or more, found -1"),
        ({"kind": "contains", "words": []}, "'words' is a list of at least one text"),
        ({"kind": "contains", "words": ["!"]}, "has no letter and no digit"),
        ({"kind": "lowercase", "text": "a"}, "it has no settings"),
        ({"kind": "all", "of": [{"kind": "no_commas"}, {"kind": "words", "min": "1"}]}, "'verifier', part 2: 'min' is"),
    ],
)
def test_a_specification_from_outside_is_refused_in_a_sentence(spec: Any, says: str) -> None:
    with pytest.raises(ValueError) as caught:  # noqa: PT011
        check_verifier(spec)
    assert says in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_verifier_of_verifiers_has_an_end() -> None:
    spec: Any = {"kind": "no_commas"}
    for _ in range(7):
        spec = {"kind": "all", "of": [spec]}
    with pytest.raises(ValueError, match="too deeply"):
        check_verifier(spec)


def test_a_seed_with_a_bad_verifier_is_told_with_its_line(tmp_path: Path) -> None:
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
    (tmp_path / "in.jsonl").write_text("".join(json.dumps(one) + "\n" for one in rows))
    said = run_cli("filter", tmp_path / "in.jsonl", "-o", tmp_path / "out.jsonl", "--verify",
                   "--report", tmp_path / "why.jsonl", code=1)  # fmt: skip
    assert "in.jsonl:4: 'verifier': unknown kind" in said
    assert (tmp_path / "out.jsonl").read_text() == "".join(json.dumps(rows[place]) + "\n" for place in (0, 2))
    (why,) = map(json.loads, (tmp_path / "why.jsonl").read_text().splitlines())
    assert (why["row"], why["filter"], why["reason"], why["text"]) == (2, "verifier", "wrong_answer", "It is 6.")
    assert why["detail"] == {"kind": "number", "expected": "5", "found": '"6"'}


def test_every_kind_is_told_of() -> None:
    import selfinstruct.verifiers

    assert all(f"``{kind}``" in (selfinstruct.verifiers.__doc__ or "") for kind in KINDS)


def test_patterns_are_kept_small() -> None:
    pattern = compile_pattern("(a|b)*a(a|b){9}c")
    text = "".join("ab"[(number * number // 7) % 2] for number in range(50_000))
    assert not pattern.matches(text)
    assert sum(len(places) for places, _ in pattern._states) <= 100_000
