"""The report at the end of a run, and the preview of a dry run, as plain lines that a terminal may colour.

Text of rows and models is data: it is shown verbatim except for control characters, which could drive the terminal.
"""

from __future__ import annotations

import io
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from finetune.data.plan import FEW_STEPS
from finetune.evaluation.held_out import Losses, difference
from finetune.evaluation.pairs import wilson_interval
from selfinstruct.common.console import plural, strip_control_chars

if TYPE_CHECKING:
    from rich.text import Text

    from finetune.data.rows import UnreadRow
    from finetune.preparation import Preview
    from finetune.session import TrainingResult

__all__ = ["accuracy_line", "coloured", "preview_json", "preview_lines", "result_lines", "unread_json"]

_DOCUMENTS = 3  # documents shown by a dry run
_MAX_LISTED = 20  # rows that are not trained on, listed one by one
_MAX_TEXT = 300  # characters of a text in the table of answers
_WIDTH = 100  # characters of a line of that table
_OPEN, _CLOSE = "⟦", "⟧"  # around supervised text


def result_lines(result: TrainingResult) -> Iterator[str]:
    """Yield the lines of the report of a run."""
    if not result.complete:
        yield f"{result.folder}: stopped after {plural(result.steps, 'step')}; repeat the command to resume"
        return
    status = "was complete already" if result.was_complete else "complete"
    yield f"{result.folder}: {status}, {plural(result.steps, 'step')} in {_duration(result.seconds)}"
    if result.kept_step is not None and result.kept_step < result.steps:
        yield (
            f"early stopping: the held-out loss was lowest after {plural(result.kept_step, 'step')}, and the model has "
            "the weights of that step"
        )
    if result.before and result.after:
        for name, before in result.before.losses.items():
            yield f"held-out loss, {name}: {_change(name, before, result.after.losses[name])}"
        if result.after.accuracy is not None:
            yield accuracy_line(result.after.accuracy)
        if (margin := result.after.margin) is not None:
            mean = _with_error(margin.mean, margin.standard_error, "+")
            yield f"held-out margin: {mean}, the mean reward of a chosen answer minus that of the rejected one"
        rows = list(zip(result.prompts, result.before.answers, result.after.answers, strict=True))
        if rows:
            yield ""
            yield from _table(("prompt", "answer before", "answer after"), rows)
    if result.steps < FEW_STEPS:
        yield f"only {plural(result.steps, 'step')}: too few to assess the training"
    yield f"model: {result.folder}   loss: {result.folder / 'loss.png'}   metrics: {result.folder / 'metrics.jsonl'}"


def accuracy_line(accuracy: Losses) -> str:
    """Return how often the chosen answer of a held-out pair has the higher reward, with an interval, next to chance.

    Prompts, not pairs, are the random sample: the pairs of a prompt are not independent.
    """
    prompts, pairs = len(accuracy.counts), int(accuracy.counts.sum())
    low, high = wilson_interval(accuracy.mean, prompts)
    verdict = (
        "not distinguishable from chance" if low <= 0.5 <= high else "above chance" if low > 0.5 else "below chance"
    )
    return (
        f"held-out accuracy: {accuracy.mean:.1%} of {plural(pairs, 'pair')}, 95% interval {low:.1%} to {high:.1%} over "
        f"{plural(prompts, 'prompt')} ({verdict}, which is 50%)"
    )


def _change(name: str, before: Losses, after: Losses) -> str:
    change, error = difference(before, after)
    values = f"{_with_error(before.mean, before.standard_error)} -> {_with_error(after.mean, after.standard_error)}"
    direction = "a rise" if change > 0 else "a fall"
    if change == 0:
        direction = "no change"
    elif error is not None and abs(change) <= 2 * error:
        direction += " within two standard errors: no clear change"
    documents = plural(len(before.counts), "prompt" if name == "pairs" else "document")
    return f"{values}, change {_with_error(change, error, '+')} ({direction}; {documents})"


def _with_error(value: float, error: float | None, sign: str = "") -> str:
    return f"{value:{sign}.3f}" + ("" if error is None else f" ± {error:.3f}")


def _table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """Return the lines of a table whose cells are wrapped."""
    from rich import box
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(*header, box=box.SIMPLE_HEAD, show_edge=False, width=_WIDTH, show_lines=True)
    for column in table.columns:
        column.ratio = 1
        column.overflow = "fold"
    for row in rows:
        table.add_row(*(Text(_shorten(cell)) for cell in row))
    file = io.StringIO()
    Console(file=file, width=_WIDTH, color_system=None, force_terminal=False, legacy_windows=False).print(table)
    return [line.rstrip() for line in file.getvalue().split("\n")]


def preview_lines(preview: Preview) -> Iterator[str]:
    """Yield the lines of a dry run: documents with supervised text in ⟦ ⟧, then rows, steps and predicted memory."""
    corpus, plan = preview.rendered.corpus, preview.plan
    for index in range(min(_DOCUMENTS, len(corpus))):
        document = corpus[index]
        yield f"{document.name}: {plural(len(document), 'token')}, {int(document.supervised.sum()):,} supervised"
        text = "".join(
            f"{_OPEN}{_without_brackets(piece)}{_CLOSE}" if supervised else _without_brackets(piece)
            for piece, supervised in preview.renderer.pieces(document)
        )
        yield text if text.endswith("\n") else text + "\n"
    tokens, targets = int(corpus.lengths.sum()), int(corpus.supervised.sum())
    yield (
        f"{plural(len(corpus), 'document')}, {plural(tokens, 'token')}, {targets:,} supervised; "
        f"format {preview.renderer.format}"
    )
    yield f"answers end with {' or '.join(preview.stop_tokens)}"
    for reason, count in Counter(reason for _, reason, _ in preview.rendered.dropped).most_common():
        yield f"dropped, {reason}: {count:,}"
    if preview.skipped:
        yield f"not read: {plural(len(preview.skipped), 'row')}"
    yield from (f"  {strip_control_chars(str(row))}" for row in preview.unread[:_MAX_LISTED])
    if len(preview.unread) > _MAX_LISTED:
        yield f"  and {len(preview.unread) - _MAX_LISTED:,} more; --report FILE lists all of them"
    yield from (f"note: {notice}" for notice in preview.notices)
    if preview.rendered.truncated:
        yield f"cut to the maximum length: {preview.rendered.truncated:,}"
    documents, budget = plural(len(plan.corpus.documents), "document"), plural(plan.packing.budget, "token")
    yield (
        f"{plural(plan.steps, 'step')}, {plan.steps_per_epoch:,} an epoch; trained on {documents}; micro-batches of at "
        f"most {budget}, {plan.efficiency:.0%} full"
    )
    for name, count in preview.held_out.items():
        yield f"held out, {name}: {plural(count, 'document')}"
    if plan.steps < FEW_STEPS:
        yield f"only {plural(plan.steps, 'step')}: too few to learn much"
    if preview.estimate.memory:
        yield preview.estimate.describe()


def preview_json(preview: Preview) -> dict[str, Any]:
    """Return a dry run as JSON values."""
    corpus, plan = preview.rendered.corpus, preview.plan
    return {
        "documents": len(corpus),
        "tokens": int(corpus.lengths.sum()),
        "supervised": int(corpus.supervised.sum()),
        "truncated": preview.rendered.truncated,
        "format": preview.renderer.format,
        "stop_tokens": list(preview.stop_tokens),
        "trained": len(plan.corpus.documents),
        "held_out": dict(preview.held_out),
        "steps": plan.steps,
        "steps_per_epoch": plan.steps_per_epoch,
        "micro_batch_tokens": plan.packing.budget,
        "memory": preview.estimate.memory,
        "memory_available": preview.estimate.available,
        "notes": [*preview.notices, *preview.rendered.notices()],
        "unread": unread_json(preview.unread),
    }


def unread_json(rows: Sequence[UnreadRow]) -> list[dict[str, str]]:
    """Return rows that are not trained on as JSON values."""
    return [{"row": row.name, "reason": row.reason, "detail": row.detail} for row in rows]


def coloured(line: str) -> Text:
    """Return a line of ``preview_lines`` with its supervised text in green."""
    from rich.text import Text

    text = Text()
    for index, part in enumerate(re.split(f"[{_OPEN}{_CLOSE}]", line)):
        text.append(part, style="bold green" if index % 2 else "")
    return text


def _without_brackets(text: str) -> str:
    """Replace the brackets that mark supervised text, and remove control characters."""
    return strip_control_chars(text).replace(_OPEN, "[[").replace(_CLOSE, "]]")


def _shorten(text: str) -> str:
    """Return a text as a single line of limited length."""
    line = strip_control_chars(" ".join(text.split()))
    return line if len(line) <= _MAX_TEXT else line[: _MAX_TEXT - 3] + "..."


def _duration(seconds: float) -> str:
    minutes, remainder = divmod(round(seconds), 60)
    return f"{minutes} min {remainder} s" if minutes else f"{remainder} s"
