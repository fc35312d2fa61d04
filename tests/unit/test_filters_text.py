# ruff: noqa: RUF001  (letters of other scripts are what is tested)
import pytest
from rouge_score import tokenize as reference

from selfinstruct.errors import UsageError
from selfinstruct.filters import tokenize
from selfinstruct.filters.text import count_words


@pytest.mark.parametrize("text", ["", "Don't STOP_me now, 3.14!", "Ärger im İstanbul", "K ſ", "a\u0301b", "写诗"])
def test_rouge_tokens_equal_rouge_score(text):
    assert tokenize(text, "rouge") == reference.tokenize(text, None)


def test_stemmed_tokens_equal_rouge_score():
    from nltk.stem.porter import PorterStemmer

    text = "Running runners ran easily through generalizations of the cats"
    assert tokenize(text, "rouge-stem") == reference.tokenize(text, PorterStemmer())


@pytest.mark.parametrize(
    ("text", "tokens"),
    [
        ("Write 2 poems, don't stop!", ["write", "2", "poems", "don", "t", "stop"]),
        ("写一首诗。", ["写", "一", "首", "诗"]),
        ("用Python写3个函数", ["用", "python", "写", "3", "个", "函", "数"]),
        ("コーヒーを飲む", ["コ", "ー", "ヒ", "ー", "を", "飲", "む"]),
        ("हिन्दी में लिखो", ["हिन्दी", "में", "लिखो"]),
        ("ที่นี่", ["ที่", "นี่"]),
        ("اكتب قصيدة عن البحر", ["اكتب", "قصيدة", "عن", "البحر"]),
        ("Übersetze die Straße", ["übersetze", "die", "strasse"]),
        ("Напиши стихи о море.", ["напиши", "стихи", "о", "море"]),
        ("don\u2019t snake_case é", ["don", "t", "snake", "case", "é"]),
        ("cafe\u0301 ｆｕｌｌ", ["café", "full"]),
        ("🎉 — …", []),
    ],
)
def test_auto_tokens_in_many_scripts(text, tokens):
    assert tokenize(text, "auto") == tokens


def test_auto_equals_rouge_on_ascii():
    text = "".join(map(chr, range(128))) * 3
    assert tokenize(text, "auto") == tokenize(text, "rouge")


def test_a_megabyte_of_anything_is_read_in_linear_time():
    for text in ("a" * 10**6 + "!", "\u0301\u0323" * 300_000 + "é", "写" * 300_000, "a " * 500_000, " \n" * 500_000):
        for tokenizer in ("auto", "rouge"):
            tokenize(text, tokenizer)
        count_words(text)


def test_an_unknown_tokenizer_is_refused_by_name():
    with pytest.raises(UsageError, match=r"'words'.*auto, rouge"):
        tokenize("a", "words")


@pytest.mark.parametrize(
    ("text", "words"), [("", 0), ("a  b\tc", 3), ("写一首诗。", 4), ("naïve idea", 2), ("写 a poem", 3), ("— a", 2)]
)
def test_words_are_counted_in_scripts_without_spaces(text, words):
    assert count_words(text) == words
