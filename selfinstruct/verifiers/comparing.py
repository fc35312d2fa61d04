"""Whether one of a few expressions has the value that is expected."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from selfinstruct.verifiers.counting import SHOWN, Refused
from selfinstruct.verifiers.evaluator import evaluate

__all__ = ["close", "judged"]

_ROUNDED = 1e-12  # relative: an integer that was come to by way of floats
_CLOSE = 1e-6  # relative: what is meant by the same number, where one of them is no integer


def judged(sources: Sequence[str], value: Any, tolerance: float | None) -> dict[str, Any]:
    """The verdict on the first of the sources that is an expression: ``kept`` and what was ``found``."""
    said = "nothing"
    for source in sources:
        try:
            found = evaluate(source)
        except Refused as refused:
            said = str(refused)
            if said != "no Python expression":
                break
            continue
        return {"kept": equal(found, value, tolerance), "found": _shown(found)}
    return {"kept": False, "found": said}


def close(found: float, value: float, tolerance: float | None) -> bool:
    """Whether two numbers are the same, or differ by ``tolerance`` at most.

    Without one, integers must be equal, and others to six digits.
    """
    try:
        if tolerance is not None:
            return abs(found - value) <= tolerance
        if isinstance(found, int) and isinstance(value, int):
            return found == value
        return math.isclose(found, value, rel_tol=_ROUNDED if isinstance(value, int) else _CLOSE, abs_tol=0.0)
    except OverflowError:  # an integer beyond every float
        return False


def equal(found: Any, value: Any, tolerance: float | None) -> bool:  # noqa: PLR0911
    """Whether a Python value is the JSON value: a tuple, a range and a list are alike, and a set has no order."""
    if isinstance(value, bool) or value is None:
        return found is value
    if isinstance(value, (int, float)):
        return isinstance(found, (int, float)) and not isinstance(found, bool) and close(found, value, tolerance)
    if isinstance(value, str):
        return isinstance(found, str) and found == value
    if isinstance(value, Mapping):
        if not isinstance(found, dict) or found.keys() != value.keys():
            return False
        return all(equal(found[key], one, tolerance) for key, one in value.items())
    if isinstance(found, set):
        wanted = {(type(one) is bool, one) for one in value if type(one) in (str, int, float)}
        return len(wanted) == len(value) and {(type(one) is bool, one) for one in found} == wanted
    if not isinstance(found, (list, tuple, range)) or len(found) != len(value):
        return False
    return all(equal(one, other, tolerance) for one, other in zip(found, value, strict=True))


def _shown(value: Any) -> str:
    text = _text(value)
    return text if len(text) <= SHOWN else f"{text[: SHOWN - 3]}..."


def _text(value: Any) -> str:
    """As ``repr``, but sets in an order that is always the same."""
    if isinstance(value, set):
        return "{" + ", ".join(sorted(map(_text, value))) + "}" if value else "set()"
    if isinstance(value, list):
        return "[" + ", ".join(map(_text, value)) + "]"
    if isinstance(value, tuple):
        return "(" + ", ".join(map(_text, value)) + (",)" if len(value) == 1 else ")")
    if isinstance(value, dict):
        return "{" + ", ".join(f"{_text(key)}: {_text(one)}" for key, one in value.items()) + "}"
    return repr(value)
