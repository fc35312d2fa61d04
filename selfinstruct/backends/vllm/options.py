"""The options of the vllm backend, their translation into vLLM's arguments, and checks of the files they name."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from selfinstruct.backends import model_folders
from selfinstruct.common.chat_template import ChatTemplate
from selfinstruct.common.codec import loads
from selfinstruct.common.files import describe_os_error
from selfinstruct.errors import ConfigError
from selfinstruct.prompts import Api

__all__ = ["VllmOptions", "check_paths", "engine_arguments", "load_chat_template", "model_label"]

_OPTION_OF_ARGUMENT = {
    "model": "model", "dtype": "dtype", "max_model_len": "max_model_len", "quantization": "quantization",
    "enable_lora": "lora", "tensor_parallel_size": "tensor_parallel_size", "data_parallel_size": "data_parallel_size",
    "gpu_memory_utilization": "gpu_memory_utilization", "kv_cache_memory_bytes": "kv_cache_gib",
    "enforce_eager": "enforce_eager", "enable_prefix_caching": "prefix_caching",
    "speculative_config": "speculative_tokens", "max_num_seqs": "max_num_seqs",
    "max_num_batched_tokens": "max_num_batched_tokens",
}  # fmt: skip
"""Argument of vLLM's engine to the option that sets it."""

_RANKS = (1, 8, 16, 32, 64, 128, 256, 320, 512)
"""Adapter ranks that vLLM can reserve memory for (``MaxLoRARanks``). Its default of 16 is below many adapters' rank."""

_REFUSED = {
    "trust_remote_code": "code that comes with a model is never run",
    "hf_token": "a run keeps its settings on disk; set the environment variable HF_TOKEN",
    "enable_log_requests": "it would write prompts to a log",
    "disable_log_stats": "nobody would read them",
    "served_model_name": "answers carry the model's own name",
    "skip_tokenizer_init": "prompts are text",
}
_PICKLED = ("auto", "pt", "npcache")  # "auto" reads pickles if there are no safetensors
_MODEL = "vllm.model"
_CPU_KV_GIB = 4.0


@dataclass(frozen=True, slots=True)
class VllmOptions:
    """Which model to load, and how.

    Attributes:
        model: Folder of a model with safetensors, or its name on the hub. Required.
        api: Kind of prompt that suits the model: ``chat`` messages in the model's own template, or raw ``completion``
            prompts.
        dtype: Type of weights and activations: ``auto``, ``bfloat16``, ``float16`` or ``float32``.
        max_model_len: Most tokens of one request, prompt and completion together; null is the model's own limit.
        quantization: Quantisation of the weights (``fp8``, ``awq``, …); null follows the model's configuration.
        lora: Folder of an adapter to apply to every request.
        tensor_parallel_size: GPUs over which one copy of the model is divided.
        data_parallel_size: Copies of the model.
        gpu_memory_utilization: Fraction of each GPU's memory to use.
        kv_cache_gib: Memory for keys and values in GiB, instead of that fraction. null on a CPU is 4, or the value of
            the environment variable ``VLLM_CPU_KVCACHE_SPACE``.
        enforce_eager: Neither compile nor record graphs: starts sooner, answers more slowly. null does so on a CPU
            only.
        prefix_caching: Reuse the computation of a prompt for others with the same prefix.
        speculative_tokens: Tokens to guess ahead by looking up n-grams in the prompt; 0 for none.
        max_num_seqs: Most requests in one step of the engine; null leaves it to vLLM.
        max_num_batched_tokens: Most tokens in one step of the engine; null leaves it to vLLM.
        concurrency: Requests in flight.
        timeout_s: Time limit of one request in seconds, from its submission.
        thinking: false asks a model that reasons to answer at once, by the variables of its chat template.
        engine: Further arguments of vLLM's ``AsyncEngineArgs``, by their names there.
    """

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
    thinking: bool | None = None

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
            if name in _OPTION_OF_ARGUMENT:
                raise ValueError(f"engine can't name {name!r}: it is the option {_OPTION_OF_ARGUMENT[name]!r}")
            if name in _REFUSED:
                raise ValueError(f"engine can't name {name!r}: {_REFUSED[name]}")
            if name == "load_format" and str(value).lower() in _PICKLED:
                raise ValueError(f"engine.load_format can't be {value!r}, which reads pickles; leave it out")


def model_label(options: VllmOptions) -> str:
    """Return the model's name as completions carry it, without a path."""
    name = model_folders.label(options.model or "")
    return f"{name}+{Path(options.lora).name}" if options.lora else name


def load_chat_template(options: VllmOptions) -> ChatTemplate | None:
    """Read the chat template in a model's folder; None if it has none, or if the model is a name on the hub.

    Raises:
        ConfigError: The folder is not a model's, or its tokenizer's configuration can't be read.
    """
    if not options.model or not model_folders.is_path(options.model):
        return None
    check_paths(options)
    return model_folders.read_chat_template(Path(options.model).expanduser(), _MODEL)


def engine_arguments(options: VllmOptions, *, cpu: bool, kv_space_set: bool) -> dict[str, Any]:
    """Return the arguments of vLLM's ``AsyncEngineArgs``. Reads the adapter's configuration if there is an adapter.

    Args:
        cpu: Whether vLLM computes on a CPU.
        kv_space_set: Whether the environment sets the memory for keys and values on a CPU.

    Raises:
        ConfigError: The adapter is not usable; see ``_adapter_rank``.
    """
    model = options.model or ""
    arguments: dict[str, Any] = {
        "model": str(Path(model).expanduser()) if model_folders.is_path(model) else model,
        "served_model_name": model_label(options),
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
        # JSON without whitespace: where whitespace is allowed, a small model may fill its answer with line breaks.
        "structured_outputs_config": {"backend": "xgrammar", "disable_any_whitespace": True},
        "load_format": "safetensors",
        "trust_remote_code": False,
        "disable_log_stats": True,
    }
    kv_gib = options.kv_cache_gib or (_CPU_KV_GIB if cpu and not kv_space_set else None)
    if kv_gib is not None:
        arguments["kv_cache_memory_bytes"] = int(kv_gib * 2**30)
    if cpu:
        # Reading a prompt in pieces rewinds its random generator, which a CPU's generator cannot do: the engine would
        # crash.
        arguments["enable_chunked_prefill"] = False
    if options.lora:
        rank = _adapter_rank(Path(options.lora).expanduser())
        arguments |= {"enable_lora": True, "max_lora_rank": min(size for size in _RANKS if size >= rank)}
    if options.speculative_tokens:
        arguments["speculative_config"] = {
            "method": "ngram", "num_speculative_tokens": options.speculative_tokens, "prompt_lookup_max": 4,
        }  # fmt: skip
    return {**arguments, **options.engine}


def check_paths(options: VllmOptions) -> None:
    """Check what can be checked without vLLM: the model's name, and the folders of model and adapter.

    Raises:
        ConfigError: The message says what to give instead.
    """
    model_folders.check_model(options.model, _MODEL)
    if options.lora:
        _adapter_rank(Path(options.lora).expanduser())


def _adapter_rank(folder: Path) -> int:
    """Return the largest rank of an adapter's matrices.

    Raises:
        ConfigError: The folder holds no adapter, or one whose rank vLLM does not support.
    """
    file = folder / "adapter_config.json"
    for needed in (file, folder / "adapter_model.safetensors"):
        if not needed.is_file():
            raise ConfigError(f"{folder}: no {needed.name} in it; give the folder of an adapter", key="vllm.lora")
    try:
        config = loads(file.read_bytes())
        rank = max([config["r"], *(config.get("rank_pattern") or {}).values()])
        fits = 1 <= rank <= _RANKS[-1]
    except OSError as error:
        raise ConfigError(f"{file}: {describe_os_error(error)}", key="vllm.lora") from None
    except (ValueError, TypeError, KeyError, AttributeError):
        raise ConfigError(f"{file}: it does not say the adapter's rank (r)", key="vllm.lora") from None
    if not fits:
        raise ConfigError(
            f"{file}: vLLM takes adapters of rank 1 to {_RANKS[-1]}; this one has {rank}", key="vllm.lora"
        )
    return int(rank)
