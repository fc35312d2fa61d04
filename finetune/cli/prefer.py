"""``finetune prefer``."""

from __future__ import annotations

from typing import Any

import click

from finetune.cli.comparisons import run_options
from finetune.cli.running import Functions, run_training
from finetune.options import DpoOptions


@click.command("prefer")
@click.option("--method", type=click.Choice(["dpo"]), default="dpo", show_default=True,
              help="The loss: direct preference optimisation.")  # fmt: skip
@run_options("dpo", DpoOptions)
@click.pass_context
def command(ctx: click.Context, /, method: str, assignments: tuple[str, ...], **arguments: Any) -> None:
    """Train a model to prefer chosen answers over rejected ones, or resume the run in OUT.

    A row compares answers to one prompt: chosen and rejected, as selfinstruct export --format preference and TRL write
    them (texts or messages), or a list of answers with scores, as in UltraFeedback. Start from a model that was
    fine-tuned on such prompts. The model is its own reference: its probabilities before the first step are computed
    once and kept in OUT.

    Progress, Ctrl-C, resuming, several GPUs and exit codes are as in finetune train.

    \b
    Examples:
      selfinstruct export runs/best --format preference
      finetune prefer --model runs/best/model --data runs/best -o runs/best/preferred
      finetune prefer --model runs/qwen --data pairs.jsonl --recipe tulu --set sft=0.1 -o runs/qwen-dpo
      finetune prefer --model runs/qwen --data pairs.jsonl --set lora.rank=16 --set learning_rate=2e-5 -o runs/qwen-lora
      finetune prefer --model runs/qwen --data pairs.jsonl --dry-run
    """
    settings = (f"method={method}", *assignments)
    run_training(ctx, _load, kind=DpoOptions, assignments=settings, **arguments)


def _load() -> Functions:
    from finetune.data.pairs import require_comparisons
    from finetune.preferences import prefer, preview_preferences

    return Functions(require_comparisons, preview_preferences, prefer)
