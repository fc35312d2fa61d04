"""This project's trainer as a worker: the wiring of ``finetune.session``, without files."""

from __future__ import annotations

from typing import Any

import torch
from training.shapes import Cell, config, documents, make
from training.turns import Turns

from finetune.data.plan import EpochPlan
from finetune.data.shapes import FixedShapes
from finetune.model.adapters import add_adapters
from finetune.options import Lora, TrainingOptions
from finetune.training.distributed import World
from finetune.training.estimate import CostEstimate
from finetune.training.loop import TrainingLoop
from finetune.training.optimizer import FlatAdamW
from finetune.training.setup import RuntimeSetup, compile_layers
from finetune.training.setup import prepare as prepare_model

__all__ = ["prepare"]


def prepare(cell: Cell, turns: Turns) -> Any:
    """Return a function that trains until no more turns are requested."""
    corpus = documents(cell)
    world = World(torch.device(cell.device))
    lora = Lora(rank=16, alpha=32) if cell.shape.lora else None
    steps = -(-len(corpus) // cell.batch)
    options = TrainingOptions(
        batch_size=cell.batch, epochs=cell.turns, log_every=steps, checkpoint_every=0, max_length=cell.longest,
        lora=lora, **cell.options,
    )  # fmt: skip
    setup = RuntimeSetup.of(options, world.device)
    estimate = CostEstimate.of(config(cell.shape), corpus, options, setup)
    plan = EpochPlan.of(corpus, options, budget=estimate.budget)
    shapes = FixedShapes.of(plan) if setup.fixed_shapes else None
    model = make(cell, dtype=setup.dtype)
    packed_lm = prepare_model(
        model if lora is None else add_adapters(model, lora), setup, world, recompute=estimate.recompute
    )  # fmt: skip
    notes = [f"micro-batches of {plan.packing.budget:,} tokens"]
    if shapes:
        notes.append(f"padded to {', '.join(f'{size:,}' for size in shapes.sizes)}")
    if estimate.recompute or estimate.activation_budget < 1:
        notes.append(
            "all recomputed" if estimate.recompute else f"{estimate.activation_budget:.0%} of activations kept"
        )
    if not packed_lm.chunked_head:
        notes.append("the model's own head")
    turns.facts.update(note=", ".join(notes), predicted=sum(estimate.memory.values()))

    def log(_step: int, values: dict[str, Any]) -> None:
        turns.done(loss=values["loss"], tokens=int(corpus.lengths.sum()))
        turns.wait()

    if setup.compile:
        compile_layers(packed_lm, setup, activation_budget=estimate.activation_budget)
    optimizer = FlatAdamW(packed_lm.parameters(), options)
    return TrainingLoop(packed_lm, optimizer, plan, world, log=log, shapes=shapes).run
