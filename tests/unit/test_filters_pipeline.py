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
    dedup,
    pipeline,
)
from selfinstruct.filters.decontaminate import Decontaminator
from selfinstruct.filters.patterns import Boilerplate, Refusals
from selfinstruct.filters.pii import Pii
from selfinstruct.filters.pipeline import BATCH
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
    for place in range(count):
        row = list(rng.choice(known))
        for _ in range(rng.randrange(4)):
            row[rng.randrange(7)] = rng.choice(words)
        rows.append(" ".join(row) if place % 11 else "short")
    return rows


def test_a_row_dropped_by_one_filter_is_not_offered_to_the_next():
    index = NoveltyIndex(0.7)
    result = Pipeline([WordCount(), Keywords(), On("output", Refusals()), index]).run(ROWS, id_column="id")
    assert result.kept == [ROWS[0], ROWS[5]]
    assert result.rows == (0, 5)
    assert result.ids == index.ids == ("a", "f")
    assert result.counts == {"kept": 2, "similar": 1, "too_short": 1, "refusal": 1, "keyword": 1}
    found = [(drop.id, drop.row, drop.step, drop.filter, drop.nearest) for drop in result.dropped]
    assert found == [
        ("b", 1, 3, "rouge", "a"),
        ("c", 2, 0, "words", None),
        ("d", 3, 2, "refusals", None),
        ("e", 4, 1, "keywords", None),
    ]
    assert result.dropped[0].score == 0.875
    assert result.dropped[2].text == ROWS[3]["output"]
    assert result.dropped[3].detail == {"keyword": "draw"}
    assert result.filters == ("words", "keywords", "refusals", "rouge")


def test_the_order_of_the_filters_is_the_order_of_judgement():
    row = {"instruction": "Draw"}
    assert Pipeline([WordCount(), Keywords()]).run([row]).counts == {"kept": 0, "too_short": 1}
    assert Pipeline([Keywords(), WordCount()]).run([row]).counts == {"kept": 0, "keyword": 1}


def test_what_a_later_filter_drops_stays_in_an_earlier_index():
    result = Pipeline([NoveltyIndex(), WordCount(9)]).run(ROWS[:2])
    assert [(drop.reason, drop.nearest) for drop in result.dropped] == [("too_short", None), ("similar", "0")]
    assert Pipeline([WordCount(9), NoveltyIndex()]).run(ROWS[:2]).counts == {"kept": 0, "too_short": 2}


@pytest.mark.parametrize("size", [1, 64, BATCH])
def test_batches_make_no_difference(size, monkeypatch):
    monkeypatch.setattr(pipeline, "BATCH", size)
    rows = texts(300)
    result = Pipeline([WordCount(), NoveltyIndex(0.7), NearDuplicateIndex(0.6)]).run(rows)
    novelty, near = NoveltyIndex(0.7), NearDuplicateIndex(0.6)
    long = [(place, text) for place, text in enumerate(rows) if WordCount().verdict(text).kept]
    new = [(place, text) for place, text in long if novelty.offer(text, str(place)).kept]
    kept = [(place, text) for place, text in new if near.offer(text, str(place)).kept]
    assert result.rows == tuple(place for place, _ in kept)
    assert result.kept == [text for _, text in kept]
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
    for place, (row, verdicts) in zip(range(BATCH + 1), stream, strict=False):
        assert row["instruction"] == f"Say the number {place + 1} in words"
        assert [verdict.filter for verdict in verdicts] == ["words", "rouge"]
        assert taken == (1 + place // BATCH) * BATCH


def test_streaming_yields_every_row_with_its_verdicts():
    judged = list(Pipeline([WordCount(), NoveltyIndex()]).stream(iter(ROWS)))
    assert [one.row for one in judged] == ROWS
    assert [one.kept for one in judged] == [True, False, False, True, True, True]
    assert [len(one.verdicts) for one in judged] == [2, 2, 1, 2, 2, 2]
    assert judged[1].verdicts[-1].nearest == "0"


def test_texts_and_columns_that_are_functions():
    mixed = Pipeline([WordCount(), On(lambda row: f"{row['instruction']} {row['output']}", NearDuplicateIndex(0.5))])
    assert mixed.run(ROWS[:3]).rows == (0, 1)
    assert Pipeline([WordCount()]).run(text for text in ["one two three four", "one"]).kept == ["one two three four"]


def test_redacting_changes_the_row_for_later_filters_and_leaves_the_callers_own():
    rows = [{"t": f"Write to {who}@firm.io about the new prices"} for who in ("ann", "bob")]
    result = Pipeline([Pii("redact"), NoveltyIndex(0.9)]).run(rows, "t")
    assert result.kept == [{"t": "Write to [EMAIL] about the new prices"}]
    assert [(drop.reason, drop.score) for drop in result.dropped] == [("similar", 1.0)]
    assert rows[0]["t"] == "Write to ann@firm.io about the new prices"
    assert Pipeline([Pii("redact")]).run([rows[1]["t"]]).kept == [result.dropped[0].text]
    with pytest.raises(UsageError, match="name a column"):
        Pipeline([Pii("redact")]).run(rows, lambda row: row["t"])


def test_running_numbers_avoid_the_names_that_an_index_holds():
    index = NoveltyIndex().fit(["Name a river of France"])
    both = Pipeline([WordCount(), index])
    first = both.run(["Tell", "Name a river of France!", "Explain how tides arise here"])
    assert first.ids == ("3",)
    assert first.dropped[1].nearest == "0"
    second = both.run(["Explain how tides arise here!"])
    assert [(drop.id, drop.nearest) for drop in second.dropped] == [("4", "3")]


def test_an_index_has_a_report_in_which_the_threshold_can_be_moved():
    result = Pipeline([WordCount(), NoveltyIndex(0.7), On("output", WordCount(2))]).run(ROWS, id_column="id")
    assert list(result.reports) == [1]
    report = result.reports[1]
    assert report.kept == ("a", "d", "e", "f")  # e goes later
    assert [drop.id for drop in report.dropped] == ["b"]
    assert report.rethreshold(0.9).kept == ("a", "b", "d", "e", "f")
    alone = dedup([row for row in ROWS if row["id"] != "c"], NoveltyIndex(0.7), id_column="id")[1]
    assert report.kept == alone.kept


def test_the_dropped_rows_as_jsonl_and_as_a_dataset(tmp_path):
    pytest.importorskip("datasets")
    result = Pipeline([WordCount(), Keywords(), NoveltyIndex()]).run(ROWS)
    result.to_jsonl(tmp_path / "dropped.jsonl")
    lines = [json.loads(line) for line in (tmp_path / "dropped.jsonl").read_text().splitlines()]
    assert lines == [drop.to_json() for drop in result.dropped]
    assert [line["reason"] for line in lines] == ["similar", "too_short", "keyword"]
    rows = result.to_dataset().to_list()
    assert [{**row, "detail": json.loads(row["detail"])} for row in rows] == lines


def test_a_filter_of_ones_own():
    @dataclass(frozen=True)
    class Questions(Filter):
        filter: ClassVar[str] = "questions"

        def verdict(self, text: str) -> Verdict:
            return self.kept() if text.endswith("?") else self.dropped("no_question")

    assert Pipeline([Questions()]).run(["Why?", "So."]).counts == {"kept": 1, "no_question": 1}


def test_any_index_that_offers_many_is_welcome():
    def embed(texts):
        return [[float(text.startswith(letter)) for letter in "WLDE"] for text in texts]

    result = Pipeline([WordCount(), SemanticIndex(0.9, embed)]).run(ROWS)
    assert result.counts == {"kept": 4, "same_meaning": 1, "too_short": 1}
    assert result.dropped[0].nearest == "0"
    assert result.reports == {}


def test_a_large_group_is_worth_a_warning():
    with pytest.warns(UserWarning, match="199 of 200 rows were dropped for resembling row '0'"):
        Pipeline([NoveltyIndex()]).run(["Write a poem about the sea"] * 200)


@pytest.mark.parametrize(
    ("filters", "message"),
    [
        ([], "at least one filter"),
        ([WordCount], "WordCount does not judge"),
        ([On("output", Copied())], "Copied does not judge"),
        ([len], "builtin_function_or_method does not"),
    ],
)
def test_what_is_no_filter_is_refused(filters, message):
    with pytest.raises(UsageError, match=message):
        Pipeline(filters)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ("text", "not a str"),
        ({"train": []}, "not a dict; give one split"),
        ([{"text": "x"}], "row 0 has no 'instruction'; it has text"),
        ([*ROWS, {"instruction": None}], "row 6: 'instruction' is a NoneType"),
        ([b"x"], "row 0 is a bytes"),
    ],
)
def test_what_is_no_data_is_refused(data, message):
    with pytest.raises(UsageError, match=message):
        Pipeline([WordCount()]).run(data)


class TestWithDatasets:
    @pytest.fixture
    def dataset(self):
        datasets = pytest.importorskip("datasets")
        return datasets.Dataset.from_list(ROWS)

    def test_a_dataset_gives_a_dataset(self, dataset):
        result = Pipeline([WordCount(), NoveltyIndex(0.7)]).run(dataset, id_column="id")
        assert type(result.kept) is type(dataset)
        assert result.kept.to_list() == [ROWS[0], ROWS[3], ROWS[4], ROWS[5]]
        assert result.ids == ("a", "d", "e", "f")
        with pytest.raises(UsageError, match="no column 'text'; there are id, instruction, output"):
            Pipeline([WordCount()]).run(dataset, "text")

    def test_functions_and_streams(self, dataset):
        whole = Pipeline([On(lambda row: row["instruction"] + row["output"], WordCount(10))])
        assert whole.run(dataset).kept["id"][:] == ["a", "d", "f"]
        assert Pipeline([WordCount()]).run(dataset.to_iterable_dataset()).rows == (0, 1, 3, 4, 5)

    def test_redacting(self, dataset):
        dataset = dataset.map(lambda row: {"output": f"Ask {row['id']}@firm.io"})
        result = Pipeline([WordCount(), On("output", Pii("redact"))]).run(dataset)
        assert set(result.kept["output"]) == {"Ask [EMAIL]"}
        assert result.kept["id"][:] == ["a", "b", "d", "e", "f"]

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
    """What ``Dataset.filter`` does with a filter: pickles it into workers, and looks for an earlier result on disk."""

    @pytest.fixture
    def on_disk(self, tmp_path):
        datasets = pytest.importorskip("datasets")
        rows = [{"text": row[name]} for row in ROWS for name in ("instruction", "output")]
        datasets.Dataset.from_list(rows).save_to_disk(tmp_path / "rows")
        return datasets.load_from_disk(tmp_path / "rows")

    @staticmethod
    def filtered(dataset, judge, **options):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # fork in a process with threads
            return dataset.filter(judge, batched=True, input_columns="text", **options)

    @pytest.mark.parametrize("judge", STATELESS, ids=lambda one: one.filter)
    def test_a_stateless_filter_survives_pickling_with_the_same_verdicts_and_fingerprint(self, judge):
        from datasets.fingerprint import Hasher

        copy = pickle.loads(pickle.dumps(judge))
        every = [row[name] for row in ROWS for name in ("instruction", "output")]
        assert copy.judge(every) == judge.judge(every)
        assert Hasher.hash(copy) == Hasher.hash(judge)

    def test_two_processes_give_the_same_rows_and_the_second_use_is_from_the_cache(self, on_disk, monkeypatch):
        judge = WordCount()
        alone = self.filtered(on_disk, judge, keep_in_memory=True)
        double = self.filtered(on_disk, judge, num_proc=2)
        assert double.to_list() == alone.to_list() == [row for row in on_disk.to_list() if judge([row["text"]])[0]]
        once = self.filtered(on_disk, judge)
        with monkeypatch.context() as patch:
            patch.setattr(WordCount, "verdict", None)  # whoever judged again would fail
            again = self.filtered(on_disk, WordCount())
            assert self.filtered(on_disk, WordCount(), num_proc=2).to_list() == alone.to_list()
        assert again.cache_files == once.cache_files
        assert again.to_list() == once.to_list() == alone.to_list()
        assert self.filtered(on_disk, WordCount(1))._fingerprint != once._fingerprint

    @pytest.mark.parametrize("index", [NoveltyIndex(), NearDuplicateIndex()], ids=lambda one: one.filter)
    def test_an_index_is_refused_with_what_to_do(self, on_disk, index):
        def judge(rows):
            return [verdict.kept for verdict in index.offer_many(rows)]

        with pytest.raises(TypeError, match=r"copies of it in worker processes.*Use dedup\(dataset, index, column\)"):
            self.filtered(on_disk, judge, num_proc=2)
        with pytest.raises(TypeError, match="holds state and is not pickled"):
            pickle.dumps(Pipeline([WordCount(), index]))
        assert len(index) == 0
