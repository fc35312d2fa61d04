import pickle
import sys
import zlib

import numpy as np
import pytest

from selfinstruct.errors import MissingExtraError, UsageError
from selfinstruct.filters.semantic import BATCH, SemanticIndex


def embed(texts):
    """Sums of a fixed pseudo-random vector for each word: order and repetition of spaces make no difference."""
    vectors = np.zeros((len(texts), 32))
    for row, text in enumerate(texts):
        for word in text.lower().split():
            vectors[row] += np.random.default_rng(zlib.crc32(word.encode())).normal(size=32)
    return vectors


def test_a_text_with_the_same_meaning_is_rejected_and_names_the_closest():
    index = SemanticIndex(0.8, embed)
    verdicts = index.offer_many(["the cat sat down", "rain falls on hills", "down SAT the cat"], ["a", "b", "c"])
    assert [verdict.kept for verdict in verdicts] == [True, True, False]
    assert (verdicts[2].filter, verdicts[2].reason, verdicts[2].nearest) == ("semantic", "same_meaning", "a")
    assert verdicts[2].score == pytest.approx(1.0)
    assert verdicts[2].score <= 1.0
    assert (len(index), index.ids, "a" in index, "c" in index) == (2, ("a", "b"), True, False)


def test_a_query_changes_nothing_and_the_earliest_of_equals_is_named():
    index = SemanticIndex(0.8, embed).fit(["x y", "y x", "z"])
    assert index.query("y x").nearest == "0"
    assert index.query("q").kept
    assert len(index) == 3


def test_a_cosine_equal_to_the_threshold_is_kept():
    vectors = {"a": [1.0, 0.0], "b": [0.6, 0.8], "c": [0.61, 0.79]}
    index = SemanticIndex(0.600001, lambda texts: [vectors[text] for text in texts])
    assert [verdict.kept for verdict in index.offer_many("ab")] == [True, True]
    assert not index.offer("c").kept
    same = SemanticIndex(1.0, lambda texts: [[3.0, 4.0]] * len(texts))
    assert [verdict.kept for verdict in same.offer_many(["a", "b"])] == [True, True]


def test_batches_of_any_size_equal_one_at_a_time():
    rng = np.random.default_rng(1)
    words = [f"w{number}" for number in range(12)]
    texts = [" ".join(rng.choice(words, size=rng.integers(1, 6))) for _ in range(BATCH + 200)]
    whole, single = SemanticIndex(0.9, embed), SemanticIndex(0.9, embed)
    verdicts = whole.offer_many(texts)
    assert verdicts == [single.offer(text) for text in texts]
    assert 0 < len(whole) < len(texts)
    units = embed(texts)
    units /= np.linalg.norm(units, axis=1, keepdims=True)
    pool = []
    for at, verdict in enumerate(verdicts):
        cosines = units[pool] @ units[at] if pool else np.zeros(0)
        assert verdict.kept == (not len(cosines) or cosines.max() <= 0.9)
        if verdict.kept:
            pool.append(at)
        else:
            assert verdict.score == pytest.approx(cosines.max(), abs=1e-6)


def test_a_zero_vector_resembles_no_other():
    index = SemanticIndex(0.5, embed)
    assert [verdict.kept for verdict in index.offer_many(["", "", "a"])] == [True, True, True]


def test_it_can_be_saved_and_loaded(tmp_path):
    index = SemanticIndex(0.8, embed)
    index.offer_many(["a b", "b a", "c"])
    index.save(tmp_path / "index.npz")
    again = SemanticIndex.load(tmp_path / "index.npz", embed)
    assert (again.ids, again.threshold) == (("0", "2"), 0.8)
    for text in ("b a", "d"):
        assert again.offer(text) == index.offer(text)
    assert again.ids == index.ids
    again.remove(["0"])
    assert again.query("b a").kept
    assert not again.query("c").kept
    with pytest.raises(UsageError, match="dimensions"):
        SemanticIndex.load(tmp_path / "index.npz", lambda texts: np.ones((len(texts), 3))).query("a")


def test_invalid_vectors_are_refused():
    with pytest.raises(UsageError, match="one vector per text"):
        SemanticIndex(0.5, lambda texts: np.ones(3)).query("a")
    with pytest.raises(UsageError, match="not a finite number"):
        SemanticIndex(0.5, lambda texts: [[np.nan]]).query("a")


def test_wrong_arguments_are_refused():
    with pytest.raises(UsageError, match="between -1 and 1"):
        SemanticIndex(1.1, embed)
    index = SemanticIndex(0.5, embed).fit(["a"], ["x"])
    with pytest.raises(UsageError, match="'x' is in the index already"):
        index.offer("b", "x")
    with pytest.raises(TypeError, match="is not pickled"):
        pickle.dumps(index)


def test_a_missing_package_is_named_with_the_command_to_install_it(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "model2vec", None)
    monkeypatch.setitem(sys.modules, "sentence_transformers", None)
    (tmp_path / "modules.json").write_text("[]")  # both packages write it
    with pytest.raises(MissingExtraError, match=r"model2vec is not installed.*selfinstruct\[semantic\]"):
        SemanticIndex(0.8, tmp_path)
    (tmp_path / "config_sentence_transformers.json").write_text("{}")
    with pytest.raises(UsageError, match="pip install sentence-transformers"):
        SemanticIndex(0.8, tmp_path)
