"""Tiny random models of every architecture of transformers that can be made small by its configuration."""

from __future__ import annotations

import dataclasses
from typing import Any

import torch

__all__ = ["VOCABULARY", "causal_types", "make_config", "make_model", "vision_types"]

VOCABULARY = 384

# Sizes by the names that configurations give them.
_SIZES: dict[str, Any] = {
    "vocab_size": VOCABULARY, "n_vocab": VOCABULARY, "vocab_size_per_layer_input": VOCABULARY,
    "hidden_size": 32, "d_model": 32, "n_embd": 32, "dim": 32, "embedding_size": 32, "word_embed_proj_dim": 32,
    "emb_dim": 32, "embedding_dim": 32, "block_dim": 32,
    "intermediate_size": 48, "ffn_dim": 48, "n_inner": 48, "d_ff": 48, "dff": 48, "decoder_ffn_dim": 48,
    "encoder_ffn_dim": 48, "ffn_hidden_size": 48, "feed_forward_size": 48, "d_inner": 48, "dim_ff": 48, "mlp_dim": 48,
    "intermediate_size_mlp": 48,
    "num_hidden_layers": 2, "n_layer": 2, "n_layers": 2, "num_layers": 2, "decoder_layers": 2, "encoder_layers": 1,
    "num_decoder_layers": 2, "num_encoder_layers": 1, "num_blocks": 2,
    "num_attention_heads": 4, "n_head": 4, "n_heads": 4, "num_heads": 4, "decoder_attention_heads": 4,
    "encoder_attention_heads": 4, "num_decoder_attention_heads": 4, "num_encoder_attention_heads": 4,
    "num_key_value_heads": 2, "num_kv_heads": 2, "kv_n_heads": 2, "moe_num_experts": 4, "moe_top_k": 2,
    "head_dim": 8, "kv_channels": 8, "dim_head": 8, "d_kv": 8,
    "attention_head_size": 8, "swa_num_attention_heads": 4, "swa_num_key_value_heads": 2, "swa_head_dim": 8,
    "max_position_embeddings": 128, "n_positions": 128, "n_ctx": 128, "max_seq_len": 128, "max_length": 20,
    "context_length": 128,
    "moe_intermediate_size": 16, "expert_ffn_hidden_size": 16, "shared_expert_intermediate_size": 16,
    "moe_shared_expert_intermediate_size": 16, "shared_intermediate_size": 16, "ffn_expert_size": 16,
    "num_experts": 4, "num_local_experts": 4, "n_routed_experts": 4, "num_experts_per_tok": 2,
    "moe_k": 2, "moe_topk": 2, "n_group": 1, "num_expert_group": 1, "topk_group": 1, "first_k_dense_replace": 1,
    "num_dense_layers": 1,
    "moe_layer_start_index": 1, "moe_layer_end_index": 1, "zero_expert_num": 1,
    "q_lora_rank": 16, "kv_lora_rank": 16, "qk_rope_head_dim": 8, "qk_nope_head_dim": 8, "v_head_dim": 8,
    "o_lora_rank": 8, "o_groups": 2, "index_n_heads": 2, "index_head_dim": 16, "index_topk": 8,
    "sliding_window": 16, "attention_window": 16, "window_size": 16, "attention_chunk_size": 16, "local_size": 16,
    "state_size": 8, "mamba_d_state": 8, "mamba_n_heads": 8, "mamba_d_head": 8, "mamba_n_groups": 1, "mamba_d_ssm": 64,
    "mamba_num_heads": 8, "mamba_head_dim": 8, "mamba_ngroups": 1, "n_mamba_heads": 2, "mamba_dt_rank": 4,
    "mamba_chunk_size": 8, "time_step_rank": 4, "ssm_state_size": 8, "n_groups": 1, "chunk_size": 8,
    "lru_width": 32, "attention_hidden_size": 32, "linear_num_value_heads": 4, "linear_num_key_heads": 2,
    "linear_key_head_dim": 8, "linear_value_head_dim": 8, "conv_L_cache": 3, "block_size": 16, "num_random_blocks": 1,
    "rotary_dim": 4, "hidden_size_per_layer_input": 8, "num_kv_shared_layers": 0,
    "hidden_size_global": 32, "cross_attn_k": 1, "encoder_hash_byte_group_vocab": 64, "router_hidden_size": 16,
    "linear_head_dim": 8, "linear_num_heads": 4, "indexer_n_heads": 2, "indexer_kv_heads": 1, "indexer_head_dim": 8,
    "indexer_budget": 16, "indexer_compress_ratio": 4, "hc_lowrank": 8, "num_position_embeddings": 16,
    "global_head_dim": 8, "shape_embed_dim": 32, "pronunciation_embed_dim": 32, "shape_vocab_size": 64,
    "pronunciation_vocab_size": 64, "input_embedding_size": 32, "output_embedding_size": 32,
    "mm_embed_dim": 32, "projector_input_dim": 32, "projector_output_dim": 32, "vision_output_dim": 32,
    "output_channels": 32, "nemo_conv_channels": 32, "backbone_hidden_size": 32, "num_centroids": 8,
    "mm_posemb_size": 64, "output_proj_dims": 32, "position_embedding_size": 64, "ext_pw_out_channel": 32,
    "depthwise_separable_out_channel": 32, "shared_experts_intermediate_size": 16, "split_ngram_parts": 4,
    "ngram_vocab_size_base": 64, "make_ngram_vocab_size_divisible_by": 8, "eoa_token_index": 7,
    "boi_token_index": 8, "eoi_token_index": 9, "centroid_intermediate_top_k": 2,
    "adapter_in_dim": 32, "adapter_out_dim": 32, "adapter_input_size": 32,
    "downsample_hidden_size": 8, "base_channels": 32, "codebook_size": 16,
    "laurel_rank": 8, "altup_num_inputs": 2, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2,
    "resid_pdrop": 0.0, "embd_pdrop": 0.0, "attn_pdrop": 0.0, "attention_dropout": 0.0, "hidden_dropout": 0.0,
    "dropout": 0.0, "initializer_range": 0.1,
    "depth": 1,
    "embed_dim": 32, "out_hidden_size": 32, "mlp_ratio": 2, "image_size": 28, "patch_size": 14,
    "image_token_id": 5, "image_token_index": 5, "video_token_id": 6,
    "audio_token_id": 7, "boi_token_id": 8, "eoi_token_id": 9, "vision_start_token_id": 8, "vision_end_token_id": 9,
}  # fmt: skip


def _mrope() -> dict[str, Any]:
    return {"rope_parameters": {"rope_type": "default", "rope_theta": 10_000.0, "mrope_section": [2, 1, 1]}}


_ASSISTANT = {"hidden_size_per_layer_input": 0, "vocab_size_per_layer_input": 0}
_ZAMBA = {"num_hidden_layers": 4, "layers_block_type": ["mamba", "hybrid", "mamba", "hybrid"]}
_HYBRID = {"layer_types": ["linear_attention", "full_attention"]}

# What makes an architecture small, or buildable, beyond its sizes.
_EXTRA: dict[str, dict[str, Any]] = {
    "bert": {"is_decoder": True}, "bert-generation": {"is_decoder": True}, "big_bird": {"is_decoder": True},
    "camembert": {"is_decoder": True}, "data2vec-text": {"is_decoder": True}, "electra": {"is_decoder": True},
    "ernie": {"is_decoder": True}, "megatron-bert": {"is_decoder": True}, "rembert": {"is_decoder": True},
    "roberta": {"is_decoder": True}, "roberta-prelayernorm": {"is_decoder": True}, "roc_bert": {"is_decoder": True},
    "roformer": {"is_decoder": True}, "xlm-roberta": {"is_decoder": True}, "xlm-roberta-xl": {"is_decoder": True},
    "xmod": {"is_decoder": True, "default_language": "en_XX"},
    "gpt_neo": {"attention_types": [[["global", "local"], 1]]},
    "mpt": {"expansion_ratio": 2}, "zaya": {"num_experts_per_tok": 1},
    "dbrx": {"attn_config": {"rope_theta": 10_000.0, "clip_qkv": 8}},
    "cohere_compass_text": {"rope_parameters": {"full_attention": {"rope_type": "default", "rope_theta": 10_000.0}}},
    "dots3_note": {"vision_config": {"mlp_layer_types": ["dense", "sparse"]}},
    "emu3": {"vocabulary_map": {"<image>": 5, "<|extra_200|>": 6}},
    "gemma4_assistant": _ASSISTANT, "gemma4_unified_assistant": _ASSISTANT,
    "jamba": {"attn_layer_period": 2, "attn_layer_offset": 1, "expert_layer_period": 2, "expert_layer_offset": 1},
    "bamba": {"attn_layer_indices": [1]},
    "llama4_text": {"interleave_moe_layer_step": 2, "no_rope_layer_interval": 2},
    "deepseek_v2": {"topk_method": "greedy"},
    "dots1": {"n_shared_experts": 1},
    "reformer": {"is_decoder": True, "attn_layers": ["local", "local"], "axial_pos_shape": [8, 16],
                 "axial_pos_embds_dim": [16, 16], "local_attn_chunk_length": 8},
    "mamba2": {"num_heads": 8, "expand": 2}, "recurrent_gemma": {"block_types": ["recurrent", "attention"]},
    "xlnet": {"d_head": 8}, "qwen2_vl": _mrope(), "qwen2_5_vl": _mrope(), "qwen3_vl": _mrope(),
    "qwen3_5": {**_mrope(), **_HYBRID}, "qwen3_5_moe": {**_mrope(), **_HYBRID},
    "granitemoehybrid": {"layer_types": ["mamba", "attention"]}, "qwen3_next": _HYBRID, "qwen3_5_text": _HYBRID,
    "qwen3_5_moe_text": _HYBRID, "qwen4_exp_text": _HYBRID, "kimi_linear": _HYBRID, "bailing_hybrid": _HYBRID,
    "lfm2_moe": {"layer_types": ["conv", "full_attention"]},
    "gemma3n_text": {"activation_sparsity_pattern": [0.0, 0.0]}, "gemma3n": {"activation_sparsity_pattern": [0.0, 0.0]},
    "zamba": {"attention_hidden_size": 64, **_ZAMBA}, "zamba2": _ZAMBA,
}  # fmt: skip


def causal_types() -> list[str]:
    """Return the types that transformers has a causal language model for.

    Without Reformer, whose reversible layers have gradients only in training mode, with dropout.
    """
    from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

    return sorted(MODEL_FOR_CAUSAL_LM_MAPPING_NAMES.keys() - {"reformer"})


def vision_types() -> list[str]:
    """Return types whose text model is a part of a vision model, and which are no causal language models."""
    return ["llava", "mistral3", "qwen2_5_vl", "qwen2_vl", "qwen3_vl", "smolvlm"]


def make_config(model_type: str, **fields: Any) -> Any:
    """Return a tiny configuration of a type.

    Args:
        fields: Settings to change, of the text model if there are several parts.
    """
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING

    return _tiny(CONFIG_MAPPING[model_type], {**_EXTRA.get(model_type, {}), **fields})


def _tiny(kind: Any, fields: dict[str, Any]) -> Any:
    """Return a tiny configuration.

    Args:
        fields: Settings of the part for text, and dictionaries with settings of parts by their names.
    """
    defaults = _defaults(kind)
    names = set(defaults or kind.attribute_map)
    parts = {part: _class(kind, part) for part in kind.sub_configs if part in names}
    text = next((part for part in ("text_config", "decoder") if dataclasses.is_dataclass(parts.get(part))), None)
    plain = {name: value for name, value in fields.items() if name not in kind.sub_configs}
    above = {name: value for name, value in plain.items() if text is None or name not in _defaults(parts[text])}
    settings: dict[str, Any] = {}
    for part, concrete in parts.items():
        if dataclasses.is_dataclass(concrete):
            inside = {name: value for name, value in plain.items() if part == text and name not in above}
            settings[part] = _tiny(concrete, {**inside, **fields.get(part, {})})
    settings |= {name: _as(defaults.get(name), value) for name, value in _SIZES.items() if name in names}
    if "kv_lora_rank" in names:  # latent attention has a key for each head
        settings["num_key_value_heads"] = settings["num_attention_heads"]
    return kind(**{**settings, **above})


def _defaults(kind: Any) -> dict[str, Any]:
    return {field.name: field.default for field in dataclasses.fields(kind)} if dataclasses.is_dataclass(kind) else {}


def _class(kind: Any, part: str) -> Any:
    """Return the class of a part of a configuration, which may be given as a class or by its type."""
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING

    if dataclasses.is_dataclass(kind.sub_configs[part]):
        return kind.sub_configs[part]
    named = getattr(getattr(kind, "sub_configs_defaults", {}).get(part), "model_type", None)
    return CONFIG_MAPPING[named] if named else type(getattr(kind(), part, None))


def _as(default: Any, value: Any) -> Any:
    """Return a size in the type of the default value, which some configurations ask for (0 instead of 0.0)."""
    return int(value) if type(default) is int and isinstance(value, float) else value


def make_model(config: Any, seed: int = 0) -> Any:
    """Return a random float32 model of a configuration, with all its parts, in evaluation mode."""
    from finetune.model.anatomy import auto_class

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = auto_class(config).from_config(config).float().eval()
        for parameter in model.parameters():  # some initialise to zero what must have an influence here
            if parameter.ndim > 1 and not bool(parameter.detach().abs().max() > 0):
                torch.nn.init.normal_(parameter, std=0.1)
    return model
