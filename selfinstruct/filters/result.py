"""The result of filtering: which rows were selected, which were rejected and why, and how close the decisions were."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol

from selfinstruct.common.codec import Json, dumps
from selfinstruct.common.files import write_atomic
from selfinstruct.errors import MissingExtraError, UsageError
from selfinstruct.records import Verdict

__all__ = ["ClosePair", "FilterResult", "FilterStep", "RejectedRow", "RowSource", "template_warning"]

TEMPLATE_SHARE = 0.1  # of the rows: a larger group of near-duplicates of one row is worth a warning
TEMPLATE_ROWS = 100  # rows below which no share means anything


@dataclass(frozen=True, slots=True)
class RejectedRow:
    """A row that a filter rejected.

    Attributes:
        id: Its id.
        position: Its position in the data, from 0.
        step: Position of the filter in the pipeline, from 0.
        text: The text that the filter decided on.
        verdict: The filter's verdict.
    """

    id: str
    position: int
    step: int
    text: str
    verdict: Verdict

    @property
    def filter(self) -> str:
        """Name of the filter."""
        return self.verdict.filter

    @property
    def reason(self) -> str:
        """Reason code of the rejection."""
        return self.verdict.reason

    @property
    def score(self) -> float | None:
        """The figure that decided: for an index, the similarity to ``nearest``."""
        return self.verdict.score

    @property
    def nearest(self) -> str | None:
        """Id of the most similar row kept before this one, the earliest of several; None except for indexes."""
        return self.verdict.nearest

    def to_json(self) -> dict[str, Json]:
        """Return the row as a line of the report."""
        return {
            "id": self.id,
            "row": self.position,
            "filter": self.verdict.filter,
            "reason": self.verdict.reason,
            "score": self.verdict.score,
            "nearest": self.verdict.nearest,
            "text": self.text,
            "detail": self.verdict.detail,
        }


@dataclass(frozen=True, slots=True)
class ClosePair:
    """Two selected rows whose similarity is just within the threshold.

    Attributes:
        id, position, text: The later row.
        nearest: Id of the earlier row.
        score: Their similarity.
    """

    id: str
    position: int
    text: str
    nearest: str
    score: float


@dataclass(frozen=True, slots=True)
class FilterStep:
    """One filter of a pipeline.

    Attributes:
        filter: Its name.
        threshold: The threshold of an index; None for other filters.
        rejects_at_threshold: Whether a score equal to the threshold rejects: true for Jaccard, false for ROUGE-L.
    """

    filter: str
    threshold: float | None = None
    rejects_at_threshold: bool = False

    def rejects(self, score: float) -> bool:
        """Return whether an index with this threshold rejects a row with this similarity."""
        assert self.threshold is not None
        return score >= self.threshold if self.rejects_at_threshold else score > self.threshold


class RowSource(Protocol):
    """The data, from which a result takes its rows."""

    def select(self, positions: Sequence[int]) -> Any:
        """Return the rows at these positions, in the same kind of container as the data."""


@dataclass(frozen=True)
class FilterResult:
    """The result of ``dedup`` and of ``Pipeline.run``.

    Attributes:
        selected: The rows that every filter kept, in order: a ``datasets.Dataset`` if the data is one, else a list.
        positions: Position of each selected row in the data, from 0.
        ids: Id of each selected row.
        rejected: The other rows, in order, each with its verdict.
        steps: The filters, in order.
        closest_pairs: Pairs of selected rows that came closest to the threshold, most similar first (``dedup`` only).
        source: The data.
    """

    selected: Any
    positions: tuple[int, ...]
    ids: tuple[str, ...]
    rejected: tuple[RejectedRow, ...]
    steps: tuple[FilterStep, ...]
    closest_pairs: tuple[ClosePair, ...] = ()
    source: RowSource | None = None

    @property
    def threshold(self) -> float:
        """The threshold of the only index.

        Raises:
            UsageError: There is no index, or several.
        """
        threshold = self.steps[self._index_step(None)].threshold
        assert threshold is not None
        return threshold

    @property
    def counts(self) -> Mapping[str, int]:
        """Number of rows by reason code; selected rows count as ``kept``."""
        return {"kept": len(self.positions), **Counter(str(row.reason) for row in self.rejected)}

    @property
    def largest_group(self) -> tuple[str, int]:
        """Id of the row that most others were rejected for, and their number; ``("", 0)`` if there is none."""
        groups = Counter((row.step, row.nearest) for row in self.rejected if row.nearest is not None)
        if not groups:
            return "", 0
        (_, nearest), size = groups.most_common(1)[0]
        return nearest, size

    def borderline(self, count: int = 10) -> tuple[RejectedRow, ...]:
        """Return the rows that indexes rejected with the lowest similarity: evidence on whether a threshold is right.

        Args:
            count: Largest number of rows to return.
        """
        by_index = [(row.score, row.position, row) for row in self.rejected
                    if row.score is not None and self.steps[row.step].threshold is not None]  # fmt: skip
        return tuple(row for *_, row in sorted(by_index, key=lambda entry: entry[:2])[:count])

    def with_threshold(self, threshold: float, step: int | None = None) -> FilterResult:
        """Return the result under a more tolerant threshold of an index, without comparing anything again.

        A rejected row returns if its highest similarity allows it. Returning rows are not compared with each other, nor
        with rows that were kept after them, and later filters have not decided on them: where that matters, filter
        again.

        Args:
            step: Position of the index in the pipeline; may be omitted if there is only one index.

        Raises:
            UsageError: The new threshold is stricter, so it needs comparisons that were never made; or ``step`` is not
                the position of an index.
        """
        step = self._index_step(step)
        before = self.steps[step]
        assert before.threshold is not None
        if threshold < before.threshold:
            raise UsageError(
                f"threshold {threshold} is below {before.threshold}, the threshold of the comparisons: filter again"
            )
        after = replace(before, threshold=threshold)
        rejected: list[RejectedRow] = []
        kept = dict(zip(self.positions, self.ids, strict=True))
        for row in self.rejected:
            if row.step != step or row.score is None or after.rejects(row.score):
                rejected.append(row)
            else:
                kept[row.position] = row.id
        positions = tuple(sorted(kept))
        return replace(
            self,
            selected=self.selected if self.source is None else self.source.select(positions),
            positions=positions,
            ids=tuple(kept[position] for position in positions),
            rejected=tuple(rejected),
            steps=(*self.steps[:step], after, *self.steps[step + 1 :]),
        )

    def _index_step(self, step: int | None) -> int:
        indexes = [number for number, entry in enumerate(self.steps) if entry.threshold is not None]
        if step is None and len(indexes) == 1:
            return indexes[0]
        if step is not None and step in indexes:
            return step
        names = ", ".join(f"{number} ({self.steps[number].filter})" for number in indexes) or "there is none"
        raise UsageError(f"give the position of an index with a threshold as step: {names}")

    def to_jsonl(self, path: str | Path) -> None:
        """Write the rejected rows, one JSON object per line, in one step.

        Raises:
            SelfInstructError: The file cannot be written; an existing one is left unchanged.
        """
        write_atomic(Path(path), (dumps(row.to_json()).encode() + b"\n" for row in self.rejected))

    def to_dataset(self) -> Any:
        """Return the rejected rows as a ``datasets.Dataset``; ``detail`` is a string of JSON.

        Raises:
            MissingExtraError: datasets is not installed.
        """
        try:
            from datasets import Dataset  # heavy: imported only where it is used
        except ImportError:
            raise MissingExtraError("datasets", "data") from None
        lines = [row.to_json() for row in self.rejected]
        names = ("id", "row", "filter", "reason", "score", "nearest", "text")
        columns = {name: [line[name] for line in lines] for name in names}
        return Dataset.from_dict({**columns, "detail": [dumps(line["detail"]) for line in lines]})


def template_warning(result: FilterResult) -> str | None:
    """Return a warning if many rows were rejected for resembling the same row; None otherwise."""
    total = len(result.positions) + len(result.rejected)
    name, size = result.largest_group
    if total < TEMPLATE_ROWS or size <= TEMPLATE_SHARE * total:
        return None
    return f"{size} of {total} rows were dropped for resembling row {name!r}: check whether they follow a template"
