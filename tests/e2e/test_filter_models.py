"""``selfinstruct filter`` with its filters beyond rules on one text: models, embeddings, and balance."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass, replace
from pathlib import Path
from typing import ClassVar

import pytest
from click.testing import CliRunner

from selfinstruct.cli import cli
from selfinstruct.errors import UsageError
from selfinstruct.filtering import FilterFileOptions, filter_file
from selfinstruct.filters import Filter, Reward, Verdict
from tests import finetune_fixtures
from tests.cli import environment, run_cli
from tests.finetune_fixtures import make_reward_model

tiny_tokenizer = finetune_fixtures.tiny_tokenizer
tiny_model_folder = finetune_fixtures.tiny_model_folder

ROWS = [
    {"domain": "sea", "instruction": "Write a poem about the sea in winter", "output": "Grey waves, cold foam."},
    {"domain": "sea", "instruction": "Describe how tides arise", "output": "Sure! The moon pulls the water."},
    {"domain": "food", "instruction": "List three healthy breakfasts", "output": "Oats. I hope this helps."},
    {"domain": "sea", "instruction": "winter in sea the about poem a Write", "output": "Blue."},
]

# A model2vec in 12 lines: a text is the sum of fixed vectors of its words, so that their order makes no difference.
MODEL2VEC = """
import json, pathlib, zlib
import numpy as np

class StaticModel:
    @classmethod
    def from_pretrained(cls, path):
        return cls(json.loads((pathlib.Path(path) / "config.json").read_text())["dimensions"])
    def __init__(self, dimensions):
        self.dimensions = dimensions
    def vector(self, word):
        return np.random.default_rng(zlib.crc32(word.lower().encode())).normal(size=self.dimensions)
    def encode(self, texts):
        return np.array([sum(map(self.vector, text.split())) for text in texts])
"""


def write(path: Path, rows: list[dict]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def read(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text().splitlines()]


@pytest.fixture
def source(tmp_path: Path) -> Path:
    return write(tmp_path / "in.jsonl", ROWS)


def python_path(folder: Path) -> dict[str, str]:
    return {"PYTHONPATH": f"{folder}{os.pathsep}{environment()['PYTHONPATH']}"}


def test_boilerplate_drops_courtesies_at_either_end(source: Path, tmp_path: Path) -> None:
    message = run_cli("filter", source, "-o", tmp_path / "out.jsonl", "--boilerplate", "--report", tmp_path / "why")
    assert read(tmp_path / "out.jsonl") == [ROWS[0], ROWS[3]]
    assert [(line["row"], line["reason"]) for line in read(tmp_path / "why")] == [(2, "opening"), (3, "ending")]
    assert "by boilerplate" in message


def test_semantic_drops_rows_with_the_same_meaning(source: Path, tmp_path: Path) -> None:
    (tmp_path / "site").mkdir()
    (tmp_path / "site" / "model2vec.py").write_text(MODEL2VEC)
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "config.json").write_text('{"dimensions": 64}')
    arguments = ("filter", source, "-o", tmp_path / "out.jsonl", "--semantic", "0.9", "--report", tmp_path / "why")
    message = run_cli(*arguments, "--embedder", tmp_path / "model", env=python_path(tmp_path / "site"))
    assert read(tmp_path / "out.jsonl") == ROWS[:3]
    assert "by semantic 0.9" in message
    (line,) = read(tmp_path / "why")
    assert (line["row"], line["filter"], line["reason"], line["nearest"]) == (4, "semantic", "same_meaning", "1")
    message = run_cli(*arguments, "--embedder", tmp_path / "none", code=2, env=python_path(tmp_path / "site"))
    assert f"can't load the embedding model {tmp_path}/none" in message


def test_balance_caps_the_share_of_each_value(source: Path, tmp_path: Path) -> None:
    arguments = ("filter", source, "-o", tmp_path / "out.jsonl", "--report", tmp_path / "why")
    message = run_cli(*arguments, "--balance", "domain:0.5", "--words", "3:150")
    assert read(tmp_path / "out.jsonl") == [ROWS[0], ROWS[2]]
    assert [(line["row"], line["reason"], line["text"]) for line in read(tmp_path / "why")] == [
        (2, "over_share", "sea"),
        (4, "over_share", "sea"),
    ]
    assert "by words 3 to 150; balance domain 0.5" in message
    assert "2 values can't each have at most 0.25 of the rows" in run_cli(
        *arguments, "--balance", "domain:0.25", code=2
    )
    write(source, [*ROWS, {"instruction": "Name a river"}])
    message = run_cli(*arguments, "--balance", "domain:1", code=1)
    assert f"{source}:5: 'domain' must be a string or a number for --balance, not NoneType" in message
    assert len(read(tmp_path / "out.jsonl")) == 4


def test_perplexity_and_ifd_use_a_local_model(source: Path, tmp_path: Path, tiny_model_folder: Path) -> None:
    arguments = ("filter", source, "-o", tmp_path / "out.jsonl", "--report", tmp_path / "why")
    bounds = ("--perplexity", "0:1", "--scorer", tiny_model_folder)
    message = run_cli(*arguments, *bounds, "--ifd", "0:9")
    assert "by perplexity 0 to 1; ifd 0 to 9" in message
    lines = read(tmp_path / "why")
    assert {(line["filter"], line["reason"]) for line in lines} == {("perplexity", "perplexity")}
    assert [line["text"] for line in lines] == [row["output"] for row in ROWS]
    assert all(line["score"] > 1 for line in lines)
    run_cli(*arguments, "--perplexity", ":", "--ifd", "--scorer", tiny_model_folder)
    rejected = {line["row"]: (line["filter"], line["reason"], line["score"] > 1) for line in read(tmp_path / "why")}
    assert set(rejected.values()) <= {("ifd", "unhelpful", True)}
    assert len(read(tmp_path / "out.jsonl")) + len(rejected) == len(ROWS)


@pytest.fixture(scope="module")
def reward_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_reward_model(tmp_path_factory.mktemp("reward") / "model")


def test_rewards_become_a_field_of_the_kept_rows(source: Path, tmp_path: Path, reward_model: Path) -> None:
    out, why = tmp_path / "out.jsonl", tmp_path / "why"
    summary = filter_file(str(source), str(out), FilterFileOptions(reward=str(reward_model)))
    scored = read(out)
    assert summary.filters == ("reward",)
    assert [{name: value for name, value in row.items() if name != "reward"} for row in scored] == ROWS
    rewards = [row["reward"] for row in scored]
    assert rewards == [Reward(reward_model).decide([row["instruction"]], [row["output"]])[0].score for row in ROWS], (
        "the same in a batch as alone"
    )
    least = sorted(rewards)[2]
    arguments = ["filter", source, "-o", out, "--reward", reward_model, "--min-reward", least, "--report", why]
    done = CliRunner().invoke(cli, [*map(str, arguments)])
    assert done.exit_code == 0, done.output
    assert f"by reward {least:g} or more" in done.output
    assert read(out) == [row for row in scored if row["reward"] >= least]
    assert [(line["filter"], line["reason"], line["score"]) for line in read(why)] == [
        ("reward", "low_score", reward) for reward in rewards if reward < least
    ]


def test_rewards_replace_a_field_of_that_name_and_are_null_where_there_is_none(
    tmp_path: Path, reward_model: Path
) -> None:
    rows = [{**ROWS[0], "reward": "good"}, {"instruction": "Write", "output": "word " * 600}]
    source, options = write(tmp_path / "in.jsonl", rows), FilterFileOptions(reward=str(reward_model))
    summary = filter_file(str(source), str(tmp_path / "out.jsonl"), options)
    first, second = read(tmp_path / "out.jsonl")
    assert isinstance(first["reward"], float)
    assert second["reward"] is None
    assert summary.notices == ("the field 'reward' of 1 row was replaced by the new score",)
    limited = replace(options, min_reward=-1e9)
    summary = filter_file(str(source), str(tmp_path / "out.jsonl"), limited, report=str(tmp_path / "why"))
    assert read(tmp_path / "out.jsonl") == [first]
    [line] = read(tmp_path / "why")
    assert line["reason"] == "no_score"
    assert "more than the 512 that the reward model reads" in line["detail"]["problem"]


def test_rewards_are_a_column_of_parquet(tmp_path: Path, reward_model: Path) -> None:
    parquet = pytest.importorskip("pyarrow.parquet")
    pyarrow = pytest.importorskip("pyarrow")
    parquet.write_table(pyarrow.Table.from_pylist(ROWS), tmp_path / "in.parquet")
    options = FilterFileOptions(reward=str(reward_model))
    filter_file(str(tmp_path / "in.parquet"), str(tmp_path / "out.parquet"), options)
    filter_file(str(tmp_path / "in.parquet"), str(tmp_path / "out.jsonl"), options)
    table = parquet.read_table(tmp_path / "out.parquet")
    assert table.to_pylist() == read(tmp_path / "out.jsonl")
    assert str(table.schema.field("reward").type) == "double"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--min-reward", "1"], "min_reward needs a reward model: name it or its directory by --reward"),
        (["--perplexity", "5:500"], "perplexity and ifd need a causal language model"),
        (["--perplexity", "500:5", "--scorer", "m"], "'500:5' is not a range such as 5:500"),
        (["--ifd", "0.3", "--scorer", "m"], "'0.3' is not a range"),
        (["--balance", "domain"], "'domain' is not a field and a share"),
        (["--balance", "domain:2"], "'domain:2' is not a field and a share"),
        (["--semantic", "2"], "2.0 is not in the range"),
    ],
)
def test_invalid_options_are_explained(options: list[str], message: str, source: Path, tmp_path: Path) -> None:
    output = run_cli("filter", source, "-o", tmp_path / "out.jsonl", *options, code=2)
    assert message in output
    assert not (tmp_path / "out.jsonl").exists()


def test_a_missing_package_is_named_with_the_extra_to_install(source: Path, tmp_path: Path) -> None:
    for name in ("model2vec", "transformers"):
        (tmp_path / "hidden" / name).mkdir(parents=True)
        (tmp_path / "hidden" / name / "__init__.py").write_text("raise ImportError")
    for options, extra in (
        (("--semantic",), "semantic"),
        (("--perplexity", "5:500", "--scorer", "m"), "train"),
        (("--ifd", "--scorer", "m"), "train"),
    ):
        arguments = ("filter", source, "-o", tmp_path / "out.jsonl", *options)
        message = run_cli(*arguments, code=2, env=python_path(tmp_path / "hidden"))
        assert f"pip install 'selfinstruct[{extra}]'" in message


def test_filters_of_the_caller_read_the_text_that_they_name(source: Path, tmp_path: Path) -> None:
    @dataclass(frozen=True)
    class Short(Filter):
        name: ClassVar[str] = "short"
        reads = "output"

        def verdict(self, text: str) -> Verdict:
            return self.keep() if len(text) < 10 else self.reject("long", len(text))

    summary = filter_file(str(source), str(tmp_path / "out.jsonl"), FilterFileOptions(plugins=(Short(),)))
    assert read(tmp_path / "out.jsonl") == ROWS[3:]
    assert summary.progress.dropped == {("short", "long"): 3}
    assert summary.filters == ("short",)
    with pytest.raises(UsageError, match="perplexity and ifd need"):
        filter_file(str(source), str(tmp_path / "out.jsonl"), FilterFileOptions(ifd=(0.0, 1.0)))
