"""Keys: where one is read, whose it is, and how it is kept out of whatever is shown or stored."""

from __future__ import annotations

import html
import json
import os
import re
from functools import partial
from urllib.parse import quote

from selfinstruct.errors import ConfigError
from selfinstruct.records import Choice, Completion

__all__ = ["completion_without_key", "is_openai", "read_key", "redacted", "without_key"]

_KEY_START = 8  # characters of a key that many keys share ("sk-proj-"): what is longer gives it away


def is_openai(host: str) -> bool:
    """Whether a host is OpenAI's own: no other one's business are its key and account."""
    return host == "openai.com" or host.endswith(".openai.com")


def read_key(name: str) -> str | None:
    """The key in an environment variable; None without a name or a value.

    Raises:
        ConfigError: It can't be sent in a header.
    """
    key = os.environ.get(name, "").strip() if name else ""
    if not key:
        return None
    if not (key.isascii() and key.isprintable()) or " " in key:
        raise ConfigError(f"the key in {name} holds a space, a line break or a character that no key has: set it again")
    return key


def redacted(url: str) -> str:
    """The URL without user, password, query and fragment: what may be printed. Takes any text, well-formed or not."""
    scheme, separator, rest = url.rpartition("://")
    return scheme + separator + re.split("[?#]", rest.rpartition("@")[2], maxsplit=1)[0]


def without_key(text: str, key: str) -> str:
    """The text with each occurrence of the key, also as JSON, HTML or a URL would write it, as ``[key]``.

    Of a key of 16 characters or more, its beginning alone (8 characters or more) is hidden too: a server may have cut
    its own text. A shorter key is hidden whole only; such keys are passwords of local servers, often ordinary words.
    """
    if not key:
        return text
    text = _whole_key_hidden(text, key)
    if len(key) < 2 * _KEY_START:
        return text
    first, *parts = text.split(key[:_KEY_START])
    return first + "".join("[key]" + part[_common(part, key[_KEY_START:]) :] for part in parts)


def _whole_key_hidden(text: str, key: str) -> str:
    forms = {key, key.replace("/", "\\/"), json.dumps(key)[1:-1], html.escape(key), quote(key, safe="")}
    for form in sorted(forms, key=len, reverse=True):
        text = text.replace(form, "[key]")
    return text


def _common(one: str, other: str) -> int:
    """Length of the common beginning."""
    pairs = enumerate(zip(one, other, strict=False))
    return next((at for at, (a, b) in pairs if a != b), min(len(one), len(other)))


def completion_without_key(completion: Completion, key: str) -> Completion:
    """The completion; of one that repeats the key, which gateways for tests do, without it.

    A short key is left: it may be a word. Of a long one only the whole is hidden, since its beginning may be text.
    """
    if len(key) < 2 * _KEY_START:
        return completion
    hide = partial(_whole_key_hidden, key=key)
    choices = tuple(Choice(hide(one.text), hide(one.finish_reason)) for one in completion.choices)
    return Completion(choices, completion.usage, hide(completion.model))
