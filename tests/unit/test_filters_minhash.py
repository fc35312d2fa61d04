import copy
import pickle
from itertools import pairwise

import numpy as np
import pytest
from datasketch import MinHash, MinHashLSH

from selfinstruct.errors import UsageError
from selfinstruct.filters import NearDuplicateIndex
from selfinstruct.filters.minhash import index as minhash
from selfinstruct.filters.minhash.bands import pairs_of as all_of
from selfinstruct.filters.minhash.shingles import char_units, word_units
from selfinstruct.filters.minhash.shingles import shingle_sets as joined_sets
from selfinstruct.filters.minhash.signatures import from_datasketch, permutations, signatures, to_datasketch
from selfinstruct.filters.minhash.sketches import Sketcher

STORY = "The lighthouse keeper counted the ships that passed in the night and wrote each name in a blue book. " * 3


def shingle_sets(hashes, offsets):
    found, ends = joined_sets(hashes, offsets)
    return np.split(found, ends[1:-1])


def char_shingles(texts):
    return char_units(texts).runs()


def jaccard(a, b):
    shared = len(np.intersect1d(a, b, assume_unique=True))
    return shared / (len(a) + len(b) - shared)


def grams(text, n=5):
    text = " ".join(text.casefold().split())
    return {text[at : at + n] for at in range(max(1, len(text) - n + 1))}


def similarity(a, b):
    return len(grams(a) & grams(b)) / len(grams(a) | grams(b))


def test_char_shingles_are_the_set_of_five_grams():
    texts = ["", "a", "abcd", "abcde", "abcdef", "aaaaaaaaaa", "Ünï  cödé 写诗 🎉🎉🎉", "\ud800 lone surrogate", STORY]
    sets = shingle_sets(*char_shingles(texts))
    assert [len(found) for found in sets] == [len(grams(text)) for text in texts]
    for text, found in zip(texts, sets, strict=True):
        alone = shingle_sets(*char_shingles([text]))[0]
        assert np.array_equal(found, alone)  # neighbours in a batch make no difference


@pytest.mark.slow
@pytest.mark.parametrize("shingles", ["char5", "char2", "word3", "char20"])
def test_sketches_of_both_engines_are_equal(shingles):
    pytest.importorskip("numba")
    texts = [
        "",
        " ",
        "a",
        "abcde",
        "aaaaaaaa",
        "Ünï  cödé\u3000写诗\t🎉",
        "\ud800 x",
        "ẞ ΣΑΣ\x1f\x85ok",
        STORY,
        STORY * 30,
    ]
    texts += ["".join(map(chr, range(start, start + 300))) for start in (1, 0x1F00, 0x2000, 0x3000, 0x10FF00 - 300)]
    sketcher = Sketcher(shingles, 64, 7)
    one, two = sketcher.sketch(texts, compiled=False), sketcher.sketch(texts, compiled=True)
    for a, b in ((one.keys, two.keys), (one.sizes, two.sizes), (one.parities, two.parities)):
        assert np.array_equal(a, b)
    signed = [sketcher.signatures(texts, compiled=compiled) for compiled in (False, True)]
    assert np.array_equal(*signed)
    if shingles == "char5":
        assert one.sizes.tolist() == [len(grams(text)) for text in texts]


def test_case_and_white_space_make_no_difference():
    a, b = shingle_sets(*char_shingles(["Write  a\nPOEM ", "write a poem"]))
    assert np.array_equal(a, b)


def test_short_texts_differ_from_each_other_and_from_longer_ones():
    sets = shingle_sets(*char_shingles(["", "a", "aa", "aaa", "aaaa", "aaaaa", "b"]))
    assert len({tuple(found) for found in sets}) == 7


def test_word_shingles():
    sets = shingle_sets(*word_units(["one two three four", "ONE, two; three!", "one two", "", "!!"], 3).runs())
    assert [len(found) for found in sets] == [2, 1, 1, 1, 1]
    assert sets[1][0] in sets[0]
    assert len({int(found[0]) for found in sets[1:]}) == 4


def test_jaccard_is_exact():
    texts = ["Write a poem about the sea", "Write a poem about the seal", "Something else entirely", "", "abc"]
    sets = shingle_sets(*char_shingles(texts))
    for i, a in enumerate(texts):
        for j, b in enumerate(texts):
            assert jaccard(sets[i], sets[j]) == similarity(a, b)


@pytest.mark.parametrize("compiled", [False, True])
@pytest.mark.parametrize(("num_perm", "seed"), [(128, 1), (16, 1), (64, 7)])
def test_signatures_equal_datasketch(num_perm, seed, compiled):
    if compiled:
        pytest.importorskip("numba")
    rng = np.random.RandomState(3)
    sizes = [0, 1, 5, 0, 300, 0]
    hashes = rng.randint(0, 1 << 32, sum(sizes), dtype=np.uint64)
    offsets = np.concatenate([[0], np.cumsum(sizes)])
    sets = [hashes[start:end].tolist() for start, end in pairwise(offsets)]
    expected = MinHash.bulk(sets, num_perm=num_perm, seed=seed, hashfunc=int)
    found = signatures(hashes, offsets, permutations(num_perm, seed), compiled=compiled)
    assert np.array_equal(found, [minhash.hashvalues for minhash in expected])


def test_the_bridge_to_datasketch_and_back():
    hashes, offsets = char_shingles([STORY, STORY + "The end.", "Something else"])
    found = signatures(hashes, offsets, permutations(128))
    lsh = MinHashLSH(threshold=0.8, num_perm=128)
    for row, signature in enumerate(found):
        assert np.array_equal(from_datasketch(to_datasketch(signature)), signature)
        if row != 1:
            lsh.insert(str(row), to_datasketch(signature))
    assert lsh.query(to_datasketch(found[1])) == ["0"]
    with pytest.raises(ValueError, match="legacy"):
        from_datasketch(MinHash(scheme="legacy"))


def test_near_duplicates_are_rejected_with_their_exact_similarity():
    index = NearDuplicateIndex()
    assert index.offer(STORY).kept
    other = STORY.replace("blue", "red")
    verdict = index.offer(other)
    assert (verdict.filter, verdict.kept, verdict.reason, verdict.nearest) == ("minhash", False, "near_duplicate", "0")
    assert verdict.score == similarity(STORY, other) > 0.8
    assert index.offer("Something quite different, of some length").kept
    assert index.ids == ("0", "2")


def test_only_kept_texts_are_compared():
    words = [f"word{n}" for n in range(60)]
    chain = [" ".join(words)]
    for word in words[11::6]:
        chain.append(chain[-1].replace(word, "changed"))
    assert all(similarity(a, b) > 0.85 for a, b in pairwise(chain))
    assert similarity(chain[0], chain[-1]) < 0.72
    verdicts = NearDuplicateIndex().offer_many(chain)
    assert not verdicts[1].kept
    assert sum(verdict.kept for verdict in verdicts) > 1  # though each is near the one before


def test_texts_of_one_group_are_not_compared():
    index = NearDuplicateIndex()
    assert index.offer(STORY, "1.0", group="1").kept
    assert index.offer(STORY + "!", "1.1", group="1").kept
    verdict = index.offer(STORY + "!", "2.0", group="2")
    assert (verdict.kept, verdict.nearest, verdict.score) == (False, "1.1", 1.0)
    assert not index.query(STORY).kept
    assert index.query(STORY, group="1").kept
    many = NearDuplicateIndex().offer_many([STORY, STORY, STORY], groups=["a", "a", "b"])
    assert [verdict.kept for verdict in many] == [True, True, False]


def test_empty_and_short_texts_duplicate_only_themselves():
    verdicts = NearDuplicateIndex().offer_many(["", "a", "ab", "", "A ", "abcdef"])
    assert [verdict.kept for verdict in verdicts] == [True, True, True, False, False, True]


def test_similarity_equal_to_the_threshold_is_a_duplicate():
    a, b = "abcdefghi", "abcdefghij"  # 5 of 6 five-grams
    assert NearDuplicateIndex(5 / 6, 128, 64).fit([a]).query(b).score == 5 / 6
    assert NearDuplicateIndex(0.84, 128, 64).fit([a]).query(b).kept


def test_most_pairs_above_the_threshold_are_found():
    rng = np.random.RandomState(5)
    words = [f"word{n}" for n in range(400)]
    texts = [" ".join(rng.choice(words, 40)) for _ in range(200)]
    edited = []
    for text in texts:
        tokens = text.split()
        tokens[rng.randint(40)] = "changed"
        edited.append(" ".join(tokens))
    index = NearDuplicateIndex().fit(texts)
    true = [index for index in range(200) if similarity(texts[index], edited[index]) >= 0.8]
    found = [verdict.nearest for verdict in map(index.query, edited)]
    assert len(true) > 150
    assert sum(found[place] == str(place) for place in true) >= 0.97 * len(true)
    assert all(found[index] is None for index in range(200) if index not in true)


@pytest.mark.parametrize("engine", ["numpy", "numba"])
def test_shingles_may_be_words_or_any_number_of_characters(engine):
    if engine == "numba":
        pytest.importorskip("numba")
    index = NearDuplicateIndex(0.5, 128, 64, shingles="word2", engine=engine).fit(["one two three four", "写 诗", ""])
    verdicts = [index.query(text) for text in ("ONE, two: three five", "four three two one", "写 诗", "", "two")]
    assert [verdict.score for verdict in verdicts] == [0.5, None, 1.0, 1.0, None]
    for n in (1, 2, 3, 4, 7, 12):
        index = NearDuplicateIndex(0.1, 128, 128, shingles=f"char{n}", engine=engine).fit(["the blue lighthouse"])
        verdict = index.query("The  blue light!")
        a, b = grams("the blue lighthouse", n), grams("the blue light!", n)
        assert verdict.score == len(a & b) / len(a | b)


@pytest.mark.slow
@pytest.mark.parametrize("engine", ["numpy", "numba"])
def test_thousands_of_similar_texts_are_compared_in_small_blocks(engine, monkeypatch):
    if engine == "numba":
        pytest.importorskip("numba")
    written = []
    monkeypatch.setattr(minhash, "HITS", 5000)
    monkeypatch.setattr(
        minhash, "pairs_of", lambda found: written.append(sum(one.count for one in found)) or all_of(found)
    )
    texts = [f"{STORY} {index // 50}" if index % 3 else f"{index} is the number of this row" for index in range(900)]
    small = NearDuplicateIndex(engine=engine)
    verdicts = small.offer_many(texts)
    assert max(written) <= 5000
    monkeypatch.undo()
    assert NearDuplicateIndex(engine=engine).offer_many(texts) == verdicts
    one = NearDuplicateIndex(engine=engine)
    assert [one.offer(text) for text in texts] == verdicts


def test_invalid_arguments_are_refused():
    with pytest.raises(UsageError, match="unknown shingles 'char'; use char5, word3"):
        NearDuplicateIndex(shingles="char")
    with pytest.raises(UsageError, match="threshold 80"):
        NearDuplicateIndex(80)
    with pytest.raises(UsageError, match="200 bands"):
        NearDuplicateIndex(bands=200)
    with pytest.raises(UsageError, match="'x' occurs twice"):
        NearDuplicateIndex().fit(["a", "b"], ["x", "x"])
    with pytest.raises(UsageError, match="'x' is in the index already"):
        NearDuplicateIndex().fit(["a"], ["x"]).add("b", "x")
    with pytest.raises(UsageError, match="fewer groups"):
        NearDuplicateIndex().offer_many(["a", "b"], groups=["x"])


@pytest.mark.parametrize("copier", [pickle.dumps, copy.copy])
def test_pickling_is_refused_with_advice(copier):
    with pytest.raises(TypeError, match="dedup"):
        copier(NearDuplicateIndex())


def test_a_megabyte_of_one_character():
    index = NearDuplicateIndex()
    assert index.offer("a" * 10**6 + "!").kept
    assert not index.offer("a" * 10**6 + "!").kept


SYMBOLS_ALONE = [
    ("Explain pointers in C++", "Explain pointers in C#"),
    ("Explain to a beginner what the result of 12 + 5 is", "Explain to a beginner what the result of 12 - 5 is"),
    ("Write a regular expression for a & b", "Write a regular expression for a | b"),
    ("Say what happens if the price rises by 5%", "Say what happens if the price rises by $5"),
    ("Is it true that x < y for every x in the table?", "Is it true that x >= y for every x in the table?"),
]
SAME = [
    ("Explain in plain words what **pointers** are good for", "Explain in plain words what pointers are good for"),
    ("Explain pointers in plain words!", "Explain pointers (in plain words)"),
    ("Explain pointers in C++", "explain  Pointers in c++"),
    ("Explain pointers in C++ to a new reader", "Explain pointers in C++ to the new reader"),
]


@pytest.mark.parametrize("engine", ["numpy", "auto"])
@pytest.mark.parametrize(("first", "second"), SYMBOLS_ALONE)
def test_texts_that_differ_in_symbols_alone_are_kept(first, second, engine):
    together = NearDuplicateIndex(0.6, engine=engine).offer_many([first, second])
    index = NearDuplicateIndex(0.6, engine=engine)
    assert (
        [verdict.kept for verdict in together] == [index.offer(text).kept for text in (first, second)] == [True, True]
    )
    assert not NearDuplicateIndex(0.6, symbols=False, engine=engine).fit([first]).query(second).kept


@pytest.mark.parametrize(("first", "second"), SAME)
def test_other_small_changes_make_no_new_text(first, second):
    assert not NearDuplicateIndex(0.6).fit([first]).query(second).kept


def test_the_rule_of_symbols_is_saved_with_the_index(tmp_path):
    first, second = SYMBOLS_ALONE[0]
    NearDuplicateIndex(0.6, symbols=False).fit([first]).save(tmp_path / "index.npz")
    assert not NearDuplicateIndex.load(tmp_path / "index.npz").query(second).kept
