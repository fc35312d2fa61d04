"""Export of a trained model for other programs, with adapters merged first."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Literal

import torch

from finetune.export.gguf import DTYPES, export_gguf
from finetune.export.merge import merge_adapters
from finetune.model.adapters import BASE
from finetune.model.loading import load, load_config
from finetune.model.saving import save
from finetune.record import require_complete
from selfinstruct.common.files import describe_os_error, require_absent
from selfinstruct.errors import SelfInstructError, UsageError

__all__ = ["export_model"]

_TORCH_DTYPES = {"f32": torch.float32, "f16": torch.float16, "bf16": torch.bfloat16}


def export_model(
    folder: Path, out: Path, kind: Literal["hf", "gguf"] = "hf",
    *, dtype: str | None = None, notify: Callable[[str], None] = lambda _line: None,
) -> None:  # fmt: skip
    """Write the model in ``folder`` to ``out``, atomically.

    Args:
        folder: A training run, a folder of transformers, or a .gguf file.
        out: The folder or file to create.
        kind: ``hf`` for a folder with safetensors, configuration and tokenizer; ``gguf`` for a single file.
        dtype: Precision of the matrices: ``f32``, ``f16``, ``bf16``, or ``q8_0`` (GGUF only). Default: the precision of
            the model for ``hf``, ``f16`` for ``gguf``.
        notify: Called with a line on each known difference between llama.cpp and transformers.

    Raises:
        UsageError: There is no such model, it can't be written in this format, or ``out`` exists already.
        SelfInstructError: The files can't be written.
    """
    if kind == "hf" and dtype not in (None, *_TORCH_DTYPES):
        raise UsageError(f"a folder's weights can't be {dtype}; give one of {', '.join(_TORCH_DTYPES)}")
    if kind == "gguf" and dtype not in (None, *DTYPES):
        raise UsageError(f"a GGUF file's weights can't be {dtype}; give one of {', '.join(DTYPES)}")
    require_complete(folder)
    require_absent(out)  # before adapters are merged, which takes long
    with _merged(folder, out) as model:
        if kind == "gguf":
            export_gguf(model, out, dtype=dtype or "f16", notify=notify)
            return
        loaded = load(model, dtype=_TORCH_DTYPES[dtype] if dtype else load_config(model).dtype or torch.float32)
        save(loaded.model, loaded.tokenizer, out)


@contextmanager
def _merged(folder: Path, out: Path) -> Iterator[str]:
    """Yield a model without adapters: the folder itself, or a temporary merged model next to ``out``."""
    if not (folder / BASE).is_file():
        yield str(folder)
        return
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        temporary = tempfile.TemporaryDirectory(dir=out.parent, prefix=f".{out.name}.")
    except OSError as error:
        raise SelfInstructError(f"can't write {out}: {describe_os_error(error)}") from error
    with temporary:
        merged = Path(temporary.name) / "merged"
        merge_adapters(folder, merged)
        yield str(merged)
