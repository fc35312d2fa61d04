"""GGUF export, for llama.cpp and programs built on it.

Format: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md. Tensors and keys have llama.cpp's names, from the
tables of the package gguf. A model that llama.cpp would compute or tokenize differently is refused
(``architectures``, ``gguf_tokenizer``).
"""

from __future__ import annotations

import math
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from finetune.export.architectures import Architecture, check_architecture, write_shape
from finetune.export.gguf_tensors import tensors
from finetune.export.gguf_tokenizer import model_name, write_tokenizer
from finetune.model.loading import EMBEDDED, load, load_config
from finetune.model.stopping import stop_tokens
from selfinstruct.common.files import require_absent, write_atomic
from selfinstruct.errors import MissingExtraError, UsageError

__all__ = ["DTYPES", "export_gguf"]

DTYPES = ("f32", "f16", "bf16", "q8_0")

_FILE_TYPES = {"f32": "ALL_F32", "f16": "MOSTLY_F16", "bf16": "MOSTLY_BF16", "q8_0": "MOSTLY_Q8_0"}
_MAX_F16 = 65504.0


def export_gguf(
    folder: str | None, out: Path, *, dtype: str = "f16", notify: Callable[[str], None] = lambda _line: None
) -> None:
    """Write the model in ``folder`` to the GGUF file ``out``, atomically.

    Args:
        folder: A model as ``finetune.model.loading.load`` accepts it.
        dtype: Precision of matrices, one of ``DTYPES``. Vectors are float32, and with q8_0 so are matrices whose rows
            don't divide into its blocks of 32.
        notify: Called with a line on each known difference between llama.cpp and transformers.

    Raises:
        UsageError: The architecture or the tokenizer is not supported, or ``out`` exists already.
        MissingExtraError: gguf is not installed.
        SelfInstructError: The file can't be written.
    """
    try:
        import gguf
    except ImportError:
        raise MissingExtraError("gguf", "train") from None
    require_absent(out)
    if out.is_dir():
        raise UsageError(f"{out}: a folder; a GGUF model is one file, such as {out / 'model.gguf'}")
    name, config = folder or EMBEDDED, load_config(folder)
    architecture = check_architecture(config, name)
    loaded = load(folder, dtype=config.dtype or torch.float32)
    config = loaded.model.config
    writer = gguf.GGUFWriter(None, gguf.MODEL_ARCH_NAMES[gguf.MODEL_ARCH[architecture.graph]])
    writer.add_name(model_name(loaded.tokenizer))
    writer.add_file_type(gguf.LlamaFileType[_FILE_TYPES[dtype]])
    writer.add_quantization_version(gguf.GGML_QUANT_VERSION)
    write_shape(writer, config, architecture, notify)
    write_tokenizer(writer, loaded.tokenizer, stop_tokens(loaded.model), config.vocab_size, name, notify)
    for label, tensor in tensors(loaded.model, architecture, name):
        kind = _tensor_type(gguf, tensor, dtype)
        size = math.prod(gguf.quants.quant_shape_to_byte_shape(tuple(tensor.shape), kind))
        writer.add_tensor_info(label, tuple(tensor.shape), np.dtype(np.float32), size, raw_dtype=kind)
    write_atomic(out, _chunks(gguf, writer, loaded.model, architecture, dtype, name))


def _tensor_type(gguf: Any, tensor: Tensor, dtype: str) -> Any:
    plain = tensor.ndim == 1 or (dtype == "q8_0" and tensor.shape[-1] % 32)
    return gguf.GGMLQuantizationType["F32" if plain else dtype.upper()]


def _chunks(gguf: Any, writer: Any, model: Any, architecture: Architecture, dtype: str, name: str) -> Iterator[bytes]:
    """Yield the file piece by piece: the header, then each tensor at the offset that the header gives."""
    with tempfile.TemporaryDirectory() as folder:  # the package can only write to files
        path = Path(folder) / "header"
        writer.write_header_to_file(path)
        writer.write_kv_data_to_file()
        writer.write_ti_data_to_file()
        writer.close()
        header = path.read_bytes()
    yield header + bytes(-len(header) % writer.data_alignment)
    for label, tensor in tensors(model, architecture, name):
        kind, values = _tensor_type(gguf, tensor, dtype), tensor.float().contiguous().numpy()
        if kind.name == "F16" and np.abs(values).max(initial=0.0) > _MAX_F16:
            raise UsageError(f"{name}: the weight {label} has values beyond the range of f16; write it as bf16 or f32")
        data = gguf.quants.quantize(values, kind).tobytes()
        yield data + bytes(-len(data) % writer.data_alignment)
