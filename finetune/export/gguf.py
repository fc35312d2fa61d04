"""A model of the Llama architecture as a GGUF file, for llama.cpp and what is built on it.

Format: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md. Names of tensors and keys are those of llama.cpp.
What llama.cpp would compute or read in another way is refused: nothing would report it later.
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
from finetune.model.pretokenizers import name_of
from finetune.model.rotary import SCALES, scales
from selfinstruct.common.files import require_vacant, write_atomic
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
_FILE_TYPES = {"f32": "ALL_F32", "f16": "MOSTLY_F16", "bf16": "MOSTLY_BF16", "q8_0": "MOSTLY_Q8_0"}
_LARGEST_F16 = 65504.0


def export_gguf(folder: str | None, out: Path, *, dtype: str = "f16") -> None:
    """Write the model in ``folder`` to the GGUF file ``out``, in one step.

    Args:
        folder: What ``finetune.model.loading.load`` takes.
        dtype: Of matrices, one of ``DTYPES``; vectors are float32, and so are matrices whose rows can't be cut into the
            blocks of 32 that q8_0 is made of.

    Raises:
        UsageError: An architecture or a tokenizer that GGUF can't hold, or that this does not know how to write;
            something is at ``out`` already.
        MissingExtraError: gguf is not installed.
        SelfInstructError: The file can't be written.
    """
    try:
        import gguf
    except ImportError:
        raise MissingExtraError("gguf", "train") from None
    require_vacant(out)
    if out.is_dir():
        raise UsageError(f"{out}: a folder; a GGUF model is one file, such as {out / 'model.gguf'}")
    name, config = folder or EMBEDDED, load_config(folder)
    _check(config, name)
    loaded = load(folder, dtype=config.dtype or torch.float32)
    writer = gguf.GGUFWriter(None, "llama")
    writer.add_name("fine-tuned model")
    writer.add_file_type(gguf.LlamaFileType[_FILE_TYPES[dtype]])
    writer.add_quantization_version(gguf.GGML_QUANT_VERSION)
    _shape(writer, loaded.model.config)
    _vocabulary(writer, loaded.tokenizer, loaded.model.config.vocab_size, name)
    for label, tensor in _tensors(loaded.model, name):
        kind = _kind(gguf, tensor, dtype)
        held = math.prod(gguf.quants.quant_shape_to_byte_shape(tuple(tensor.shape), kind))
        writer.add_tensor_info(label, tuple(tensor.shape), np.dtype(np.float32), held, raw_dtype=kind)
    write_atomic(out, _chunks(gguf, writer, loaded.model, dtype, name))


def _check(config: Any, name: str) -> None:
    """Refuse what llama.cpp's graph of a Llama does not compute."""
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


def _shape(writer: Any, config: Any) -> None:
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


def _vocabulary(writer: Any, tokenizer: Any, size: int, name: str) -> None:
    """The tokenizer, and tokens that are never used for the rows of the embedding beyond its own.

    Raises:
        UsageError: llama.cpp would read some text as other tokens, or end it at another.
    """
    backend = getattr(tokenizer, "backend_tokenizer", None)
    plain: dict[str, Any] = {"model": {"type": type(tokenizer).__name__}}
    if backend is not None:
        plain = json.loads(backend.to_str())
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre(_splitting(plain, backend, name))
    words = {number: word for word, number in tokenizer.get_vocab().items()}
    if max(words) >= size:
        raise UsageError(
            f"{name}: its tokenizer has tokens that the model has no embedding for: it can't be written as GGUF"
        )
    kinds = [1 if number in words else 5 for number in range(size)]  # normal, unused
    for one in plain["added_tokens"]:
        kinds[one["id"]] = 3 if one["special"] else 4  # control, user-defined
    taken = set(words.values())
    writer.add_token_list([(words.get(number) or _unused(number, taken)).encode() for number in range(size)])
    writer.add_token_types(kinds)
    writer.add_token_merges([one if isinstance(one, str) else " ".join(one) for one in plain["model"]["merges"]])
    writer.add_add_space_prefix(False)
    if tokenizer.eos_token_id is None:
        raise UsageError(
            f"{name}: its tokenizer names no token that ends a text, and llama.cpp would take token 11 for it; set "
            "eos_token in its tokenizer_config.json"
        )
    for role in ("bos", "eos", "pad", "unk"):
        if (number := getattr(tokenizer, f"{role}_token_id")) is not None:
            getattr(writer, f"add_{role}_token_id")(number)
    bos, eos = _around(tokenizer, name)
    writer.add_add_bos_token(bos)
    writer.add_add_eos_token(eos)
    if (template := tokenizer.chat_template) is not None:
        several = isinstance(template, dict)
        writer.add_chat_template([{"name": k, "template": v} for k, v in template.items()] if several else template)


def _splitting(plain: dict[str, Any], backend: Any, name: str) -> str:
    """llama.cpp's name for how a tokenizer cuts text, if all that it does besides is to merge bytes.

    Args:
        plain: The tokenizer as it stands in a tokenizer.json.
    """
    model = plain["model"]
    if model["type"] != "BPE":
        raise UsageError(f"{name}: a tokenizer of type {model['type']}; only byte-level BPE can be written as GGUF")
    if (normalizer := plain["normalizer"]) is not None:
        raise UsageError(
            f"{name}: its tokenizer rewrites text first ({normalizer['type']}), and llama.cpp does not: it can't be "
            "written as GGUF"
        )
    known = name_of(backend.pre_tokenizer, whole_words=bool(model.get("ignore_merges")))
    options = ("dropout", "continuing_subword_prefix", "end_of_word_suffix", "byte_fallback")
    if known is None or any(model.get(option) for option in options):
        raise UsageError(
            f"{name}: its tokenizer cuts text in a way for which no name of llama.cpp is known here: it can't be "
            "written as GGUF"
        )
    for one in plain["added_tokens"]:
        if one["lstrip"] or one["rstrip"] or one["single_word"]:
            raise UsageError(
                f"{name}: its token {one['content']!r} is found by what stands beside it (lstrip, rstrip or "
                "single_word), which a GGUF file can't say"
            )
    return known


def _unused(number: int, taken: set[str]) -> str:
    """A text for a token without one; llama.cpp loads no file in which two tokens have the same."""
    word = f"[PAD{number}]"
    while word in taken:
        word = f"[{word}]"
    taken.add(word)
    return word


def _around(tokenizer: Any, name: str) -> tuple[bool, bool]:
    """Whether each text gets a token before it, BOS, and one behind it, EOS."""
    bare, whole = tokenizer("a", add_special_tokens=False).input_ids, tokenizer("a").input_ids
    for bos, eos in ((False, False), (True, False), (False, True), (True, True)):
        if whole == [tokenizer.bos_token_id] * bos + bare + [tokenizer.eos_token_id] * eos:
            return bos, eos
    raise UsageError(f"{name}: its tokenizer puts more around a text than BOS and EOS: it can't be written as GGUF")


def _tensors(model: Any, name: str) -> Iterator[tuple[str, Tensor]]:
    """Each weight under llama.cpp's name, in llama.cpp's order of rows."""
    config = model.config
    rope = _rope(config)
    if rope["rope_type"] == "llama3":
        yield SCALES, scales(config)  # llama.cpp has no formula of its own for it
    for label, tensor in model.state_dict().items():
        if label != "lm_head.weight" or not config.tie_word_embeddings:
            yield _name(label, name), _permuted(label, tensor, config)


def _name(label: str, name: str) -> str:
    stem, _, kind = label.rpartition(".")
    if stem in _OUTSIDE:
        return f"{_OUTSIDE[stem]}.{kind}"
    _, layers, number, inner = [*stem.split(".", 3), "", "", ""][:4]
    if layers != "layers" or inner not in _LAYER:
        raise UsageError(f"{name}: a weight {label}, which llama.cpp has no place for")
    return f"blk.{number}.{_LAYER[inner]}.{kind}"


def _permuted(label: str, tensor: Tensor, config: Any) -> Tensor:
    """Queries and keys, biases too, in llama.cpp's order: it rotates neighbours, transformers the halves of a head."""
    heads = {"q_proj": config.num_attention_heads, "k_proj": config.num_key_value_heads}
    count = next((many for part, many in heads.items() if f"{part}." in label), None)
    if count is None:
        return tensor
    return tensor.view(count, 2, -1, *tensor.shape[1:]).transpose(1, 2).reshape(tensor.shape)


def _kind(gguf: Any, tensor: Tensor, dtype: str) -> Any:
    plain = tensor.ndim == 1 or (dtype == "q8_0" and tensor.shape[-1] % 32)
    return gguf.GGMLQuantizationType["F32" if plain else dtype.upper()]


def _chunks(gguf: Any, writer: Any, model: Any, dtype: str, name: str) -> Iterator[bytes]:
    """The file: its header, then each tensor where the header says, made only when its turn comes."""
    with tempfile.TemporaryDirectory() as folder:  # the package writes to files alone
        path = Path(folder) / "header"
        writer.write_header_to_file(path)
        writer.write_kv_data_to_file()
        writer.write_ti_data_to_file()
        writer.close()
        header = path.read_bytes()
    yield header + bytes(-len(header) % writer.data_alignment)
    for label, tensor in _tensors(model, name):
        kind, values = _kind(gguf, tensor, dtype), tensor.float().contiguous().numpy()
        if kind.name == "F16" and np.abs(values).max(initial=0.0) > _LARGEST_F16:
            raise UsageError(f"{name}: the weight {label} has values beyond the range of f16; write it as bf16 or f32")
        data = gguf.quants.quantize(values, kind).tobytes()
        yield data + bytes(-len(data) % writer.data_alignment)
