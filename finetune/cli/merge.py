"""``finetune merge``."""

from __future__ import annotations

from pathlib import Path

import click

from selfinstruct.console import say


@click.command("merge")
@click.argument("run", metavar="OUT", type=click.Path(path_type=Path))
@click.option("-o", "--output", type=click.Path(path_type=Path), metavar="DIR", required=True,
              help="Where the whole model goes.")  # fmt: skip
def command(run: Path, output: Path) -> None:
    """Merge the adapters in OUT into the model that they were trained on, and compare the two.

    \b
    Example:
      finetune merge runs/llama -o runs/llama-merged
    """
    from finetune.merge import merge

    say(str(merge(run, output)))
