"""LoRA and QLoRA: small matrices beside frozen ones, by peft."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import torch
from torch import nn

from finetune.options import Lora
from selfinstruct.codec import dumps
from selfinstruct.errors import MissingExtraError, UsageError
from selfinstruct.files import write_atomic

__all__ = ["BASE", "attach", "nf4", "save_adapters"]

BASE = "base.json"  # beside the adapters: the model that they belong to, by name and digest


def attach(model: Any, lora: Lora) -> Any:
    """Freeze ``model`` and put adapters of float32 beside its linear layers.

    Raises:
        UsageError: ``targets`` names no layer.
        MissingExtraError: peft is not installed.
    """
    try:
        from peft import LoraConfig, get_peft_model, prepare_model_for_kbit_training
    except ImportError:
        raise MissingExtraError("peft", "train") from None
    targets: Any = lora.targets.strip()
    if targets != "all-linear":
        targets = [part.strip() for part in targets.split(",")]
        known = sorted({name.rpartition(".")[2] for name, one in model.named_modules() if isinstance(one, nn.Linear)})
        missing = [one for one in targets if one not in known]
        if missing:
            raise UsageError(
                f"lora.targets: no linear layer is called {', '.join(missing)}; there are {', '.join(known)}"
            )
    config = LoraConfig(
        r=lora.rank,
        lora_alpha=lora.alpha,  # type: ignore[arg-type] # peft divides it, and takes any number
        lora_dropout=lora.dropout,
        target_modules=targets,
        task_type="CAUSAL_LM",
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        if lora.base == "nf4":
            model = prepare_model_for_kbit_training(  # type: ignore[no-untyped-call]
                model, use_gradient_checkpointing=False
            )
        return get_peft_model(model, config)


def nf4(dtype: torch.dtype) -> dict[str, Any]:
    """What loads a model in 4 bits: NormalFloat, the scales quantised too (arXiv:2305.14314, section 3).

    Raises:
        MissingExtraError: bitsandbytes is not installed.
    """
    try:
        import bitsandbytes  # noqa: F401
        from transformers import BitsAndBytesConfig
    except ImportError:
        raise MissingExtraError("bitsandbytes", "qlora") from None
    quantization = BitsAndBytesConfig(  # type: ignore[no-untyped-call]
        load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_use_double_quant=True, bnb_4bit_compute_dtype=dtype
    )
    return {"quantization_config": quantization}


def save_adapters(model: Any, tokenizer: Any, folder: Path, base: Any) -> None:
    """Write the adapters in peft's layout, the tokenizer, and which model they belong to.

    Raises:
        OSError: It can't be written.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # peft looks for the base model's configuration on the hub
        model.save_pretrained(folder, safe_serialization=True, save_embedding_layers=False)
    (folder / "README.md").unlink(missing_ok=True)  # a form that nobody filled in
    tokenizer.save_pretrained(folder)
    write_atomic(folder / BASE, [dumps({"name": base.name, "digest": base.digest}).encode("utf-8")])
