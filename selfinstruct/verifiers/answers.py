"""The kinds ``number`` and ``text``: answers with one right content."""

from __future__ import annotations

from collections.abc import Iterator
from fractions import Fraction
from typing import Any

import regex

from selfinstruct.verifiers.base import (
    Finding,
    Kind,
    Spec,
    check_number,
    check_text,
    check_texts,
    check_tolerance,
    short,
)

__all__ = ["NUMBER", "TEXT", "numbers"]

# --- numbers ---

_SIGN = r"[-+\u2212\u2013\ufe63\uff0d]"
_OPENED = r"(?<=[=\u2248\u2264\u2265({\[]\s?|\$)"  # after these, a minus followed by a space belongs to the number
_MONEY = r"[$€£¥₹]"
_DIGITS = r"(?!0)\d{1,3}+(?:(?:[,\uff0c\u00a0\u202f\u2009]|\{,\}|\\[,!])\d{3}(?!\d))++|\d++"
_FRACTION = r"(?:[.\uff0e]\d++)"
_NUMERAL = rf"(?:{_DIGITS}){_FRACTION}?+"
# Nested brackets, to a fixed depth: unclosed brackets are not scanned again at each opening, which keeps time linear.
_BRACES = r"\{(?:[^{}]++|\{(?:[^{}]++|\{[^{}]*+\})*+\})*+\}"
_PARENS = r"\((?:[^()]++|\([^()]*+\))*+\)"
_GROUP = rf"(?:{_BRACES}|\d)"
_FRAC = r"\\(?:[cdst]|nice)?frac"
_ROOT = (
    rf"(?:\\?sqrt\s?(?:\[[^\[\]{{}}]*+\]\s?)?+(?:{_GROUP}|{_PARENS})|[\u221a-\u221c]\s?(?:{_PARENS}|{_BRACES}|\d*+))"
)
_PI = r"(?:\\pi(?![^\W\d_])|\u03c0|pi(?!\w))"
_POWER = rf"\^\s?(?:{_BRACES}|{_PARENS}|[-+\u2212]?\w++(?:\.\d++)?+|\\[a-z]++(?:\s?{_GROUP}){{0,2}}+)"
_RAISED = r"[\u00b2\u00b3\u00b9\u2070\u2074-\u2079\u207a\u207b]"
_VULGAR = r"[\u00bc-\u00be\u2150-\u215e]"
_BY = r"\s?(?:[\u00d7\u00b7\u22c5*x]|\\times|\\cdot)\s?"
_DEGREE = r"\^\s?(?:\\circ|\{\s?(?:\\circ|\\degree|\u00b0)\s?(?:\\?[A-Za-z]{1,8}\s?)?\})"
_NTH = r"\s?\^\s?\{?\s?(?:\\(?:text|textrm|mathrm|rm)\s?\{?\s?)?(?:st|nd|rd|th)(?!\w)\s?\}{0,2}"
_TAIL = r"(?:[.,]\d++)?+"
# Text after a number that changes its value.
_MORE = "|".join(
    (
        rf"\s?{_POWER} | \*\*(?:{_PARENS}|[-\u2212]?\d++{_TAIL})",
        rf"(?:{_BY}|\s)?(?:{_ROOT}|{_PI}) | {_BY}10\s?(?:{_POWER}|{_RAISED})",
        rf"\s?/\s?(?:{_ROOT}|{_PI}|{_PARENS}|[nxyz](?!\w)) | (?(divisor)\s?/\s?\d++|(?!))",
        rf"(?:{_RAISED}|[\u2080-\u2089\u2030\u2031])++ | \s?{_VULGAR}",
        # groups of digits: after a separator of thousands, a decimal comma, or as the base
        rf"_{_BRACES} | (?:_\d++)++{_TAIL} | (?:['\u2019]\d{{3}}(?!\d))++{_TAIL}",
        rf"(?<=(?<![^\W_]|[.,/'\u2019])\d{{1,3}})(?:(?:[ ~]|\\[ ;:])\d{{3}}(?!\d))++{_TAIL}",
        r"(?(divisor)(?!)|(?<=\d)(?:[.,:\u066b\u066c]\d++)++)",
        rf"\.?+\\(?:overline|bar|dot)\s?{_GROUP} | \.\(\d++\)",
        r"(?:\s|~|-|\\[,;\ ])?+(?:\\(?:text|textrm|mathrm)\s?\{\s*+)?+"
        r"(?i:hundred|thousand|(?:m|b|tr|quadr|quint)illion|dozen|lakh|crore)(?i:s|ths?)?+(?!\w)",
        r"\ (?:bn|mn|tn)(?!\w) | (?(money)\ [kKMBT](?!\w)|(?!))",
        r"\s?(?:[十百万萬亿億兆만억천백]|千(?![克米瓦卡帕焦赫公]))",
    )
)
# Words with digits, dates, times and versions are not numbers. Each alternative consumes all that it scanned, so that
# no character is scanned twice.
_TOKEN = regex.compile(
    rf"""
    (?![\s,;:!?"'()\[\]{{}}<>*\#@|`&~%=]|\.(?!\d)) (?:
    (?P<latex>(?P<before>{_OPENED}{_SIGN}\s|(?<![\w)\]}}]){_SIGN})?+(?P<whole>\d++\s?)?+
      {_FRAC}\s?\{{\s?(?P<over>{_SIGN}?\d++)\s?\}}\s?\{{\s?(?P<under>{_SIGN}?\d++)\s?\}})
      (?P<percent>\s?\\?[%\uff05])?+ (?P<more>{_MORE})?+ (?P<unit>[^\W\d_]\w*+)?+
    | (?P<unread>\d*+(?:{_FRAC}|\\[dt]?binom)\s?{_GROUP}\s?{_GROUP} | {_ROOT} | {_VULGAR}
        | (?<=\)\s?)(?:{_POWER}|{_RAISED}++) | (?:(?<=\s)/\s|(?<!\s)/){_SIGN}?\d++(?:[.,]\d++)*+)
    | {_POWER} | _{_BRACES}
    | \\?[^\W\d_](?:\w|[-'\u2019](?=[^\W_])|(?<=\d)\.(?=\d)|(?<=_){_BRACES})*+
    | (?P<unread>\d{{1,3}}(?:\.\d{{3}}){{2,}}+(?!\.?\d){_TAIL} | \d++\.\d++,\d++)
    | (?P<other>\d{{4}}-\d{{1,2}}-\d{{1,2}}\b | \d{{1,2}}-\d{{1,2}}-\d{{4}}\b
        | \d++(?:/\d++){{2,}}+ | \d++(?:\.\d++){{2,}}+ | \d++(?::\d++)++ (?:\.\d++)?+ )
    | (?P<unread>(?![1-9]\d{{0,2}}(?:,\d{{3}})+(?!,?\d))\d++(?:,\d++)++)
    | (?P<sign>{_OPENED}{_SIGN}\ (?=[\d.$\\])|(?<![\w)\]}}]){_SIGN})?+
      (?P<money>\\?{_MONEY}(?P<second>{_SIGN}(?=\.?\d))?+)?+
      (?P<number>{_NUMERAL}|(?<!\w){_FRACTION})
      (?P<exponent>[eE][-+\u2212]?\d++(?!\w)
        |{_BY}10(?:\s?(?:\^|\*\*)\s?[{{(]?(?P<power>{_SIGN}?\d++)[}})]?|(?P<raised>{_RAISED}++)))?+
      (?:(?P<mixed>\s\d++)?(?:\ ?/\ ?|\u2044)(?P<divisor>{_SIGN}?{_NUMERAL}))?+
      (?P<percent>\s?\\?[%\uff05])?+
      (?:{_DEGREE})?+ (?P<nth>{_NTH})?+
      (?P<more>{_MORE})?+
      (?P<unit>[^\W\d_]\w*+)?+
    )
    """,
    regex.VERBOSE,
)
_BOXED = "\\boxed{"
_MINUS = "-\u2212\u2013\ufe63\uff0d"
_MAX_DIGITS = 400
_NOT_UNITS = regex.compile(r"(?:[kKMBTxyznijeEk]|bn|mn|tn|\w*\d\w*)$")  # thousands and variables change the number
_ORDINAL = regex.compile(r"(?:st|nd|rd|th)$", regex.IGNORECASE)
_RAISED_TO_FLAT = str.maketrans(
    "\u2070\u00b9\u00b2\u00b3\u2074\u2075\u2076\u2077\u2078\u2079\u207a\u207b", "0123456789+-"
)
_TO_PYTHON = str.maketrans(
    {**dict.fromkeys(_MINUS, "-"), **dict.fromkeys(",\uff0c\u00a0\u202f\u2009{}\\!", None), "\uff0e": "."}
)


def numbers(answer: str, start: int = 0, end: int | None = None) -> list[tuple[str, tuple[Fraction, ...]]]:
    """Return the numbers of a text, or of a part of it, in order: each as written, with the values it may have.

    ``50%`` may be 50 or 0.5. Numbers within words, ordinals, dates, times and versions are left out. A number that its
    context changes (``5k``, ``2π``, ``10^3``) or that can be read in several ways (``3,5``) has no value.
    """
    return [(match.group(), _readings(match)) for match in _matches(answer, start, len(answer) if end is None else end)]


def _matches(answer: str, start: int, end: int) -> Iterator[regex.Match[str]]:
    """Yield the matches of numbers; an answer may have hundreds of thousands, of which one is read."""
    for match in _TOKEN.finditer(answer, start, end):
        is_ordinal = match["nth"] or (match["unit"] and _ORDINAL.match(match["unit"]))
        if match["unread"] or match["latex"] or (match["number"] and not is_ordinal):
            yield match


def _readings(match: regex.Match[str]) -> tuple[Fraction, ...]:
    if match["unread"] or match["more"] or (match["unit"] and _NOT_UNITS.match(match["unit"])):
        return ()
    value = _latex_fraction(match) if match["latex"] else _plain_number(match)
    if value is None:
        return ()
    return (value, value / 100) if match["percent"] else (value,)


def _latex_fraction(match: regex.Match[str]) -> Fraction | None:
    fraction = _divided(_read(match["over"]), _read(match["under"]))
    integer = _read(match["whole"].strip()) if match["whole"] else Fraction(0)
    if fraction is None or integer is None or (match["whole"] and fraction < 0):
        return None
    value = integer + fraction
    return -value if match["before"] and match["before"][0] in _MINUS else value


def _plain_number(match: regex.Match[str]) -> Fraction | None:
    power = match["raised"].translate(_RAISED_TO_FLAT) if match["raised"] else match["power"]
    value = _read(match["number"] + (match["exponent"] if match["exponent"] and power is None else ""))
    if value is not None and power is not None:
        exponent = _integer(power)
        value = None if exponent is None or abs(exponent) > _MAX_DIGITS else value * Fraction(10) ** exponent
    if value is not None and match["divisor"] is not None:
        mixed = match["mixed"]
        fraction = _divided(value if mixed is None else _read(mixed.strip()), _read(match["divisor"]))
        value = fraction if mixed is None or fraction is None else value + fraction
    is_negative = any(sign and sign[0] in _MINUS for sign in (match["sign"], match["second"]))
    return -value if is_negative and value is not None else value


def _read(numeral: str) -> Fraction | None:
    """Return the value of a numeral; None if it is too long."""
    plain = numeral.translate(_TO_PYTHON)
    mantissa, _, exponent = plain.lower().partition("e")
    if len(mantissa) > _MAX_DIGITS or len(exponent) > 4 or (exponent and abs(int(exponent)) > _MAX_DIGITS):
        return None
    return Fraction(plain)


def _integer(numeral: str) -> int | None:
    """Return the value of an exponent; None if it is too long or has nothing but signs."""
    try:
        value = _read(numeral)
    except ValueError:
        return None
    return None if value is None else int(value)


def _divided(over: Fraction | None, under: Fraction | None) -> Fraction | None:
    return over / under if over is not None and under else None


def _boxed(answer: str) -> tuple[int, int]:
    r"""Return the span of the contents of the last ``\boxed{}``, or of the whole answer if there is none."""
    start = answer.rfind(_BOXED)
    if start < 0:
        return 0, len(answer)
    depth, begin = 1, start + len(_BOXED)
    for match in regex.compile(r"[{}]").finditer(answer, begin):
        depth += 1 if match.group() == "{" else -1
        if depth == 0:
            return begin, match.start()
    return begin, len(answer)


def _verify_number(spec: Spec, answer: str) -> Finding:
    where = spec.get("where", "last")
    expected = short(spec["value"]) + ("" if "tolerance" not in spec else f" within {short(spec['tolerance'])}")
    if isinstance(where, dict):
        # The label is searched in the original text: with its case folded, 5M would become 5m.
        label = regex.compile(
            regex.escape(where["after"], literal_spaces=True), regex.IGNORECASE | regex.FULLCASE | regex.REVERSE
        )
        match = label.search(answer)
        if match is None:
            return Finding(False, f"{expected} after {short(where['after'])}", f"no {short(where['after'])}")
        start, end = match.end(), len(answer)
    else:
        start, end = _boxed(answer)
    number: regex.Match[str] | None = None
    count = 0
    for match in _matches(answer, start, end):
        number, count = match, count + 1
        if isinstance(where, dict):
            break
    if number is None:
        return Finding(False, expected, "no number")
    if where == "only" and count > 1:
        return Finding(False, f"{expected} and no other number", f"{count} numbers")
    is_right = any(_is_right(value, spec) for value in _readings(number))
    return Finding(is_right, expected, short(number.group().strip()))


def _is_right(number: Fraction, spec: Spec) -> bool:
    value = Fraction(spec["value"])
    if "tolerance" in spec:
        # Decimal fractions as written: 0.3 and 0.1 differ by 0.2, though the floats do not.
        return abs(number - Fraction(repr(spec["value"]))) <= Fraction(repr(spec["tolerance"]))
    if isinstance(spec["value"], int):
        return number == value
    return abs(number - value) <= abs(value) / 10**6


def _check_where(value: Any) -> None:
    if value in ("last", "only") and isinstance(value, str):
        return
    if (
        not isinstance(value, dict)
        or set(value) != {"after"}
        or not isinstance(value["after"], str)
        or not value["after"]
    ):
        raise ValueError(f'must be "last", "only" or {{"after": "some text"}}, found {short(value)}')


NUMBER = Kind(
    _verify_number,
    {"value": check_number, "tolerance": check_tolerance, "where": _check_where},
    required=("value",),
)

# --- texts ---

_AROUND = " \t\r\n*_`\"'\u201c\u201d\u2018\u2019\u00ab\u00bb\u201e"


def _verify_text(spec: Spec, answer: str) -> Finding:
    values = [spec["value"]] if "value" in spec else spec["values"]
    return Finding(_plain(answer) in map(_plain, values), " or ".join(map(short, values[:4])), short(answer.strip()))


def _plain(text: str) -> str:
    """Return `text` without case, emphasis, quotation marks, a final full stop, and with single spaces."""
    text = text.strip(_AROUND)
    text = text.removesuffix(".").removesuffix("。").strip(_AROUND)
    return " ".join(text.split()).casefold()


def _check_values(spec: Spec) -> None:
    if "value" in spec and "values" in spec:
        raise ValueError("'value' and 'values' exclude each other")
    for value in spec.get("values", [spec.get("value")]):
        if not _plain(value):
            raise ValueError(f"{short(value)} consists of punctuation only")


TEXT = Kind(_verify_text, {"value": check_text, "values": check_texts}, one_of=("value", "values"), check=_check_values)
