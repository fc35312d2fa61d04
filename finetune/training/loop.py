"""The training loop: plan, forward, backward, clip, step; log, save, stop.

Everything that a step depends on follows from (corpus, options, step): a run that goes on from a checkpoint makes the
same steps as one that was never stopped. The loss of a step is the mean over its supervised tokens, whatever the
micro-batches or ranks they are in: each micro-batch adds its sum, divided by the step's count, which the plan knows.
"""

from __future__ import annotations

import math
import queue
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any, Protocol

import torch
from torch import Tensor

from finetune.data.batch import Batch, collate
from finetune.data.corpus import Corpus
from finetune.data.packing import Packing, Step, plan_epoch
from finetune.model.attention import block_mask
from finetune.options import Options
from finetune.training.distributed import ALONE, World
from finetune.training.progress import TrainingProgress
from finetune.training.schedule import learning_rate
from selfinstruct.errors import SelfInstructError, UsageError

__all__ = ["DivergedError", "EpochPlan", "Loop", "Optimizer", "OutOfMemoryError", "Stopped"]

_BUCKETS = 8  # on a GPU a micro-batch is filled up to a multiple of an eighth of the budget: few shapes to compile for


class DivergedError(SelfInstructError):
    """A loss or a gradient is not finite. The weights are those from before that step."""


class OutOfMemoryError(SelfInstructError):
    """A micro-batch does not fit into the device's memory."""


class Optimizer(Protocol):
    """What the loop asks of an optimizer; ``finetune.training.optimizer.FlatAdamW`` is one."""

    def clear(self) -> None: ...
    def norm(self) -> Tensor: ...
    def step(self, step: int, rate: float, factor: Tensor, sound: Tensor) -> None: ...


@dataclass(frozen=True)
class EpochPlan:
    """The steps of a run.

    Attributes:
        corpus: What is trained on.
        options: The settings.
        packing: How epochs are cut into steps.
    """

    corpus: Corpus
    options: Options
    packing: Packing

    @classmethod
    def of(cls, corpus: Corpus, options: Options, *, budget: int, ranks: int = 1) -> EpochPlan:
        """Plan for micro-batches of ``budget`` tokens (more, if a document is longer).

        Raises:
            UsageError: There is nothing to learn from.
        """
        if not len(corpus) or not corpus.supervised.any():
            raise UsageError("the dataset has no supervised token: there is nothing to train on")
        longest = min(options.max_length, int(corpus.lengths.max()))
        budget = max(budget, longest)
        row = min(budget, options.max_length)
        packing = Packing(budget, row, options.batch_size, options.batch_tokens, ranks, options.packing)
        return cls(corpus, options, packing)

    def epoch(self, number: int) -> list[Step]:
        """The steps of an epoch (from 0)."""
        return _epoch(self.packing, self.corpus, self.options.seed, number)

    @property
    def steps_per_epoch(self) -> int:
        """The same in every epoch."""
        return len(self.epoch(0))

    @property
    def steps(self) -> int:
        """Optimizer steps of the whole run."""
        whole = self.options.epochs * self.steps_per_epoch
        return whole if self.options.max_steps is None else min(whole, self.options.max_steps)

    @property
    def longest(self) -> int:
        """No document has more tokens."""
        return int(self.corpus.lengths.max())

    @property
    def efficiency(self) -> float:
        """Share of the tokens computed in an epoch that are documents', if all micro-batches had one shape."""
        count = sum(len(step) for step in self.epoch(0))
        return float(self.corpus.lengths.sum()) / (count * self.packing.budget)

    def step(self, number: int) -> Step:
        """Step ``number`` (from 0) of the run."""
        return self.epoch(number // self.steps_per_epoch)[number % self.steps_per_epoch]


class _ById:
    """A corpus as a key of the cache below: by identity, since nobody changes one."""

    def __init__(self, corpus: Corpus) -> None:
        self.corpus = corpus

    def __hash__(self) -> int:
        return id(self.corpus)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _ById) and other.corpus is self.corpus


def _epoch(packing: Packing, corpus: Corpus, seed: int, number: int) -> list[Step]:
    return _planned(packing, _ById(corpus), seed, number)


@lru_cache(maxsize=2)
def _planned(packing: Packing, corpus: _ById, seed: int, number: int) -> list[Step]:
    return plan_epoch(corpus.corpus.lengths, packing, seed=seed, epoch=number)


class Stopped(Exception):  # noqa: N818 nothing went wrong
    """Ctrl-C, after the step under way."""


@dataclass
class Loop:
    """One run of the loop.

    Attributes:
        trainee: Called as ``trainee(batch, scale)``; gives the scaled sum of the losses.
        optimizer: Moves its parameters.
        plan: What is trained on, in which steps.
        world: The processes that share the work; each takes every so-many-th micro-batch.
        log: Called with (step, values) after every ``log_every`` steps.
        save: Called with the number of steps made, every ``checkpoint_every`` steps, and when stopped.
        progress: Kept up to date.
        mfu: From tokens per second to the share of the device's peak, where that is known.
        flex: Whether block masks are wanted.
        fixed: Whether micro-batches are filled up to few fixed shapes (for compiled layers).
        seconds: Spent in ``run``, up to the last look at the device.
        unlogged: Losses of steps since the last log: those of a resumed run begin it.
    """

    trainee: Any
    optimizer: Optimizer
    plan: EpochPlan
    world: World = ALONE
    log: Callable[[int, dict[str, float | int | None]], None] = lambda _step, _values: None
    save: Callable[[int], None] = lambda _step: None
    progress: TrainingProgress = field(default_factory=TrainingProgress)
    mfu: Callable[[float], float | None] = lambda _rate: None
    flex: bool = False
    fixed: bool = False
    seconds: float = 0.0
    unlogged: list[float] = field(default_factory=list)

    @property
    def device(self) -> torch.device:
        """Where."""
        return self.world.device

    def run(self, start: int = 0) -> None:
        """Make the steps from ``start`` (those made so far) to the end.

        Raises:
            DivergedError: A loss or gradient is not finite; names the rows.
            OutOfMemoryError: Names the micro-batch, the longest document and the setting to change.
            Stopped: After Ctrl-C, with a checkpoint saved.
        """
        options, steps = self.plan.options, self.plan.steps
        watch = _Watch(self, start)
        self.trainee.train()
        self.optimizer.clear()
        with _interrupts() as interrupted, _ahead(self._batches(start, steps), self.device) as batches:
            for step in range(start, steps):
                rate = learning_rate(step, steps, options)
                watch.step(*self._one(step, rate, batches, watch.sound), step, rate)
                made = step + 1
                if made % options.log_every == 0 or made == steps or self.device.type == "cpu":
                    watch.look(made, rate, log=made % options.log_every == 0 or made == steps)
                due = options.checkpoint_every and made % options.checkpoint_every == 0
                stop = self.world.agreed(interrupted.is_set())
                if made < steps and (due or stop):
                    watch.look(made, rate, log=False)  # never save what has gone wrong since the last look
                    self.save(made)
                    if stop:
                        raise Stopped

    def _one(self, step: int, rate: float, batches: Iterator[Batch], sound: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """One optimizer step: (loss, gradient norm, whether all is finite), on the device."""
        mine = self._mine(step)
        # Gradients are averaged over the processes, where their sum is wanted.
        scale = self.world.ranks / self._targets(step)
        loss = torch.zeros((), device=self.device)
        for _ in mine:
            batch = next(batches)
            try:
                part = self.trainee(batch, scale)
                part.backward()
            except torch.OutOfMemoryError:
                raise self._too_large(step, batch) from None
            loss += part.detach()
        loss = self.world.total(loss) / self.world.ranks
        norm = self.optimizer.norm()
        sound = sound & torch.isfinite(loss) & torch.isfinite(norm)
        limit = self.plan.options.max_grad_norm
        factor = (limit / (norm + 1e-6)).clamp(max=1.0) if limit else torch.ones_like(norm)
        self.optimizer.step(step + 1, rate, factor, sound)
        self.optimizer.clear()
        return loss, norm, sound

    def _mine(self, step: int) -> Step:
        return self.plan.step(step)[self.world.rank :: self.world.ranks]

    def _targets(self, step: int) -> int:
        """Supervised tokens of a step, over all ranks."""
        targets = _targets(_ById(self.plan.corpus))
        return int(sum(targets[index] for micro in self.plan.step(step) for index in micro))

    def _batches(self, start: int, steps: int) -> Iterator[Batch]:
        budget = self.plan.packing.budget
        bucket = max(1, budget // _BUCKETS)
        for step in range(start, steps):
            for micro in self._mine(step):
                tokens = int(sum(self.plan.corpus.lengths[list(micro)])) if micro else 1
                whole = -(-tokens // bucket) * bucket if self.fixed else None
                batch = collate(self.plan.corpus, micro, longest=self.plan.longest, pad_to=whole)
                if self.flex:
                    mask = block_mask(batch.to(self.device).packed, len(batch.ids))
                    object.__setattr__(batch.packed, "block_mask", mask)
                yield batch

    def _too_large(self, step: int, batch: Batch) -> OutOfMemoryError:
        half = max(len(batch.ids) // 2, self.plan.longest)
        what = f"a micro-batch of {batch.tokens:,} tokens (longest document {self.plan.longest:,}) at step {step + 1}"
        how = (
            f"--set micro_batch_tokens={half}" if half < len(batch.ids) else "--set max_length=... (shorter documents)"
        )
        return OutOfMemoryError(f"out of memory: {what}; try {how}, or --set recompute=on")

    def diverged(self, step: int, loss: float, norm: float) -> DivergedError:
        """Say which rows of a step (from 0) have a loss or a gradient that is not finite, each taken alone."""
        guilty = []
        for index in sorted({index for micro in self.plan.step(step) for index in micro}):
            batch = collate(self.plan.corpus, [index], longest=self.plan.longest).to(self.device)
            self.optimizer.clear()
            part = self.trainee(batch, 1.0)
            part.backward()
            if not (math.isfinite(float(part.detach())) and math.isfinite(float(self.optimizer.norm()))):
                guilty.append(self.plan.corpus.names[index])
        self.optimizer.clear()
        rows = ", ".join(guilty[:10]) + (f" and {len(guilty) - 10} more" if len(guilty) > 10 else "")
        who = f"rows at fault: {rows}" if guilty else "no row does it alone: try a lower learning_rate"
        return DivergedError(
            f"step {step + 1}: loss {loss:g}, gradient norm {norm:g}; stopped before the weights changed. {who}"
        )


@lru_cache(maxsize=2)
def _targets(corpus: _ById) -> list[int]:
    return [int(count) for count in corpus.corpus.targets]


class _Watch:
    """Losses and times between two looks at the device: the host waits for it only here."""

    def __init__(self, loop: Loop, start: int) -> None:
        self.loop = loop
        self.sound = torch.ones((), dtype=torch.bool, device=loop.device)
        self._kept: list[tuple[int, Tensor, Tensor, Tensor]] = []
        self._norm = 0.0
        self._tokens_at = self._since = self._seen(start)
        self._started = self._time = time.perf_counter()
        self._first = start
        loop.progress.phase, loop.progress.step, loop.progress.steps = "training", start, loop.plan.steps

    def step(self, loss: Tensor, norm: Tensor, sound: Tensor, step: int, rate: float) -> None:  # noqa: ARG002
        self.sound = sound
        self._kept.append((step, loss, norm, sound))

    def look(self, made: int, rate: float, *, log: bool) -> None:
        """Read what was kept; stop if it is not finite; tell."""
        for step, loss, norm, sound in self._kept:
            if not sound:
                raise self.loop.diverged(step, float(loss), float(norm))
            self.loop.unlogged.append(float(loss))
            self._norm = float(norm)
        self._kept.clear()
        now, tokens = time.perf_counter(), self._seen(made)
        self.loop.seconds = now - self._started
        self.loop.progress.step = made
        if not log:
            return
        speed = (tokens - self._since) / max(now - self._time, 1e-9)
        progress, plan = self.loop.progress, self.loop.plan
        progress.epoch = made / plan.steps_per_epoch
        progress.loss = sum(self.loop.unlogged) / len(self.loop.unlogged)
        progress.tokens_per_second, progress.mfu = speed, self.loop.mfu(speed)
        progress.seconds_left = (now - self._started) / (made - self._first) * (plan.steps - made)
        self.loop.log(
            made,
            {
                "epoch": round(progress.epoch, 6), "loss": progress.loss, "learning_rate": rate,
                "gradient_norm": self._norm, "tokens": tokens, "seconds": round(now - self._started, 3),
                "tokens_per_second": round(speed, 1), "mfu": progress.mfu,
            },
        )  # fmt: skip
        self.loop.unlogged.clear()
        self._since, self._time = tokens, now

    def _seen(self, made: int) -> int:
        """Tokens of documents trained on in the first ``made`` steps."""
        plan = self.loop.plan
        epochs, rest = divmod(made, plan.steps_per_epoch)
        lengths = plan.corpus.lengths
        partly = plan.epoch(epochs)[:rest] if rest else []
        return epochs * int(lengths.sum()) + int(sum(lengths[i] for step in partly for micro in step for i in micro))


@contextmanager
def _ahead(batches: Iterator[Batch], device: torch.device) -> Iterator[Iterator[Batch]]:
    """On a GPU, batches made and copied by a thread while the device computes; on a CPU, as they are asked for."""
    if device.type != "cuda":
        yield batches
        return
    ready: queue.Queue[Batch | BaseException | None] = queue.Queue(maxsize=4)
    over = threading.Event()

    def put(item: Batch | BaseException | None) -> None:
        while not over.is_set():
            try:
                ready.put(item, timeout=0.1)
            except queue.Full:
                continue
            return

    def work() -> None:
        try:
            for batch in batches:
                put(batch.pin_memory())
                if over.is_set():
                    return
            put(None)
        except BaseException as error:
            put(error)

    def take() -> Iterator[Batch]:
        while (item := ready.get()) is not None:
            if isinstance(item, BaseException):
                raise item
            yield item.to(device)

    thread = threading.Thread(target=work, name="batches", daemon=True)
    thread.start()
    try:
        yield take()
    finally:
        over.set()
        thread.join()


@contextmanager
def _interrupts() -> Iterator[threading.Event]:
    """Ctrl-C or SIGTERM sets the event; another Ctrl-C stops at once (SIGTERM comes beside the first from torchrun)."""
    asked = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield asked
        return

    def on_signal(number: int, _frame: object) -> None:
        if asked.is_set() and number == signal.SIGINT:
            raise KeyboardInterrupt
        asked.set()

    before = {number: signal.signal(number, on_signal) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield asked
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
