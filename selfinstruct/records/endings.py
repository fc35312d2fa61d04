"""How a text ended: the finish reasons of servers, and which of them mark a complete answer.

A closed list names the endings of a complete answer, since no list of the others would ever be complete. Sources:
OpenAI, Azure, vLLM, llama.cpp and most compatible servers (``stop``); Together and older text-generation servers
(``eos``); TGI and watsonx (``eos_token``, ``stop_sequence``); Anthropic and Bedrock (``end_turn``, ``stop_sequence``);
Cohere (``COMPLETE``, ``STOP_SEQUENCE``); Gemini (``STOP``); Titan (``FINISH``); the Responses API (``completed``).
"""

from __future__ import annotations

import re
from collections.abc import Container

from selfinstruct.reasons import RejectReason, ended

__all__ = [
    "COMPLETE",
    "CUT",
    "IN_REASONING",
    "LENGTH",
    "NOT_NAMED",
    "cut_reason",
    "ending",
    "is_complete",
    "is_cut",
    "is_lost",
    "is_recognised",
    "is_withheld",
]

COMPLETE = "stop"
"""The ending of a complete answer."""

LENGTH = "length"
"""The ending of an answer that reached the token limit."""

NOT_NAMED = "unknown"
"""The ending of an answer for which the server names no finish reason."""

IN_REASONING = "in_reasoning"
"""The ending of a completion that holds reasoning and no answer."""

_GOOD = frozenset(
    {COMPLETE, "stopped", "stop_sequence", "stop_token", "stop_word", "stop_trigger", "eos", "eos_token", "eos_found"}
    | {"eog", "eog_token", "eot", "end", "end_turn", "end_of_turn", "end_of_text", "endoftext", "end_of_sequence"}
    | {"complete", "completed", "completion", "finish", "finished", "done"}
)
_NOTHING = frozenset({"null", "none", "nil", "undefined", "unspecified"})  # a missing reason, written as text
CUT = frozenset(
    {LENGTH, "max_length", "model_length", "max_tokens", "max_token", "max_new_tokens", "max_output_tokens"}
    | {"max_completion_tokens", "max_tokens_reached", "token_limit", "length_limit", "limit", "context_length"}
    | {"context_window_exceeded", "model_context_window_exceeded", "context_length_exceeded"}
)
"""Endings of an answer that reached a limit of tokens or the end of the model's context."""

_PARTY = (
    "internal|server|system|upstream|provider|engine|model|backend|network|connection|gateway|service|worker|api"
    "|inference|generation|stream|request|response|user|client|unknown|unexpected|fatal|runtime"
)
_LOST = re.compile(
    rf"(?:(?:{_PARTY})_)*(?:error|errored|exception|fail|failed|failure|abort|aborted|cancel|canceled|cancelled"
    r"|cancellation|timeout|time_out|timed_out|time_limit|interrupted|terminated|killed|lost|disconnect|disconnected"
    r"|crash|crashed|overload|overloaded|busy|unavailable|preempted|evicted|shutdown|shut_down|shutting_down"
    r"|insufficient_system_resources?)"
)  # DeepSeek, GLM (network_error), Cohere (USER_CANCEL), watsonx (time_limit), and servers' words for their own errors
_WITHHELD = re.compile(
    r"content_filter|safety|prohibited|blocklist|sensitive|recitation|spii|moderation|guardrail|toxic"
)
_NO_ANSWER = re.compile(r"refusal|tool|function|repetition|pause_turn|\A(?:un)?load\Z")

_CAMEL = re.compile(r"(?<=[a-z])(?=[A-Z])")
_SEPARATORS = re.compile(r"[\s\-.]+")
_PREFIX = re.compile(r"^(?:finish_?reason|stop_?reason)_+")
_LONGEST = 40  # characters of an ending in a reason code


def ending(finish_reason: str) -> str:
    """Return a finish reason in lower case with underscores, without the name of its type: ``STOP`` is ``stop``.

    Every term for a complete answer becomes ``stop``; "" and words for nothing become ``unknown``.
    """
    words = _SEPARATORS.sub("_", _CAMEL.sub("_", finish_reason.strip()[: 4 * _LONGEST])).lower()
    name = _PREFIX.sub("", words).strip("_")
    if name in _GOOD:
        return COMPLETE
    if name in _NOTHING:
        return NOT_NAMED
    return "".join(char for char in name if char.isalnum() or char == "_")[:_LONGEST] or NOT_NAMED


def is_complete(finish_reason: str, accepted: Container[str] = ()) -> bool:
    """Return whether a finish reason marks a complete answer.

    Args:
        accepted: Further endings that mark one, in the form of ``ending``.
    """
    name = ending(finish_reason)
    return name == COMPLETE or name in accepted


def is_cut(finish_reason: str) -> bool:
    """Return whether a text ended at a limit of tokens, so that everything before its end is sound."""
    return ending(finish_reason) in CUT


def is_lost(finish_reason: str) -> bool:
    """Return whether a server gave up the answer, so that another attempt may bring a complete one."""
    return _LOST.fullmatch(ending(finish_reason)) is not None


def is_withheld(finish_reason: str) -> bool:
    """Return whether a filter withheld text: ``content_filter``, or a term of Gemini's such as ``SAFETY``."""
    return _WITHHELD.search(ending(finish_reason)) is not None


def is_recognised(name: str) -> bool:
    """Return whether an ending, in the form of ``ending``, is known to mark a complete answer or none.

    Any other ending may be a server's own term for a complete answer.
    """
    return (
        name in (COMPLETE, IN_REASONING)
        or name in CUT
        or any(pattern.search(name) for pattern in (_WITHHELD, _NO_ANSWER))
        or is_lost(name)
    )


def cut_reason(finish_reason: str) -> str:
    """Return the reason code for an answer that is not complete: ``truncated`` at the token limit, else ``ended_…``."""
    name = ending(finish_reason)
    if name == COMPLETE:
        return ""
    return RejectReason.TRUNCATED if name == LENGTH else ended(name)
