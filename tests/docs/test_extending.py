"""The code on the page about plugins is the code of the package that the tests install."""

from __future__ import annotations

import re

import pytest

from tests.cli import ROOT

PACKAGE = ROOT / "tests" / "plugins" / "selfinstruct_example"
BLOCKS = re.findall(r"^```(?:py|toml|text)\n(.*?)^```", (ROOT / "docs" / "extending.md").read_text(), re.M | re.S)
FILES = {
    "pyproject.toml": 40,
    "selfinstruct_example/prompts/vary/task.txt": 10,
    "selfinstruct_example/strategy.py": 40,
    "selfinstruct_example/backend.py": 40,
    "selfinstruct_example/filter.py": 20,
    "selfinstruct_example/verifier.py": 20,
}


@pytest.mark.parametrize(("name", "most_lines"), FILES.items())
def test_the_page_shows_a_file_of_the_package_and_it_is_short(name: str, most_lines: int) -> None:
    code = (PACKAGE / name).read_text()
    assert code in BLOCKS
    assert len(code.splitlines()) <= most_lines


def test_the_page_shows_nothing_else() -> None:
    assert {(PACKAGE / name).read_text() for name in FILES} == set(BLOCKS)
