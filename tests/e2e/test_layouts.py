"""Every layout of rows through the four commands that read rows: read, or refused by name, and never in silence."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from finetune.data.rows import read_examples
from selfinstruct.errors import UsageError
from tests import finetune_fixtures
from tests.cli import run_cli, run_program
from tests.layouts import LAYOUTS, Refused
from tests.loopback import Loopback

tiny_tokenizer = finetune_fixtures.tiny_tokenizer
tiny_model_folder = finetune_fixtures.tiny_model_folder

each_layout = pytest.mark.parametrize("number", range(1, len(LAYOUTS) + 1), ids=[layout.name for layout in LAYOUTS])


@pytest.fixture(scope="module")
def rows(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file with a row of each layout; line n holds layout n."""
    path = tmp_path_factory.mktemp("layouts") / "rows.jsonl"
    path.write_text("".join(json.dumps(layout.row) + "\n" for layout in LAYOUTS))
    return path


def errors_by_line(output: str, path: Path) -> dict[int, str]:
    lines = [line for text in output.splitlines() for line in [text[text.find(str(path)) :]] if str(path) in text]
    located = [line.removeprefix(f"{path}:").split(":", 1) for line in lines]
    return {int(number): message for number, message in located if number.isdecimal()}


@pytest.fixture(scope="module")
def filtered(rows: Path) -> Mapping[int, str]:
    """The reason, the error or "" for each line that ``filter`` drops, refuses or keeps."""
    out, why = rows.with_name("out.jsonl"), rows.with_name("why.jsonl")
    output = run_cli("filter", rows, "-o", out, "--rouge", "1", "--report", why, "--skip-malformed", "--json")
    fields = Counter(layout.field for layout in LAYOUTS if isinstance(layout.field, str))
    blank = fields.pop("nothing_to_judge")
    counts = json.loads(output.splitlines()[0])
    assert (counts["kept"], counts["read"]) == (fields.total(), fields.total() + blank)
    assert {name: counts["fields"][name] for name in fields} | {"messages": 0, "instruction": 0} == dict(fields) | {
        "messages": 0, "instruction": 0}  # fmt: skip
    results: dict[int, str] = dict.fromkeys(range(1, len(LAYOUTS) + 1), "")
    results |= {line["row"]: line["reason"] for line in map(json.loads, why.read_text().splitlines())}
    kept, lines = out.read_bytes().splitlines(), rows.read_bytes().splitlines()
    assert set(kept) <= set(lines), "kept rows keep their bytes"
    return results | errors_by_line(output, rows)


@each_layout
def test_filter(number: int, filtered: Mapping[int, str]) -> None:
    expected = LAYOUTS[number - 1].field
    if isinstance(expected, Refused):
        assert expected.message in filtered[number]
    else:
        assert filtered[number] == ("nothing_to_judge" if expected == "nothing_to_judge" else "")


@pytest.fixture(scope="module")
def checked(rows: Path) -> dict[str, Any]:
    output = run_cli("seeds", "check", rows, "--skip-malformed", "--json", code=1)
    return dict(json.loads(output))


@each_layout
def test_seeds_check(number: int, rows: Path, checked: Mapping[str, Any]) -> None:
    errors = errors_by_line("\n".join(checked["errors"]), rows)
    expected = LAYOUTS[number - 1].seed
    if isinstance(expected, Refused):
        assert expected.message in errors[number]
    else:
        assert number not in errors
    word = LAYOUTS[number - 1].row.get("input")
    is_spelled = LAYOUTS[number - 1].name.startswith("alpaca, input") and bool(word)
    assert any(f"{rows}:{number}: the input is spelled" in line for line in checked["warnings"]) == is_spelled


@pytest.fixture(scope="module")
def responded(rows: Path) -> tuple[list[list[tuple[str, str]]], str, str, Path]:
    """The requests, the output, the errors of a run that doesn't skip, and the dataset."""
    requests: list[list[tuple[str, str]]] = []

    def answer(body: Mapping[str, Any]) -> str:
        requests.append([(message["role"], message["content"]) for message in body["messages"]])
        return "Certainly."

    run = rows.with_name("run")
    with Loopback(answer) as server:
        options = ["--from", rows, "--backend", "openai", "--model", "m", "--base-url", server.url]
        refused = run_cli("respond", run, *options, code=2)
        output = run_cli("respond", run, *options, "--skip-malformed", "--concurrency", 1)
    return requests, output, refused, run / "dataset" / "messages.jsonl"


def test_respond_sends_context_system_prompt_and_earlier_rounds(
    responded: tuple[list[list[tuple[str, str]]], str, str, Path],
) -> None:
    requests, output, _, dataset = responded
    sent = [list(layout.sent) for layout in LAYOUTS if not isinstance(layout.sent, Refused)]
    assert sorted(requests) == sorted(sent)
    written = [[(turn["role"], turn["content"]) for turn in json.loads(line)["messages"]]
               for line in dataset.read_text().splitlines()]  # fmt: skip
    assert written == [[*turns, ("assistant", "Certainly.")] for turns in sent]
    assert f"{len(LAYOUTS) - len(sent)} rows skipped as malformed, the first: " in output
    assert "with several user messages in a row, which are taken as one" in output
    assert "with several rounds, of which the first question is taken" in output
    assert "with an input spelled as nothing" in output


@each_layout
def test_respond_names_each_row_that_it_refuses(
    number: int, rows: Path, responded: tuple[list[list[tuple[str, str]]], str, str, Path]
) -> None:
    expected, errors = LAYOUTS[number - 1].sent, errors_by_line(responded[2], rows)
    if isinstance(expected, Refused):
        assert len(errors) == 20 or expected.message in errors[number]
        assert number not in errors or expected.message in errors[number]
    else:
        assert number not in errors


@each_layout
def test_finetune(number: int, tmp_path: Path) -> None:
    layout, path = LAYOUTS[number - 1], tmp_path / "rows.jsonl"
    path.write_text(json.dumps(layout.row) + "\n")
    if isinstance(layout.trained, Refused):
        with pytest.raises(UsageError) as caught:
            read_examples(path)
        assert f"{path}:1: " in str(caught.value)
        assert layout.trained.message in str(caught.value)
        return
    (example,) = read_examples(path).examples
    assert [(turn.role, turn.content) for turn in example.turns] == list(layout.trained)


def test_finetune_counts_what_it_skips_and_what_it_leaves_out(rows: Path, tiny_model_folder: Path) -> None:
    output = run_program("finetune", ["train", "--model", tiny_model_folder, "--data", rows, "--dry-run", "--set",
                                      "format=chat"])  # fmt: skip
    refused = sum(isinstance(layout.trained, Refused) for layout in LAYOUTS)
    assert f"not read: {refused} rows" in output
    assert sum(line.startswith(f"  {rows}:") for line in output.splitlines()) == min(refused, 20)
    assert "with rejected answers, which are not trained on" in output
    assert "note: 1 row with the field 'answer', which is not read" in output
