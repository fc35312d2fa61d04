"""Answers with one right content: a number, a text, a pattern."""

from __future__ import annotations

from fractions import Fraction
from typing import Any

import regex

from selfinstruct.verifiers.base import Finding, Kind, Spec, flag, number, short, text, texts
from selfinstruct.verifiers.patterns import compile_pattern

__all__ = ["NUMBER", "REGEX", "TEXT", "numbers", "tolerance"]

# --- numbers ---

_SIGN = r"[-+\u2212\u2013\ufe63\uff0d]"
_MONEY = r"[$€£¥₹]"
_DIGITS = r"(?!0)\d{1,3}+(?:(?:[,\uff0c\u00a0\u202f\u2009]|\{,\}|\\[,!])\d{3}(?!\d))++|\d++"
_GROUP = r"(?:\{[^{}]*+\}|\d)"
_POWER = r"\^\s?(?:\{[^{}]*+\}|\([^()]*+\)|[-+\u2212]?\w++)"
# What makes another number of the one before it: a power, a root, a fraction of one character, digits set apart.
_MORE = (
    rf"\s?{_POWER}|\s?\\sqrt\s?{_GROUP}|\s?\u221a\s?\(?\d*+|"
    r"[\u00b2\u00b3\u00b9\u2070-\u2079\u207b\u00bc-\u00be\u2150-\u215e]++"
    r"|\s?\\pi(?![^\W\d_])|\s?\u03c0|_\d++|['\u2019]\d{3}(?!\d)|(?:\ \d{3}(?!\d))++"
    r"|\ (?:hundred|thousand|million|billion|trillion|dozen|lakh|crore)s?+(?!\w)"
)
_FRACTION = r"(?:\.\d++)"
# A run of letters and digits that begins with a letter is no number, nor are dates, times and versions. Each
# alternative eats all that it looked at, so that nothing is looked at twice.
_TOKEN = regex.compile(
    rf"""
    (?P<latex>(?P<before>(?<![\w)\]}}]){_SIGN})?+(?P<whole>\d++\s?)?+
      \\[cdt]?frac\s?\{{\s?(?P<over>{_SIGN}?\d++)\s?\}}\s?\{{\s?(?P<under>{_SIGN}?\d++)\s?\}})
    | (?P<unread>\d*+\\(?:[cdt]?frac\s?{_GROUP}\s?{_GROUP}|sqrt\s?{_GROUP}) | \u221a\s?\(?\d++ | (?<=\)\s?){_POWER})
    | {_POWER}
    | \\?[^\W\d_](?:\w|[-'\u2019](?=[^\W_])|(?<=\d)\.(?=\d))*+
    | (?P<continental>\d{{1,3}}(?:\.\d{{3}}){{2,}}+(?![.\d]) | \d++\.\d++,\d++)
    | (?P<other>\d{{4}}-\d{{1,2}}-\d{{1,2}}\b | \d{{1,2}}-\d{{1,2}}-\d{{4}}\b
        | \d++(?:/\d++){{2,}}+ | \d++(?:\.\d++){{2,}}+ | \d++(?::\d++)++ (?:\.\d++)?+ )
    | (?P<unclear>(?![1-9]\d{{0,2}}(?:,\d{{3}})+(?!,?\d))\d++(?:,\d++)++)
    | (?P<sign>(?<=[=({{]\s?){_SIGN}\ (?=[\d.$\\])|(?<![\w)\]}}]){_SIGN})?+
      (?:\\?{_MONEY}(?P<second>{_SIGN}(?=\.?\d))?+)?+
      (?P<number>(?:{_DIGITS}){_FRACTION}?+|(?<!\w){_FRACTION})
      (?P<exponent>[eE][-+]?\d++(?!\w)
        |\s?(?:\u00d7|\*|\\times|\\cdot|x)\s?10\s?(?:\^|\*\*)\s?[{{(]?(?P<power>{_SIGN}?\d++)[}})]?)?+
      (?:(?P<mixed>\s\d++)?(?:\ ?/\ ?|\u2044)(?P<divisor>{_SIGN}?\d++))?+
      (?P<percent>\s?\\?%)?+
      (?P<more>{_MORE})?+
      (?P<unit>[^\W\d_]\w*+)?+
    """,
    regex.VERBOSE,
)
_BOXED = "\\boxed{"
_MINUS = "-\u2212\u2013\ufe63\uff0d"
_MOST_DIGITS = 400
_NOT_UNITS = regex.compile(r"(?:[kKMBTxyznijeEk]|bn|mn|tn|\w*\d\w*)$")  # thousands, variables: another number
_ORDINAL = regex.compile(r"(?:st|nd|rd|th)$", regex.IGNORECASE)

_Readings = tuple[Fraction, ...]


def numbers(answer: str) -> list[tuple[str, _Readings]]:
    """The numbers of a text in their order, each as it stands there and what it can mean.

    ``50%`` is 50 and 0.5. Numbers inside of words, ordinals, dates, times and versions are left out; one that letters
    change (``5k``) or that can be read in several ways (``3,5``) is there with no meaning.
    """
    found = []
    for match in _TOKEN.finditer(answer):
        if match["latex"]:
            found.append((match.group(), _latex(match)))
        elif match["unclear"] or match["unread"] or match["continental"]:
            found.append((match.group(), ()))
        elif match["number"] and not (match["unit"] and _ORDINAL.match(match["unit"])):
            found.append((match.group(), _readings(match)))
    return found


def _latex(match: regex.Match[str]) -> _Readings:
    part = _divided(_read(match["over"]), _read(match["under"]))
    whole = _read(match["whole"].strip()) if match["whole"] else (Fraction(0),)
    if not part or not whole or (match["whole"] and part[0] < 0):
        return ()
    value = whole[0] + part[0]
    return (-value if match["before"] and match["before"] in _MINUS else value,)


def _readings(match: regex.Match[str]) -> _Readings:
    if match["more"] or (match["unit"] and _NOT_UNITS.match(match["unit"])):
        return ()
    value = _read(match["number"] + (match["exponent"] if match["exponent"] and match["power"] is None else ""))
    if match["power"] is not None:
        power = _read(match["power"])
        if not value or not power or abs(power[0]) > _MOST_DIGITS:
            return () if power != (Fraction(0),) else value
        value = (value[0] * Fraction(10) ** int(power[0]),)
    if match["divisor"] is not None:
        over = value if match["mixed"] is None else _read(match["mixed"].strip())
        part = _divided(over, _read(match["divisor"]))
        value = part if match["mixed"] is None or not part or not value else (value[0] + part[0],)
    signs = [sign for sign in (match["sign"], match["second"]) if sign]
    if any(sign[0] in _MINUS for sign in signs):
        value = tuple(-one for one in value)
    return (*value, *(one / 100 for one in value)) if match["percent"] else value


def _read(numeral: str) -> _Readings:
    """A numeral's value; nothing if it is too long to be one."""
    plain = regex.sub(r"[,\uff0c\u00a0\u202f\u2009{}\\!]", "", numeral)
    mantissa, _, exponent = plain.lower().partition("e")
    if len(mantissa) > _MOST_DIGITS or len(exponent) > 4 or (exponent and abs(int(exponent)) > _MOST_DIGITS):
        return ()
    for minus in _MINUS:
        plain = plain.replace(minus, "-")
    return (Fraction(plain),)


def _divided(over: _Readings, under: _Readings) -> _Readings:
    return (over[0] / under[0],) if over and under and under[0] else ()


def _boxed(answer: str) -> str | None:
    r"""What stands in the last ``\boxed{}``."""
    start = answer.rfind(_BOXED)
    if start < 0:
        return None
    depth, begin = 1, start + len(_BOXED)
    for match in regex.compile(r"[{}]").finditer(answer, begin):
        depth += 1 if match.group() == "{" else -1
        if depth == 0:
            return answer[begin : match.start()]
    return answer[begin:]


def _number(spec: Spec, answer: str) -> Finding:
    where = spec.get("where", "last")
    expected = short(spec["value"]) + ("" if "tolerance" not in spec else f" within {short(spec['tolerance'])}")
    if isinstance(where, dict):
        # In the text as it stands: folded, 5M would be 5m.
        label = regex.compile(
            regex.escape(where["after"], literal_spaces=True), regex.IGNORECASE | regex.FULLCASE | regex.REVERSE
        )
        place = label.search(answer)
        if place is None:
            return Finding(False, f"{expected} after {short(where['after'])}", "nothing after it: it is not there")
        answer = answer[place.end() :]
    else:
        boxed = _boxed(answer)
        answer = answer if boxed is None else boxed
    found = numbers(answer)
    if not found:
        return Finding(False, expected, "no number")
    if where == "only" and len(found) > 1:
        return Finding(False, f"{expected} and no other number", f"{len(found)} numbers")
    said, readings = found[0] if isinstance(where, dict) else found[-1]
    return Finding(any(_same(one, spec) for one in readings), expected, short(said.strip()))


def _same(found: Fraction, spec: Spec) -> bool:
    value = Fraction(spec["value"])
    if "tolerance" in spec:
        # As written: 0.3 and 0.1 differ by 0.2, though the floats do not.
        return abs(found - Fraction(repr(spec["value"]))) <= Fraction(repr(spec["tolerance"]))
    if isinstance(spec["value"], int):
        return found == value
    return abs(found - value) <= abs(value) / 10**6


def tolerance(value: Any) -> None:
    """The most that two numbers may differ by."""
    number(value)
    if value < 0:
        raise ValueError(f"is 0 or more, found {short(value)}")


def _where(value: Any) -> None:
    if value in ("last", "only") and isinstance(value, str):
        return
    if (
        not isinstance(value, dict)
        or set(value) != {"after"}
        or not isinstance(value["after"], str)
        or not value["after"]
    ):
        raise ValueError(f'is "last", "only" or {{"after": "some text"}}, found {short(value)}')


NUMBER = Kind(_number, {"value": number, "tolerance": tolerance, "where": _where}, required=("value",))

# --- texts ---

_AROUND = " \t\r\n*_`\"'\u201c\u201d\u2018\u2019\u00ab\u00bb\u201e"


def _text(spec: Spec, answer: str) -> Finding:
    values = [spec["value"]] if "value" in spec else spec["values"]
    return Finding(_plain(answer) in map(_plain, values), " or ".join(map(short, values[:4])), short(answer.strip()))


def _plain(given: str) -> str:
    """Without case, emphasis, quotation marks, a full stop at the end, and differences of white space."""
    given = given.strip(_AROUND)
    given = given.removesuffix(".").removesuffix("。").strip(_AROUND)
    return " ".join(given.split()).casefold()


def _one(spec: Spec) -> None:
    if "value" in spec and "values" in spec:
        raise ValueError("'value' and 'values' are not given together")
    for one in spec.get("values", [spec.get("value")]):
        if not _plain(one):
            raise ValueError(f"{short(one)} has nothing but marks in it")


TEXT = Kind(_text, {"value": text, "values": texts}, one_of=("value", "values"), check=_one)

# --- patterns ---


def _pattern(value: Any) -> None:
    """A regular expression that linear time is enough for."""
    if not isinstance(value, str) or not value:
        raise ValueError(f"is a regular expression, found {short(value)}")
    compile_pattern(value)


def _regex(spec: Spec, answer: str) -> Finding:
    full = spec.get("full", False)
    expected = f"{'all of it' if full else 'a part'} to match {short(spec['pattern'])}"
    try:
        kept = compile_pattern(spec["pattern"], full=full).matches(answer)
    except ValueError as error:
        return Finding(False, expected, str(error))
    return Finding(kept, expected, short(answer.strip()))


REGEX = Kind(_regex, {"pattern": _pattern, "full": flag}, required=("pattern",))
