"""Texts next to a question that no reader takes: named once with their count; metadata is not named."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from finetune.data.rows import read_examples
from selfinstruct.common.rows import parse_row
from selfinstruct.common.unread import is_metadata
from selfinstruct.seeds import check_seeds, load_seeds, load_tasks
from selfinstruct.seeds.reading import load_demonstrations
from tests.cli import run_cli
from tests.layouts import LAYOUTS, Refused

ROW = {"question": "Which sea lies north of Poland?", "answer": "The Baltic."}
UNREAD: dict[str, Any] = {
    "hint": "Think of amber.", "facts": ["Poland has a coast.", "It faces north."], "persona": "a sailor",
    "code": "x = 1", "image_caption": "A map of the north.", "text": "Ships left the port.", "source_code": "print(1)",
    "source_text": "Morze.", "Starter Code": "def sea():", "explanation": "It is salty.", "title": "Seas of Europe",
    "format": "one word", "userNote": "keep it short",
}  # fmt: skip
HARMLESS: dict[str, Any] = {
    "id": "a b", "source": "a book", "category": "closed qa", "language": "Polish", "licence": "CC BY 4.0",
    "score_chosen": "9 of 10", "created_at": "yesterday", "URL": "see there", "dataset_name": "seas and lakes",
    "promptId": "x y", "Skill": "Maps and seas", "motivation_app": "Mail app", "is_safe": "yes it is", "notes2": "",
    "anything": "https://example.org/sea", "when": "2024-05-01T10:00:00Z", "print": "0123456789abcdef0123",
    "language_code": "pl PL", "repeated": "north of Poland", "blank": "n/a", "numbers": "1, 2", "_row": "a b",
    "final_answer": "the Baltic Sea", "tags": ["sea salt", "the north"], "__index_level_0__": "x y", "count": 3,
}  # fmt: skip


@pytest.fixture
def rows(tmp_path: Path) -> Path:
    """Three rows, two of which have a hint and an id."""
    path = tmp_path / "rows.jsonl"
    values = [
        ROW,
        {**ROW, "question": "Who wrote Solaris?", "hint": "Amber.", "id": "a"},
        {**ROW, "question": "And south?", "hint": "Hills."},
    ]
    path.write_text("".join(json.dumps(value) + "\n" for value in values))
    return path


@pytest.mark.parametrize("name", UNREAD)
def test_a_text_next_to_the_question_is_named(name: str) -> None:
    assert parse_row({**ROW, name: UNREAD[name]}).unread == (name,)
    messages = [{"role": "user", "content": ROW["question"]}, {"role": "assistant", "content": ROW["answer"]}]
    assert parse_row({"messages": messages, name: UNREAD[name]}).unread == (name,)


@pytest.mark.parametrize("name", HARMLESS)
def test_metadata_and_what_is_shown_anyway_are_not_named(name: str) -> None:
    assert parse_row({**ROW, name: HARMLESS[name]}).unread == ()


@pytest.mark.parametrize("layout", [layout for layout in LAYOUTS if not isinstance(layout.sent, Refused)])
def test_known_layouts_raise_no_alarm(layout: Any) -> None:
    assert parse_row(layout.row).unread == ()


def test_the_question_next_to_a_prompt_is_named() -> None:
    assert parse_row({**ROW, "prompt": "Answer as a poet."}).unread == ("question",)


def test_an_input_next_to_the_instances_of_a_task_is_named() -> None:
    row = {"instruction": "Add.", "instances": [{"input": "1 2", "output": "3"}], "input": "the sum of all"}
    assert parse_row(row).unread == ("input",)


def test_every_command_names_the_field_once_with_its_count(rows: Path, tmp_path: Path) -> None:
    sent = "field 'hint' of 2 rows is not sent to the model"
    assert load_tasks(rows).notices == (sent,)
    assert load_demonstrations(rows).notices == (sent,)
    assert check_seeds(rows).notices == (sent,)
    assert len(load_seeds(rows)) == 3
    assert read_examples(rows).notices == ["2 rows with the field 'hint', which is not read"]
    output = run_cli("seeds", "check", rows)
    assert output.count("'hint'") == 1
    assert f"note: {sent}" in output
    output = run_cli("filter", rows, "-o", tmp_path / "out.jsonl", "--rouge", "0.9")
    assert output.count("note: field 'hint' of 2 rows is not judged") == output.count("'hint'") == 1


def test_the_rarest_of_many_fields_are_named_together(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text(json.dumps({**ROW, **{f"aspect {chr(97 + number)}": "some words" for number in range(12)}}) + "\n")
    notices = load_tasks(path).notices
    assert len(notices) == 9
    assert notices[-1].startswith("4 further fields are not sent to the model: ")


def test_a_word_of_metadata_inside_a_name_does_not_hide_a_text() -> None:
    assert not any(map(is_metadata, ("source_document_text", "label explanation", "task_input", "scoreGuide")))
