"""Balance of an attribute: no value of it (a domain, a language, a source) may exceed its share of the rows."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Any, ClassVar

from selfinstruct.errors import UsageError
from selfinstruct.filters.columns import column_values
from selfinstruct.reasons import RejectReason
from selfinstruct.records import Verdict

__all__ = ["Balance"]

Key = str | Callable[[Mapping[str, Any]], Any]


@dataclass(frozen=True)
class Balance:
    """A cap on the number of rows with the same value. The first rows of each value are kept, so only order decides.

    It needs all rows at once, so it is not a ``Filter``: ``dataset.select(balance.select(dataset))``. Reason codes are
    ``over_count`` and ``over_share``; the score is the number of rows with that value, and ``detail`` has the ``value``
    and the ``cap``.

    Attributes:
        key: The name of a column, or a function from a row to the value. Values must be hashable.
        max_share: Largest share of the kept rows that one value may have, above 0 and up to 1. The cap is the widest
            that satisfies this, so that as many rows as possible are kept.
        max_count: Largest number of rows with one value. Give either ``max_share`` or ``max_count``.
    """

    name: ClassVar[str] = "balance"
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

    def decide(self, rows: Any) -> list[Verdict]:
        """Decide on all rows together.

        Args:
            rows: A ``datasets.Dataset`` or mappings.

        Raises:
            UsageError: A row lacks the column, a value isn't hashable, or there are too few values for the share.
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
            verdicts.append(Verdict(self.name, False, reason, counts[value], None, detail))
        return verdicts

    def select(self, rows: Any) -> list[int]:
        """Return the positions of the kept rows, in order. Arguments and errors are the same as for ``decide``."""
        return [position for position, verdict in enumerate(self.decide(rows)) if verdict.kept]

    def _values(self, rows: Any) -> list[Any]:
        values = column_values(rows, self.key) if isinstance(self.key, str) else list(map(self.key, rows))
        for position, value in enumerate(values):
            try:
                hash(value)
            except TypeError:
                raise UsageError(
                    f"row {position}: a {type(value).__name__} can't be counted; pass a function as key"
                ) from None
        return values

    def _cap(self, counts: Sequence[int]) -> int:
        """Return the largest cap c with c <= share * kept(c), where kept(c) is the sum of min(count, c).

        The difference of the two sides is concave in c and 0 at 0, so every cap below the largest satisfies it as well.
        """
        share = Fraction(str(self.max_share))

        def fits(cap: int) -> bool:
            return min(max(counts), cap) <= share * sum(min(count, cap) for count in counts)

        low, high = 0, max(counts, default=0)
        while low < high:
            middle = (low + high + 1) // 2
            low, high = (middle, high) if fits(middle) else (low, middle - 1)
        if counts and not low:
            needed = -(-share.denominator // share.numerator)
            raise UsageError(
                f"{len(counts)} values can't each have at most {self.max_share} of the rows: that takes at least"
                f" {needed} values, each with enough rows; raise max_share"
            )
        return low


KEPT = Verdict(Balance.name, True)
