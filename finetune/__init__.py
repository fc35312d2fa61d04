"""Fine-tuning of causal language models on instructions and answers, and on preferences between answers.

A run of ``train`` takes a dataset and a model to a fine-tuned model in a folder, and can be interrupted and resumed at
any step with bit-identical results::

    from pathlib import Path

    import finetune

    options = finetune.load_options("quickstart")
    result = finetune.train(None, "rows.jsonl", Path("runs/model"), options)
    loaded = finetune.load_model(result.folder)

Rows flow through the packages in this order: ``data`` reads rows, renders them to tokens with a loss mask, and packs
them into batches; ``model`` loads a model and computes the loss of a batch; ``training`` is the loop with its
optimizer, schedule and checkpoints; ``evaluation`` measures held-out losses and samples answers; ``export`` merges
adapters and writes other formats. ``session`` is a run from start to end, ``preferences`` a run on compared answers,
and ``cli`` the command line.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

from selfinstruct.common.openmp import wait_passively

if TYPE_CHECKING:
    from finetune.export.merge import merge_adapters
    from finetune.export.writer import export_model
    from finetune.model.loading import load_model
    from finetune.options import DpoOptions, RewardOptions, TrainingOptions
    from finetune.preferences import prefer, preview_preferences, preview_reward, train_reward
    from finetune.recipes import load_options
    from finetune.session import TrainingResult, preview, train

__all__ = [
    "DpoOptions",
    "RewardOptions",
    "TrainingOptions",
    "TrainingResult",
    "export_model",
    "load_model",
    "load_options",
    "merge_adapters",
    "prefer",
    "preview",
    "preview_preferences",
    "preview_reward",
    "train",
    "train_reward",
]

wait_passively()  # before torch loads its OpenMP runtime

_MODULES = {
    "DpoOptions": "finetune.options",
    "RewardOptions": "finetune.options",
    "TrainingOptions": "finetune.options",
    "TrainingResult": "finetune.session",
    "export_model": "finetune.export.writer",
    "load_model": "finetune.model.loading",
    "load_options": "finetune.recipes",
    "merge_adapters": "finetune.export.merge",
    "prefer": "finetune.preferences",
    "preview": "finetune.session",
    "preview_preferences": "finetune.preferences",
    "preview_reward": "finetune.preferences",
    "train": "finetune.session",
    "train_reward": "finetune.preferences",
}


def __getattr__(name: str) -> object:
    """Import a public name on first use, so that ``import finetune`` loads no heavy library."""
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_MODULES[name]), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
