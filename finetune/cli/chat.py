"""``finetune chat``."""

from __future__ import annotations

from typing import Any

import click


@click.command("chat")
@click.argument("folder", metavar="[OUT]", required=False)
@click.option("--prompt", help="Answer only this message.")
@click.option("--system", help="System prompt.")
@click.option("--temperature", type=click.FloatRange(min=0), default=0.7, show_default=True,
              help="Sampling temperature; 0 is greedy.")  # fmt: skip
@click.option("--top-p", type=click.FloatRange(0, 1, min_open=True), default=0.9, show_default=True,
              help="Nucleus sampling: total probability of the tokens to choose from.")  # fmt: skip
@click.option("--max-tokens", type=click.IntRange(min=1), default=512, show_default=True,
              help="Maximum tokens of an answer.")  # fmt: skip
@click.option("--seed", type=click.IntRange(-(2**63), 2**63 - 1), default=0, show_default=True,
              help="Seed of the sampling.")  # fmt: skip
@click.option("--base", metavar="NAME", help="Base model of the adapters, if it has moved.")
def command(folder: str | None, **options: Any) -> None:
    """Chat with the model in OUT: the directory of a training run, or any model that train accepts.

    Messages are rendered in the format that the model was trained on. Without OUT: the embedded model.

    \b
    Examples:
      finetune chat runs/qwen
      finetune chat runs/qwen --prompt "Name three rivers of France." --temperature 0
    """
    from finetune.chat import run_chat

    run_chat(folder, **options)
