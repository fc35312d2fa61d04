"""Where a trained model stops: the tokens that end a response, in its configuration and in its tokenizer.

The end of text of a base model often differs from the end of turn of its chat template. The trained model writes the
end of turn, and every program that runs the model must know that token.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from transformers import GenerationConfig

from finetune.data.render import Renderer, RenderError
from finetune.data.rows import ChatTurn, Example
from selfinstruct.common.codec import loads
from selfinstruct.errors import UsageError

__all__ = ["adopt_stop_tokens", "set_stop_tokens", "stop_tokens"]

_GENERATION, _TOKENIZER = "generation_config.json", "tokenizer_config.json"


def stop_tokens(model: Any) -> list[int]:
    """Return the ids of the tokens at which ``generate`` stops, in the order of the model's generation configuration.

    Args:
        model: A model of transformers, with or without adapters.
    """
    generation = model.generation_config
    listed = _ids(generation.eos_token_id if generation is not None else None)
    return listed or _ids(model.config.get_text_config().eos_token_id)


def set_stop_tokens(model: Any, tokenizer: Any, renderer: Renderer) -> None:
    """Make a model stop at the tokens that its format teaches it to end a response with.

    The stop tokens of the format are added to those in the generation configuration, which transformers and vLLM read.
    The token that the model learns to write last becomes the eos of the tokenizer, unless the chat template writes the
    eos itself, and would then write another text.

    Args:
        model: A model of transformers, with or without adapters.
        tokenizer: Its tokenizer, which is changed as well.
        renderer: The renderer of the documents that the model is trained on.
    """
    last = _last_token(renderer)
    # The learnt ones first: a GGUF file has room for three.
    _set_ids(model, [*([] if last is None else [last]), *sorted(renderer.stop_ids), *stop_tokens(model)])
    if last is not None and "eos_token" not in str(tokenizer.chat_template or ""):
        _set_eos(tokenizer, tokenizer.convert_ids_to_tokens(last))


def adopt_stop_tokens(model: Any, tokenizer: Any, folder: Path) -> None:
    """Give a base model and its tokenizer the stop tokens that were saved with adapters in ``folder``.

    Raises:
        UsageError: The files in ``folder`` can't be read.
    """
    try:
        if (folder / _GENERATION).is_file():
            _set_ids(model, _ids(GenerationConfig.from_pretrained(folder).eos_token_id))
        if (folder / _TOKENIZER).is_file():
            eos = dict(loads((folder / _TOKENIZER).read_bytes())).get("eos_token")
            if isinstance(eos, str) and eos in tokenizer.get_vocab():
                _set_eos(tokenizer, eos)
    except (OSError, ValueError, TypeError) as error:
        raise UsageError(f"{folder}: can't read the stop tokens of its adapters: {error}") from None


def _ids(value: int | list[int] | None) -> list[int]:
    return [] if value is None else [value] if isinstance(value, int) else list(value)


def _set_ids(model: Any, ids: Iterable[int]) -> None:
    distinct = list(dict.fromkeys(ids))
    if not distinct:
        return
    value = distinct[0] if len(distinct) == 1 else distinct
    model.config.get_text_config().eos_token_id = value
    if model.generation_config is not None:
        model.generation_config.eos_token_id = value


def _set_eos(tokenizer: Any, token: str) -> None:
    """Set the eos of a tokenizer, unless that changes the tokens of a text, as where an eos is put after each text."""
    before, ids = tokenizer.eos_token, tokenizer("a").input_ids
    tokenizer.eos_token = token
    if tokenizer("a").input_ids != ids:
        tokenizer.eos_token = before


def _last_token(renderer: Renderer) -> int | None:
    """Return the id of the token that ends every response; None if no short conversation can be rendered."""
    exchange = (ChatTurn("user", "q"), ChatTurn("assistant", "a"))
    for turns in (exchange, (ChatTurn("system", "s"), *exchange)):
        try:
            document = renderer.render(Example("example", turns)).documents[-1]
        except RenderError:
            continue
        return int(document.ids[document.supervised][-1])
    return None
