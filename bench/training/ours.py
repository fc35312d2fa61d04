"""Our trainer as a worker: the same wiring as ``finetune.session``, without files."""

from __future__ import annotations

from typing import Any

import torch
from training.shapes import Cell, documents, make
from training.turns import Turns

from finetune.adapters import attach
from finetune.attention import choose, install
from finetune.isolation import check_head, check_isolation
from finetune.loop import Loop, Plan
from finetune.optim import FlatAdamW
from finetune.options import Lora, Options
from finetune.session import _budget, _compile
from finetune.trainee import Trainee

__all__ = ["prepare"]


def prepare(cell: Cell, turns: Turns) -> Any:
    """A function that trains until no more turns are wanted."""
    corpus = documents(cell)
    device = torch.device(cell.device)
    lora = Lora(rank=16, alpha=32) if cell.shape.lora else None
    steps = -(-len(corpus) // cell.batch)
    options = Options(
        batch_size=cell.batch, epochs=cell.turns, log_every=steps, checkpoint_every=0, lora=lora, **cell.options
    )
    plan = Plan.of(corpus, options, budget=_budget(options, device))
    attention = choose(options.attention, device)
    model = make(cell)
    trainee = Trainee(model if lora is None else attach(model, lora))
    install(trainee.causal, attention)
    check_isolation(trainee, device)
    trainee.own_head = check_head(trainee, device)
    if options.recompute == "on":
        trainee.causal.gradient_checkpointing_enable({"use_reentrant": False})

    def log(_step: int, values: dict[str, Any]) -> None:
        turns.done(loss=values["loss"], tokens=int(corpus.lengths.sum()))
        turns.wait()

    loop = Loop(trainee, FlatAdamW(trainee.parameters(), options), plan, device, log=log, flex=attention == "flex")
    if device.type == "cuda" and options.compile is not False:
        loop.fixed = attention == "varlen"
        _compile(trainee)
    return loop.run
