"""The command line. Commands are loaded when they are called, so that help is instant."""

from __future__ import annotations

import importlib
import os
import sys
from typing import Any

import click

from selfinstruct.errors import SelfInstructError
from selfinstruct.version import __version__

__all__ = ["cli", "main"]

_COMMANDS = {
    "generate": "Generate a dataset into RUN_DIR, or go on with the run that is there.",
    "status": "Show how far a run is, and why candidates were rejected.",
    "export": "Write a run's dataset in a training format.",
    "filter": "Filter the rows of a file, JSONL or Parquet, into another one.",
    "seeds": "Check a file of seed tasks.",
    "doctor": "Show what is installed and which backends would work.",
}


class _Group(click.Group):
    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(_COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in _COMMANDS:
            return None
        command: click.Command = importlib.import_module(f"selfinstruct.cli.{cmd_name}").command
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl(list(_COMMANDS.items()))

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except SelfInstructError as error:
            click.echo(f"Error: {error}", err=True)
            ctx.exit(error.exit_code)


@click.group(cls=_Group, context_settings={"help_option_names": ["-h", "--help"]})
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
      selfinstruct status runs/demo
      selfinstruct export runs/demo --format messages -o demo.jsonl
      selfinstruct filter demo.jsonl -o new.jsonl --rouge 0.7 --minhash 0.8
    """


def main() -> None:
    """Entry point of ``selfinstruct``."""
    try:
        sys.exit(cli(prog_name="selfinstruct", standalone_mode=False) or 0)
    except click.ClickException as error:
        error.show()
        sys.exit(error.exit_code)
    except (click.Abort, KeyboardInterrupt):
        click.echo("stopped", err=True)
        sys.exit(130)
    except Exception as error:
        if os.environ.get("SELFINSTRUCT_TRACEBACK"):
            raise
        click.echo(
            f"Error: {type(error).__name__}: {error}\nThis should not happen; what was acknowledged is stored. "
            "Set SELFINSTRUCT_TRACEBACK=1 to see where it came from.",
            err=True,
        )
        sys.exit(1)
