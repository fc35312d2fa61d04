"""How a server wants to be asked, as its refusals show: without some fields, or for an answer piece by piece.

Pure functions, without network. A refusal is compared with the fields that were sent, so no list of servers or models
is needed: a field that the server names as unsupported is left out. Whether it then answers decides whether the change
is kept; ``discovery`` sends the requests.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

from selfinstruct.backends.openai.error_body import ErrorBody

__all__ = ["LIMITS", "REFUSABLE", "Demand", "Dialect", "accepted_value", "read_demand", "refused_field"]

LIMITS = {"max_tokens": "max_completion_tokens", "max_completion_tokens": "max_tokens"}
"""The two names of the limit of tokens in chat requests, each with the other one."""
_ESSENTIAL = frozenset({"model", "messages", "prompt", "stream"})
_OPTIONAL = frozenset(
    {"temperature", "top_p", "frequency_penalty", "presence_penalty", "stop", "seed", "stream_options"}
)
REFUSABLE = _OPTIONAL | LIMITS.keys()
"""Fields without which, or under whose other name, a request can be sent."""
_SPELLINGS = {
    "stop": r"stop(?:[ _-]?(?:sequences?|words?|tokens?|strings?))?",
    "frequency_penalty": r"frequency[ _-]?penalty|(?<!presence[ _-])penalt(?:y|ies)",
    "presence_penalty": r"presence[ _-]?penalty|(?<!frequency[ _-])penalt(?:y|ies)",
}
"""Other spellings of a field; the fallback is its name with any separator. Some servers only say "penalty"."""


def _any(*patterns: str) -> re.Pattern[str]:
    return re.compile("|".join(patterns), re.IGNORECASE)


_UNSUPPORTED = _any(
    r"\bnot?\b(?: \w+){0,3} (?:support\w*|permitted|allowed|available|enabled|implemented|accepted|applicable|valid)",
    r"\bnot?\b(?: \w+){0,3} (?:recogni[sz]ed|compatible|modifiable|configurable)",
    r"\b(?:does|do|did|can|could|is|are)(?:n't| not|not)(?: \w+)? (?:support|accept|allow|have|be|find|permit|set|use)",
    r"n't (?:supported|allowed|permitted|available)|unsupported|\bunknown\b|unrecogni[sz]ed|unexpected|extraneous",
    r"\binvalid\b|extra[ _-](?:inputs?|fields?|parameters?|keys?|forbidden)|no such|forbidden|deprecated|removed",
    r"incompatible|disallowed|additional propert|\bonly\b|\binstead\b|cannot|must be (?:unset|omitted|null|absent)",
    r"(?:must|should) be (?:exactly |equal to |set to )?\d(?![\d.]*(?: to| and| ?-| ?\.\.))",
    "不支持|无效|未知|不允许|只能",
)
_RANGE = _any(
    r"\bbetween\b|\brange\b|\bat (?:most|least)\b|\b(?:less|greater|more|fewer|lower|higher|larger|smaller) than\b",
    r"\b(?:maximum|minimum|exceeds?|exceeded|strictly)\b|\bup to\b|too (?:large|small|high|low|many|long|big)",
    r"<=|>=|≤|≥|[<>] -?\d|\bpositive\b|\b(?:in|be|interval) ?[\[(] ?-?\d|less_than|greater_than",
    "范围|大于|小于|介于|区间|之间",
)
_OPEN_BOUND = _any(
    r"[<>](?!=)|\b(?:less|greater|more|lower|higher|smaller|larger) than\b(?! or equal)|strictly",
    r"\(\s?-?[\d.]+\s?,|,\s?-?[\d.]+\s?\)|less_than(?!_equal)|greater_than(?!_equal)",
)
"""A bound that is not itself a value that the server accepts."""
_BETWEEN = re.compile(r"(?<=\d)\s?(?:-|\u2013|\.\.\.?)\s?(?=\d)")
_THOUSANDS = re.compile(r"(?<![\[(\d.,])(\d{1,3}),(?=\d{3}\b)")
_NUMBER = re.compile(r"(?<![\w.-])-?\d+(?:\.\d+)?(?!\w|\.\d)")
_VALUES = {"temperature": (0, 2), "top_p": (0, 1), "frequency_penalty": (-2, 2), "presence_penalty": (-2, 2)}
"""Least and greatest value of fields in any API."""
_ALLOWED = _any(
    "expected one of|expecting one of|must be one of|known propert|valid (?:fields|parameters|arguments|options)",
    "(?:supported|allowed|accepted|permitted|available) (?:fields|parameters|params|arguments|properties|keys|options)"
    "(?: are| include|:)(?! not)",
    r"(?:please |try )?us(?:e|ing) [`'\"]?\w+[`'\"]? instead",
)
"""What follows these words are fields that the server accepts."""

_EXCLUSIVE = _any(r"\bboth\b|together|simultaneous|mutually|same time|\beither\b|one of|conflict", "同时")
_STREAM = r"(?<![a-z])stream(?:ing|ed)?(?![a-z])"
_ONLY_STREAM = re.compile(
    rf"non[ _-]?stream|{_STREAM}[ =:'\"]*(?:false|off)|非流|仅支持流|只支持流"
    rf"|\b(?:only|must|requires?|needs?|enable|please|should|set|use)\b.{{0,40}}{_STREAM}"
    rf"|{_STREAM}.{{0,40}}\b(?:only|must|required|needed|enabled|should|true)\b",
    re.IGNORECASE,
)
_ELSEWHERE = frozenset({401, 402, 403, 408, 409, 429, 502, 503, 504})  # statuses that are about other things


@dataclass(frozen=True, slots=True)
class Demand:
    """What a refusal asks to change.

    Attributes:
        refused: Fields that the server does not accept.
        stream: Whether it only answers piece by piece.
    """

    refused: frozenset[str] = frozenset()
    stream: bool = False


@dataclass(frozen=True, slots=True)
class Dialect:
    """How a server wants to be asked.

    Attributes:
        refused: Fields that it does not accept. A limit of tokens is sent under its other name instead.
        stream: Whether answers are asked for piece by piece, as server-sent events.
    """

    refused: frozenset[str] = frozenset()
    stream: bool = False

    def apply(self, body: Mapping[str, Any]) -> dict[str, Any]:
        """Return the body of a request in this dialect."""
        fields = dict(body)
        if self.stream:
            fields = {**fields, "stream": True, "stream_options": {"include_usage": True}}
        adapted: dict[str, Any] = {}
        for name, value in fields.items():
            other = LIMITS.get(name)
            if other is not None and "messages" in body and name in self.refused and other not in self.refused:
                adapted[other] = value
            elif name not in self.refused or name not in _OPTIONAL:
                adapted[name] = value
        return adapted

    def adapted(self, demand: Demand) -> Dialect:
        """Return the dialect that meets a demand too. Of the two names of the token limit, the last one is refused."""
        outdated = {LIMITS[name] for name in demand.refused & LIMITS.keys()}
        return Dialect((self.refused - outdated) | demand.refused, self.stream or demand.stream)


def read_demand(
    status: int, error: ErrorBody, sent: Mapping[str, Any], *, fixed: Collection[str] = ()
) -> Demand | None:
    """Return what a refusal asks to change; None if no change of the dialect helps.

    Args:
        status: The status of the answer; 200 for an error in the body of a success.
        error: The error in its body.
        sent: The body of the request.
        fixed: Fields that the user set for this server, so that they are neither left out nor renamed.
    """
    if status in _ELSEWHERE:
        return None
    refused = _refused(error, sent, fixed)
    may_stream = not sent.get("stream") and "stream" not in fixed
    stream = not refused and may_stream and _ONLY_STREAM.search(error.text) is not None
    return Demand(refused, stream) if refused or stream else None


def _refused(error: ErrorBody, sent: Mapping[str, Any], fixed: Collection[str]) -> frozenset[str]:
    names = {name for name in _OPTIONAL if name in sent}
    if "messages" in sent:
        names |= LIMITS.keys() & sent.keys()
    names -= set(fixed)
    if error.details and (listed := _extra_fields(error) & names):
        return frozenset(listed)
    text = _searchable(error)
    named = {name for name in names if _is_named(name, error, text)}
    if _RANGE.search(text):
        return frozenset(name for name in named if _is_neutral(name, sent[name]))
    if not named or not _UNSUPPORTED.search(error.words):
        return frozenset()
    if len(named) > 1 and _EXCLUSIVE.search(text):
        return frozenset({name for name in named if _is_neutral(name, sent[name])} or named - {"temperature"})
    return frozenset(named)


def refused_field(error: ErrorBody, sent: Mapping[str, Any]) -> str:
    """Return the sent field whose value a refusal is about, such as a temperature out of range; "" for none."""
    text = _searchable(error)
    if not (_RANGE.search(text) or _UNSUPPORTED.search(error.words)):
        return ""
    extra = _extra_fields(error)
    names = [name for name in sent if name not in _ESSENTIAL and (name in extra or _is_named(name, error, text))]
    return names[0] if names else ""


def accepted_value(error: ErrorBody, name: str, value: object) -> str:
    """Return the value nearest to a refused one that the server accepts, as the bounds in its message say.

    Returns:
        The number as text; "" if the message names no bound, or one that is itself outside.
    """
    text = error.message
    if not isinstance(value, int | float) or not _RANGE.search(text) or _OPEN_BOUND.search(text):
        return ""
    least, greatest = _VALUES.get(name, (1, value))
    numbers = _NUMBER.findall(_BETWEEN.sub(" ", _THOUSANDS.sub(r"\1", text)))
    others = [number for number in numbers if float(number) != value and least <= float(number) <= greatest]
    return min(others, key=lambda number: abs(float(number) - value), default="")


def _extra_fields(error: ErrorBody) -> set[str]:
    """Return the fields that a validator does not know."""
    return {
        part
        for kind, location in error.details
        if re.search(r"extra|unexpected|not permitted|unknown", kind, re.IGNORECASE)
        for part in location
    }


def _searchable(error: ErrorBody) -> str:
    """Return the texts of an error without names that it recommends, each name in snake case."""
    text = re.sub(r"(?<=[a-z])(?=[A-Z])", "_", error.text)
    kept = [part[: match.start()] if (match := _ALLOWED.search(part)) else part for part in text.split(" | ")]
    return " | ".join(kept)


def _is_named(name: str, error: ErrorBody, text: str) -> bool:
    if name in re.split(r"[.\[\]]", error.param):
        return True
    spelling = _SPELLINGS.get(name) or name.replace("_", "[ _-]?")
    return re.search(rf"(?<!\w)(?:{spelling})(?!\w)", text, re.IGNORECASE) is not None


def _is_neutral(name: str, value: object) -> bool:
    """Return whether leaving out a field changes nothing that a user chose."""
    return name == "seed" or (name == "top_p" and value == 1.0)
