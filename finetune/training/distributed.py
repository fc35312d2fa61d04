"""Training one model with several processes, each with its own device, started by torchrun.

Weights, gradients and optimizer state are sharded over the processes by FSDP2
(``torch.distributed.fsdp.fully_shard``; Zhao et al. 2023, arXiv:2304.11277): each process holds a shard of every layer,
and a layer is all-gathered while it computes. Every process runs the same number of micro-batches, so that none waits
for a peer that never calls.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, distributed

from finetune.model.anatomy import find_layers
from finetune.model.packed_lm import PackedCausalLM
from selfinstruct.errors import UsageError

__all__ = ["SINGLE_PROCESS", "World", "full_state_dict", "is_main_process", "process_group", "shard"]

# Methods called from outside like ``forward``: they too must gather the weights outside the layers.
_FORWARD_METHODS = (
    "hidden", "logits", "token_losses", "log_probs", "rewards", "expert_counts", "own_losses", "generate",
)  # fmt: skip


@dataclass(frozen=True)
class World:
    """The processes of a run.

    Attributes:
        device: The device of this process.
        rank: The number of this process, from 0. Only rank 0 writes files and messages.
        world_size: The number of processes.
    """

    device: torch.device
    rank: int = 0
    world_size: int = 1

    @property
    def main(self) -> bool:
        """Whether this process has rank 0."""
        return self.rank == 0

    def all_reduce(self, value: Tensor) -> Tensor:
        """Sum a tensor over all processes, in place, on its device."""
        if self.world_size > 1:
            distributed.all_reduce(value)
        return value

    def any_rank(self, flag: bool) -> bool:
        """Return whether ``flag`` is set on any process. Only the hosts communicate, without synchronising the GPUs."""
        return flag if self.world_size == 1 else bool(self.all_reduce(torch.tensor(float(flag))))

    def barrier(self) -> None:
        """Wait until all processes have called this method."""
        self.any_rank(False)


SINGLE_PROCESS = World(torch.device("cpu"))
"""One process without a GPU."""


def is_main_process() -> bool:
    """Return whether this process has rank 0 under torchrun, or was not started by it."""
    return int(os.environ.get("RANK", "0")) == 0


@contextmanager
def process_group() -> Iterator[World]:
    """Join the processes that torchrun started, or run as a single one.

    Raises:
        UsageError: There are more processes than GPUs.
    """
    # Segments that grow leave less memory unused between blocks. Read when the GPU is first used.
    os.environ.setdefault("PYTORCH_ALLOC_CONF", "expandable_segments:True")
    cuda = torch.cuda.is_available()
    world_size, local_rank = int(os.environ.get("WORLD_SIZE", "1")), int(os.environ.get("LOCAL_RANK", "0"))
    if world_size == 1:
        yield World(torch.device("cuda" if cuda else "cpu"))
        return
    if cuda and local_rank >= (count := torch.cuda.device_count()):
        raise UsageError(f"torchrun starts more processes than the {count} GPUs here: --nproc-per-node {count}")
    device = torch.device("cuda", local_rank) if cuda else torch.device("cpu")
    if cuda:
        torch.cuda.set_device(device)
    distributed.init_process_group("cpu:gloo,cuda:nccl" if cuda else "gloo")
    yield World(device, distributed.get_rank(), world_size)
    # Not after an error: the other processes may never arrive here, and torchrun terminates them.
    distributed.destroy_process_group()


def shard(packed_lm: PackedCausalLM, world: World) -> None:
    """Shard a model's weights over the processes, and move the shards to their devices."""
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard, register_fsdp_forward_method

    settings: dict[str, Any] = {
        "mesh": init_device_mesh(world.device.type, (world.world_size,)),
        "mp_policy": MixedPrecisionPolicy(reduce_dtype=torch.float32),  # gradients are summed in float32
        # Reshard the root module too: between two calls, parameters are always the sharded ones.
        "reshard_after_forward": True,
    }
    for layer in find_layers(packed_lm.decoder):
        fully_shard(layer, **settings)
    fully_shard(packed_lm, **settings)
    for name in _FORWARD_METHODS:
        if hasattr(packed_lm, name):
            register_fsdp_forward_method(packed_lm, name)


def full_state_dict(model: Any) -> dict[str, Tensor] | None:
    """Gather the weights of a sharded model on the CPU of rank 0; None on other ranks, and for an unsharded model."""
    from torch.distributed.checkpoint.state_dict import StateDictOptions, get_model_state_dict
    from torch.distributed.tensor import DTensor

    if not any(isinstance(parameter, DTensor) for parameter in model.parameters()):
        return None
    state: Any = get_model_state_dict(model, options=StateDictOptions(full_state_dict=True, cpu_offload=True))
    return state or None
