"""Checkpoints: folders of safetensors and JSON, written atomically, with one tensor file per process."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from finetune.training.distributed import SINGLE_PROCESS, World
from finetune.training.tensor_file import write_tensors
from selfinstruct.common.codec import dumps, loads
from selfinstruct.common.files import describe_os_error, fsync, write_atomic
from selfinstruct.errors import SelfInstructError, UsageError

__all__ = ["Checkpoint", "describe_shortage", "latest", "restore_kept", "restore_rng_state", "rng_state", "save"]

_PART = ".part"


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint on disk.

    Attributes:
        folder: Its folder.
        step: Number of completed optimizer steps.
        world_size: Number of processes that saved it.
        metadata: The JSON values saved with it.
    """

    folder: Path
    step: int
    world_size: int
    metadata: dict[str, Any]

    def tensors(self, world: World = SINGLE_PROCESS) -> dict[str, Tensor]:
        """Load the tensors of this process, on the CPU.

        Raises:
            UsageError: The checkpoint was saved by another number of processes.
            SelfInstructError: The file is damaged.
        """
        if self.world_size != world.world_size:
            raise UsageError(
                f"{self.folder}: saved by {self.world_size} processes, and now there are {world.world_size}: resume "
                f"with as many (torchrun --nproc-per-node {self.world_size} -m finetune train ...)"
            )
        try:
            return load_file(self.folder / _tensor_file(world))
        except (OSError, SafetensorError) as error:
            raise self.damaged(error) from None

    def damaged(self, error: Exception) -> SelfInstructError:
        """Return the error to raise when the contents of this checkpoint prove unusable."""
        return _damaged(self.folder, error)


def save(
    root: Path, step: int, tensors: dict[str, Tensor], metadata: dict[str, Any], *, keep: int,
    world: World = SINGLE_PROCESS,
) -> None:  # fmt: skip
    """Write ``root/step-NNNNNNNN``, then remove all but the last ``keep`` checkpoints.

    The folder is written under a temporary name and renamed once it is on disk: a kill at any moment leaves the
    previous checkpoint intact. All processes call this function, each with its own tensors.

    Raises:
        SelfInstructError: The checkpoint can't be written; earlier ones are untouched.
    """
    folder = root / f"step-{step:08}"
    part = folder.with_name(f".{folder.name}{_PART}")
    try:
        if world.main:
            root.mkdir(parents=True, exist_ok=True)
            for leftover in root.glob(f".step-*{_PART}"):
                shutil.rmtree(leftover, ignore_errors=True)
            part.mkdir()
        world.barrier()
        write_tensors(part / _tensor_file(world), tensors)
        fsync(part / _tensor_file(world))
        world.barrier()
        if world.main:
            record = {"step": step, "ranks": world.world_size, **metadata}
            write_atomic(part / "state.json", [dumps(record).encode("utf-8")])
            if folder.exists():
                shutil.rmtree(folder)
            os.replace(part, folder)
            fsync(root)
    except OSError as error:
        shutil.rmtree(part, ignore_errors=True)
        detail = describe_os_error(error)
        raise SelfInstructError(f"can't write the checkpoint {folder}: {detail}; earlier ones are untouched") from None
    if world.main:
        for outdated in _folders(root)[:-keep]:
            shutil.rmtree(outdated, ignore_errors=True)


def describe_shortage(root: Path, size: int, keep: int) -> str | None:
    """Describe what to do if the disk has no room for ``keep`` checkpoints of ``size`` bytes and the next one."""
    existing = next(folder for folder in (root, *root.absolute().parents) if folder.is_dir())
    free = shutil.disk_usage(existing).free
    if (keep + 1) * size <= free:
        return None
    return (
        f"{existing}: {free / 2**30:.1f} GiB are free, and up to {keep + 1} checkpoints take {size / 2**30:.1f} GiB "
        "each: train on another disk, or with --set keep=1 or checkpoint_every=0 (no checkpoints)"
    )


def latest(root: Path) -> Checkpoint | None:
    """Return the last complete checkpoint below ``root``; None if there is none.

    Raises:
        SelfInstructError: Its record can't be read.
    """
    folders = _folders(root)
    if not folders:
        return None
    folder = folders[-1]
    try:
        metadata = dict(loads((folder / "state.json").read_bytes()))
        step, world_size = int(metadata.pop("step")), int(metadata.pop("ranks"))
        if folder.name != f"step-{step:08}":
            raise ValueError(f"its record is of step {step}")
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise _damaged(folder, error) from None
    return Checkpoint(folder, step, world_size, metadata)


def restore_kept(root: Path, step: int, restore: Callable[[dict[str, Tensor]], None], world: World) -> None:
    """Restore the weights that were kept below ``root`` after ``step``.

    Raises:
        SelfInstructError: They can't be read.
    """
    kept = latest(root)
    if kept is None or kept.step != step:
        raise SelfInstructError(
            f"{root}: the weights of step {step} are missing; remove {root.parent} to train from the beginning"
        )
    try:
        restore(kept.tensors(world))
    except (KeyError, RuntimeError) as error:
        raise kept.damaged(error) from None


def rng_state() -> dict[str, Tensor]:
    """Return the states of PyTorch's random number generators (uint8)."""
    states = {"generator.cpu": torch.get_rng_state()}
    if torch.cuda.is_available():
        states["generator.cuda"] = torch.cuda.get_rng_state()  # of this process's GPU
    return states


def restore_rng_state(tensors: dict[str, Tensor]) -> None:
    """Restore the states that ``rng_state`` returned."""
    torch.set_rng_state(tensors["generator.cpu"])
    if "generator.cuda" in tensors and torch.cuda.is_available():
        torch.cuda.set_rng_state(tensors["generator.cuda"])


def _damaged(folder: Path, error: Exception) -> SelfInstructError:
    detail = f"{error.args[0]!r} is not in it" if isinstance(error, KeyError) else str(error)
    return SelfInstructError(
        f"{folder}: can't resume from this checkpoint ({detail}); remove this folder to resume from the previous one"
    )


def _tensor_file(world: World) -> str:
    return f"state-{world.rank}.safetensors"


def _folders(root: Path) -> list[Path]:
    return sorted(path for path in root.glob("step-*") if path.is_dir()) if root.is_dir() else []
