"""The command line. Commands are loaded when they are called, so that help is instant."""

from __future__ import annotations

import click

from selfinstruct.common.console import LazyGroup, run
from selfinstruct.version import __version__

__all__ = ["cli", "main"]

_COMMANDS = {
    "generate": "Generate a dataset into RUN_DIR, or go on with the run that is there.",
    "respond": "Answer the tasks of a file or a run: generate with the strategy respond.",
    "status": "Show how far a run is, and why candidates were rejected.",
    "explain": "Show how a row came to be, or why a candidate was rejected.",
    "refilter": "Judge a run's answers again under other settings, and send nothing.",
    "fork": "Begin a run with another run's answers, under other settings, and go on.",
    "tune": "Show what a run's answers come to under a grid of filter settings.",
    "diff": "Compare the datasets of two runs.",
    "runs": "List the runs below a directory.",
    "export": "Write a run's dataset in a training format.",
    "filter": "Filter the rows of a file, JSONL or Parquet, into another one.",
    "seeds": "Check a file of seed tasks.",
    "doctor": "Show what is installed and which backends would work.",
}


@click.group(
    cls=LazyGroup,
    package="selfinstruct.cli",
    summaries=_COMMANDS,
    extras={},
    context_settings={"help_option_names": ["-h", "--help"]},
)
@click.version_option(__version__, message="%(prog)s %(version)s")
def cli() -> None:
    """Bootstrap instruction-tuning data with any language model.

    A run is a directory: a ledger of every request and completion, and the dataset that follows from it. Every command
    can be stopped at any moment and given again.

    \b
    Examples:
      selfinstruct doctor
      selfinstruct generate runs/demo -n 30
      selfinstruct generate runs/gpt --backend openai --model gpt-5-mini -n 1000
      selfinstruct respond runs/answers --from my_tasks.jsonl
      selfinstruct status runs/demo
      selfinstruct explain runs/demo 5
      selfinstruct refilter runs/demo -o runs/strict --set filters.novelty.threshold=0.5
      selfinstruct export runs/demo --format messages -o demo.jsonl
      selfinstruct filter demo.jsonl -o new.jsonl --rouge 0.7 --minhash 0.8
    """


def main() -> None:
    """Entry point of ``selfinstruct``."""
    run(cli, "selfinstruct", "what was acknowledged is stored")
