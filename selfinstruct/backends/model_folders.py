"""Models of transformers, given by folder or hub name: checks of their files without a heavy package."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from selfinstruct.common.chat_template import ChatTemplate
from selfinstruct.common.codec import loads
from selfinstruct.common.files import describe_os_error
from selfinstruct.errors import ConfigError

__all__ = ["check_model", "expand", "is_path", "label", "read_chat_template"]

_HUB_NAME = re.compile(r"[A-Za-z0-9][\w.-]*/[\w.-]+")


def is_path(model: str) -> bool:
    """Return whether a model is given by its folder, and not by its name on the hub."""
    return model.startswith((".", "/", "~")) or Path(model).exists()


def expand(model: str, key: str) -> Path:
    """Return the folder with ``~`` expanded.

    Raises:
        ConfigError: The home directory is not known.
    """
    try:
        return Path(model).expanduser()
    except RuntimeError:  # "~nobody"
        raise ConfigError(f"{model}: the home directory it begins with is not known", key=key) from None


def label(model: str) -> str:
    """Return the name of a model as completions carry it, without a path."""
    return Path(model).name if is_path(model) else model


def check_model(model: str | None, key: str, *, files: tuple[str, ...] = ("config.json",)) -> None:
    """Check that a model is a folder with one of the given files, or may be a name on the hub.

    Args:
        key: The setting that names the model, for messages.
        files: A folder must have one of these files. The first one is named in the message.

    Raises:
        ConfigError: The message says what to give instead.
    """
    if not model:
        raise ConfigError("which model? Give its folder or its name on the hub: --model NAME", key=key)
    if not is_path(model):
        if not _HUB_NAME.fullmatch(model):
            raise ConfigError(f"{model!r} is neither a folder nor a name on the hub (OWNER/NAME)", key=key)
        return
    folder = expand(model, key)
    if not any((folder / file).is_file() for file in files):
        problem = f"no {files[0]} in it" if folder.is_dir() else "a file" if folder.exists() else "no such folder"
        raise ConfigError(
            f"{folder}: {problem}; give the folder of a model with safetensors, or a name on the hub", key=key
        )


def read_chat_template(folder: Path, key: str) -> ChatTemplate | None:
    """Read the chat template in a model's folder; None if it has none.

    The token that begins every text is left to the tokenizer, unless its configuration says that it adds none.

    Raises:
        ConfigError: The configuration of the tokenizer can't be read.
    """
    config_file, template_file = folder / "tokenizer_config.json", folder / "chat_template.jinja"
    try:
        config = loads(config_file.read_bytes()) if config_file.is_file() else {}
        source = template_file.read_text(encoding="utf-8") if template_file.is_file() else config.get("chat_template")
        bos, eos = (_token_text(config.get(f"{name}_token")) for name in ("bos", "eos"))
        adds_bos = config.get("add_bos_token", True)
    except OSError as error:
        raise ConfigError(f"{folder}: its chat template can't be read: {describe_os_error(error)}", key=key) from None
    except (ValueError, AttributeError):
        raise ConfigError(f"{config_file}: not a JSON object; fetch it again", key=key) from None
    if isinstance(source, list):  # several templates, by name
        by_name = {entry.get("name"): entry.get("template") for entry in source if isinstance(entry, dict)}
        source = by_name.get("default")
    return ChatTemplate(source, "" if adds_bos else bos, eos) if isinstance(source, str) and source else None


def _token_text(value: Any) -> str:
    """Return the text of a token in a tokenizer's configuration, where it is a string or an object that holds one."""
    value = value.get("content") if isinstance(value, Mapping) else value
    return value if isinstance(value, str) else ""
