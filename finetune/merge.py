"""Adapters into the weights that they were trained beside, with a report of what that changed."""

from __future__ import annotations

import os
import shutil
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from finetune.adapters import BASE
from finetune.model import Loaded, load, save
from selfinstruct.codec import loads
from selfinstruct.errors import RunChangedError, UsageError

__all__ = ["Parity", "merge"]

_TEXTS = (
    "The capital of France is",
    "Write a short poem about the sea.\n",
    "def add(a, b):\n    return",
    "Question: What is 12 times 3?\nAnswer:",
)


@dataclass(frozen=True)
class Parity:
    """A merged model beside the one with adapters, over a few texts.

    Attributes:
        largest: Largest difference of two logits.
        agreement: Share of places at which both hold the same token for the likeliest.
        places: How many places were compared.
    """

    largest: float
    agreement: float
    places: int


def merge(folder: Path, out: Path, *, base: str | None = None) -> Parity:
    """Write the whole model that the adapters in ``folder`` make of their base, into ``out``.

    Args:
        base: Where the base model lies now, if not where it lay. It must have the weights that were recorded.

    Raises:
        UsageError: There are no adapters in ``folder``, or something in ``out``.
        RunChangedError: The base is another one.
    """
    record = folder / BASE
    if not record.is_file():
        raise UsageError(
            f"{folder}: no {BASE} in it; only adapters trained here (--recipe lora or qlora) can be merged"
        )
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise UsageError(f"{out}: there is something here already; name another folder with -o")
    recorded = loads(record.read_bytes())
    name = base or recorded["name"]
    loaded = load(name, dtype=torch.float32)
    if loaded.base.digest != recorded["digest"]:
        raise RunChangedError(
            f"{name} does not have the weights that {folder} was trained beside; name the folder that has with --base"
        )
    merged, parity = _merged(loaded, folder)
    part = out.with_name(f".{out.name}.part")
    shutil.rmtree(part, ignore_errors=True)
    save(merged, loaded.tokenizer, part)
    trained = folder / "finetune.json"
    if trained.is_file():
        shutil.copy(trained, part / trained.name)
    if out.exists():
        out.rmdir()
    os.replace(part, out)
    return parity


def _merged(loaded: Loaded, folder: Path) -> tuple[Any, Parity]:
    from peft import PeftModel

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        adapted = PeftModel.from_pretrained(loaded.model, str(folder)).eval()
    texts = [loaded.tokenizer(text, return_tensors="pt").input_ids for text in _TEXTS]
    with torch.no_grad():
        before = [adapted(ids).logits[0].float() for ids in texts]
        merged = adapted.merge_and_unload()
        after = [merged(ids).logits[0].float() for ids in texts]
    places = sum(len(one) for one in before)
    same = sum(int((one.argmax(-1) == other.argmax(-1)).sum()) for one, other in zip(before, after, strict=True))
    largest = max(float((one - other).abs().max()) for one, other in zip(before, after, strict=True))
    return merged, Parity(largest, same / places, places)
