"""``selfinstruct compare``."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import click

from selfinstruct.api import compare
from selfinstruct.cli.options import FiniteRange, json_option
from selfinstruct.cli.scores import difference_in_words, interval_in_words, show_table, value_in_words
from selfinstruct.common.codec import Json, dumps
from selfinstruct.common.console import echo, strip_control_chars
from selfinstruct.evaluation.compare import Difference, RunComparison
from selfinstruct.evaluation.scores import estimate_to_json

_PATH = click.Path(path_type=Path)


@click.command("compare")
@click.argument("run_dirs", type=_PATH, nargs=-1, required=True, metavar="RUN_A RUN_B...")
@click.option(
    "--detect",
    type=FiniteRange(min=0, max=1, min_open=True),
    default=0.05,
    show_default=True,
    help="A true difference: report how many items would have shown it with a power of 80%.",
)
@click.option("--shared", is_flag=True, help="Compare over the items that runs of different items share.")
@json_option
def command(run_dirs: tuple[Path, ...], detect: float, shared: bool, as_json: bool) -> None:
    """Compare evaluations with the first one: which scores higher, by how much, and how certain that is.

    Every item is compared with itself, so the difference has a shorter interval than the two scores suggest. A
    difference whose interval holds 0 is a tie. With several differences, Holm's correction decides as well.

    \b
    Examples:
      selfinstruct compare runs/before runs/after
      selfinstruct compare runs/before runs/after runs/other --detect 0.02
    """
    comparison = compare(*run_dirs, detect=detect, shared=shared)
    if as_json:
        echo(dumps(_to_json(comparison)))
        return
    echo(strip_control_chars(f"compared with {comparison.reference}"))
    show_table(
        ("run", "suite", "metric", "reference", "score", "difference", "95% interval", "result", "items"),
        [_row(difference) for difference in comparison.differences],
    )
    for line in _remarks(comparison):
        echo(strip_control_chars(line))


def _row(each: Difference) -> tuple[str, ...]:
    names = str(each.folder), each.suite, each.metric.name
    if each.difference is None or each.reference is None or each.score is None:
        return (*names, "-", "-", "-", "-", each.verdict, str(each.items))
    proportion = each.metric.is_proportion
    return (
        *names,
        value_in_words(each.reference.value, is_proportion=proportion),
        value_in_words(each.score.value, is_proportion=proportion),
        difference_in_words(each.difference.value, is_proportion=proportion),
        interval_in_words(each.difference, is_proportion=proportion, words=difference_in_words),
        f"{each.verdict}{' (Holm)' if each.tied_by_correction else ''}",
        f"{each.items:,}",
    )


def _remarks(comparison: RunComparison) -> Iterator[str]:
    count = sum(each.adjusted_p_value is not None for each in comparison.differences)
    if count > 1:
        yield f"results are corrected for {count} differences (Holm): each counts only if it stands among all of them"
    for each in comparison.differences:
        if each.items_to_detect is not None:
            detect = difference_in_words(comparison.detect, is_proportion=each.metric.is_proportion)
            name = f"{each.folder} {each.suite} {each.metric.name}"
            yield f"{name}: {each.items_to_detect:,} items would have shown a true difference of {detect} (power 80%)"
    yield from comparison.warnings


def _to_json(comparison: RunComparison) -> dict[str, Json]:
    return {
        "reference": str(comparison.reference),
        "detect": comparison.detect,
        "differences": [_difference_to_json(each) for each in comparison.differences],
        "warnings": list(comparison.warnings),
    }


def _difference_to_json(each: Difference) -> dict[str, Json]:
    return {
        "run": str(each.folder),
        "suite": each.suite,
        "metric": each.metric.name,
        "items": each.items,
        "reference": estimate_to_json(each.reference),
        "score": estimate_to_json(each.score),
        "difference": estimate_to_json(each.difference),
        "p_value": None if each.difference is None else each.difference.p_value,
        "adjusted_p_value": each.adjusted_p_value,
        "result": each.verdict,
        "items_to_detect": each.items_to_detect,
    }
