r"""The kind ``regex``: regular expressions matched by RE2, in time linear in the text for every pattern.

RE2 refuses what would need backtracking: back references, look-ahead, look-behind, atomic groups and possessive
quantifiers. Its syntax is at https://github.com/google/re2/wiki/Syntax. Text is Unicode, but ``\d``, ``\w``, ``\s``
and ``\b`` are ASCII, and ``$`` is the end of the text, not also the position before a final newline.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any

from selfinstruct.errors import MissingExtraError
from selfinstruct.verifiers.base import Finding, Kind, Spec, check_flag, short

__all__ = ["REGEX", "check_pattern", "encodable", "search", "worst_case"]

_MAX_CHARS = 2_000  # of a pattern
_MAX_MEMORY = 2 << 20  # bytes of one compiled pattern and its automata; RE2 refuses larger patterns
_MAX_WORK = 200_000_000  # instructions of a pattern times characters of a text: a few seconds at worst


@lru_cache(maxsize=128)
def _compiled(pattern: str) -> Any:
    """Return the compiled pattern.

    Raises:
        ValueError: The pattern is invalid, unsupported or too large; the message completes a sentence.
        MissingExtraError: google-re2 is not installed.
    """
    try:
        import re2
    except ImportError:
        raise MissingExtraError("google-re2, which matches patterns,", "verify") from None
    if len(pattern) > _MAX_CHARS:
        raise ValueError(f"must have at most {_MAX_CHARS:,} characters")
    options = re2.Options()
    options.log_errors = False
    options.max_mem = _MAX_MEMORY
    try:
        return re2.compile(encodable(pattern), options)
    except re2.error as error:
        reason = error.args[0]
        text = reason.decode("utf-8", "replace") if isinstance(reason, bytes) else str(reason)
        raise ValueError(f"must be a regular expression in RE2 syntax: {text}") from None


def check_pattern(value: Any) -> None:
    """Raise ValueError unless `value` is a pattern that RE2 accepts."""
    if not isinstance(value, str) or not value:
        raise ValueError(f"must be a regular expression, found {short(value)}")
    _compiled(value)


def search(pattern: str, text: str, *, full: bool = False) -> bool:
    """Return whether `pattern` matches a part of `text`, or with `full` all of it.

    Raises:
        ValueError: The text is too long for the pattern.
    """
    compiled = _compiled(pattern)
    if worst_case(pattern, text) > _MAX_WORK:
        longest = _MAX_WORK // compiled.programsize
        raise ValueError(f"{len(text):,} characters, and this pattern can search at most {longest:,}")
    return (compiled.fullmatch if full else compiled.search)(encodable(text)) is not None


def worst_case(pattern: str, text: str) -> int:
    """Return the most steps that a search may take; usually it takes about one for each character."""
    steps: int = _compiled(pattern).programsize * len(text)
    return steps


def encodable(text: str) -> str:
    """Return `text` with lone surrogates, which UTF-8 cannot encode, replaced by question marks."""
    return text.encode("utf-8", "replace").decode("utf-8")


def _verify(spec: Spec, answer: str) -> Finding:
    full = spec.get("full", False)
    expected = f"{'the whole answer' if full else 'a part'} to match {short(spec['pattern'])}"
    try:
        matches = search(spec["pattern"], answer, full=full)
    except ValueError as error:
        return Finding(False, expected, str(error))
    return Finding(matches, expected, short(answer.strip()))


REGEX = Kind(_verify, {"pattern": check_pattern, "full": check_flag}, required=("pattern",))
