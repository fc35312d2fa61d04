"""``finetune.json``: what a training run is, what was measured, and, at its end, that it is complete."""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from finetune.data.training_data import TrainingData
from finetune.evaluation.held_out import Losses
from finetune.options import Options
from selfinstruct.common.codec import dumps, loads
from selfinstruct.common.files import reason, write_atomic
from selfinstruct.common.lock import RunLock
from selfinstruct.errors import RunChangedError, UsageError

__all__ = ["RECORD", "Measured", "identity", "locked", "read_record", "require_complete", "write_record"]

RECORD = "finetune.json"
_LOCK = ".lock"
# Settings that change nothing of the result, and may change on the way.
_FREE = ("checkpoint_every", "keep", "log_every", "micro_batch_tokens", "recompute", "compile")


@dataclass(frozen=True)
class Measured:
    """Held-out losses and sample answers at one moment.

    Attributes:
        losses: By name of the held-out set: ``rows``, ``seed tasks``.
        answers: One for each sample instruction.
    """

    losses: dict[str, Losses]
    answers: list[str]

    def plain(self) -> dict[str, Any]:
        """As JSON has it."""
        return {
            "losses": {
                name: {"sums": list(map(float, one.sums)), "counts": list(map(int, one.counts))}
                for name, one in self.losses.items()
            },
            "answers": self.answers,
        }

    @classmethod
    def of(cls, plain: dict[str, Any]) -> Measured:
        """What ``plain`` gave."""
        losses = {name: Losses.of(one["sums"], one["counts"]) for name, one in plain["losses"].items()}
        return cls(losses, list(plain["answers"]))


@contextmanager
def locked(out: Path) -> Iterator[None]:
    """The folder of a run, made if need be, for this process alone; one that was made and not used is gone again.

    Raises:
        UsageError: Something else lies in it.
        RunLockedError: Another process trains into it.
        LedgerError: It can't be written.
    """
    made = not out.exists()
    try:
        if not (out / RECORD).exists():
            _require_free(out)
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UsageError(f"can't write {out}: {reason(error)}; name another folder with -o") from None
    lock = RunLock(out, _LOCK)
    try:
        _sweep(out)
        yield
    finally:
        lock.release()
        if made and [path.name for path in out.iterdir()] == [_LOCK]:
            shutil.rmtree(out)


def require_complete(folder: Path) -> None:
    """Refuse the folder of a run whose model isn't all there yet: its files come one by one, and its record last.

    Raises:
        UsageError: The run is not complete.
    """
    try:
        complete = dict(loads((folder / RECORD).read_bytes())).get("complete")
    except (OSError, ValueError, TypeError):
        return  # no record, or none that tells; who needs it says so
    if complete is False:
        raise UsageError(f"{folder}: the training run is not complete; give its command again, and it goes on")


def _sweep(out: Path) -> None:
    """Remove what a kill left half written: nobody else writes here now."""
    for path in out.glob(".*.part"):
        shutil.rmtree(path) if path.is_dir() else path.unlink()


def _require_free(out: Path) -> None:
    """Refuse a folder that holds anything but what a run leaves before its record is written.

    Raises:
        UsageError: Something else lies in it.
    """
    if not out.exists():
        return
    if not out.is_dir() or any(not path.name.startswith((_LOCK, f".{RECORD}.")) for path in out.iterdir()):
        raise UsageError(f"{out}: there is something else here already; name another folder with -o")


def identity(model: str, options: Options, texts: TrainingData, prompt_format: str) -> dict[str, Any]:
    """What a run may not change on the way."""
    settings = {name: value for name, value in asdict(options).items() if name not in _FREE}
    held = hashlib.sha256("".join(one.digest for one in texts.held_out.values()).encode()).hexdigest()
    return {
        "model": model, "options": settings, "format": prompt_format, "documents": texts.train.digest, "held_out": held,
    }  # fmt: skip


def read_record(out: Path, same: dict[str, Any]) -> dict[str, Any]:
    """The record of the run in ``out``; empty where there is none yet.

    Args:
        same: The ``identity`` that it must have.

    Raises:
        UsageError: The record can't be read.
        RunChangedError: It is a run with other settings, data or model.
    """
    path = out / RECORD
    if not path.exists():
        return {}
    try:
        record = dict(loads(path.read_bytes()))
    except OSError as error:
        raise UsageError(f"{path}: {reason(error)}") from None
    except (ValueError, TypeError) as error:
        raise UsageError(f"{path}: can't be read ({error}); remove {out} to begin again") from None
    if not _whole(record):
        raise UsageError(f"{path}: no record of a training run; remove {out} to begin again")
    changed = [name for name in same if record.get(name) != same[name]]
    if "options" in changed:
        old = record["options"]
        changed.remove("options")
        changed += [name for name, value in same["options"].items() if old.get(name) != value]
    if changed:
        raise RunChangedError(
            f"{out} holds a run with another {', '.join(changed)}; name another folder with -o, or remove this one"
        )
    return record


def _whole(record: dict[str, Any]) -> bool:
    """Whether a record has all that is asked of it later."""
    try:
        for name in ("before", "after"):
            if name in record or record["complete"]:
                Measured.of(record[name])
        found: Any = (record["options"], record["model_digest"], record["complete"])
        if record["complete"]:
            found = (*found, record["steps"], float(record["seconds"]))
    except (KeyError, TypeError, ValueError):
        return False
    return all(isinstance(*pair) for pair in zip(found, (dict, str, bool, int, float), strict=False))


def write_record(out: Path, record: dict[str, Any]) -> None:
    """Replace the record in one step.

    Raises:
        SelfInstructError: It can't be written.
    """
    write_atomic(out / RECORD, [dumps(record).encode("utf-8")])
