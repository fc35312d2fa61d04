"""What the configuration of a model rules out before its weights are loaded: its kind, positions and vocabulary."""

from __future__ import annotations

from typing import Any

from transformers.models.auto import modeling_auto as auto

from selfinstruct.errors import UsageError

__all__ = ["correct_tied_head", "embedding_rows", "head_differs", "max_positions", "require_decoder"]

_POSITIONS = ("max_position_embeddings", "n_positions", "max_seq_len", "max_sequence_length", "max_target_positions",
              "n_ctx", "context_length")  # fmt: skip
_TEXT_MODELS = (
    "MODEL_FOR_CAUSAL_LM_MAPPING",
    "MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING",
    "MODEL_FOR_MULTIMODAL_LM_MAPPING",
)
_DECODERS = "choose a decoder, such as Llama, Qwen, Mistral, Gemma or SmolLM"


def require_decoder(config: Any, name: str) -> None:
    """Refuse a model that doesn't write text from left to right.

    Args:
        config: A configuration of transformers.
        name: The name of the model, for the message.

    Raises:
        UsageError: The model has an encoder, reads in both directions, or is no language model.
    """
    kind = f"{name}: a model of type {config.model_type}"
    if getattr(config, "is_encoder_decoder", False):
        raise UsageError(f"{kind} has an encoder, which reads the prompt, and a decoder; only a decoder alone, which "
                         f"reads prompt and answer as one text, can be trained here: {_DECODERS}")  # fmt: skip
    if not any(_is_in(config, mapping) for mapping in _TEXT_MODELS):
        if hasattr(config, "vision_config") or hasattr(config, "image_size"):
            raise UsageError(f"{kind} is a vision model; only models that write text can be trained here: {_DECODERS}")
        raise UsageError(f"{kind} does not write text from left to right; {_DECODERS}")
    if getattr(config, "is_decoder", None) is False and _is_in(config, "MODEL_FOR_MASKED_LM_MAPPING"):
        raise UsageError(f"{kind} is an encoder: it reads a text in both directions, so that it would see the answer "
                         f"that it is to learn; {_DECODERS}")  # fmt: skip


def _is_in(config: Any, mapping: str) -> bool:
    return type(config) in getattr(auto, mapping, {})


def max_positions(config: Any) -> int | None:
    """Return the largest number of tokens that a model has positions for; None if it has no limit."""
    text = config.get_text_config()
    values = (getattr(text, name, None) for name in _POSITIONS)
    return next((value for value in values if isinstance(value, int) and value > 0), None)


def embedding_rows(config: Any) -> int | None:
    """Return the number of token embeddings of a model; None if its configuration does not say."""
    rows = getattr(config.get_text_config(), "vocab_size", None)
    return rows if isinstance(rows, int) else None


def head_differs(model: Any) -> bool:
    """Return whether a loaded model has a head with weights other than its embeddings, whatever its configuration says.

    Args:
        model: A model of transformers, without adapters.
    """
    head, embeddings = model.get_output_embeddings(), model.get_input_embeddings()
    return head is not None and embeddings is not None and head.weight is not embeddings.weight


def correct_tied_head(model: Any) -> None:
    """Set ``tie_word_embeddings`` to false if the weights of the head differ from the embeddings.

    transformers loads such a head as it is, but whoever loads the saved model by its configuration (vLLM, or a
    converter to GGUF) would drop it.
    """
    if getattr(model.config, "tie_word_embeddings", False) and model._tied_weights_keys and head_differs(model):
        model.config.tie_word_embeddings = False
        model.config.get_text_config().tie_word_embeddings = False
