"""``finetune reward``."""

from __future__ import annotations

from typing import Any

import click

from finetune.cli.comparisons import run_options
from finetune.cli.running import Functions, run_training
from finetune.options import RewardOptions


@click.command("reward")
@run_options("reward", RewardOptions)
@click.pass_context
def command(ctx: click.Context, /, **arguments: Any) -> None:
    """Train a reward model on compared answers, or resume the run in OUT.

    A row compares answers to one prompt, as for finetune prefer; all pairs of a prompt are learnt together. OUT then
    holds a model for sequence classification that transformers and vLLM load: its one logit is the reward of a
    conversation. The report shows its accuracy on held-out pairs with an interval, next to chance.

    Progress, Ctrl-C, resuming, several GPUs and exit codes are as in finetune train.

    \b
    Examples:
      finetune reward --model Qwen/Qwen3-0.6B --data pairs.jsonl -o runs/judge
      finetune reward --model runs/qwen --data ultrafeedback.jsonl --set evaluation.fraction=0.1 -o runs/judge
      finetune reward --data runs/best --dry-run
    """
    run_training(ctx, _load, kind=RewardOptions, **arguments)


def _load() -> Functions:
    from finetune.data.pairs import require_comparisons
    from finetune.preferences import preview_reward, train_reward

    return Functions(require_comparisons, preview_reward, train_reward)
