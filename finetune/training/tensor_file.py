"""Writing of safetensors files piece by piece: the tensors of a checkpoint may be larger than the host's memory."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from selfinstruct.common.codec import dumps

__all__ = ["write_tensors"]

_PIECE = 256 << 20  # bytes that are copied to the host at a time
_NAMES = {
    torch.float64: "F64", torch.float32: "F32", torch.float16: "F16", torch.bfloat16: "BF16", torch.int64: "I64",
    torch.int32: "I32", torch.int16: "I16", torch.int8: "I8", torch.uint8: "U8", torch.bool: "BOOL",
}  # fmt: skip


def write_tensors(path: Path, tensors: Mapping[str, Tensor]) -> None:
    """Write tensors, on any device, to a file that ``safetensors.torch.load_file`` reads.

    ``save_file`` of that package takes all tensors on the host at once.

    Raises:
        OSError: The file can't be written.
    """
    # The format asks for a header padded to 8 bytes; wider elements first leave every tensor aligned.
    ordered = sorted(tensors.items(), key=lambda item: (-item[1].element_size(), item[0]))
    header, offset = {}, 0
    for name, tensor in ordered:
        end = offset + tensor.numel() * tensor.element_size()
        header[name] = {
            "dtype": _NAMES[tensor.dtype], "shape": list(tensor.shape), "data_offsets": [offset, end],
        }  # fmt: skip
        offset = end
    encoded = dumps(header).encode("utf-8")
    encoded += b" " * (-len(encoded) % 8)
    with path.open("wb") as file:
        file.write(len(encoded).to_bytes(8, "little"))
        file.write(encoded)
        for _, tensor in ordered:
            for piece in torch.split(tensor.detach().reshape(-1), _PIECE // tensor.element_size()):
                file.write(piece.cpu().contiguous().view(torch.uint8).numpy().data)
