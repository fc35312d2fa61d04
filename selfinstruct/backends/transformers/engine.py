"""The thread that completes requests, in batches of similar length that requests enter and leave at any time."""

from __future__ import annotations

import threading
from collections import deque
from concurrent.futures import Future

import torch

from selfinstruct.backends.transformers.batch import Batch
from selfinstruct.backends.transformers.loading import Loaded, out_of_memory
from selfinstruct.backends.transformers.sampling import InvalidLogitsError
from selfinstruct.backends.transformers.text import Sequence
from selfinstruct.common.files import first_line
from selfinstruct.errors import BackendError

__all__ = ["Engine", "Job"]

_PROMPT_TOKENS = 4096  # most tokens of prompts that are read at once, so that a step does not take long
_SIMILAR = 32  # difference in tokens up to which prompts are similar in any case
_WAIT_FOR = 8  # requests join a batch once they would be an eighth of it, since joining copies its keys and values


class Job:
    """A request of which the engine has the tokens.

    Args:
        sequences: Its choices, which have the same prompt.

    Attributes:
        done: Resolved to the sequences when all of them have ended. Cancelling it takes them out of the batch.
    """

    def __init__(self, sequences: list[Sequence]) -> None:
        self.sequences = sequences
        self.done: Future[list[Sequence]] = Future()

    @property
    def prompt_length(self) -> int:
        """Number of tokens of the prompt."""
        return len(self.sequences[0].prompt)

    @property
    def ended(self) -> bool:
        """Whether all choices have ended."""
        return all(sequence.finish_reason for sequence in self.sequences)


class Engine:
    """Completes jobs in a thread of its own, from its creation until ``close``.

    Args:
        loaded: The model, which only this thread uses.
        max_batch_tokens: Most tokens of a batch, padding included. A job with more is computed alone.
    """

    def __init__(self, loaded: Loaded, max_batch_tokens: int) -> None:
        self._batch = Batch(loaded)
        self._device = loaded.device
        self._max_tokens = max_batch_tokens
        self._changed = threading.Condition()
        self._waiting: deque[Job] = deque()
        self._running: list[Job] = []
        self._closing = False
        self._fault = ""
        self._thread = threading.Thread(target=self._run, name="transformers", daemon=True)
        self._thread.start()

    def submit(self, job: Job) -> None:
        """Complete a job with others.

        Raises:
            BackendError: The engine has failed, or is closed.
        """
        with self._changed:
            if self._closing or self._fault:
                raise BackendError(self._fault or "the backend was not started, or is closed")
            self._waiting.append(job)
            self._changed.notify()

    def close(self) -> None:
        """End the thread after its current step, and fail all jobs. May be called repeatedly."""
        with self._changed:
            self._closing = True
            self._changed.notify()
        self._thread.join()

    def _run(self) -> None:
        fault = "the backend is closed"
        try:
            while self._wait_for_work():
                if group := self._next_group():
                    self._running += group
                    self._batch.admit([job.sequences for job in group])
                    self._settle()
                if self._batch.sequences:
                    self._batch.step()
                    self._settle()
        except Exception as error:  # the jobs must not wait for a thread that has ended
            fault = self._describe(error)
        with self._changed:
            self._fault = fault
            jobs = [*self._running, *self._waiting]
            self._waiting.clear()
        for job in jobs:
            if job.done.set_running_or_notify_cancel():
                job.done.set_exception(BackendError(fault))

    def _wait_for_work(self) -> bool:
        """Wait until there is something to compute; return False once the engine is to end."""
        with self._changed:
            while not (self._waiting or self._running or self._closing):
                self._changed.wait()
            return not self._closing

    def _settle(self) -> None:
        """Take ended and cancelled sequences out of the batch, and deliver the jobs that are complete."""
        cancelled = {id(sequence) for job in self._running if job.done.cancelled() for sequence in job.sequences}
        self._batch.keep(
            [
                row
                for row, sequence in enumerate(self._batch.sequences)
                if not sequence.finish_reason and id(sequence) not in cancelled
            ]
        )
        for job in self._running:
            if job.ended and job.done.set_running_or_notify_cancel():
                job.done.set_result(job.sequences)
        self._running = [job for job in self._running if not (job.ended or job.done.cancelled())]

    def _next_group(self) -> list[Job]:
        """Return waiting jobs with prompts of similar length that fit into the batch; none if it is too early.

        The oldest one is always among them, so that no job waits forever.
        """
        with self._changed:
            self._waiting = deque(job for job in self._waiting if not job.done.cancelled())
            if self._batch.sequences and not self._batch.mixes_lengths:
                return []
            group: list[Job] = []
            for job in self._waiting:
                if self._is_similar(job, group) and self._fits([*group, job]):
                    group.append(job)
                elif not group:
                    break
            rows = sum(len(job.sequences) for job in group)
            if rows * _WAIT_FOR < len(self._batch.sequences):
                return []
            for job in group:
                self._waiting.remove(job)
            return group

    def _is_similar(self, job: Job, group: list[Job]) -> bool:
        if not group:
            return True
        oldest = group[0].prompt_length
        allowed = max(_SIMILAR, oldest // 4) if self._batch.mixes_lengths else 0
        longest = max(job.prompt_length, *(other.prompt_length for other in group))
        return abs(job.prompt_length - oldest) <= allowed and longest * (len(group) + 1) <= _PROMPT_TOKENS

    def _fits(self, group: list[Job]) -> bool:
        """Return whether the batch with a group surely stays within its limit, with at most half of it padding."""
        new = [sequence for job in group for sequence in job.sequences]
        if not self._batch.sequences and len(group) == 1:
            return True
        lengths = [sequence.most_tokens for sequence in (*self._batch.sequences, *new)]
        tokens = max(lengths) * len(lengths)
        return tokens <= self._max_tokens and tokens <= 2 * sum(lengths)

    def _describe(self, error: Exception) -> str:
        rows, width = len(self._batch.sequences), self._batch.width
        if isinstance(error, InvalidLogitsError):
            return (
                "the model computes values that are not numbers; try another type in a new run: "
                "--set transformers.dtype=float32"
            )
        if out_of_memory(error):
            if self._device.type == "cuda":
                torch.cuda.empty_cache()
            return (
                f"the memory of {self._device} does not suffice for a batch of {rows} rows and {width} tokens each; "
                f"lower --set transformers.max_batch_tokens= (now {self._max_tokens})"
            )
        return f"transformers failed in a batch of {rows} rows: {type(error).__name__}: {first_line(error)}"
