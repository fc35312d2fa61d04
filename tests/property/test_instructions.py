"""Instructions over generated answers: a verdict on any text, always the same, and strict within loose."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from selfinstruct.suites import IFBench, Item
from selfinstruct.verifiers.instructions import INSTRUCTIONS
from selfinstruct.verifiers.instructions.sentences import split_sentences
from selfinstruct.verifiers.instructions.words import tokens
from tests.instructions import CASES

PIECES = st.sampled_from(
    ["a", "The", "cat", "e.g.", "U.S.", ".", "..", "?!", ",", " ", "  ", "\n", "\n\n", "*", "**", "***", "******", "- ",
     "* ", "[x]", "<<t>>", "<i>", "</i>", '"', "'", "n't", "1", "3.14", "{", "}", "(", ")", ":", "\t", "```", "\u201d",
     "\u6f22", "\U0001f600", "\u0130", "\u00df", "\ud800", "Zimbabwe", "P.S.", "SECTION 1", "Question 1:", "a) b"]
)  # fmt: skip
TEXTS = st.one_of(st.text(max_size=60), st.lists(PIECES, max_size=30).map("".join))
DETECTED = {"language:response_language", "change_case:english_capital", "change_case:english_lowercase"}
QUICK = sorted(CASES.keys() - DETECTED)


@settings(max_examples=400)
@given(name=st.sampled_from(QUICK), text=TEXTS)
def test_every_text_gets_the_same_verdict_twice_with_a_reason(name: str, text: str) -> None:
    instruction, arguments = INSTRUCTIONS[name], CASES[name].arguments
    finding = instruction.check(text, arguments)
    assert instruction.check(text, arguments) == finding
    assert finding.expected
    assert finding.found or finding.kept
    assert len(finding.found) < 1000


@settings(max_examples=30)
@given(text=TEXTS)
def test_what_is_followed_strictly_is_followed_loosely(text: str) -> None:
    entries = [{"id": name, "arguments": CASES[name].arguments} for name in QUICK]
    item = Item("1", "Write.", reference={"instructions": entries})
    suite = IFBench([item])
    scores = suite.score(item, text)
    assert all(map(float.__le__, scores["instruction_strict"], scores["instruction_loose"]))
    assert scores["prompt_strict"][0] == min(scores["instruction_strict"])
    assert len(suite.explain(item, text)) == scores["instruction_strict"].count(0.0)


@given(text=TEXTS)
def test_sentences_and_tokens_lose_no_character_besides_white_space(text: str) -> None:
    characters = "".join(text.split())
    assert "".join("".join(split_sentences(text)).split()) == characters
    assert "".join(tokens(text)) == characters
