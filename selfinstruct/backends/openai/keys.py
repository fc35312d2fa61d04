"""API keys: where they are read, which server they belong to, and how they stay out of what is shown or stored."""

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

_PREFIX_LENGTH = 8  # characters that many keys have in common ("sk-proj-"); a longer prefix identifies a key


def is_openai(host: str) -> bool:
    """Return whether a host belongs to OpenAI; no other server may receive an OpenAI key or account."""
    return host == "openai.com" or host.endswith(".openai.com")


def read_key(name: str) -> str | None:
    """Return the key in an environment variable; None if the name is empty or the variable is not set.

    Raises:
        ConfigError: The key cannot be sent in a header.
    """
    key = os.environ.get(name, "").strip() if name else ""
    if not key:
        return None
    if not (key.isascii() and key.isprintable()) or " " in key:
        raise ConfigError(f"the key in {name} holds a space, a line break or a character that no key has: set it again")
    return key


def redacted(url: str) -> str:
    """Return the URL without user, password, query and fragment, so that it can be shown. Accepts any text."""
    scheme, separator, rest = url.rpartition("://")
    return scheme + separator + re.split("[?#]", rest.rpartition("@")[2], maxsplit=1)[0]


def without_key(text: str, key: str) -> str:
    """Return the text with each occurrence of the key, also in JSON, HTML or URL notation, replaced by ``[key]``.

    A prefix (8 characters or more) of a key of 16 characters or more is replaced too, since a server may have truncated
    its own text. Shorter keys are replaced only in full: they are passwords of local servers and often ordinary words.
    """
    if not key:
        return text
    text = _without_full_key(text, key)
    if len(key) < 2 * _PREFIX_LENGTH:
        return text
    first, *parts = text.split(key[:_PREFIX_LENGTH])
    return first + "".join("[key]" + part[_common_prefix(part, key[_PREFIX_LENGTH:]) :] for part in parts)


def _without_full_key(text: str, key: str) -> str:
    forms = {key, key.replace("/", "\\/"), json.dumps(key)[1:-1], html.escape(key), quote(key, safe="")}
    for form in sorted(forms, key=len, reverse=True):
        text = text.replace(form, "[key]")
    return text


def _common_prefix(a: str, b: str) -> int:
    """Return the length of the longest common prefix."""
    pairs = enumerate(zip(a, b, strict=False))
    return next((index for index, (x, y) in pairs if x != y), min(len(a), len(b)))


def completion_without_key(completion: Completion, key: str) -> Completion:
    """Return the completion with the key removed from its texts; gateways for tests may echo it.

    A short key is kept, since it may be an ordinary word. Only the full key is replaced, since its prefix may be text.
    """
    if len(key) < 2 * _PREFIX_LENGTH:
        return completion
    hide = partial(_without_full_key, key=key)
    choices = tuple(
        Choice(hide(choice.text), hide(choice.finish_reason), hide(choice.reasoning)) for choice in completion.choices
    )
    return Completion(choices, completion.usage, hide(completion.model))
