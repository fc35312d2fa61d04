from __future__ import annotations

from pathlib import Path

import pytest

from selfinstruct.errors import TemplateError
from selfinstruct.prompts import Prompts

NAMES = {"alpaca/list": frozenset({"tasks", "next"})}


def folder(path: Path, text: str) -> Path:
    (path / "alpaca").mkdir(parents=True, exist_ok=True)
    (path / "alpaca" / "list.txt").write_text(text)
    return path


def test_text_is_data_even_if_it_looks_like_a_template(tmp_path: Path) -> None:
    prompts = Prompts.load(NAMES, "completion", folder(tmp_path, "$tasks costs $$5\n${next}.\n"))
    nasty = "$next ${tasks} {0.__class__} {{7*7}} %s $$ \\1"
    (turn,) = prompts.turns("alpaca/list", tasks=nasty, next="4")
    assert turn.text == f"{nasty} costs $5\n4."
    assert turn.role == "prompt"


def test_a_chat_sends_the_same_text_as_a_message(tmp_path: Path) -> None:
    prompts = Prompts.load(NAMES, "chat", folder(tmp_path, "$tasks $next"))
    (turn,) = prompts.turns("alpaca/list", tasks="a", next="4")
    assert (turn.role, turn.text) == ("user", "a 4")


def test_the_first_folder_wins(tmp_path: Path) -> None:
    mine, builtin = folder(tmp_path / "mine", "mine $tasks $next"), folder(tmp_path / "b", "builtin $tasks $next")
    assert Prompts.load(NAMES, "completion", mine, builtin).texts["alpaca/list"].startswith("mine")
    assert Prompts.load(NAMES, "completion", tmp_path, builtin).texts["alpaca/list"].startswith("builtin")


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("$tasks", r"list\.txt: missing \$next; this template must use \$next, \$tasks"),
        ("$tasks $next $count", r"unknown \$count; this template may use \$next, \$tasks"),
        ("$tasks $next 5$", r"a '\$' without a variable"),
    ],
)
def test_wrong_variables_are_listed(tmp_path: Path, text: str, says: str) -> None:
    with pytest.raises(TemplateError, match=says):
        Prompts.load(NAMES, "completion", folder(tmp_path, text))


def test_a_missing_template_names_the_folders(tmp_path: Path) -> None:
    with pytest.raises(TemplateError, match=r"no template alpaca/list\.txt in .*" + tmp_path.name):
        Prompts.load(NAMES, "completion", tmp_path)
