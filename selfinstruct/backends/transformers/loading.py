"""Loading of a causal model, its adapters and its tokenizer. Nothing is unpickled, and no code of a model is run."""

from __future__ import annotations

import inspect
import logging
import re
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoModelForImageTextToText,
    AutoTokenizer,
    GenerationConfig,
)
from transformers.utils import logging as transformers_logging
from transformers.utils.hub import cached_file

from selfinstruct.backends.transformers.options import Sources, TransformersOptions, model_sources
from selfinstruct.common.codec import loads
from selfinstruct.common.files import first_line
from selfinstruct.common.weights import weights_digest
from selfinstruct.errors import BackendError, ConfigError, MissingExtraError, UsageError

__all__ = ["Loaded", "load", "out_of_memory"]

_MODEL = "transformers.model"
_WRITES = re.compile(r"(CausalLM|LMHeadModel|ConditionalGeneration|ForImageTextToText)$")
_MEMORY = re.compile(r"out of memory|can't allocate memory|not enough memory", re.IGNORECASE)
_FAULTS = (OSError, ValueError, KeyError, TypeError, AttributeError, ImportError, RuntimeError, SafetensorError)


@dataclass(frozen=True)
class Loaded:
    """A model that is ready to compute.

    Attributes:
        model: The model of transformers.
        tokenizer: Its tokenizer.
        device: Where it computes.
        context: Most tokens of prompt and completion; None for no limit.
        stop_ids: Tokens that end a text, by the generation configuration and the tokenizer.
    """

    model: Any
    tokenizer: Any
    device: torch.device
    context: int | None
    stop_ids: frozenset[int]


def load(options: TransformersOptions) -> Loaded:
    """Load what the options name.

    Raises:
        ConfigError: There is no such model or device, it can't be loaded, or it does not write text.
        MissingExtraError: peft is not installed.
        BackendError: The memory does not suffice.
    """
    sources = model_sources(options)
    device = _device(options.device)
    try:
        with _quiet(), _explained(sources.weights):
            config = _config(sources.weights, options)
            tokenizer = AutoTokenizer.from_pretrained(  # always the fast one, also next to tekken.json
                sources.tokenizer,
                trust_remote_code=False,
                local_files_only=options.local_files_only,
                mistral_format=False,
            )
            model = _weights(sources, config, _dtype(options.dtype, device), options)
            if sources.adapters is not None:
                model = _adapted(model, sources)
            model = model.to(device).eval().requires_grad_(False)
            stop_ids = _stop_ids(model, tokenizer, sources)
    except (torch.OutOfMemoryError, MemoryError, RuntimeError) as error:
        if not out_of_memory(error):
            raise
        raise BackendError(f"{sources.weights} does not fit into the memory of {device}: {first_line(error)}") from None
    if options.api == "chat" and not tokenizer.chat_template:
        raise ConfigError(
            f"{sources.tokenizer}: its tokenizer has no chat template; ask it for completions: --api completion",
            key="transformers.api",
        )
    return Loaded(model, tokenizer, device, _context(config, options), stop_ids)


def out_of_memory(error: BaseException) -> bool:
    """Return whether an error of torch means that memory ran out."""
    return isinstance(error, torch.OutOfMemoryError | MemoryError) or (
        isinstance(error, RuntimeError) and bool(_MEMORY.search(str(error)))
    )


def _device(name: str) -> torch.device:
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    device = torch.device(name)
    available = {"cuda": torch.cuda.device_count(), "mps": int(torch.backends.mps.is_available()), "cpu": 1}
    if (device.index or 0) >= available[device.type]:
        raise ConfigError(
            f"torch finds no device {name!r} here: --set transformers.device=auto", key="transformers.device"
        )
    return device


def _dtype(name: str, device: torch.device) -> torch.dtype:
    if name == "auto":
        return torch.float32 if device.type == "cpu" else torch.bfloat16
    dtype: torch.dtype = getattr(torch, name)
    return dtype


def _config(model: str, options: TransformersOptions) -> Any:
    """Read the configuration of a model, and require that it writes text.

    Raises:
        ConfigError: It is of another kind.
    """
    config = AutoConfig.from_pretrained(model, trust_remote_code=False, local_files_only=options.local_files_only)
    names = config.architectures or []
    if config.is_encoder_decoder or not all(_WRITES.search(name) for name in names) or _auto_class(config) is None:
        kind = names[0] if names else config.model_type
        raise ConfigError(f"{model}: {kind} is not a causal language model, so it can't complete text", key=_MODEL)
    return config


def _auto_class(config: Any) -> Any:
    classes = (AutoModelForCausalLM, AutoModelForImageTextToText)
    return next((auto for auto in classes if type(config) in auto._model_mapping), None)


def _weights(sources: Sources, config: Any, dtype: torch.dtype, options: TransformersOptions) -> Any:
    model, info = _auto_class(config).from_pretrained(
        sources.weights, config=config, dtype=dtype, use_safetensors=True, trust_remote_code=False,
        output_loading_info=True, local_files_only=options.local_files_only,
    )  # fmt: skip
    if missing := sorted(info["missing_keys"]):  # transformers initialises them at random
        raise ConfigError(
            f"{sources.weights}: {len(missing)} of its weights are missing, such as {missing[0]}: fetch it again",
            key=_MODEL,
        )
    parameters = inspect.signature(model.forward).parameters
    if not model._supports_default_dynamic_cache() or not {"past_key_values", "cache_params"} & parameters.keys():
        raise ConfigError(
            f"{sources.weights}: {type(model).__name__} keeps its state in a form that this backend does not know; try "
            "--backend vllm",
            key=_MODEL,
        )
    return model


def _adapted(model: Any, sources: Sources) -> Any:
    """Return the model with adapters merged into its weights.

    Raises:
        ConfigError: They belong to another model.
        MissingExtraError: peft is not installed.
    """
    folder = sources.adapters
    _check_base(sources)
    try:
        from peft import PeftModel
    except ImportError:
        raise MissingExtraError("peft", "train") from None
    with warnings.catch_warnings(record=True) as remarks:
        warnings.simplefilter("always")
        adapted = PeftModel.from_pretrained(model, str(folder))
    if unread := next((text for remark in remarks if "missing adapter keys" in (text := str(remark.message))), None):
        raise ConfigError(f"{folder}: its adapters do not fit {sources.weights}: {unread[:200]}", key=_MODEL)
    return adapted.merge_and_unload()


def _check_base(sources: Sources) -> None:
    """Require the weights that adapters were trained on, where their folder records them (``finetune``'s base.json).

    Raises:
        ConfigError: The base model has other weights.
    """
    assert sources.adapters is not None
    record = sources.adapters / "base.json"
    if not record.is_file():
        return
    path = Path(sources.weights)
    if not path.exists():  # a hub name: use the folder of the cache
        path = Path(str(cached_file(sources.weights, "config.json"))).parent
    if loads(record.read_bytes())["digest"] != weights_digest(path):
        raise ConfigError(
            f"{sources.weights} does not have the weights that {sources.adapters} was trained on; name the folder that "
            "has: --set transformers.base=FOLDER",
            key="transformers.base",
        )


def _context(config: Any, options: TransformersOptions) -> int | None:
    own = getattr(config.get_text_config(decoder=True), "max_position_embeddings", None)
    limit = own if isinstance(own, int) and own > 0 else None
    if limit is not None and options.context is not None and options.context > limit:
        raise ConfigError(
            f"the model's context is {limit} tokens: --set transformers.context={limit}, or less",
            key="transformers.context",
        )
    return options.context or limit


def _stop_ids(model: Any, tokenizer: Any, sources: Sources) -> frozenset[int]:
    """Return the tokens that end a text, by the generation configuration and the tokenizer.

    The generation configuration next to adapters takes precedence: ``finetune`` writes it for its models.
    """
    generation = model.generation_config
    if sources.adapters is not None and (sources.adapters / "generation_config.json").is_file():
        generation = GenerationConfig.from_pretrained(sources.adapters)
    ids = generation.eos_token_id if generation is not None else None
    if ids is None:
        ids = model.config.get_text_config(decoder=True).eos_token_id
    listed = [] if ids is None else [ids] if isinstance(ids, int) else list(ids)
    return frozenset([*listed, *([] if tokenizer.eos_token_id is None else [tokenizer.eos_token_id])])


@contextmanager
def _explained(model: str) -> Iterator[None]:
    """Turn errors of transformers and peft into a ``ConfigError`` that names the model."""
    try:
        yield
    except UsageError:
        raise
    except _FAULTS as error:
        if out_of_memory(error):
            raise
        raise ConfigError(
            f"can't load the model {model!r}: {first_line(error)}; give a folder of transformers with safetensors, or "
            "a name on the hub (which needs a network)",
            key=_MODEL,
        ) from None


@contextmanager
def _quiet() -> Iterator[None]:
    """Silence progress bars, warnings and logs, also of bitsandbytes, which peft imports."""
    loggers = [logging.getLogger(name) for name in ("huggingface_hub", "bitsandbytes")]
    levels, verbosity = [logger.level for logger in loggers], transformers_logging.get_verbosity()
    bars = transformers_logging.is_progress_bar_enabled()
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
        transformers_logging.set_verbosity(verbosity)
        if bars:
            transformers_logging.enable_progress_bar()
