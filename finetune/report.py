"""What a run says at its end, and what a dry run shows: plain lines, which a terminal may colour.

Text of rows and models is data: it is shown as it is, but for control characters, which could drive the terminal.
"""

from __future__ import annotations

import io
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from finetune.evaluation.held_out import Losses, difference
from selfinstruct.common.console import plural, strip_control_chars

if TYPE_CHECKING:
    from rich.text import Text

    from finetune.session import Preview, TrainingResult

__all__ = ["coloured", "preview_lines", "result_lines", "strip_control_chars"]

_FEW = 10  # steps: below, little is learnt, and the schedule is hardly one
_SHOWN = 3  # documents of a dry run
_LONGEST = 300  # characters of a text in the table of answers
_WIDTH = 100  # of that table
_OPEN, _CLOSE = "⟦", "⟧"  # around what is supervised


def result_lines(result: TrainingResult) -> Iterator[str]:
    """A run's last screen."""
    if not result.complete:
        yield f"{result.folder}: stopped after {plural(result.steps, 'step')}; the same command goes on"
        return
    done = "was complete already" if result.already else "complete"
    yield f"{result.folder}: {done}, {plural(result.steps, 'step')} in {_time(result.seconds)}"
    if result.before and result.after:
        for name, before in result.before.losses.items():
            yield f"held-out loss, {name}: {_change(before, result.after.losses[name])}"
        rows = list(zip(result.prompts, result.before.answers, result.after.answers, strict=True))
        if rows:
            yield ""
            yield from _table(("asked", "answer before", "answer after"), rows)
    if result.steps < _FEW:
        yield f"only {plural(result.steps, 'step')}: too few to judge the training by"
    yield f"model: {result.folder}   loss: {result.folder / 'loss.png'}   figures: {result.folder / 'metrics.jsonl'}"


def _change(before: Losses, after: Losses) -> str:
    change, error = difference(before, after)
    figures = f"{_figure(before.mean, before.standard_error)} -> {_figure(after.mean, after.standard_error)}"
    what = "a rise" if change > 0 else "a fall"
    if change == 0:
        what = "no change"
    elif error is not None and abs(change) <= 2 * error:
        what += " within two standard errors: no clear change"
    return f"{figures}, change {_figure(change, error, '+')} ({what}; {plural(len(before.counts), 'document')})"


def _figure(value: float, error: float | None, sign: str = "") -> str:
    return f"{value:{sign}.3f}" + ("" if error is None else f" ± {error:.3f}")


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """Columns of wrapped text."""
    from rich import box
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(*head, box=box.SIMPLE_HEAD, show_edge=False, width=_WIDTH, show_lines=True)
    for column in table.columns:
        column.ratio = 1
        column.overflow = "fold"
    for row in rows:
        table.add_row(*(Text(_short(one)) for one in row))
    file = io.StringIO()
    Console(file=file, width=_WIDTH, color_system=None, force_terminal=False, legacy_windows=False).print(table)
    return [line.rstrip() for line in file.getvalue().split("\n")]


def preview_lines(preview: Preview) -> Iterator[str]:
    """What a run would do: documents with their supervised parts in ⟦ ⟧, packing, memory."""
    corpus, plan = preview.rendered.corpus, preview.plan
    for index in range(min(_SHOWN, len(corpus))):
        document = corpus[index]
        yield f"{document.name}: {plural(len(document), 'token')}, {int(document.supervised.sum()):,} supervised"
        pieces = preview.renderer.pieces(document)
        text = "".join(f"{_OPEN}{_unmarked(text)}{_CLOSE}" if one else _unmarked(text) for text, one in pieces)
        yield text if text.endswith("\n") else text + "\n"
    tokens, targets = int(corpus.lengths.sum()), int(corpus.supervised.sum())
    yield (
        f"{plural(len(corpus), 'document')}, {plural(tokens, 'token')}, {targets:,} supervised; "
        f"format {preview.renderer.format}"
    )
    for reason, count in Counter(reason for _, reason, _ in preview.rendered.dropped).most_common():
        yield f"dropped, {reason}: {count:,}"
    if preview.skipped:
        yield f"not read: {plural(len(preview.skipped), 'row')}"
    if preview.rendered.truncated:
        yield f"cut to the longest length: {preview.rendered.truncated:,}"
    yield (
        f"{plural(plan.steps, 'step')}, {plan.steps_per_epoch:,} an epoch; trained on "
        f"{plural(len(plan.corpus), 'document')}; micro-batches of at most {plural(plan.packing.budget, 'token')}, "
        f"{plan.efficiency:.0%} full"
    )
    if plan.steps < _FEW:
        yield f"only {plural(plan.steps, 'step')}: too few to learn much"
    if preview.costs.memory:
        yield preview.costs.words


def coloured(line: str) -> Text:
    """A line of ``preview_lines`` with its supervised parts in green."""
    from rich.text import Text

    text = Text()
    for number, part in enumerate(re.split(f"[{_OPEN}{_CLOSE}]", line)):
        text.append(part, style="bold green" if number % 2 else "")
    return text


def _unmarked(text: str) -> str:
    """Without our own marks."""
    return strip_control_chars(text).replace(_OPEN, "[[").replace(_CLOSE, "]]")


def _short(text: str) -> str:
    """One line of a text, and not too long."""
    flat = strip_control_chars(" ".join(text.split()))
    return flat if len(flat) <= _LONGEST else flat[: _LONGEST - 3] + "..."


def _time(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest} s" if minutes else f"{rest} s"
