"""Corrections to how transformers reads GGUF files: pre-tokenizer, configuration, and a model that can be saved."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import cache, partialmethod
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import AutoConfig, AutoModelForCausalLM, modeling_gguf_pytorch_utils

from finetune.model.gguf_values import ROPE_ARCHITECTURES, read_values
from finetune.model.pretokenizers import pre_tokenizer_by_name
from selfinstruct.common import gguf
from selfinstruct.errors import UsageError

__all__ = ["as_plain_model", "config_overrides", "patched_reader", "set_pre_tokenizer"]

_VOCABULARY = "tokenizer.ggml."
_WITH_HEAD_SIZE = ("gemma", "gemma2", "gemma3", "qwen3")  # their heads are not as wide as the hidden states divided


def set_pre_tokenizer(backend: Any, path: Path) -> None:
    """Use the pre-tokenizer that a GGUF file names; transformers knows some of them and otherwise uses GPT-2's."""
    metadata = gguf.check(path).texts
    if metadata.get("tokenizer.ggml.model") != "gpt2":
        return  # not byte-level BPE: it has no pre-tokenizer
    name = metadata.get("tokenizer.ggml.pre", "")
    if (pre_tokenizer := pre_tokenizer_by_name(name)) is not None:
        backend.pre_tokenizer, backend.model.ignore_merges = pre_tokenizer
    elif name not in _known_to_transformers():
        raise UsageError(
            f"{path}: its tokenizer has an unknown pre-tokenizer, {name!r}; give the model as a folder of transformers"
        )


def _known_to_transformers() -> Mapping[str, str]:
    try:
        from transformers.integrations.gguf.gguf_tokenizer_mapping import GGUF_PRE_TOKENIZER_SPLITS
    except ImportError:  # transformers before 5.20
        return {}
    splits: Mapping[str, str] = GGUF_PRE_TOKENIZER_SPLITS
    return splits


def config_overrides(path: Path) -> dict[str, Any]:
    """Return the configuration values of a GGUF file that transformers ignores, or that only its tensors reveal.

    Raises:
        UsageError: The scaling of the rotary positions is unknown.
    """
    header = gguf.check(path)
    architecture = header.texts.get("general.architecture", "")
    overrides: dict[str, Any] = {}
    if architecture == "llama":
        # For other architectures the configuration itself says whether there are biases.
        biases = {"attention_bias": "blk.0.attn_q.bias", "mlp_bias": "blk.0.ffn_up.bias"}
        overrides = {key: True for key, tensor in biases.items() if tensor in header.tensors}
    if architecture in _WITH_HEAD_SIZE and (size := header.numbers.get(f"{architecture}.attention.key_length")):
        overrides["head_dim"] = size
    stops = [header.numbers.get(f"{_VOCABULARY}{end}_token_id") for end in ("eos", "eot", "eom")]
    if len(distinct := list(dict.fromkeys(token_id for token_id in stops if token_id is not None))) > 1:
        overrides["eos_token_id"] = distinct
    if architecture in ROPE_ARCHITECTURES:
        with patched_reader():
            overrides |= read_values(path, architecture)
    return overrides


def as_plain_model(loaded: Any, dtype: torch.dtype) -> Any:
    """Move weights into a plain model: transformers can't save one whose weights were read from GGUF or from 4 bits."""
    values = {key: value for key, value in loaded.config.to_dict().items() if not key.startswith("_")}
    config = AutoConfig.for_model(**{**values, "quantization_config": None})
    vars(config).pop("quantization_config", None)
    state = loaded.state_dict()
    with torch.device("meta"):
        auto: Any = AutoModelForCausalLM
        model = auto.from_config(config, dtype=dtype)
    model.load_state_dict(state, assign=True)
    model.tie_weights()
    for name, buffer in loaded.named_buffers():  # buffers outside the state dict, such as rotary frequencies
        owner, _, attribute = name.rpartition(".")
        setattr(model.get_submodule(owner), attribute, buffer)
    model.generation_config = loaded.generation_config
    for parameter in model.parameters():
        parameter.requires_grad_(True)
    return model


@contextmanager
def patched_reader() -> Iterator[None]:
    """Make transformers read weights and configuration without a progress bar, and in a fraction of the time.

    The progress bar ignores the global switch. transformers builds the table of tensor names anew for each module of a
    model, which takes longer than reading the weights: the table is cached. The package gguf turns each token, score
    and merge into numpy arrays, which takes half a minute for 262,000 tokens: the vocabulary is skipped.
    """
    package: Any = importlib.import_module("gguf")
    reader: Any = modeling_gguf_pytorch_utils
    progress_bar, name_map, read_fields = reader.tqdm, package.get_tensor_name_map, package.GGUFReader._build_fields

    reader.tqdm, package.get_tensor_name_map = (lambda items, **_: items), cache(name_map)
    package.GGUFReader._build_fields = partialmethod(_read_fields, package, read_fields)
    try:
        yield
    finally:
        reader.tqdm, package.get_tensor_name_map = progress_bar, name_map
        package.GGUFReader._build_fields = read_fields


def _read_fields(
    reader: Any, package: Any, read_fields: Callable[[Any, int, int], int], offset: int, count: int
) -> int:
    """Read the metadata of a GGUF file, except the vocabulary, of which a configuration needs only the size.

    Args:
        reader: A ``GGUFReader``.
        package: The package gguf.
        read_fields: Its method, which reads entries and returns the offset after them.
        offset: Offset of the first entry.
        count: Number of entries.

    Returns:
        The offset after the last entry.
    """
    view, kinds = memoryview(reader.data), package.GGUFValueType
    for _ in range(count):
        length = int.from_bytes(view[offset : offset + 8], "little")
        at = offset + 8 + length
        key, kind = str(view[offset + 8 : at], "utf-8"), int.from_bytes(view[at : at + 4], "little")
        if kind != kinds.ARRAY or not key.startswith(_VOCABULARY):
            offset = read_fields(reader, offset, 1)
            continue
        size, after = gguf.array_bounds(view, at + 4)
        if key == f"{_VOCABULARY}tokens":
            nothing, types = np.empty(0, dtype=np.uint8), [kinds.ARRAY, kinds.STRING]
            reader.fields[key] = package.ReaderField(offset, key, [nothing], [0] * size, types)
        offset = after
    return offset
