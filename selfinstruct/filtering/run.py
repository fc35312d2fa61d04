"""One pass over a file: read, judge, write what is kept, tell of the rest."""

from __future__ import annotations

import json
import tempfile
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Literal

from selfinstruct.common.codec import dumps
from selfinstruct.common.files import write_atomic
from selfinstruct.common.rows import RowTexts, texts_of
from selfinstruct.common.sources import STDIO, Source, SourceRow, open_lines, open_source
from selfinstruct.errors import DataError, UsageError
from selfinstruct.filtering.sinks import check_sink, write_rows
from selfinstruct.filters import Filter, Keywords, NearDuplicateIndex, NoveltyIndex, Tokenizer, Verdict, WordCount
from selfinstruct.filters.decontaminate import Decontaminator
from selfinstruct.filters.language import Language
from selfinstruct.filters.patterns import Refusals
from selfinstruct.filters.pii import Pii
from selfinstruct.filters.pipeline import Judged, On, Pipeline
from selfinstruct.filters.repetition import Repetition
from selfinstruct.verifiers import check_verifier, verify, without_nulls

__all__ = ["FilterFileOptions", "FilterProgress", "FilterSummary", "filter_file"]

PiiAction = Literal["flag", "redact", "drop"]
Part = Literal["asked", "answered", "whole", "checked"]

SHARE, SOME = 0.1, 100  # a group of more than this share of at least so many rows is worth a notice
TICK = 256  # rows between two looks at how much was read
CHUNK = 1 << 20  # bytes of the report copied at once


@dataclass(frozen=True)
class FilterFileOptions:
    """What to filter by.

    Attributes:
        rouge: Highest ROUGE-L F1 of what is asked with any kept row's.
        minhash: Jaccard similarity of whole rows from which on one is a near-duplicate.
        words: Least and most words of what is asked.
        language: ISO 639-1 codes of the languages kept.
        pii: ``drop`` rows with personal data or secrets, ``redact`` them, or ``flag`` them in the report.
        decontaminate: Files of benchmark items.
        column: The field that every filter judges; None takes it from the row's layout.
        output_column: The field with the answer, likewise.
        tokenizer: As of ``NoveltyIndex``.
        verify: Drop rows whose answer fails their own ``verifier``.
    """

    rouge: float | None = None
    minhash: float | None = None
    words: tuple[int, int] | None = None
    keywords: bool = False
    repetition: bool = False
    language: tuple[str, ...] = ()
    pii: PiiAction | None = None
    refusals: bool = False
    decontaminate: tuple[str, ...] = ()
    column: str | None = None
    output_column: str | None = None
    tokenizer: Tokenizer = "auto"
    verify: bool = False

    @property
    def judging(self) -> bool:
        """Whether any filter is asked for."""
        return any([self.rouge is not None, self.minhash is not None, self.words, self.keywords, self.repetition,
                    self.language, self.pii, self.refusals, self.decontaminate, self.verify])  # fmt: skip


@dataclass
class FilterProgress:
    """How far a pass is; changes while it runs.

    Attributes:
        done, total: In ``unit``; ``total`` is None where nobody knows.
        dropped: Rows by filter and reason.
        fields: Rows by the field that was judged.
        marked: Kept rows that were flagged or redacted.
        malformed: Rows that could not be read.
    """

    done: int = 0
    total: int | None = None
    unit: Literal["bytes", "rows"] = "bytes"
    read: int = 0
    kept: int = 0
    dropped: Counter[tuple[str, str]] = field(default_factory=Counter)
    fields: Counter[str] = field(default_factory=Counter)
    marked: int = 0
    malformed: int = 0


@dataclass(frozen=True)
class FilterSummary:
    """What a pass came to.

    Attributes:
        progress: Its counts.
        judged: For each filter a line that says what it judged, and by which limit.
        notices: What deserves a look.
    """

    progress: FilterProgress
    judged: tuple[str, ...]
    notices: tuple[str, ...]


Show = Callable[[FilterProgress], AbstractContextManager[None]]


def filter_file(
    source: str,
    output: str,
    options: FilterFileOptions,
    *,
    report: str | None = None,
    tell: Callable[[str], None] = lambda _: None,
    show: Show | None = None,
) -> FilterSummary:
    """Write the rows of one file that the filters keep into another.

    Without any filter in ``options`` it is ROUGE-L at 0.7. The filters judge in the order words, keywords, repetition,
    refusals, language, PII, decontamination, verifiers, ROUGE-L, MinHash; a row dropped by one is not offered to the
    next.

    Args:
        source, output: Paths; ``-`` for the standard streams.
        report: JSONL file for the dropped (and flagged, and redacted) rows.
        tell: Called with one line for each malformed row.
        show: Shows the progress while it is open.

    Raises:
        UsageError: Something can't be read, or not one row of the source is whole.
        SelfInstructError: Something can't be written; old files are as they were.
    """
    if not options.judging:
        options = FilterFileOptions(rouge=0.7, column=options.column, output_column=options.output_column,
                          tokenizer=options.tokenizer)  # fmt: skip
    check_sink(output)
    if report is not None and Path(report).exists() and not Path(report).is_file():
        raise UsageError(f"{report} is no regular file")
    steps = _steps(options)
    given = open_source(source)
    with tempfile.TemporaryFile() as spool:
        one = _Pass(given, options, steps, None if report is None else spool, tell)
        with nullcontext() if show is None else show(one.progress):
            write_rows(output, one.rows(), given.schema)
        if report is not None:
            spool.seek(0)
            write_atomic(Path(report), iter(lambda: spool.read(CHUNK), b""))
    return FilterSummary(one.progress, tuple(step.told for step in steps), tuple(one.notices()))


@dataclass(frozen=True)
class _Step:
    filter: Filter | NoveltyIndex | NearDuplicateIndex
    part: Part
    told: str


def _steps(options: FilterFileOptions) -> list[_Step]:
    """The filters asked for, those that need no memory first."""
    steps: list[_Step] = []
    if options.words:
        least, most = options.words
        steps.append(_Step(WordCount(least, most), "asked", f"words {least} to {most}"))
    if options.keywords:
        steps.append(_Step(Keywords(), "asked", "keywords"))
    if options.repetition:
        steps.append(_Step(Repetition(), "answered", "repetition"))
    if options.refusals:
        steps.append(_Step(Refusals(), "answered", "refusals"))
    if options.language:
        languages = Language(allow=options.language)
        languages.verdict("")  # fails now, not in the middle, if lingua is missing or knows no such language
        steps.append(_Step(languages, "asked", f"language {', '.join(options.language)}"))
    if options.pii == "drop":
        steps.append(_Step(Pii(), "whole", "pii"))
    if options.decontaminate:
        ids, items = _items(options.decontaminate)
        steps.append(_Step(Decontaminator(items, ids), "whole", f"decontamination from {len(items):,} items"))
    if options.verify:
        steps.append(_Step(_Verified(), "checked", "verify"))
    if options.rouge is not None:
        index = NoveltyIndex(options.rouge, options.tokenizer)
        steps.append(_Step(index, "asked", f"rouge {options.rouge:g}"))
    if options.minhash is not None:
        steps.append(_Step(NearDuplicateIndex(options.minhash), "whole", f"minhash {options.minhash:g}"))
    return steps


def _items(names: Iterable[str]) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Ids and texts of benchmark items; a text file holds one a line."""
    ids: list[str] = []
    items: list[str] = []
    for name in names:
        if name == STDIO:
            raise UsageError("benchmark items are read from files, not from standard input")
        given = open_source(name) if Path(name).suffix != ".txt" else open_lines(Path(name))
        for row in given.rows:
            if isinstance(row, DataError):
                raise row
            try:
                item = texts_of(row.value).prompt
            except ValueError as error:
                raise DataError(f"{given.where(row.number)}: {error}") from None
            if item.strip():
                ids.append(given.where(row.number))
                items.append(item)
    if not items:
        raise UsageError(f"{', '.join(names)}: no item in it")
    return tuple(ids), tuple(items)


class _Pass:
    """The pass under way."""

    def __init__(
        self, given: Source, options: FilterFileOptions, steps: list[_Step], spool: Any, tell: Callable[[str], None]
    ) -> None:
        self.progress = FilterProgress(total=given.total, unit=given.unit)
        self._given = given
        self._options = options
        self._steps = steps
        self._spool = spool
        self._tell = tell
        self._mark = Pii() if options.pii in ("flag", "redact") else None
        self._groups: Counter[tuple[str, str]] = Counter()
        self._bad = ""  # the first malformed row, in words

    def rows(self) -> Iterator[SourceRow]:
        """The rows that are kept, as they are to be written."""
        for row, verdicts in self._judged():
            if verdicts and not verdicts[-1].kept:
                self._drop(row, len(verdicts) - 1, verdicts[-1])
                continue
            self.progress.kept += 1
            yield row if self._mark is None else self._marked(row, self._mark)
        self.progress.done = self._given.done() if self.progress.unit == "bytes" else self.progress.done
        if not self.progress.read and self._bad:
            raise DataError(f"not one row could be read; the first: {self._bad}")

    def notices(self) -> Iterator[str]:
        for (name, nearest), size in self._groups.most_common():
            if self.progress.read >= SOME and size > SHARE * self.progress.read:
                yield (f"{size:,} of {self.progress.read:,} rows were dropped by {name} for resembling "
                       f"{self._given.where(int(nearest))}: look whether they are a template")  # fmt: skip

    def _judged(self) -> Iterator[Judged]:
        if not self._steps:
            return (Judged(row, ()) for row in self._whole_rows())
        pipeline = Pipeline([On(_part(step.part), step.filter) for step in self._steps])
        return pipeline.stream(self._whole_rows(), _part("whole"), id_column=lambda row: str(row.number))

    def _whole_rows(self) -> Iterator[SourceRow]:
        """The rows that can be read, with their texts."""
        progress, options = self.progress, self._options
        for place, row in enumerate(self._given.rows):
            if place % TICK == 0:
                progress.done = self._given.done()
            if isinstance(row, DataError):
                self._malformed(str(row))
                continue
            try:
                row.texts = texts_of(row.value, options.column, options.output_column)
                if options.verify and (verifier := without_nulls(row.value.get("verifier"))) is not None:
                    check_verifier(verifier)
            except ValueError as error:
                self._malformed(f"{self._given.where(row.number)}: {error}")
                continue
            progress.read += 1
            progress.fields[row.texts.field] += 1
            yield row

    def _malformed(self, what: str) -> None:
        self.progress.malformed += 1
        self._bad = self._bad or what
        self._tell(what)

    def _drop(self, row: SourceRow, step: int, verdict: Verdict) -> None:
        self.progress.dropped[verdict.filter, verdict.reason] += 1
        judge = self._steps[step]
        if verdict.nearest is not None and isinstance(judge.filter, NoveltyIndex | NearDuplicateIndex):
            self._groups[verdict.filter, verdict.nearest] += 1
        text = _part("answered" if judge.part == "checked" else judge.part)(row)
        if isinstance(judge.filter, Pii):  # a report is no place for secrets
            text = judge.filter.redact(text)[0]
        self._report(row, verdict, text)

    def _report(self, row: SourceRow, verdict: Verdict, text: str) -> None:
        if self._spool is None:
            return
        line = {
            "row": row.number,
            "id": row.value.get("id") if isinstance(row.value.get("id"), str | int) else None,
            "kept": verdict.kept,
            "filter": verdict.filter,
            "reason": verdict.reason,
            "score": verdict.score,
            "nearest": verdict.nearest,
            "text": text,
            "detail": dict(verdict.detail),
        }
        self._spool.write(dumps(line).encode() + b"\n")

    def _marked(self, row: SourceRow, pii: Pii) -> SourceRow:
        """The row, redacted if that was asked for, and reported if there was anything in it."""
        found: Counter[str] = Counter()
        value = _redacted(row.value, pii, found)
        if not found:
            return row
        self.progress.marked += 1
        self._report(row, Verdict(pii.filter, True, detail={"kinds": dict(found)}), pii.redact(_whole(row.texts))[0])
        return row if self._options.pii == "flag" else SourceRow(row.number, value)


def _part(part: Part) -> Callable[[SourceRow], str]:
    if part == "checked":
        return _checked

    def text(row: SourceRow) -> str:
        value: str = getattr(row.texts, part)
        return value

    return text


def _checked(row: SourceRow) -> str:
    """A row's verifier and its answer in one text: a filter judges texts."""
    assert row.texts is not None
    return dumps([without_nulls(row.value.get("verifier")), row.texts.answered])


@dataclass(frozen=True)
class _Verified(Filter):
    """A row's answer against the row's own verifier; a row without one stays."""

    filter: ClassVar[str] = "verifier"

    def verdict(self, text: str) -> Verdict:
        """Judge what ``_checked`` made of a row."""
        verifier, answer = json.loads(text)
        return self.kept() if verifier is None else verify(verifier, answer)


def _whole(texts: RowTexts | None) -> str:
    assert texts is not None
    return texts.whole


def _redacted(value: Any, pii: Pii, found: Counter[str]) -> Any:
    """A value with every string in it redacted, and the kinds found counted."""
    if isinstance(value, str):
        text, spans = pii.redact(value)
        found.update(span.kind for span in spans)
        return text
    if isinstance(value, Mapping):
        return {name: _redacted(one, pii, found) for name, one in value.items()}
    return [_redacted(one, pii, found) for one in value] if isinstance(value, list) else value
