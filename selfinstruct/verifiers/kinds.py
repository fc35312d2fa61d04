"""The kinds by name; the check of a specification from outside; the verdict on an answer."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from selfinstruct.common.codec import Json, canonical, loads
from selfinstruct.reasons import RejectReason
from selfinstruct.records import Verdict
from selfinstruct.verifiers.answers import NUMBER, REGEX, TEXT
from selfinstruct.verifiers.base import Finding, Kind, Spec, code_blocks, near, short
from selfinstruct.verifiers.constraints import CONSTRAINTS
from selfinstruct.verifiers.expression import PYTHON
from selfinstruct.verifiers.forms import check_schema
from selfinstruct.verifiers.schema import fault

__all__ = ["KINDS", "check_verifier", "verify", "without_nulls"]

_DEPTH = 5  # of ``all`` within ``all``
_MOST = 100  # verifiers in one


def _json(spec: Spec, answer: str) -> Finding:
    expected = "JSON" if "schema" not in spec else "JSON as the schema says"
    try:
        value = _read(answer)
    except ValueError as error:
        return Finding(False, expected, str(error))
    wrong = fault(spec["schema"], value) if "schema" in spec else ""
    return Finding(not wrong, expected, wrong or short(value))


def _read(answer: str) -> Any:
    """The JSON that the whole answer is, or its one code block.

    Raises:
        ValueError: There is none.
    """
    blocks = code_blocks(answer)
    try:
        return loads(answer.strip())
    except ValueError:
        if len(blocks) != 1:
            raise
    return loads(blocks[0].strip())


def _schema(value: Any) -> None:
    try:
        check_schema(value)
    except ValueError as error:
        raise ValueError(f"is no JSON schema that can be checked: {error}") from None


def _all(spec: Spec, answer: str) -> Finding:
    found = [(one["kind"], KINDS[one["kind"]].verify(one, answer)) for one in spec["of"]]
    failed = tuple(_detail(kind, one) for kind, one in found if not one.kept)
    said = "; ".join(f"{kind}: {one.found}, expected {one.expected}" for kind, one in found if not one.kept)
    return Finding(not failed, f"all {len(found)} to be met", said[:500] or "all of them", failed)


def _parts(value: Any) -> None:
    if not isinstance(value, list) or not value:
        raise ValueError(f"is a list of at least one verifier, found {short(value)}")


KINDS: dict[str, Kind] = {
    "number": NUMBER,
    "text": TEXT,
    "regex": REGEX,
    "json": Kind(_json, {"schema": _schema}),
    "python": PYTHON,
    **CONSTRAINTS,
    "all": Kind(_all, {"of": _parts}, required=("of",)),
}


def check_verifier(verifier: object) -> Mapping[str, Json]:
    """A verifier from outside, as it is.

    Raises:
        ValueError: It is none; the message is what stands after the file and line.
    """
    left: list[tuple[object, str, int]] = [(verifier, "'verifier'", 0)]
    count = 0
    while left:
        one, place, depth = left.pop()
        count += 1
        if depth > _DEPTH or count > _MOST:
            raise ValueError(f"'verifier' has more than {_MOST} verifiers in it, or nests them too deeply")
        spec = _checked(one, place)
        if spec["kind"] == "all":
            parts = [(part, f"{place}, part {number}", depth + 1) for number, part in enumerate(spec["of"], start=1)]
            left += reversed(parts)
    assert isinstance(verifier, Mapping)
    try:
        canonical(verifier)
    except (TypeError, ValueError, RecursionError) as error:
        raise ValueError(f"'verifier' is no JSON: {error}") from None
    return verifier


def without_nulls(verifier: object, depth: int = 0) -> object:
    """A verifier without what a column of Arrow added: it gives each the fields of all, null where there was none.

    None of one that has nulls only. The ``value`` of ``python`` may be null.
    """
    if not isinstance(verifier, Mapping) or depth > _DEPTH:
        return verifier
    null_is_value = verifier.get("kind") == "python"
    kept = {key: one for key, one in verifier.items() if one is not None or (null_is_value and key == "value")}
    if isinstance(kept.get("of"), list):
        kept["of"] = [without_nulls(one, depth + 1) for one in kept["of"]]
    return None if verifier and not kept else kept


def _checked(spec: object, place: str) -> Mapping[str, Any]:
    """A specification whose own fields are good."""
    if not isinstance(spec, Mapping) or not isinstance(spec.get("kind"), str):
        raise ValueError(f"{place} is an object with a 'kind' of {', '.join(KINDS)}")
    name = spec["kind"]
    if name not in KINDS:
        raise ValueError(f"{place}: unknown kind {short(name)}{near(name, KINDS)}")
    kind = KINDS[name]
    for key, value in spec.items():
        if key == "kind":
            continue
        if key not in kind.fields:
            known = near(str(key), kind.fields) if kind.fields else "; it has no settings"
            raise ValueError(f"{place}: {name!r} has no setting {short(key)}{known}")
        try:
            kind.fields[key](value)
        except ValueError as error:
            raise ValueError(f"{place}: {key!r} {error}") from None
    if missing := [key for key in kind.required if key not in spec]:
        raise ValueError(f"{place}: {name!r} needs {missing[0]!r}")
    if kind.one_of and not any(key in spec for key in kind.one_of):
        raise ValueError(f"{place}: {name!r} needs {' or '.join(map(repr, kind.one_of))}")
    if kind.check is not None:
        try:
            kind.check(spec)
        except ValueError as error:
            raise ValueError(f"{place}: {error}") from None
    return spec


def verify(verifier: Mapping[str, Any], answer: str) -> Verdict:
    """Whether an answer is right, by a verifier that ``check_verifier`` passes.

    Any answer whatever has a verdict; a blank one is never right. ``detail`` has ``kind``, what was ``expected`` and
    what was ``found``, and for ``all`` the ``failed`` ones, each with these three.

    Raises:
        SelfInstructError: No process can be started to evaluate an expression in.
    """
    name = str(verifier["kind"])
    found = KINDS[name].verify(verifier, answer)
    if found.kept and not answer.strip():
        found = Finding(False, found.expected, "a blank answer")
    return Verdict("verifier", found.kept, "" if found.kept else RejectReason.WRONG_ANSWER, detail=_detail(name, found))


def _detail(kind: str, found: Finding) -> dict[str, Json]:
    detail: dict[str, Json] = {"kind": kind, "expected": found.expected, "found": found.found}
    if found.failed:
        detail["failed"] = list(found.failed)
    return detail
