import pickle
import sys

import pytest

from selfinstruct.errors import MissingExtraError, UsageError
from selfinstruct.filters.language import Language

FEW = ("en", "de", "fr", "es", "ru", "zh", "ja")
ENGLISH = "Describe how a mountain river changes on its way to the sea."
GERMAN = "Beschreibe, wie sich ein Gebirgsbach auf dem Weg zum Meer verändert."
CHINESE = "请描述一条山间河流在流向大海的过程中如何变化。"
RUSSIAN = "Опишите, как горная река меняется на пути к морю."


@pytest.mark.parametrize(("text", "code"), [(ENGLISH, "en"), (GERMAN, "de"), (CHINESE, "zh"), (RUSSIAN, "ru")])
def test_the_language_of_a_sentence_is_detected(text, code):
    member = Language(("en",), among=FEW)
    verdict = member.verdict(text)
    assert verdict.kept == (code == "en")
    assert verdict.score > 0.9
    if code != "en":
        assert (verdict.filter, verdict.reason, verdict.detail) == ("language", "language", {"language": code})
    assert Language((code,), among=FEW)([text]) == [True]
    assert Language(("en", code), among=FEW)([text]) == [True]


@pytest.mark.parametrize("text", ["", "42", "Hola", "???", "print(x)", "3 + 4 = 7", "你好"])
def test_a_text_with_few_letters_is_undecided(text):
    verdict = Language(among=FEW).verdict(text)
    assert (verdict.kept, verdict.detail, verdict.score) == (True, {"undecided": True}, 0.0)
    dropped = Language(among=FEW, undecided="drop").verdict(text)
    assert (dropped.kept, dropped.reason) == (False, "undecided")


def test_a_low_confidence_is_undecided():
    member = Language(among=FEW, min_confidence=1.0)
    unsure = "Radio, hotel, taxi, piano, opera"
    assert member.verdict(unsure).detail == {"undecided": True}
    assert 0 < member.verdict(unsure).score < 1


def test_a_missing_package_is_named_with_the_command_to_install_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "lingua", None)
    with pytest.raises(MissingExtraError, match=r"lingua is not installed.*selfinstruct\[language\]"):
        Language(among=("en", "it")).verdict(ENGLISH)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"allow": "en"}, "tuples"),
        ({"undecided": "maybe"}, "keep or drop"),
        ({"min_confidence": 2.0}, "between 0 and 1"),
        ({"allow": ("en", "it"), "among": ("en", "de")}, "'it' is allowed but"),
        ({"among": ("en",)}, "at least two"),
    ],
)
def test_invalid_options_are_refused(options, message):
    with pytest.raises(UsageError, match=message):
        Language(**options)


def test_an_unknown_language_is_refused():
    with pytest.raises(UsageError, match="unknown language 'xx'"):
        Language(("xx",)).verdict(ENGLISH)


def test_it_can_be_pickled_and_reads_a_bounded_part():
    member = Language(among=FEW)
    assert pickle.loads(pickle.dumps(member))([ENGLISH, GERMAN]) == [True, False]
    assert member([ENGLISH * 40 + GERMAN * 15_000, GERMAN * 40 + ENGLISH * 15_000]) == [True, False]
