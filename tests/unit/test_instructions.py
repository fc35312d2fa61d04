"""The instructions of IFEval and IFBench: verdicts, arguments, and the pieces they are made of."""

from __future__ import annotations

import sys
from typing import Any

import pytest

from selfinstruct.errors import MissingExtraError
from selfinstruct.verifiers import check_verifier, verify
from selfinstruct.verifiers.instructions import IFBENCH, IFEVAL, INSTRUCTIONS
from selfinstruct.verifiers.instructions.languages import is_in_language
from selfinstruct.verifiers.instructions.sentences import split_sentences
from selfinstruct.verifiers.instructions.syllables import count_syllables
from selfinstruct.verifiers.instructions.verbs import is_verb
from selfinstruct.verifiers.instructions.words import tokens
from tests.instructions import CASES


def spec(name: str, arguments: Any = None) -> dict[str, Any]:
    return {"kind": "instruction", "id": name, "arguments": arguments or {}}


def test_every_published_id_has_a_checker_and_a_case() -> None:
    assert (len(IFEVAL), len(IFBENCH)) == (25, 58)
    assert CASES.keys() == INSTRUCTIONS.keys()
    assert all(instruction.summary.endswith(".") for instruction in INSTRUCTIONS.values())


@pytest.mark.parametrize("name", CASES)
def test_an_answer_that_follows_an_instruction_is_kept_and_another_is_not(name: str) -> None:
    case = CASES[name]
    verifier = check_verifier(spec(name, case.arguments))
    assert [answer for answer in case.follow if not verify(verifier, answer).kept] == []
    assert [answer for answer in case.fail if verify(verifier, answer).kept] == []


@pytest.mark.parametrize("relation", ["at least", "less than"])
def test_a_limit_belongs_to_the_relation_at_least(relation: str) -> None:
    kept = relation == "at least"
    for name, arguments, answer in (
        ("length_constraints:number_words", {"num_words": 2, "relation": relation}, "One two"),
        ("keywords:frequency", {"keyword": "a", "frequency": 2, "relation": relation}, "A a"),
        ("keywords:letter_frequency", {"letter": "!", "let_frequency": 2, "let_relation": relation}, "!!"),
        ("change_case:capital_word_frequency", {"capital_frequency": 2, "capital_relation": relation}, "I AM well"),
    ):
        assert verify(check_verifier(spec(name, arguments)), answer).kept is kept


def test_a_finding_states_what_is_required_and_what_was_counted() -> None:
    verifier = spec("length_constraints:number_words", {"num_words": 300, "relation": "at least"})
    detail = verify(check_verifier(verifier), "word " * 214).detail
    assert (detail["expected"], detail["found"]) == ("at least 300 words", "214 counted")


@pytest.mark.parametrize(
    ("verifier", "message"),
    [
        ({"kind": "instruction"}, "needs 'id'"),
        (spec("punctuation:no_coma"), 'unknown instruction "punctuation:no_coma".*punctuation:no_comma'),
        ({"kind": "instruction", "id": 5}, "unknown instruction 5"),
        ({"kind": "instruction", "id": "startend:quotation", "arguments": []}, "'arguments' must be an object"),
        (spec("startend:quotation", {"x": 1}), "startend:quotation has no argument"),
        (spec("keywords:existence"), "keywords:existence needs the argument 'keywords'"),
        (spec("keywords:existence", {"keyword": ["a"]}), "no argument.*keywords"),
        (spec("keywords:existence", {"keywords": "a"}), "'keywords' must be a list"),
        (spec("count:numbers", {"N": 1.5}), "'N' must be a whole number"),
        (spec("count:numbers", {"N": -1}), "'N' must be a whole number"),
        (spec("count:words_japanese", {"N": 0}), "'N' must be a whole number of at least 1"),
        (spec("ratio:stop_words", {"percentage": 101}), "from 0 to 100"),
        (spec("language:response_language", {"language": "xx"}), "must be the code of a language"),
        (spec("keywords:letter_frequency", {"letter": "ab", "let_frequency": 1, "let_relation": "at least"}), "single"),
        (spec("length_constraints:number_words", {"num_words": 1, "relation": "around"}), "'at least' or 'less than'"),
        (spec("count:word_count_range", {"min_words": 5, "max_words": 4}), "'min_words' is above 'max_words'"),
        (spec("repeat:repeat_span", {"prompt_to_repeat": "a b", "n_start": 1, "n_end": 0}), "'n_start' is above"),
    ],
)
def test_a_wrong_specification_is_refused_by_name(verifier: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        check_verifier(verifier)


def test_options_that_are_letters_are_compared_exactly() -> None:
    verifier = check_verifier(spec("format:options", {"options": "a), b), c), d)"}))
    assert [verify(verifier, answer).kept for answer in ("a)", "a", "a) ", "A)")] == [True, False, False, False]
    verifier = check_verifier(spec("format:options", {"options": "I know or I don't know"}))
    assert [verify(verifier, answer).kept for answer in ("I don't know.", "I know", "know")] == [True, True, False]


@pytest.mark.parametrize(
    ("text", "count"),
    [
        ("", 0),
        ("No mark at the end", 1),
        ("Dr. Smith met J. Doe at 5 p.m. in the U.S. embassy.", 1),
        ("It is in the U.S. The rest is not.", 2),
        ("Use tools, e.g. Git, i.e. software, etc. and more. See Fig. 3.", 2),
        ('He said "Go!" and "Why?" Then he left.', 3),
        ("Wait... what? Yes... However, no.", 3),
        ("3.14 is at example.org/a.b now.", 1),
        ("1. Write.\n2. Read.", 4),
        ("**Bold.** Plain. (In brackets.) End", 4),
        ("He called it \u201cthe end.\u201d We agreed.", 2),
        ("A heading\n\nA line\nand another.", 1),
        ("What? !", 1),
    ],
)
def test_sentences_are_split_at_marks_that_end_one(text: str, count: int) -> None:
    sentences = split_sentences(text)
    assert len(sentences) == count
    assert "".join("".join(sentences).split()) == "".join(text.split())


def test_tokens_split_contractions_and_marks_and_keep_abbreviations_and_hyphens() -> None:
    text = "Don't say it's 3,000: \"I'm in the U.S. for self-made pie...\" (They cannot.)"
    assert " ".join(tokens(text)) == (
        "Do n't say it 's 3,000 : \" I 'm in the U.S. for self-made pie ... \" ( They can not . )"
    )
    assert tokens("DON'T go") == ["DO", "N'T", "go"]


@pytest.mark.parametrize(
    ("count", "words"),
    [
        (1, "the cat called stopped through wished squares myth"),
        (2, "water table being wanted layer quiet science poem likely"),
        (3, "radio idea banana different area musical"),
        (4, "information society usually"),
        (0, "123 a1"),
    ],
)
def test_syllables_follow_the_rules_of_spelling(count: int, words: str) -> None:
    assert {word: count_syllables(word) for word in words.split()} == dict.fromkeys(words.split(), count)


def test_a_verb_is_recognised_in_its_regular_and_irregular_forms() -> None:
    assert all(map(is_verb, ["Imagine", "imagines", "imagined", "imagining", "stopped", "tried", "went", "is", "Let"]))
    assert not any(map(is_verb, ["The", "galaxy", "beautiful", "of", "1", "Paris"]))


@pytest.mark.parametrize(
    ("code", "text"),
    [
        ("kn", "ಇಂದು ಬೆಳಿಗ್ಗೆ ನಾನು ಮಾರುಕಟ್ಟೆಗೆ ಹೋದೆ."),
        ("hi", "आज सुबह मैं बाजार गया और फल खरीदे हैं।"),
        ("mr", "आज सकाळी मी बाजारात गेलो आणि फळे घेतली आहेत."),
        ("ne", "आज बिहान म बजार गएँ र फलफूल किनेको छु। उनीहरूलाई पनि मन पर्छ।"),
        ("ja", "今日は市場に行きました。"),
        ("zh", "今天我去市场买水果。"),
        ("ko", "오늘 아침에 시장에 갔다."),
    ],
)
def test_scripts_and_frequent_words_tell_languages_apart_without_a_package(
    code: str, text: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "lingua", None)
    others = {"kn", "hi", "mr", "ne", "ja", "ko"} - {code}
    assert is_in_language(text, code)
    assert not [other for other in others if is_in_language(text, other)]


def test_a_language_that_needs_lingua_says_so_without_it(monkeypatch: pytest.MonkeyPatch) -> None:
    from selfinstruct.filters import language

    monkeypatch.setitem(sys.modules, "lingua", None)
    language._detector.cache_clear()
    verifier = check_verifier(spec("language:response_language", {"language": "it"}))
    with pytest.raises(MissingExtraError, match=r"lingua.*selfinstruct\[language\]"):
        verify(verifier, "Questa mattina sono andato al mercato.")
    assert not verify(verifier, "今日は市場に行きました。").kept
