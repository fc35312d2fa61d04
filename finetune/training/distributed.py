"""Several processes that train one model, each with a device of its own: started by torchrun, joined here.

Weights, gradients and moments are spread over the processes by FSDP2 (``torch.distributed.fsdp.fully_shard``; Zhao et
al. 2023, arXiv:2304.11277): each holds a part of every layer, and a layer is gathered for the time that it computes.
Every process runs the same number of micro-batches, so that none waits for a partner that never comes.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, distributed

from finetune.model.packed_lm import PackedCausalLM
from selfinstruct.errors import UsageError

__all__ = ["ALONE", "World", "gathered", "joined", "leads", "shard"]

# What is called from outside as if it were ``forward``: the weights outside the layers are gathered for it as well.
_METHODS = ("hidden", "logits", "token_losses", "generate")


@dataclass(frozen=True)
class World:
    """The processes of a run.

    Attributes:
        device: This process's.
        rank: Its number, from 0; the first one alone writes, and talks.
        ranks: How many there are.
    """

    device: torch.device
    rank: int = 0
    ranks: int = 1

    @property
    def main(self) -> bool:
        """Whether this is the first process."""
        return self.rank == 0

    def total(self, value: Tensor) -> Tensor:
        """The sum over all processes, in place, on the device of ``value``."""
        if self.ranks > 1:
            distributed.all_reduce(value)
        return value

    def agreed(self, flag: bool) -> bool:
        """Whether any process says so. The GPUs are not waited for: the hosts alone talk."""
        return flag if self.ranks == 1 else bool(self.total(torch.tensor(float(flag))))

    def wait(self) -> None:
        """Until all processes are here."""
        self.agreed(False)


ALONE = World(torch.device("cpu"))  # one process, without a GPU


def leads() -> bool:
    """Whether this process is the first of those that torchrun started, or was not started by it."""
    return int(os.environ.get("RANK", "0")) == 0


@contextmanager
def joined() -> Iterator[World]:
    """The processes that torchrun started, or this one alone.

    Raises:
        UsageError: There are more processes than GPUs.
    """
    cuda = torch.cuda.is_available()
    ranks, local = (int(os.environ.get(name, default)) for name, default in (("WORLD_SIZE", "1"), ("LOCAL_RANK", "0")))
    if ranks == 1:
        yield World(torch.device("cuda" if cuda else "cpu"))
        return
    if cuda and local >= (there := torch.cuda.device_count()):
        raise UsageError(f"torchrun starts more processes than the {there} GPUs here: --nproc-per-node {there}")
    device = torch.device("cuda", local) if cuda else torch.device("cpu")
    if cuda:
        torch.cuda.set_device(device)
    distributed.init_process_group("cpu:gloo,cuda:nccl" if cuda else "gloo")
    yield World(device, distributed.get_rank(), ranks)
    # Not after an error: the other processes may never come here. Those are ended by torchrun.
    distributed.destroy_process_group()


def shard(trainee: PackedCausalLM, world: World) -> None:
    """Spread a trainee's weights over the processes, and move them to their devices."""
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard, register_fsdp_forward_method

    how: dict[str, Any] = {
        "mesh": init_device_mesh(world.device.type, (world.ranks,)),
        "mp_policy": MixedPrecisionPolicy(reduce_dtype=torch.float32),  # gradients are summed in it
        # What is outside the layers too: between two calls, parameters are always the sharded ones.
        "reshard_after_forward": True,
    }
    for layer in trainee.decoder.layers:
        fully_shard(layer, **how)
    fully_shard(trainee, **how)
    for name in _METHODS:
        register_fsdp_forward_method(trainee, name)


def gathered(model: Any) -> dict[str, Tensor] | None:
    """All weights of a sharded model on the CPU of the first process; None in the others, and of one that is whole."""
    from torch.distributed.checkpoint.state_dict import StateDictOptions, get_model_state_dict
    from torch.distributed.tensor import DTensor

    if not any(isinstance(one, DTensor) for one in model.parameters()):
        return None
    found: Any = get_model_state_dict(model, options=StateDictOptions(full_state_dict=True, cpu_offload=True))
    return found or None
