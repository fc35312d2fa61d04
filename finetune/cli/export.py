"""``finetune export``."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import click

from selfinstruct.common.console import echo


@click.command("export")
@click.argument("folder", metavar="OUT", type=click.Path(path_type=Path))
@click.option("--format", "kind", type=click.Choice(["hf", "gguf"]), default="hf", show_default=True,
              help="A folder for transformers and vLLM, or a file for llama.cpp.")  # fmt: skip
@click.option("--dtype", type=click.Choice(["f32", "f16", "bf16", "q8_0"]),
              help="Precision of the weights; q8_0 in GGUF only.  [default: unchanged; f16 in GGUF]")  # fmt: skip
@click.option("-o", "--output", type=click.Path(path_type=Path), metavar="PATH", required=True,
              help="Folder or file to create.")  # fmt: skip
def command(folder: Path, kind: Literal["hf", "gguf"], dtype: str | None, output: Path) -> None:
    """Export the model in OUT, the directory of a training run, for other programs; adapters are merged first.

    \b
    Examples:
      finetune export runs/llama --format hf --dtype bf16 -o llama
      finetune export runs/llama --format gguf -o llama.gguf
    """
    from finetune.export.writer import export_model

    export_model(folder, output, kind, dtype=dtype, notify=lambda line: echo(line, err=True))
    echo(f"model: {output}")
