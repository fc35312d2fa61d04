"""What stands around the turns of a conversation in a model's chat template, as texts: Magpie writes prompts of them.

The texts are those of a known template, or are read off the model's own: it is rendered with private characters in the
place of the turns. They are found once, when a run begins, and belong to its settings from then on.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace

from selfinstruct.common.chat_template import ChatTemplate, ChatTemplateError
from selfinstruct.errors import ConfigError

__all__ = ["KNOWN", "TurnTexts", "known", "markers", "of_template"]


@dataclass(frozen=True)
class TurnTexts:
    """The texts of one template.

    Attributes:
        pre_query: Before the user's first turn, a system prompt that the template writes by itself included.
        post_query: Between a user's turn and the answer that is to come.
        past_query: Between a user's turn and an answer that is given.
        next_query: Between an answer and the user's next turn; None where the template writes later turns otherwise
            than the first.
        system_pre_query: ``pre_query`` with a system prompt in it, of whoever asked for one.
        more: Further strings that the model ends a turn with.
    """

    pre_query: str
    post_query: str
    past_query: str
    next_query: str | None
    system_pre_query: str | None = None
    more: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class _Known:
    """A template as the texts before and after each kind of turn; ``system`` is None where it has no such turn."""

    system: tuple[str, str] | None
    user: tuple[str, str]
    assistant: tuple[str, str]


# As published with the models. The token that begins a text is not part of them: tokenizers add it.
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
"""Known templates, by the name that a setting gives them."""

_USER, _ANSWER, _AGAIN = (chr(0xF0000 + place) for place in range(3))  # private: they mean nothing to anybody
# A special token as it is written: <|im_end|>, </s>, <start_of_turn>, [/INST].
_TOKEN = re.compile(r"<[^\s<>]{1,60}>|\[/?[A-Z_]{3,40}\]")


def known(name: str, system: str) -> TurnTexts:
    """The texts of a known template.

    Raises:
        ConfigError: It has no place for a system prompt.
    """
    one = KNOWN[name]
    post = one.user[1] + one.assistant[0]
    found = TurnTexts(one.user[0], post, post, one.assistant[1] + one.user[0])
    if not system:
        return found
    if one.system is None:
        raise ConfigError(_no_system(f"the template {name}"), key="magpie.system")
    return replace(found, system_pre_query=system.join(one.system) + one.user[0])


def of_template(template: ChatTemplate, system: str) -> TurnTexts:
    """The texts that a model's own template writes.

    Raises:
        ConfigError: It can't be rendered, changes or leaves out a turn, or has no place for a system prompt.
        MissingExtraError: Jinja is not installed.
    """
    pre, post = _pieces(template, [("user", _USER)])
    found = TurnTexts(pre, post, post, None, more=(template.eos,) if template.eos else ())
    try:
        first, past, after, last = _pieces(template, [("user", _USER), ("assistant", _ANSWER), ("user", _AGAIN)])
    except ConfigError:
        pass
    else:
        if (first, last) == (pre, post):
            found = replace(found, past_query=past, next_query=after)
    if system:
        try:
            steered, last = _pieces(template, [("system", system), ("user", _USER)])
        except ConfigError:
            steered = last = ""
        if last != post or system.strip() not in steered:
            raise ConfigError(_no_system("the model's own template"), key="magpie.system")
        found = replace(found, system_pre_query=steered)
    return found


def markers(pre_query: str, post_query: str, next_query: str | None, more: tuple[str, ...] = ()) -> tuple[str, ...]:
    """What tells turns apart in these texts: every special token, and whatever ends a turn where that is none."""
    found = [token for text in (post_query, next_query or "", pre_query) for token in _TOKEN.findall(text)]
    for text in (post_query, next_query or ""):
        bare = text.strip()
        if bare and not _TOKEN.match(bare):
            found.insert(0, bare)
    return tuple(dict.fromkeys([*found, *more]))


def _pieces(template: ChatTemplate, messages: list[tuple[str, str]]) -> list[str]:
    """What the template writes around the private characters of these messages, in their order."""
    marks = [content for _, content in messages if content in (_USER, _ANSWER, _AGAIN)]
    remedy = "name a known template (magpie.template), or give magpie.pre_query and magpie.post_query"
    try:
        text = template.render(messages)
    except ChatTemplateError as error:
        raise ConfigError(
            f"the model's chat template can't be rendered: {error}; {remedy}", key="magpie.template"
        ) from None
    if [one for one in text if one in marks] != marks:
        raise ConfigError(f"the model's chat template repeats or leaves out a turn; {remedy}", key="magpie.template")
    return re.split(f"[{''.join(marks)}]", text)


def _no_system(what: str) -> str:
    return (
        f"{what} has no place for a system prompt: leave magpie.system out, or give the whole text before the user's "
        "turn as magpie.pre_query"
    )
