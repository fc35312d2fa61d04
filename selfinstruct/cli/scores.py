"""Scores and intervals in words and as a table."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

from selfinstruct.common.console import echo, plural, strip_control_chars
from selfinstruct.evaluation.scores import Scores, SuiteScores
from selfinstruct.evaluation.statistics import Estimate

__all__ = ["difference_in_words", "interval_in_words", "show_scores", "show_table", "value_in_words"]


def show_scores(scores: Scores) -> None:
    """Print a table of scores, and what a reader must know about them."""
    rows = [
        (suite.name if index == 0 else "", score.metric.name, *_figures(score.estimate, score.metric.is_proportion))
        for suite in scores.suites
        for index, score in enumerate(suite.metrics)
    ]
    show_table(("suite", "metric", "score", "95% interval", "values", "clusters", "interval by"), rows)
    for suite in scores.suites:
        for line in _remarks(suite):
            echo(strip_control_chars(line))
    echo(f"digest of the scores: {scores.digest[:12]}")


def show_table(titles: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Print rows in aligned columns below their titles."""
    widths = [max(len(row[column]) for row in (titles, *rows)) for column in range(len(titles))]
    for row in (titles, *rows):
        line = "  ".join(f"{cell:<{width}}" for cell, width in zip(row, widths, strict=True))
        echo(strip_control_chars(line.rstrip()))


def value_in_words(value: float, *, is_proportion: bool) -> str:
    """Return a score, as a percentage if it is a proportion."""
    return f"{value:.1%}" if is_proportion else f"{value:.4f}"


def difference_in_words(value: float, *, is_proportion: bool) -> str:
    """Return a difference of scores, in percentage points if they are proportions."""
    return f"{100 * value:+.1f} pp" if is_proportion else f"{value:+.4f}"


def interval_in_words(estimate: Estimate, *, is_proportion: bool, words: Callable[..., str] = value_in_words) -> str:
    """Return the interval of an estimate, or why it has none."""
    if estimate.interval is None:
        return "none: one cluster"
    low, high = (words(end, is_proportion=is_proportion) for end in estimate.interval)
    return f"[{low}, {high}]"


def _figures(estimate: Estimate | None, is_proportion: bool) -> tuple[str, ...]:
    if estimate is None:
        return ("-", "-", "0", "0", "-")
    return (
        value_in_words(estimate.value, is_proportion=is_proportion),
        interval_in_words(estimate, is_proportion=is_proportion),
        f"{estimate.values:,}",
        f"{estimate.clusters:,}",
        estimate.method,
    )


def _remarks(suite: SuiteScores) -> Iterator[str]:
    if suite.missing:
        yield (f"{suite.name}: incomplete, {suite.missing:,} of {plural(len(suite.items), 'item')} have no outcome yet "
               "and are not included")  # fmt: skip
    if suite.unanswered:
        reasons = ", ".join(f"{reason} {count}" for reason, count in suite.unanswered.most_common())
        yield f"{suite.name}: {plural(suite.unanswered.total(), 'item')} without an answer count 0: {reasons}"
    if suite.cut:
        yield f"{suite.name}: {plural(suite.cut, 'answer')} cut before the end; what there is counts"
