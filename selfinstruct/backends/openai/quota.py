"""Distinguish an account without credit from a rate limit: a run stops at the first, and waits at the second.

Servers use the same status and often the same words for both. A statement about money decides. A word such as "quota",
which servers use for both, means money unless the same text speaks of a rate.
"""

from __future__ import annotations

import math
import re
from enum import Enum

from selfinstruct.backends.openai.error_body import ErrorBody

__all__ = ["Shortage", "find_shortage", "is_rate_limit", "requested_wait_s"]


class Shortage(Enum):
    """What an account lacks, which no wait of a few minutes brings back. The value is the advice to the user."""

    CREDIT = "The account has no credit or quota left. Nothing is recorded as failed: raise it, then repeat the command"
    PERIOD = (
        "The account's quota for this period is used up. Nothing is recorded as failed: raise it or wait until it is "
        "renewed, then repeat the command"
    )


def _any(*patterns: str) -> re.Pattern[str]:
    return re.compile("|".join(patterns), re.IGNORECASE)


_CREDIT_CODES = _any(
    "billing_hard_limit_reached|billing_not_active|account_deactivated|exceeded_current_quota_error|budget_exceeded",
    r"arrearage|account_?overdue\w*|payment_required|credit_balance_\w+|allocationquota\.freetieronly|1113",
    "insufficient_?(?:user_?|account_?)?(?:balance|funds|credits?)|insufficient_user_quota",
)
_MONEY = "(?:credits?|balance|funds|token quota|user quota)"
_SPAN = "(?:key|spend(?:ing)?|monthly|weekly|specified api|credits?|cost)"
_CAP = f"{_SPAN} (?:usage |spend(?:ing)? )?(?:limit|cap|budget|quota)s?"
_CREDIT = _any(
    rf"insufficient[ _-](?:\w+[ _-])?{_MONEY}",
    rf"\b{_MONEY}(?: \w+){{0,3}} (?:too low|not enough|insufficient|exhausted|depleted|used up|negative|empty|expired)",
    rf"\b{_MONEY} (?:has |have )?(?:run|ran) out",
    rf"\b(?:not enough|no more|out of|lack(?:s|ing)?|(?:used up|exhausted) (?:your|the)|negative) (?:\w+ )?{_MONEY}",
    r"\bnever (?:had|purchased) (?:\w+ )?credits|\bno (?:\w+ )?credits? (?:left|remain\w*|available)",
    rf"\bno (?:remaining|available|usable) {_MONEY}",
    r"\brequires? more credits|\bcan only afford|\barrears?\b|\boverdue\b|\bpast due\b|\bunpaid\b|good standing",
    "payment required|billing (?:hard )?limit|billing is not active|budget has been exceeded",
    rf"{_CAP}(?: \w+){{0,3}} (?:reached|exceeded|hit|exhausted)|{_CAP} (?:reached|exceeded)",
    rf"(?:reached|exceeded|hit) (?:your|the|its) (?:\w+ )?{_CAP}",
    r"free (?:tier|quota|trial|credits?)(?: \w+){0,4} (?:exhausted|used up|ended|expired)",
    "余额不足|餘額不足|欠费|欠費|余额已|额度不足|额度已|額度不足|额度用尽|请充值|账户已停|资源包已",
)
_QUOTA = _any(
    r"\binsufficient_quota\b|exceeded your current quota|check your plan and billing|recharge|\btop[ -]?up\b",
    r"(?:add|buy|purchase) (?:\w+ ){0,2}(?:credits|funds)|quota is not enough|quota (?:\w+ ){0,2}(?:exhausted|used up)",
    r"account (?:\w+ ){0,2}(?:suspended|deactivated|disabled|frozen)",
)
_RATE = _any(
    r"rate[ _-]?limit|per[ _-]?(?:min|sec|hour)|\b[rtq]p[ms]\b|token-limit|limit_requests|limit_burst|concurren",
    "again (?:in|after|later)|retry (?:in|after)|retrydelay|resource_?exhausted|too many|too frequent|throttl",
    "请求过于频繁|限流|速率",
)
_SHORT_RATE = _any(r"per[ _-]?(?:min|sec)", r"\b[rtq]p[ms]\b")
_PERIOD = _any(
    r"per[ _-]?(?:day|week|month)\b|\b[rt]pd\b|每日|每天|今日|当日",
    r"\b(?:daily|weekly|monthly) (?:\w+ ){0,2}(?:limit|quota|allowance|cap|requests|usage|credits)",
    r"\b(?:quota|limit|allowance)\b(?: \w+){0,4} (?:this|the|current) (?:day|week|month|billing (?:period|cycle))\b",
)
_PERIOD_QUOTA = re.compile(r"(?:requests|tokens|quota\w*?)PerDay", re.IGNORECASE)  # a name of Google's
_WRAPPERS = _any(r"litellm\.\w{1,60}", r"\w{0,40}RateLimitError\b", "throttling_error", r"\brate_limit_error\b")
_UNIT = "(?:ms|milliseconds?|h(?:ours?)?|m(?:in(?:ute)?s?)?|s(?:ec(?:ond)?s?)?)(?![a-z])"
_WAIT = _any(rf"(?:again|retry|wait|retrydelay|reset)[^\d]{{0,24}}?((?:\d+(?:\.\d+)? ?{_UNIT} ?)+)")
_PART = re.compile(r"(\d+(?:\.\d+)?) ?([a-z]+)", re.IGNORECASE)
_UNITS = {"ms": 0.001, "h": 3600.0, "m": 60.0, "s": 1.0}  # seconds, by the first letters of a unit


def find_shortage(status: int, error: ErrorBody, wait: float | None) -> Shortage | None:
    """Return what the account lacks; None if the error is about something else, a rate limit included.

    Args:
        wait: Seconds that the server asked to wait, or None.
    """
    text = _WRAPPERS.sub(" ", error.words)
    has_period = _PERIOD.search(text) is not None
    if status == 402 or any(_CREDIT_CODES.fullmatch(code) for code in error.codes) or _CREDIT.search(text):
        return Shortage.PERIOD if has_period else Shortage.CREDIT
    if _PERIOD_QUOTA.search(text):  # Google asks to wait for seconds even then
        return Shortage.PERIOD
    if status == 429 and has_period and wait is None and not _SHORT_RATE.search(text):
        return Shortage.PERIOD
    if status not in (400, 403, 429) or _RATE.search(text):
        return None
    return Shortage.CREDIT if _QUOTA.search(text) else None


def is_rate_limit(error: ErrorBody) -> bool:
    """Return whether an error speaks of too many requests."""
    return _RATE.search(error.words) is not None


def requested_wait_s(error: ErrorBody) -> float | None:
    """Return the seconds that the text of an error asks to wait ("try again in 1m2.5s"); None if it names none."""
    matched = _WAIT.search(error.text)
    if matched is None:
        return None
    seconds = 0.0
    for number, unit in _PART.findall(matched[1]):
        name = unit.lower()
        key = "ms" if name.startswith(("ms", "millis")) else name[0]
        seconds += float(number) * _UNITS[key]
    return seconds if math.isfinite(seconds) else None
