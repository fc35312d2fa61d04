"""One training run from start to end: read, render, evaluate, train, evaluate again, save.

A run is a folder. Its ``finetune.json`` records the run's identity and, at the end, that it is complete; until then
checkpoints are kept in ``checkpoints/``. Repeating the call resumes an interrupted run. Under torchrun several
processes work together (``finetune.training.distributed``); rank 0 writes files and messages.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor

from finetune.data.plan import FEW_STEPS, EpochPlan
from finetune.data.render import Renderer
from finetune.data.training_data import TrainingData, read_training_data
from finetune.evaluation.held_out import Losses, evaluate, pooled_mean
from finetune.evaluation.samples import sample_answers
from finetune.model.adapters import save_adapters
from finetune.model.loading import EMBEDDED, Loaded, load, load_config, load_tokenizer, save
from finetune.model.packed_lm import PackedCausalLM
from finetune.options import TrainingOptions
from finetune.record import Measurements, lock_run, read_record, run_identity, write_record
from finetune.results import Preview, TrainingResult
from finetune.training import checkpoint
from finetune.training.distributed import World, full_state_dict, process_group
from finetune.training.early_stopping import EarlyStopping
from finetune.training.estimate import CostEstimate
from finetune.training.loop import TrainingLoop, TrainingStopped
from finetune.training.metrics import Metrics
from finetune.training.objective import Objective
from finetune.training.optimizer import FlatAdamW
from finetune.training.progress import TrainingProgress
from finetune.training.setup import RuntimeSetup, compile_layers, prepare
from selfinstruct.common.console import plural
from selfinstruct.errors import RunChangedError, SelfInstructError

__all__ = ["TrainingRun", "preview", "train"]

ShowProgress = Callable[[TrainingProgress], AbstractContextManager[None]]
Notify = Callable[[str], None]


def preview(model: str | None, data: str, options: TrainingOptions) -> Preview:
    """Render the dataset and plan the steps, without loading the weights.

    Args:
        model: As for ``train``.
        data: As for ``train``.

    Raises:
        SelfInstructError: The dataset or the tokenizer can't be used, as for ``train``.
    """
    return TrainingRun.preview(model, data, options)


def train(
    model: str | None,
    data: str,
    out: Path,
    options: TrainingOptions,
    *,
    show: ShowProgress = lambda _progress: nullcontext(),
    notify: Notify = lambda _line: None,
) -> TrainingResult:
    """Fine-tune ``model`` on ``data`` into the folder ``out``, or resume the run that is there.

    Args:
        model: A .gguf file, a folder or a hub name; None for the embedded model.
        data: A file, a run of selfinstruct, a datasets folder or a hub name.
        out: Folder of the run; it is created.
        options: The settings (``finetune.load_options`` reads a recipe).
        show: Returns a context that displays a ``TrainingProgress`` while it is open.
        notify: Called with a line on anything unusual.

    Returns:
        The result; not complete if SIGINT or SIGTERM interrupted the run.

    Raises:
        SelfInstructError: The data or the settings can't be used, ``out`` holds another run, a loss is not finite, the
            memory is exhausted, or the disk is full.
    """
    return TrainingRun.start(model, data, out, options, show, notify)


class TrainingRun:
    """A training run in progress, in one process; subclasses train on other data, with another loss.

    Attributes:
        command: The command of ``finetune``, for messages.
        unit: What the loss is a mean over.
        kind: The class that wraps the model.
        objective: The loss; None for the cross entropy.
    """

    command: ClassVar[str] = "train"
    unit: ClassVar[str] = "token"
    kind: ClassVar[type[PackedCausalLM]] = PackedCausalLM

    def __init__(
        self, model: str | None, out: Path, options: Any, world: World, progress: TrainingProgress, notify: Notify
    ) -> None:
        self.model, self.out, self.options, self.world = model, out, options, world
        self.progress, self.notify = progress, notify
        self.setup = RuntimeSetup.of(options, world.device)
        self.objective: Objective | None = None

    @classmethod
    def start(
        cls, model: str | None, data: str, out: Path, options: Any, show: ShowProgress, notify: Notify
    ) -> TrainingResult:  # fmt: skip
        """Train, or resume; see ``train``."""
        progress = TrainingProgress()
        with process_group() as world:
            if not world.main:
                return cls(model, out, options, world, progress, lambda _line: None).train(data)
            with show(progress):
                return cls(model, out, options, world, progress, notify).train(data)

    @classmethod
    def preview(cls, model: str | None, data: str, options: Any) -> Preview:
        """Render the dataset and plan the steps; see ``preview``."""
        with process_group() as world:
            run = cls(model, Path(), options, world, TrainingProgress(), lambda _line: None)
            renderer, training_data, plan = run._prepare(data)
            estimate = CostEstimate.of(load_config(model), plan, run.setup)
            rendered, skipped = training_data.rendered, training_data.skipped
            return Preview(rendered, renderer, plan, skipped, estimate, training_data.notices)

    def _prepare(self, data: str) -> tuple[Renderer, TrainingData, EpochPlan]:
        """Read the data and plan the steps."""
        options = self.options
        renderer = Renderer(load_tokenizer(self.model), options.format, max_length=options.max_length)
        training_data = self._read(data, renderer)
        world_size = self.world.world_size
        plan = EpochPlan.of(training_data.train, options, budget=self.setup.budget, world_size=world_size)
        return renderer, training_data, plan

    def _read(self, data: str, renderer: Renderer) -> TrainingData:
        return read_training_data(data, renderer, self.options)

    def train(self, data: str) -> TrainingResult:
        """Read the data, then train unless the run is complete."""
        options = self.options
        self.progress.phase = "reading"
        renderer, training_data, plan = self._prepare(data)
        identity = run_identity(self.model or EMBEDDED, options, training_data, renderer.format)
        record = read_record(self.out, identity)
        if record.get("complete"):
            self._remove_checkpoints()  # in case the process was killed before it removed them
            return TrainingResult.of_complete(self.out, record, training_data.prompts, was_complete=True)
        with lock_run(self.out) if self.world.main else nullcontext():
            return self._train_locked(renderer, training_data, plan, identity)

    def _train_locked(
        self, renderer: Renderer, data: TrainingData, plan: EpochPlan, identity: dict[str, Any]
    ) -> TrainingResult:
        options, progress = self.options, self.progress
        record = read_record(self.out, identity)
        estimate = CostEstimate.of(load_config(self.model), plan, self.setup)
        self._warn(data, plan, estimate)
        progress.phase = "loading"
        torch.manual_seed(options.seed)
        # A model to be sharded is loaded on the CPU, and moved to the devices shard by shard.
        device = self.world.device if self.world.world_size == 1 else "cpu"
        loaded = self._load(device)
        packed_lm = prepare(loaded.model, self.setup, self.world, recompute=estimate.recompute, kind=self.kind)
        self._begin(packed_lm, loaded, data)
        if "before" not in record:
            record = {**identity, "model_digest": loaded.base.digest, "complete": False}
            record["before"] = self._measure(packed_lm, loaded, renderer, data).to_json()
            self._write(record)
        elif record["model_digest"] != loaded.base.digest:
            raise RunChangedError(f"{self.out}: the model now has other weights than when this run started")
        stopping = EarlyStopping(options.evaluation.patience if data.held_out else 0)
        if stopping.patience:
            stopping.record(0, pooled_mean(Measurements.from_json(record["before"]).losses.values()))

        def measure() -> float:
            progress.phase = "evaluating"
            return pooled_mean(self._measure_held_out(packed_lm, data).losses.values())

        try:
            steps, seconds = self._fit(packed_lm, plan, estimate, stopping, measure)
        except TrainingStopped:
            return TrainingResult(self.out, self.progress.step, complete=False)
        record["after"] = self._measure(packed_lm, loaded, renderer, data).to_json()
        progress.phase = "saving"
        self._save(loaded)
        record.update(steps=steps, seconds=round(seconds, 3), complete=True)
        if stopping.patience:
            record["kept_step"] = stopping.step
        if self.world.main:
            self._plot(record)
        self._write(record)  # last, so that a complete record implies that everything else is there
        self._remove_checkpoints()
        progress.phase = "done"
        return TrainingResult.of_complete(self.out, record, data.prompts)

    def _warn(self, data: TrainingData, plan: EpochPlan, estimate: CostEstimate) -> None:
        for line in data.warnings():
            self.notify(line)
        if plan.steps < FEW_STEPS:
            few = f"only {plural(plan.steps, 'step')}: too few to learn much"
            self.notify(f"{few}; more rows, more epochs or a smaller batch give more")
        if not estimate.fits or (estimate.recompute and self.options.recompute is None):
            self.notify(estimate.describe())
        count = torch.cuda.device_count()
        if self.world.world_size == 1 and count > 1:
            command = f"torchrun --nproc-per-node {count} -m finetune {self.command} ..."
            self.notify(f"one of {count} GPUs is used; to use all: {command}")

    def _measure(
        self, packed_lm: PackedCausalLM, loaded: Loaded, renderer: Renderer, data: TrainingData
    ) -> Measurements:
        """Measure held-out data and sample answers."""
        self.progress.phase = "evaluating"
        measurements = self._measure_held_out(packed_lm, data)
        self.progress.phase = "answering"
        max_tokens = self.options.evaluation.sample_tokens
        answers = sample_answers(packed_lm, loaded.tokenizer, renderer, data.samples, max_tokens)
        return replace(measurements, answers=answers)

    def _measure_held_out(self, packed_lm: PackedCausalLM, data: TrainingData) -> Measurements:
        """Compute the losses of each held-out set."""
        budget, world = self.setup.budget, self.world
        return Measurements({
            name: evaluate(packed_lm, items.documents, budget=budget, world=world)
            for name, items in data.held_out.items()
        })  # fmt: skip

    def _load(self, device: torch.device | str) -> Loaded:
        return load(self.model, dtype=self.setup.dtype, device=device, lora=self.options.lora)

    def _begin(self, packed_lm: PackedCausalLM, loaded: Loaded, data: TrainingData) -> None:
        """Prepare the loss, before anything is measured."""

    def _fit(
        self,
        packed_lm: PackedCausalLM,
        plan: EpochPlan,
        estimate: CostEstimate,
        stopping: EarlyStopping,
        measure: Callable[[], float],
    ) -> tuple[int, float]:
        """Train from the latest checkpoint.

        Args:
            stopping: With the loss before training.
            measure: Returns the held-out loss.

        Returns:
            Completed steps, and seconds of training over all calls.

        Raises:
            TrainingStopped: The run was interrupted; a checkpoint was saved.
        """
        options, world = self.options, self.world
        optimizer = FlatAdamW(packed_lm.parameters(), options, world.all_reduce)
        root = self.out / "checkpoints"
        kept = root / "kept"  # the weights of the lowest held-out loss
        start, earlier_seconds, unlogged = self._restore(optimizer, checkpoint.latest(root), plan.steps, stopping)
        if stopping.patience and start == 0:
            checkpoint.save(kept, 0, optimizer.weights(), {}, keep=1, world=world)
        metrics = Metrics(self.out, self.notify)
        loop = TrainingLoop(
            packed_lm, optimizer, plan, world, objective=self.objective, progress=self.progress, mfu=estimate.mfu,
            fixed_shapes=self.setup.fixed_shapes, unlogged=unlogged,
        )  # fmt: skip

        def save_checkpoint(step: int) -> None:
            tensors = {**optimizer.state(), **checkpoint.rng_state()}
            metadata: dict[str, Any] = {"seconds": earlier_seconds + loop.seconds, "unlogged": loop.unlogged}
            if stopping.patience:
                metadata["stopping"] = stopping.state()
            checkpoint.save(root, step, tensors, metadata, keep=options.keep, world=world)

        def measure_and_keep(step: int) -> bool:
            if stopping.record(step, measure()):
                checkpoint.save(kept, step, optimizer.weights(), {}, keep=1, world=world)
            self.progress.phase = "training"
            return stopping.exhausted

        loop.save = save_checkpoint
        if stopping.patience:
            loop.measure = measure_and_keep
        if world.main:
            metrics.rewind(start)
            loop.log = metrics.log
        if self.setup.compile:
            compile_layers(packed_lm)
        try:
            steps = loop.run(start)
        finally:
            metrics.close()
        if stopping.patience and stopping.step < steps:
            _restore_kept(optimizer, kept, stopping.step, world)
        return steps, earlier_seconds + loop.seconds

    def _restore(
        self, optimizer: FlatAdamW, latest: checkpoint.Checkpoint | None, steps: int, stopping: EarlyStopping
    ) -> tuple[int, float, list[float]]:
        """Restore a checkpoint, if there is one.

        Returns:
            Completed steps, seconds of training so far, and losses that are not logged yet.
        """
        if latest is None:
            torch.manual_seed(self.options.seed)
            return 0, 0.0, []
        tensors = latest.tensors(self.world)
        try:
            optimizer.restore(tensors)
            checkpoint.restore_rng_state(tensors)
            seconds = float(latest.metadata["seconds"])
            unlogged = list(map(float, latest.metadata["unlogged"]))
            if stopping.patience:
                stopping.restore(latest.metadata["stopping"])
        except (KeyError, RuntimeError, TypeError, ValueError) as error:
            raise latest.damaged(error) from None
        self.notify(f"resuming after step {latest.step} of {steps}")
        return latest.step, seconds, unlogged

    def _remove_checkpoints(self) -> None:
        if self.world.main:
            shutil.rmtree(self.out / "checkpoints", ignore_errors=True)

    def _write(self, record: dict[str, Any]) -> None:
        if self.world.main:
            write_record(self.out, record)

    def _save(self, loaded: Loaded) -> None:
        """Write the model's files to a temporary folder, then move each into the run's folder."""
        state = full_state_dict(loaded.model)  # a collective call
        if not self.world.main:
            return
        part = self.out / ".model.part"
        shutil.rmtree(part, ignore_errors=True)
        self._write_model(loaded, part, state)
        # The configuration last, so that its presence implies that all other files are there.
        for path in sorted(part.iterdir(), key=lambda path: (path.name.endswith("config.json"), path.name)):
            os.replace(path, self.out / path.name)
        part.rmdir()

    def _write_model(self, loaded: Loaded, folder: Path, state: dict[str, Tensor] | None) -> None:
        if self.options.lora is None:
            save(loaded.model, loaded.tokenizer, folder, state=state)
        else:
            save_adapters(loaded.model, loaded.tokenizer, folder, loaded.base, state=state)

    def _plot(self, record: dict[str, Any]) -> None:
        held_out = {
            name: (Losses.of(**losses).mean, Losses.of(**record["after"]["losses"][name]).mean)
            for name, losses in record["before"]["losses"].items()
        }
        Metrics(self.out, self.notify).plot(self.out.name, held_out, self.unit)


def _restore_kept(optimizer: FlatAdamW, root: Path, step: int, world: World) -> None:
    """Restore the weights that were kept after ``step``.

    Raises:
        SelfInstructError: They can't be read.
    """
    kept = checkpoint.latest(root)
    if kept is None or kept.step != step:
        raise SelfInstructError(
            f"{root}: the weights of step {step} are missing; remove {root.parent} to train from the beginning"
        )
    try:
        optimizer.restore_weights(kept.tensors(world))
    except (KeyError, RuntimeError) as error:
        raise kept.damaged(error) from None
