"""IFEval's instructions about format, parts, beginnings and ends (Zhou et al. 2023, arXiv:2311.07911)."""

from __future__ import annotations

import re

from selfinstruct.common.codec import loads
from selfinstruct.verifiers.base import Finding, check_text, short
from selfinstruct.verifiers.instructions.base import Arguments, Table, check_whole, counted, integer

__all__ = ["IFEVAL_LAYOUT"]

IFEVAL_LAYOUT = Table()

_OPTIONS = ("My answer is yes.", "My answer is no.", "My answer is maybe.")
_SINGLE_STARS = re.compile(r"\*([^\n*]*)\*")
_DOUBLE_STARS = re.compile(r"\*\*([^\n*]*)\*\*")
_FENCE_NAMES = ("```json", "```Json", "```JSON", "```")
_SHOWN = 40  # characters of an answer that a finding repeats


@IFEVAL_LAYOUT.add("detectable_content:number_placeholders", num_placeholders=check_whole)
def placeholders(answer: str, arguments: Arguments) -> Finding:
    """At least a number of placeholders in square brackets occur, such as ``[address]``."""
    limit = integer(arguments, "num_placeholders")
    count = sum(map(_brackets, answer.split("\n")))
    return counted(count >= limit, f"at least {limit} placeholders in square brackets", count)


def _brackets(line: str) -> int:
    count = position = 0
    while (start := line.find("[", position)) >= 0 and (end := line.find("]", start)) >= 0:
        count += 1
        position = end + 1
    return count


@IFEVAL_LAYOUT.add("detectable_content:postscript", postscript_marker=check_text)
def postscript(answer: str, arguments: Arguments) -> Finding:
    """A postscript occurs, after the marker ``P.S.``, ``P.P.S`` or another; a space may follow its full stops."""
    marker = arguments["postscript_marker"].strip()
    if marker in ("P.S.", "P.P.S"):
        pattern = re.escape(marker.lower()).replace(r"\.", r"\.\s?", marker.count(".") - (marker == "P.S."))
    else:
        pattern = re.escape(marker.lower())
    kept = re.search(pattern, answer.lower()) is not None
    return Finding(kept, f"a postscript after {short(marker)}", "found" if kept else "no such marker")


@IFEVAL_LAYOUT.add("detectable_format:number_bullet_lists", num_bullets=check_whole)
def bullets(answer: str, arguments: Arguments) -> Finding:
    """Exactly a number of lines are bullets: they begin with ``*`` or ``-``, but not with ``**``."""
    lines = [line.strip() for line in answer.split("\n")]
    count = sum(line.startswith("-") or (line.startswith("*") and not line.startswith("**")) for line in lines)
    limit = integer(arguments, "num_bullets")
    return counted(count == limit, f"exactly {limit} bullets", count)


@IFEVAL_LAYOUT.add("detectable_format:number_highlighted_sections", num_highlights=check_whole)
def highlights(answer: str, arguments: Arguments) -> Finding:
    """At least a number of sections are highlighted with ``*one star*`` or ``**two**``."""
    limit = integer(arguments, "num_highlights")
    count = sum(bool(text.strip()) for pattern in (_SINGLE_STARS, _DOUBLE_STARS) for text in pattern.findall(answer))
    return counted(count >= limit, f"at least {limit} highlighted sections", count)


@IFEVAL_LAYOUT.add("detectable_format:multiple_sections", section_spliter=check_text, num_sections=check_whole)
def sections(answer: str, arguments: Arguments) -> Finding:
    """At least a number of sections begin with a word and a number, such as ``SECTION 1``; case matters."""
    name, limit = arguments["section_spliter"].strip(), integer(arguments, "num_sections")
    count = len(re.findall(rf"{re.escape(name)}\s?\d+", answer))
    return counted(count >= limit, f"at least {limit} sections that begin with {short(name)} and a number", count)


@IFEVAL_LAYOUT.add("detectable_format:title")
def title(answer: str, _: Arguments) -> Finding:
    """A title occurs in double angular brackets, such as ``<<poem of joy>>``."""
    kept = any(_has_title(line) for line in answer.split("\n"))
    return Finding(kept, "a title in <<double angular brackets>>", "found" if kept else "no title")


def _has_title(line: str) -> bool:
    start, end = line.find("<<"), line.rfind(">>")
    return 0 <= start < end - 2 and bool(line[start:end].strip("<").rstrip(">").strip())


@IFEVAL_LAYOUT.add("detectable_format:json_format")
def json_format(answer: str, _: Arguments) -> Finding:
    """The whole answer is JSON, which may stand in a code fence.

    JSON is read strictly: a repeated key, ``NaN`` and more than 200 levels of nesting are refused.
    """
    text = answer.strip()
    text = text.removeprefix(next((name for name in _FENCE_NAMES if text.startswith(name)), ""))
    try:
        loads(text.removesuffix("```").strip())
    except ValueError as error:
        return Finding(False, "JSON", str(error))
    return Finding(True, "JSON", "JSON")


@IFEVAL_LAYOUT.add("detectable_format:constrained_response")
def constrained_response(answer: str, _: Arguments) -> Finding:
    """One of ``My answer is yes.``, ``My answer is no.`` and ``My answer is maybe.`` occurs."""
    kept = any(option in answer for option in _OPTIONS)
    return Finding(kept, f"one of {', '.join(map(short, _OPTIONS))}", "found" if kept else "none of them")


@IFEVAL_LAYOUT.add("combination:two_responses")
def two_responses(answer: str, _: Arguments) -> Finding:
    """Two different responses occur, separated by ``******``."""
    parts = [part.strip() for part in answer.split("******")]
    responses = [part for part in parts if part]
    inner_blank = "" in parts[1:-1]
    differ = len(responses) == 2 and responses[0] != responses[1]
    observed = "2 equal ones" if len(responses) == 2 and not differ else f"{len(responses)} counted"
    return Finding(differ and not inner_blank, "two different responses separated by ******", observed)


@IFEVAL_LAYOUT.add("combination:repeat_prompt", prompt_to_repeat=check_text)
def repeat_prompt(answer: str, arguments: Arguments) -> Finding:
    """The answer begins with the request, repeated word for word, in any case."""
    wanted = arguments["prompt_to_repeat"].strip()
    kept = answer.strip().lower().startswith(wanted.lower())
    return Finding(kept, f"{short(wanted)} at its beginning", short(answer.strip()[:_SHOWN]))


@IFEVAL_LAYOUT.add("startend:end_checker", end_phrase=check_text)
def end_phrase(answer: str, arguments: Arguments) -> Finding:
    """The answer ends with a given phrase, in any case; a quotation mark may follow."""
    wanted = arguments["end_phrase"].strip()
    text = answer.strip().strip('"')
    return Finding(text.lower().endswith(wanted.lower()), f"{short(wanted)} at its end", short(text[-_SHOWN:]))


@IFEVAL_LAYOUT.add("startend:quotation")
def quotation(answer: str, _: Arguments) -> Finding:
    """The whole answer stands in double quotation marks."""
    text = answer.strip()
    kept = len(text) > 1 and text[0] == text[-1] == '"'
    return Finding(kept, "double quotation marks around the answer", f"{short(text[:1])} and {short(text[-1:])}")
