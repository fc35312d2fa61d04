"""The prose of the project stays idiomatic: phrases of the old dialect are counted, see ``bench/language.py``."""

from __future__ import annotations

from pathlib import Path

import pytest

from bench.language import NAMES, Language, language

ROOT = Path(__file__).resolve().parent.parent.parent

# Most occurrences per 10,000 words of prose.
CEILINGS = {
    "those of, those that": 2.0,
    "tell, told": 1.0,
    "whatever": 1.0,
    "go on": 0.5,
    "is none": 2.5,
    "beside": 0.5,
}
CEILING_OF_ALL = 9.0
CEILING_OF_NAMES = 40


@pytest.fixture(scope="module")
def counted() -> Language:
    return language(ROOT)


@pytest.mark.parametrize("phrase", CEILINGS)
def test_a_phrase_of_the_old_dialect_stays_rare(counted: Language, phrase: str) -> None:
    """``python bench/language.py --where PHRASE`` lists the occurrences."""
    assert counted.rate(phrase) <= CEILINGS[phrase]


def test_all_phrases_together_stay_rare(counted: Language) -> None:
    assert counted.words > 50_000
    assert counted.rate() <= CEILING_OF_ALL


def test_local_names_are_nouns_of_the_domain(counted: Language) -> None:
    assert sum(counted.names[name] for name in NAMES) <= CEILING_OF_NAMES


def test_the_counter_finds_phrases_in_every_kind_of_prose(tmp_path: Path) -> None:
    package = tmp_path / "selfinstruct"
    package.mkdir()
    (package / "__init__.py").write_text(
        '"""Whatever this is."""\n# A comment that goes\n# on for two lines.\n'
        'def f(beside):\n    found = f"there {beside} is none of them"\n    return found  # beside the point\n'
    )
    (tmp_path / "README.md").write_text("Text that stands here.\n\n```sh\nwhatever goes on\n```\n")
    counted = language(tmp_path)
    expected = {"whatever": 1, "go on": 1, "is none": 1, "beside": 1, "stands, stood": 1}
    assert {phrase: count for phrase, count in counted.phrases.items() if count} == expected
    assert counted.names == {"found": 1}
