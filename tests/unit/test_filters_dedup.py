import json
import warnings

import pytest

from selfinstruct.errors import UsageError
from selfinstruct.filters import NearDuplicateIndex, NoveltyIndex, WordCount, dedup

ROWS = [
    {"id": "a", "instruction": "Write a poem about the sea in winter"},
    {"id": "b", "instruction": "Write a poem about the sea in summer"},
    {"id": "c", "instruction": "List three healthy breakfasts"},
    {"id": "d", "instruction": "Write a poem about the sea in winter!"},
    {"id": "e", "instruction": "Explain how the sea can freeze in winter"},
]


def test_rows_that_are_new_stay_and_the_report_tells_of_the_others():
    rows, report = dedup(ROWS, NoveltyIndex(0.7), "instruction", id_column="id")
    assert rows == [ROWS[0], ROWS[2], ROWS[4]]
    assert report.kept == ("a", "c", "e")
    assert report.rows == (0, 2, 4)
    assert report.counts == {"kept": 3, "similar": 2}
    assert [(drop.id, drop.row, drop.nearest) for drop in report.dropped] == [("b", 1, "a"), ("d", 3, "a")]
    assert report.dropped[0].score == 0.875
    assert report.largest_group == ("a", 2)
    assert report.borderline(1)[0].id == "b"


def test_the_worst_kept_pairs_are_listed():
    _, report = dedup(ROWS, NoveltyIndex(0.9), id_column="id")
    assert [(pair.id, pair.nearest, pair.score) for pair in report.worst] == [("b", "a", 0.875)]
    assert dedup(ROWS, NoveltyIndex(0.9), worst=0)[1].worst == ()


def test_a_more_tolerant_threshold_without_comparing_again():
    _, report = dedup(ROWS, NoveltyIndex(0.7), id_column="id")
    looser = report.rethreshold(0.9)
    assert looser.kept == dedup(ROWS, NoveltyIndex(0.9), id_column="id")[1].kept == ("a", "b", "c", "e")
    assert looser.counts == {"kept": 4, "similar": 1}
    assert report.rethreshold(0.875).kept == looser.kept  # a score at the threshold is kept by ROUGE-L
    with pytest.raises(UsageError, match=r"below 0\.7"):
        report.rethreshold(0.6)


def test_the_index_goes_on_from_what_it_held():
    index = NearDuplicateIndex(0.8).fit(["List three healthy breakfasts"], ["seed"])
    rows, report = dedup(ROWS, index)
    assert [row["id"] for row in rows] == ["a", "b", "e"]
    assert next(drop for drop in report.dropped if drop.row == 2).nearest == "seed"
    assert report.kept[0] == "1"  # the seed was number 0
    assert report.rethreshold(1.0).dropped == tuple(drop for drop in report.dropped if drop.score == 1.0)


def test_a_large_group_is_worth_a_warning():
    rows = [{"instruction": "Write a poem about the sea"}] * 200
    with pytest.warns(UserWarning, match="199 of 200 rows"):
        dedup(rows, NoveltyIndex())


def test_the_report_as_jsonl_and_as_a_dataset(tmp_path):
    _, report = dedup(ROWS, NoveltyIndex(0.7), id_column="id")
    report.to_jsonl(tmp_path / "dropped.jsonl")
    lines = [json.loads(line) for line in (tmp_path / "dropped.jsonl").read_text().splitlines()]
    assert lines == [drop.to_json() for drop in report.dropped]
    assert report.to_dataset().to_list() == lines


@pytest.mark.parametrize(
    ("rows", "column", "message"),
    [
        ("text", "instruction", "not a str"),
        ([{"a": "b"}], "instruction", "row 0 has no 'instruction'"),
        ([{"instruction": "x"}, {"instruction": 3}], "instruction", "row 1: 'instruction' is a int"),
    ],
)
def test_what_is_no_dataset_is_refused(rows, column, message):
    with pytest.raises(UsageError, match=message):
        dedup(rows, NoveltyIndex(), column)


class TestWithDatasets:
    @pytest.fixture
    def dataset(self):
        datasets = pytest.importorskip("datasets")
        return datasets.Dataset.from_list(ROWS)

    def test_dedup(self, dataset):
        kept, report = dedup(dataset, NoveltyIndex(0.7), "instruction", id_column="id")
        assert kept["id"][:] == ["a", "c", "e"]
        assert len(report.dropped) == 2
        with pytest.raises(UsageError, match="no column 'text'; there are id, instruction"):
            dedup(dataset, NoveltyIndex(), "text")

    def test_streams_and_dicts_of_splits_are_refused(self, dataset):
        import datasets

        with pytest.raises(UsageError, match="DatasetDict"):
            dedup(datasets.DatasetDict({"train": dataset}), NoveltyIndex())
        with pytest.raises(UsageError, match="IterableDataset"):
            dedup(dataset.to_iterable_dataset(), NoveltyIndex())

    def test_stateless_filters_work_in_processes_and_are_cached(self, dataset):
        judge = WordCount(min_words=5)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # fork in a process with threads
            kept = dataset.filter(judge, batched=True, input_columns="instruction", num_proc=2)
        assert kept["id"][:] == ["a", "b", "d", "e"]
        again = dataset.filter(WordCount(min_words=5), batched=True, input_columns="instruction")
        once = dataset.filter(judge, batched=True, input_columns="instruction")
        assert again._fingerprint == once._fingerprint

    def test_an_index_in_worker_processes_is_refused_with_what_to_do(self, dataset):
        index = NoveltyIndex(0.7)
        with pytest.raises(TypeError, match="Use dedup"):
            dataset.filter(
                lambda texts: [verdict.kept for verdict in index.offer_many(texts)],
                batched=True,
                input_columns="instruction",
                num_proc=2,
            )
        assert len(index) == 0
