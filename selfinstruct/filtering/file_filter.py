"""Filter a file of rows: read, decide, write the kept rows, and report the rest, in one pass."""

from __future__ import annotations

import tempfile
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import IO, Any, Literal

from selfinstruct.common.codec import dumps
from selfinstruct.common.console import plural
from selfinstruct.common.files import write_atomic
from selfinstruct.common.nested import parse_nested
from selfinstruct.common.row_texts import RowTexts, texts_of
from selfinstruct.common.sources import Source, SourceRow, open_rows
from selfinstruct.common.unread import unread_notices
from selfinstruct.errors import DataError, UsageError
from selfinstruct.filtering.options import FilterFileOptions
from selfinstruct.filtering.sinks import check_sink, with_score_columns, write_rows
from selfinstruct.filtering.steps import Step, all_texts, full_text, steps_of
from selfinstruct.filters import Balance, DecidedRow, On, Pii, Pipeline, Verdict
from selfinstruct.filters.result import TEMPLATE_ROWS, TEMPLATE_SHARE
from selfinstruct.verifiers import check_verifier, without_nulls

__all__ = ["FilterProgress", "FilterSummary", "filter_file"]

TICK = 256  # rows between two updates of the progress
CHUNK = 1 << 20  # bytes of the report copied at once


@dataclass
class FilterProgress:
    """The progress of a pass, updated while it runs.

    Attributes:
        done, total: Amount of input, in ``unit``; ``total`` is None if it is unknown.
        read: Number of well-formed rows.
        kept: Number of kept rows.
        dropped: Number of dropped rows, by filter and reason.
        fields: Number of rows, by the field that was filtered.
        marked: Number of kept rows that were flagged or redacted.
        malformed: Number of rows that could not be read.
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
    """The result of a pass.

    Attributes:
        progress: Its final counts.
        filters: For each filter a label with its setting, such as ``rouge 0.7``, in order.
        notices: Observations that the user should check.
    """

    progress: FilterProgress
    filters: tuple[str, ...]
    notices: tuple[str, ...]


Show = Callable[[FilterProgress], AbstractContextManager[None]]


def filter_file(
    source: str,
    output: str,
    options: FilterFileOptions,
    *,
    report: str | None = None,
    on_malformed: Callable[[str], None] = lambda _: None,
    show: Show | None = None,
) -> FilterSummary:
    """Write the rows of one file that the filters keep into another file.

    If no filter is on, ROUGE-L at 0.7 is. The filters decide in this order: words, keywords, repetition, refusals,
    boilerplate, language, PII, decontamination, plugins, verifiers, perplexity, IFD, reward, ROUGE-L, MinHash,
    semantic, balance. A row that one filter drops is not offered to the next.

    Args:
        source, output: Paths; ``-`` for the standard streams. ``source`` may be anything that ``open_rows`` opens.
        options: The filters.
        report: Path of a JSONL file for the dropped (and flagged, and redacted) rows.
        on_malformed: Called with a message for each malformed row, which is skipped.
        show: Returns a context manager that displays the progress.

    Raises:
        UsageError: An option is invalid, a file cannot be read, or no row of the source is well-formed.
        MissingExtraError: A filter or a file format needs a package that is not installed.
        SelfInstructError: A file cannot be written; existing files are left unchanged.
    """
    if not options.any_filter:
        options = replace(options, rouge=0.7)
    check_sink(output)
    if report is not None and Path(report).exists() and not Path(report).is_file():
        raise UsageError(f"{report} is not a regular file")
    steps = steps_of(options)
    columns = [step.column for step in steps if step.column]
    opened = open_rows(source)
    with tempfile.TemporaryFile() as spool:
        file_pass = _FilePass(opened, options, steps, None if report is None else spool, on_malformed)
        with nullcontext() if show is None else show(file_pass.progress):
            converted = write_rows(output, file_pass.rows(), with_score_columns(opened.schema, columns))
        if report is not None:
            spool.seek(0)
            write_atomic(Path(report), iter(lambda: spool.read(CHUNK), b""))
    labels = [step.label for step in steps if step.label]
    if options.balance is not None:
        labels.append(f"balance {options.balance[0]} {options.balance[1]:g}")
    return FilterSummary(file_pass.progress, tuple(labels), (*file_pass.notices(), *converted))


class _FilePass:
    """One pass over a file."""

    def __init__(
        self,
        source: Source,
        options: FilterFileOptions,
        steps: list[Step],
        spool: IO[bytes] | None,
        on_malformed: Callable[[str], None],
    ) -> None:
        self.progress = FilterProgress(total=source.total, unit=source.unit)
        self._source = source
        self._options = options
        self._steps = steps
        self._reads_answer = any(step.reads_answer for step in steps)
        self._spool = spool
        self._on_malformed = on_malformed
        self._pii = Pii() if options.pii in ("flag", "redact") else None
        self._balance = None if options.balance is None else Balance(options.balance[0], options.balance[1])
        self._groups: Counter[tuple[str, str]] = Counter()
        self._unread: Counter[str] = Counter()
        self._replaced: Counter[str] = Counter()
        self._first_malformed = ""

    def rows(self) -> Iterator[SourceRow]:
        """Yield the kept rows, redacted if the options say so."""
        kept = self._kept_rows() if self._balance is None else self._balanced(self._balance, list(self._kept_rows()))
        for row in kept:
            self.progress.kept += 1
            yield row if self._pii is None else self._marked(row, self._pii)

    def notices(self) -> Iterator[str]:
        """Yield a notice for each field that was left out, and for each row that many others were dropped for."""
        yield from unread_notices(self._unread, "judged")
        for name, count in self._replaced.items():
            yield f"the field {name!r} of {plural(count, 'row')} was replaced by the new score"
        for (name, nearest), size in self._groups.most_common():
            if self.progress.read >= TEMPLATE_ROWS and size > TEMPLATE_SHARE * self.progress.read:
                yield (f"{size:,} of {self.progress.read:,} rows were dropped by {name} for resembling "
                       f"{self._source.where(int(nearest))}: check whether they follow a template")  # fmt: skip

    def _kept_rows(self) -> Iterator[SourceRow]:
        for row, verdicts in self._decided():
            if verdicts and not verdicts[-1].kept:
                self._drop(row, self._steps[len(verdicts) - 1], verdicts[-1])
            else:
                yield self._with_scores(row, verdicts)
        self.progress.done = self._source.done() if self.progress.unit == "bytes" else self.progress.done
        if not self.progress.read and self._first_malformed:
            raise DataError(f"no row could be read; the first error: {self._first_malformed}")

    def _with_scores(self, row: SourceRow, verdicts: Sequence[Verdict]) -> SourceRow:
        """Return the row with the scores that its filters keep as fields."""
        steps = zip(self._steps, verdicts, strict=True)
        scores = {step.column: verdict.score for step, verdict in steps if step.column}
        if not scores:
            return row
        self._replaced.update(name for name in scores if name in row.value)
        return SourceRow(row.number, {**row.value, **scores}, texts=row.texts)

    def _balanced(self, balance: Balance, rows: list[SourceRow]) -> Iterator[SourceRow]:
        for row, verdict in zip(rows, balance.decide([row.value for row in rows]), strict=True):
            if verdict.kept:
                yield row
            else:
                self.progress.dropped[verdict.filter, verdict.reason] += 1
                self._report(row, verdict, str(verdict.detail["value"]))

    def _decided(self) -> Iterator[DecidedRow]:
        if not self._steps:
            return (DecidedRow(row, ()) for row in self._well_formed_rows())
        pipeline = Pipeline([On(step.text, step.filter) for step in self._steps])
        return pipeline.stream(self._well_formed_rows(), full_text, id_column=lambda row: str(row.number))

    def _well_formed_rows(self) -> Iterator[SourceRow]:
        """Yield the rows that can be read, with their texts."""
        progress = self.progress
        for number, row in enumerate(self._source.rows):
            if number % TICK == 0:
                progress.done = self._source.done()
            if isinstance(row, DataError):
                self._malformed(str(row))
                continue
            try:
                row.texts = self._texts(row.value)
            except ValueError as error:
                self._malformed(f"{self._source.where(row.number)}: {error}")
                continue
            progress.read += 1
            progress.fields[row.texts.field] += 1
            self._unread.update(row.texts.unread)
            yield row

    def _texts(self, value: Mapping[str, Any]) -> RowTexts:
        """Return the texts of a row, and check the fields that the filters need.

        Raises:
            ValueError: A field is missing or has the wrong type.
        """
        options = self._options
        texts = texts_of(value, options.column, options.output_column)
        if self._reads_answer and texts.answer_problem:
            raise ValueError(texts.answer_problem)
        if options.verify and (verifier := without_nulls(value.get("verifier"))) is not None:
            check_verifier(verifier)
        if options.balance is not None:
            balanced = value.get(options.balance[0])
            if not isinstance(balanced, str | int | float):
                raise ValueError(
                    f"{options.balance[0]!r} must be a string or a number for --balance, not {type(balanced).__name__}"
                )
        return texts

    def _malformed(self, message: str) -> None:
        self.progress.malformed += 1
        self._first_malformed = self._first_malformed or message
        self._on_malformed(message)

    def _drop(self, row: SourceRow, step: Step, verdict: Verdict) -> None:
        self.progress.dropped[verdict.filter, verdict.reason] += 1
        if verdict.nearest is not None and step.compares:
            self._groups[verdict.filter, verdict.nearest] += 1
        text = (step.reported or step.text)(row)
        if isinstance(step.filter, Pii):  # secrets must not appear in the report
            text = step.filter.redact(text)[0]
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
        """Report a row with personal data or secrets, and return it, redacted if the options say so."""
        kinds: Counter[str] = Counter()
        value = _redacted(row.value, pii, kinds)
        if not kinds:
            return row
        self.progress.marked += 1
        self._report(row, Verdict(pii.name, True, detail={"kinds": dict(kinds)}), pii.redact(all_texts(row))[0])
        return row if self._options.pii == "flag" else SourceRow(row.number, value)


def _redacted(value: Any, pii: Pii, kinds: Counter[str]) -> Any:
    """Return a JSON value with every string in it redacted, and count the kinds of matches in ``kinds``."""
    if isinstance(value, str):
        inner: Counter[str] = Counter()
        if (nested := parse_nested(value)) is not None:  # JSON in a string, whose escapes may hide a match
            redacted = _redacted(nested, pii, inner)
            if inner:
                kinds.update(inner)
                return dumps(redacted)
        text, spans = pii.redact(value)
        kinds.update(span.kind for span in spans)
        return text
    if isinstance(value, Mapping):
        return {name: _redacted(item, pii, kinds) for name, item in value.items()}
    return [_redacted(item, pii, kinds) for item in value] if isinstance(value, list) else value
