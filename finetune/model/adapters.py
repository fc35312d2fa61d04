"""LoRA and QLoRA: small matrices beside frozen ones, by peft."""

from __future__ import annotations

import importlib
import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from torch import Tensor, nn

from finetune.options import Lora
from selfinstruct.common.codec import dumps, loads
from selfinstruct.common.files import write_folder
from selfinstruct.errors import MissingExtraError, UsageError

__all__ = ["BASE", "apply", "attach", "nf4", "recorded", "save_adapters"]

BASE = "base.json"  # beside the adapters: the model that they belong to, by name and digest, and how it was held


def attach(model: Any, lora: Lora) -> Any:
    """Freeze ``model`` and put adapters of float32 beside its linear layers.

    Raises:
        UsageError: ``targets`` names no layer.
        MissingExtraError: peft is not installed.
    """
    try:
        with _without_advice():
            from peft import LoraConfig, get_peft_model
    except ImportError:
        raise MissingExtraError("peft", "train") from None
    targets: Any = lora.targets.strip()
    if targets != "all-linear":
        targets = [part.strip() for part in targets.split(",")]
        names = _linear_layers(model)
        missing = [one for one in targets if not any(f".{name}".endswith(f".{one}") for name in names)]
        if missing:
            known = sorted({name.rpartition(".")[2] for name in names})
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
    with _without_advice():
        return get_peft_model(model, config)


def _linear_layers(model: Any) -> list[str]:
    """Those that may get adapters: not the head, whose weights the loss takes without asking the layer."""
    head = model.get_output_embeddings()
    return [name for name, one in model.named_modules() if isinstance(one, nn.Linear) and one is not head]


def apply(model: Any, folder: Path) -> Any:
    """``model`` with the adapters in ``folder`` beside its layers.

    Raises:
        MissingExtraError: peft is not installed.
        UsageError: The adapters are damaged, or for another model.
    """
    for name in ("adapter_config.json", "adapter_model.safetensors"):
        if not (folder / name).is_file():  # peft would look for it on the hub, and take a pickle
            raise UsageError(f"{folder}: no {name} in it; adapters are that, {BASE} and what is beside them")
    try:
        with _without_advice():
            from peft import PeftModel

            adapted = PeftModel.from_pretrained(model, str(folder))
    except ImportError:
        raise MissingExtraError("peft", "train") from None
    except (OSError, ValueError, KeyError, TypeError, RuntimeError, SafetensorError) as error:
        raise UsageError(f"{folder}: can't read the adapters: {str(error).splitlines()[0]}") from None
    return adapted.eval()


def recorded(folder: Path) -> dict[str, str]:
    """Of the model that the adapters in ``folder`` belong to: ``name``, ``digest``, and how it was ``held``.

    Raises:
        UsageError: There is no such record.
    """
    path = folder / BASE
    if not path.is_file():
        raise UsageError(
            f"{folder}: no {BASE} in it; only adapters trained here (--recipe lora or qlora) are known to fit a model"
        )
    try:
        found = loads(path.read_bytes())
        return {name: str(found[name]) for name in ("name", "digest", "held")}
    except (OSError, ValueError, KeyError, TypeError):
        raise UsageError(f"{path}: damaged; it named the model that the adapters belong to") from None


def nf4(dtype: torch.dtype) -> dict[str, Any]:
    """What loads a model in 4 bits: NormalFloat, the scales quantised too (arXiv:2305.14314, section 3).

    Raises:
        MissingExtraError: bitsandbytes is not installed.
    """
    from transformers import BitsAndBytesConfig

    try:
        with _without_advice():
            importlib.import_module("bitsandbytes")
    except ImportError:
        raise MissingExtraError("bitsandbytes", "qlora") from None
    quantization = BitsAndBytesConfig(  # type: ignore[no-untyped-call]
        load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_use_double_quant=True, bnb_4bit_compute_dtype=dtype
    )
    return {"quantization_config": quantization}


@contextmanager
def _without_advice() -> Iterator[None]:
    """Without what peft warns of, and bitsandbytes, which it imports: a package that would run code from the hub."""
    talk = logging.getLogger("bitsandbytes")
    level = talk.level
    talk.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        talk.setLevel(level)


def save_adapters(
    model: Any, tokenizer: Any, folder: Path, base: Any, *, state: dict[str, Tensor] | None = None
) -> None:  # fmt: skip
    """Write the adapters in peft's layout, the tokenizer, and which model they belong to, in one step.

    Args:
        base: A ``finetune.model.loading.Base``.
        state: All weights, where the model does not hold them whole (``finetune.training.distributed.gathered``).

    Raises:
        UsageError: There is something at ``folder`` already.
        SelfInstructError: It can't be written.
    """
    held = "nf4" if getattr(model.get_base_model(), "is_loaded_in_4bit", False) else "full"
    record = {"name": base.name, "digest": base.digest, "held": held}
    for config in model.peft_config.values():
        config.base_model_name_or_path = base.name
        config.target_modules = sorted(config.target_modules)  # a set: each process has an order of its own
    with write_folder(folder) as part, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # peft looks for the base model's configuration on the hub
        model.save_pretrained(part, safe_serialization=True, save_embedding_layers=False, state_dict=state)
        (part / "README.md").unlink(missing_ok=True)  # a form that nobody filled in
        tokenizer.save_pretrained(part)
        (part / BASE).write_bytes(dumps(record).encode("utf-8"))
