"""Comparison of a plan with the identity of an existing run."""

from __future__ import annotations

import difflib
from pathlib import Path

from selfinstruct.common.codec import canonical
from selfinstruct.common.config import flatten
from selfinstruct.engine.loading import recorded_seeds
from selfinstruct.engine.plan import RunPlan
from selfinstruct.errors import RunChangedError
from selfinstruct.ledger import Reader
from selfinstruct.records import Task

__all__ = ["require_same_identity"]


def require_same_identity(plan: RunPlan, reader: Reader, folder: Path) -> None:
    """Refuse to continue a run under a different identity.

    Args:
        plan: The plan of this invocation.
        reader: The ledger of the run.
        folder: The run directory, for the message.

    Raises:
        RunChangedError: If the identities differ; the message lists the changed settings, seeds and prompt lines.
    """
    recorded, requested = reader.meta("identity"), plan.identity
    if canonical(recorded) == canonical(requested):
        return
    before, after = flatten(recorded), flatten(requested)
    lines = []
    for key in sorted(before.keys() | after.keys()):
        if before.get(key) == after.get(key):
            continue
        if key == "seeds":
            lines += _seed_changes(recorded_seeds(reader), plan.seeds)
        elif key.startswith("prompts."):
            name = key.removeprefix("prompts.")
            lines += _text_changes(name, reader.templates().get(name, ""), plan.prompts.texts.get(name, ""))
        else:
            lines.append(f"  {key}: {before.get(key)!r} -> {after.get(key)!r}")
    raise RunChangedError(
        f"{folder} was started with different settings, which a run can't change:\n"
        + "\n".join(lines)
        + "\nUndo the changes to continue this run, or name a new run directory."
    )


def _seed_changes(old: list[Task], new: tuple[Task, ...]) -> list[str]:
    before, after = {task.id: task for task in old}, {task.id: task for task in new}
    groups = {
        "added": [seed for seed in after if seed not in before],
        "removed": [seed for seed in before if seed not in after],
        "changed": [seed for seed in after if seed in before and after[seed] != before[seed]],
    }
    lines = []
    for change, ids in groups.items():
        if ids:
            more = f" and {len(ids) - 5} more" if len(ids) > 5 else ""
            lines.append(f"  seeds {change}: {', '.join(ids[:5])}{more}")
    return lines or ["  seeds: their order"]


def _text_changes(name: str, old: str, new: str) -> list[str]:
    changes = difflib.unified_diff(
        old.splitlines(), new.splitlines(), f"{name} (run)", f"{name} (now)", lineterm="", n=1
    )
    return [f"  {line}" for line in changes]
