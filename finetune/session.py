"""One training run from end to end: read, render, measure, train, measure again, save.

A run is a folder. ``finetune.json`` in it says what the run is, and, at its end, that it is complete; checkpoints lie
below ``checkpoints/`` until then. The same call goes on where the last one stopped. Below torchrun it is made by
several processes together (``finetune.training.distributed``); the first one writes and talks.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from finetune.data.render import Rendered, Renderer
from finetune.data.training_data import TrainingData, read_training_data
from finetune.evaluation.held_out import Losses, evaluate
from finetune.evaluation.samples import sample
from finetune.model.adapters import save_adapters
from finetune.model.loading import EMBEDDED, Loaded, load, load_config, load_tokenizer, save
from finetune.model.packed_lm import PackedCausalLM
from finetune.options import Options
from finetune.record import Measured, identity, locked, read_record, write_record
from finetune.training import checkpoint
from finetune.training.distributed import World, gathered, joined
from finetune.training.loop import EpochPlan, Loop, Stopped
from finetune.training.metrics import Metrics
from finetune.training.optimizer import FlatAdamW
from finetune.training.progress import TrainingProgress
from finetune.training.setup import Costs, Setup, compile_layers, prepare
from selfinstruct.common.console import plural
from selfinstruct.errors import RunChangedError

__all__ = ["Preview", "TrainingResult", "plan", "train"]

Show = Callable[[TrainingProgress], AbstractContextManager[None]]
Tell = Callable[[str], None]


@dataclass(frozen=True)
class TrainingResult:
    """What became of a run.

    Attributes:
        folder: Where the model lies.
        steps: Optimizer steps of the run.
        before, after: Measured on held-out text; None where the run is not complete.
        prompts: Of the sample answers.
        seconds: Spent on training steps.
        complete: False after Ctrl-C: the same call goes on.
        already: The run was complete before this call.
    """

    folder: Path
    steps: int
    before: Measured | None = None
    after: Measured | None = None
    prompts: list[str] = field(default_factory=list)
    seconds: float = 0.0
    complete: bool = True
    already: bool = False

    @classmethod
    def of(cls, out: Path, record: dict[str, Any], prompts: list[str], *, already: bool = False) -> TrainingResult:
        """Of a complete run."""
        before, after = Measured.of(record["before"]), Measured.of(record["after"])
        return cls(out, record["steps"], before, after, prompts, record["seconds"], already=already)


@dataclass(frozen=True)
class Preview:
    """What a run would do.

    Attributes:
        rendered: The documents, and the rows that were dropped.
        renderer: Shows a document in pieces.
        plan: Its steps.
        skipped: Rows that could not be read, with the reason.
        costs: What it would take.
    """

    rendered: Rendered
    renderer: Renderer
    plan: EpochPlan
    skipped: list[str]
    costs: Costs


def plan(model: str | None, data: str, options: Options) -> Preview:
    """Render the dataset and plan the steps, without loading the weights.

    Raises:
        SelfInstructError: Whatever ``train`` would refuse of the dataset and the tokenizer.
    """
    with joined() as world:
        renderer = Renderer(load_tokenizer(model), options.format, max_length=options.max_length)
        texts = read_training_data(data, renderer, options)
        setup = Setup.of(options, world.device)
        steps = EpochPlan.of(texts.train, options, budget=setup.budget, ranks=world.ranks)
        return Preview(texts.rendered, renderer, steps, texts.skipped, Costs.of(load_config(model), steps, setup))


def train(
    model: str | None,
    data: str,
    out: Path,
    options: Options,
    *,
    show: Show = lambda _progress: nullcontext(),
    tell: Tell = lambda _what: None,
) -> TrainingResult:
    """Fine-tune ``model`` on ``data`` into the folder ``out``, or go on with what is there.

    Args:
        model: The embedded model (None), a .gguf file, a folder or a hub name.
        data: A file, a run of selfinstruct, a datasets folder or a hub name.
        show: Shows a progress while its context is open.
        tell: Called with a line on anything unusual.

    Raises:
        SelfInstructError: Bad data or settings; a run of other settings in ``out``; a loss that is not finite; ...
    """
    progress = TrainingProgress()
    with joined() as world:
        if not world.main:
            return _Run(model, out, options, world, progress, lambda _what: None).go(data)
        with show(progress):
            return _Run(model, out, options, world, progress, tell).go(data)


class _Run:
    def __init__(
        self, model: str | None, out: Path, options: Options, world: World, progress: TrainingProgress, tell: Tell
    ) -> None:
        self.name, self.out, self.options, self.world = model, out, options, world
        self.progress, self.tell = progress, tell
        self.setup = Setup.of(options, world.device)

    def go(self, data: str) -> TrainingResult:
        options = self.options
        self.progress.phase = "reading"
        renderer = Renderer(load_tokenizer(self.name), options.format, max_length=options.max_length)
        texts = read_training_data(data, renderer, options)
        plan = EpochPlan.of(texts.train, options, budget=self.setup.budget, ranks=self.world.ranks)
        same = identity(self.name or EMBEDDED, options, texts, renderer.format)
        record = read_record(self.out, same)
        if record.get("complete"):
            self._clear()  # a kill may have come before
            return TrainingResult.of(self.out, record, texts.prompts, already=True)
        with locked(self.out) if self.world.main else nullcontext():
            return self._go(renderer, texts, plan, same)

    def _go(self, renderer: Renderer, texts: TrainingData, plan: EpochPlan, same: dict[str, Any]) -> TrainingResult:
        options, progress = self.options, self.progress
        record = read_record(self.out, same)
        costs = Costs.of(load_config(self.name), plan, self.setup)
        self._warn(texts, plan, costs)
        progress.phase = "loading"
        torch.manual_seed(options.seed)
        # What is spread over processes is moved to their devices part by part.
        device = self.world.device if self.world.ranks == 1 else "cpu"
        loaded = load(self.name, dtype=self.setup.dtype, device=device, lora=options.lora)
        trainee = prepare(loaded.model, self.setup, self.world, recompute=costs.recompute)
        if "before" not in record:
            record = {**same, "model_digest": loaded.base.digest, "complete": False}
            record["before"] = self._measure(trainee, loaded, renderer, texts).plain()
            self._write(record)
        elif record["model_digest"] != loaded.base.digest:
            raise RunChangedError(f"{self.out}: the weights of the model are not those that this run began with")
        seconds = self._fit(trainee, plan, costs)
        if seconds is None:
            return TrainingResult(self.out, self.progress.step, complete=False)
        record["after"] = self._measure(trainee, loaded, renderer, texts).plain()
        progress.phase = "saving"
        self._save(loaded)
        record.update(steps=plan.steps, seconds=round(seconds, 3), complete=True)
        if self.world.main:
            self._draw(record)
        self._write(record)  # last: who finds it complete finds all the rest
        self._clear()
        progress.phase = "done"
        return TrainingResult.of(self.out, record, texts.prompts)

    def _warn(self, texts: TrainingData, plan: EpochPlan, costs: Costs) -> None:
        for line in texts.told():
            self.tell(line)
        if plan.steps < 10:
            few = f"only {plural(plan.steps, 'step')}: too few to learn much"
            self.tell(f"{few}; more rows, more epochs or a smaller batch give more")
        if not costs.fit or (costs.recompute and self.options.recompute is None):
            self.tell(costs.words)
        if self.world.ranks == 1 and torch.cuda.device_count() > 1:
            count = torch.cuda.device_count()
            self.tell(f"one of {count} GPUs is used; all by: torchrun --nproc-per-node {count} -m finetune train ...")

    def _measure(self, trainee: PackedCausalLM, loaded: Loaded, renderer: Renderer, texts: TrainingData) -> Measured:
        self.progress.phase = "evaluating"
        losses = {
            name: evaluate(trainee, corpus, budget=self.setup.budget, world=self.world)
            for name, corpus in texts.held_out.items()
        }
        self.progress.phase = "answering"
        evaluation = self.options.evaluation
        answers = sample(trainee, loaded.tokenizer, renderer, texts.samples, evaluation.sample_tokens)
        return Measured(losses, answers)

    def _fit(self, trainee: PackedCausalLM, plan: EpochPlan, costs: Costs) -> float | None:
        """Train; the seconds it took over all calls, or None after Ctrl-C."""
        options, world = self.options, self.world
        optimizer = FlatAdamW(trainee.parameters(), options, world.total)
        root = self.out / "checkpoints"
        found = checkpoint.latest(root)
        start, before = 0, 0.0
        unlogged: list[float] = []
        if found is not None:
            tensors = found.tensors(world)
            try:
                optimizer.restore(tensors)
                checkpoint.restore_generators(tensors)
                before, unlogged = float(found.facts["seconds"]), list(map(float, found.facts["unlogged"]))
            except (KeyError, RuntimeError, TypeError, ValueError) as error:
                raise found.damaged(error) from None
            start = found.step
            self.tell(f"going on after step {start} of {plan.steps}")
        else:
            torch.manual_seed(options.seed)
        metrics = Metrics(self.out, self.tell)
        loop = Loop(
            trainee, optimizer, plan, world, progress=self.progress, mfu=costs.mfu,
            flex=self.setup.attention == "flex", fixed=self.setup.fixed, unlogged=unlogged,
        )  # fmt: skip

        def keep(step: int) -> None:
            tensors = {**optimizer.state(), **checkpoint.generators()}
            facts = {"seconds": before + loop.seconds, "unlogged": loop.unlogged}
            checkpoint.save(root, step, tensors, facts, keep=options.keep, world=world)

        loop.save = keep
        if world.main:
            metrics.rewind(start)
            loop.log = metrics.log
        if self.setup.compile:
            compile_layers(trainee)
        try:
            loop.run(start)
        except Stopped:
            return None
        finally:
            metrics.close()
        return before + loop.seconds

    def _clear(self) -> None:
        if self.world.main:
            shutil.rmtree(self.out / "checkpoints", ignore_errors=True)

    def _write(self, record: dict[str, Any]) -> None:
        if self.world.main:
            write_record(self.out, record)

    def _save(self, loaded: Loaded) -> None:
        """The model's files into the folder, each moved there when all are written."""
        state = gathered(loaded.model)  # by all processes together
        if not self.world.main:
            return
        part = self.out / ".model.part"
        shutil.rmtree(part, ignore_errors=True)
        if self.options.lora is None:
            save(loaded.model, loaded.tokenizer, part, state=state)
        else:
            save_adapters(loaded.model, loaded.tokenizer, part, loaded.base, state=state)
        # The configuration last: who finds it finds the rest.
        for path in sorted(part.iterdir(), key=lambda path: (path.name.endswith("config.json"), path.name)):
            os.replace(path, self.out / path.name)
        part.rmdir()

    def _draw(self, record: dict[str, Any]) -> None:
        held_out = {
            name: (Losses.of(**one).mean, Losses.of(**record["after"]["losses"][name]).mean)
            for name, one in record["before"]["losses"].items()
        }
        Metrics(self.out, self.tell).plot(self.out.name, held_out)
