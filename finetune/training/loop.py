"""The training loop: forward, backward, clip, step; log, save, stop.

A step depends only on (corpus, options, step number): a run resumed from a checkpoint makes the same steps as one that
was never stopped. The loss of a step is a mean over its terms (supervised tokens, or pairs of answers: see
``finetune.training.objective``), independent of micro-batches and ranks: each micro-batch contributes the sum of its
terms, divided by the number of terms in the step, which the plan knows beforehand.
"""

from __future__ import annotations

import itertools
import math
import queue
import signal
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch
from torch import Tensor

from finetune.data.batch import Batch
from finetune.data.packing import Step
from finetune.data.plan import EpochPlan
from finetune.data.shapes import FixedShapes
from finetune.model.balance import ExpertLoad, LoadBalancing
from finetune.training.distributed import SINGLE_PROCESS, World
from finetune.training.objective import CrossEntropy, Objective
from finetune.training.progress import TrainingProgress
from finetune.training.schedule import learning_rate
from selfinstruct.errors import SelfInstructError

__all__ = ["DivergedError", "Optimizer", "OutOfMemoryError", "TrainingLoop", "TrainingStopped"]


class DivergedError(SelfInstructError):
    """A loss or a gradient is not finite. The weights are those from before that step."""


class OutOfMemoryError(SelfInstructError):
    """A micro-batch does not fit into the device's memory."""


class Optimizer(Protocol):
    """The interface of an optimizer; ``finetune.training.optimizer.FlatAdamW`` implements it."""

    def zero_grad(self) -> None: ...
    def grad_norm(self) -> Tensor: ...
    def step(self, step: int, rate: float, grad_scale: Tensor, finite: Tensor) -> None: ...


class TrainingStopped(Exception):  # noqa: N818 nothing went wrong
    """Training was interrupted; the current step was completed and saved."""


@dataclass
class TrainingLoop:
    """One training run, from a start step to the end.

    Attributes:
        packed_lm: The model (``finetune.model.packed_lm.PackedCausalLM``).
        optimizer: Optimizer of its parameters.
        plan: The steps of the run.
        world: The processes that share the work; each takes every ``world_size``-th micro-batch.
        objective: The loss; by default the cross entropy of the supervised tokens.
        log: Called with (step, metrics) after every ``log_every`` steps.
        measure: Called with the number of completed steps after each epoch and after the last step; True ends training.
        save: Called with the number of completed steps, every ``checkpoint_every`` steps and when stopped.
        progress: Updated while the loop runs.
        mfu: Function from tokens per second to model FLOPs utilisation, or None where that is not known.
        shapes: The shapes that micro-batches are padded to, for compiled layers; None pads nothing.
        seconds: Time spent in ``run``, up to the latest synchronisation with the device.
        unlogged: Losses of the steps since the latest log line; a resumed run takes them from its checkpoint.
    """

    packed_lm: Any
    optimizer: Optimizer
    plan: EpochPlan
    world: World = SINGLE_PROCESS
    objective: Objective | None = None
    log: Callable[[int, dict[str, float | int | None]], None] = lambda _step, _metrics: None
    measure: Callable[[int], bool] = lambda _step: False
    save: Callable[[int], None] = lambda _step: None
    progress: TrainingProgress = field(default_factory=TrainingProgress)
    mfu: Callable[[float], float | None] = lambda _rate: None
    shapes: FixedShapes | None = None
    seconds: float = 0.0
    unlogged: list[float] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._objective = self.objective or CrossEntropy(self.plan.corpus.documents)

    @property
    def device(self) -> torch.device:
        """The device of this process."""
        return self.world.device

    def run(self, start: int = 0) -> int:
        """Train from step ``start``, the number of completed steps, to the end.

        Returns:
            The number of completed steps.

        Raises:
            DivergedError: A loss or gradient is not finite; the message names the rows.
            OutOfMemoryError: The message names the micro-batch, the longest document and the setting to change.
            TrainingStopped: SIGINT or SIGTERM arrived; a checkpoint was saved.
        """
        options, steps = self.plan.options, self.plan.steps
        monitor = _Monitor(self, start)
        self.packed_lm.train()
        self.optimizer.zero_grad()
        with _catch_signals() as stop_requested, _prefetch(self._batches(start, steps), self.device) as batches:
            for step in range(start, steps):
                rate = learning_rate(step, steps, options)
                monitor.record(step, *self._step(step, rate, batches, monitor.finite))
                completed = step + 1
                log = completed % options.log_every == 0 or completed == steps
                if log or self.device.type == "cpu":
                    monitor.synchronize(completed, rate, log=log)
                if completed % self.plan.steps_per_epoch == 0 or completed == steps:
                    monitor.synchronize(completed, rate, log=False)  # never keep weights that may have diverged
                    if self.measure(completed):
                        if not log:
                            monitor.synchronize(completed, rate, log=True)
                        return completed
                due = options.checkpoint_every and completed % options.checkpoint_every == 0
                stop = self.world.any_rank(stop_requested.is_set())
                if completed < steps and (due or stop):
                    monitor.synchronize(completed, rate, log=False)  # never save steps that may have diverged
                    self.save(completed)
                    if stop:
                        raise TrainingStopped
        return steps

    def _step(self, step: int, rate: float, batches: Iterator[Batch], finite: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Make one optimizer step.

        Args:
            finite: 0-d bool: whether all earlier losses and gradients were finite.

        Returns:
            Loss, gradient norm, and ``finite`` updated: 0-d tensors on the device.
        """
        # FSDP averages gradients over the processes, but their sum is needed.
        scale = self.world.world_size / self.plan.loss_terms(step)
        loss = torch.zeros((), device=self.device)
        micro_batches: Iterable[Batch] = itertools.islice(batches, len(self._micro_batches(step)))
        loads = []
        if getattr(self.packed_lm, "balancing", None) is not None:
            micro_batches = list(micro_batches)
            loads = [self._expert_load(micro_batches)]
        for batch in micro_batches:
            try:
                partial_loss = self._objective.loss(self.packed_lm, batch, scale, *loads)
                partial_loss.backward()  # type: ignore[no-untyped-call]  # untyped in torch
            except torch.OutOfMemoryError:
                raise self._out_of_memory(step, batch) from None
            loss += partial_loss.detach()
        loss = self.world.all_reduce(loss) / self.world.world_size
        norm = self.optimizer.grad_norm()
        finite = finite & torch.isfinite(loss) & torch.isfinite(norm)
        limit = self.plan.options.max_grad_norm
        grad_scale = (limit / (norm + 1e-6)).clamp(max=1.0) if limit else torch.ones_like(norm)
        self.optimizer.step(step + 1, rate, grad_scale, finite)
        self.optimizer.zero_grad()
        return loss, norm, finite

    def _expert_load(self, micro_batches: Sequence[Batch]) -> ExpertLoad:
        """Count how a step uses the experts, with the random numbers (dropout) of the passes that follow."""
        devices = [self.device] if self.device.type == "cuda" else []
        with torch.random.fork_rng(devices=devices):
            counts = sum(map(self.packed_lm.expert_counts, micro_batches), start=torch.zeros((), device=self.device))
        balancing: LoadBalancing = self.packed_lm.balancing
        return balancing.load(self.world.all_reduce(counts), self.world.world_size)

    def _micro_batches(self, step: int) -> Step:
        """Return this process's micro-batches of a step."""
        return self.plan.step(step)[self.world.rank :: self.world.world_size]

    def _batches(self, start: int, steps: int) -> Iterator[Batch]:
        plan, shapes = self.plan, self.shapes
        for step in range(start, steps):
            for micro_batch in self._micro_batches(step):
                tokens = int(plan.corpus.lengths[list(micro_batch)].sum())
                yield self._objective.collate(
                    micro_batch, max_seqlen=plan.max_seqlen,
                    pad_to=shapes.pad_to(tokens) if shapes else None, boundaries=shapes.boundaries if shapes else 0,
                )  # fmt: skip

    def _out_of_memory(self, step: int, batch: Batch) -> OutOfMemoryError:
        half, max_seqlen = max(len(batch.input_ids) // 2, self.plan.max_seqlen), self.plan.max_seqlen
        where = f"a micro-batch of {batch.num_tokens:,} tokens (longest document {max_seqlen:,}) at step {step + 1}"
        remedy = "--set max_length=... (shorter documents)"
        if half < len(batch.input_ids):
            remedy = f"--set micro_batch_tokens={half}"
        return OutOfMemoryError(f"out of memory: {where}; try {remedy}, or --set recompute=on")

    def diverged(self, step: int, loss: float, norm: float) -> DivergedError:
        """Return the error for a step (from 0), naming the rows whose loss or gradient alone is not finite."""
        rows = []
        for index in sorted({index for micro_batch in self.plan.step(step) for index in micro_batch}):
            batch = self._objective.collate([index], max_seqlen=self.plan.max_seqlen).to(self.device)
            self.optimizer.zero_grad()
            with torch.compiler.set_stance("force_eager"):  # each row would trigger a compilation
                row_loss = self._objective.loss(self.packed_lm, batch, 1.0)
                row_loss.backward()  # type: ignore[no-untyped-call]  # untyped in torch
            if not (math.isfinite(float(row_loss.detach())) and math.isfinite(float(self.optimizer.grad_norm()))):
                rows.append(self.plan.corpus.names[index])
        self.optimizer.zero_grad()
        listed = ", ".join(rows[:10]) + (f" and {len(rows) - 10} more" if len(rows) > 10 else "")
        cause = f"rows at fault: {listed}" if rows else "no single row causes it: try a lower learning_rate"
        return DivergedError(
            f"step {step + 1}: loss {loss:g}, gradient norm {norm:g}; stopped before the weights changed. {cause}"
        )


class _Monitor:
    """Losses and times between two synchronisations with the device, the only points where the host waits for it."""

    def __init__(self, loop: TrainingLoop, start: int) -> None:
        self.loop = loop
        self.finite = torch.ones((), dtype=torch.bool, device=loop.device)
        self._pending: list[tuple[int, Tensor]] = []  # number of the step; (3,) loss, gradient norm, whether finite
        self._norm = 0.0
        self._logged_tokens = loop.plan.tokens_before(start)
        self._started = self._logged_at = time.perf_counter()
        self._start = start
        loop.progress.phase, loop.progress.step, loop.progress.steps = "training", start, loop.plan.steps

    def record(self, step: int, loss: Tensor, norm: Tensor, finite: Tensor) -> None:
        """Keep the results of a step without waiting for the device."""
        self.finite = finite
        self._pending.append((step, torch.stack([loss, norm, finite.to(loss.dtype)])))

    def synchronize(self, completed: int, rate: float, *, log: bool) -> None:
        """Read the pending results, stop if one is not finite, and log them if asked."""
        for (step, _), (loss, norm, finite) in zip(self._pending, self._read(), strict=True):
            if not finite:
                raise self.loop.diverged(step, loss, norm)
            self.loop.unlogged.append(loss)
            self._norm = norm
        self._pending.clear()
        now = time.perf_counter()
        self.loop.seconds = now - self._started
        self.loop.progress.step = completed
        if log:
            self._log(completed, rate, now)

    def _read(self) -> list[list[float]]:
        """Return the pending results by a single transfer, for which the host waits."""
        return torch.stack([results for _, results in self._pending]).tolist() if self._pending else []

    def _log(self, completed: int, rate: float, now: float) -> None:
        progress, plan = self.loop.progress, self.loop.plan
        tokens, seconds = plan.tokens_before(completed), now - self._started
        speed = (tokens - self._logged_tokens) / max(now - self._logged_at, 1e-9)
        progress.epoch = completed / plan.steps_per_epoch
        progress.loss = sum(self.loop.unlogged) / len(self.loop.unlogged)
        progress.tokens_per_second, progress.mfu = speed, self.loop.mfu(speed)
        progress.seconds_left = seconds / (completed - self._start) * (plan.steps - completed)
        self.loop.log(
            completed,
            {
                "epoch": round(progress.epoch, 6), "loss": progress.loss, "learning_rate": rate,
                "gradient_norm": self._norm, "tokens": tokens, "seconds": round(seconds, 3),
                "tokens_per_second": round(speed, 1), "mfu": progress.mfu,
            },
        )  # fmt: skip
        self.loop.unlogged.clear()
        self._logged_tokens, self._logged_at = tokens, now


@contextmanager
def _prefetch(batches: Iterator[Batch], device: torch.device) -> Iterator[Iterator[Batch]]:
    """Build and copy batches in a thread while a GPU computes; on a CPU, build them on demand."""
    if device.type != "cuda":
        yield batches
        return
    ready: queue.Queue[Batch | BaseException | None] = queue.Queue(maxsize=4)
    finished = threading.Event()

    def put(item: Batch | BaseException | None) -> None:
        while not finished.is_set():
            try:
                ready.put(item, timeout=0.1)
            except queue.Full:
                continue
            return

    def produce() -> None:
        try:
            for batch in batches:
                put(batch.pin_memory())
                if finished.is_set():
                    return
            put(None)
        except BaseException as error:
            put(error)

    def consume() -> Iterator[Batch]:
        while (item := ready.get()) is not None:
            if isinstance(item, BaseException):
                raise item
            yield item.to(device)

    thread = threading.Thread(target=produce, name="batches", daemon=True)
    thread.start()
    try:
        yield consume()
    finally:
        finished.set()
        thread.join()


@contextmanager
def _catch_signals() -> Iterator[threading.Event]:
    """Set an event on SIGINT or SIGTERM; a second SIGINT raises KeyboardInterrupt.

    A second SIGTERM does nothing, because torchrun sends one along with the first SIGINT.
    """
    requested = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield requested
        return

    def on_signal(number: int, _frame: object) -> None:
        if requested.is_set() and number == signal.SIGINT:
            raise KeyboardInterrupt
        requested.set()

    previous = {number: signal.signal(number, on_signal) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield requested
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
