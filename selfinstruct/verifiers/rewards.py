"""Rewards by verifiers for reinforcement learning, in the signatures of TRL and verl: 1.0 if right, otherwise 0.0.

An answer is judged as in a run: without its thoughts, and a text that ends inside a thought has no answer. Verifiers
are JSON objects, or JSON as text, which is what ``selfinstruct export --format rl`` writes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import lru_cache

from selfinstruct.common.codec import dumps, loads
from selfinstruct.errors import UsageError
from selfinstruct.parse.thoughts import find_answer
from selfinstruct.verifiers.base import Spec, short
from selfinstruct.verifiers.kinds import check_verifier, verify, without_nulls

__all__ = ["compute_score", "reward"]

_EXPORT = "export the run with: selfinstruct export RUN --format rl"


def reward(
    prompts: Sequence[object],
    completions: Sequence[object],
    verifier: Sequence[object] | None = None,
    **_columns: object,
) -> list[float | None]:
    """Judge completions, as a reward function of TRL's GRPOTrainer and other online trainers (TRL 1.0 and later).

    Args:
        prompts: The prompt of each completion: a text or messages. Errors name it.
        completions: Texts, or lists of messages, of which the last one is the answer.
        verifier: The dataset's column ``verifier``: a JSON object or its text for each completion. Nulls that Arrow
            adds to objects are ignored.
        _columns: Other columns of the dataset, which TRL hands to every reward function.

    Returns:
        For each completion 1.0 or 0.0; None for a row without a verifier, which TRL leaves to other reward functions.

    Raises:
        UsageError: There is no column ``verifier``, or one is faulty; or a completion is neither text nor messages.
        MissingExtraError: A kind needs a package that is not installed.
    """
    if verifier is None:
        raise UsageError(
            f"the dataset has no column 'verifier'; {_EXPORT}, and leave remove_unused_columns of GRPOConfig false"
        )
    rewards: list[float | None] = []
    for number, (prompt, completion, value) in enumerate(zip(prompts, completions, verifier, strict=True), start=1):
        row = f"completion {number}, of the prompt {short(_last_text(prompt))}"
        spec = _read(value, row)
        rewards.append(None if spec is None else _score(spec, _answer(completion, row)))
    return rewards


def compute_score(
    data_source: str,
    solution_str: str,
    ground_truth: object,  # noqa: ARG001 - verl's signature; the verifier knows the value
    extra_info: Mapping[str, object] | None = None,
    **_settings: object,
) -> float:
    """Judge one completion, as a custom reward function of verl.

    The signature is the documented one (https://verl.readthedocs.io/en/latest/preparation/reward_function.html).

    Args:
        data_source: The name of the row's dataset. Errors name it.
        solution_str: The completion.
        ground_truth: Not used: ``extra_info`` has the verifier.
        extra_info: The row's field of this name: its ``verifier``, ``index`` and ``id``.
        _settings: Addresses of reward models, which some versions of verl hand over.

    Returns:
        1.0 or 0.0.

    Raises:
        UsageError: The row has no verifier, or a faulty one.
        MissingExtraError: Its kind needs a package that is not installed.
    """
    fields = extra_info or {}
    row = f"row {fields.get('index', '?')} of {data_source}"
    if fields.get("id") is not None:
        row += f" (candidate {fields['id']})"
    spec = _read(fields.get("verifier"), row)
    if spec is None:
        raise UsageError(f"{row} has no 'verifier' in 'extra_info'; {_EXPORT}")
    return _score(spec, solution_str)


def _score(spec: Spec, text: str) -> float:
    parts = find_answer(text)
    answer = "" if parts.unfinished else "".join(text[start:end] for start, end in parts.answer)
    return float(verify(spec, answer).kept)


def _read(verifier: object, row: str) -> Spec | None:
    try:
        return _checked(verifier if isinstance(verifier, str) else _dumped(verifier))
    except ValueError as error:
        raise UsageError(f"{row}: {error}") from None


def _dumped(verifier: object) -> str:
    try:
        return dumps(verifier)
    except (TypeError, ValueError, RecursionError) as error:
        raise ValueError(f"'verifier' must be JSON: {error}") from None


@lru_cache(maxsize=4096)  # a check may run the tests of a verifier, and each row comes many times
def _checked(text: str) -> Spec | None:
    """Return the specification in a text; None for null.

    Raises:
        ValueError: The text is not JSON, or the specification is not valid.
    """
    try:
        spec = without_nulls(loads(text))
    except ValueError as error:
        raise ValueError(f"'verifier' can't be read: {error}") from None
    return None if spec is None else check_verifier(spec)


def _answer(completion: object, row: str) -> str:
    if isinstance(completion, str):
        return completion
    if isinstance(completion, Sequence) and completion and isinstance(completion[-1], Mapping):
        content = completion[-1].get("content")
        if isinstance(content, str):
            return content if completion[-1].get("role") == "assistant" else ""  # it ends with a tool's result
        if content is None:
            return ""  # a call of a tool
    found = short(completion)
    raise UsageError(f"{row}: the completion must be a text or messages whose content is text, found {found}")


def _last_text(prompt: object) -> object:
    if isinstance(prompt, Sequence) and not isinstance(prompt, str) and prompt and isinstance(prompt[-1], Mapping):
        return prompt[-1].get("content")
    return prompt
