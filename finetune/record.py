"""``finetune.json``: the identity of a training run, its measurements, and, at the end, that it is complete."""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from finetune.data.training_data import TrainingData
from finetune.evaluation.held_out import Losses
from finetune.options import TrainingOptions
from selfinstruct.common.codec import dumps, loads
from selfinstruct.common.files import describe_os_error, write_atomic
from selfinstruct.common.lock import RunLock
from selfinstruct.errors import RunChangedError, UsageError

__all__ = [
    "RECORD",
    "REFERENCE",
    "Measurements",
    "lock_run",
    "read_record",
    "require_complete",
    "run_identity",
    "write_record",
]

RECORD = "finetune.json"
REFERENCE = "reference.safetensors"  # of DPO; written before the record
_LOCK = ".lock"
_BEGUN = (_LOCK, f".{RECORD}.", REFERENCE, f".{REFERENCE}.")  # files that a run may leave before its record
# Settings that don't affect the result, and may change when a run is resumed.
_NOT_IDENTITY = ("checkpoint_every", "keep", "log_every", "micro_batch_tokens", "recompute", "compile")


@dataclass(frozen=True)
class Measurements:
    """Held-out losses and sample answers of a model.

    Attributes:
        losses: Losses by name of the held-out set: ``rows``, ``seed tasks``.
        answers: One answer for each sample prompt.
        accuracy: Held-out pairs in which the chosen answer has the higher reward, of all pairs, by prompt; None for a
            run without pairs.
        margin: Reward of the chosen answer minus that of the rejected one, of all held-out pairs, by prompt.
    """

    losses: dict[str, Losses]
    answers: list[str] = field(default_factory=list)
    accuracy: Losses | None = None
    margin: Losses | None = None

    def to_json(self) -> dict[str, Any]:
        """Return the measurements as JSON values."""
        measured = {"accuracy": self.accuracy, "margin": self.margin}
        pairs = {name: _to_json(values) for name, values in measured.items() if values is not None}
        losses = {name: _to_json(losses) for name, losses in self.losses.items()}
        return {"losses": losses, "answers": self.answers, **pairs}

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> Measurements:
        """Rebuild measurements from the value of ``to_json``."""
        losses = {name: _from_json(entry) for name, entry in value["losses"].items()}
        pairs = {name: _from_json(value[name]) for name in ("accuracy", "margin") if name in value}
        return cls(losses, list(value["answers"]), **pairs)


def _from_json(value: dict[str, Any]) -> Losses:
    return Losses.of(value["sums"], value["counts"])


def _to_json(losses: Losses) -> dict[str, list[Any]]:
    return {"sums": list(map(float, losses.sums)), "counts": list(map(int, losses.counts))}


@contextmanager
def lock_run(out: Path) -> Iterator[None]:
    """Lock the folder of a run for this process, creating it if needed.

    A folder that was created here and stayed empty is removed again.

    Raises:
        UsageError: The folder holds something other than a run.
        RunLockedError: Another process trains into it.
        LedgerError: The lock can't be written.
    """
    created = not out.exists()
    try:
        if not (out / RECORD).exists():
            _require_vacant_or_begun(out)
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UsageError(f"can't write {out}: {describe_os_error(error)}; name another folder with -o") from None
    lock = RunLock(out, _LOCK)
    try:
        _remove_partial_files(out)
        yield
    finally:
        lock.release()
        if created and [path.name for path in out.iterdir()] == [_LOCK]:
            shutil.rmtree(out)


def require_complete(folder: Path) -> None:
    """Reject the folder of an unfinished run: model files arrive one by one, and the complete record last.

    Raises:
        UsageError: The run is not complete.
    """
    try:
        complete = dict(loads((folder / RECORD).read_bytes())).get("complete")
    except (OSError, ValueError, TypeError):
        return  # no record or an unreadable one; callers that need it report that themselves
    if complete is False:
        raise UsageError(f"{folder}: the training run is not complete; repeat its command to resume it")


def _remove_partial_files(out: Path) -> None:
    """Remove files that a killed process left half-written; the lock ensures that no process is writing them now."""
    for path in out.glob(".*.part"):
        shutil.rmtree(path) if path.is_dir() else path.unlink()


def _require_vacant_or_begun(out: Path) -> None:
    """Reject a folder that contains anything but what a run leaves before its record is written.

    Raises:
        UsageError: The folder contains other files.
    """
    if not out.exists():
        return
    if not out.is_dir() or any(not path.name.startswith(_BEGUN) for path in out.iterdir()):
        raise UsageError(f"{out}: there is something else here already; name another folder with -o")


def run_identity(model: str, options: TrainingOptions, data: TrainingData, prompt_format: str) -> dict[str, Any]:
    """Return the values that must be the same whenever a run is resumed: model, settings, format and data."""
    settings = {name: value for name, value in asdict(options).items() if name not in _NOT_IDENTITY}
    if not options.evaluation.patience:
        del settings["evaluation"]["patience"]  # older runs have no such setting
    if not options.fp8:
        del settings["fp8"]  # likewise
    if not options.template_arguments:
        del settings["template_arguments"]
    held_out = hashlib.sha256("".join(corpus.digest for corpus in data.held_out.values()).encode()).hexdigest()
    return {
        "model": model, "options": settings, "format": prompt_format, "documents": data.train.digest,
        "held_out": held_out,
    }  # fmt: skip


def read_record(out: Path, identity: dict[str, Any]) -> dict[str, Any]:
    """Return the record of the run in ``out``; empty if there is none yet.

    Args:
        identity: The ``run_identity`` that the record must match.

    Raises:
        UsageError: The record can't be read.
        RunChangedError: The record is of a run with another model, settings or data.
    """
    path = out / RECORD
    if not path.exists():
        return {}
    try:
        record = dict(loads(path.read_bytes()))
    except OSError as error:
        raise UsageError(f"{path}: {describe_os_error(error)}") from None
    except (ValueError, TypeError) as error:
        raise UsageError(f"{path}: can't be read ({error}); remove {out} to begin again") from None
    if not _is_valid(record):
        raise UsageError(f"{path}: not a record of a training run; remove {out} to begin again")
    changed = [name for name in identity if record.get(name) != identity[name]]
    if "options" in changed:
        recorded, options = record["options"], identity["options"]
        changed.remove("options")
        changed += [name for name in {**options, **recorded} if recorded.get(name) != options.get(name)]
    if changed:
        raise RunChangedError(
            f"{out} holds a run with another {', '.join(changed)}; name another folder with -o, or remove this one"
        )
    return record


def _is_valid(record: dict[str, Any]) -> bool:
    """Return whether a record has every key that is read later, with a value of the right type."""
    try:
        for name in ("before", "after"):
            if name in record or record["complete"]:
                Measurements.from_json(record[name])
        values: Any = (record["options"], record["model_digest"], record["complete"])
        if record["complete"]:
            values = (*values, record["steps"], float(record["seconds"]))
    except (KeyError, TypeError, ValueError):
        return False
    return all(isinstance(*pair) for pair in zip(values, (dict, str, bool, int, float), strict=False))


def write_record(out: Path, record: dict[str, Any]) -> None:
    """Replace the record atomically.

    Raises:
        SelfInstructError: The record can't be written.
    """
    write_atomic(out / RECORD, [dumps(record).encode("utf-8")])
