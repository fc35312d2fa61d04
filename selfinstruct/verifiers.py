"""Answers that code can check.

A verifier is a JSON object with ``kind`` and what that kind needs. It comes with a seed task, or with a row that a
strategy makes, and is exported with the row.

- ``number``: the last number of the answer is ``value``, but for ``tolerance`` (default 1e-6, relative).
- ``text``: the answer is ``value``, but for case, space around it and a full stop at its end.
- ``regex``: ``pattern`` is found in the answer.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping
from typing import Any

from selfinstruct.codec import Json
from selfinstruct.records import Verdict

__all__ = ["KINDS", "check_verifier", "verify"]

_NUMBER = re.compile(r"[-+]?(?:\d[\d,]*\.?\d*|\.\d+)(?:[eE][-+]?\d+)?")


def _number(verifier: Mapping[str, Any], answer: str) -> bool:
    found = _NUMBER.findall(answer)
    tolerance = float(verifier.get("tolerance", 1e-6))
    return bool(found) and math.isclose(
        float(found[-1].replace(",", "")), float(verifier["value"]), rel_tol=tolerance, abs_tol=tolerance
    )


def _text(verifier: Mapping[str, Any], answer: str) -> bool:
    return _plain(answer) == _plain(str(verifier["value"]))


def _plain(text: str) -> str:
    return " ".join(text.split()).removesuffix(".").casefold()


def _regex(verifier: Mapping[str, Any], answer: str) -> bool:
    return re.search(str(verifier["pattern"]), answer) is not None


KINDS: dict[str, Callable[[Mapping[str, Any], str], bool]] = {"number": _number, "text": _text, "regex": _regex}


def check_verifier(verifier: object) -> Mapping[str, Json]:
    """A verifier from outside, as it is.

    Raises:
        ValueError: It is none.
    """
    if not isinstance(verifier, Mapping) or verifier.get("kind") not in KINDS:
        raise ValueError(f"'verifier' is an object with a 'kind' of {', '.join(KINDS)}")
    return verifier


def verify(verifier: Mapping[str, Json], answer: str) -> Verdict:
    """Whether the answer is right."""
    kept = KINDS[str(verifier["kind"])](verifier, answer)
    return Verdict("verifier", kept, "" if kept else "wrong_answer", detail={"kind": verifier["kind"]})
