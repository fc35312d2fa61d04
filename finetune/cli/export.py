"""``finetune export``."""

from __future__ import annotations

from pathlib import Path

import click

from selfinstruct.console import say


@click.command("export")
@click.argument("run", metavar="OUT", type=click.Path(path_type=Path))
@click.option("--format", "kind", type=click.Choice(["hf", "gguf"]), default="hf", show_default=True,
              help="A folder as transformers and vLLM read it, or one file for llama.cpp.")  # fmt: skip
@click.option("-o", "--output", type=click.Path(path_type=Path), metavar="PATH", required=True, help="Where it goes.")
def command(run: Path, kind: str, output: Path) -> None:
    """Write the model in OUT for other programs; adapters are merged first.

    \b
    Examples:
      finetune export runs/llama --format hf -o llama
      finetune export runs/llama --format gguf -o llama.gguf
    """
    from finetune.gguf import export_gguf

    say(str(export_gguf(run, output)) + kind)
