"""The kinds that run code of an answer in the sandbox: ``python`` (an expression) and ``tests`` (a program)."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from selfinstruct.verifiers import sandbox
from selfinstruct.verifiers.base import (
    Finding,
    Kind,
    Spec,
    check_any,
    check_number,
    check_text,
    check_tolerance,
    code_blocks,
    short,
    shorten,
)
from selfinstruct.verifiers.patterns import encodable

__all__ = ["PYTHON", "TESTS", "is_close"]

_MAX_EXPRESSION = 10_000  # characters
_MAX_PROGRAM = 100_000  # characters
_MAX_VALUE = 100_000  # characters of a value's repr
_EXPRESSION_SECONDS = 5.0
_TEST_SECONDS = 5.0  # unless a specification says otherwise
_CHECK_SECONDS = 1.0  # of tests alone, when a specification is checked
_LANGUAGES = frozenset({"", "python", "python3", "py"})

# --- python ---

_EVALUATE = """
import math
_value = eval(_source, {"math": math})
_text = repr(_value)
"""
_REPORT = f"""
(_text, list(_value) if type(_value) is range else _value) if len(_text) <= {_MAX_VALUE} else None
"""
_ROUNDED = 1e-12  # relative difference of an integer computed with floats
_CLOSE = 1e-6  # relative difference of numbers considered equal, if one of them is not an integer


def _verify_expression(spec: Spec, answer: str) -> Finding:
    expected = short(spec["value"])
    finding = "no Python expression"
    for source in _expressions(answer):
        if len(source) > _MAX_EXPRESSION:
            finding = f"an expression of more than {_MAX_EXPRESSION:,} characters"
            continue
        result = sandbox.run((_EVALUATE, _REPORT), seconds=_EXPRESSION_SECONDS, inputs={"_source": encodable(source)})
        if result.unsupported and result.error.startswith("SyntaxError"):
            continue
        if result.error:
            return Finding(False, expected, result.error)
        if result.value is None:
            return Finding(False, expected, f"a value of more than {_MAX_VALUE:,} characters")
        text, value = result.value
        return Finding(_is_equal(value, spec["value"], spec.get("tolerance")), expected, shorten(text))
    return Finding(False, expected, finding)


def _expressions(answer: str) -> list[str]:
    """Return the texts that may be the expression: the last code block or else the whole answer, and its last line."""
    blocks = code_blocks(answer)
    text = (blocks[-1].code if blocks else answer).strip()
    lines = text.splitlines() or [""]
    candidates = [text] if len(lines) == 1 else [text, lines[-1]]
    return [candidate.strip().strip("`") for candidate in candidates]


def is_close(computed: float, value: float, tolerance: float | None) -> bool:
    """Return whether two numbers differ by at most `tolerance`.

    Without a tolerance, integers must be equal, and other numbers must agree to six digits.
    """
    try:
        if tolerance is not None:
            return abs(computed - value) <= tolerance
        if isinstance(computed, int) and isinstance(value, int):
            return computed == value
        return math.isclose(computed, value, rel_tol=_ROUNDED if isinstance(value, int) else _CLOSE, abs_tol=0.0)
    except OverflowError:  # an integer too large for a float
        return False


def _is_equal(computed: Any, value: Any, tolerance: float | None) -> bool:  # noqa: PLR0911
    """Return whether a Python value equals a JSON value. Tuples and lists are alike, and sets have no order."""
    if isinstance(value, bool) or value is None:
        return computed is value
    if isinstance(value, (int, float)):
        return (
            isinstance(computed, (int, float))
            and not isinstance(computed, bool)
            and is_close(computed, value, tolerance)
        )
    if isinstance(value, str):
        return isinstance(computed, str) and computed == value
    if isinstance(value, Mapping):
        if not isinstance(computed, dict) or computed.keys() != value.keys():
            return False
        return all(_is_equal(computed[key], item, tolerance) for key, item in value.items())
    if isinstance(computed, (set, frozenset)):
        wanted = {(type(item) is bool, item) for item in value if type(item) in (str, int, float)}
        return len(wanted) == len(value) and {(type(item) is bool, item) for item in computed} == wanted
    if not isinstance(computed, (list, tuple)) or len(computed) != len(value):
        return False
    return all(_is_equal(item, other, tolerance) for item, other in zip(computed, value, strict=True))


PYTHON = Kind(
    _verify_expression, {"value": check_any, "tolerance": check_tolerance}, required=("value",), executes=True
)

# --- tests ---


def _verify_tests(spec: Spec, answer: str) -> Finding:
    expected = "the tests to pass"
    code = _program(answer)
    if not code.strip():
        return Finding(False, expected, "no Python code")
    if len(code) > _MAX_PROGRAM:
        return Finding(False, expected, f"code of more than {_MAX_PROGRAM:,} characters")
    seconds = float(spec.get("seconds", _TEST_SECONDS))
    result = sandbox.run((_closed(code), _closed(spec["tests"])), seconds=seconds)
    if not result.error:
        return Finding(True, expected, "all tests pass")
    position = ("the code", "the tests")[result.source] + (f", line {result.line}" if result.line else "")
    return Finding(False, expected, f"{position}: {result.error}")


def _program(answer: str) -> str:
    """Return the Python code blocks of an answer, joined; the whole answer if it has no code block."""
    blocks = code_blocks(answer)
    if not blocks:
        return answer
    return "\n".join(block.code for block in blocks if block.language in _LANGUAGES)


def _closed(source: str) -> str:
    """Return `source` ending with an expression of no value, so that no large value leaves the sandbox."""
    return f"{encodable(source)}\nNone"


def _check_tests(value: Any) -> None:
    check_text(value)
    if len(value) > _MAX_PROGRAM:
        raise ValueError(f"must have at most {_MAX_PROGRAM:,} characters")
    result = sandbox.run((_closed(value),), seconds=_CHECK_SECONDS)
    if result.unsupported:
        raise ValueError(f"must be Python that the sandbox supports: line {result.line}: {result.error}")
    if not result.error:
        raise ValueError("must fail without the code of an answer: these tests check nothing")


def _check_seconds(value: Any) -> None:
    check_number(value)
    if not 0 < value <= sandbox.MAX_SECONDS:
        raise ValueError(f"must be above 0 and at most {sandbox.MAX_SECONDS:g}, found {short(value)}")


TESTS = Kind(_verify_tests, {"tests": _check_tests, "seconds": _check_seconds}, required=("tests",), executes=True)
