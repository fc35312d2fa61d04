"""The model files in the folder of a training run: a trial before the first step, and the files at the end."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path

from torch import Tensor

from finetune.model.adapters import save_adapters
from finetune.model.loading import Loaded
from finetune.model.saving import check_saveable, require_space, save
from selfinstruct.common.files import first_line
from selfinstruct.errors import SelfInstructError, UsageError

__all__ = ["try_saving", "write_model", "write_result"]

_PART = ".model.part"


def try_saving(loaded: Loaded, out: Path, *, adapters: bool) -> list[str]:
    """Find out, before training, whether the result can be saved in the folder of the run.

    Returns:
        Names of the generation settings that transformers refuses to save, which the result will lack.

    Raises:
        UsageError: It can't be saved: quantised weights, an invalid configuration, a disk that is full or read-only.
    """
    if not adapters:
        size = sum(parameter.numel() * parameter.element_size() for parameter in loaded.model.parameters())
        require_space(out, size)
        return check_saveable(loaded.model, loaded.tokenizer)
    try:
        write_model(loaded, out / _PART, None, adapters=True)
    except Exception as error:  # as in check_saveable: any library may raise anything here
        raise UsageError(f"the trained adapters could not be saved: {first_line(error)}") from error
    finally:
        shutil.rmtree(out / _PART, ignore_errors=True)
    return []


def write_result(out: Path, write: Callable[[Path], None], *, command: str = "train") -> None:
    """Write the model's files to a temporary folder, then move each into the folder of the run.

    Args:
        write: Writes them to a folder, which it creates.
        command: The command of ``finetune``, for the message of an error.

    Raises:
        SelfInstructError: The files can't be written; the message says how to try again.
    """
    part = out / _PART
    shutil.rmtree(part, ignore_errors=True)
    try:
        write(part)
        # The configuration last, so that its presence implies that all other files are there.
        for path in sorted(part.iterdir(), key=lambda path: (path.name.endswith("config.json"), path.name)):
            os.replace(path, out / path.name)
        part.rmdir()
    except Exception as error:  # as above; the weights of hours of training must survive every error
        raise SelfInstructError(
            f"{out}: training is complete, but the model could not be saved: {first_line(error)}. Nothing is lost: its "
            f"final state is in {out / 'checkpoints'}. Once the cause is repaired, the same command again (finetune "
            f"{command} ... -o {out}) saves the model without training"
        ) from error


def write_model(loaded: Loaded, folder: Path, state: dict[str, Tensor] | None, *, adapters: bool) -> None:
    """Write a model, or its adapters alone, to a folder that does not exist yet.

    Args:
        state: The full weights if the model is sharded.
    """
    if adapters:
        save_adapters(loaded.model, loaded.tokenizer, folder, loaded.base, state=state)
    else:
        save(loaded.model, loaded.tokenizer, folder, state=state, extra=loaded.extra)
