"""Models of every kind: the embedded one, GGUF files, folders and hub names; and saving what came out."""

from __future__ import annotations

import hashlib
import importlib
import mmap
import os
import struct
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from tokenizers import pre_tokenizers
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, modeling_gguf_pytorch_utils
from transformers.utils import logging

from finetune.options import Lora
from selfinstruct import embedded
from selfinstruct.errors import MissingExtraError, UsageError

__all__ = ["EMBEDDED", "Base", "Loaded", "load", "load_config", "load_tokenizer", "save"]

EMBEDDED = "embedded"


@dataclass(frozen=True)
class Base:
    """The model that a run begins with.

    Attributes:
        name: As it was asked for.
        digest: SHA-256 of its weights.
    """

    name: str
    digest: str


@dataclass(frozen=True)
class Loaded:
    """A model and its tokenizer, as transformers has them (the model within adapters of peft, if there are any)."""

    model: Any
    tokenizer: Any
    base: Base


def load(
    name: str | None, *, dtype: torch.dtype, device: torch.device | str = "cpu", lora: Lora | None = None
) -> Loaded:
    """Load a causal language model.

    Args:
        name: None or ``embedded``, a .gguf file (its weights are taken out of their quantisation), a folder or a hub
            name with safetensors. Nothing is unpickled, and no code of a model's own is run.
        dtype: Of the weights.
        lora: Put adapters around it, and freeze the rest.

    Raises:
        UsageError: There is no such model, or it is of a kind that can't be loaded.
    """
    where, options = _source(name)
    if lora is not None and lora.base == "nf4":
        from finetune.adapters import nf4

        options = {**options, **nf4(dtype)}
    with _quiet(), _explained(name):
        model = AutoModelForCausalLM.from_pretrained(
            where, dtype=dtype, attn_implementation="sdpa", use_safetensors=True, trust_remote_code=False, **options
        )
    if "gguf_file" in options:
        model = _plain(model, dtype)
    tokenizer = load_tokenizer(name)
    if lora is None or lora.base == "full":
        model = model.to(device)  # type: ignore[arg-type] # the stubs of transformers' wrapper lose ``self``
    base = Base(name or EMBEDDED, _digest(name, model))
    if lora is not None:
        from finetune.adapters import attach

        model = attach(model, lora)
    return Loaded(model, tokenizer, base)


def load_tokenizer(name: str | None) -> Any:
    """The tokenizer of a model.

    Raises:
        UsageError: As ``load``.
    """
    where, options = _source(name)
    with _quiet(), _explained(name):
        tokenizer = AutoTokenizer.from_pretrained(where, trust_remote_code=False, **options)
    if "gguf_file" in options and _splitting(Path(where) / options["gguf_file"]) == "smollm":
        # transformers knows one way of cutting text for all GGUF files of this kind; this one cuts digits apart first.
        backend = tokenizer.backend_tokenizer
        backend.pre_tokenizer = pre_tokenizers.Sequence(
            [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
        )
    return tokenizer


def _splitting(path: Path) -> str:
    """What a GGUF file says of how its tokenizer cuts text: the string under ``tokenizer.ggml.pre``."""
    key = b"tokenizer.ggml.pre"
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as view:
        at = view.find(key) + len(key) + 4  # the key, then the type of the value
        if at < len(key) + 4:
            return ""
        (length,) = struct.unpack_from("<Q", view, at)
        return view[at + 8 : at + 8 + min(length, 64)].decode("utf-8", "replace")


def load_config(name: str | None) -> Any:
    """The configuration of a model: its shape.

    Raises:
        UsageError: As ``load``.
    """
    where, options = _source(name)
    with _quiet(), _explained(name):
        return AutoConfig.from_pretrained(where, trust_remote_code=False, **options)


def save(model: Any, tokenizer: Any, folder: Path) -> None:
    """Write a checkpoint that ``AutoModelForCausalLM.from_pretrained`` loads: safetensors, configuration, tokenizer.

    Raises:
        OSError: It can't be written.
    """
    model.config.name_or_path = ""  # a path of this machine tells nobody else anything
    with _quiet():
        model.save_pretrained(folder)
        tokenizer.save_pretrained(folder)
    for path in folder.glob("*.safetensors"):
        path.chmod(0o666 & ~_umask())  # safetensors makes files that nobody else may read


def _source(name: str | None) -> tuple[str, dict[str, Any]]:
    """What ``from_pretrained`` wants."""
    if name is None or name == EMBEDDED:
        path = embedded.path()
    elif name.endswith(".gguf"):
        path = Path(name)
        if not path.is_file():
            raise UsageError(f"{name}: no such file")
    else:
        if Path(name).exists() and not (Path(name) / "config.json").is_file():
            if (Path(name) / "adapter_config.json").is_file():
                raise UsageError(
                    f"{name} holds adapters, no whole model; merge them first: finetune merge {name} -o DIR"
                )
            raise UsageError(
                f"{name}: no config.json in it; give the folder of a model of transformers, or a .gguf file"
            )
        return name, {}
    try:
        for needed in ("accelerate", "gguf"):  # by transformers, to read GGUF
            importlib.import_module(needed)
    except ImportError as error:
        raise MissingExtraError(str(error.name), "train") from None
    return str(path.parent), {"gguf_file": path.name}


def _plain(loaded: Any, dtype: torch.dtype) -> Any:
    """The same weights in a model that knows nothing of GGUF: one with that record can't be saved."""
    config = AutoConfig.for_model(**{**loaded.config.to_dict(), "quantization_config": None})
    del config.quantization_config
    state = loaded.state_dict()
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(  # type: ignore[no-untyped-call]
            config, dtype=dtype, attn_implementation="sdpa"
        )
    model.load_state_dict(state, assign=True)
    model.tie_weights()
    for name, buffer in loaded.named_buffers():  # those that no state dict holds, such as rotary frequencies
        owner, _, last = name.rpartition(".")
        setattr(model.get_submodule(owner), last, buffer)
    model.generation_config = loaded.generation_config
    for parameter in model.parameters():
        parameter.requires_grad_(True)
    return model


def _digest(name: str | None, model: Any) -> str:
    """SHA-256 of the weight files, or, of a hub name, of the weights' revision."""
    if name is None or name == EMBEDDED:
        return embedded.SHA256
    path = Path(name)
    files = [path] if path.is_file() else sorted(path.glob("*.safetensors"))
    if not files:
        return hashlib.sha256(str(getattr(model.config, "_commit_hash", None) or name).encode()).hexdigest()
    sha = hashlib.sha256()
    for file in files:
        with file.open("rb") as opened:
            sha.update(hashlib.file_digest(opened, "sha256").digest())
    return sha.hexdigest() if path.is_dir() else hashlib.sha256(path.read_bytes()).hexdigest()


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


@contextmanager
def _quiet() -> Iterator[None]:
    """Without the bars and notes of transformers."""
    before, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()  # type: ignore[no-untyped-call]
    logging.disable_progress_bar()  # type: ignore[no-untyped-call]
    reading: Any = modeling_gguf_pytorch_utils
    plain = reading.tqdm  # the one bar that does not ask whether bars are wanted
    reading.tqdm = lambda items, **_: items
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        reading.tqdm = plain
        logging.set_verbosity(before)
        if bars:
            logging.enable_progress_bar()  # type: ignore[no-untyped-call]


@contextmanager
def _explained(name: str | None) -> Iterator[None]:
    try:
        yield
    except (OSError, ValueError, KeyError, SafetensorError) as error:
        what = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise UsageError(
            f"can't load the model {name or EMBEDDED!r}: {what}; give a folder of transformers with safetensors, a "
            ".gguf file, or a hub name (which needs a network)"
        ) from None
