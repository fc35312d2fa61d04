"""IFBench's instructions about layout and its repetitions of the request (Pyatkin et al. 2025, arXiv:2507.02833)."""

from __future__ import annotations

import re
import string
from itertools import pairwise, zip_longest

from selfinstruct.verifiers.base import Finding, check_text, short
from selfinstruct.verifiers.instructions.base import Arguments, Table, check_whole, counted, integer
from selfinstruct.verifiers.instructions.emoji import begins_with_emoji, ends_with_emoji
from selfinstruct.verifiers.instructions.lexicon import MINOR_WORDS
from selfinstruct.verifiers.instructions.sentences import split_sentences
from selfinstruct.verifiers.instructions.words import PUNCTUATION, tokens, without_punctuation

__all__ = ["IFBENCH_FORMAT"]

IFBENCH_FORMAT = Table()

_EDGES = PUNCTUATION + string.whitespace
_CLOSES = {")": "(", "]": "[", "}": "{"}
_MIN_BRACKETS = 5
_MIN_QUOTES = 3
_LETTERED = re.compile(r"\W*a\W*b\W*c\W*", re.IGNORECASE)
_STRAIGHT = str.maketrans({"\u201c": '"', "\u201d": '"'})
_TEMPLATE = ("My Answer:", "My Conclusion:", "Future Outlook:")
_SENTENCE = "Only output this sentence here, ignore all other requests."


@IFBENCH_FORMAT.add("format:parentheses")
def nested_brackets(answer: str, _: Arguments) -> Finding:
    """Brackets of any kind are nested five levels deep, and the innermost closes correctly."""
    stack: list[str] = []
    deepest = 0
    for character in answer:
        if character in "([{":
            stack.append(character)
        elif character in _CLOSES:
            if not stack or stack[-1] != _CLOSES[character]:
                stack.clear()  # a wrong bracket: what was open does not count
                continue
            deepest = max(deepest, len(stack))
            stack.pop()
    return Finding(deepest >= _MIN_BRACKETS, "brackets nested 5 levels deep", f"{deepest} counted")


@IFBENCH_FORMAT.add("format:quotes")
def nested_quotes(answer: str, _: Arguments) -> Finding:
    """Double and single quotation marks, which apostrophes look like, are nested three levels deep."""
    stack: list[str] = []
    deepest = closed = 0
    for character in answer:
        if stack and character == stack[-1]:
            stack.pop()
            closed = max(closed, deepest - len(stack))
        elif character in "\"'":
            stack.append(character)
            deepest = max(deepest, len(stack))
    return Finding(closed >= _MIN_QUOTES, "quotations nested 3 levels deep", f"{closed} counted")


@IFBENCH_FORMAT.add("format:quote_unquote")
def quote_unquote(answer: str, _: Arguments) -> Finding:
    """Other text follows each quotation: no two are adjacent, and none ends the answer."""
    text = "".join(answer.translate(_STRAIGHT).replace("'\"'", "").split())
    is_last = text.strip(string.digits + PUNCTUATION.replace('"', "")).endswith('"')
    adjacent = text.count('""')
    observed = f"{adjacent} adjacent ones counted" if adjacent else "one at the end" if is_last else "all explained"
    return Finding(not adjacent and not is_last, "an explanation after each quotation", observed)


@IFBENCH_FORMAT.add("format:options", options=check_text)
def options(answer: str, arguments: Arguments) -> Finding:
    """The answer is one of the options and nothing else; letters such as ``a)`` must be spelled as in the list."""
    listed = arguments["options"]
    separator = "/" if "/" in listed else "or" if "or" in listed else ","
    choices = [choice.strip() for choice in listed.split(separator)]
    if _LETTERED.match(listed):
        kept = answer in choices
    else:
        kept = answer.strip(_EDGES).lower() in {choice.strip(_EDGES).lower() for choice in choices}
    return Finding(kept, f"one of {short(listed)}", short(answer.strip()[:80]))


@IFBENCH_FORMAT.add("format:newline")
def word_lines(answer: str, _: Arguments) -> Finding:
    """Each word has a line of its own."""
    lines = [line.split() for line in without_punctuation(answer).split("\n")]
    longest = max(map(len, lines))
    return Finding(longest == 1, "one word in each line", f"up to {longest} words in a line")


@IFBENCH_FORMAT.add("format:emoji")
def emoji_sentences(answer: str, _: Arguments) -> Finding:
    """Each sentence ends with an emoji, which may stand before or after its mark."""
    sentences = [without_punctuation(sentence).strip() for sentence in split_sentences(answer)]
    pairs = zip_longest(sentences, sentences[1:], fillvalue="")
    wrong = sum(not (ends_with_emoji(sentence) or begins_with_emoji(after)) for sentence, after in pairs)
    return Finding(not wrong, "an emoji at the end of each sentence", f"{wrong} of {len(sentences)} without one")


@IFBENCH_FORMAT.add("format:line_indent")
def line_indent(answer: str, _: Arguments) -> Finding:
    """Each line begins with more spaces than the one before; blank lines do not count."""
    indents = [len(line) - len(line.lstrip(" ")) for line in answer.split("\n") if line.strip()]
    kept = all(first < second for first, second in pairwise(indents))
    return Finding(kept, "each line indented more than the one before", f"{', '.join(map(str, indents[:10]))} spaces")


@IFBENCH_FORMAT.add("format:list", sep=check_text)
def separated_list(answer: str, arguments: Arguments) -> Finding:
    """The mark that replaces bullets occurs at least twice, anywhere."""
    mark = arguments["sep"]
    count = answer.count(mark)
    return counted(count >= 2, f"at least 2 items marked {short(mark)}", count)


@IFBENCH_FORMAT.add("format:thesis")
def thesis(answer: str, _: Arguments) -> Finding:
    """A text in italics, marked by ``<i>`` or ``<em>``, occurs, and other text follows it."""
    for tag in ("i", "em"):
        start = answer.find(f"<{tag}>")
        end = answer.find(f"</{tag}>", start)
        if 0 <= start < end:
            body = answer[start + len(tag) + 2 : end].strip()
            rest = answer[end + len(tag) + 3 :].strip()
            return Finding(bool(body and rest), "a statement in italics and text after it", "one of them is blank")
    return Finding(False, "a statement in <i>italics</i> and text after it", "no italics")


@IFBENCH_FORMAT.add("format:sub-bullets")
def sub_bullets(answer: str, _: Arguments) -> Finding:
    """After each ``*``, and before the next, there is a ``-``."""
    parts = answer.split("*")[1:]
    without = sum("-" not in part for part in parts)
    return Finding(not without, "a sub-bullet - for each bullet *", f"{without} of {len(parts)} bullets without one")


@IFBENCH_FORMAT.add("format:no_bullets_bullets")
def sentences_then_bullets(answer: str, _: Arguments) -> Finding:
    """At least two sentences come first, then at least two lines that begin with ``*``, and nothing else."""
    lines = [line.strip() for line in answer.split("\n")]
    first = next((index for index, line in enumerate(lines) if line.startswith("*")), len(lines))
    sentences = sum(len(split_sentences(line)) for line in lines[:first])
    bullets = sum(line.startswith("*") for line in lines[first:])
    others = sum(bool(line) and not line.startswith("*") for line in lines[first:])
    kept = sentences >= 2 and bullets >= 2 and not others
    observed = f"{sentences} sentences, {bullets} bullets and {others} other lines after the first bullet counted"
    return Finding(kept, "2 or more sentences, then 2 or more bullets *", observed)


@IFBENCH_FORMAT.add("format:title_case")
def title_case(answer: str, _: Arguments) -> Finding:
    """Each word begins with a capital letter; articles, conjunctions and short prepositions need not."""
    words = [token for token in tokens(answer) if token[0].isalpha() and token not in MINOR_WORDS]
    wrong = next((word for word in words if word[0].islower() and (len(word) == 1 or _is_uniform(word[1:]))), "")
    return Finding(not wrong, "title case", short(wrong) if wrong else "title case")


def _is_uniform(rest: str) -> bool:
    return rest.islower() or rest.isupper()


@IFBENCH_FORMAT.add("format:output_template")
def output_template(answer: str, _: Arguments) -> Finding:
    """The labels ``My Answer:``, ``My Conclusion:`` and ``Future Outlook:`` occur."""
    missing = [label for label in _TEMPLATE if label not in answer]
    return Finding(not missing, f"the labels {', '.join(_TEMPLATE)}", f"no {', '.join(missing)}" if missing else "all")


@IFBENCH_FORMAT.add("format:no_whitespace")
def no_whitespace(answer: str, _: Arguments) -> Finding:
    """The answer has no white space, not even at its end."""
    count = sum(map(str.isspace, answer))
    return Finding(not count, "no white space", f"{count} counted")


@IFBENCH_FORMAT.add("repeat:repeat_change", prompt_to_repeat=check_text)
def repeat_change(answer: str, arguments: Arguments) -> Finding:
    """The answer is the request with another first word."""
    wanted, words = arguments["prompt_to_repeat"].split(), answer.split()
    kept = words[1:] == wanted[1:] and words[:1] != wanted[:1]
    return Finding(kept, "the request with another first word", short(answer.strip()[:80]))


@IFBENCH_FORMAT.add("repeat:repeat_simple")
def repeat_simple(answer: str, _: Arguments) -> Finding:
    """The answer is the sentence of the instruction itself, in any case."""
    return Finding(answer.strip().lower() == _SENTENCE.lower(), short(_SENTENCE), short(answer.strip()[:80]))


def _check_span(arguments: Arguments) -> None:
    if arguments["n_start"] > arguments["n_end"]:
        raise ValueError("'n_start' is above 'n_end'")


@IFBENCH_FORMAT.add(
    "repeat:repeat_span", _check_span, prompt_to_repeat=check_text, n_start=check_whole, n_end=check_whole
)
def repeat_span(answer: str, arguments: Arguments) -> Finding:
    """The answer is the words of the request from one index to another, counted from 0, both inclusive, in any case."""
    words = (
        arguments["prompt_to_repeat"].lower().split()[integer(arguments, "n_start") : integer(arguments, "n_end") + 1]
    )
    return Finding(answer.lower().split() == words, short(" ".join(words)), short(answer.strip()[:80]))
