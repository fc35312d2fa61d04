"""LoRA and QLoRA adapters, by peft."""

from __future__ import annotations

import hashlib
import importlib
import logging
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from finetune.model.adapter_layer import compute_in_input_dtype
from finetune.model.lora_targets import all_linear, named_targets
from finetune.model.saving import saveable_generation_config
from finetune.options import Lora
from selfinstruct.common.codec import dumps, loads
from selfinstruct.common.files import first_line, write_folder
from selfinstruct.errors import MissingExtraError, UsageError

__all__ = [
    "BASE", "adapter_settings", "add_adapters", "load_adapters", "merged_state", "nf4_config", "read_base_record",
    "require_mergeable", "save_adapters",
]  # fmt: skip

BASE = "base.json"  # next to the adapters: name and digest of their base model, and its precision in training


def add_adapters(model: Any, lora: Lora) -> Any:
    """Freeze ``model`` and add float32 adapters to its matrices (``finetune.model.lora_targets``).

    Raises:
        UsageError: ``targets`` names no layer, or peft has no adapters for one.
        MissingExtraError: peft is not installed.
    """
    try:
        with _without_warnings():
            from peft import LoraConfig, get_peft_model
    except ImportError:
        raise MissingExtraError("peft", "train") from None
    targets = all_linear(model, lora) if lora.targets.strip() == "all-linear" else named_targets(model, lora)
    config = LoraConfig(
        r=lora.rank,
        lora_alpha=lora.alpha,
        lora_dropout=lora.dropout,
        target_modules=targets.modules,
        target_parameters=targets.parameters or None,
        task_type="CAUSAL_LM",
    )
    try:
        with _without_warnings():
            adapted = get_peft_model(model, config)
    except (ValueError, TypeError, RuntimeError, NotImplementedError, KeyError, AttributeError) as error:
        raise UsageError(f"lora.targets: peft can't add adapters to this model: {first_line(error)}") from None
    compute_in_input_dtype(adapted)
    return adapted


def load_adapters(model: Any, folder: Path) -> Any:
    """Return ``model`` with the adapters in ``folder``, in evaluation mode.

    Raises:
        MissingExtraError: peft is not installed.
        UsageError: The adapters are damaged, or belong to another model.
    """
    for name in ("adapter_config.json", "adapter_model.safetensors"):
        if not (folder / name).is_file():  # peft would look for it on the hub, and accept a pickle
            raise UsageError(f"{folder}: no {name} in it; a folder of adapters has that file and {BASE}")
    try:
        with _without_warnings():
            from peft import PeftModel

            adapted = PeftModel.from_pretrained(model, str(folder))
        _set_weights(adapted, load_file(folder / "adapter_model.safetensors"))
    except ImportError:
        raise MissingExtraError("peft", "train") from None
    except (OSError, ValueError, KeyError, TypeError, RuntimeError, SafetensorError) as error:
        raise UsageError(f"{folder}: can't read the adapters: {first_line(error)}") from None
    return adapted.eval()


def _set_weights(adapted: Any, weights: dict[str, Tensor]) -> None:
    """Set the adapters to the saved weights by their names.

    peft renames them as transformers renames the weights of older checkpoints, and where that renames a current name,
    it loads nothing and warns.

    Raises:
        KeyError: A weight does not belong to an adapter of this model, or one is missing.
    """
    parameters = {name: parameter for name, parameter in adapted.named_parameters() if ".lora_" in name}
    names = {name.replace(".default", ""): name for name in parameters}
    if different := names.keys() ^ weights.keys():
        raise KeyError(min(different))
    with torch.no_grad():
        for name, weight in weights.items():
            parameters[names[name]].copy_(weight)


def adapter_settings(folder: Path) -> tuple[Lora, str]:
    """Return the settings of adapters trained here, to train them further, and the SHA-256 of their weights.

    Raises:
        UsageError: The folder has no adapters, they are damaged, or some are of experts in one parameter.
    """
    held = read_base_record(folder)["held"]
    path = folder / "adapter_config.json"
    try:
        config = loads(path.read_bytes())
        targets = ",".join(config["target_modules"])
        digest = hashlib.sha256((folder / "adapter_model.safetensors").read_bytes()).hexdigest()
        base: Any = "nf4" if held == "nf4" else "full"
        lora = Lora(rank=config["r"], alpha=float(config["lora_alpha"]), targets=targets, base=base)
        parameters = config.get("target_parameters")
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UsageError(f"{path}: can't read the adapters ({first_line(error)})") from None
    if parameters:
        raise UsageError(
            f"{folder}: adapters of parameters ({', '.join(parameters)}) can't be trained further yet; start from the "
            f"merged model (finetune merge {folder} -o ...)"
        )
    return lora, digest


def require_mergeable(model: Any) -> None:
    """Require that ``merged_state`` can merge the adapters of a model: all are of plain linear layers.

    Raises:
        UsageError: One is of something else, such as experts in one parameter.
    """
    for name, module in model.named_modules():
        if hasattr(module, "lora_A") and not isinstance(module.get_base_layer(), nn.Linear):
            raise UsageError(
                f"lora: the adapters of {name.removeprefix('base_model.model.')} can't be merged into a reward model "
                "yet; name other layers with --set lora.targets=..., or train without lora"
            )


def read_base_record(folder: Path) -> dict[str, str]:
    """Return ``name`` and ``digest`` of the adapters' base model, and its precision ``held`` (``full`` or ``nf4``).

    Raises:
        UsageError: The folder has no such record.
    """
    path = folder / BASE
    if not path.is_file():
        raise UsageError(
            f"{folder}: no {BASE} in it; only adapters trained here (--recipe lora or qlora) are known to fit a model"
        )
    try:
        record = loads(path.read_bytes())
        return {name: str(record[name]) for name in ("name", "digest", "held")}
    except (OSError, ValueError, KeyError, TypeError):
        raise UsageError(f"{path}: damaged; it named the model that the adapters belong to") from None


def nf4_config(dtype: torch.dtype) -> dict[str, Any]:
    """Return the keyword arguments that load a model in 4-bit NormalFloat with double quantization.

    Source: Dettmers et al. 2023, arXiv:2305.14314, section 3.

    Raises:
        MissingExtraError: bitsandbytes is not installed.
    """
    from transformers import BitsAndBytesConfig

    try:
        with _without_warnings():
            importlib.import_module("bitsandbytes")
    except ImportError:
        raise MissingExtraError("bitsandbytes", "qlora") from None
    quantization = BitsAndBytesConfig(
        load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_use_double_quant=True, bnb_4bit_compute_dtype=dtype
    )
    return {"quantization_config": quantization}


def merged_state(state: Mapping[str, Tensor], lora: Lora) -> dict[str, Tensor]:
    """Return the weights of a model with its adapters merged, under the names that they have without adapters.

    Args:
        state: The weights of a model with adapters; sums are made in float32.
        lora: The settings of the adapters.
    """
    merged = {}
    for name, weight in state.items():
        if ".lora_" in name:
            continue
        layer, is_adapted, rest = name.partition("base_layer.")
        down, up = (state.get(f"{layer}lora_{part}.default.weight") for part in "AB")
        if is_adapted and rest == "weight" and down is not None and up is not None:
            change = (up.float() @ down.float()) * (lora.alpha / lora.rank)
            weight = (weight.float() + change).to(weight.dtype)  # noqa: PLW2901 the same weight, merged
        merged[f"{layer}{rest}"] = weight
    return merged


@contextmanager
def _without_warnings() -> Iterator[None]:
    """Silence peft, and bitsandbytes, which it imports and which advertises a package that runs code from the hub."""
    logger = logging.getLogger("bitsandbytes")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)


def save_adapters(
    model: Any, tokenizer: Any, folder: Path, base: Any, *, state: dict[str, Tensor] | None = None
) -> None:  # fmt: skip
    """Write the adapters in peft's layout, the tokenizer and the record of the base model, atomically.

    Args:
        base: A ``finetune.model.loading.Base``.
        state: The full weights if the model is sharded (``finetune.training.distributed.full_state_dict``).

    Raises:
        UsageError: ``folder`` exists already.
        SelfInstructError: The files can't be written.
    """
    held = "nf4" if getattr(model.get_base_model(), "is_loaded_in_4bit", False) else "full"
    record = {"name": base.name, "digest": base.digest, "held": held}
    for config in model.peft_config.values():
        config.base_model_name_or_path = base.name
        config.target_modules = sorted(config.target_modules)  # a set, whose order differs between processes
        config.target_parameters = sorted(config.target_parameters) if config.target_parameters else None
    with write_folder(folder) as part, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # peft looks for the configuration of the base model on the hub
        model.save_pretrained(part, safe_serialization=True, save_embedding_layers=False, state_dict=state)
        (part / "README.md").unlink(missing_ok=True)  # an unfilled form
        tokenizer.save_pretrained(part)
        if (generation := model.get_base_model().generation_config) is not None:
            saveable_generation_config(generation)[0].save_pretrained(part)  # for the stop tokens
        (part / BASE).write_bytes(dumps(record).encode("utf-8"))
