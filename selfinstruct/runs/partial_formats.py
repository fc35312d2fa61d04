"""Formats that hold only the rows with a certain part: preference data, and prompts with verifiers.

``preference`` is TRL's layout of conversational preference data. ``rl`` is read by trainers of reinforcement learning
with verifiable rewards: TRL reads ``prompt`` and hands the other columns to the reward function, and verl reads the
five fields of its own layout (https://verl.readthedocs.io/en/latest/preparation/prepare_data.html).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from selfinstruct.common.codec import Json, canonical
from selfinstruct.common.formats import TrainingRow
from selfinstruct.pool import AcceptedRow
from selfinstruct.records import Candidate

__all__ = ["PARTIAL_FORMATS", "PartialFormat"]

_SOURCE = "selfinstruct"  # verl's name of the dataset: validation scores are averaged for each name


@dataclass(frozen=True, slots=True)
class PartialFormat:
    """A format that leaves out rows without a certain part.

    Attributes:
        part: The part, in words.
        remedy: How a run gets rows with this part.
        convert: Returns the line of a row, given its position among the lines, from 0; None if it lacks the part.
    """

    part: str
    remedy: str
    convert: Callable[[AcceptedRow, int], dict[str, Any] | None]


def _prompt(row: Candidate) -> list[dict[str, str]]:
    messages = tuple((message.role, message.content) for message in row.messages)
    turns = TrainingRow(row.instruction, row.input, row.output, row.system, messages).turns
    return [{"role": role, "content": content} for role, content in turns[:-1]]


def _preference(accepted: AcceptedRow, _index: int) -> dict[str, Any] | None:
    row = accepted.candidate
    if row.pair is None:
        return None
    chosen, rejected = ([{"role": "assistant", "content": text}] for text in (row.output, row.pair.rejected))
    scores = dict(zip(("score_chosen", "score_rejected"), row.pair.scores, strict=True))
    return {"prompt": _prompt(row), "chosen": chosen, "rejected": rejected, **scores}


def _rl(accepted: AcceptedRow, index: int) -> dict[str, Any] | None:
    row = accepted.candidate
    if row.verifier is None:
        return None
    # As text: Arrow would give the verifiers of a column the fields of all of them, and one type to every `value`.
    verifier = canonical(row.verifier).decode()
    truth = _ground_truth(row.verifier, row.output)
    return {
        "prompt": _prompt(row),
        "verifier": verifier,
        "ground_truth": truth,
        "data_source": _SOURCE,
        "ability": str(row.verifier["kind"]),
        "reward_model": {"style": "rule", "ground_truth": truth},
        "extra_info": {"index": index, "id": accepted.id, "verifier": verifier},
    }


def _ground_truth(verifier: Mapping[str, Json], output: str) -> str:
    """Return the value of a verifier as text, or the row's answer, which passes, if the verifier has none."""
    value = verifier.get("value", output)
    return value if isinstance(value, str) else canonical(value).decode()


PARTIAL_FORMATS = {
    "preference": PartialFormat(
        "preference pair",
        "pairs come from a run with a judge (quality.pairs=true and quality.best_of above 1)",
        _preference,
    ),
    "rl": PartialFormat(
        "verifier",
        "verifiers come from tasks with the field 'verifier' that the strategy respond answers, and from the kind "
        "precise of the strategy personas",
        _rl,
    ),
}
"""The formats by name."""
