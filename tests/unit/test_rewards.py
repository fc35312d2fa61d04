"""Reward functions for TRL and verl: the verdicts of verifiers on completions."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from selfinstruct.common.codec import dumps
from selfinstruct.errors import UsageError
from selfinstruct.verifiers import compute_score, reward, verify

SUM = {"kind": "number", "value": 42}
PROMPT = "What is 17 + 25?"
THOUGHTFUL = "<think>17 + 25 is 41. No, 42.</think>\n\n"


def rewarded(completion: object, verifier: object = SUM) -> float | None:
    (value,) = reward([PROMPT], [completion], verifier=[verifier], completion_ids=[[1]], trainer_state=None)
    return value


@pytest.mark.parametrize(
    ("completion", "expected"),
    [
        ("42", 1.0),
        ("43", 0.0),
        ("", 0.0),
        (f"{THOUGHTFUL}It is 42.", 1.0),
        (f"{THOUGHTFUL}It is 43.", 0.0),
        ("17 + 25 is 41. No, 43.</think>42", 1.0),  # the chat template writes the opening tag into the prompt
        ("<think>42", 0.0),  # cut inside the thought
        ("Let me see.\n<think>\n42", 0.0),
        (THOUGHTFUL, 0.0),
        ([{"role": "assistant", "content": f"{THOUGHTFUL}42"}], 1.0),
        ([{"role": "assistant", "content": "43"}, {"role": "assistant", "content": "42"}], 1.0),
        ([{"role": "assistant", "content": None, "tool_calls": []}], 0.0),
        ([{"role": "assistant", "content": "43"}, {"role": "tool", "content": "42"}], 0.0),
    ],
)
def test_an_answer_is_judged_without_its_thoughts(completion: object, expected: float) -> None:
    assert rewarded(completion) == expected
    text = completion if isinstance(completion, str) else None
    if text is not None:
        assert compute_score("selfinstruct", text, "42", {"verifier": dumps(SUM)}) == expected


def test_no_thought_satisfies_a_verifier() -> None:
    """A constraint on the form holds for the answer alone."""
    assert rewarded(f"{THOUGHTFUL}it is", {"kind": "lowercase"}) == 1.0
    assert rewarded(f"{THOUGHTFUL}it is", {"kind": "words", "max": 2}) == 1.0
    assert rewarded(THOUGHTFUL, {"kind": "no_commas"}) == 0.0


@given(st.lists(st.tuples(st.text("ab ,.47AB\n", max_size=12), st.sampled_from(
    [SUM, {"kind": "words", "max": 2}, {"kind": "all", "of": [{"kind": "lowercase"}, {"kind": "no_commas"}]}, None]
)), max_size=6))  # fmt: skip
def test_rewards_are_the_verdicts_in_the_order_of_the_completions(
    rows: list[tuple[str, Mapping[str, Any] | None]],
) -> None:
    texts, verifiers = [text for text, _ in rows], [verifier for _, verifier in rows]
    expected = [None if verifier is None else float(verify(verifier, text).kept) for text, verifier in rows]
    prompts = [PROMPT] * len(rows)
    assert reward(prompts, texts, verifier=verifiers) == expected
    assert reward(prompts, texts, verifier=[dumps(verifier) for verifier in verifiers]) == expected


def test_nulls_that_arrow_adds_to_objects_are_ignored() -> None:
    pyarrow = pytest.importorskip("pyarrow")
    verifiers = [SUM, {"kind": "words", "max": 2}, None, {"kind": "all", "of": [SUM, {"kind": "lowercase"}]}]
    column = pyarrow.array(verifiers).to_pylist()
    assert column[0] == {"kind": "number", "value": 42, "max": None, "of": None}
    completions = ["It is 42", "42", "42", "It is 42"]
    assert reward([PROMPT] * 4, completions, verifier=column) == [1.0, 1.0, None, 0.0]


FAULTY = {
    "no JSON": ('{"kind":', r"'verifier' can't be read: not JSON: .* at column 9"),
    "NaN": ('{"kind": "number", "value": NaN}', "'verifier' can't be read: NaN is not JSON"),
    "unknown kind": ({"kind": "numbr"}, r"'verifier': unknown kind \"numbr\" \(did you mean 'number'\?\)"),
    "missing field": ('{"kind": "number"}', "'verifier': 'number' needs 'value'"),
    "no object": ([1], "'verifier' must be an object"),
    "no data": ({"kind": object()}, "'verifier' must be JSON"),
}


@pytest.mark.parametrize("name", FAULTY)
def test_a_faulty_verifier_is_an_error_that_names_the_row(name: str) -> None:
    verifier, message = FAULTY[name]
    prompts = [PROMPT, [{"role": "system", "content": "Add."}, {"role": "user", "content": "17 + 25"}]]
    with pytest.raises(UsageError, match=rf'^completion 2, of the prompt "17 \+ 25": {message}'):
        reward(prompts, ["42", "42"], verifier=[SUM, verifier])
    with pytest.raises(UsageError, match=rf"^row 7 of math \(candidate 9.0\): {message}"):
        compute_score("math", "42", "42", {"index": 7, "id": "9.0", "verifier": verifier})


def test_a_dataset_without_verifiers_is_an_error_with_the_remedy() -> None:
    with pytest.raises(UsageError, match=r"no column 'verifier'; .* selfinstruct export RUN --format rl"):
        reward([PROMPT], ["42"], ground_truth=["42"])
    for extra_info in (None, {}, {"index": 3}, {"verifier": None}):
        with pytest.raises(UsageError, match=r"^row .* of gsm8k has no 'verifier'.* selfinstruct export RUN"):
            compute_score("gsm8k", "42", "42", extra_info)


@pytest.mark.parametrize("completion", [None, 42, [], ["42"], [{"role": "assistant", "content": ["42"]}]])
def test_a_completion_of_another_type_is_an_error_that_names_the_row(completion: object) -> None:
    with pytest.raises(UsageError, match=r"completion 1, of the prompt .* must be a text or messages"):
        rewarded(completion)
