"""Removing, merging, saving and loading of both kinds of index."""

import json

import numpy as np
import pytest

from selfinstruct.errors import SelfInstructError, UsageError
from selfinstruct.filters import NearDuplicateIndex, NoveltyIndex

TEXTS = [
    "Write a poem about the sea in winter",
    "List three healthy breakfasts for busy people",
    "Explain the second law of motion to a child",
    "写一首关于春天的诗",
    "🎉🎉",
    "!!!",
    "",
    "the the the cat cat sat on the mat",
]
PROBES = [text + " now" for text in TEXTS] + ["写一首关于秋天的诗", "🎉🎉", "entirely new words here"]
KINDS = [NoveltyIndex, NearDuplicateIndex]


def filled(kind):
    index = kind(0.75)
    index.offer_many([*TEXTS, TEXTS[0] + "!"])
    assert len(index) == len(TEXTS)
    return index


@pytest.mark.parametrize("kind", KINDS)
def test_a_loaded_index_decides_as_the_saved_one(kind, tmp_path):
    index = filled(kind)
    index.save(tmp_path / "index.npz")
    loaded = kind.load(tmp_path / "index.npz")
    assert loaded.ids == index.ids
    assert loaded.threshold == index.threshold
    assert [loaded.query(text) for text in PROBES] == [index.query(text) for text in PROBES]
    assert loaded.offer_many(PROBES) == index.offer_many(PROBES)  # running numbers continue from the same one
    assert loaded.ids == index.ids
    assert list(tmp_path.iterdir()) == [tmp_path / "index.npz"]


@pytest.mark.parametrize("kind", KINDS)
def test_an_empty_index_can_be_saved(kind, tmp_path):
    kind().save(tmp_path / "index.npz")
    assert len(kind.load(tmp_path / "index.npz")) == 0


@pytest.mark.parametrize("kind", KINDS)
def test_other_files_are_refused(kind, tmp_path):
    path = tmp_path / "index.npz"
    with pytest.raises(UsageError, match="No such file"):
        kind.load(path)
    path.write_bytes(b"not an archive")
    with pytest.raises(UsageError, match="not an index"):
        kind.load(path)
    np.savez(path, other=np.zeros(3))
    with pytest.raises(UsageError, match="not an index"):
        kind.load(path)
    np.savez(path, header=np.array([{"a": 1}], dtype=object))  # would need pickle
    with pytest.raises(UsageError, match="not an index"):
        kind.load(path)


@pytest.mark.parametrize("kind", KINDS)
def test_another_kind_or_format_is_refused(kind, tmp_path):
    path = tmp_path / "index.npz"
    other = KINDS[1 - KINDS.index(kind)]
    other().save(path)
    with pytest.raises(UsageError, match=f"holds a {other.__name__}, not a {kind.__name__}"):
        kind.load(path)
    kind().save(path)
    with np.load(path) as archive:
        arrays = dict(archive)
    header = json.loads(arrays["header"].tobytes()) | {"format": 99}
    np.savez(path, **arrays | {"header": np.frombuffer(json.dumps(header).encode(), dtype=np.uint8)})
    with pytest.raises(UsageError, match="format 99"):
        kind.load(path)


@pytest.mark.parametrize("kind", KINDS)
def test_an_index_with_an_array_missing_is_refused(kind, tmp_path):
    path = tmp_path / "index.npz"
    filled(kind).save(path)
    with np.load(path) as archive:
        arrays = dict(archive)
    for gone in set(arrays) - {"header"}:
        np.savez(path, **{name: array for name, array in arrays.items() if name != gone})
        with pytest.raises(UsageError, match="damaged"):
            kind.load(path)
    np.savez(path, **arrays | {"ids_sizes": arrays["ids_sizes"][:-1]})
    with pytest.raises(UsageError, match="damaged"):
        kind.load(path)


@pytest.mark.parametrize("kind", KINDS)
def test_a_failed_save_leaves_the_old_file(kind, tmp_path):
    path = tmp_path / "file" / "index.npz"
    path.parent.write_text("a file where a folder should be")
    with pytest.raises(SelfInstructError, match="can't write"):
        kind().save(path)


@pytest.mark.parametrize("kind", KINDS)
def test_removed_texts_no_longer_count(kind):
    index = filled(kind)
    index.remove(["0", "4"])
    assert index.ids == ("1", "2", "3", "5", "6", "7")
    assert index.query(TEXTS[0]).kept
    assert index.query("🎉🎉").kept
    assert not index.query("!!!").kept
    assert not index.query(TEXTS[7]).kept
    verdict = index.query(TEXTS[2] + " ")
    assert (verdict.kept, verdict.nearest) == (False, "2")
    with pytest.raises(UsageError, match="'nine' is not in the index"):
        index.remove(["1", "nine"])
    assert len(index) == 6
    index.remove(index.ids)
    assert len(index) == 0
    assert index.offer(TEXTS[1], "new").kept


@pytest.mark.parametrize("kind", KINDS)
def test_merging_offers_the_texts_of_the_other_index(kind):
    one = kind(0.75).fit(TEXTS[:4], list("abcd"))
    other = kind(0.75).fit([*TEXTS[2:], "entirely new words here"], ["C", "D", "E", "F", "G", "H", "I"])
    verdicts = one.merge(other)
    assert [verdict.kept for verdict in verdicts] == [False, False, True, True, True, True, True]
    assert [verdict.nearest for verdict in verdicts[:2]] == ["c", "d"]
    assert one.ids == (*"abcd", *"EFGHI")
    assert len(other) == 7
    assert not one.query("entirely new words here").kept
    assert not one.query("🎉🎉").kept
    with pytest.raises(UsageError, match="'E' is in the index already"):
        one.merge(kind(0.75).fit(["x"], ["E"]))
    with pytest.raises(UsageError, match="differ"):
        one.merge(kind(0.5))


def test_settings_are_saved_and_must_agree_to_merge(tmp_path):
    path = tmp_path / "index.npz"
    NoveltyIndex(longest=3).fit(["a b c d e"]).save(path)
    loaded = NoveltyIndex.load(path)
    assert loaded.query("a b c x y").score == 1.0
    assert loaded.empty(0.5).longest == 3
    with pytest.raises(UsageError, match="longest"):
        loaded.merge(NoveltyIndex())
    NearDuplicateIndex(0.5, shingles="word2").fit(["one two three four"]).save(path)
    words = NearDuplicateIndex.load(path)
    assert words.query("Four! One, two three").score == 0.5
    assert words.empty(0.5).shingles == "word2"
    with pytest.raises(UsageError, match="char5"):
        words.merge(NearDuplicateIndex(0.5))


def rewritten(path, **changes):
    """Change parameters in the header of a saved index; None removes one."""
    with np.load(path) as archive:
        arrays = {name: archive[name] for name in archive.files}
    header = json.loads(arrays.pop("header").tobytes())
    merged = {**header["parameters"], **changes}
    header["parameters"] = {name: value for name, value in merged.items() if value is not None}
    np.savez(path, header=np.frombuffer(json.dumps(header).encode(), dtype=np.uint8), **arrays)


def test_an_index_of_an_earlier_version_keeps_its_tokenizer(tmp_path):
    path = tmp_path / "index.npz"
    NoveltyIndex(0.9, "words").fit(["a & b"]).save(path)
    rewritten(path, tokenizer="auto")  # as the earlier version named it
    loaded = NoveltyIndex.load(path)
    assert (loaded.tokenizer, loaded.query("a | b").score) == ("words", 1.0)
    assert NoveltyIndex(0.9).fit(["a & b"]).tokenizer == "symbols"
    NoveltyIndex(0.9).fit(["a & b"]).save(path)
    assert NoveltyIndex.load(path).query("a | b").kept


def test_an_index_of_word_shingles_of_an_earlier_version_is_refused(tmp_path):
    path = tmp_path / "index.npz"
    NearDuplicateIndex(shingles="word3").fit(TEXTS).save(path)
    assert len(NearDuplicateIndex.load(path)) == len(TEXTS)
    rewritten(path, words=None)
    with pytest.raises(UsageError, match="words without symbols, from an earlier version: build the index again"):
        NearDuplicateIndex.load(path)
