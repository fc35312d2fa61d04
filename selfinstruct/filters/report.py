"""What a deduplication did: which rows went, why, and how near the decisions were."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from selfinstruct.common.codec import Json, dumps
from selfinstruct.common.files import write_atomic
from selfinstruct.errors import MissingExtraError, UsageError

__all__ = ["Drop", "Report"]


@dataclass(frozen=True, slots=True)
class Drop:
    """A row that was dropped.

    Attributes:
        row: Its position in the data, from 0.
        score: Its similarity to ``nearest``, the earliest of the most similar rows kept before it.
    """

    id: str
    row: int
    reason: str
    score: float
    nearest: str
    text: str

    def to_json(self) -> dict[str, Json]:
        return {
            "id": self.id,
            "row": self.row,
            "reason": self.reason,
            "score": self.score,
            "nearest": self.nearest,
            "text": self.text,
        }


@dataclass(frozen=True)
class Report:
    """The outcome of ``dedup``.

    Attributes:
        filter: Name of the index's filter.
        threshold: Its threshold.
        at_threshold: Whether a score equal to the threshold drops a row (it does for Jaccard, not for ROUGE-L).
        kept: Ids of the rows that stayed, in order.
        dropped: The rows that went, in order.
        worst: Pairs of kept rows that came nearest to the threshold, most similar first; their reason is "".
        rows: Position of each kept row.
    """

    filter: str
    threshold: float
    at_threshold: bool
    kept: tuple[str, ...]
    rows: tuple[int, ...]
    dropped: tuple[Drop, ...]
    worst: tuple[Drop, ...] = ()

    @property
    def counts(self) -> Mapping[str, int]:
        """Rows by reason; those that stayed as ``kept``."""
        return {"kept": len(self.kept), **Counter(drop.reason for drop in self.dropped)}

    @property
    def largest_group(self) -> tuple[str, int]:
        """The row that most others were dropped for, and how many; ``("", 0)`` if none was dropped."""
        groups = Counter(drop.nearest for drop in self.dropped)
        return groups.most_common(1)[0] if groups else ("", 0)

    def borderline(self, count: int = 10) -> tuple[Drop, ...]:
        """The dropped rows with the lowest scores: where to look whether the threshold is right."""
        return tuple(sorted(self.dropped, key=lambda drop: (drop.score, drop.row))[:count])

    def rethreshold(self, threshold: float) -> Report:
        """The report for a more tolerant threshold, without comparing anything again.

        A dropped row comes back if its highest score allows it. Rows that come back are not compared with each other
        nor with what was kept after them: where that matters, run the index again.

        Raises:
            UsageError: The threshold is stricter than the report's: the comparisons for that were never made.
        """
        if threshold < self.threshold:
            raise UsageError(
                f"threshold {threshold} is below {self.threshold}, for which rows were compared: run again"
            )
        still = [drop.score >= threshold if self.at_threshold else drop.score > threshold for drop in self.dropped]
        back = [drop for drop, stays in zip(self.dropped, still, strict=True) if not stays]
        places = sorted([*zip(self.rows, self.kept, strict=True), *((drop.row, drop.id) for drop in back)])
        return replace(
            self,
            threshold=threshold,
            kept=tuple(name for _, name in places),
            rows=tuple(row for row, _ in places),
            dropped=tuple(drop for drop, stays in zip(self.dropped, still, strict=True) if stays),
        )

    def to_jsonl(self, path: str | Path) -> None:
        """Write the dropped rows, one JSON object a line, in one step.

        Raises:
            SelfInstructError: The file can't be written; an old one is as it was.
        """
        write_atomic(Path(path), (dumps(drop.to_json()).encode() + b"\n" for drop in self.dropped))

    def to_dataset(self) -> Any:
        """The dropped rows as a ``datasets.Dataset``.

        Raises:
            MissingExtraError: datasets is not installed.
        """
        try:
            from datasets import Dataset  # heavy: only where it is asked for
        except ImportError:
            raise MissingExtraError("datasets", "data") from None
        names = ("id", "row", "reason", "score", "nearest", "text")
        return Dataset.from_dict({name: [getattr(drop, name) for drop in self.dropped] for name in names})
