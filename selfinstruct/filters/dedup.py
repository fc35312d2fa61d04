"""Deduplicate a dataset with an index."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from selfinstruct.errors import UsageError
from selfinstruct.filters.columns import is_dataset, text_column
from selfinstruct.filters.result import ClosePair, FilterResult, FilterStep, RejectedRow, template_warning
from selfinstruct.filters.text_index import TextIndex

__all__ = ["dedup"]

MARGIN = 0.1  # distance below the threshold within which the closest kept pairs are sought


def dedup(
    data: Any,
    index: TextIndex,
    column: str = "instruction",
    *,
    id_column: str | None = None,
    closest_pairs: int = 10,
) -> FilterResult:
    """Select the rows whose text is new to an index, and add their texts to it.

    Texts that the index already holds count: fit it with seeds or another dataset before, or leave it empty.

    Args:
        data: A ``datasets.Dataset``, or a sequence of mappings. It is read once, in this process.
        index: A ``NoveltyIndex``, ``NearDuplicateIndex`` or ``SemanticIndex``.
        column: The field with the text to compare.
        id_column: The field with the rows' ids; by default a row's id is its running number in the index.
        closest_pairs: Largest number of selected pairs to list that came closest to the threshold (within 0.1, each
            row with the most similar row before it). 0 saves the second pass that finds them.

    Raises:
        UsageError: The data is of another kind, a text is not a string, or an id occurs twice.
    """
    if not is_dataset(data) and (not isinstance(data, Sequence) or isinstance(data, str)):
        raise UsageError(
            f"a datasets.Dataset or a list of mappings is expected, not a {type(data).__name__}; pass one split, in "
            "memory"
        )
    texts = text_column(data, column)
    ids = None if id_column is None else text_column(data, id_column)
    first_number = index.taken
    verdicts = index.offer_many(texts, ids)
    names = ids or [str(first_number + position) for position in range(len(texts))]
    positions = tuple(position for position, verdict in enumerate(verdicts) if verdict.kept)
    source = _Source(data)
    result = FilterResult(
        selected=source.select(positions),
        positions=positions,
        ids=tuple(names[position] for position in positions),
        rejected=tuple(
            RejectedRow(names[position], position, 0, texts[position], verdict)
            for position, verdict in enumerate(verdicts)
            if not verdict.kept
        ),
        steps=(FilterStep(index.name, index.threshold, index.rejects_at_threshold),),
        closest_pairs=_closest_pairs(index, texts, names, positions, closest_pairs) if closest_pairs else (),
        source=source,
    )
    if message := template_warning(result):
        warnings.warn(message, stacklevel=2)
    return result


@dataclass(frozen=True)
class _Source:
    data: Any

    def select(self, positions: Sequence[int]) -> Any:
        if is_dataset(self.data):
            return self.data.select(positions)
        return [self.data[position] for position in positions]


def _closest_pairs(
    index: TextIndex, texts: Sequence[str], names: Sequence[str], positions: Sequence[int], count: int
) -> tuple[ClosePair, ...]:
    """Return the most similar pairs of selected rows, each row with the most similar row before it."""
    stricter = index.empty(max(index.threshold - MARGIN, 0.01))
    verdicts = stricter.offer_many(
        [texts[position] for position in positions], [str(position) for position in positions]
    )
    pairs = [
        ClosePair(names[position], position, texts[position], names[int(verdict.nearest)], verdict.score)
        for position, verdict in zip(positions, verdicts, strict=True)
        if verdict.score is not None and verdict.nearest is not None
    ]
    return tuple(sorted(pairs, key=lambda pair: (-pair.score, pair.position))[:count])
