# ruff: noqa: RUF001  (letters of other scripts are what is tested)
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rouge_score import tokenize as reference

from selfinstruct.errors import UsageError
from selfinstruct.filters import NearDuplicateIndex, NoveltyIndex, rouge_l, tokenize
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
        ("བཀྲ་ཤིས་བདེ་ལེགས།", ["བཀྲ", "ཤིས", "བདེ", "ལེགས"]),
    ],
)
def test_words_in_many_scripts(text, tokens):
    assert tokenize(text, "words") == tokens
    assert [token for token in tokenize(text) if token != "🎉"] == tokens


@pytest.mark.parametrize("text", ["ᥝᥣᥢᥰ", "ᨽᩣᩈᩣ", "ꦧꦱꦗꦮ", "ㄅㄆㄇ"])
def test_every_script_without_spaces_has_a_token_per_character(text):
    assert len(tokenize(text)) > 1
    assert len(tokenize(text, "words")) == 1  # as earlier versions read it


def test_words_equal_rouge_on_ascii():
    text = "".join(map(chr, range(128))) * 3
    assert tokenize(text, "words") == tokenize(text, "rouge")


@pytest.mark.parametrize(
    ("text", "tokens"),
    [
        ("What is 2 + 2 ?", "what is 2 + 2"),
        ("2-2, -5 and - 5; covid-19, well-known", "2 - 2 - 5 and - 5 covid 19 well known"),
        ("a - b and -x but word - word", "a - b and - x but word word"),
        ("C++, C# or .NET...", "c ++ c # or . net"),
        ("a & b | c != d -> e", "a & b | c != d -> e"),
        ("x <= y := 3 && !z", "x <= y := 3 && ! z"),
        ("f(x) is not f[x] (see below), nor {x}", "f ( x is not f [ x see below nor { x"),
        ("1.5 and 1:5, but 1, 5.", "1 . 5 and 1 : 5 but 1 5"),
        ("10% of $10 or €5", "10 % of $ 10 or € 5"),
        ("∑ x ≤ ∞ → y", "∑ x ≤ ∞ → y"),
        ("x² + 10² ≠ 102", "x ^ 2 + 10 ^ 2 ≠ 102"),
        ("5 − 3 – 1 ⁄ 2", "5 - 3 - 1 / 2"),
        ("😀😢 ❤️", "😀 😢 ❤"),
        ("- one\n* two\n# three\n> four\n+ 5", "one two three four + 5"),
        ('"Stop!" he said; why? (He was late.)', "stop he said why he was late"),
        ("ｆ（ｘ）＋１", "f ( x + 1"),
    ],
)
def test_symbols_are_tokens_and_sentence_punctuation_is_none(text, tokens):
    assert tokenize(text, "symbols") == tokenize(text, "auto") == tokens.split()


@pytest.mark.parametrize(
    ("one", "two"),
    [
        ("What is 2 + 2 ?", "What is 2 - 2 ?"),
        ("Explain what C++ is good for", "Explain what C# is good for"),
        ("a & b", "a | b"),
        ("x > y", "x < y"),
        ("Say 😀", "Say 😢"),
        ("f(x)", "f[x]"),
        ("10%", "$10"),
        ("Use .NET", "Use NET"),
        ("What is 5!", "What is 5"),
        ("Describe \U0001f44b\U0001f3ff", "Describe \U0001f44b\U0001f3fb"),
        ("Compute -5", "Compute 5"),
        ("1.5", "1:5"),
        ("a → b", "a ← b"),
    ],
)
def test_texts_that_differ_in_a_symbol_are_no_duplicates(one, two):
    assert rouge_l(one, two, "words") == 1.0
    assert rouge_l(one, two, "auto") < 1.0
    assert NoveltyIndex(0.9).fit([one]).query(two).kept
    assert NearDuplicateIndex(0.99, shingles="word3").fit([one]).query(two).kept


@pytest.mark.parametrize(
    "two", ["Tell me, why is the sky blue", "tell me: WHY is the sky blue?!", "* Tell me why is the sky blue."]
)
def test_texts_that_differ_in_punctuation_are_duplicates(two):
    assert rouge_l("Tell me why is the sky blue?", two, "auto") == 1.0


@given(st.text(alphabet="ab1 2.:-!?=<>()[]{}+*#&\n\t/\\|~^%$@,;'\"_A", max_size=30))
@settings(max_examples=500)
def test_ascii_text_has_the_same_tokens_on_the_fast_path(text):
    tokens = tokenize(text)
    assert tokenize(f"{text}\né")[:-1] == tokens
    assert [token for token in tokens if token[0].isalnum()] == tokenize(text, "words")


def test_a_megabyte_of_anything_is_read_in_linear_time():
    for text in ("a" * 10**6 + "!", "\u0301\u0323" * 300_000 + "é", "写" * 300_000, "a " * 500_000, " \n" * 500_000):
        for tokenizer in ("auto", "words", "rouge"):
            tokenize(text, tokenizer)
        count_words(text)


def test_an_unknown_tokenizer_is_refused_by_name():
    with pytest.raises(UsageError, match=r"'letters'.*auto, symbols, words, rouge"):
        tokenize("a", "letters")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", 0),
        ("a  b\tc", 3),
        ("写一首诗。", 4),
        ("naïve idea", 2),
        ("写 a poem", 3),
        ("— a", 2),
        ("བཀྲ་ཤིས་བདེ་ལེགས།", 4),
        ("ᥝᥣᥢᥰ", 4),
    ],
)
def test_words_are_counted_in_scripts_without_spaces(text, words):
    assert count_words(text) == words
