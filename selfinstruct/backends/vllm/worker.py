"""The program of the process that runs vLLM. The process belongs to the ``VllmBackend`` that started it.

It reads JSON objects from standard input, one per line, and writes the same to standard output:

- first ``{"options": …}``, answered by ``{"ready": …}`` or by ``{"failed": "settings" or "engine", "message": …}``;
- then requests, ``{"id": 1, "prompt": …, "sampling": …}`` or with ``messages``, each answered when it is done by
  ``{"id": 1, "choices": [[text, finish reason]], "usage": [prompt, completion, cached]}`` or by ``{"id": 1, "fault": …,
  "message": …}``; a fault is ``engine`` (dead), ``transient``, or the code of a ``RequestError``;
- ``{"abort": 1}`` abandons a request. The process ends at the end of its input.
"""

from __future__ import annotations

import asyncio
import contextlib
import difflib
import json
import os
import signal
import sys
import threading
import time
import traceback
from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path
from typing import IO, Any

from selfinstruct.backends.openai.reasoning import TEMPLATE_VARIABLES
from selfinstruct.backends.vllm.options import VllmOptions, engine_arguments
from selfinstruct.common.config import build
from selfinstruct.records import Sampling

__all__ = ["main"]

_GRACE_S = 20.0  # time for the engine to end after its input has; then everything is killed


def main() -> None:
    """Serve until the input ends. Standard output is reserved for answers: vLLM's own output goes to standard error."""
    if os.getpgrp() != os.getpid():
        sys.exit("this is a part of selfinstruct, started by --backend vllm")
    requests, answers = os.fdopen(os.dup(0), "rb"), os.fdopen(os.dup(1), "wb", buffering=0)
    os.dup2(2, 1)
    with open(os.devnull, "rb") as nothing:
        os.dup2(nothing.fileno(), 0)
    asyncio.run(_serve(requests, answers))


async def _serve(requests: IO[bytes], answers: IO[bytes]) -> None:
    await _Worker(requests).run(answers)


class _SettingsError(Exception):
    """vLLM refuses an argument of the engine."""


class _RequestFaultError(Exception):
    """A request cannot be answered, however often it is sent."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code


class _Worker:
    def __init__(self, requests: IO[bytes]) -> None:
        self._requests = requests
        self._loop = asyncio.get_running_loop()
        self._messages: asyncio.Queue[dict[str, Any] | None] = asyncio.Queue()
        self._tasks: dict[int, asyncio.Task[None]] = {}
        self._answers: Any = None
        self._engine: Any = None
        self._adapter: Any = None
        self._template_variables: dict[str, bool] = {}

    async def run(self, answers: IO[bytes]) -> None:
        self._answers, _ = await self._loop.connect_write_pipe(asyncio.BaseProtocol, answers)
        threading.Thread(target=self._listen, name="requests", daemon=True).start()
        first = await self._messages.get()
        if first is None:
            return
        try:
            self._open(build(VllmOptions, first["options"], "vllm"))
        except Exception as error:
            traceback.print_exc()
            failed = "settings" if isinstance(error, _SettingsError) else "engine"
            self._send({"failed": failed, "message": _line(error)})
        else:
            self._send({"ready": {"context": self._engine.model_config.max_model_len}})
            await self._serve()
        while self._answers.get_write_buffer_size():  # noqa: ASYNC110  (a pipe does not signal that it is empty)
            await asyncio.sleep(0.01)
        if self._engine is not None:
            self._engine.shutdown(timeout=1)  # no request is in flight

    def _listen(self) -> None:
        """Read messages in a thread: loading blocks the loop, and the end of the input must be noticed all the same."""
        for line in self._requests:
            self._loop.call_soon_threadsafe(self._messages.put_nowait, json.loads(line))
        with contextlib.suppress(RuntimeError):  # the loop is closed
            self._loop.call_soon_threadsafe(self._messages.put_nowait, None)
        if self._engine is not None:  # while it loads, there is nothing to shut down
            time.sleep(_GRACE_S)
        os.killpg(0, signal.SIGKILL)

    def _send(self, message: Mapping[str, Any]) -> None:
        self._answers.write(json.dumps(message).encode("ascii") + b"\n")

    def _open(self, options: VllmOptions) -> None:
        """Load the model and create the engine."""
        from vllm.engine.arg_utils import AsyncEngineArgs
        from vllm.platforms import current_platform
        from vllm.usage.usage_lib import UsageContext
        from vllm.v1.engine.async_llm import AsyncLLM

        arguments = engine_arguments(
            options, cpu=current_platform.is_cpu(), kv_space_set=bool(os.environ.get("VLLM_CPU_KVCACHE_SPACE"))
        )
        names = {field.name for field in fields(AsyncEngineArgs)}
        for name in arguments:
            if name not in names:
                near = difflib.get_close_matches(name, names, n=1)
                hint = f" (did you mean {near[0]!r}?)" if near else ""
                raise _SettingsError(f"it has no engine argument {name!r}{hint}")
        try:
            config = AsyncEngineArgs(**arguments).create_engine_config(UsageContext.LLM_CLASS)
        except Exception as error:
            traceback.print_exc()
            raise _SettingsError(_line(error)) from None
        self._engine = AsyncLLM.from_vllm_config(config, usage_context=UsageContext.LLM_CLASS, disable_log_stats=True)
        if options.thinking is False:
            self._template_variables = TEMPLATE_VARIABLES
        if options.lora:
            from vllm.lora.request import LoRARequest

            folder = Path(options.lora).expanduser()
            self._adapter = LoRARequest(folder.name, 1, str(folder))

    async def _serve(self) -> None:
        while (message := await self._messages.get()) is not None:
            if "abort" in message:
                if task := self._tasks.get(message["abort"]):
                    task.cancel()
            else:
                self._tasks[message["id"]] = asyncio.create_task(self._answer(message))
        remaining = list(self._tasks.values())
        for task in remaining:
            task.cancel()
        await asyncio.gather(*remaining, return_exceptions=True)

    async def _answer(self, message: Mapping[str, Any]) -> None:
        """Answer one request, with a fault if it fails."""
        from vllm.exceptions import VLLMClientError
        from vllm.v1.engine.exceptions import EngineDeadError

        try:
            answer = await self._complete(message)
        except _RequestFaultError as error:
            answer = {"fault": error.code, "message": str(error)}
        except EngineDeadError as error:
            answer = {"fault": "engine", "message": _line(error)}
        except (VLLMClientError, ValueError, TypeError) as error:
            answer = {"fault": "bad_request", "message": f"vLLM refuses the request: {_line(error)}"}
        except Exception as error:
            traceback.print_exc()
            answer = {"fault": "transient", "message": _line(error)}
        finally:
            del self._tasks[message["id"]]
        self._send({"id": message["id"], **answer})

    async def _complete(self, message: Mapping[str, Any]) -> dict[str, Any]:
        prompt = await self._render(message)
        sampling = Sampling.from_json(message["sampling"])
        limit, tokens = self._engine.model_config.max_model_len, len(prompt["prompt_token_ids"])
        if tokens + sampling.max_tokens > limit:
            raise _RequestFaultError(
                "context_length",
                f"{tokens} tokens of prompt and {sampling.max_tokens} of answer exceed the context of {limit} tokens",
            )
        last: Any = None
        async for output in self._engine.generate(
            prompt, _sampling_params(sampling), str(message["id"]), lora_request=self._adapter
        ):
            last = output
        if any(output.finish_reason in (None, "abort", "error") for output in last.outputs):
            raise RuntimeError("the engine abandoned the request")
        choices = sorted(last.outputs, key=lambda choice: choice.index)
        return {
            "choices": [[choice.text, choice.finish_reason] for choice in choices],
            "usage": [tokens, sum(len(choice.token_ids) for choice in choices), last.num_cached_tokens or 0],
        }

    async def _render(self, message: Mapping[str, Any]) -> Any:
        """Return the tokens of a raw prompt, or of messages in the model's own template.

        A template is a program by a third party: vLLM runs it in the sandbox of transformers, with a time limit.
        """
        from vllm.exceptions import VLLMValidationError
        from vllm.renderers.params import ChatParams

        renderer = self._engine.renderer
        try:
            if "prompt" in message:
                (prompt,) = await renderer.render_cmpl_async([{"prompt": message["prompt"]}])
            else:
                variables = {"add_generation_prompt": True, "tokenize": False, **self._template_variables}
                params = ChatParams(chat_template_kwargs=variables)
                _, (prompt,) = await renderer.render_chat_async([message["messages"]], params)
        except VLLMValidationError as error:
            if (error.parameter or "").startswith("input_"):  # vLLM stops reading at the limit: the excess is unknown
                limit = self._engine.model_config.max_model_len
                text = f"the prompt alone exceeds the context of {limit} tokens"
                raise _RequestFaultError("context_length", text) from None
            raise
        except TimeoutError:
            raise _RequestFaultError("bad_request", "the model's chat template exceeded its time limit") from None
        return prompt


def _sampling_params(sampling: Sampling) -> Any:
    """Return the sampling of a request as vLLM's parameters."""
    from vllm import SamplingParams
    from vllm.sampling_params import RequestOutputKind, StructuredOutputsParams

    return SamplingParams(
        n=sampling.n,
        max_tokens=sampling.max_tokens,
        temperature=sampling.temperature,
        top_p=sampling.top_p,
        frequency_penalty=sampling.frequency_penalty,
        presence_penalty=sampling.presence_penalty,
        stop=list(sampling.stop),
        seed=sampling.seed,
        output_kind=RequestOutputKind.FINAL_ONLY,
        structured_outputs=None if sampling.schema is None else StructuredOutputsParams(json=dict(sampling.schema)),
    )


def _line(error: BaseException) -> str:
    """Return an error as one line; for an error of pydantic, its message about the first value."""
    text = str(error) or type(error).__name__
    if "\n" in text and "validation error" in text:
        text = text.split("\n", 2)[-1].split(" [type=", 1)[0].removeprefix("  Value error, ")
    return " ".join(text.split())[:400]
