"""Loading of the models that score texts, which need the extra ``train``: torch and transformers."""

from __future__ import annotations

from typing import Any

from selfinstruct.common.files import first_line
from selfinstruct.common.openmp import wait_passively
from selfinstruct.errors import MissingExtraError, UsageError

__all__ = ["BATCH", "load_pretrained"]

BATCH = 8  # texts per forward pass


def load_pretrained(model: str, auto_class: str, kind: str) -> tuple[Any, Any, Any]:
    """Load a model of transformers for inference, onto a GPU if there is one, and its tokenizer.

    Nothing is unpickled, and no code of the model's own is run.

    Args:
        model: Directory or hub name of the model.
        auto_class: Name of the class of transformers that loads it, such as ``AutoModelForCausalLM``.
        kind: What the model is, for messages, such as ``language model``.

    Returns:
        The tokenizer, the model, and what ``output_loading_info`` reports about the weights (names by kind).

    Raises:
        MissingExtraError: torch or transformers is not installed.
        UsageError: The model can't be loaded.
    """
    wait_passively()
    try:
        import torch
        import transformers
    except ImportError:
        raise MissingExtraError("torch or transformers", "train") from None
    bars = transformers.utils.logging
    shown = bars.is_progress_bar_enabled()
    bars.disable_progress_bar()
    try:
        tokenizer = transformers.AutoTokenizer.from_pretrained(model, trust_remote_code=False)
        network, info = getattr(transformers, auto_class).from_pretrained(
            model, trust_remote_code=False, use_safetensors=True, output_loading_info=True
        )
    except (OSError, ValueError) as error:
        raise UsageError(f"can't load the {kind} {model}: {first_line(error)}") from None
    finally:
        if shown:
            bars.enable_progress_bar()
    return tokenizer, network.to("cuda" if torch.cuda.is_available() else "cpu").eval(), info
