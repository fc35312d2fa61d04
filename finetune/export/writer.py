"""A trained model for other programs: a folder of transformers or a GGUF file, adapters merged first."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Literal

import torch

from finetune.export.gguf import DTYPES, export_gguf
from finetune.model.adapters import BASE
from finetune.model.loading import load, load_config, save
from finetune.model.merge import merge
from finetune.record import require_complete
from selfinstruct.common.files import reason, require_vacant
from selfinstruct.errors import SelfInstructError, UsageError

__all__ = ["export"]

_TORCH = {"f32": torch.float32, "f16": torch.float16, "bf16": torch.bfloat16}


def export(folder: Path, out: Path, kind: Literal["hf", "gguf"], *, dtype: str | None = None) -> None:
    """Write the model in ``folder`` to ``out``, in one step.

    Args:
        folder: A training run, a folder of transformers, or a .gguf file.
        kind: ``hf`` makes a folder with safetensors, configuration and tokenizer; ``gguf`` one file.
        dtype: Of the matrices: ``f32``, ``f16``, ``bf16``, or ``q8_0`` (GGUF only). Default: as they are in a folder,
            ``f16`` in a file.

    Raises:
        UsageError: There is no such model, it can't be written in this way, or something is at ``out`` already.
        SelfInstructError: The disk refuses.
    """
    if kind == "hf" and dtype not in (None, *_TORCH):
        raise UsageError(f"a folder's weights can't be {dtype}; give one of {', '.join(_TORCH)}")
    if kind == "gguf" and dtype not in (None, *DTYPES):
        raise UsageError(f"a GGUF file's weights can't be {dtype}; give one of {', '.join(DTYPES)}")
    require_complete(folder)
    require_vacant(out)  # before adapters are merged, which takes long
    with _whole(folder, out) as whole:
        if kind == "gguf":
            export_gguf(whole, out, dtype=dtype or "f16")
            return
        loaded = load(whole, dtype=_TORCH[dtype] if dtype else load_config(whole).dtype or torch.float32)
        save(loaded.model, loaded.tokenizer, out)


@contextmanager
def _whole(folder: Path, out: Path) -> Iterator[str]:
    """A model without adapters: the folder itself, or, beside ``out`` for as long as it is needed, a merged one."""
    if not (folder / BASE).is_file():
        yield str(folder)
        return
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        beside = tempfile.TemporaryDirectory(dir=out.parent, prefix=f".{out.name}.")
    except OSError as error:
        raise SelfInstructError(f"can't write {out}: {reason(error)}") from error
    with beside:
        merged = Path(beside.name) / "merged"
        merge(folder, merged)
        yield str(merged)
