"""Reason codes: the code makes them from the enum, and the enum explains each."""

from __future__ import annotations

import ast
import json
from pathlib import Path

import pytest

import selfinstruct
from selfinstruct.filters.pii import KINDS
from selfinstruct.reasons import RejectReason
from selfinstruct.records import Verdict

PACKAGE = Path(selfinstruct.__file__).parent

REASON_ARGUMENT = {"Verdict": 2, "Discard": 0, "discard": 1, "reject": 0}
"""The position of the reason among the arguments of the functions that take one."""


def literals(path: Path) -> list[str]:
    """Return the reasons that a module writes as strings."""
    found = []
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Call):
            name = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
            position = REASON_ARGUMENT.get(name)
            reasons = [keyword.value for keyword in node.keywords if keyword.arg == "reason"]
            if position is not None and len(node.args) > position:
                reasons.append(node.args[position])
        elif isinstance(node, ast.Assign) and any(
            isinstance(at, ast.Name) and at.id == "reason" for at in node.targets
        ):
            reasons = [node.value]
        else:
            continue
        for reason in reasons:
            branches = [reason.body, reason.orelse] if isinstance(reason, ast.IfExp) else [reason]
            found += [
                branch.value
                for branch in branches
                if isinstance(branch, ast.Constant) and isinstance(branch.value, str)
            ]
    return [reason for reason in found if reason]


@pytest.mark.parametrize("path", sorted(PACKAGE.rglob("*.py")), ids=lambda path: str(path.relative_to(PACKAGE)))
def test_built_in_reasons_come_from_the_enum(path: Path) -> None:
    assert literals(path) == []


def test_a_member_is_its_code() -> None:
    verdict = Verdict("words", False, RejectReason.TOO_SHORT)
    assert verdict.reason == "too_short"
    assert f"{verdict.reason}" == "too_short"
    assert json.dumps(verdict.reason) == '"too_short"'


def test_each_member_has_one_sentence_of_explanation() -> None:
    for reason in RejectReason:
        assert reason == reason.name.lower()
        assert reason.explanation.endswith(".")
        assert len(f"| `{reason}` | {reason.explanation} |") <= 120


def test_each_kind_of_personal_data_is_a_reason() -> None:
    assert set(KINDS) <= set(RejectReason)
