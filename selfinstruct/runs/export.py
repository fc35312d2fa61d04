"""Export of a run: dataset files and their manifest, the same bytes for the same ledger.

A dataset is the first N accepted rows in order of (request, candidate), so that the file for N is a byte prefix of the
file for any larger N. Neither the files nor the manifest contain a time, a duration, a host or a path.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from selfinstruct.common.codec import canonical, digest, dumps, loads
from selfinstruct.common.console import plural
from selfinstruct.common.files import write_atomic
from selfinstruct.common.formats import CONVERSATIONS, FORMATS, TrainingRow
from selfinstruct.common.lock import RunLock
from selfinstruct.engine.plan import RunPlan, recorded_plan
from selfinstruct.engine.row_filters import FilteredCandidate, FilterOutcome, every_request
from selfinstruct.engine.run_state import RunState
from selfinstruct.engine.verdict_cache import VERDICTS_FILE, VerdictCache
from selfinstruct.errors import RunLockedError, UsageError
from selfinstruct.ledger import LEDGER_FILE, Reader
from selfinstruct.records import Candidate
from selfinstruct.runs.partial_formats import PARTIAL_FORMATS, PartialFormat
from selfinstruct.strategies.abilities import row_format

__all__ = ["CANDIDATES", "DATASET", "ExportResult", "export", "export_formats", "update_dataset"]

DATASET = "dataset"
CANDIDATES = "candidates"  # every candidate with its verdicts, for inspection

_RUN_FILES = (LEDGER_FILE, VERDICTS_FILE, "run.lock", "config.yaml")


@dataclass(frozen=True)
class ExportResult:
    """A written dataset file.

    Attributes:
        path: The file.
        rows: Number of its lines.
        sha256: SHA-256 of its content, in hexadecimal.
        left_out: Numbers of the dataset's rows, from 1, that the format can't hold: without a preference pair for
            ``preference``, without a verifier for ``rl``.
    """

    path: Path
    rows: int
    sha256: str
    left_out: tuple[int, ...] = ()


def export_formats() -> list[str]:
    """Return the names of all formats."""
    return [*FORMATS, *PARTIAL_FORMATS, CANDIDATES]


def export(folder: Path, name: str | None = None, path: Path | None = None) -> ExportResult:
    """Write the dataset of a run in one format.

    Args:
        folder: The run directory.
        name: The format, see ``export_formats``; None for the run's default.
        path: The file to write; None for the run's own dataset folder, whose manifest is then updated.

    Returns:
        The written file.

    Raises:
        LedgerError: If there is no readable run in ``folder``.
        RunLockedError: If the run is at work and ``path`` is not set.
        UsageError: If there is no such format, it can't hold the rows, ``path`` belongs to the run, or there is nothing
            to write.
        SelfInstructError: If the file can't be written; an existing file is unchanged.
    """
    if name is not None and name not in export_formats():
        raise UsageError(f"no format {name!r}; the formats are {', '.join(export_formats())}")
    if path is not None and path.parent.resolve() == folder.resolve() and path.name.startswith(_RUN_FILES):
        raise UsageError(f"{path} is a file of the run itself; write elsewhere with -o")
    if path is None and name != CANDIDATES:
        return _export_locked(folder, name)
    filtered: list[FilterOutcome] = []
    with Reader(folder) as reader:
        plan = recorded_plan(reader)
        if name == CANDIDATES:
            state = RunState.from_ledger(
                plan, reader, lambda outcome, _: filtered.append(outcome), full_comparison=every_request
            )
        else:
            state = RunState.from_ledger(plan, reader, checkpoint=VerdictCache(folder, plan).load(reader))
    name = name or _default_format(plan)
    _require_lines(folder, name, state, filtered)
    return _write(state, name, path or folder / DATASET / f"{name}.jsonl", filtered)


def _export_locked(folder: Path, name: str | None) -> ExportResult:
    """Export under the run's lock, so that the newer dataset of a run that is at work can't be replaced."""
    with Reader(folder):
        pass  # raises before a lock file is created in a directory without a run
    try:
        lock = RunLock(folder)
    except RunLockedError as error:
        raise RunLockedError(f"{error}; or write elsewhere with -o") from None
    try:
        with Reader(folder) as reader:
            plan = recorded_plan(reader)
            state = RunState.from_ledger(plan, reader, checkpoint=VerdictCache(folder, plan).load(reader))
            _require_lines(folder, name or row_format(plan.strategy), state)
            return update_dataset(folder, plan, state, name)
    finally:
        lock.release()


def _require_lines(folder: Path, name: str, state: RunState, filtered: Sequence[FilterOutcome] = ()) -> None:
    """Refuse to write an empty file.

    Raises:
        UsageError: The run has nothing to write in this format; the message says why.
    """
    if name == CANDIDATES:
        if not any(outcome.candidates for outcome in filtered):
            raise UsageError(f"{folder}: no answer of this run holds a candidate, so there is nothing to export")
    elif not state.rows:
        raise UsageError(f"{folder} has no rows yet, so there is nothing to export; selfinstruct status shows why")
    elif (partial := PARTIAL_FORMATS.get(name)) and not any(partial.convert(row, 0) for row in state.rows):
        raise UsageError(
            f"{folder}: none of the {plural(len(state.rows), 'row')} has a {partial.part}, so there is nothing to "
            f"export; {partial.remedy}"
        )


def update_dataset(folder: Path, plan: RunPlan, state: RunState, name: str | None = None) -> ExportResult:
    """Write the format ``name``, every format that was exported before, and the manifest.

    Args:
        folder: The run directory, whose lock the caller holds.
        plan: The plan of the run.
        state: The state to export.
        name: The format; None for the default of the strategy.

    Returns:
        The file in the format ``name``.
    """
    dataset = folder / DATASET
    name = name or _default_format(plan)
    written = {}
    for each in sorted([*FORMATS, *PARTIAL_FORMATS]):
        path = dataset / f"{each}.jsonl"
        if each != name and not _can_hold(each, state):
            path.unlink(missing_ok=True)  # written before the run had conversations, and outdated now
        elif each == name or path.exists():
            written[each] = _write(state, each, path)
    write_atomic(dataset / "manifest.json", [_manifest(plan, state, list(written.values()))])
    return written[name]


def _default_format(plan: RunPlan) -> str:
    """Return the format of a run's dataset: messages where tasks have earlier rounds, which Alpaca rows can't hold."""
    return "messages" if any(task.history for task in plan.seeds) else row_format(plan.strategy)


def _write(state: RunState, name: str, path: Path, filtered: list[FilterOutcome] | None = None) -> ExportResult:
    left_out: list[int] = []
    if name == CANDIDATES:
        lines = [_candidate_line(outcome, decided) for outcome in filtered or [] for decided in outcome.candidates]
    elif name in PARTIAL_FORMATS:
        lines, left_out = _partial_lines(PARTIAL_FORMATS[name], state)
    else:
        if not _can_hold(name, state):
            raise UsageError(
                f"{name} holds one question and its answer, and this run has conversations; export them as "
                + " or ".join(sorted(CONVERSATIONS))
            )
        lines = [_row_line(name, row.candidate) for row in state.rows]
    sha = write_atomic(path, (f"{line}\n".encode() for line in lines))
    return ExportResult(path, len(lines), sha, tuple(left_out))


def _can_hold(name: str, state: RunState) -> bool:
    """Return whether a format can hold the rows. Partial formats leave out rows instead."""
    return name not in FORMATS or name in CONVERSATIONS or not any(row.candidate.messages for row in state.rows)


def _partial_lines(layout: PartialFormat, state: RunState) -> tuple[list[str], list[int]]:
    """Return the lines, and the numbers of the rows that are left out."""
    lines: list[str] = []
    left_out = []
    for number, row in enumerate(state.rows, start=1):
        if line := layout.convert(row, len(lines)):
            lines.append(dumps(line))
        else:
            left_out.append(number)
    return lines, left_out


def _row_line(name: str, row: Candidate) -> str:
    messages = tuple((message.role, message.content) for message in row.messages)
    line = FORMATS[name](TrainingRow(row.instruction, row.input, row.output, row.system, messages))
    extra = {**row.columns, **({"verifier": row.verifier} if row.verifier is not None else {})}
    # In canonical order of keys, so that a row from the verdict cache gives the same bytes as a new one.
    return dumps({**loads(canonical(extra)), **line} if extra else line)


def _manifest(plan: RunPlan, state: RunState, files: list[ExportResult]) -> bytes:
    stats = state.stats
    marks = dict(sorted((str(key), count) for key, count in stats.counters.items()))
    value = {
        "files": {file.path.name: {"rows": file.rows, "sha256": file.sha256} for file in files},
        "rows": state.count,
        "target": state.target,
        "strategy": plan.settings.strategy,
        "models": sorted(stats.models),
        "recipe": digest(plan.row_identity),
        "semantics": plan.row_identity["semantics"],
        "judged": {
            "requests": stats.requests,
            "instructions": stats.instructions,
            "rejected": dict(sorted(stats.rejected.items())),
            "discarded": dict(sorted(stats.discarded.items())),
            "failures": dict(sorted(stats.failures.items())),
            **({"marks": marks} if marks else {}),
            "prompt_tokens": stats.prompt_tokens,
            "completion_tokens": stats.completion_tokens,
        },
    }
    return canonical(value) + b"\n"


def _candidate_line(outcome: FilterOutcome, decided: FilteredCandidate) -> str:
    candidate = decided.candidate
    line: dict[str, Any] = {
        "id": decided.id,
        "kept": decided.kept,
        "reason": decided.reason,
        "task": candidate.task or decided.id,
        "stage": outcome.request.stage,
        "parent": outcome.request.parent,
        "demonstrations": list(outcome.request.demonstrations or ()),
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
            for verdict in decided.verdicts
        ],
    }
    return dumps(line)
