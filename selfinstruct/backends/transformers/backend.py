"""A model of transformers in this process, on a CPU or a GPU: any causal model, also with adapters.

A thread computes the requests in flight in batches (``engine``). Each request is answered when its own completion has
ended, and its completion depends on its own prompt, sampling and seed.
"""

from __future__ import annotations

import asyncio
from typing import Any

from selfinstruct.backends import threads
from selfinstruct.backends.base import Backend, BackendSpec, Capabilities
from selfinstruct.backends.openai.reasoning import TEMPLATE_VARIABLES
from selfinstruct.backends.transformers.options import (
    TransformersOptions,
    load_chat_template,
    model_label,
    model_sources,
)
from selfinstruct.errors import BackendError, MissingExtraError, RequestError
from selfinstruct.records import Completion, Request, Usage

__all__ = ["TRANSFORMERS", "TransformersBackend", "TransformersOptions"]


class TransformersBackend(Backend):
    """Completions by a model of transformers in this process."""

    def __init__(self, options: TransformersOptions) -> None:
        self._options = options
        self._loaded: Any = None  # the modules of these types load torch
        self._engine: Any = None

    async def start(self) -> None:
        """Load the model.

        Raises:
            ConfigError: There is no such model or device, the model can't be loaded, or it does not write text.
            MissingExtraError: torch, transformers or peft is not installed.
            BackendError: The memory does not suffice.
        """
        model_sources(self._options)  # reports a wrong name before the seconds that the imports take
        self._loaded, self._engine = await asyncio.to_thread(_open, self._options)
        from selfinstruct.backends.transformers.prompts import end_of_turn

        # In this thread, where a chat template has a time limit.
        end = end_of_turn(self._loaded.tokenizer)
        self._stop_ids = self._loaded.stop_ids if end is None else self._loaded.stop_ids | {end}

    async def complete(self, request: Request) -> Completion:
        """Complete one request; see ``Backend.complete`` for the errors.

        A request whose prompt and token limit together exceed the context is refused.
        """
        if self._engine is None:
            raise BackendError("the backend was not started, or is closed")
        from selfinstruct.backends.transformers.engine import Job
        from selfinstruct.backends.transformers.prompts import prompt_tokens, stop_tokens
        from selfinstruct.backends.transformers.text import Sequence

        tokenizer, sampling = self._loaded.tokenizer, request.sampling
        variables = TEMPLATE_VARIABLES if self._options.thinking is False else {}
        prompt = prompt_tokens(tokenizer, request, variables)
        self._check_context(len(prompt), sampling.max_tokens)
        stop_ids = self._stop_ids | stop_tokens(tokenizer, sampling.stop)
        job = Job([Sequence(prompt, sampling, index, tokenizer, stop_ids) for index in range(sampling.n)])
        self._engine.submit(job)
        sequences = await asyncio.wrap_future(job.done)
        usage = Usage(len(prompt), sum(len(sequence.tokens) for sequence in sequences))
        return Completion(tuple(sequence.choice() for sequence in sequences), usage, model_label(self._options))

    def _check_context(self, prompt_tokens: int, max_tokens: int) -> None:
        limit = self._loaded.context
        if limit is not None and prompt_tokens + max_tokens > limit:
            remedy = "begin a new run with a larger --set transformers.context=, or " if self._options.context else ""
            raise RequestError(
                "context_length",
                f"{prompt_tokens} tokens of prompt and {max_tokens} of answer exceed the context of {limit} tokens: "
                f"{remedy}shorten prompt or answer",
            )

    async def close(self) -> None:
        """End the thread after its current step, and free the model."""
        engine, self._engine, self._loaded = self._engine, None, None
        if engine is not None:
            await asyncio.to_thread(engine.close)


def _open(options: TransformersOptions) -> tuple[Any, Any]:
    """Load a model and start its engine."""
    try:
        import torch
        import transformers  # noqa: F401
    except ImportError as error:
        raise MissingExtraError(str(error.name), "train") from None
    from selfinstruct.backends.transformers.engine import Engine
    from selfinstruct.backends.transformers.loading import load

    loaded = load(options)
    if loaded.device.type == "cpu":
        # torch counts the cores of the machine, not the share that a container is granted.
        torch.set_num_threads(options.threads or min(torch.get_num_threads(), threads.cores()))
    return loaded, Engine(loaded, options.max_batch_tokens)


TRANSFORMERS = BackendSpec(
    name="transformers",
    options=TransformersOptions,
    open=lambda options, _: TransformersBackend(options),
    capabilities=lambda options: Capabilities(options.concurrency, raw_prompts=True, reasoning_option="thinking"),
    free_options=frozenset({"device", "max_batch_tokens", "concurrency", "threads", "local_files_only", "thinking"}),
    load_chat_template=load_chat_template,
)
