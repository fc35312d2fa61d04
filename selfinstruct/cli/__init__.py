"""The command line. A command is imported when it is called, so that help is instant."""

from __future__ import annotations

import click

from selfinstruct.common.console import LazyGroup, run
from selfinstruct.version import __version__

__all__ = ["cli", "main"]

_COMMANDS = {
    "generate": "Generate a dataset into RUN_DIR, or resume the run in it.",
    "respond": "Answer the tasks of a file or a run (strategy respond).",
    "fork": "Start a run with another run's completions, and continue it.",
    "retry": "Reopen the failed requests of a run, so that they are asked again.",
    "evaluate": "Ask a model the items of suites, and score its answers.",
    "compare": "Show which run scores higher, by how much, and how certain that is.",
    "status": "Show the progress of a run, and why candidates were rejected.",
    "explain": "Show how a row came to be, or why a candidate was rejected.",
    "diff": "Compare the datasets of two runs.",
    "runs": "List the runs below a directory.",
    "refilter": "Filter a run's completions again under other settings; send nothing.",
    "tune": "Show how many rows other filter settings would keep.",
    "filter": "Filter the rows of a file (JSONL, Parquet) into another file.",
    "split": "Split the rows of a file into parts that share no near-duplicates.",
    "export": "Write a run's dataset in a training format.",
    "seeds": "Check a file of seed tasks.",
    "doctor": "Show what is installed and which backends would work.",
}
_SECTIONS = {
    "Make": ("generate", "respond", "fork", "retry"),
    "Measure": ("evaluate", "compare"),
    "Look": ("status", "explain", "diff", "runs"),
    "Refine": ("refilter", "tune", "filter", "split"),
    "Use": ("export",),
    "Check": ("seeds", "doctor"),
}


@click.group(
    cls=LazyGroup,
    package="selfinstruct.cli",
    summaries=_COMMANDS,
    extras={},
    sections=_SECTIONS,
    context_settings={"help_option_names": ["-h", "--help"]},
)
@click.version_option(__version__, message="%(prog)s %(version)s")
def cli() -> None:
    """Bootstrap instruction-tuning data with any language model.

    A run is a directory with a ledger of every request and completion, and the dataset computed from it. Every command
    can be stopped at any moment and repeated.

    \b
    Examples:
      selfinstruct doctor
      selfinstruct generate runs/demo -n 30
      selfinstruct generate runs/gpt --backend openai --model gpt-5-mini -n 1000
      selfinstruct respond runs/answers --from my_tasks.jsonl
      selfinstruct evaluate runs/score --suite verified=held_out.jsonl
      selfinstruct status runs/demo
      selfinstruct explain runs/demo 5
      selfinstruct refilter runs/demo -o runs/strict --set filters.novelty.threshold=0.5
      selfinstruct export runs/demo --format messages -o demo.jsonl
      selfinstruct filter demo.jsonl -o new.jsonl --rouge 0.7 --minhash 0.8
    """


def main() -> None:
    """Entry point of ``selfinstruct``."""
    run(cli, "selfinstruct", "completions that were acknowledged are stored")
