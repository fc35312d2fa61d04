"""GGUF export, for llama.cpp and programs built on it.

Format: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md. Tensors and keys have llama.cpp's names.
A model that llama.cpp would compute or tokenize differently is refused, because nothing would report it later.
"""

from __future__ import annotations

import json
import math
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from finetune.model.loading import EMBEDDED, load, load_config
from finetune.model.pretokenizers import pre_tokenizer_name
from finetune.model.rotary import ROPE_TENSOR, rope_divisors
from selfinstruct.common.files import require_absent, write_atomic
from selfinstruct.errors import MissingExtraError, UsageError

__all__ = ["DTYPES", "export_gguf"]

DTYPES = ("f32", "f16", "bf16", "q8_0")

_LAYER = {
    "self_attn.q_proj": "attn_q", "self_attn.k_proj": "attn_k", "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "mlp.gate_proj": "ffn_gate", "mlp.up_proj": "ffn_up", "mlp.down_proj": "ffn_down",
    "input_layernorm": "attn_norm", "post_attention_layernorm": "ffn_norm",
}  # fmt: skip
_OUTSIDE_LAYERS = {"model.embed_tokens": "token_embd", "model.norm": "output_norm", "lm_head": "output"}
_FILE_TYPES = {"f32": "ALL_F32", "f16": "MOSTLY_F16", "bf16": "MOSTLY_BF16", "q8_0": "MOSTLY_Q8_0"}
_MAX_F16 = 65504.0


def export_gguf(folder: str | None, out: Path, *, dtype: str = "f16") -> None:
    """Write the model in ``folder`` to the GGUF file ``out``, atomically.

    Args:
        folder: A model as ``finetune.model.loading.load`` accepts it.
        dtype: Precision of matrices, one of ``DTYPES``. Vectors are float32, and with q8_0 so are matrices whose rows
            don't divide into its blocks of 32.

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
    _check_architecture(config, name)
    loaded = load(folder, dtype=config.dtype or torch.float32)
    writer = gguf.GGUFWriter(None, "llama")
    writer.add_name("fine-tuned model")
    writer.add_file_type(gguf.LlamaFileType[_FILE_TYPES[dtype]])
    writer.add_quantization_version(gguf.GGML_QUANT_VERSION)
    _write_shape(writer, loaded.model.config)
    _write_tokenizer(writer, loaded.tokenizer, loaded.model.config.vocab_size, name)
    for label, tensor in _tensors(loaded.model, name):
        kind = _tensor_type(gguf, tensor, dtype)
        size = math.prod(gguf.quants.quant_shape_to_byte_shape(tuple(tensor.shape), kind))
        writer.add_tensor_info(label, tuple(tensor.shape), np.dtype(np.float32), size, raw_dtype=kind)
    write_atomic(out, _chunks(gguf, writer, loaded.model, dtype, name))


def _check_architecture(config: Any, name: str) -> None:
    """Refuse a model that llama.cpp's Llama graph does not compute."""
    if config.model_type != "llama":
        raise UsageError(f"{name}: a model of type {config.model_type!r}; only llama can be written as GGUF")
    if getattr(config, "quantization_config", None) is not None:
        raise UsageError(f"{name}: its weights are quantised; only a model with plain weights can be written as GGUF")
    if config.hidden_act not in ("silu", "swish"):
        raise UsageError(f"{name}: llama.cpp computes a Llama with silu, and this one has {config.hidden_act!r}")
    rope = _rope(config)
    if rope.get("partial_rotary_factor", 1.0) != 1.0:
        raise UsageError(f"{name}: only a part of each head is rotated, which can't be written as GGUF")
    if rope["rope_type"] not in ("default", "llama3"):
        raise UsageError(f"{name}: rotary positions of type {rope['rope_type']!r} can't be written as GGUF")


def _rope(config: Any) -> dict[str, Any]:
    return {"rope_type": "default", "rope_theta": 10_000.0, **(config.rope_parameters or {})}


def _head_size(config: Any) -> int:
    return int(getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads)


def _write_shape(writer: Any, config: Any) -> None:
    size = _head_size(config)
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_key_length(size)
    writer.add_value_length(size)
    writer.add_rope_dimension_count(size)
    writer.add_rope_freq_base(float(_rope(config)["rope_theta"]))
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_vocab_size(config.vocab_size)


def _write_tokenizer(writer: Any, tokenizer: Any, size: int, name: str) -> None:
    """Write the tokenizer, with unused tokens for the rows of the embedding beyond its vocabulary.

    Raises:
        UsageError: llama.cpp would tokenize some text differently, or end a text at another token.
    """
    backend = getattr(tokenizer, "backend_tokenizer", None)
    state: dict[str, Any] = {"model": {"type": type(tokenizer).__name__}}
    if backend is not None:
        state = json.loads(backend.to_str())
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre(_pre_tokenizer(state, backend, name))
    tokens = {token_id: token for token, token_id in tokenizer.get_vocab().items()}
    if max(tokens) >= size:
        raise UsageError(
            f"{name}: its tokenizer has tokens that the model has no embedding for: it can't be written as GGUF"
        )
    types = [1 if token_id in tokens else 5 for token_id in range(size)]  # normal, unused
    for added in state["added_tokens"]:
        types[added["id"]] = 3 if added["special"] else 4  # control, user-defined
    taken = set(tokens.values())
    writer.add_token_list(
        [(tokens.get(token_id) or _unused_token(token_id, taken)).encode() for token_id in range(size)]
    )
    writer.add_token_types(types)
    writer.add_token_merges(
        [merge if isinstance(merge, str) else " ".join(merge) for merge in state["model"]["merges"]]
    )
    writer.add_add_space_prefix(False)
    if tokenizer.eos_token_id is None:
        raise UsageError(
            f"{name}: its tokenizer names no token that ends a text, and llama.cpp would take token 11 for it; set "
            "eos_token in its tokenizer_config.json"
        )
    for role in ("bos", "eos", "pad", "unk"):
        if (token_id := getattr(tokenizer, f"{role}_token_id")) is not None:
            getattr(writer, f"add_{role}_token_id")(token_id)
    bos, eos = _adds_bos_eos(tokenizer, name)
    writer.add_add_bos_token(bos)
    writer.add_add_eos_token(eos)
    if (template := tokenizer.chat_template) is not None:
        several = isinstance(template, dict)
        writer.add_chat_template([{"name": k, "template": v} for k, v in template.items()] if several else template)


def _pre_tokenizer(state: dict[str, Any], backend: Any, name: str) -> str:
    """Return llama.cpp's name for the pre-tokenizer, after checking that the rest is plain byte-level BPE.

    Args:
        state: The content of the tokenizer's tokenizer.json.
    """
    model = state["model"]
    if model["type"] != "BPE":
        raise UsageError(f"{name}: a tokenizer of type {model['type']}; only byte-level BPE can be written as GGUF")
    if (normalizer := state["normalizer"]) is not None:
        raise UsageError(
            f"{name}: its tokenizer normalizes text ({normalizer['type']}), and llama.cpp does not: it can't be "
            "written as GGUF"
        )
    pre_tokenizer = pre_tokenizer_name(backend.pre_tokenizer, ignore_merges=bool(model.get("ignore_merges")))
    options = ("dropout", "continuing_subword_prefix", "end_of_word_suffix", "byte_fallback")
    if pre_tokenizer is None or any(model.get(option) for option in options):
        raise UsageError(
            f"{name}: its tokenizer has a pre-tokenizer for which no name of llama.cpp is known here: it can't be "
            "written as GGUF"
        )
    for added in state["added_tokens"]:
        if added["lstrip"] or added["rstrip"] or added["single_word"]:
            raise UsageError(
                f"{name}: whether its token {added['content']!r} matches depends on the text around it (lstrip, rstrip "
                "or single_word), which a GGUF file can't express"
            )
    return pre_tokenizer


def _unused_token(token_id: int, taken: set[str]) -> str:
    """Return a unique string for a token without one; llama.cpp rejects files with duplicate tokens."""
    token = f"[PAD{token_id}]"
    while token in taken:
        token = f"[{token}]"
    taken.add(token)
    return token


def _adds_bos_eos(tokenizer: Any, name: str) -> tuple[bool, bool]:
    """Return whether the tokenizer puts BOS before each text, and EOS after it."""
    bare, full = tokenizer("a", add_special_tokens=False).input_ids, tokenizer("a").input_ids
    for bos, eos in ((False, False), (True, False), (False, True), (True, True)):
        if full == [tokenizer.bos_token_id] * bos + bare + [tokenizer.eos_token_id] * eos:
            return bos, eos
    raise UsageError(f"{name}: its tokenizer puts more around a text than BOS and EOS: it can't be written as GGUF")


def _tensors(model: Any, name: str) -> Iterator[tuple[str, Tensor]]:
    """Yield each weight with llama.cpp's name, rows in llama.cpp's order."""
    config = model.config
    rope = _rope(config)
    if rope["rope_type"] == "llama3":
        yield ROPE_TENSOR, rope_divisors(config)  # llama.cpp does not compute them itself
    for label, tensor in model.state_dict().items():
        if label != "lm_head.weight" or not config.tie_word_embeddings:
            yield _name(label, name), _permute(label, tensor, config)


def _name(label: str, name: str) -> str:
    stem, _, kind = label.rpartition(".")
    if stem in _OUTSIDE_LAYERS:
        return f"{_OUTSIDE_LAYERS[stem]}.{kind}"
    _, layers, number, inner = [*stem.split(".", 3), "", "", ""][:4]
    if layers != "layers" or inner not in _LAYER:
        raise UsageError(f"{name}: a weight {label}, which llama.cpp does not know")
    return f"blk.{number}.{_LAYER[inner]}.{kind}"


def _permute(label: str, tensor: Tensor, config: Any) -> Tensor:
    """Return query and key weights (and biases) in llama.cpp's order of rows, other tensors unchanged.

    llama.cpp rotates neighbouring pairs of a head, transformers its two halves.
    """
    heads = {"q_proj": config.num_attention_heads, "k_proj": config.num_key_value_heads}
    count = next((count for part, count in heads.items() if f"{part}." in label), None)
    if count is None:
        return tensor
    return tensor.view(count, 2, -1, *tensor.shape[1:]).transpose(1, 2).reshape(tensor.shape)


def _tensor_type(gguf: Any, tensor: Tensor, dtype: str) -> Any:
    plain = tensor.ndim == 1 or (dtype == "q8_0" and tensor.shape[-1] % 32)
    return gguf.GGMLQuantizationType["F32" if plain else dtype.upper()]


def _chunks(gguf: Any, writer: Any, model: Any, dtype: str, name: str) -> Iterator[bytes]:
    """Yield the file piece by piece: the header, then each tensor at the offset that the header gives."""
    with tempfile.TemporaryDirectory() as folder:  # the package can only write to files
        path = Path(folder) / "header"
        writer.write_header_to_file(path)
        writer.write_kv_data_to_file()
        writer.write_ti_data_to_file()
        writer.close()
        header = path.read_bytes()
    yield header + bytes(-len(header) % writer.data_alignment)
    for label, tensor in _tensors(model, name):
        kind, values = _tensor_type(gguf, tensor, dtype), tensor.float().contiguous().numpy()
        if kind.name == "F16" and np.abs(values).max(initial=0.0) > _MAX_F16:
            raise UsageError(f"{name}: the weight {label} has values beyond the range of f16; write it as bf16 or f32")
        data = gguf.quants.quantize(values, kind).tobytes()
        yield data + bytes(-len(data) % writer.data_alignment)
