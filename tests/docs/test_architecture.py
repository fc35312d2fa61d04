"""The architecture page names files and symbols that exist."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent.parent
PAGE = (ROOT / "docs" / "architecture.md").read_text()


def test_every_answer_of_the_table_exists() -> None:
    table = PAGE.partition("## Where is")[2].partition("\n## ")[0]
    answers = re.findall(r"\| `([\w/.]+)`(?: \(`(\w+)`\))? \|", table)
    assert len(answers) >= 10
    for path, symbol in answers:
        assert re.search(rf"\b{symbol}\b", (ROOT / path).read_text()), (path, symbol)


def test_every_module_of_the_page_exists() -> None:
    paths = set(re.findall(r"`((?:\w+/)+\w+\.py)`", PAGE))
    assert paths
    missing = [path for path in sorted(paths) if not any((ROOT / top / path).is_file() for top in ("", "selfinstruct"))]
    assert missing == []
