"""Checkpoints: a folder each, whole or not there, of safetensors and JSON; of several processes, a file for each."""

from __future__ import annotations

import os
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from finetune.training.distributed import ALONE, World
from selfinstruct.common.codec import dumps, loads
from selfinstruct.common.files import reason, write_atomic
from selfinstruct.errors import SelfInstructError, UsageError

__all__ = ["Checkpoint", "generators", "latest", "restore_generators", "save"]

_PART = ".part"


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint on disk.

    Attributes:
        folder: Where it lies.
        step: Optimizer steps made.
        ranks: Processes that saved it.
        facts: Whatever JSON was saved with it.
    """

    folder: Path
    step: int
    ranks: int
    facts: dict[str, Any]

    def tensors(self, world: World = ALONE) -> dict[str, Tensor]:
        """Its arrays for this process, on the CPU.

        Raises:
            UsageError: It was saved by another number of processes.
            SelfInstructError: The file is damaged.
        """
        if self.ranks != world.ranks:
            raise UsageError(
                f"{self.folder}: saved by {self.ranks} processes, and now there are {world.ranks}: go on with as many "
                f"(torchrun --nproc-per-node {self.ranks} -m finetune train ...)"
            )
        try:
            return load_file(self.folder / _file(world))
        except (OSError, SafetensorError) as error:
            raise self.damaged(error) from None

    def damaged(self, error: Exception) -> SelfInstructError:
        """What to say of it."""
        return _damaged(self.folder, error)


def save(
    root: Path, step: int, tensors: dict[str, Tensor], facts: dict[str, Any], *, keep: int,
    world: World = ALONE,
) -> None:  # fmt: skip
    """Write ``root/step-NNNNNNNN``, then remove all but the last ``keep`` checkpoints.

    It is written under another name and renamed when it is on disk: a kill at any moment leaves the one before. All
    processes call this, each with its own tensors.

    Raises:
        SelfInstructError: It can't be written; those before it are untouched.
    """
    folder = root / f"step-{step:08}"
    part = folder.with_name(f".{folder.name}{_PART}")
    try:
        if world.main:
            root.mkdir(parents=True, exist_ok=True)
            for old in root.glob(f".step-*{_PART}"):
                shutil.rmtree(old, ignore_errors=True)
            part.mkdir()
        world.wait()
        on_cpu = {name: tensor.detach().to("cpu").contiguous() for name, tensor in tensors.items()}
        save_file(on_cpu, part / _file(world))
        _sync(part / _file(world))
        world.wait()
        if world.main:
            record = {"step": step, "ranks": world.ranks, **facts}
            write_atomic(part / "state.json", [dumps(record).encode("utf-8")])
            if folder.exists():
                shutil.rmtree(folder)
            os.replace(part, folder)
            _sync(root)
    except (OSError, SafetensorError) as error:
        shutil.rmtree(part, ignore_errors=True)
        what = reason(error) if isinstance(error, OSError) else str(error)
        raise SelfInstructError(f"can't write the checkpoint {folder}: {what}; earlier ones are untouched") from None
    if world.main:
        for old in _found(root)[:-keep]:
            shutil.rmtree(old, ignore_errors=True)


def latest(root: Path) -> Checkpoint | None:
    """The last whole checkpoint below ``root``, if there is one.

    Raises:
        SelfInstructError: Its record can't be read.
    """
    found = _found(root)
    if not found:
        return None
    folder = found[-1]
    try:
        facts = dict(loads((folder / "state.json").read_bytes()))
        step, ranks = int(facts.pop("step")), int(facts.pop("ranks"))
        if folder.name != f"step-{step:08}":
            raise ValueError(f"its record is of step {step}")
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise _damaged(folder, error) from None
    return Checkpoint(folder, step, ranks, facts)


def generators() -> dict[str, Tensor]:
    """The states of PyTorch's random generators (uint8), as ``restore_generators`` takes them."""
    states = {"generator.cpu": torch.get_rng_state()}
    if torch.cuda.is_available():
        states["generator.cuda"] = torch.cuda.get_rng_state()  # of this process's GPU
    return states


def restore_generators(tensors: dict[str, Tensor]) -> None:
    """Put the random generators where a checkpoint found them."""
    torch.set_rng_state(tensors["generator.cpu"])
    if "generator.cuda" in tensors and torch.cuda.is_available():
        torch.cuda.set_rng_state(tensors["generator.cuda"])


def _damaged(folder: Path, error: Exception) -> SelfInstructError:
    what = f"{error.args[0]!r} is not in it" if isinstance(error, KeyError) else str(error)
    return SelfInstructError(
        f"{folder}: can't go on from this checkpoint ({what}); remove this folder to go on from the one before"
    )


def _file(world: World) -> str:
    return f"state-{world.rank}.safetensors"


def _found(root: Path) -> list[Path]:
    return sorted(path for path in root.glob("step-*") if path.is_dir()) if root.is_dir() else []


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
