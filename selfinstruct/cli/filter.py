"""``selfinstruct filter``."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Any

import click

from selfinstruct.cli.options import FiniteRange, json_option, skip_malformed_option
from selfinstruct.common.codec import dumps
from selfinstruct.common.config import assign
from selfinstruct.common.console import echo, show
from selfinstruct.common.sources import STDIO
from selfinstruct.errors import UsageError
from selfinstruct.filtering import EMBEDDER, FilterFileOptions, FilterProgress, FilterSummary, filter_file
from selfinstruct.filters import Filter
from selfinstruct.filters.registry import build_filter

if TYPE_CHECKING:
    from rich.console import RenderableType

_MOST_MALFORMED = 20  # malformed rows reported one by one: enough to see the pattern


class _Words(click.ParamType[tuple[int, int]]):
    name = "MIN:MAX"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        if isinstance(value, tuple):
            return value
        least, _, most = str(value).partition(":")
        if not (least.isdecimal() and most.isdecimal()) or int(least) > int(most):
            self.fail(f"{value!r} is not a range of words such as 4:150", param, ctx)
        return int(least), int(most)


class _Bounds(click.ParamType[tuple[float, float]]):
    name = "MIN:MAX"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        if isinstance(value, tuple):
            return value
        low, colon, high = str(value).partition(":")
        try:
            bounds = float(low or 0), float(high or math.inf)
        except ValueError:
            bounds = (math.nan, math.nan)
        if not colon or not 0 <= bounds[0] <= bounds[1]:
            self.fail(f"{value!r} is not a range such as 5:500, 5: or :500", param, ctx)
        return bounds


class _Share(click.ParamType[tuple[str, float]]):
    name = "FIELD:SHARE"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        if isinstance(value, tuple):
            return value
        field, _, share = str(value).rpartition(":")
        try:
            number = float(share)
        except ValueError:
            number = math.nan
        if not field or not 0 < number <= 1:
            self.fail(f"{value!r} is not a field and a share above 0 and up to 1, such as domain:0.25", param, ctx)
        return field, number


@click.command("filter")
@click.argument("source", metavar="IN")
@click.option(
    "-o", "--output", required=True, metavar="OUT", help="File of the kept rows, in the format of its ending."
)
@click.option("--rouge", type=FiniteRange(0, 1), is_flag=False, flag_value=0.7, metavar="[F1]",
              help="Drop rows whose instruction has a higher ROUGE-L with a kept one; alone: 0.7.")  # fmt: skip
@click.option("--minhash", type=FiniteRange(0, 1, min_open=True), is_flag=False, flag_value=0.8,
              metavar="[JACCARD]", help="Drop near-duplicates of whole kept rows; alone: 0.8.")  # fmt: skip
@click.option("--words", type=_Words(), is_flag=False, flag_value="4:150", metavar="[MIN:MAX]",
              help="Drop instructions with fewer or more words; alone: 4:150.")  # fmt: skip
@click.option("--keywords/--no-keywords", help="Drop instructions that text cannot fulfil (draw, plot, play).")
@click.option("--repetition", is_flag=True, help="Drop answers that repeat themselves (Gopher's rules).")
@click.option("--refusals", is_flag=True, help="Drop answers that are refusals or mention being a language model.")
@click.option("--language", metavar="CODE", multiple=True, help="Keep instructions in this language; may be repeated.")
@click.option("--pii", type=click.Choice(["flag", "redact", "drop"]),
              help="Report rows with personal data or secrets, redact them, or drop the rows.")  # fmt: skip
@click.option("--decontaminate", metavar="FILE", multiple=True,
              help="Drop rows that contain items of this benchmark; may be repeated.")  # fmt: skip
@click.option("--suite", "suites", metavar="NAME=FILE", multiple=True,
              help="Drop rows that contain questions of this suite of evaluate; may be repeated.")  # fmt: skip
@click.option("--verify", is_flag=True, help="Drop rows whose answer fails the row's own 'verifier'.")
@click.option("--use", "plugins", metavar="NAME[:KEY=VALUE,...]", multiple=True,
              help="Apply a filter by name (also a plugin's) with its settings; may be repeated.")  # fmt: skip
@click.option("--boilerplate", is_flag=True,
              help="Drop answers that open or end with a courtesy of assistants, such as 'Sure!'.")  # fmt: skip
@click.option("--perplexity", type=_Bounds(), metavar="MIN:MAX",
              help="Drop answers whose perplexity by --scorer is outside, as in 5:500 or :500.")  # fmt: skip
@click.option("--ifd", type=_Bounds(), is_flag=False, flag_value="0:1", metavar="[MIN:MAX]",
              help="Drop rows whose instruction-following difficulty by --scorer is outside; alone: 0:1.")  # fmt: skip
@click.option("--scorer", metavar="MODEL",
              help="Causal language model for --perplexity and --ifd: a directory or a name.")  # fmt: skip
@click.option("--reward", metavar="MODEL",
              help="Add the score of this reward model as the field 'reward': a directory or a name.")  # fmt: skip
@click.option("--min-reward", type=float, metavar="REWARD",
              help="With --reward: drop rows with a lower score, or with none.")  # fmt: skip
@click.option("--semantic", type=FiniteRange(-1, 1), is_flag=False, flag_value=0.9, metavar="[COSINE]",
              help="Drop rows whose instruction is closer to a kept one in meaning; alone: 0.9.")  # fmt: skip
@click.option("--embedder", metavar="MODEL", default=EMBEDDER, show_default=True,
              help="Embedding model for --semantic: a directory or a name.")  # fmt: skip
@click.option("--balance", type=_Share(), metavar="FIELD:SHARE",
              help="Largest share of rows with one value of a field; holds kept rows in memory.")  # fmt: skip
@click.option("--column", metavar="NAME", help="Field that every filter reads.  [default: by the row's layout]")
@click.option("--output-column", metavar="NAME", help="Field with the answer.  [default: by the row's layout]")
@click.option("--tokenizer", type=click.Choice(["auto", "words", "rouge"]), default="auto", show_default=True,
              help="Tokenizer of ROUGE-L: 'auto' reads every script, operators and symbols, 'words' no symbols, "
              "'rouge' is rouge_score's.")  # fmt: skip
@click.option("--report", metavar="FILE", help="JSONL of the dropped rows: filter, reason, score, nearest row.")
@skip_malformed_option
@click.option("-q", "--quiet", is_flag=True, help="Show no progress and no summary.")
@json_option
@click.pass_context
def command(ctx: click.Context, /, source: str, output: str, as_json: bool, **options: Any) -> None:
    """Filter the rows of IN into OUT.

    IN is JSON lines, a JSON array, CSV, TSV, text, Parquet or Arrow, also compressed (gz, bz2, xz, zst), a folder of
    such files, a datasets directory, a run, or - for standard input. OUT is .jsonl, .jsonl.gz, .parquet, a datasets
    directory (no ending, or a slash), or -. JSON lines are read one at a time, so IN may be larger than memory; OUT
    appears once it is complete. The default filter is --rouge 0.7.

    Layouts (docs/layouts.md): instruction with input and output; messages; prompt; question; text; and others, by the
    names of the fields. Filters run in this order: words, keywords, repetition, refusals, boilerplate, language, pii,
    decontaminate, use, verify, perplexity, ifd, reward, rouge, minhash, semantic, balance.

    Malformed rows are reported and left out; the exit code is then 1, or 0 with --skip-malformed.

    \b
    Examples:
      selfinstruct filter rows.jsonl -o new.jsonl
      selfinstruct filter rows.jsonl.gz -o clean.jsonl --words 4:150 --keywords --rouge 0.7 --minhash 0.8
      selfinstruct filter chats.parquet -o clean.parquet --minhash --refusals --report dropped.jsonl
      selfinstruct filter rows.jsonl -o short.jsonl --use words:max_words=20
      selfinstruct filter rows.jsonl -o safe.jsonl --pii redact --decontaminate benchmark.jsonl
      selfinstruct filter rows.jsonl -o unseen.jsonl --suite verified=held_out.jsonl
      selfinstruct filter rows.jsonl -o right.jsonl --verify
      selfinstruct filter rows.jsonl -o plain.jsonl --boilerplate --balance domain:0.25
      selfinstruct filter rows.jsonl -o new.jsonl --semantic 0.9 --embedder minishlab/potion-base-8M
      selfinstruct filter rows.jsonl -o hard.jsonl --perplexity 5:500 --ifd 0.3:1 --scorer ./small-model
      selfinstruct filter rows.jsonl -o best.jsonl --reward runs/judge --min-reward 0.5
      selfinstruct filter - -o - --column question --language en --quiet
    """
    report, quiet, skip = options.pop("report"), options.pop("quiet"), options["skip_malformed"]
    if as_json and output == STDIO:
        raise UsageError("--json prints to standard output, and so would -o -; name a file for one of them")
    options["plugins"] = tuple(_named_filter(text) for text in options["plugins"])
    malformed = 0

    def report_malformed(message: str) -> None:
        nonlocal malformed
        malformed += 1
        if malformed <= _MOST_MALFORMED:
            echo(message, err=True)

    try:
        summary = filter_file(
            source, output, FilterFileOptions(**options), report=report, on_malformed=report_malformed,
            show=None if quiet else _show,
        )  # fmt: skip
    except KeyboardInterrupt:
        echo("stopped; nothing was written", err=True)
        ctx.exit(130)
    if malformed > _MOST_MALFORMED:
        echo(f"... and {malformed - _MOST_MALFORMED:,} more malformed rows", err=True)
    if as_json:
        echo(dumps(_to_json(output, summary)))
    elif not quiet:
        for line in _lines(summary, options["pii"]):
            echo(line, err=True)
    if summary.progress.malformed and not skip:
        ctx.exit(1)


def _named_filter(text: str) -> Filter:
    """Make a filter from ``name:key=value,key=value``; each value is read as YAML."""
    name, _, assignments = text.partition(":")
    settings: dict[str, Any] = {}
    for assignment in filter(None, assignments.split(",")):
        if "=" not in assignment:
            raise UsageError(f"--use {text!r}: write it as NAME:KEY=VALUE,KEY=VALUE, for example words:max_words=20")
        assign(settings, assignment)
    return build_filter({**settings, "name": name})


def _lines(summary: FilterSummary, pii: str | None) -> Iterator[str]:
    progress = summary.progress
    several = len(progress.fields) > 1
    fields = [f"{name} ({count:,})" if several else name for name, count in progress.fields.most_common()]
    yield f"filtered: {', '.join(fields) or 'nothing'}, by {'; '.join(summary.filters) or 'pii'}"
    rows = {"in": progress.read + progress.malformed, "kept": progress.kept, "dropped": progress.dropped.total()}
    for (name, reason), count in progress.dropped.most_common():
        rows[f"  {name}: {reason}"] = count
    if pii in ("flag", "redact"):
        rows["flagged" if pii == "flag" else "redacted"] = progress.marked
    if progress.malformed:
        rows["malformed"] = progress.malformed
    width, figures = max(map(len, rows)) + 2, max(len(f"{count:,}") for count in rows.values())
    for name, count in rows.items():
        yield f"{name:<{width}}{count:>{figures},}"
    for notice in summary.notices:
        yield f"note: {notice}"


def _to_json(output: str, summary: FilterSummary) -> dict[str, object]:
    progress = summary.progress
    dropped = [{"filter": name, "reason": reason, "rows": count}
               for (name, reason), count in progress.dropped.most_common()]  # fmt: skip
    return {
        "output": output,
        "filters": list(summary.filters),
        "fields": dict(progress.fields),
        "read": progress.read,
        "kept": progress.kept,
        "dropped": dropped,
        "marked": progress.marked,
        "malformed": progress.malformed,
        "notices": list(summary.notices),
    }


def _show(progress: FilterProgress) -> AbstractContextManager[None]:
    return show(lambda: _bar(progress), lambda: _line(progress), last=False)  # the summary follows


def _line(progress: FilterProgress) -> str:
    share = f"{progress.done / progress.total:.0%} of {_size(progress)}, " if progress.total else ""
    return f"{share}{progress.read:,} rows read, {progress.kept:,} kept"


def _size(progress: FilterProgress) -> str:
    total = progress.total or 0
    return f"{total:,} rows" if progress.unit == "rows" else f"{total / 1e6:.1f} MB"


def _bar(progress: FilterProgress) -> RenderableType:
    from rich.progress_bar import ProgressBar
    from rich.table import Table

    grid = Table.grid(padding=(0, 2))
    grid.add_row(ProgressBar(total=progress.total, completed=progress.done, width=40), _line(progress))
    return grid
