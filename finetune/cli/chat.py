"""``finetune chat``."""

from __future__ import annotations

from typing import Any

import click


@click.command("chat")
@click.argument("folder", metavar="[OUT]", required=False)
@click.option("--prompt", help="Answer this alone.")
@click.option("--system", help="What the conversation begins with, in the place of the system.")
@click.option("--temperature", type=click.FloatRange(min=0), default=0.7, show_default=True,
              help="0 takes the likeliest token each time.")  # fmt: skip
@click.option("--top-p", type=click.FloatRange(0, 1, min_open=True), default=0.9, show_default=True,
              help="Sample among the likeliest tokens that have this much probability together.")  # fmt: skip
@click.option("--max-tokens", type=click.IntRange(min=1), default=512, show_default=True, help="Longest answer.")
@click.option("--seed", type=click.IntRange(-(2**63), 2**63 - 1), default=0, show_default=True, help="Of the sampling.")
@click.option("--base", metavar="NAME", help="The model that adapters were trained on, if it lies elsewhere now.")
def command(folder: str | None, **options: Any) -> None:
    """Talk to the model in OUT: the directory of a training run, or any model that train takes.

    It is asked in the format that it was trained on. Without OUT: the embedded model.

    \b
    Examples:
      finetune chat runs/qwen
      finetune chat runs/qwen --prompt "Name three rivers of France." --temperature 0
    """
    from finetune.chat import talk

    talk(folder, **options)
