"""IFBench's instructions that are questions of their own (Pyatkin et al. 2025, arXiv:2507.02833)."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence
from datetime import date
from itertools import pairwise, zip_longest

from selfinstruct.verifiers.base import Finding, short
from selfinstruct.verifiers.instructions.base import Arguments, Table
from selfinstruct.verifiers.instructions.sentences import split_sentences
from selfinstruct.verifiers.instructions.words import PUNCTUATION, plain_pieces

__all__ = ["IFBENCH_CUSTOM"]

IFBENCH_CUSTOM = Table()

_MULTIPLES = ["14", "21", "28", "35", "42", "49"]
_QUESTION = re.compile(r"Question \d+[.|):;]?")
_OPTION = re.compile(r"[a-eA-E][.|)]\s*\w")
_COUNTRIES_FROM_ZIMBABWE = 52
# From north to south. The published list omits Kyiv (50.45 degrees), so it may be missing.
_CAPITALS = (
    "Reykjavik", "Helsinki", "Oslo", "Tallinn", "Stockholm", "Riga", "Moscow", "Copenhagen", "Vilnius", "Minsk",
    "Dublin", "Berlin", "Amsterdam", "Warsaw", "London", "Brussels", "Prague", "Luxembourg", "Paris", "Vienna",
    "Bratislava", "Budapest", "Vaduz", "Chisinau", "Bern", "Ljubljana", "Zagreb",
)  # fmt: skip
_CAPITALS_WITH_KYIV = (*_CAPITALS[: _CAPITALS.index("Prague")], "Kyiv", *_CAPITALS[_CAPITALS.index("Prague") :])
_FIELD = r"(?:\"[^\"]*+(?:\"\"[^\"]*+)*\"|[^\"{0}\n][^{0}\n]*+|(?=[{0}\n]|$))"
_DATE = re.compile(r"(\d{4})-(\d\d)-(\d\d)", re.ASCII)
_NAPOLEON = range(1769, 1822)


@IFBENCH_CUSTOM.add("custom:multiples")
def multiples(answer: str, _: Arguments) -> Finding:
    """The numbers of the answer are the multiples of 7 from 10 to 50, in order."""
    numbers = re.findall(r"\d+", answer)
    return Finding(numbers == _MULTIPLES, ", ".join(_MULTIPLES), short(", ".join(numbers[:20])))


@IFBENCH_CUSTOM.add("custom:mcq_count_length")
def multiple_choice(answer: str, _: Arguments) -> Finding:
    """The answer is four questions (``Question 1:``) of increasing length, with five options (``a)``) each."""
    expected = "4 questions of increasing length with 5 options each"
    if not answer.startswith("Question"):
        return Finding(False, expected, "other text at the beginning")
    questions = [_read_question(part) for part in _QUESTION.split(answer) if part.strip()]
    lengths, counts = [length for length, _ in questions], [count for _, count in questions]
    kept = counts == [5] * 4 and all(first < second for first, second in pairwise(lengths))
    return Finding(
        kept, expected, f"{len(questions)} questions of {short(lengths)} characters, {short(counts)} options"
    )


def _read_question(part: str) -> tuple[int, int]:
    """Return the length of a question's text before its first option, and the number of its options."""
    lines = [line.strip() for line in part.strip().split("\n")]
    is_option = [_OPTION.match(line) is not None for line in lines]
    first = is_option.index(True) if True in is_option else len(lines)
    return len(" ".join(lines[:first]).strip()), sum(is_option)


@IFBENCH_CUSTOM.add("custom:reverse_newline")
def reverse_countries(answer: str, _: Arguments) -> Finding:
    """From a line with ``Zimbabwe`` on, at least 52 lines are in reverse alphabetical order."""
    lines = [stripped for line in answer.split("\n") if (stripped := line.strip(f"{PUNCTUATION} "))]
    start = next((index for index, line in enumerate(lines) if "Zimbabwe" in line), len(lines))
    countries = [_plain(line) for line in lines[start:]]
    wrong = next((f"{first}, {second}" for first, second in pairwise(countries) if first < second), "")
    observed = f"{len(countries)} lines counted{f' and {short(wrong)}' if wrong else ''}"
    return Finding(
        len(countries) >= _COUNTRIES_FROM_ZIMBABWE and not wrong,
        "52 or more lines in reverse order from Zimbabwe",
        observed,
    )


def _plain(text: str) -> str:
    """Return a text without accents and without other characters that are not ASCII."""
    # Character by character: sorting a long run of combining marks is quadratic in CPython.
    decomposed = (unicodedata.normalize("NFKD", character) for character in text)
    return "".join(decomposed).encode("ascii", "ignore").decode("ascii")


@IFBENCH_CUSTOM.add("custom:word_reverse")
def word_reverse(answer: str, _: Arguments) -> Finding:
    """The words of the answer, read backwards, contain ``bald eagle``."""
    kept = "bald eagle" in " ".join(reversed(plain_pieces(answer)))
    return Finding(kept, "the words backwards, with the bald eagle", short(answer.strip()[:80]))


@IFBENCH_CUSTOM.add("custom:character_reverse")
def character_reverse(answer: str, _: Arguments) -> Finding:
    """The letters of the answer, read backwards, contain ``bald eagle``."""
    return Finding("elgae dlab" in answer.lower(), "the letters backwards, with the bald eagle", short(answer[:80]))


@IFBENCH_CUSTOM.add("custom:sentence_alphabet")
def sentence_alphabet(answer: str, _: Arguments) -> Finding:
    """The answer has 26 sentences, which begin with the letters of the alphabet in order."""
    initials = [sentence.lstrip(f"{PUNCTUATION} \n\t")[:1].lower() for sentence in split_sentences(answer)]
    kept = initials == [chr(ord("a") + index) for index in range(26)]
    return Finding(kept, "26 sentences from a to z", f"{len(initials)} sentences: {''.join(initials)[:30]}")


@IFBENCH_CUSTOM.add("custom:european_capitals_sort")
def european_capitals(answer: str, _: Arguments) -> Finding:
    """The answer is the European capitals north of 45 degrees, from north to south, separated by commas."""
    names = [name for part in _plain(answer).strip().removesuffix(".").split(",") if (name := part.strip())]
    wanted = _CAPITALS_WITH_KYIV if "Kyiv" in names else _CAPITALS
    pairs = zip_longest(names, wanted, fillvalue="")
    wrong = next((f"{name} for {other}" for name, other in pairs if name != other), "")
    observed = f"{len(names)} names{f', {short(wrong)}' if wrong else ''}"
    return Finding(not wrong, f"{len(_CAPITALS)} capitals from north to south", observed)


@IFBENCH_CUSTOM.add("custom:csv_city")
def csv_city(answer: str, _: Arguments) -> Finding:
    """The answer is CSV with the columns ID, Country, City, Year and Count, and seven rows."""
    rows = _read_rows(answer, ",")
    kept = _is_table(rows, ("ID", "Country", "City", "Year", "Count"), 7)
    return Finding(kept, "a header of 5 columns and 7 rows", _shape(rows))


@IFBENCH_CUSTOM.add("custom:csv_special_character")
def csv_special_character(answer: str, _: Arguments) -> Finding:
    """The answer is CSV with five columns and 14 rows, and a quoted field has a special character."""
    rows = _read_rows(answer, ",")
    special = sum(
        field.startswith('"') and re.search(r"[^\w\s]", field[1:-1]) is not None for row in rows[1:] for field in row
    )
    kept = special > 0 and _is_table(rows, ("ProductID", "Category", "Brand", "Price", "Stock"), 14)
    expected = "a header of 5 columns, 14 rows and a quoted field with a special character"
    return Finding(kept, expected, f"{_shape(rows)}, {special} such fields")


@IFBENCH_CUSTOM.add("custom:csv_quotes")
def csv_quotes(answer: str, _: Arguments) -> Finding:
    """The answer is separated by tabs, with five columns and three rows, and each field is quoted."""
    rows = _read_rows(answer, "\t")
    unquoted = sum(len(field) < 2 or not field[0] == field[-1] == '"' for row in rows for field in row)
    kept = not unquoted and _is_table(rows, ("StudentID", "Subject", "Grade", "Semester", "Score"), 3)
    return Finding(kept, "a header of 5 columns and 3 rows, all quoted", f"{_shape(rows)}, {unquoted} unquoted fields")


def _read_rows(text: str, separator: str) -> list[list[str]]:
    """Return the rows that are not blank; fields are stripped and keep their quotation marks."""
    field = re.compile(rf"({_FIELD.format(separator)})[ ]*([{separator}\n]|$)")
    rows: list[list[str]] = [[]]
    text = text.strip()
    position = 0
    while position <= len(text):
        match = field.match(text, position)
        if match is None:  # text next to a quotation mark: a broken row
            return []
        rows[-1].append(match.group(1).strip())
        if match.end() == len(text) and match.group(2) != separator:
            break
        if match.group(2) == "\n":
            rows.append([])
        position = match.end() + (0 if match.group(2) else 1)
        while separator == "," and text[position : position + 1] == " ":
            position += 1
    return [row for row in rows if row != [""]]


def _is_table(rows: Sequence[Sequence[str]], header: Sequence[str], count: int) -> bool:
    names = tuple(name.strip('"') for name in rows[0]) if rows else ()
    return names == tuple(header) and len(rows) == count + 1 and all(len(row) == len(header) for row in rows)


def _shape(rows: Sequence[Sequence[str]]) -> str:
    widths = sorted({len(row) for row in rows})
    return f"{max(0, len(rows) - 1)} rows of {' or '.join(map(str, widths[:5])) or 'no'} columns"


@IFBENCH_CUSTOM.add("custom:date_format_list")
def napoleon_dates(answer: str, _: Arguments) -> Finding:
    """The answer is dates of Napoleon's lifetime in the form YYYY-MM-DD, separated by commas."""
    parts = [part.strip() for part in answer.strip().split(",")]
    wrong = next((part for part in parts if not _is_date(part)), None)
    observed = f"{len(parts)} dates" if wrong is None else short(wrong)
    return Finding(wrong is None, "dates from 1769 to 1821 as YYYY-MM-DD, separated by commas", observed)


def _is_date(text: str) -> bool:
    match = _DATE.fullmatch(text)
    if match is None:
        return False
    year, month, day = map(int, match.groups())
    try:
        date(year, month, day)
    except ValueError:
        return False
    return year in _NAPOLEON
