"""One training run from start to end: read, render, evaluate, train, evaluate again, save.

A run is a folder. Its ``finetune.json`` records the run's identity and, at the end, that it is complete; until then
checkpoints are kept in ``checkpoints/``. Repeating the call resumes an interrupted run. Under torchrun several
processes work together (``finetune.training.distributed``); rank 0 writes files and messages.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor

from finetune.data.plan import EpochPlan
from finetune.data.render import Renderer
from finetune.data.shapes import FixedShapes
from finetune.data.training_data import TrainingData, read_training_data
from finetune.evaluation.held_out import Losses, evaluate, pooled_mean
from finetune.evaluation.samples import sample_answers
from finetune.export.result import try_saving, write_model, write_result
from finetune.model.loading import EMBEDDED, Loaded, load
from finetune.model.packed_lm import PackedCausalLM
from finetune.model.stopping import set_stop_tokens
from finetune.options import TrainingOptions
from finetune.preparation import Preparation, Preview
from finetune.record import Measurements, lock_run, read_record, run_identity, write_record
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
from finetune.training.warnings import warnings
from selfinstruct.errors import RunChangedError, SelfInstructError

__all__ = ["TrainingResult", "TrainingRun", "preview", "train"]

ShowProgress = Callable[[TrainingProgress], AbstractContextManager[None]]
Notify = Callable[[str], None]


@dataclass(frozen=True)
class TrainingResult:
    """The outcome of a training run.

    Attributes:
        folder: Folder of the run, which holds the model.
        steps: Completed optimizer steps.
        before, after: Held-out losses and sample answers before and after training; None if the run is not complete.
        prompts: Prompts of the sample answers.
        seconds: Time spent on training steps.
        complete: False after an interruption; repeat the call to resume.
        was_complete: Whether the run was complete before this call.
        kept_step: With early stopping, the step whose weights the model has; None if it has the last ones.
    """

    folder: Path
    steps: int
    before: Measurements | None = None
    after: Measurements | None = None
    prompts: list[str] = field(default_factory=list)
    seconds: float = 0.0
    complete: bool = True
    was_complete: bool = False
    kept_step: int | None = None

    @classmethod
    def of_complete(
        cls, out: Path, record: dict[str, Any], prompts: list[str], *, was_complete: bool = False
    ) -> TrainingResult:
        """Build the result of a complete run from its record."""
        before, after = Measurements.from_json(record["before"]), Measurements.from_json(record["after"])
        return cls(
            out, record["steps"], before, after, prompts, record["seconds"], was_complete=was_complete,
            kept_step=record.get("kept_step"),
        )  # fmt: skip


def preview(model: str | None, data: str, options: TrainingOptions) -> Preview:
    """Render the dataset and plan the steps, without loading the weights.

    Args:
        model: As for ``train``.
        data: As for ``train``.

    Raises:
        SelfInstructError: The dataset, the tokenizer or the kind of model can't be used, as for ``train``.
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
        adapters_digest: Digest of the adapters that are trained further; empty if the run starts without.
    """

    command: ClassVar[str] = "train"
    unit: ClassVar[str] = "token"
    kind: ClassVar[type[PackedCausalLM]] = PackedCausalLM
    adapters_digest: str = ""

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
            return cls(model, Path(), options, world, TrainingProgress(), lambda _line: None)._prepare(data).preview()

    def _prepare(self, data: str) -> Preparation:
        """Read everything but the weights."""
        return Preparation.of(self.model, data, self.options, self.world, self._read)

    def train(self, data: str) -> TrainingResult:
        """Read the data, then train unless the run is complete."""
        self.progress.phase = "reading"
        prepared = self._prepare(data)
        identity = run_identity(self.model or EMBEDDED, self.options, prepared.data, prepared.renderer.format)
        record = read_record(self.out, identity)
        if record.get("complete"):
            self._remove_checkpoints()  # in case the process was killed before it removed them
            return TrainingResult.of_complete(self.out, record, prepared.data.prompts, was_complete=True)
        with lock_run(self.out) if self.world.main else nullcontext():
            return self._train_locked(prepared, identity)

    def _train_locked(self, prepared: Preparation, identity: dict[str, Any]) -> TrainingResult:
        options, progress = self.options, self.progress
        renderer, data, plan, estimate = prepared.renderer, prepared.data, prepared.plan, prepared.estimate
        record = read_record(self.out, identity)
        for line in (*warnings(self.out, data, plan, estimate, self.world, command=self.command), *prepared.notices):
            self.notify(line)
        progress.phase = "loading"
        torch.manual_seed(options.seed)
        # A model to be sharded is loaded on the CPU, and moved to the devices shard by shard.
        device = self.world.device if self.world.world_size == 1 else "cpu"
        loaded = self._load(device)
        if self.kind is PackedCausalLM and _is_tied(prepared.config) and not _is_tied(loaded.model.config):
            self.notify("the configuration says that the head is tied to the embeddings, but its weights differ: it is "
                        "trained and saved apart")  # fmt: skip
        set_stop_tokens(loaded.model, loaded.tokenizer, renderer)
        if self.world.main and (refused := try_saving(loaded, self.out, adapters=self._saves_adapters)):
            self.notify(f"the result lacks generation settings that transformers refuses to save: {', '.join(refused)}")
        packed_lm = prepare(
            loaded.model, self.setup, self.world, recompute=estimate.recompute, longest=data.longest, kind=self.kind,
            notify=self.notify,
        )  # fmt: skip
        plan, self.setup = plan.limited(packed_lm.token_budget(plan.packing.budget)), self.setup.after(packed_lm)
        budget, weights = plan.packing.budget, loaded.base.digest + self.adapters_digest
        self._begin(packed_lm, loaded, data, budget)
        if "before" not in record:
            record = {**identity, "model_digest": weights, "complete": False}
            record["before"] = self._measure(packed_lm, loaded, renderer, data, budget).to_json()
            self._write(record)
        elif record["model_digest"] != weights:
            raise RunChangedError(f"{self.out}: the model now has other weights than when this run started")
        stopping = EarlyStopping(options.evaluation.patience if data.held_out else 0)
        if stopping.patience:
            stopping.record(0, pooled_mean(Measurements.from_json(record["before"]).losses.values()))

        def measure() -> float:
            progress.phase = "evaluating"
            return pooled_mean(self._measure_held_out(packed_lm, data, budget).losses.values())

        try:
            steps, seconds = self._fit(packed_lm, plan, estimate, stopping, measure)
        except TrainingStopped:
            return TrainingResult(self.out, self.progress.step, complete=False)
        record["after"] = self._measure(packed_lm, loaded, renderer, data, budget).to_json()
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

    def _measure(
        self, packed_lm: PackedCausalLM, loaded: Loaded, renderer: Renderer, data: TrainingData, budget: int
    ) -> Measurements:
        """Measure held-out data and sample answers."""
        self.progress.phase = "evaluating"
        measurements = self._measure_held_out(packed_lm, data, budget)
        self.progress.phase = "answering"
        length = self.options.evaluation.sample_tokens
        answers = sample_answers(packed_lm, loaded.tokenizer, renderer, data.samples, length)
        return replace(measurements, answers=answers)

    def _read(self, data: str, renderer: Renderer, options: Any) -> TrainingData:
        """Read and render the data."""
        return read_training_data(data, renderer, options)

    def _load(self, device: torch.device | str) -> Loaded:
        return load(self.model, dtype=self.setup.dtype, device=device, lora=self.options.lora)

    def _begin(self, packed_lm: PackedCausalLM, loaded: Loaded, data: TrainingData, budget: int) -> None:
        """Prepare the loss, before anything is measured."""

    def _measure_held_out(self, packed_lm: PackedCausalLM, data: TrainingData, budget: int) -> Measurements:
        """Compute the losses of each held-out set, with at most ``budget`` tokens at once."""
        return Measurements({
            name: evaluate(packed_lm, items.documents, budget=budget, world=self.world)
            for name, items in data.held_out.items()
        })  # fmt: skip

    @property
    def _saves_adapters(self) -> bool:
        """Whether the result is adapters, not a whole model."""
        return self.options.lora is not None

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
            shapes=FixedShapes.of(plan) if self.setup.fixed_shapes else None, unlogged=unlogged,
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
            compile_layers(packed_lm, self.setup, activation_budget=estimate.activation_budget)
        try:
            # A finished run whose model could not be saved resumes here.
            steps = start if stopping.exhausted else loop.run(start)
        finally:
            metrics.close()
        if steps > start:
            self._save_final(save_checkpoint, steps)
        if stopping.patience and stopping.step < steps:
            checkpoint.restore_kept(kept, stopping.step, optimizer.restore_weights, world)
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

    def _save_final(self, save_checkpoint: Callable[[int], None], step: int) -> None:
        """Save the final state, so that no error while the model is measured and saved can lose it."""
        try:
            save_checkpoint(step)
        except SelfInstructError as error:
            if self.world.world_size > 1:  # the other processes wait for this one
                raise
            self.notify(f"{error}; the model is saved nevertheless")

    def _remove_checkpoints(self) -> None:
        if self.world.main:
            shutil.rmtree(self.out / "checkpoints", ignore_errors=True)

    def _write(self, record: dict[str, Any]) -> None:
        if self.world.main:
            write_record(self.out, record)

    def _save(self, loaded: Loaded) -> None:
        state = full_state_dict(loaded.model)  # a collective call
        if self.world.main:
            write_result(self.out, lambda folder: self._write_model(loaded, folder, state), command=self.command)

    def _write_model(self, loaded: Loaded, folder: Path, state: dict[str, Tensor] | None) -> None:
        write_model(loaded, folder, state, adapters=self._saves_adapters)

    def _plot(self, record: dict[str, Any]) -> None:
        held_out = {
            name: (Losses.of(**losses).mean, Losses.of(**record["after"]["losses"][name]).mean)
            for name, losses in record["before"]["losses"].items()
        }
        Metrics(self.out, self.notify).plot(self.out.name, held_out, self.unit)


def _is_tied(config: Any) -> bool:
    return bool(getattr(config, "tie_word_embeddings", False))
