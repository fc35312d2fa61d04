"""Saving of a model as a folder of transformers, and a trial before training that finds out whether it will work."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Mapping
from copy import deepcopy
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from transformers import GenerationConfig

from finetune.model.quiet import quiet
from selfinstruct.common.files import first_line, write_folder
from selfinstruct.errors import SelfInstructError, UsageError

__all__ = [
    "check_saveable",
    "quantization_method",
    "require_plain_weights",
    "require_space",
    "save",
    "saveable_generation_config",
]

# How tokens are chosen: these values decide which of the others make sense.
_MODE = ("do_sample", "num_beams", "return_dict_in_generate", "use_cache", "cache_implementation")


def save(
    model: Any, tokenizer: Any, folder: Path,
    *, state: Mapping[str, torch.Tensor] | None = None, extra: Mapping[str, bytes] | None = None,
) -> None:  # fmt: skip
    """Write a model that ``AutoModelForCausalLM.from_pretrained`` loads: safetensors, configuration, tokenizer.

    ``folder`` appears atomically, once all files are on disk.

    Args:
        state: The full weights if the model is sharded (``finetune.training.distributed.full_state_dict``).
        extra: Contents of additional files, by name.

    Raises:
        UsageError: ``folder`` exists already.
        SelfInstructError: The files can't be written.
    """
    model.config.name_or_path = ""  # a path of this machine, meaningless elsewhere
    if model.generation_config is not None:
        model.generation_config, _ = saveable_generation_config(model.generation_config)
    with write_folder(folder) as part, quiet():
        try:
            model.save_pretrained(part, state_dict=_without_tied(model, state))
        except SafetensorError as error:
            raise SelfInstructError(f"can't write {folder}: {error}") from None
        tokenizer.save_pretrained(part)
        for name, content in (extra or {}).items():
            (part / name).write_bytes(content)


def check_saveable(model: Any, tokenizer: Any = None) -> list[str]:
    """Find out, before training, whether a model that is trained as a whole can be saved: write all but its weights.

    Args:
        model: A model of transformers without adapters; its weights may be on the meta device.
        tokenizer: Its tokenizer; None leaves it out of the trial.

    Returns:
        Names of the generation settings that transformers refuses to save, which the result will lack.

    Raises:
        UsageError: The model can't be saved, and why.
    """
    require_plain_weights(model.config)
    refused: list[str] = []
    with tempfile.TemporaryDirectory() as folder, quiet():
        try:
            if model.generation_config is not None:
                generation, refused = saveable_generation_config(model.generation_config)
                generation.save_pretrained(folder)
            model.config.save_pretrained(folder)
            if tokenizer is not None:
                tokenizer.save_pretrained(folder)
        except Exception as error:
            # Whatever a library raises here, it would raise again after hours of training.
            raise UsageError(
                f"the trained model could not be saved: {first_line(error)}; repair the configuration of the model"
            ) from error
    return refused


def require_plain_weights(config: Any) -> None:
    """Require that the weights of a model can be trained as a whole.

    Raises:
        UsageError: They are quantised.
    """
    if (method := quantization_method(config)) is not None:
        raise UsageError(
            f"the model's weights are quantised ({method}): they can't be trained, and the result could not be saved; "
            "give the model with its plain weights, or train adapters on these (--recipe lora)"
        )


def quantization_method(config: Any) -> str | None:
    """Return how the weights of a model are quantised (``bitsandbytes``, ``gptq``); None for plain weights."""
    settings = getattr(config, "quantization_config", None)
    if settings is None:
        return None
    method = settings.get("quant_method") if isinstance(settings, Mapping) else getattr(settings, "quant_method", None)
    return str(getattr(method, "value", method))


def saveable_generation_config(generation: GenerationConfig) -> tuple[GenerationConfig, list[str]]:
    """Return a copy without the values that transformers refuses to save, and the names of these values.

    Published models have a temperature without sampling, or settings of a beam search without one. The values are taken
    over one by one, those first that say how tokens are chosen: a greedy configuration stays a greedy one.
    """
    if _is_valid(generation):
        return generation, []
    copy, refused = GenerationConfig(), []
    given = {name: value for name, value in vars(generation).items() if not name.startswith("_")}
    for name in [*(name for name in _MODE if name in given), *(name for name in given if name not in _MODE)]:
        default = getattr(copy, name, None)
        if given[name] == default:
            continue
        setattr(copy, name, deepcopy(given[name]))
        if not _is_valid(copy):
            setattr(copy, name, default)
            refused.append(name)
    return copy, refused


def _is_valid(generation: GenerationConfig) -> bool:
    try:
        with quiet():
            generation.validate(strict=True)
            generation.to_json_string(use_diff=True, keys_to_pop=["compile_config"])
    except (ValueError, TypeError, AttributeError):
        return False
    return True


def require_space(folder: Path, size: int) -> None:
    """Require ``size`` free bytes on the disk of ``folder``.

    Raises:
        UsageError: There are fewer.
    """
    free = shutil.disk_usage(folder).free
    if free < size:
        raise UsageError(
            f"{folder}: the model takes {size / 1e9:,.1f} GB, and the disk has {free / 1e9:,.1f} GB free; free some "
            "space, or name another folder with -o"
        )


def _without_tied(model: Any, state: Mapping[str, torch.Tensor] | None) -> dict[str, torch.Tensor] | None:
    """Drop the duplicates of tied weights from a gathered state, which holds them as copies."""
    if state is None:
        return None
    tied = model.all_tied_weights_keys
    return {name: tensor for name, tensor in state.items() if name not in tied}
