"""A model of the Llama architecture as a GGUF file, for llama.cpp and what is built on it.

Format: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md. Names of tensors and keys are those of llama.cpp.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import torch

from finetune.model import load
from selfinstruct.errors import MissingExtraError, UsageError

__all__ = ["DTYPES", "export_gguf"]

DTYPES = ("f32", "f16", "bf16", "q8_0")

_LAYER = {
    "self_attn.q_proj": "attn_q", "self_attn.k_proj": "attn_k", "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "mlp.gate_proj": "ffn_gate", "mlp.up_proj": "ffn_up", "mlp.down_proj": "ffn_down",
    "input_layernorm": "attn_norm", "post_attention_layernorm": "ffn_norm",
}  # fmt: skip
_OUTSIDE = {"model.embed_tokens": "token_embd", "model.norm": "output_norm", "lm_head": "output"}
# Digits one by one, then GPT-2's expression: what llama.cpp calls smollm. Anything else is not guessed.
_NORMAL, _CONTROL, _USER = 1, 3, 4


def export_gguf(folder: str | None, out: Path, *, dtype: str = "f16") -> None:
    """Write the model in ``folder`` to the GGUF file ``out``, in one step.

    Args:
        folder: What ``finetune.model.load`` takes.
        dtype: Of matrices, one of ``DTYPES``; vectors are float32.

    Raises:
        UsageError: An architecture or a tokenizer that this does not know how to write.
        MissingExtraError: gguf is not installed.
    """
    try:
        import gguf
    except ImportError:
        raise MissingExtraError("gguf", "train") from None
    loaded = load(folder, dtype=torch.float32)
    config = loaded.model.config
    if config.model_type != "llama":
        raise UsageError(f"{folder}: a model of type {config.model_type!r}; only llama can be written as GGUF")
    rope = dict(config.rope_parameters or {})
    if rope.get("rope_type", "default") != "default":
        raise UsageError(f"{folder}: rotary positions of type {rope['rope_type']!r} can't be written as GGUF")
    part = out.with_name(f".{out.name}.part")
    part.parent.mkdir(parents=True, exist_ok=True)
    writer = gguf.GGUFWriter(str(part), "llama")
    try:
        _shape(writer, config, rope)
        _vocabulary(writer, loaded.tokenizer, config.vocab_size, folder)
        for name, tensor in loaded.model.state_dict().items():
            if name == "lm_head.weight" and config.tie_word_embeddings:
                continue
            _tensor(writer, gguf, _name(name), _permuted(name, tensor, config).numpy(), dtype)
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()
        os.replace(part, out)
    except OSError as error:
        raise UsageError(f"can't write {out}: {error.strerror or error}") from None
    finally:
        part.unlink(missing_ok=True)


def _shape(writer: Any, config: Any, rope: dict[str, Any]) -> None:
    size = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    writer.add_name("fine-tuned model")
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_key_length(size)
    writer.add_value_length(size)
    writer.add_rope_dimension_count(size)
    writer.add_rope_freq_base(float(rope.get("rope_theta", 10_000.0)))
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_vocab_size(config.vocab_size)


def _vocabulary(writer: Any, tokenizer: Any, size: int, folder: str | None) -> None:
    model = json.loads(tokenizer.backend_tokenizer.to_str())
    if model["model"]["type"] != "BPE":
        raise UsageError(f"{folder}: a tokenizer of type {model['model']['type']}; only byte-level BPE can be written")
    if model.get("normalizer") is not None or len(tokenizer) > size:
        raise UsageError(f"{folder}: its tokenizer rewrites text, or has more tokens than the model: no GGUF")
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre(_splitting(model.get("pre_tokenizer"), folder))
    added = {one["id"]: one for one in model["added_tokens"]}
    words = {number: word for word, number in tokenizer.get_vocab().items()}
    tokens = [words.get(number, f"[unused{number}]") for number in range(size)]
    kinds = [_NORMAL] * size
    for number, one in added.items():
        kinds[number] = _CONTROL if one["special"] else _USER
    writer.add_token_list([token.encode("utf-8") for token in tokens])
    writer.add_token_types(kinds)
    merges = model["model"]["merges"]
    writer.add_token_merges([one if isinstance(one, str) else " ".join(one) for one in merges])
    for name in ("bos", "eos", "pad", "unk"):
        if (number := getattr(tokenizer, f"{name}_token_id")) is not None:
            getattr(writer, f"add_{name}_token_id")(number)
    writer.add_add_bos_token(tokenizer("a").input_ids[0] == tokenizer.bos_token_id)
    writer.add_add_space_prefix(False)
    if tokenizer.chat_template:
        writer.add_chat_template(tokenizer.chat_template)


def _splitting(pre: Any, folder: str | None) -> str:
    """llama.cpp's name for how a tokenizer cuts text before the merges."""
    steps = pre["pretokenizers"] if pre and pre["type"] == "Sequence" else [pre] if pre else []
    shape = [(one["type"], one.get("individual_digits"), one.get("use_regex")) for one in steps]
    if any(one.get("add_prefix_space") for one in steps):
        raise UsageError(f"{folder}: a tokenizer that puts a space before the text, unknown here")
    if shape == [("Digits", True, None), ("ByteLevel", None, True)]:
        return "smollm"
    if shape == [("ByteLevel", None, True)]:
        return "gpt-2"
    raise UsageError(f"{folder}: a tokenizer that cuts text by {', '.join(one['type'] for one in steps)}, unknown here")


def _name(name: str) -> str:
    stem, _, kind = name.rpartition(".")
    if stem in _OUTSIDE:
        return f"{_OUTSIDE[stem]}.{kind}"
    _, _, number, inner = stem.split(".", 3)
    return f"blk.{number}.{_LAYER[inner]}.{kind}"


def _permuted(name: str, tensor: torch.Tensor, config: Any) -> torch.Tensor:
    """Queries and keys in llama.cpp's order: it rotates neighbours, transformers the halves of a head."""
    heads = {"q_proj": config.num_attention_heads, "k_proj": config.num_key_value_heads}
    count = next((many for part, many in heads.items() if f"{part}." in name), None)
    if count is None:
        return tensor.contiguous()
    return tensor.view(count, 2, -1, *tensor.shape[1:]).transpose(1, 2).reshape(tensor.shape).contiguous()


def _tensor(writer: Any, gguf: Any, name: str, values: np.ndarray[Any, Any], dtype: str) -> None:
    kind = gguf.GGMLQuantizationType[dtype.upper()]
    if values.ndim == 1 or (dtype == "q8_0" and values.shape[-1] % 32):
        kind = gguf.GGMLQuantizationType.F32
    writer.add_tensor(name, gguf.quants.quantize(values, kind), raw_dtype=kind)
