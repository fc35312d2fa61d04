"""Split a file so that no row is separated from its near-duplicates."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from selfinstruct import DataError, UsageError, split_file
from selfinstruct.common.groups import draw_groups, join_groups, members_of
from tests.cli import run_cli

THINGS = (
    "harbours",
    "recipes",
    "timetables",
    "bridges",
    "glaciers",
    "orchards",
    "comets",
    "violins",
    "ledgers",
    "moths",
)


def rows_of(path: Path) -> list[dict[str, str]]:
    return [json.loads(line) for line in path.read_text("utf-8").splitlines()]


@pytest.fixture
def rows(tmp_path: Path) -> Path:
    """Forty rows in ten families: a question about a thing, two variants of it, and one with another input."""
    lines = []
    for index, thing in enumerate(THINGS):
        question = f"Explain to a visitor in {index + 3} sentences what is worth knowing about {thing} in the north"
        for form in (question, f"{question}.", f"{question}!"):
            lines.append({"instruction": form, "input": "", "output": f"Answer {len(lines)}"})
        lines.append({"instruction": question, "input": f"Only the {thing} of {index + 1900} count.", "output": "x"})
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(json.dumps(line) + "\n" for line in lines), "utf-8")
    return path


@pytest.mark.parametrize("seed", range(5))
def test_no_family_is_divided_and_no_row_is_lost(rows: Path, tmp_path: Path, seed: int) -> None:
    summary = split_file(str(rows), tmp_path / "parts", held_out=0.2, seed=seed)
    train, held_out = (rows_of(tmp_path / "parts" / f"{name}.jsonl") for name in ("train", "held-out"))
    assert (summary.train, summary.held_out, summary.groups, summary.largest) == (32, 8, 10, 4)
    assert sorted(map(str, train + held_out)) == sorted(map(str, rows_of(rows)))
    in_both = [thing for thing in THINGS if thing in str(train) and thing in str(held_out)]
    assert in_both == []


def test_the_same_seed_writes_the_same_bytes_and_another_one_others(rows: Path, tmp_path: Path) -> None:
    def held_out(folder: str, seed: int) -> bytes:
        split_file(str(rows), tmp_path / folder, held_out=0.2, seed=seed)
        return (tmp_path / folder / "held-out.jsonl").read_bytes()

    assert held_out("a", 1) == held_out("b", 1)
    assert len({held_out(str(seed), seed) for seed in range(6)}) > 1


def test_lines_keep_their_bytes(tmp_path: Path) -> None:
    lines = [f'{{ "instruction":"Name a thing numbered {n * n * 7919}", "output": "\\u00e9" }}\n' for n in range(20)]
    (tmp_path / "rows.jsonl").write_text("".join(lines), "utf-8")
    split_file(str(tmp_path / "rows.jsonl"), tmp_path / "parts")
    parts = [(tmp_path / "parts" / f"{name}.jsonl").read_text("utf-8") for name in ("train", "held-out")]
    assert sorted("".join(parts).splitlines(keepends=True)) == sorted(lines)


def test_what_cannot_be_split_is_an_error_with_the_remedy(rows: Path, tmp_path: Path) -> None:
    same = tmp_path / "same.jsonl"
    same.write_text('{"instruction": "Translate.", "input": "a", "output": "b"}\n' * 9, "utf-8")
    with pytest.raises(UsageError, match=r"nothing can be held out of .*--threshold"):
        split_file(str(same), tmp_path / "parts")
    same.write_text('{"instruction": "Translate.", "output": "b"}\n', "utf-8")
    with pytest.raises(UsageError, match="has 1 rows"):
        split_file(str(same), tmp_path / "parts")
    with rows.open("a", encoding="utf-8") as file:
        file.write('{"hint": 4}\n')
    with pytest.raises(DataError, match=r"rows\.jsonl:41: "):
        split_file(str(rows), tmp_path / "parts")
    assert not (tmp_path / "parts").exists()
    output = run_cli("split", rows, "-o", tmp_path / "parts", "--skip-malformed", "--held-out", 0.2)
    assert "rows.jsonl:41: " in output
    assert "held out   8 (20.0%)" in output
    assert "malformed  1" in output


def test_json_and_parquet(rows: Path, tmp_path: Path) -> None:
    output = run_cli("split", rows, "-o", tmp_path / "parts", "--format", "parquet", "--held-out", 0.2, "--json")
    assert json.loads(output)["held_out"] == 8
    again = run_cli("split", tmp_path / "parts" / "train.parquet", "-o", tmp_path / "more", "--json")
    assert json.loads(again)["train"] + json.loads(again)["held_out"] == 32


@settings(deadline=None)
@given(st.lists(st.tuples(st.integers(0, 6), st.integers(0, 6)), min_size=1, max_size=30), st.integers(0, 9))
def test_groups_are_the_connected_components(keys: list[tuple[int, int]], seed: int) -> None:
    labels = join_groups([a for a, _ in keys], [b for _, b in keys])
    for one, (a, b) in enumerate(keys):
        for other, (c, d) in enumerate(keys):
            if a == c or b == d:
                assert labels[one] == labels[other]
    groups = members_of(labels)
    assert len(groups) == _components(keys)
    drawn = set(draw_groups(groups, 4, seed))
    assert all(drawn.issuperset(group) or drawn.isdisjoint(group) for group in groups)


def _components(keys: list[tuple[int, int]]) -> int:
    """Count the connected components of the bipartite graph of the two columns."""
    left = list(keys)
    count = 0
    while left:
        count += 1
        reached = [left.pop()]
        for a, b in reached:
            near = [key for key in left if a == key[0] or b == key[1]]
            reached += near
            left = [key for key in left if key not in near]
    return count
