"""The command line of the trainer. Each command is imported when it is called, so that help is instant."""

from __future__ import annotations

import click

from selfinstruct.common.console import LazyGroup, run
from selfinstruct.version import __version__

__all__ = ["cli", "main"]

_COMMANDS = {
    "train": "Fine-tune a model on a dataset, or resume a run.",
    "prefer": "Train a model to prefer some answers over others.",
    "reward": "Train a reward model on compared answers.",
    "chat": "Chat with a model.",
    "merge": "Merge adapters into their base model.",
    "export": "Export a model as a folder or a GGUF file.",
}
_EXTRAS = dict.fromkeys(
    ["torch", "transformers", "tokenizers", "safetensors", "accelerate", "gguf", "peft", "tensorboard", "matplotlib"],
    "train",
) | {"bitsandbytes": "qlora"}


@click.group(
    cls=LazyGroup,
    package="finetune.cli",
    summaries=_COMMANDS,
    extras=_EXTRAS,
    context_settings={"help_option_names": ["-h", "--help"]},
)
@click.version_option(__version__, message="%(prog)s %(version)s")
def cli() -> None:
    """Fine-tune language models on instructions and answers.

    A training run is a directory with the trained model, its metrics and, until it is complete, checkpoints. Every
    command can be stopped at any moment and repeated.

    \b
    Examples:
      finetune train --data runs/demo --recipe quickstart -o runs/demo/model
      finetune train --model Qwen/Qwen3-0.6B --data rows.jsonl --recipe chat -o runs/qwen
      finetune prefer --model runs/qwen --data pairs.jsonl -o runs/qwen-dpo
      finetune chat runs/qwen
      finetune export runs/qwen --format gguf -o qwen.gguf
    """


def main() -> None:
    """Entry point of ``finetune``."""
    run(cli, "finetune", "saved files are complete")
