import pickle

import pytest

from selfinstruct.errors import UsageError
from selfinstruct.filters import ngrams
from selfinstruct.filters.decontaminate import Decontaminator
from selfinstruct.filters.text import find_words
from selfinstruct.filters.token_spans import token_spans

LONG = "One day a farmer found a golden egg in the nest of his goose and ran home to tell his wife"
OTHER = "List seven countries whose names begin with a vowel and sort them by the length of their coastline"
SHORT = "Name three rivers that cross Paris today"
TINY = "Tell me a joke"
ITEMS = (LONG, OTHER, SHORT, TINY)
IDS = ("long", "other", "short", "tiny")
DEFAULT = Decontaminator(ITEMS, IDS)


def brief(text, member=DEFAULT):
    verdict = member.verdict(text)
    assert verdict.filter == "contamination"
    if verdict.kept:
        assert verdict == member.keep()
        return None
    assert verdict.detail["item"] == verdict.nearest
    return verdict.reason, verdict.nearest, [text[start:end] for start, end in verdict.detail["spans"]]


def words(text, start, end):
    return " ".join(text.split()[start:end])


@pytest.mark.parametrize(("name", "item"), list(zip(IDS, ITEMS, strict=True)))
def test_case_and_punctuation_of_an_item_do_not_matter(name, item):
    assert brief(item) == ("exact", name, [item])
    assert brief(f"  {item.upper()}!?") == ("exact", name, [item.upper()])


def test_thirteen_shared_tokens_reject_and_twelve_do_not():
    only = Decontaminator(ITEMS, IDS, coverage=None)
    run = words(LONG, 3, 16)
    assert brief(f"It is told: {run}. Go on.", only) == ("ngram", "long", [run])
    assert brief(f"It is told: {words(LONG, 3, 15)}. Go on.", only) is None
    assert brief(f"{words(LONG, 0, 12)} and {words(LONG, 12, 21)}", only) is None
    twice = f"{words(LONG, 0, 13)} -- {words(LONG, 4, 18)}"
    assert brief(twice, only) == ("ngram", "long", [twice])  # adjacent runs are one place
    apart = f"{words(LONG, 0, 13)} x y z {words(LONG, 4, 18)}"
    assert brief(apart, only)[2] == [words(LONG, 0, 13), words(LONG, 4, 18)]
    assert only.verdict(twice).score == pytest.approx(18 / 21)


def test_runs_of_eight_that_cover_more_than_half_of_an_item_reject():
    only = Decontaminator(ITEMS, IDS, ngram=None)
    ten = f"{words(LONG, 0, 10)} or so"
    assert brief(ten, only) is None  # 10 of 21 tokens
    eleven = f"Once {words(LONG, 0, 11)} or so"
    assert brief(eleven, only) == ("coverage", "long", [words(LONG, 0, 11)])
    assert only.verdict(eleven).score == pytest.approx(11 / 21)
    two = f"{words(LONG, 0, 8)} or {words(LONG, 12, 20)}"
    assert brief(two, only) == ("coverage", "long", [words(LONG, 0, 8), words(LONG, 12, 20)])
    assert only.verdict(two).score == pytest.approx(16 / 21)
    assert brief(f"{words(LONG, 0, 7)} or {words(LONG, 12, 19)}", only) is None
    # 9 and 8 tokens of 18: exactly half is not more than half
    assert brief(words(OTHER, 0, 9), only) is None
    assert brief(words(OTHER, 0, 10), only)[1] == "other"


def test_the_item_with_the_greatest_share_is_named():
    text = f"{words(OTHER, 0, 13)} and {LONG}"
    assert brief(text)[:2] == ("ngram", "long")


def test_short_items_are_found_within_a_text_and_nearly_whole():
    text = f"Hello. {SHORT}, and thank you for it, my dear old friend of many years."
    assert brief(text) == ("contained", "short", [SHORT])
    near = "Name three rivers that cross Rome today"
    assert brief(near) == ("rouge", "short", [near])
    assert DEFAULT.verdict(near).score == pytest.approx(6 / 7)
    assert brief("Name two lakes that cross Rome today") is None
    assert brief(near, Decontaminator(ITEMS, rouge=None)) is None
    assert brief(text, Decontaminator(ITEMS, short=None)) is None


def test_a_short_item_has_fewer_tokens_than_a_run():
    twelve, thirteen = words(LONG, 0, 12), words(LONG, 0, 13)
    member = Decontaminator((twelve, thirteen), ngram=None, coverage=None)
    assert brief(f"Well, {twelve} x y z u v w", member) == ("contained", "0", [twelve])
    assert Decontaminator((thirteen,), ngram=None, coverage=None)([f"Well, {thirteen} x y z u v w"]) == [True]


def test_the_hash_of_a_run_decides_nothing(monkeypatch):
    monkeypatch.setattr(ngrams, "_BASE", 1)  # every permutation of a run now has its hash
    monkeypatch.setattr(ngrams, "_INVERSE", 1)
    member = Decontaminator(ITEMS, IDS, rouge=None)
    shuffled = " ".join(reversed(LONG.split()))
    assert member([shuffled, " ".join(reversed(SHORT.split())), "x " + LONG]) == [True, True, False]


def test_a_very_short_item_counts_only_when_exact():
    assert brief(f"Please {TINY} about cats") is None
    assert brief(f"Please {TINY} about cats", Decontaminator(ITEMS, IDS, short=4)) == ("contained", "tiny", [TINY])


def test_many_texts_at_once_get_the_same_verdicts_as_one_by_one():
    texts = [text for item in ITEMS for text in (item, f"x {item}", words(item, 0, 9), words(item, 2, 19), "", "fine")]
    texts += ["Name three rivers that cross Rome today", " ".join(texts)] * 40
    texts *= 10
    verdicts = DEFAULT.decide(texts)
    assert verdicts == [DEFAULT.verdict(text) for text in texts]
    assert {verdict.reason for verdict in verdicts} == {"", "exact", "ngram", "contained", "rouge"}
    # A run must not continue from one text into the next.
    assert DEFAULT([words(LONG, 0, 7), words(LONG, 7, 14), words(LONG, 14, 21)]) == [True] * 3


def test_unrelated_texts_are_kept():
    assert DEFAULT(["Describe the sea", "", "...", "写一首关于春天的诗", "a " * 100]) == [True] * 5
    assert Decontaminator(())(["anything", ""]) == [True, True]


def test_items_without_tokens_are_compared_literally():
    member = Decontaminator(("?!", ""))
    assert brief(" ?! ", member) == ("exact", "0", [" ?! "])
    assert brief("!?", member) is None


def test_spans_are_characters_of_the_original_text():
    item = "\uff37rite \uff11\uff10 lines about the ﬁne Straße of Köln in the deep winter of last year"
    member = Decontaminator((item,), coverage=None)
    text = "» write 10 LINES — about: the fine strasse of Ko\u0308ln (in the deep) winter «, 请"
    assert not member.verdict(text).kept
    (span,) = member.verdict(text).detail["spans"]
    assert text[slice(*span)] == "write 10 LINES — about: the fine strasse of Ko\u0308ln (in the deep) winter"
    chinese = "请写一首关于春天和秋天的长诗吧"
    assert brief(f"你好\uff01{chinese}\uff0c谢谢。", Decontaminator((chinese,))) == ("ngram", "0", [chinese])


@pytest.mark.parametrize(
    "text",
    [
        "Plain text, 3 words.",
        "½ ㎏ of ﬁsh…ok",
        "각 \u1100\u1161\u11a8x",
        "e\u0301\u0301 \u0301a",
        "我\uff0c你…他",
        "ǅ İstanbul ŉ",
        "e" + "\u0301" * 100 + "f g",
    ],
)
def test_every_token_has_a_span(text):
    spans = token_spans(text)
    assert len(spans) == len(find_words(text))
    for token, (start, end) in zip(find_words(text), spans, strict=True):
        assert token in " ".join(find_words(text[start:end]))


def test_invalid_numbers_are_refused():
    with pytest.raises(UsageError, match="4 items but 1 ids"):
        Decontaminator(ITEMS, ("a",))
    with pytest.raises(UsageError, match="at least 1"):
        Decontaminator(ITEMS, ngram=0)
    with pytest.raises(UsageError, match="between 0 and 1"):
        Decontaminator(ITEMS, coverage=1.5)


def test_it_is_pickled_without_its_index():
    texts = [*ITEMS, f"x {LONG}", "fine", f"Well, {SHORT}"]
    copy = pickle.loads(pickle.dumps(DEFAULT))
    assert copy == DEFAULT
    assert copy.decide(texts) == DEFAULT.decide(texts)
    small, large = Decontaminator(ITEMS), Decontaminator(ITEMS * 100)
    assert len(pickle.dumps(large)) < len(pickle.dumps(small)) + 2000


def test_it_filters_a_dataset_in_two_processes():
    from datasets import Dataset, disable_progress_bars

    disable_progress_bars()
    dataset = Dataset.from_dict({"text": ["fine", LONG, f"so, {SHORT}", "also fine"] * 3})
    kept = dataset.filter(DEFAULT, batched=True, input_columns="text", num_proc=2, load_from_cache_file=False)
    assert kept["text"][:] == ["fine", "also fine"] * 3
