"""The identity of a model's weights."""

from __future__ import annotations

import hashlib
from pathlib import Path

__all__ = ["weights_digest"]


def weights_digest(path: Path) -> str:
    """Return the SHA-256 of a weights file; for several files in a folder, the SHA-256 of their digests by name.

    Args:
        path: A file, or the folder of a model with safetensors.
    """
    files = [path] if path.is_file() else sorted(path.glob("model*.safetensors")) or sorted(path.glob("*.safetensors"))
    digests = []
    for file in files:
        with file.open("rb") as opened:
            digests.append(hashlib.file_digest(opened, "sha256").hexdigest())
    return digests[0] if len(digests) == 1 else hashlib.sha256("".join(digests).encode()).hexdigest()
