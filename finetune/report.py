"""What a run says at its end, and what a dry run shows: plain lines, and the same in colour."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator
from typing import TYPE_CHECKING

from finetune.evaluate import Losses, difference

if TYPE_CHECKING:
    from rich.text import Text

    from finetune.session import Preview, Result

__all__ = ["coloured", "preview_lines", "result_lines"]

_FEW = 10  # steps: below, little is learnt, and the schedule is hardly one
_SHOWN = 3  # documents of a dry run
_WIDTH = 300  # characters of a sample answer


def result_lines(result: Result) -> Iterator[str]:
    """A run's last screen."""
    if not result.complete:
        yield f"{result.folder}: stopped after step {result.steps}; the same command goes on"
        return
    done = "is complete" if result.already else "complete"
    yield f"{result.folder}{'' if result.already else ':'} {done}: {result.steps} steps in {_time(result.seconds)}"
    if result.before and result.after:
        for name, before in result.before.losses.items():
            yield f"held-out loss, {name}: {_change(before, result.after.losses[name])}"
        for prompt, before_text, after_text in zip(
            result.prompts, result.before.answers, result.after.answers, strict=True
        ):
            yield ""
            yield f"asked:  {_flat(prompt)}"
            yield f"before: {_flat(before_text)}"
            yield f"after:  {_flat(after_text)}"
        if result.prompts:
            yield ""
    if result.steps < _FEW:
        yield f"only {result.steps} steps: too few to judge the training by"
    yield f"model: {result.folder}   loss: {result.folder / 'loss.png'}   figures: {result.folder / 'metrics.jsonl'}"


def _change(before: Losses, after: Losses) -> str:
    change, error = difference(before, after)
    figures = f"{_figure(before.mean, before.standard_error)} -> {_figure(after.mean, after.standard_error)}"
    what = "a rise" if change > 0 else "a fall"
    if error is not None and abs(change) < 2 * error:
        what = f"{what}, but within two standard errors: no clear change"
    return f"{figures}, change {_figure(change, error, '+')} ({what}; {len(before.counts)} documents)"


def _figure(value: float, error: float | None, sign: str = "") -> str:
    return f"{value:{sign}.3f}" + ("" if error is None or math.isnan(error) else f" ± {error:.3f}")


def preview_lines(preview: Preview) -> Iterator[str]:
    """What a run would do: documents with their supervised parts in ⟦ ⟧, packing, memory."""
    corpus, plan = preview.rendered.corpus, preview.plan
    for index in range(min(_SHOWN, len(corpus))):
        document = corpus[index]
        yield f"{document.name}: {len(document)} tokens, {int(document.supervised.sum())} supervised"
        pieces = preview.renderer.pieces(document)
        yield "".join(f"⟦{_clean(text)}⟧" if supervised else _clean(text) for text, supervised in pieces)
        yield ""
    tokens, targets = int(corpus.lengths.sum()), int(corpus.supervised.sum())
    yield f"{len(corpus):,} documents, {tokens:,} tokens, {targets:,} supervised; format {preview.renderer.format}"
    for reason, count in Counter(reason for _, reason, _ in preview.rendered.dropped).most_common():
        yield f"dropped, {reason}: {count:,}"
    if preview.skipped:
        yield f"not read: {len(preview.skipped):,} rows"
    if preview.rendered.truncated:
        yield f"cut to the longest length: {preview.rendered.truncated:,}"
    yield (
        f"{plan.steps:,} steps, {plan.steps_per_epoch:,} an epoch; trained on {len(plan.corpus):,} documents; "
        f"micro-batches of at most {plan.packing.budget:,} tokens, {plan.efficiency:.0%} full"
    )
    if preview.memory:
        parts = ", ".join(f"{name} {size / 2**30:.2f}" for name, size in preview.memory.items())
        yield f"predicted memory: {sum(preview.memory.values()) / 2**30:.2f} GiB ({parts})"


def coloured(line: str) -> Text:
    """A line of ``preview_lines`` with its supervised parts in green."""
    from rich.text import Text

    text = Text()
    for number, part in enumerate(line.replace("⟧", "⟦").split("⟦")):
        text.append(part, style="bold green" if number % 2 else "")
    return text


def _flat(text: str) -> str:
    """One line of a text."""
    flat = _clean(" ".join(text.split()))
    return flat if len(flat) <= _WIDTH else flat[: _WIDTH - 3] + "..."


def _clean(text: str) -> str:
    """Without control characters, which could drive the terminal, and without our own marks."""
    shown = text.replace("⟦", "[[").replace("⟧", "]]")
    return "".join(one if one in "\n\t" or one.isprintable() else "\N{REPLACEMENT CHARACTER}" for one in shown)


def _time(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest} s" if minutes else f"{rest} s"
