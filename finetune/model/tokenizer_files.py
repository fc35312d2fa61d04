"""Loading of the tokenizer of a folder or hub name, and what its files lack if that fails."""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path
from typing import Any

from transformers import AutoTokenizer
from transformers.utils.hub import cached_file

from selfinstruct.common.files import first_line
from selfinstruct.errors import UsageError

__all__ = ["read_tokenizer"]

_FILES = ("tokenizer.json", "tekken.json", "vocab.json", "vocab.txt", "*.model", "*.tiktoken")
_TIKTOKEN = re.compile(rb"[A-Za-z0-9+/=]+ \d+\r?\n")  # a token in base64, and its rank


def read_tokenizer(where: str) -> Any:
    """Load the tokenizer of a folder of transformers or a hub name: always as a fast one.

    Raises:
        UsageError: There is no tokenizer, or a package is needed to convert it to a fast one.
        OSError, ValueError, KeyError: transformers can't load it.
    """
    try:
        # Next to tekken.json, transformers would otherwise choose the slow tokenizer of mistral-common.
        tokenizer = AutoTokenizer.from_pretrained(where, trust_remote_code=False, mistral_format=False)
    except (ImportError, OSError, ValueError, KeyError, TypeError) as error:
        if problem := _missing(where):
            raise UsageError(f"{where}: {problem}") from None
        if isinstance(error, ImportError | TypeError) or "instantiate the backend tokenizer" in str(error):
            raise UsageError(f"{where}: its tokenizer can't be loaded: {first_line(error)}") from None
        raise
    tokenizer.init_kwargs.pop("mistral_format", None)  # older versions of transformers would save it
    templates = tokenizer.chat_template
    texts = templates.values() if isinstance(templates, dict) else [templates or ""]
    if not all(isinstance(text, str) for text in texts):
        raise UsageError(f"{where}: its chat_template is neither a template nor a list of templates with names")
    return tokenizer


def _missing(where: str) -> str:
    """Return what a tokenizer lacks that can't be loaded, with the remedy; "" if that is not known."""
    try:
        folder = Path(where) if Path(where).is_dir() else Path(str(cached_file(where, "config.json"))).parent
    except OSError:
        return ""
    if not any(path for pattern in _FILES for path in folder.glob(pattern)):
        return "there is no tokenizer in it; copy tokenizer.json and tokenizer_config.json of the model it comes from"
    if (folder / "tokenizer.json").is_file():
        return ""
    for path in (*sorted(folder.glob("*.model")), *sorted(folder.glob("*.tiktoken"))):
        with path.open("rb") as file:
            package = "tiktoken" if _TIKTOKEN.match(file.read(1024)) else "sentencepiece"
        if importlib.util.find_spec(package) is None:
            return (f"its tokenizer is only a {path.name}, which is read by the package {package}; run: pip install "
                    f"{package}, or save the model with a tokenizer.json")  # fmt: skip
    return ""
