"""Emoji at the edges of a text."""

from __future__ import annotations

import regex

__all__ = ["begins_with_emoji", "ends_with_emoji"]

# Emoji by Unicode's property, without digits, ``#`` and ``*``, which have it for the sake of keycaps. Variation
# selectors, joiners, keycaps and tags only follow an emoji.
_EMOJI = r"[\p{Emoji}--[0-9#*]]"
_AT_END = regex.compile(rf"(?V1)(?:{_EMOJI}|[0-9#*]\uFE0F?\u20E3)[\uFE0F\uFE0E\u200D\U000E0020-\U000E007F]{{0,10}}$")
_AT_BEGINNING = regex.compile(rf"(?V1){_EMOJI}|[0-9#*]\uFE0F?\u20E3")
_LONGEST = 16  # characters at the end that are searched


def ends_with_emoji(text: str) -> bool:
    """Return whether the last character of a text, which has no white space at its end, is an emoji."""
    return _AT_END.search(text[-_LONGEST:]) is not None


def begins_with_emoji(text: str) -> bool:
    """Return whether the first character of a text is an emoji."""
    return _AT_BEGINNING.match(text) is not None
