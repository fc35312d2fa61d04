"""Split a file of rows into a training and a held-out part that share no near-duplicates."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from selfinstruct.common.groups import draw_groups, join_groups, members_of
from selfinstruct.common.row_texts import texts_of
from selfinstruct.common.sources import Source, SourceRow, open_rows
from selfinstruct.errors import DataError, UsageError
from selfinstruct.filtering.sinks import check_sink, write_rows
from selfinstruct.filters import group_near_duplicates

__all__ = ["SplitSummary", "split_file"]


@dataclass(frozen=True)
class SplitSummary:
    """The result of a split.

    Attributes:
        train, held_out: Number of rows of each part.
        groups: Number of groups of related rows.
        largest: Number of rows of the largest group.
        malformed: Number of rows that could not be read, which are in neither part.
    """

    train: int
    held_out: int
    groups: int
    largest: int
    malformed: int = 0


def split_file(
    source: str,
    folder: str | Path,
    *,
    held_out: float = 0.1,
    threshold: float = 0.8,
    seed: int = 1,
    column: str | None = None,
    ending: str = ".jsonl",
    on_malformed: Callable[[str], None] | None = None,
) -> SplitSummary:
    """Write the rows of a file into ``train`` and ``held-out`` in a folder, whole groups at a time.

    Rows are in one group if their prompts are near-duplicates, if they have the same question (an instruction with
    several inputs), or if a chain of such rows connects them. So no held-out row has a near-duplicate in training.

    Args:
        source: As in ``filter_file``; ``-`` for standard input.
        folder: Folder of the two files, which are replaced.
        held_out: Fraction of the rows to hold out. Groups are not divided, so that it may be less.
        threshold: Jaccard similarity of character 5-grams from which two prompts are near-duplicates.
        seed: Seed of the draw.
        column: Field to compare; None detects the layout of the rows.
        ending: Format of the two files: ``.jsonl``, ``.jsonl.gz`` or ``.parquet``.
        on_malformed: Called with a message for each malformed row, which is skipped; None raises instead.

    Raises:
        DataError: A row cannot be read; the message has its line.
        UsageError: An option is invalid, or all rows are in one group, so that nothing can be held out.
        SelfInstructError: A file cannot be written.
    """
    if not 0 < held_out < 1:
        raise UsageError(f"a held-out fraction of {held_out:g} is not between 0 and 1")
    paths = [str(Path(folder) / f"{name}{ending}") for name in ("train", "held-out")]
    for path in paths:
        check_sink(path)
    opened = open_rows(source)
    rows, malformed = _read(opened, column, on_malformed)
    if len(rows) < 2:
        raise UsageError(f"{source} has {len(rows)} rows: a split needs at least 2")
    texts = [row.texts for row in rows if row.texts is not None]
    near = group_near_duplicates([text.prompt for text in texts], threshold)
    groups = members_of(join_groups(near, [" ".join(text.question.casefold().split()) for text in texts]))
    drawn = draw_groups(groups, max(round(held_out * len(rows)), 1), seed)
    if not drawn:
        raise UsageError(
            f"nothing can be held out of {source}: most of its {len(rows)} rows are in one group of near-duplicates or "
            "have the same question. Raise --threshold, or name another field with --column"
        )
    is_held_out = set(drawn)
    Path(folder).mkdir(parents=True, exist_ok=True)
    write_rows(paths[0], (row for index, row in enumerate(rows) if index not in is_held_out), opened.schema)
    write_rows(paths[1], (rows[index] for index in drawn), opened.schema)
    return SplitSummary(len(rows) - len(drawn), len(drawn), len(groups), max(map(len, groups)), malformed)


def _read(
    source: Source, column: str | None, on_malformed: Callable[[str], None] | None
) -> tuple[list[SourceRow], int]:
    """Return the rows with their texts, and the number of malformed ones."""
    rows, malformed = [], 0
    for row in source.rows:
        try:
            if isinstance(row, DataError):
                raise row
            try:
                row.texts = texts_of(row.value, column)
            except ValueError as error:
                raise DataError(f"{source.where(row.number)}: {error}") from None
        except DataError as error:
            if on_malformed is None:
                raise
            on_malformed(str(error))
            malformed += 1
        else:
            rows.append(row)
    return rows, malformed
