import json
import warnings

import pytest

from selfinstruct.errors import UsageError
from selfinstruct.filters import NearDuplicateIndex, NoveltyIndex, SemanticIndex, WordCount, dedup

ROWS = [
    {"id": "a", "instruction": "Write a poem about the sea in winter"},
    {"id": "b", "instruction": "Write a poem about the sea in summer"},
    {"id": "c", "instruction": "List three healthy breakfasts"},
    {"id": "d", "instruction": "Write a poem about the sea in winter!"},
    {"id": "e", "instruction": "Explain how the sea can freeze in winter"},
]


def test_new_rows_are_selected_and_the_others_rejected_with_nearest_and_score():
    result = dedup(ROWS, NoveltyIndex(0.7), "instruction", id_column="id")
    assert result.selected == [ROWS[0], ROWS[2], ROWS[4]]
    assert result.ids == ("a", "c", "e")
    assert result.positions == (0, 2, 4)
    assert result.threshold == 0.7
    assert result.counts == {"kept": 3, "similar": 2}
    assert [(row.id, row.position, row.nearest) for row in result.rejected] == [("b", 1, "a"), ("d", 3, "a")]
    assert result.rejected[0].score == 0.875
    assert result.largest_group == ("a", 2)
    assert result.borderline(1)[0].id == "b"


def test_the_closest_selected_pairs_are_listed():
    result = dedup(ROWS, NoveltyIndex(0.9), id_column="id")
    assert [(pair.id, pair.nearest, pair.score) for pair in result.closest_pairs] == [("b", "a", 0.875)]
    assert dedup(ROWS, NoveltyIndex(0.9), closest_pairs=0).closest_pairs == ()


def test_a_more_tolerant_threshold_needs_no_new_comparison():
    result = dedup(ROWS, NoveltyIndex(0.7), id_column="id")
    tolerant, expected = result.with_threshold(0.9), dedup(ROWS, NoveltyIndex(0.9), id_column="id")
    assert (tolerant.selected, tolerant.ids, tolerant.rejected) == (expected.selected, expected.ids, expected.rejected)
    assert tolerant.ids == ("a", "b", "c", "e")
    assert tolerant.threshold == 0.9
    assert tolerant.counts == {"kept": 4, "similar": 1}
    assert result.with_threshold(0.875).ids == tolerant.ids  # ROUGE-L keeps a score equal to the threshold
    with pytest.raises(UsageError, match=r"below 0\.7"):
        result.with_threshold(0.6)


def test_texts_that_the_index_already_holds_count():
    index = NearDuplicateIndex(0.8).fit(["List three healthy breakfasts"], ["seed"])
    result = dedup(ROWS, index)
    assert [row["id"] for row in result.selected] == ["a", "b", "e"]
    assert next(row for row in result.rejected if row.position == 2).nearest == "seed"
    assert result.ids[0] == "1"  # the seed has number 0
    duplicates = tuple(row for row in result.rejected if row.score == 1.0)
    assert result.with_threshold(1.0).rejected == duplicates  # MinHash rejects a score equal to the threshold


def test_every_kind_of_index_deduplicates():
    def embed(texts):
        return [[float(letter in text) for letter in "abcdefghijklmnopqrstuvwxyz"] for text in texts]

    result = dedup(ROWS, SemanticIndex(0.999, embed), id_column="id")
    assert [(row.id, row.reason, row.nearest) for row in result.rejected] == [("d", "same_meaning", "a")]
    assert result.closest_pairs[0].score <= 0.999


def test_many_rejections_for_the_same_row_cause_a_warning():
    rows = [{"instruction": "Write a poem about the sea"}] * 200
    with pytest.warns(UserWarning, match="199 of 200 rows"):
        dedup(rows, NoveltyIndex())


def test_rejected_rows_are_written_as_jsonl_and_as_a_dataset(tmp_path):
    result = dedup(ROWS, NoveltyIndex(0.7), id_column="id")
    result.to_jsonl(tmp_path / "rejected.jsonl")
    lines = [json.loads(line) for line in (tmp_path / "rejected.jsonl").read_text().splitlines()]
    assert lines == [row.to_json() for row in result.rejected]
    assert [{**row, "detail": json.loads(row["detail"])} for row in result.to_dataset().to_list()] == lines


@pytest.mark.parametrize(
    ("rows", "column", "message"),
    [
        ("text", "instruction", "not a str"),
        ([{"a": "b"}], "instruction", "row 0 has no 'instruction'"),
        ([{"instruction": "x"}, {"instruction": 3}], "instruction", "row 1: 'instruction' must be a string, not int"),
    ],
)
def test_unusable_data_is_refused(rows, column, message):
    with pytest.raises(UsageError, match=message):
        dedup(rows, NoveltyIndex(), column)


class TestWithDatasets:
    @pytest.fixture
    def dataset(self):
        datasets = pytest.importorskip("datasets")
        return datasets.Dataset.from_list(ROWS)

    def test_dedup(self, dataset):
        result = dedup(dataset, NoveltyIndex(0.7), "instruction", id_column="id")
        assert result.selected["id"][:] == ["a", "c", "e"]
        assert len(result.rejected) == 2
        assert result.with_threshold(0.9).selected["id"][:] == ["a", "b", "c", "e"]
        with pytest.raises(UsageError, match="no column 'text'; there are id, instruction"):
            dedup(dataset, NoveltyIndex(), "text")

    def test_streaming_datasets_and_dicts_of_splits_are_refused(self, dataset):
        import datasets

        with pytest.raises(UsageError, match="DatasetDict"):
            dedup(datasets.DatasetDict({"train": dataset}), NoveltyIndex())
        with pytest.raises(UsageError, match="IterableDataset"):
            dedup(dataset.to_iterable_dataset(), NoveltyIndex())

    def test_stateless_filters_work_in_processes_and_are_cached(self, dataset):
        word_count = WordCount(min_words=5)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # fork in a process with threads
            kept = dataset.filter(word_count, batched=True, input_columns="instruction", num_proc=2)
        assert kept["id"][:] == ["a", "b", "d", "e"]
        again = dataset.filter(WordCount(min_words=5), batched=True, input_columns="instruction")
        once = dataset.filter(word_count, batched=True, input_columns="instruction")
        assert again._fingerprint == once._fingerprint

    def test_an_index_in_worker_processes_is_refused_with_advice(self, dataset):
        index = NoveltyIndex(0.7)
        with pytest.raises(TypeError, match="Use dedup"):
            dataset.filter(
                lambda texts: [verdict.kept for verdict in index.offer_many(texts)],
                batched=True,
                input_columns="instruction",
                num_proc=2,
            )
        assert len(index) == 0
