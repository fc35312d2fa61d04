"""Personal data and secrets in a text: find them, then reject the text or redact it.

Every kind has a recognisable form, and is checked as far as the form allows: checksums of IBANs and cards, prefixes of
keys, assigned ranges of addresses. Values that standards and providers reserve for examples (``name@example.com``,
192.0.2.1, 555-0123) belong to nobody and are ignored. Names and postal addresses have no form, so they are not found.

A verdict contains kinds and positions, never a value.
"""

from __future__ import annotations

import ipaddress
import re
import string
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, NamedTuple, get_args

from selfinstruct.errors import UsageError
from selfinstruct.filters.base import Filter
from selfinstruct.records import Verdict

__all__ = ["KINDS", "Action", "Pii", "Span"]

Action = Literal["flag", "redact"]


class Span(NamedTuple):
    """A range of a text, in characters.

    Attributes:
        start, end: Its bounds.
        kind: One of ``KINDS``.
    """

    start: int
    end: int
    kind: str


# Every pattern begins with a look-behind, so that it starts only where a run of its characters starts, and repeats
# possessively or a bounded number of times: the time is linear for every text.

# RFC 5321: at most 64 characters before the @ and 63 a label. Reserved by RFC 2606 and 6761: example.com and the like.
_EMAIL = re.compile(
    r"(?<![\w.%+-])(?![.-])[\w.%+-]{1,64}+(?<!\.)@(?=([a-z0-9-]{1,63}(?:\.[a-z0-9-]{1,63}){1,8}))\1(?![\w-])",
    re.IGNORECASE | re.ASCII,
)
_RESERVED = re.compile(r"(?:^|\.)(?:example(?:\.(?:com|net|org))?|test|invalid|localhost|local|internal)$")
_FILE = re.compile(r"\.(?:png|jpe?g|gif|svg|webp|ico|css|js|py|txt|json|pdf|html?)$")  # icon@2x.png
_TOP = re.compile(r"\.[a-z]{2,24}$")

# E.164: a + and at most 15 digits; national forms only in the North American plan, whose groups are fixed: area code
# and exchange begin with 2 to 9, neither is N11, and 555 is reserved for fiction.
_INTERNATIONAL = re.compile(r"(?<![\w+.])(?<!\d )\+[1-9]\d{0,3}(?=((?:[ .-]?(?:\(\d{1,4}\)|\d{1,4})){1,6}))\1(?!\w)")
_AMERICAN = re.compile(r"(?<![\w.+/-])(?:1[ .-])?(?:\((\d{3})\) ?|(\d{3})([-. ]))(\d{3})([-. ])\d{4}(?![\w-]|\.\d)")

_IPV4 = re.compile(r"(?<![\w.-])\d{1,3}\.\d{1,3}\.\d{1,3}\.\d{1,3}(?![\w-]|\.\w)")
_VERSION = re.compile(
    r"(?:\bv(?:er(?:sion)?)?\.?|\brelease|\bsection|\bsec\.|\bchapter|\bfirmware|§|[=~<>]=)[ \t]{0,2}$",
    re.IGNORECASE,
)
_ADDRESS = re.compile(r"\b(?:ips?|ipv4|dns|address|addr|hosts?|server|gateway|ping|subnet|router)\b", re.IGNORECASE)
# Only 2000::/3 is assigned; 2001:db8::/32 is reserved for documentation.
_IPV6 = re.compile(r"(?<![\w:.])[23][0-9a-f]{3}:[0-9a-f:]{2,34}+(?![\w:])", re.IGNORECASE)

_IBAN = re.compile(r"(?<![A-Za-z0-9])[A-Z]{2}\d{2}(?= ?[A-Z0-9])")
# Lengths by country: SWIFT's registry of IBAN formats, ISO 13616.
_IBAN_LENGTHS = {
    country: length
    for length, countries in {
        15: "NO",
        16: "BE",
        18: "DK FI FO GL NL FK",
        19: "MK SI",
        20: "AT BA EE KZ LT LU MN XK",
        21: "CH HR LI LV",
        22: "BG BH CR DE GB GE IE ME RS VA",
        23: "AE GI IL IQ OM TL SO",
        24: "AD CZ ES MD PK RO SA SE SK TN VG",
        25: "LY PT ST",
        26: "IS TR",
        27: "BI DJ FR GR IT MC MR SM",
        28: "AL AZ BY CY DO GT HU LB NI PL SV",
        29: "BR EG PS QA UA",
        30: "JO KW MU YE",
        31: "MT SC",
        33: "RU",
        32: "LC",
    }.items()
    for country in countries.split()
}

_IBAN_LETTERS = frozenset(string.ascii_uppercase + string.digits)

# ISO/IEC 7812: the first digits determine the network, and the network determines the length.
_CARD = re.compile(
    r"(?<![\w.+/-])(?:\d{13,19}|\d{4}([ -])\d{4}\1\d{4}\1\d{4}(?:\1\d{3})?|\d{4}([ -])\d{6}\2\d{4,5})(?![\w-]|\.\d)"
)
_NETWORKS = re.compile(
    r"4(?:\d{12}|\d{15}|\d{18})"  # Visa
    r"|(?:5[1-5]\d\d|222[1-9]|22[3-9]\d|2[3-6]\d\d|27[01]\d|2720)\d{12}"  # Mastercard
    r"|3[47]\d{13}"  # American Express
    r"|(?:6011|64[4-9]\d|65\d\d)\d{12,15}"  # Discover
    r"|35(?:2[89]|[3-8]\d)\d{12}"  # JCB
    r"|3(?:0[0-5]|[689]\d)\d{11}"  # Diners Club
    r"|62\d{14,17}"  # UnionPay
)

# Prefixes as their providers document them.
_SECRETS: dict[str, re.Pattern[str]] = {
    # sk-..., sk-proj-..., sk-ant-...: OpenAI, and others with the same scheme
    "openai_key": re.compile(r"(?<![\w-])sk-(?:[a-z]{3,8}-)?[A-Za-z0-9_-]{20,}+"),
    "github_token": re.compile(r"(?<!\w)(?:gh[pousr]_[A-Za-z0-9]{36,}+|github_pat_\w{22,}+)"),
    "gitlab_token": re.compile(r"(?<!\w)glpat-[\w-]{20,}+", re.ASCII),
    "aws_key": re.compile(r"(?<![A-Za-z0-9])(?:AKIA|ASIA)[A-Z2-7]{16}(?![A-Za-z0-9])"),
    "google_key": re.compile(r"(?<![\w-])AIza[\w-]{35}(?![\w-])", re.ASCII),
    "slack_token": re.compile(r"(?<![\w-])xox[abeoprs]-\d[A-Za-z0-9-]{16,}+"),
    "stripe_key": re.compile(r"(?<!\w)[rs]k_live_[A-Za-z0-9]{16,}+"),
    "huggingface_token": re.compile(r"(?<!\w)hf_[A-Za-z]{34,}+(?!\w)"),
    "jwt": re.compile(r"(?<![\w-])eyJ[\w-]{8,}+\.eyJ[\w-]{8,}+\.[\w-]{16,}+", re.ASCII),
    # Up to its end mark, or, if that is missing, to the last line of base64. No two attempts read the same characters.
    "private_key": re.compile(
        r"-----BEGIN (?:[A-Z0-9]{1,12} ){0,3}PRIVATE KEY(?: BLOCK)?-----"
        r"(?:[^-]*+(?:-(?!----)[^-]*+)*-----END [A-Z0-9 ]{0,40}PRIVATE KEY(?: BLOCK)?-----"
        r"|(?:(?:\s|\\n)*[A-Za-z0-9+/=]{40,}+)+)"
    ),
}


def _is_email(match: re.Match[str]) -> bool:
    domain = match[1].lower()
    if any(not label or label[0] == "-" or label[-1] == "-" for label in domain.split(".")):
        return False
    return bool(_TOP.search(domain)) and not _RESERVED.search(domain) and not _FILE.search(domain)


def _is_international(match: re.Match[str]) -> bool:
    number = match.group()
    digits = sum(map(str.isdigit, number))
    grouped = number.count("(") <= 1
    fiction = re.match(r"\+1\D{0,2}\d{3}\D{0,2}555|\+1\D{0,2}555", number)
    return 8 <= digits <= 15 and grouped and not fiction


def _is_american(match: re.Match[str]) -> bool:
    area, exchange = match[1] or match[2], match[4]
    if match[3] and match[3] != match[5]:
        return False
    return all(code[0] not in "01" and code[1:] != "11" and code != "555" for code in (area, exchange))


def _is_ipv4(match: re.Match[str]) -> bool:
    address = match.group()
    try:
        if not ipaddress.IPv4Address(address).is_global:
            return False
    except ValueError:
        return False
    before = match.string[max(0, match.start() - 24) : match.start()]
    if _VERSION.search(before):
        return False
    # 3.1.4.2 is the number of a section or a version unless the words before it mention an address.
    return len(address) > len("1.2.3.4") or bool(_ADDRESS.search(before))


def _is_ipv6(match: re.Match[str]) -> bool:
    try:
        return ipaddress.IPv6Address(match.group()).is_global
    except ValueError:
        return False


def _is_card(match: re.Match[str]) -> bool:
    digits = re.sub(r"\D", "", match.group())
    return bool(_NETWORKS.fullmatch(digits)) and _luhn(digits)


def _luhn(digits: str) -> bool:
    """Return whether the checksum of ISO/IEC 7812-1, annex B, holds."""
    doubled = [int(digit) * (2 if number % 2 else 1) for number, digit in enumerate(reversed(digits))]
    return sum(value - 9 if value > 9 else value for value in doubled) % 10 == 0


def _is_key(match: re.Match[str]) -> bool:
    """Return whether the letters look random, with capitals and digits, unlike sk-loading-spinner-inner-circle."""
    key = match.group()
    return any(map(str.isdigit, key)) and any(map(str.isupper, key)) and any(map(str.islower, key[3:]))


def _is_aws(match: re.Match[str]) -> bool:
    return not match.group().endswith("EXAMPLE")  # as in Amazon's documentation


def _ibans(text: str) -> Iterator[Span]:
    """Yield IBANs, written without spaces or with single ones."""
    for match in _IBAN.finditer(text):
        missing = _IBAN_LENGTHS.get(match.group()[:2], 0) - 4
        if missing < 0:
            continue
        end, letters = match.end(), [match.group()]
        while missing and end < len(text):
            position = end + 1 if text[end] == " " and text[end + 1 : end + 2].isalnum() else end
            if text[position] not in _IBAN_LETTERS:
                break
            letters.append(text[position])
            end, missing = position + 1, missing - 1
        if not missing and not text[end : end + 1].isalnum() and _mod97("".join(letters)):
            yield Span(match.start(), end, "iban")


def _mod97(iban: str) -> bool:
    """Return whether the checksum of ISO 13616 holds: letters are 10 to 35, the first four characters move last."""
    return int("".join(str(int(letter, 36)) for letter in iban[4:] + iban[:4])) % 97 == 1


_CHECKS: tuple[tuple[str, re.Pattern[str], Callable[[re.Match[str]], bool]], ...] = (
    *(
        (kind, pattern, {"openai_key": _is_key, "aws_key": _is_aws}.get(kind, bool))
        for kind, pattern in _SECRETS.items()
    ),
    ("email", _EMAIL, _is_email),
    ("card", _CARD, _is_card),
    ("ipv6", _IPV6, _is_ipv6),
    ("ipv4", _IPV4, _is_ipv4),
    ("phone", _INTERNATIONAL, _is_international),
    ("phone", _AMERICAN, _is_american),
)

KINDS = (*_SECRETS, "email", "iban", "card", "ipv6", "ipv4", "phone")


@dataclass(frozen=True)
class Pii(Filter):
    """Finds personal data and secrets in texts.

    With ``flag`` a text that contains some is rejected; the reason is the kind of the first match. With ``redact``
    every text is kept, and the method ``redact`` returns the redacted text. In both cases ``detail["spans"]`` lists
    [start, end, kind], and ``detail["kinds"]`` counts the kinds.

    Attributes:
        action: ``flag`` or ``redact``.
        kinds: The kinds to look for, a subset of ``KINDS``.
    """

    name: ClassVar[str] = "pii"
    action: Action = "flag"
    kinds: tuple[str, ...] = KINDS

    def __post_init__(self) -> None:
        if self.action not in get_args(Action):
            raise UsageError(f"unknown action {self.action!r}; choose one of {', '.join(get_args(Action))}")
        if unknown := [kind for kind in self.kinds if kind not in KINDS]:
            raise UsageError(f"unknown kind {unknown[0]!r}; choose some of {', '.join(KINDS)}")

    def verdict(self, text: str) -> Verdict:
        """Decide on one text."""
        spans = self.find(text)
        if not spans:
            return self.keep()
        kinds = dict(Counter(span.kind for span in spans))
        detail: dict[str, Any] = {"kinds": kinds, "spans": [list(span) for span in spans]}
        if self.action == "redact":
            return Verdict(self.name, True, detail=detail)
        return self.reject(spans[0].kind, **detail)

    def find(self, text: str) -> list[Span]:
        """Return the matches in order. Overlapping matches become one, of the kind that is first in ``KINDS``."""
        spans: list[Span] = []
        for kind, pattern, check in _CHECKS:
            if kind in self.kinds:
                spans += [Span(*match.span(), kind) for match in pattern.finditer(text) if check(match)]
        if "iban" in self.kinds:
            spans += _ibans(text)
        return _disjoint(spans)

    def redact(self, text: str) -> tuple[str, list[Span]]:
        """Return the text with each match replaced by a label such as ``[EMAIL]``, and the original matches."""
        spans = self.find(text)
        pieces, end = [], 0
        for span in spans:
            pieces += [text[end : span.start], f"[{span.kind.upper()}]"]
            end = span.end
        return "".join([*pieces, text[end:]]), spans


def _disjoint(spans: Iterable[Span]) -> list[Span]:
    """Return the spans in order; overlapping spans become one that covers both, so that nothing of either remains."""
    rank = {kind: number for number, kind in enumerate(KINDS)}
    disjoint: list[Span] = []
    for span in sorted(spans):
        if disjoint and span.start < disjoint[-1].end:
            last = disjoint[-1]
            kind = min(last.kind, span.kind, key=rank.__getitem__)
            disjoint[-1] = Span(last.start, max(last.end, span.end), kind)
        else:
            disjoint.append(span)
    return disjoint
