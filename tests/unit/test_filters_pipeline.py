import json
import pickle
import random
import warnings
from dataclasses import dataclass
from typing import ClassVar

import pytest

from selfinstruct.errors import UsageError
from selfinstruct.filters import (
    Copied,
    Filter,
    Keywords,
    LeadingPunctuation,
    NearDuplicateIndex,
    NoveltyIndex,
    On,
    Pipeline,
    ProgramPrefix,
    Verdict,
    WordCount,
    pipeline,
)
from selfinstruct.filters.decontaminate import Decontaminator
from selfinstruct.filters.patterns import Boilerplate
from selfinstruct.filters.pii import Pii
from selfinstruct.filters.pipeline import BATCH
from selfinstruct.filters.refusals import Refusals
from selfinstruct.filters.repetition import Repetition
from selfinstruct.filters.semantic import SemanticIndex

ROWS = [
    {"id": "a", "instruction": "Write a poem about the sea in winter", "output": "Grey waves, cold foam."},
    {"id": "b", "instruction": "Write a poem about the sea in summer", "output": "Blue."},
    {"id": "c", "instruction": "Hi", "output": "Hello."},
    {"id": "d", "instruction": "List three healthy breakfasts", "output": "I'm sorry, but I can't help with that."},
    {"id": "e", "instruction": "Draw a picture of the sea in winter", "output": "No."},
    {"id": "f", "instruction": "Explain how the sea can freeze in winter", "output": "Salt water freezes at -1.8."},
]


def texts(count):
    """Texts of which many resemble an earlier one, and a few are short."""
    rng = random.Random(1)
    words = [f"word{number}" for number in range(60)]
    known = [rng.choices(words, k=7) for _ in range(count // 3)]
    rows = []
    for number in range(count):
        row = list(rng.choice(known))
        for _ in range(rng.randrange(4)):
            row[rng.randrange(7)] = rng.choice(words)
        rows.append(" ".join(row) if number % 11 else "short")
    return rows


def test_a_row_that_one_filter_rejects_is_not_offered_to_the_next():
    index = NoveltyIndex(0.7)
    result = Pipeline([WordCount(), Keywords(), On("output", Refusals()), index]).run(ROWS, id_column="id")
    assert result.selected == [ROWS[0], ROWS[5]]
    assert result.positions == (0, 5)
    assert result.ids == index.ids == ("a", "f")
    assert result.counts == {"kept": 2, "similar": 1, "too_short": 1, "refusal": 1, "keyword": 1}
    rejected = [(row.id, row.position, row.step, row.filter, row.nearest) for row in result.rejected]
    assert rejected == [
        ("b", 1, 3, "rouge", "a"),
        ("c", 2, 0, "words", None),
        ("d", 3, 2, "refusals", None),
        ("e", 4, 1, "keywords", None),
    ]
    assert result.rejected[0].score == 0.875
    assert result.rejected[2].text == ROWS[3]["output"]
    assert result.rejected[3].verdict.detail == {"keyword": "draw"}
    assert [step.filter for step in result.steps] == ["words", "keywords", "refusals", "rouge"]
    assert [step.threshold for step in result.steps] == [None, None, None, 0.7]


def test_filters_decide_in_their_order():
    row = {"instruction": "Draw"}
    assert Pipeline([WordCount(), Keywords()]).run([row]).counts == {"kept": 0, "too_short": 1}
    assert Pipeline([Keywords(), WordCount()]).run([row]).counts == {"kept": 0, "keyword": 1}


def test_an_index_remembers_a_row_that_a_later_filter_rejects():
    result = Pipeline([NoveltyIndex(), WordCount(9)]).run(ROWS[:2])
    assert [(row.reason, row.nearest) for row in result.rejected] == [("too_short", None), ("similar", "0")]
    assert Pipeline([WordCount(9), NoveltyIndex()]).run(ROWS[:2]).counts == {"kept": 0, "too_short": 2}


@pytest.mark.parametrize("size", [1, 64, BATCH])
def test_the_size_of_batches_makes_no_difference(size, monkeypatch):
    monkeypatch.setattr(pipeline, "BATCH", size)
    rows = texts(300)
    result = Pipeline([WordCount(), NoveltyIndex(0.7), NearDuplicateIndex(0.6)]).run(rows)
    novelty, near = NoveltyIndex(0.7), NearDuplicateIndex(0.6)
    long = [(index, text) for index, text in enumerate(rows) if WordCount().verdict(text).kept]
    new = [(place, text) for place, text in long if novelty.offer(text, str(place)).kept]
    kept = [(place, text) for place, text in new if near.offer(text, str(place)).kept]
    assert result.positions == tuple(place for place, _ in kept)
    assert result.selected == [text for _, text in kept]
    assert 0 < len(kept) < len(new) < len(long) < len(rows)


def test_streaming_reads_a_batch_at_a_time():
    taken = 0

    def endless():
        nonlocal taken
        while True:
            taken += 1
            yield {"instruction": f"Say the number {taken} in words"}

    stream = Pipeline([WordCount(), NoveltyIndex(1.0)]).stream(endless())
    assert taken == 0
    for index, (row, verdicts) in zip(range(BATCH + 1), stream, strict=False):
        assert row["instruction"] == f"Say the number {index + 1} in words"
        assert [verdict.filter for verdict in verdicts] == ["words", "rouge"]
        assert taken == (1 + index // BATCH) * BATCH


def test_streaming_yields_every_row_with_its_verdicts():
    decided = list(Pipeline([WordCount(), NoveltyIndex()]).stream(iter(ROWS)))
    assert [row.row for row in decided] == ROWS
    assert [row.kept for row in decided] == [True, False, False, True, True, True]
    assert [len(row.verdicts) for row in decided] == [2, 2, 1, 2, 2, 2]
    assert decided[1].verdicts[-1].nearest == "0"


def test_texts_and_columns_that_are_functions():
    mixed = Pipeline([WordCount(), On(lambda row: f"{row['instruction']} {row['output']}", NearDuplicateIndex(0.5))])
    assert mixed.run(ROWS[:3]).positions == (0, 1)
    assert Pipeline([WordCount()]).run(text for text in ["one two three four", "one"]).selected == [
        "one two three four"
    ]


def test_redaction_changes_the_row_for_later_filters_but_not_the_row_of_the_caller():
    rows = [{"t": f"Write to {who}@firm.io about the new prices"} for who in ("ann", "bob")]
    result = Pipeline([Pii("redact"), NoveltyIndex(0.9)]).run(rows, "t")
    assert result.selected == [{"t": "Write to [EMAIL] about the new prices"}]
    assert [(row.reason, row.score) for row in result.rejected] == [("similar", 1.0)]
    assert rows[0]["t"] == "Write to ann@firm.io about the new prices"
    assert Pipeline([Pii("redact")]).run([rows[1]["t"]]).selected == [result.rejected[0].text]
    with pytest.raises(UsageError, match="name a column"):
        Pipeline([Pii("redact")]).run(rows, lambda row: row["t"])


def test_running_numbers_avoid_the_ids_that_an_index_holds():
    index = NoveltyIndex().fit(["Name a river of France"])
    both = Pipeline([WordCount(), index])
    first = both.run(["Tell", "Name a river of France!", "Explain how tides arise here"])
    assert first.ids == ("3",)
    assert first.rejected[1].nearest == "0"
    second = both.run(["Explain how tides arise here!"])
    assert [(row.id, row.nearest) for row in second.rejected] == [("4", "3")]


def test_the_threshold_of_an_index_can_be_moved_without_filtering_again():
    result = Pipeline([WordCount(), NoveltyIndex(0.7), On("output", WordCount(2))]).run(iter(ROWS), id_column="id")
    assert result.ids == ("a", "d", "f")
    tolerant = result.with_threshold(0.9)
    assert (result.threshold, tolerant.threshold) == (0.7, 0.9)
    assert tolerant.ids == ("a", "b", "d", "f")
    assert tolerant.selected == [ROWS[0], ROWS[1], ROWS[3], ROWS[5]]
    assert [(row.id, row.reason) for row in tolerant.rejected] == [("c", "too_short"), ("e", "too_short")]
    both = Pipeline([NoveltyIndex(0.7), NearDuplicateIndex(0.5)]).run(ROWS)
    assert both.with_threshold(0.9, 0).positions == (0, 1, 2, 3, 4, 5)
    with pytest.raises(UsageError, match=r"as step: 0 \(rouge\), 1 \(minhash\)"):
        both.with_threshold(0.9)
    with pytest.raises(UsageError, match="there is none"):
        _ = Pipeline([WordCount()]).run(ROWS).threshold


def test_a_redacted_row_that_returns_is_still_redacted():
    rows = [{"t": f"Write to {name}@firm.io about the new prices"} for name in ("ann", "bob")]
    result = Pipeline([Pii("redact"), NoveltyIndex(0.9)]).run(rows, "t")
    assert result.with_threshold(1.0).selected == [{"t": "Write to [EMAIL] about the new prices"}] * 2


def test_rejected_rows_are_written_as_jsonl_and_as_a_dataset(tmp_path):
    pytest.importorskip("datasets")
    result = Pipeline([WordCount(), Keywords(), NoveltyIndex()]).run(ROWS)
    result.to_jsonl(tmp_path / "rejected.jsonl")
    lines = [json.loads(line) for line in (tmp_path / "rejected.jsonl").read_text().splitlines()]
    assert lines == [row.to_json() for row in result.rejected]
    assert [line["reason"] for line in lines] == ["similar", "too_short", "keyword"]
    rows = result.to_dataset().to_list()
    assert [{**row, "detail": json.loads(row["detail"])} for row in rows] == lines


def test_a_custom_filter_needs_one_method():
    @dataclass(frozen=True)
    class Questions(Filter):
        name: ClassVar[str] = "questions"

        def verdict(self, text: str) -> Verdict:
            return self.keep() if text.endswith("?") else self.reject("no_question")

    assert Pipeline([Questions()]).run(["Why?", "So."]).counts == {"kept": 1, "no_question": 1}


def test_a_semantic_index_is_a_member_like_the_others():
    def embed(texts):
        return [[float(text.startswith(letter)) for letter in "WLDE"] for text in texts]

    result = Pipeline([WordCount(), SemanticIndex(0.9, embed)]).run(ROWS)
    assert result.counts == {"kept": 4, "same_meaning": 1, "too_short": 1}
    assert result.rejected[0].nearest == "0"
    assert result.threshold == 0.9


def test_many_rejections_for_the_same_row_cause_a_warning():
    with pytest.warns(UserWarning, match="199 of 200 rows were dropped for resembling row '0'"):
        Pipeline([NoveltyIndex()]).run(["Write a poem about the sea"] * 200)


@pytest.mark.parametrize(
    ("filters", "message"),
    [
        ([], "at least one filter"),
        ([WordCount], "WordCount does not decide"),
        ([On("output", Copied())], "Copied does not decide"),
        ([len], "builtin_function_or_method does not"),
    ],
)
def test_other_objects_than_filters_are_refused(filters, message):
    with pytest.raises(UsageError, match=message):
        Pipeline(filters)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ("text", "not a str"),
        ({"train": []}, "not a dict; give one split"),
        ([{"text": "x"}], "row 0 has no 'instruction'; it has text"),
        ([*ROWS, {"instruction": None}], "row 6: 'instruction' must be a string, not NoneType"),
        ([b"x"], "row 0 is a bytes"),
    ],
)
def test_unusable_data_is_refused(data, message):
    with pytest.raises(UsageError, match=message):
        Pipeline([WordCount()]).run(data)


class TestWithDatasets:
    @pytest.fixture
    def dataset(self):
        datasets = pytest.importorskip("datasets")
        return datasets.Dataset.from_list(ROWS)

    def test_a_dataset_gives_a_dataset(self, dataset):
        result = Pipeline([WordCount(), NoveltyIndex(0.7)]).run(dataset, id_column="id")
        assert type(result.selected) is type(dataset)
        assert result.selected.to_list() == [ROWS[0], ROWS[3], ROWS[4], ROWS[5]]
        assert result.ids == ("a", "d", "e", "f")
        with pytest.raises(UsageError, match="no column 'text'; there are id, instruction, output"):
            Pipeline([WordCount()]).run(dataset, "text")

    def test_functions_and_streams(self, dataset):
        whole = Pipeline([On(lambda row: row["instruction"] + row["output"], WordCount(10))])
        assert whole.run(dataset).selected["id"][:] == ["a", "d", "f"]
        assert Pipeline([WordCount()]).run(dataset.to_iterable_dataset()).positions == (0, 1, 3, 4, 5)

    def test_redacting(self, dataset):
        dataset = dataset.map(lambda row: {"output": f"Ask {row['id']}@firm.io"})
        result = Pipeline([WordCount(), On("output", Pii("redact"))]).run(dataset)
        assert set(result.selected["output"]) == {"Ask [EMAIL]"}
        assert result.selected["id"][:] == ["a", "b", "d", "e", "f"]

    def test_a_dict_of_splits_is_refused(self, dataset):
        import datasets

        with pytest.raises(UsageError, match="give one split"):
            Pipeline([WordCount()]).run(datasets.DatasetDict({"train": dataset}))


STATELESS = [
    WordCount(),
    Keywords(("sea",)),
    LeadingPunctuation(),
    ProgramPrefix(),
    Repetition(),
    Refusals(),
    Boilerplate(),
    Pii(),
    Decontaminator(("List three healthy breakfasts",)),
]


class TestProcesses:
    """``Dataset.filter`` pickles a filter into workers, and looks for an earlier result on disk."""

    @pytest.fixture
    def on_disk(self, tmp_path):
        datasets = pytest.importorskip("datasets")
        rows = [{"text": row[name]} for row in ROWS for name in ("instruction", "output")]
        datasets.Dataset.from_list(rows).save_to_disk(tmp_path / "rows")
        return datasets.load_from_disk(tmp_path / "rows")

    @staticmethod
    def filtered(dataset, member, **options):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # fork in a process with threads
            return dataset.filter(member, batched=True, input_columns="text", **options)

    @pytest.mark.parametrize("member", STATELESS, ids=lambda member: member.name)
    def test_a_stateless_filter_survives_pickling_with_the_same_verdicts_and_fingerprint(self, member):
        from datasets.fingerprint import Hasher

        copy = pickle.loads(pickle.dumps(member))
        every = [row[name] for row in ROWS for name in ("instruction", "output")]
        assert copy.decide(every) == member.decide(every)
        assert Hasher.hash(copy) == Hasher.hash(member)

    def test_two_processes_give_the_same_rows_and_the_second_use_reads_the_cache(self, on_disk, monkeypatch):
        words = WordCount()
        alone = self.filtered(on_disk, words, keep_in_memory=True)
        double = self.filtered(on_disk, words, num_proc=2)
        assert double.to_list() == alone.to_list() == [row for row in on_disk.to_list() if words([row["text"]])[0]]
        once = self.filtered(on_disk, words)
        with monkeypatch.context() as patch:
            patch.setattr(WordCount, "verdict", None)  # deciding again would fail
            again = self.filtered(on_disk, WordCount())
            assert self.filtered(on_disk, WordCount(), num_proc=2).to_list() == alone.to_list()
        assert again.cache_files == once.cache_files
        assert again.to_list() == once.to_list() == alone.to_list()
        assert self.filtered(on_disk, WordCount(1))._fingerprint != once._fingerprint

    @pytest.mark.parametrize("index", [NoveltyIndex(), NearDuplicateIndex()], ids=lambda one: one.name)
    def test_an_index_is_refused_with_advice(self, on_disk, index):
        def decide(rows):
            return [verdict.kept for verdict in index.offer_many(rows)]

        with pytest.raises(TypeError, match=r"copies of it in worker processes.*Use dedup\(dataset, index, column\)"):
            self.filtered(on_disk, decide, num_proc=2)
        with pytest.raises(TypeError, match="holds state and is not pickled"):
            pickle.dumps(Pipeline([WordCount(), index]))
        assert len(index) == 0
