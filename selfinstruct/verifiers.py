"""Answers that code can check.

A verifier is a JSON object with ``kind`` and what that kind needs. It comes with a seed task, or with a row that a
strategy makes, and is exported with the row.

- ``number``: the last number of the answer is ``value``, but for ``tolerance`` (default 1e-6, relative).
- ``text``: the answer is ``value``, but for case, space around it and a full stop at its end.
- ``regex``: ``pattern`` is found in the answer.
- ``all``: every verifier in ``of``.
- ``words``, ``sentences``: how many there are, from ``min`` to ``max``.
- ``bullets``: exactly ``count`` lines begin with "- " or "* ".
- ``contains``, ``excludes``: each, or none, of ``words`` is there, whatever its case.
- ``starts_with``, ``ends_with``: with ``text``.
- ``lowercase``, ``uppercase``: no letter of the other case. ``no_commas``: no comma.
- ``json``: JSON; with ``schema``, of its ``type`` and with what is ``required``.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping
from typing import Any

from selfinstruct.codec import Json, loads
from selfinstruct.records import Verdict

__all__ = ["KINDS", "check_verifier", "verify"]

_NUMBER = re.compile(r"[-+]?(?:\d[\d,]*\.?\d*|\.\d+)(?:[eE][-+]?\d+)?")


_SENTENCE_END = re.compile(r"(?<=[.!?])[\"')\]]*\s+")


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


def _all(verifier: Mapping[str, Any], answer: str) -> bool:
    return all(KINDS[one["kind"]](one, answer) for one in verifier["of"])


def _within(verifier: Mapping[str, Any], count: int) -> bool:
    return bool(verifier.get("min", 0) <= count <= verifier.get("max", count))


def _words(verifier: Mapping[str, Any], answer: str) -> bool:
    return _within(verifier, len(answer.split()))


def _sentences(verifier: Mapping[str, Any], answer: str) -> bool:
    return _within(verifier, len([one for one in _SENTENCE_END.split(answer) if one.strip()]))


def _bullets(verifier: Mapping[str, Any], answer: str) -> bool:
    return sum(line.lstrip().startswith(("- ", "* ")) for line in answer.split("\n")) == int(verifier["count"])


def _found(verifier: Mapping[str, Any], answer: str) -> list[bool]:
    text = answer.casefold()
    return [re.search(rf"(?<!\w){re.escape(word.casefold())}(?!\w)", text) is not None for word in verifier["words"]]


def _contains(verifier: Mapping[str, Any], answer: str) -> bool:
    return all(_found(verifier, answer))


def _excludes(verifier: Mapping[str, Any], answer: str) -> bool:
    return not any(_found(verifier, answer))


def _starts_with(verifier: Mapping[str, Any], answer: str) -> bool:
    return answer.lstrip().startswith(verifier["text"])


def _ends_with(verifier: Mapping[str, Any], answer: str) -> bool:
    return answer.rstrip().endswith(verifier["text"])


def _lowercase(_verifier: Mapping[str, Any], answer: str) -> bool:
    return answer == answer.lower()


def _uppercase(_verifier: Mapping[str, Any], answer: str) -> bool:
    return answer == answer.upper()


def _no_commas(_verifier: Mapping[str, Any], answer: str) -> bool:
    return "," not in answer


def _json(verifier: Mapping[str, Any], answer: str) -> bool:
    try:
        value = loads(answer)
    except (ValueError, RecursionError):
        return False
    schema = verifier.get("schema", {})
    return schema.get("type") != "object" or (isinstance(value, dict) and value.keys() >= set(schema["required"]))


KINDS: dict[str, Callable[[Mapping[str, Any], str], bool]] = {
    "number": _number,
    "text": _text,
    "regex": _regex,
    "all": _all,
    "words": _words,
    "sentences": _sentences,
    "bullets": _bullets,
    "contains": _contains,
    "excludes": _excludes,
    "starts_with": _starts_with,
    "ends_with": _ends_with,
    "lowercase": _lowercase,
    "uppercase": _uppercase,
    "no_commas": _no_commas,
    "json": _json,
}


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
