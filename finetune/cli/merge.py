"""``finetune merge``."""

from __future__ import annotations

from pathlib import Path

import click

from selfinstruct.common.console import echo


@click.command("merge")
@click.argument("folder", metavar="OUT", type=click.Path(path_type=Path))
@click.option("-o", "--output", type=click.Path(path_type=Path), metavar="DIR", required=True,
              help="Folder to create for the merged model.")  # fmt: skip
@click.option("--base", metavar="NAME", help="Base model of the adapters, if it has moved.")
def command(folder: Path, output: Path, base: str | None) -> None:
    """Merge the adapters in OUT, the directory of a training run, into their base model.

    The base model must have the weights that the run recorded. The merged model is compared with the adapted one.

    \b
    Examples:
      finetune merge runs/llama -o runs/llama-merged
      finetune merge runs/llama --base /models/llama -o runs/llama-merged
    """
    from finetune.export.merge import merge_adapters

    parity = merge_adapters(folder, output, base=base)
    echo(f"compared at {parity.positions} positions: the same most likely token at {parity.agreement:.1%}, "
        f"largest difference of two logits {parity.largest:.2g}")  # fmt: skip
    echo(f"model: {output}")
