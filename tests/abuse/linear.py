"""Run every reader of text on hostile texts of one size, each within a limit of CPU time, in a separate process.

``python -m tests.abuse.linear SIZE SECONDS all|few SUBJECT,...`` prints a line before each case, and its CPU time after
it. The kernel kills the process if a case takes more than SECONDS of CPU time; the last line then names the case.
"""

from __future__ import annotations

import contextlib
import json
import resource
import sys
import time
import unicodedata
from collections.abc import Callable
from functools import partial
from typing import Any

from selfinstruct.backends.openai.answers import read_answer
from selfinstruct.backends.openai.keys import redacted, without_key
from selfinstruct.backends.openai.refusals import ServerInfo, read_refusal, retry_after_s
from selfinstruct.common.codec import loads
from selfinstruct.common.row_texts import texts_of
from selfinstruct.filters import (
    Balance,
    Boilerplate,
    Copied,
    Decontaminator,
    Ifd,
    Keywords,
    Language,
    LeadingPunctuation,
    NearDuplicateIndex,
    NoveltyIndex,
    On,
    Perplexity,
    Pii,
    Pipeline,
    ProgramPrefix,
    Refusals,
    Repetition,
    SemanticIndex,
    WordCount,
    check_instances,
    dedup,
    tokenize,
)
from selfinstruct.filters.token_spans import token_spans
from selfinstruct.parse import (
    blank_input,
    collapse,
    content_span,
    first_word,
    is_closing,
    read_blocks,
    read_dialogue,
    read_list,
    read_message,
    read_numbered_list,
    read_records,
    read_strings,
    read_task,
    rewritten_task,
    skip_preamble,
    sounds_like_assistant,
    without_remarks,
)
from selfinstruct.parse.thoughts import find_answer
from selfinstruct.prompts import Prompts
from selfinstruct.records import Instance
from selfinstruct.strategies.alpaca import FORM
from selfinstruct.strategies.self_instruct import INPUT_FIRST, OUTPUT_FIRST
from selfinstruct.verifiers import check_verifier, verify
from selfinstruct.verifiers.instructions import INSTRUCTIONS
from selfinstruct.verifiers.instructions.languages import is_in_language
from tests.instructions import CASES

ITEMS = (
    "Write a poem about the sea in winter",
    "a a a a a a a",
    "a b a b a b a b a b a b a b a b a b a b",
    "1. 1. 1. 1. 1. 1. 1. 1. 1. 1. 1. 1. 1. 1. 1. 1. 1.",
    "Task Task Task Task Task Task",
    "Instruction: Input: Output: Instruction: Input: Output: Instruction: Input: Output: Instruction:",
    "漢漢漢漢漢漢漢漢漢漢漢漢漢漢",
)
# Each piece is repeated up to the size; further texts below end differently from how they begin.
PIECES = (
    "a", "ab", "a b ", "y", "\n", " ", "\t", "\r", "\r\n", "\n \n", "\u2028", "1", "1 ", "1.", "1. ", "1.\n",
    "\n2. x", "4. a\n", "### Task", "### Task 4\n", "### Task 5\nInstruction: a\n", "Instruction:",
    "Instruction: a\n", "Input: a\nOutput: b\n", "\n\nInstruction: a\nOutput: b\n", "Output:\n",
    "Label: a\nInput: b\n", "Task: a\n", "Person: a\n", "Example 2\n",
    "#", "# ", "> ", "- ", "-", "*", "**", "_", "=", "`", "```\n",
    "```a\n", "~~~\n", "[", "]", "[]", "(", "{", "}", "<", "<a", ">", '"', '\\"', "\\", "'", ".", ". ", "a.b",
    "@", "a@", "a@a.", "a@a.aa ", "+", "+1", "+1 1", "(1) ", "2125551212 ", "212-555-", "1.1.1.1", "1.1.1.1 ",
    "2001:", "2a:", "GB00", "GB00 ", "GB82WEST", "4111 ", "4111-", "eyJaaaaaaaa.",
    "-----BEGIN PRIVATE KEY-----", "-----BEGIN PRIVATE KEY-----" + "a" * 40, "sk-aaaaaaaaaaaaaaaaaaaa", "hf_a",
    "AKIA", "xoxb-1", "v1.1.1.1", "go ", "go\n", "draw", "I am sorry ", "sorry, but i ", "I'm ", "as an ai ",
    "hope this ", "Sure, ", "Write a program ", "\u0301", "a\u0301", "\u0301\u0323", "e\u034f",
    "\u1112\u1161\u11ab", "\uac00\u11a8", "漢", "ก", "ｶﾞ", "\ufdfa", "\u0130", "\ufb01", "\u200d",
    "\U0001f469\u200d", "\ue000", "\U0010ffff", "\x00", "\x1b[", "$x", "${x}", "{{", "{%", "<|im_end|>",
    "\\frac{", "\\frac{1}{", "1\\sqrt[", "1^{", "1^(", "x_{", "1/(", "1/1", "1 000 ", "1'000", "1.000", "1,000.", "1½",
    "1 - ", "1 \\text{ ", "5 x 10^{", "No. ", "et al. ",
    "null,", "no ", '{"tasks":[', '{"a":"b"},', '{ "', '"a",', "{},", "[{\n", "\\u",
    "\nAdded constraint:\nx > 3\n", "<li>", "<li ",
    "<li>a</li>", "<ul><li>", "|", "|-", "| a | b |\n", "|a|\n|-|\n", "\\|", '["a",\n', '{"a": ["b",',
)  # fmt: skip


def texts(size: int) -> dict[str, str]:
    cases = {repr(piece): (piece * (size // len(piece) + 1))[:size] for piece in PIECES}
    half = size // 2
    cases |= {
        "a...!": "a" * (size - 1) + "!",
        "a... a": "a" * (size - 2) + " a",
        "spaces, then a letter": " " * (size - 1) + "x",
        "a letter, then spaces": "x" + " " * (size - 1),
        "go, then spaces": "go" + " " * (size - 6) + "then",
        "nested brackets": "[" * half + "]" * half,
        "nested objects": '{"a":' * (size // 6) + "1" + "}" * (size // 6),
        "brackets before strings without end": "[" * 300 + '"' + '\\"' * half,
        "different words": " ".join(str(number) for number in range(size // 6)),
        "different lines": "\n".join(f"{number}. a" for number in range(size // 9)),
        "a list": "".join(f"\n{number}. a word or two" for number in range(4, size // 20)),
        "blocks": "".join(f"\n### Task {number}\nInstruction: a\nOutput: b" for number in range(4, size // 40)),
        "one rule": "-" * half + "x\n" + "-" * (half - 2),
        "one fence": "```" + "`" * (size - 3),
        "dots, then a letter": "." * (size - 1) + "x",
        "dots, stars, then a letter": "." * half + "*" * (half - 1) + "x",
        "words, the last of them first": " ".join(str(number) for number in range(size // 6, 0, -1)),
    }
    return cases


FEW = (
    *map(repr, ("a", "ab", "\n", "1. ", "### Task", "### Task 5\nInstruction: a\n", '"', "\u0301", "a@a.")),
    *(
        "dots, then a letter",
        "dots, stars, then a letter",
        "a...!",
        "spaces, then a letter",
        "nested brackets",
        "brackets before strings without end",
        "different lines",
    ),
)


def _scores(pairs: Any) -> list[list[float]]:
    return [[-1.0] * len(text) for _, text in pairs]


def _vectors(batch: list[str]) -> list[list[float]]:
    return [[float(len(text)), 1.0] for text in batch]


def _offered(make: Callable[[], Any], text: str) -> None:
    """Offer a text to an empty index, then again, then reversed."""
    index = make()
    for offered in (text, text, text[::-1]):
        index.offer(offered)


def _copied(text: str) -> None:
    for shown in (text, text[::-1], f"b {text}"):
        Copied().decide(text, shown, (shown, "a"))


def _blocks(text: str) -> None:
    for form in (FORM, INPUT_FIRST, OUTPUT_FIRST):
        for continued in (False, True):
            for truncated in (False, True):
                read_blocks(text, form, first=4, last=20, continued=continued, truncated=truncated)


def _lists(text: str) -> None:
    for first in (1, 4):
        for continued in (False, True):
            for truncated in (False, True):
                read_numbered_list(text, first=first, last=9999, continued=continued, truncated=truncated)
                read_list(text, first=first, last=9999, continued=continued, truncated=truncated)
                read_task(text, continued=continued, truncated=truncated)
    for head in ("", "Sure! Here's a task", "Here is a task:", "sure here is task "):
        for whole in (f"{head}{text}", f"{head}{text}:", f"{text}{head}"):
            skip_preamble(whole, 0, len(whole))


def _answers(text: str) -> None:
    for document in (text, f"<think>{text}", f"{text}</think>"):
        find_answer(document)
    rewritten_task(text)
    without_remarks(text, 0, len(text))


def _dialogue(text: str) -> None:
    for whole in (text, f"User: {text}", "User: a\nAI: b\n" * (len(text) // 14)):
        read_dialogue(whole, text, truncated=False)
        read_message(whole, "user")
        read_message(whole, "assistant")
    for sign in ("[END]", "[END] ", "\n[END]", "*[END]*\n", "[END].."):
        read_message(sign * (len(text) // len(sign)) + "x", "assistant")
        is_closing(sign * (len(text) // len(sign)) + "x")
    is_closing(text[:200])
    is_closing(text)
    sounds_like_assistant(text)


def _json(text: str) -> None:
    wrapped = (text, f'{{"tasks": [{text}', f'{{"tasks": [{{"a": "{text}', f"[{json.dumps({'a': text})}, {text}")
    for document in wrapped:
        for truncated in (False, True):
            read_records(document, "tasks", ("a", "b"), ("a",), most=10**9, truncated=truncated)
            read_strings(document, "tasks", most=10**9, truncated=truncated)


def _codec(text: str) -> None:
    for document in (text, f'"{text}"', f"[{text}]", f'{{"a": "{text}', json.dumps({"instruction": text})):
        try:
            loads(document)
        except ValueError:
            continue
    texts_of({"instruction": text, "output": text})
    texts_of({"messages": [{"role": "user", "content": text}]})
    for row in ({"text": text}, {"instruction": "Go.", "input": text, "context": text}, {"conversations": text}):
        with contextlib.suppress(ValueError):
            texts_of(row)


def _server(text: str) -> None:
    key = "sk-" + "a" * 20
    peer = ServerInfo("http://h/v1", "m", "KEY", True, partial(without_key, key=key))
    for body in (text.encode(), json.dumps({"error": {"message": text}}).encode(), f"<{text}".encode()):
        read_refusal(peer, 400, {}, body)
        read_refusal(peer, 500, {}, body)
    read_answer(peer, json.dumps({"choices": [{"text": text, "finish_reason": text}]}).encode(), chat=False)
    without_key(text, key[:12])
    without_key(text, "aaaaaaaaaaaaaaaa")
    redacted(text)
    retry_after_s({"retry-after": text[:10_000]})  # longer headers are refused by HTTP libraries


_WORDS = ["a", "go", "1", "xyz", "a b"]
_FORMS = [
    {"kind": "words", "min": 5}, {"kind": "sentences", "min": 5}, {"kind": "bullets", "count": 5},
    {"kind": "contains", "words": _WORDS}, {"kind": "excludes", "words": _WORDS}, {"kind": "starts_with", "text": "ab"},
    {"kind": "ends_with", "text": "ab"}, {"kind": "lowercase"}, {"kind": "uppercase"}, {"kind": "no_commas"},
]  # fmt: skip
_SCHEMA = {"$defs": {"a": {"anyOf": [{"items": {"$ref": "#/$defs/a"}, "uniqueItems": True}, {"pattern": "(a|a)*b"}]}},
           "$ref": "#/$defs/a", "additionalProperties": {"$ref": "#/$defs/a"}}  # fmt: skip
_CHECKS = {
    "verify number": [{"kind": "number", "value": 5, "where": where} for where in ("last", "only", {"after": "1"})],
    "verify text": [{"kind": "text", "values": ["a", "1"]}],
    "verify regex": [{"kind": "regex", "pattern": pattern, "full": full} for full in (False, True)
                     for pattern in ("(a+)+$", "(a|a)*b", "(?:.*,)*x", "(\\w+\\s?)+!", "(?i)\\bgo(\\s+then)*z")],
    "verify code": [{"kind": "python", "value": 5}, {"kind": "tests", "tests": "assert x", "seconds": 1}],
    "verify json": [{"kind": "json"}, {"kind": "json", "schema": _SCHEMA}],
    "verify form": [{"kind": "all", "of": _FORMS}],
}  # fmt: skip


def _verified(name: str, text: str) -> None:
    for spec in _CHECKS[name]:
        verify(check_verifier(spec), text)
        verify(spec, f"\\boxed{{{text}")
        verify(spec, f"```\n{text}\n```")


def _instructions(text: str) -> None:
    """Check every instruction but the language, which ``language`` covers."""
    for name, case in CASES.items():
        if not name.startswith(("language:", "change_case:english")):
            INSTRUCTIONS[name].check(text, case.arguments)
    is_in_language(text, "ne")


SUBJECTS: dict[str, Callable[[str], Any]] = {
    "tokenize auto": tokenize,
    "tokenize rouge": partial(tokenize, tokenizer="rouge"),
    "tokenize rouge-stem": partial(tokenize, tokenizer="rouge-stem"),
    "token_spans": token_spans,
    "words": WordCount().verdict,
    "keywords": Keywords().verdict,
    "punctuation": LeadingPunctuation().verdict,
    "program": ProgramPrefix().verdict,
    "refusals": Refusals().verdict,
    "boilerplate": Boilerplate().verdict,
    "repetition": Repetition().verdict,
    "pii": Pii().redact,
    "language": Language(among=("en", "de")).verdict,
    "contamination": Decontaminator(ITEMS).verdict,
    "rouge": partial(_offered, partial(NoveltyIndex, engine="numpy")),
    "minhash char5": partial(_offered, partial(NearDuplicateIndex, engine="numpy")),
    "minhash word3": partial(_offered, partial(NearDuplicateIndex, shingles="word3", engine="numpy")),
    "copied": _copied,
    "semantic": partial(_offered, partial(SemanticIndex, 0.9, _vectors)),
    "perplexity": Perplexity(_scores, max=9.0).verdict,
    "ifd": lambda text: Ifd(_scores).decide([text], [text]),
    "balance": lambda text: Balance(key="x", max_share=1.0).decide([{"x": text}, {"x": text}]),
    "instances": lambda text: check_instances([Instance(text, text), Instance("a", text)] * 3, truncated=False),
    "dedup": lambda text: dedup([{"instruction": text}, {"instruction": f"{text} b"}], NoveltyIndex(engine="numpy")),
    "pipeline": lambda text: list(Pipeline([On("x", WordCount()), On("x", Keywords())]).stream([{"x": text}], "x")),
    "parse lists": _lists,
    "parse answers": _answers,
    "parse blocks": _blocks,
    "parse dialogue": _dialogue,
    "parse json": _json,
    "parse words": lambda text: (content_span(text), collapse(text), blank_input(text), first_word(text)),
    "prompts": lambda text: Prompts({"a": "<$x>"}, "chat").turns("a", x=text),
    "codec": _codec,
    "server": _server,
    "instructions": _instructions,
    **{name: partial(_verified, name) for name in _CHECKS},
}


def _expansion(text: str) -> int:
    """Return how many times as long NFKC makes a text, rounded up: readers that fold read the longer text."""
    return -(-len(unicodedata.normalize("NFKC", text)) // len(text))


def main() -> None:
    size, seconds, which, subjects = int(sys.argv[1]), int(sys.argv[2]), sys.argv[3], sys.argv[4].split(",")
    selected = {name: text for name, text in texts(size).items() if which == "all" or name in FEW}
    assert which == "all" or len(selected) == len(FEW)
    for subject in subjects:
        read = SUBJECTS[subject]
        read("a text of some words, so that lazy imports happen first")
        for name, text in selected.items():
            print(json.dumps([subject, name]), flush=True)
            began = time.process_time()
            limit = int(began) + 1 + seconds * _expansion(text)
            resource.setrlimit(resource.RLIMIT_CPU, (limit, resource.RLIM_INFINITY))
            read(text)
            print(json.dumps([subject, name, time.process_time() - began]), flush=True)


if __name__ == "__main__":
    main()
