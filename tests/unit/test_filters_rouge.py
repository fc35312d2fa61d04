# ruff: noqa: RUF001  (letters of other scripts are what is tested)
import copy
import pickle
from itertools import product

import numpy as np
import pytest
from rouge_score.rouge_scorer import RougeScorer

from selfinstruct.errors import UsageError
from selfinstruct.filters import NoveltyIndex, f1, lcs_length, rouge_l
from selfinstruct.filters.rouge.lcs import least_lcs_array, least_match

CHINESE = ["写一首关于春天的诗", "解释牛顿第二定律", "列出三种健康早餐", "把下面的句子翻译成英文"]


def test_f1_rounds_as_rouge_score_does():
    assert f1(7, 7, 13) == 0.7000000000000001
    assert f1(0, 0, 5) == 0.0
    assert f1(4, 4, 4) == 1.0


@pytest.mark.parametrize("threshold", [0.0, 0.2, 0.3, 0.5, 0.7, 0.8, 0.9, 1.0])
def test_integer_bounds_agree_with_the_float_decision(threshold):
    sizes = np.arange(60)
    table = least_lcs_array(threshold, sizes[:, None], sizes[None, :]).tolist()
    for m, n in product(range(1, 60), repeat=2):
        above = [length for length in range(1, min(m, n) + 1) if f1(length, m, n) > threshold]
        least = table[m][n]
        assert above == list(range(least, min(m, n) + 1))
        if above:
            assert n >= least_match(threshold, m)
            assert least >= least_match(threshold, m)


def test_lcs_length():
    assert lcs_length(["a", "b", "c", "d", "e"], ["x", "b", "d", "y", "e"]) == 3
    assert lcs_length([], ["a"]) == 0
    assert lcs_length(["ab"], ["a", "b"]) == 0


def test_a_text_is_kept_unless_it_resembles_a_kept_one():
    index = NoveltyIndex()
    assert index.offer("Write a poem about the sea in winter").kept
    verdict = index.offer("Write a poem about the sea in summer")
    assert (verdict.filter, verdict.kept, verdict.reason, verdict.nearest) == ("rouge", False, "similar", "0")
    assert verdict.score == rouge_l("Write a poem about the sea in winter", "Write a poem about the sea in summer")
    assert index.offer("List three healthy breakfasts").kept
    assert len(index) == 2
    assert index.ids == ("0", "2")  # the rejected text was number 1


def test_a_tie_at_the_threshold_is_decided_as_rouge_score_rounds_it():
    seven, thirteen = "a b c d e f g", "a b c d e f g h i j k l m"
    assert not NoveltyIndex(0.7, "rouge").fit([thirteen]).query(seven).kept
    assert NoveltyIndex(0.7000000000000001, "rouge").fit([thirteen]).query(seven).kept


def test_a_query_leaves_the_pool_unchanged():
    index = NoveltyIndex().fit(["one two three"], ["a"])
    before = index.query("four five six")
    assert before.kept
    assert index.query("four five six") == before
    assert len(index) == 1


def test_the_earliest_of_equally_similar_texts_is_named():
    index = NoveltyIndex().fit(["a b c d", "x", "b a c d", "a b c d"], ["p", "q", "r", "s"])
    assert index.query("a b c d").nearest == "p"
    assert index.query("a b c d e", explain="full").nearest == "p"


def test_a_full_comparison_reports_the_ten_nearest_and_the_mean():
    pool = [f"write a poem about topic number {n}" for n in range(12)] + ["list two birds"]
    verdict = NoveltyIndex(tokenizer="rouge").fit(pool).query("list some birds", explain="full")
    scorer = RougeScorer(["rougeL"])
    scores = [scorer.score(text, "list some birds")["rougeL"].fmeasure for text in pool]
    assert verdict.kept
    assert verdict.score == max(scores)
    assert verdict.nearest == "12"
    assert len(verdict.detail["nearest"]) == 10
    assert verdict.detail["nearest"][0] == ["12", max(scores)]
    assert [name for name, _ in verdict.detail["nearest"][1:]] == [str(n) for n in range(9)]
    assert verdict.detail["mean"] == pytest.approx(sum(scores) / len(scores))


def test_an_empty_pool_and_texts_without_tokens():
    index = NoveltyIndex()
    dense = index.query("anything", explain="full")
    assert (dense.kept, dense.score, dense.nearest) == (True, 0.0, None)
    assert dense.detail == {"nearest": [], "mean": 0.0}
    assert index.offer("🎉🎉").kept
    assert index.offer("!!!").kept
    again = index.offer(" 🎉🎉\n")
    assert (again.kept, again.score, again.nearest) == (False, 1.0, "0")
    assert index.offer("words at last").kept


def test_the_rouge_tokenizer_never_rejects_a_text_without_tokens():
    index = NoveltyIndex(tokenizer="rouge")
    assert [verdict.kept for verdict in index.offer_many(["写诗", "写诗", "写诗"])] == [True, True, True]


def test_chinese_has_tokens_with_auto_but_not_with_rouge():
    parity = NoveltyIndex(tokenizer="rouge")
    assert all(verdict.kept for verdict in parity.offer_many([*CHINESE, *CHINESE]))
    wrong = NoveltyIndex(tokenizer="rouge").fit(["写3首诗"]).query("解释3条定律")
    assert (wrong.kept, wrong.score) == (False, 1.0)  # all that it sees is the digit
    index = NoveltyIndex()
    kept = [verdict.kept for verdict in index.offer_many([*CHINESE, *CHINESE, "写3首诗", "解释3条定律"])]
    assert kept == [True] * 4 + [False] * 4 + [True] * 2


@pytest.mark.parametrize(
    ("text", "near", "far"),
    [
        ("写一首关于春天的诗", "写一首关于秋天的诗", "解释牛顿第二定律"),
        ("समुद्र के बारे में एक कविता लिखो", "समुद्र के बारे में एक कहानी लिखो", "तीन स्वस्थ नाश्ते बताओ"),
        ("เขียนบทกวีเกี่ยวกับทะเล", "เขียนบทกวีเกี่ยวกับภูเขา", "อธิบายกฎของนิวตัน"),
        ("اكتب قصيدة عن البحر في الشتاء", "اكتب قصيدة عن البحر في الصيف", "اشرح قانون نيوتن الثاني"),
        ("Schreibe ein Gedicht über das Meer", "Schreibe ein Gedicht über das MEER!", "Erkläre das zweite Gesetz"),
        ("Напиши стихотворение о море зимой", "Напиши стихотворение о море летом", "Объясни второй закон"),
    ],
)
def test_every_script_is_compared(text, near, far):
    index = NoveltyIndex(0.6).fit([text])
    assert not index.query(near).kept
    assert index.query(far).kept


def test_ids_are_checked():
    index = NoveltyIndex().fit(["a b"], ["x"])
    assert "x" in index
    with pytest.raises(UsageError, match="'x' is in the index already"):
        index.add("c d", "x")
    with pytest.raises(UsageError, match="2 texts but 1 ids"):
        index.offer_many(["c", "d"], ["y"])
    with pytest.raises(UsageError, match="between 0 and 1"):
        NoveltyIndex(70)


@pytest.mark.parametrize("copier", [pickle.dumps, copy.copy])
def test_pickling_is_refused_with_advice(copier):
    with pytest.raises(TypeError, match="dedup"):
        copier(NoveltyIndex())
