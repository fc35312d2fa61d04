"""The suite ``verified``: tasks with a verifier, in the form of seed tasks."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, Self

from selfinstruct.common.files import read_jsonl_lines
from selfinstruct.common.formats import user_text
from selfinstruct.common.rows import parse_row
from selfinstruct.errors import DataError
from selfinstruct.records import Verdict
from selfinstruct.suites.base import Item, Metric, Suite
from selfinstruct.verifiers import check_verifier, verify, without_nulls

__all__ = ["Verified"]


class Verified(Suite):
    """Tasks whose answers a verifier checks (docs/verifiers.md).

    The file has a JSON object per line with ``instruction``, ``input`` or ``instances``, and ``verifier``; optionally
    ``id``, ``system``, and ``cluster``, the name of a group of related tasks.
    """

    name: ClassVar[str] = "verified"
    metrics: Sequence[Metric] = (Metric("verified"),)

    def __init__(self, items: Sequence[Item]) -> None:
        self.items = items

    @classmethod
    def read(cls, path: Path) -> Self:
        """Read a JSONL file of rows with verifiers."""
        items: list[Item] = []
        for number, row in read_jsonl_lines(path):
            if isinstance(row, DataError):
                raise row
            try:
                items += _items(row, number)
            except ValueError as error:
                raise DataError(f"{path}:{number}: {error}") from None
        return cls(items)

    def score(self, item: Item, answer: str) -> Mapping[str, Sequence[float]]:
        """Return 1 if the verifier accepts the answer, otherwise 0."""
        return {"verified": (float(_verdict(item, answer).kept),)}

    def explain(self, item: Item, answer: str) -> Sequence[str]:
        """Return what the verifier expected and found."""
        verdict = _verdict(item, answer)
        return () if verdict.kept else tuple(_failures(verdict.detail))


def _verdict(item: Item, answer: str) -> Verdict:
    return verify(item.reference["verifier"], answer)


def _failures(detail: Mapping[str, Any]) -> Iterator[str]:
    for failed in detail.get("failed") or (detail,):
        yield f"{failed['kind']}: expected {failed['expected']}, found {failed['found']}"


def _items(row: Mapping[str, Any], number: int) -> Iterator[Item]:
    """Yield an item for each input of a row; the inputs of one row are related.

    Raises:
        ValueError: The row has no task or no valid verifier.
    """
    verifier = without_nulls(row.get("verifier"))
    if verifier is None:
        raise ValueError("'verifier' is missing; each row of the suite verified needs one (docs/verifiers.md)")
    checked = check_verifier(verifier)
    parsed = parse_row(row)
    if parsed.is_conversation or not parsed.instruction.strip():
        raise ValueError("'instruction' is missing or empty")
    name, cluster = _text(row, "id") or f"row_{number}", _text(row, "cluster")
    inputs = list(dict.fromkeys(exchange.input.strip() for exchange in parsed.exchanges)) or [""]
    for index, task_input in enumerate(inputs, start=1):
        key = name if len(inputs) == 1 else f"{name}.{index}"
        family = cluster or ("" if len(inputs) == 1 else name)
        question = user_text(parsed.instruction.strip(), task_input)
        yield Item(key, question, family, parsed.system.strip(), {"verifier": checked})


def _text(row: Mapping[str, Any], field: str) -> str:
    value = row.get(field)
    if value is None:
        return ""
    if isinstance(value, bool) or not isinstance(value, str | int):
        raise ValueError(f"{field!r} must be a text or a number, found {type(value).__name__}")
    return str(value).strip()
