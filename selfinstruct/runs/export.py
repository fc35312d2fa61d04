"""What leaves a run: dataset files and their manifest, the same bytes for the same ledger.

A dataset is the first N kept rows in order of (request, candidate), so that the file for N is a byte prefix of the
file for any larger N. Nothing in a file or in the manifest tells a time, a duration, a host or a path.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from selfinstruct.common.codec import canonical, digest, dumps, loads
from selfinstruct.common.files import write_atomic
from selfinstruct.common.formats import CONVERSATIONS, FORMATS, TrainingRow
from selfinstruct.engine.plan import RunPlan
from selfinstruct.engine.row_filters import FilteredCandidate, FilterOutcome
from selfinstruct.engine.run_state import RunState
from selfinstruct.errors import UsageError
from selfinstruct.records import Candidate, Pair
from selfinstruct.strategies.abilities import row_format

__all__ = ["CANDIDATES", "DATASET", "PREFERENCE", "Exported", "export_course", "export_formats", "refresh"]

DATASET = "dataset"
CANDIDATES = "candidates"  # every candidate ever judged, with its verdicts: not for training but for looking
PREFERENCE = "preference"  # the rows that have a pair: TRL's layout of conversational preference data


@dataclass(frozen=True)
class Exported:
    """One written file.

    Attributes:
        left_out: Rows that the layout can't hold: of preference data, those without a pair.
    """

    path: Path
    rows: int
    sha256: str
    left_out: int = 0


def export_formats() -> list[str]:
    """Names that ``--format`` takes."""
    return [*FORMATS, PREFERENCE, CANDIDATES]


def export_course(course: RunState, name: str, path: Path, judged: list[FilterOutcome] | None = None) -> Exported:
    """Write the course's dataset in one format.

    Args:
        judged: What the course judged, for the format ``candidates``.

    Raises:
        UsageError: There is no such format.
        SelfInstructError: The file can't be written; an older one is untouched.
    """
    if name == CANDIDATES:
        lines = [_candidate_line(one, candidate) for one in judged or [] for candidate in one.candidates]
    elif name == PREFERENCE:
        pairs = [(row.candidate, row.candidate.pair) for row in course.rows]
        lines = [_preference_line(row, pair) for row, pair in pairs if pair is not None]
    elif name in FORMATS:
        if not _holds(name, course):
            raise UsageError(
                f"{name} holds one question and its answer, and this run has conversations; export them as "
                + " or ".join(sorted(CONVERSATIONS))
            )
        lines = [_row_line(name, row.candidate) for row in course.rows]
    else:
        raise UsageError(f"no format {name!r}; known: {', '.join(export_formats())}")
    sha = write_atomic(path, (f"{line}\n".encode() for line in lines))
    left_out = len(course.rows) - len(lines) if name == PREFERENCE else 0
    return Exported(path, len(lines), sha, left_out)


def _holds(name: str, course: RunState) -> bool:
    """Whether a layout can hold the rows; of preference data those that it can't are left out."""
    return name not in FORMATS or name in CONVERSATIONS or not any(row.candidate.messages for row in course.rows)


def _preference_line(row: Candidate, pair: Pair) -> str:
    example = TrainingRow(row.instruction, row.input, row.output, row.system)
    prompt = [{"role": role, "content": content} for role, content in example.turns[:-1]]
    chosen, rejected = ([{"role": "assistant", "content": text}] for text in (row.output, pair.rejected))
    scores = dict(zip(("score_chosen", "score_rejected"), pair.scores, strict=True))
    return dumps({"prompt": prompt, "chosen": chosen, "rejected": rejected, **scores})


def _row_line(name: str, row: Candidate) -> str:
    messages = tuple((message.role, message.content) for message in row.messages)
    line = FORMATS[name](TrainingRow(row.instruction, row.input, row.output, row.system, messages))
    more = {**row.columns, **({"verifier": row.verifier} if row.verifier is not None else {})}
    # In the one order of keys that a row has, whether it was judged just now or read from where verdicts are kept.
    return dumps({**loads(canonical(more)), **line} if more else line)


def refresh(folder: Path, plan: RunPlan, course: RunState, name: str | None = None) -> Exported:
    """Write the run's own dataset folder: ``name``, every format that is there already, and the manifest.

    Args:
        name: None for the layout that suits the strategy.
    """
    dataset = folder / DATASET
    name = name or row_format(plan.strategy)
    written = {}
    for each in sorted([*FORMATS, PREFERENCE]):
        path = dataset / f"{each}.jsonl"
        if each != name and not _holds(each, course):
            path.unlink(missing_ok=True)  # written while the run had no conversation: it would tell of another dataset
        elif each == name or path.exists():
            written[each] = export_course(course, each, path)
    write_atomic(dataset / "manifest.json", [_manifest(plan, course, list(written.values()))])
    return written[name]


def _manifest(plan: RunPlan, course: RunState, files: list[Exported]) -> bytes:
    tally = course.tally
    marks = dict(sorted((str(key), count) for key, count in tally.counters.items()))
    value = {
        "files": {file.path.name: {"rows": file.rows, "sha256": file.sha256} for file in files},
        "rows": course.count,
        "target": course.target,
        "strategy": plan.settings.strategy,
        "models": sorted(tally.models),
        "recipe": digest(plan.recipe),
        "semantics": plan.recipe["semantics"],
        "judged": {
            "requests": tally.requests,
            "instructions": tally.instructions,
            "rejected": dict(sorted(tally.rejected.items())),
            "discarded": dict(sorted(tally.discarded.items())),
            "failures": dict(sorted(tally.failures.items())),
            **({"marks": marks} if marks else {}),
            "prompt_tokens": tally.prompt_tokens,
            "completion_tokens": tally.completion_tokens,
        },
    }
    return canonical(value) + b"\n"


def _candidate_line(judged: FilterOutcome, one: FilteredCandidate) -> str:
    candidate = one.candidate
    line: dict[str, Any] = {
        "id": one.id,
        "kept": one.kept,
        "reason": one.reason,
        "task": candidate.task or one.id,
        "stage": judged.request.stage,
        "parent": judged.request.parent,
        "demonstrations": list(judged.request.demonstrations or ()),
        "instruction": candidate.instruction,
        "input": candidate.input,
        "output": candidate.output,
        "draft": candidate.kind == "pending_task",
        **({"trial": True} if candidate.kind == "provisional_row" else {}),
        **candidate.extras,
        "verdicts": [
            {
                "filter": verdict.filter,
                "kept": verdict.kept,
                "reason": verdict.reason,
                "score": verdict.score,
                "nearest": verdict.nearest,
                "detail": dict(verdict.detail),
            }
            for verdict in one.verdicts
        ],
    }
    return dumps(line)
