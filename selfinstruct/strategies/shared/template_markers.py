"""The text around the messages of a conversation in a model's chat template, from which Magpie makes raw prompts.

The texts come from a known template, or from the model's own template, which is rendered with private-use characters
in place of the messages. They are derived once, when a run starts, and belong to its settings from then on.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace

from selfinstruct.common.chat_template import ChatTemplate, ChatTemplateError
from selfinstruct.errors import ConfigError

__all__ = ["KNOWN", "TemplateTexts", "known_texts", "markers", "template_texts"]


@dataclass(frozen=True)
class TemplateTexts:
    """The texts of one chat template.

    Attributes:
        pre_query: Text before the user's first message, with the system prompt that the template itself inserts.
        post_query: Text between a user's message and an answer that the model writes next.
        past_query: Text between a user's message and an answer that the prompt contains.
        next_query: Text between an answer and the user's next message; None if the template writes later messages
            differently from the first.
        system_pre_query: ``pre_query`` with the requested system prompt; None without one.
        more: Further strings with which the model ends a message.
    """

    pre_query: str
    post_query: str
    past_query: str
    next_query: str | None
    system_pre_query: str | None = None
    more: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class _Known:
    """A template as the texts before and after each kind of message; ``system`` is None if it supports none."""

    system: tuple[str, str] | None
    user: tuple[str, str]
    assistant: tuple[str, str]


# As published with the models, without the token that begins a text, which tokenizers add.
KNOWN: Mapping[str, _Known] = {
    "chatml": _Known(
        ("<|im_start|>system\n", "<|im_end|>\n"),
        ("<|im_start|>user\n", "<|im_end|>\n"),
        ("<|im_start|>assistant\n", "<|im_end|>\n"),
    ),
    "gemma": _Known(None, ("<start_of_turn>user\n", "<end_of_turn>\n"), ("<start_of_turn>model\n", "<end_of_turn>\n")),
    "llama-3": _Known(
        ("<|start_header_id|>system<|end_header_id|>\n\n", "<|eot_id|>"),
        ("<|start_header_id|>user<|end_header_id|>\n\n", "<|eot_id|>"),
        ("<|start_header_id|>assistant<|end_header_id|>\n\n", "<|eot_id|>"),
    ),
    "mistral": _Known(None, ("[INST] ", "[/INST]"), ("", "</s>")),
    "phi-3": _Known(("<|system|>\n", "<|end|>\n"), ("<|user|>\n", "<|end|>\n"), ("<|assistant|>\n", "<|end|>\n")),
    "phi-4": _Known(
        ("<|im_start|>system<|im_sep|>", "<|im_end|>"),
        ("<|im_start|>user<|im_sep|>", "<|im_end|>"),
        ("<|im_start|>assistant<|im_sep|>", "<|im_end|>"),
    ),
}
"""Known templates, by the name that settings use."""

_USER, _ANSWER, _AGAIN = (chr(0xF0000 + offset) for offset in range(3))  # private-use characters without a meaning
# The written form of a special token: <|im_end|>, </s>, <start_of_turn>, [/INST].
_TOKEN = re.compile(r"<[^\s<>]{1,60}>|\[/?[A-Z_]{3,40}\]")


def known_texts(name: str, system: str) -> TemplateTexts:
    """Return the texts of a known template.

    Raises:
        ConfigError: The template has no system prompt, and ``system`` is not empty.
    """
    template = KNOWN[name]
    post = template.user[1] + template.assistant[0]
    texts = TemplateTexts(template.user[0], post, post, template.assistant[1] + template.user[0])
    if not system:
        return texts
    if template.system is None:
        raise ConfigError(_no_system(f"the template {name}"), key="magpie.system")
    return replace(texts, system_pre_query=system.join(template.system) + template.user[0])


def template_texts(template: ChatTemplate, system: str) -> TemplateTexts:
    """Return the texts that a model's own template writes.

    Raises:
        ConfigError: The template can't be rendered, changes or omits a message, or has no system prompt.
        MissingExtraError: Jinja is not installed.
    """
    pre, post = _pieces(template, [("user", _USER)])
    texts = TemplateTexts(pre, post, post, None, more=(template.eos,) if template.eos else ())
    try:
        first, past, after, last = _pieces(template, [("user", _USER), ("assistant", _ANSWER), ("user", _AGAIN)])
    except ConfigError:
        pass
    else:
        if (first, last) == (pre, post):
            texts = replace(texts, past_query=past, next_query=after)
    if system:
        try:
            steered, last = _pieces(template, [("system", system), ("user", _USER)])
        except ConfigError:
            steered = last = ""
        if last != post or system.strip() not in steered:
            raise ConfigError(_no_system("the model's own template"), key="magpie.system")
        texts = replace(texts, system_pre_query=steered)
    return texts


def markers(pre_query: str, post_query: str, next_query: str | None, more: tuple[str, ...] = ()) -> tuple[str, ...]:
    """Return the strings that separate messages: all special tokens, and any other text that ends a message."""
    strings = [token for text in (post_query, next_query or "", pre_query) for token in _TOKEN.findall(text)]
    for text in (post_query, next_query or ""):
        bare = text.strip()
        if bare and not _TOKEN.match(bare):
            strings.insert(0, bare)
    return tuple(dict.fromkeys([*strings, *more]))


def _pieces(template: ChatTemplate, messages: list[tuple[str, str]]) -> list[str]:
    """Return the texts that the template writes around the private-use characters of these messages, in order."""
    marks = [content for _, content in messages if content in (_USER, _ANSWER, _AGAIN)]
    remedy = "name a known template (magpie.template), or set magpie.pre_query and magpie.post_query"
    try:
        text = template.render(messages)
    except ChatTemplateError as error:
        raise ConfigError(
            f"the model's chat template can't be rendered: {error}; {remedy}", key="magpie.template"
        ) from None
    if [character for character in text if character in marks] != marks:
        raise ConfigError(f"the model's chat template repeats or omits a message; {remedy}", key="magpie.template")
    return re.split(f"[{''.join(marks)}]", text)


def _no_system(template: str) -> str:
    return (
        f"{template} has no place for a system prompt: leave magpie.system out, or set the complete text before the "
        "user's message as magpie.pre_query"
    )
