"""The registry of kinds, the check of a specification, and the verdict on an answer."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, TypeGuard

from selfinstruct.common.codec import Json, canonical
from selfinstruct.plugins import Registry
from selfinstruct.reasons import RejectReason
from selfinstruct.records import Verdict
from selfinstruct.verifiers.answers import NUMBER, TEXT
from selfinstruct.verifiers.base import Finding, Kind, Spec, nearest_name, short
from selfinstruct.verifiers.constraints import CONSTRAINTS
from selfinstruct.verifiers.instructions import INSTRUCTION
from selfinstruct.verifiers.journal import recorded
from selfinstruct.verifiers.patterns import REGEX
from selfinstruct.verifiers.programs import PYTHON, TESTS
from selfinstruct.verifiers.schema import JSON

__all__ = ["check_verifier", "kind_of", "kind_registry", "kinds_in", "verify", "without_nulls"]

_MAX_NESTING = 5  # of ``all`` within ``all``
_MAX_PARTS = 100  # verifiers in one
_MAX_FOUND = 500  # characters of the text that ``all`` reports


def _verify_all(spec: Spec, answer: str) -> Finding:
    findings = [(part["kind"], _finding(part, answer)) for part in spec["of"]]
    failed = [(kind, finding) for kind, finding in findings if not finding.kept]
    text = "; ".join(f"{kind}: {finding.found}, expected {finding.expected}" for kind, finding in failed)
    details = tuple(_detail(kind, finding) for kind, finding in failed)
    return Finding(not failed, f"all {len(findings)} verifiers to pass", text[:_MAX_FOUND] or "all pass", details)


def _check_parts(value: Any) -> None:
    if not isinstance(value, list) or not value:
        raise ValueError(f"must be a list of at least one verifier, found {short(value)}")


_KINDS: dict[str, Kind] = {
    "number": NUMBER,
    "text": TEXT,
    "regex": REGEX,
    "json": JSON,
    "python": PYTHON,
    "tests": TESTS,
    **CONSTRAINTS,
    "instruction": INSTRUCTION,
    "all": Kind(_verify_all, {"of": _check_parts}, required=("of",)),
}


def _is_kind(entry: object) -> TypeGuard[Kind]:
    return isinstance(entry, Kind)


kind_registry = Registry("verifier", _KINDS, _is_kind, "a Kind")


def kind_of(name: str) -> Kind:
    """Return the kind of that name.

    Raises:
        ValueError: There is no such kind.
        PluginError: It is a plugin's, and can't be used.
    """
    if name not in kind_registry:
        raise ValueError(f"unknown kind {short(name)}{nearest_name(name, kind_registry.names())}")
    return kind_registry.get(name)


def kinds_in(verifier: Mapping[str, Any]) -> Iterator[str]:
    """Yield the kind of a valid specification and of every verifier in it."""
    yield str(verifier["kind"])
    for part in verifier["of"] if verifier["kind"] == "all" else ():
        yield from kinds_in(part)


def check_verifier(verifier: object) -> Mapping[str, Json]:
    """Return `verifier` unchanged if it is a valid specification.

    Raises:
        ValueError: It is not; the message follows file and line.
        MissingExtraError: Its kind needs a package that is not installed.
    """
    pending: list[tuple[object, str, int]] = [(verifier, "'verifier'", 0)]
    count = 0
    while pending:
        part, position, depth = pending.pop()
        count += 1
        if depth > _MAX_NESTING or count > _MAX_PARTS:
            raise ValueError(f"'verifier' contains more than {_MAX_PARTS} verifiers, or nests them too deeply")
        spec = _checked(part, position)
        if spec["kind"] == "all":
            parts = [(inner, f"{position}, part {index}", depth + 1) for index, inner in enumerate(spec["of"], start=1)]
            pending += reversed(parts)
    assert isinstance(verifier, Mapping)
    try:
        canonical(verifier)
    except (TypeError, ValueError, RecursionError) as error:
        raise ValueError(f"'verifier' must be JSON: {error}") from None
    return verifier


def _checked(spec: object, position: str) -> Mapping[str, Any]:
    """Return a specification whose own fields are valid; the parts of ``all`` are checked by the caller."""
    if not isinstance(spec, Mapping) or not isinstance(spec.get("kind"), str):
        raise ValueError(f"{position} must be an object with a 'kind' of {', '.join(kind_registry.names())}")
    name = spec["kind"]
    try:
        kind = kind_of(name)
    except ValueError as error:
        raise ValueError(f"{position}: {error}") from None
    for key, value in spec.items():
        if key == "kind":
            continue
        if key not in kind.fields:
            hint = nearest_name(str(key), kind.fields) if kind.fields else "; it has no settings"
            raise ValueError(f"{position}: {name!r} has no setting {short(key)}{hint}")
        try:
            kind.fields[key](value)
        except ValueError as error:
            raise ValueError(f"{position}: {key!r} {error}") from None
    if missing := [key for key in kind.required if key not in spec]:
        raise ValueError(f"{position}: {name!r} needs {missing[0]!r}")
    if kind.one_of and not any(key in spec for key in kind.one_of):
        raise ValueError(f"{position}: {name!r} needs {' or '.join(map(repr, kind.one_of))}")
    if kind.check is not None:
        try:
            kind.check(spec)
        except ValueError as error:
            raise ValueError(f"{position}: {error}") from None
    return spec


def without_nulls(verifier: object, depth: int = 0) -> object:
    """Return a verifier without the nulls that a column of Arrow adds for the fields of other kinds.

    A verifier of nothing but nulls becomes None. The ``value`` of ``python`` may be null and is kept.
    """
    if not isinstance(verifier, Mapping) or depth > _MAX_NESTING:
        return verifier
    null_is_value = verifier.get("kind") == "python"
    fields = {key: value for key, value in verifier.items() if value is not None or (null_is_value and key == "value")}
    if isinstance(fields.get("of"), list):
        fields["of"] = [without_nulls(part, depth + 1) for part in fields["of"]]
    return None if verifier and not fields else fields


def verify(verifier: Mapping[str, Any], answer: str) -> Verdict:
    """Check an answer against a verifier that ``check_verifier`` accepts.

    Every answer gets a verdict; a blank answer is never right. The verdict's ``detail`` has ``kind``, ``expected`` and
    ``found``, and for ``all`` a list ``failed`` of the same three for each verifier that failed.

    Raises:
        MissingExtraError: The kind needs a package that is not installed.
        SelfInstructError: The sandbox cannot be started.
    """
    finding = _finding(verifier, answer)
    if finding.kept and not answer.strip():
        finding = Finding(False, finding.expected, "a blank answer")
    reason = "" if finding.kept else RejectReason.WRONG_ANSWER
    return Verdict("verifier", finding.kept, reason, detail=_detail(str(verifier["kind"]), finding))


def _finding(spec: Spec, answer: str) -> Finding:
    kind = kind_of(str(spec["kind"]))
    return recorded(spec, answer, kind.verify) if kind.executes else kind.verify(spec, answer)


def _detail(kind: str, finding: Finding) -> dict[str, Json]:
    detail: dict[str, Json] = {"kind": kind, "expected": finding.expected, "found": finding.found}
    if finding.failed:
        detail["failed"] = list(finding.failed)
    return detail
