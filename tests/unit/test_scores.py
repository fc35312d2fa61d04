"""Parsing of scores from a judge's answer, in every usual form."""

from __future__ import annotations

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from selfinstruct.parse import read_labels, read_object, read_score

VOCABULARIES = {
    "category": ("math", "coding", "role play", "other"),
    "difficulty": ("very easy", "easy", "hard"),
    "language": ("English", "German", "other"),
}


@pytest.mark.parametrize(
    ("text", "score", "reason"),
    [
        ("Score: 4\nReason: It is right.", 4, "It is right"),
        ("4\nReason: It is right.", 4, "It is right"),
        ("**Score:** 4/5\n\n**Reason:** Fine, but long.", 4, "Fine, but long"),
        ("Reason: An error, a score of 5 would be a lot.\nScore: 3", 3, "An error, a score of 5 would be a lot"),
        ("I would say 4 out of 5, since it is short.", 4, "since it is short"),
        ("The answer earns 4/5.", 4, "The answer earns"),
        ("Final score: [2]", 2, ""),
        ("## Score\n5", 5, ""),
        ("Score (1-5): 4.5", 4.5, ""),
        ("Rating: **3** out of 5", 3, ""),
        ("Overall this deserves a score of 3.", 3, "Overall this deserves a"),
        ('{"score": 5, "reason": "All of it."}', 5, "All of it."),
        ('```json\n{"reason": "Half.", "score": "3"}\n```', 3, "Half."),
        ('{"score": 4, "reason": "It was cut sho', 4, '"reason": "It was cut sho'),
        ("<score>2</score> too short", 2, "</score> too short"),
        ("Score: 4\nReason: ok\n\nUser: next\nScore: 1", 4, "ok"),
    ],
)  # fmt: skip
def test_a_score_is_found_in_every_usual_form(text, score, reason):
    found, why = read_score(text, 1, 5, continued=False)
    assert found == score
    assert why.strip('".,') == reason.strip('".,')


@pytest.mark.parametrize(
    "text",
    [
        "", "   \n", "It is a good answer.", "Score: 7", "Score: 0\nReason: a score of 4 was near.", "Score: 8/10",
        "Score: -4", "It has 3 parts.", "3. The third item", "2020/5/1", '{"score": 9}', '{"score": true}',
        '{"score": null, "reason": "Score: 4"}', "Score: 44", "Score: four", "He scored 4 goals",
    ],
)  # fmt: skip
def test_an_answer_without_a_valid_score_gives_none(text):
    assert read_score(text, 1, 5, continued=False)[0] is None


def test_a_continued_text_begins_with_the_score():
    assert read_score(" 4. It is right.", 1, 5, continued=True) == (4.0, "It is right")
    assert read_score(" 4. It is right.", 1, 5, continued=False)[0] is None
    assert read_score(" 9\nScore: 4", 1, 5, continued=True)[0] is None
    assert read_score("10", 1, 10, continued=True) == (10.0, "")


@given(st.text(alphabet='score: 45/outof{}"\\\n*_[(-.', max_size=60), st.booleans())
def test_scores_of_any_text_are_within_the_scale(text, continued):
    score, reason = read_score(text, 1, 5, continued=continued)
    assert score is None or 1 <= score <= 5
    assert "\n" not in reason
    labels = read_labels(text, VOCABULARIES, continued=continued)
    assert all(word is None or word in VOCABULARIES[name] for name, word in labels.items())


def test_reading_takes_linear_time():
    took = []
    for count in (20_000, 80_000):
        began = time.process_time()
        for unit in ("score ", "score: ", "4/", '{"', "reason: ", "score (", "1 out of "):
            read_score(unit * count, 1, 5, continued=False)
            read_labels(unit * count, VOCABULARIES, continued=False)
        took.append(time.process_time() - began)
    assert took[1] < 16 * took[0] + 0.5


def test_an_object_is_found_inside_any_text():
    assert read_object('Sure {x}: {"a": [1, {"b": "}"}]} done') == {"a": [1, {"b": "}"}]}
    assert read_object('{"a": NaN}') is None
    assert read_object('{"a": 1') is None
    assert read_object("none") is None


@pytest.mark.parametrize(
    ("text", "continued", "expected"),
    [
        ("Category: Coding\nDifficulty: Very easy\nLanguage: english", False, ("coding", "very easy", "English")),
        (" role play\nDifficulty: hard (really)\n**Language:** Klingon", True, ("role play", "hard", "other")),
        ('{"category": "MATH", "difficulty": "so-so", "language": "German"}', False, ("math", None, "German")),
        ("no idea", False, (None, None, None)),
        ("gardening", True, ("other", None, None)),
        ('{"category": 3}', False, (None, None, None)),
    ],
)
def test_labels_belong_to_their_vocabularies(text, continued, expected):
    assert tuple(read_labels(text, VOCABULARIES, continued=continued).values()) == expected
