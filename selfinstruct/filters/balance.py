"""Balance of an attribute: no value of it (a domain, a language, a source) may take more than its part of the rows."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Any, ClassVar

from selfinstruct.errors import UsageError
from selfinstruct.reasons import RejectReason
from selfinstruct.records import Verdict

__all__ = ["Balance"]

Key = str | Callable[[Mapping[str, Any]], Any]


@dataclass(frozen=True)
class Balance:
    """Caps the rows of each value; the first rows of a value are kept, so that the order alone decides.

    It needs all rows at once, and so is no ``Filter``: ``dataset.select(balance.select(dataset))``. Reasons are
    ``over_count`` and ``over_share``; the score is the number of rows of that value, and ``detail`` has the ``value``
    and the ``cap``.

    Attributes:
        key: Name of a column, or a function from a row to the value. Values must be hashable.
        max_count: Most rows of one value.
        max_share: Largest part of the kept rows that one value may have, above 0 and up to 1. The caps are as wide as
            that allows: the most rows that can be kept. Exactly one of the two is given.
    """

    filter: ClassVar[str] = "balance"
    key: Key
    max_share: float | None = None
    max_count: int | None = None

    def __post_init__(self) -> None:
        if (self.max_share is None) == (self.max_count is None):
            raise UsageError("give either max_share or max_count")
        if self.max_share is not None and not 0 < self.max_share <= 1:
            raise UsageError(f"max_share {self.max_share} is not above 0 and at most 1")
        if self.max_count is not None and self.max_count < 1:
            raise UsageError(f"max_count {self.max_count} is not at least 1")

    def judge(self, rows: Any) -> list[Verdict]:
        """Judge rows against each other.

        Args:
            rows: A ``datasets.Dataset`` or mappings.

        Raises:
            UsageError: The column is not there, a value isn't hashable, or there are too few values for the share.
        """
        values = self._values(rows)
        counts = Counter(values)
        cap = self.max_count if self.max_count is not None else self._cap(list(counts.values()))
        reason = RejectReason.OVER_COUNT if self.max_count is not None else RejectReason.OVER_SHARE
        seen: Counter[Any] = Counter()
        verdicts = []
        for value in values:
            seen[value] += 1
            if seen[value] <= cap:
                verdicts.append(KEPT)
                continue
            detail: dict[str, Any] = {"value": value if isinstance(value, str | int | None) else str(value), "cap": cap}
            verdicts.append(Verdict(self.filter, False, reason, counts[value], None, detail))
        return verdicts

    def select(self, rows: Any) -> list[int]:
        """Numbers of the rows that are kept, in order; arguments and errors as for ``judge``."""
        return [row for row, verdict in enumerate(self.judge(rows)) if verdict.kept]

    def _values(self, rows: Any) -> list[Any]:
        values = list(_column(rows, self.key) if isinstance(self.key, str) else map(self.key, rows))
        for row, value in enumerate(values):
            try:
                hash(value)
            except TypeError:
                raise UsageError(
                    f"row {row}: a {type(value).__name__} can't be counted; give a function as key"
                ) from None
        return values

    def _cap(self, counts: Sequence[int]) -> int:
        """The largest cap c with c <= share * kept(c), where kept(c) = sum of min(count, c).

        The difference of the two sides is concave in c and 0 at 0: the caps that are narrow enough are the first ones.
        """
        share = Fraction(str(self.max_share))

        def fits(cap: int) -> bool:
            return min(max(counts), cap) <= share * sum(min(count, cap) for count in counts)

        low, high = 0, max(counts, default=0)
        while low < high:
            middle = (low + high + 1) // 2
            low, high = (middle, high) if fits(middle) else (low, middle - 1)
        if counts and not low:
            need = -(-share.denominator // share.numerator)
            raise UsageError(
                f"{len(counts)} values can't each have at most {self.max_share} of the rows: that takes at least {need}"
                " values, with rows enough; raise max_share"
            )
        return low


def _column(rows: Any, name: str) -> Iterable[Any]:
    if hasattr(rows, "column_names"):
        if name not in rows.column_names:
            raise UsageError(f"no column {name!r}; there are {', '.join(rows.column_names)}")
        found: Iterable[Any] = rows[name]
        return found
    rows = list(rows)
    missing = next((row for row, values in enumerate(rows) if name not in values), None)
    if missing is not None:
        raise UsageError(f"row {missing} has no {name!r}")
    return [row[name] for row in rows]


KEPT = Verdict(Balance.filter, True)
