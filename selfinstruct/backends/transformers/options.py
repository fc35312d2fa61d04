"""The options of the transformers backend, and checks of the folders that they name."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, NamedTuple

from selfinstruct.backends import model_folders
from selfinstruct.common.chat_template import ChatTemplate
from selfinstruct.common.codec import loads
from selfinstruct.common.files import describe_os_error
from selfinstruct.errors import ConfigError
from selfinstruct.prompts import Api

__all__ = ["Sources", "TransformersOptions", "load_chat_template", "model_label", "model_sources"]

_MODEL = "transformers.model"
_ADAPTER, _WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
_TOKENIZER = "tokenizer_config.json"
_DEVICE = re.compile(r"auto|cpu|mps|cuda(:\d+)?")


@dataclass(frozen=True, slots=True)
class TransformersOptions:
    """Which model to load, and how.

    Attributes:
        model: Folder of a model with safetensors, its name on the hub, or a folder of adapters. Required.
        base: Folder or hub name of the model that adapters belong to; null is the one that their folder names.
        api: Kind of prompt that suits the model: ``chat`` messages in the model's own template, or raw ``completion``
            prompts.
        device: ``cpu``, ``cuda``, ``cuda:1``, ``mps``, or ``auto`` for the GPU if there is one.
        dtype: Type of weights and activations: ``float32``, ``bfloat16``, ``float16``, or ``auto`` for bfloat16 on a
            GPU and float32 on a CPU.
        context: Most tokens of one request, prompt and completion together; null is the model's own limit.
        max_batch_tokens: Most tokens in one batch, prompts, completions and padding together. They decide how much
            memory keys and values take. A request with more tokens is answered alone.
        concurrency: Requests in flight.
        threads: CPU threads; null is the number of cores.
        local_files_only: Download nothing: a name on the hub must be in the cache of this machine.
        thinking: false asks a model that reasons to answer at once, by the variables of its chat template.
    """

    model: str | None = None
    base: str | None = None
    api: Api = "chat"
    device: str = "auto"
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    context: int | None = None
    max_batch_tokens: int = 32_768
    concurrency: int = 32
    threads: int | None = None
    local_files_only: bool = False
    thinking: bool | None = None

    def __post_init__(self) -> None:
        counts = (self.context, self.max_batch_tokens, self.concurrency, self.threads)
        if any(count is not None and count < 1 for count in counts):
            raise ValueError("context, max_batch_tokens, concurrency and threads must be at least 1")
        if not _DEVICE.fullmatch(self.device):
            raise ValueError("device must be auto, cpu, mps, cuda or cuda:NUMBER")


class Sources(NamedTuple):
    """Where the parts of a model come from, each as a folder or a name on the hub.

    Attributes:
        weights: The model.
        adapters: The folder of adapters to apply to it; None for no adapters.
        tokenizer: The tokenizer and its chat template.
    """

    weights: str
    adapters: Path | None
    tokenizer: str


def model_label(options: TransformersOptions) -> str:
    """Return the model's name as completions carry it, without a path."""
    return model_folders.label(options.model or "")


def load_chat_template(options: TransformersOptions) -> ChatTemplate | None:
    """Read the chat template in a model's folder; None if it has none, or if the model is a name on the hub.

    Raises:
        ConfigError: The folder is not a model's, or its tokenizer's configuration can't be read.
    """
    if not options.model:
        return None
    folder = model_sources(options).tokenizer
    return model_folders.read_chat_template(Path(folder), _MODEL) if model_folders.is_path(folder) else None


def model_sources(options: TransformersOptions) -> Sources:
    """Find the model, its adapters and its tokenizer, by what can be checked without a heavy package.

    A tokenizer next to adapters takes precedence over the base model's: the adapters were trained with it.

    Raises:
        ConfigError: The message says what to give instead.
    """
    if options.model and options.model.endswith(".gguf"):
        raise ConfigError(f"{options.model}: a GGUF file; use it with --backend llamacpp", key=_MODEL)
    model_folders.check_model(options.model, _MODEL, files=("config.json", _ADAPTER))
    model = options.model or ""
    if not model_folders.is_path(model):
        return Sources(model, None, model)
    folder = model_folders.expand(model, _MODEL)
    if not (folder / _ADAPTER).is_file():
        return Sources(str(folder), None, str(folder))
    if not (folder / _WEIGHTS).is_file():
        raise ConfigError(f"{folder}: no {_WEIGHTS} in it; adapters are read from safetensors only", key=_MODEL)
    base = options.base or _recorded_base(folder / _ADAPTER)
    if base == "embedded" or base.endswith(".gguf"):
        raise ConfigError(
            f"{folder}: adapters of a GGUF model; merge them first (finetune merge {folder} -o FOLDER), and give the "
            "merged model",
            key=_MODEL,
        )
    try:
        model_folders.check_model(base, "transformers.base")
    except ConfigError as error:
        raise ConfigError(
            f"{folder}: the model of its adapters: {error}. If it has moved: --set transformers.base=FOLDER",
            key="transformers.base",
        ) from None
    weights = str(model_folders.expand(base, "transformers.base")) if model_folders.is_path(base) else base
    return Sources(weights, folder, str(folder) if (folder / _TOKENIZER).is_file() else weights)


def _recorded_base(file: Path) -> str:
    try:
        name = loads(file.read_bytes())["base_model_name_or_path"]
    except OSError as error:
        raise ConfigError(f"{file}: {describe_os_error(error)}", key=_MODEL) from None
    except (ValueError, TypeError, KeyError):
        name = None
    if not isinstance(name, str) or not name:
        raise ConfigError(
            f"{file}: it does not name the model of the adapters; give it: --set transformers.base=FOLDER", key=_MODEL
        )
    return name
