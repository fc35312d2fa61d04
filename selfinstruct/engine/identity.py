"""Whether a run is still what it was begun as, and if not, in what it differs."""

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

__all__ = ["require_same"]


def require_same(plan: RunPlan, reader: Reader, folder: Path) -> None:
    """Refuse to go on with a run as something else than it is.

    Raises:
        RunChangedError: With each setting that differs, and with the changed seeds and prompt lines.
    """
    old, new = reader.meta("identity"), plan.identity
    if canonical(old) == canonical(new):
        return
    before, after = flatten(old), flatten(new)
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
        f"{folder} was begun with other settings; a run keeps them for life:\n"
        + "\n".join(lines)
        + "\nLeave the changes out to go on with this run, or give a new run directory."
    )


def _seed_changes(old: list[Task], new: tuple[Task, ...]) -> list[str]:
    before, after = {task.id: task for task in old}, {task.id: task for task in new}
    groups = {
        "added": [name for name in after if name not in before],
        "removed": [name for name in before if name not in after],
        "changed": [name for name in after if name in before and after[name] != before[name]],
    }
    lines = []
    for what, names in groups.items():
        if names:
            more = f" and {len(names) - 5} more" if len(names) > 5 else ""
            lines.append(f"  seeds {what}: {', '.join(names[:5])}{more}")
    return lines or ["  seeds: their order"]


def _text_changes(name: str, old: str, new: str) -> list[str]:
    changes = difflib.unified_diff(
        old.splitlines(), new.splitlines(), f"{name} (run)", f"{name} (now)", lineterm="", n=1
    )
    return [f"  {line}" for line in changes]
