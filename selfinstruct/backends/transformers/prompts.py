"""Tokens of prompts: raw ones, and conversations in the model's own chat template."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from selfinstruct.common.chat_template import LIMIT_S, NO_CLOCK, EndlessError, bounded
from selfinstruct.common.files import first_line
from selfinstruct.errors import BackendError, RequestError
from selfinstruct.records import Request

__all__ = ["end_of_turn", "prompt_tokens", "stop_tokens"]

_ANSWER = "qxzanswer"  # a word that no template writes


def prompt_tokens(tokenizer: Any, request: Request, variables: Mapping[str, Any]) -> list[int]:
    """Return the tokens of a request's prompt.

    Args:
        variables: Further variables of the chat template.

    Raises:
        RequestError: The chat template refuses the conversation, or the prompt has no tokens.
        BackendError: There is no chat template.
    """
    if request.is_raw:
        tokens = tokenizer(request.turns[0].text, verbose=False).input_ids
    elif not tokenizer.chat_template:
        raise BackendError(
            f"stage {request.stage!r} asks in a chat, and the model's tokenizer has no chat template: use a model that "
            "has one, or raw prompts (--api completion)"
        )
    else:
        messages = [{"role": turn.role, "content": turn.text} for turn in request.turns]
        text = _render(tokenizer, messages, add_generation_prompt=True, **variables)
        tokens = tokenizer(text, add_special_tokens=False, verbose=False).input_ids
    if not tokens:
        raise RequestError("bad_request", "the prompt is empty: the model's tokenizer makes no token of it")
    return [int(token) for token in tokens]


def stop_tokens(tokenizer: Any, stop: Sequence[str]) -> frozenset[int]:
    """Return the tokens that are stop strings by themselves, such as ``<|im_end|>``: they are not part of any text."""
    if not stop:
        return frozenset()
    added = {str(token): number for number, token in tokenizer.added_tokens_decoder.items()}
    return frozenset(added[text] for text in stop if text in added)


def end_of_turn(tokenizer: Any) -> int | None:
    """Return the token with which the chat template ends an answer; None if there is none."""
    if not tokenizer.chat_template:
        return None
    messages = [{"role": "user", "content": "q"}, {"role": "assistant", "content": _ANSWER}]
    try:
        text = _render(tokenizer, messages)
    except RequestError:
        return None
    after = text.rpartition(_ANSWER)[2].lstrip() if _ANSWER in text else ""
    tokens = tokenizer(after, add_special_tokens=False).input_ids
    return int(tokens[0]) if tokens and tokens[0] in tokenizer.added_tokens_decoder else None


def _render(tokenizer: Any, messages: Sequence[Mapping[str, str]], **variables: Any) -> str:
    """Render a conversation in the sandbox of transformers, with a time limit and a date that does not change.

    Raises:
        RequestError: The template is invalid, refuses the conversation, or does not end.
    """
    import jinja2

    try:
        source = tokenizer.get_chat_template()
        template = NO_CLOCK + source if "strftime_now" in source else source
        with bounded():
            return str(tokenizer.apply_chat_template(messages, chat_template=template, tokenize=False, **variables))
    except EndlessError:
        raise RequestError("bad_request", f"the model's chat template is not done after {LIMIT_S:g} s") from None
    except (
        *(jinja2.TemplateError, TypeError, ValueError, LookupError, AttributeError),
        *(ArithmeticError, RecursionError, MemoryError),
    ) as error:
        raise RequestError(
            "bad_request", f"the model's chat template refuses the messages: {first_line(error)}"
        ) from None
