"""``finetune merge``."""

from __future__ import annotations

from pathlib import Path

import click

from selfinstruct.common.console import echo


@click.command("merge")
@click.argument("folder", metavar="OUT", type=click.Path(path_type=Path))
@click.option("-o", "--output", type=click.Path(path_type=Path), metavar="DIR", required=True,
              help="Where the whole model goes.")  # fmt: skip
@click.option("--base", metavar="NAME", help="The model that they were trained on, if it lies elsewhere now.")
def command(folder: Path, output: Path, base: str | None) -> None:
    """Merge the adapters in OUT, the directory of a training run, into the model that they were trained on.

    The weights of that model must be those that the run recorded. The merged model is compared with the one it was
    made from.

    \b
    Examples:
      finetune merge runs/llama -o runs/llama-merged
      finetune merge runs/llama --base /models/llama -o runs/llama-merged
    """
    from finetune.model.merge import merge

    parity = merge(folder, output, base=base)
    echo(f"compared at {parity.places} places: the same likeliest token at {parity.agreement:.1%}, "
        f"largest difference of two logits {parity.largest:.2g}")  # fmt: skip
    echo(f"model: {output}")
