"""Lists of personas: one description of a person a line."""

from __future__ import annotations

from pathlib import Path

from selfinstruct.common.files import read_jsonl_lines, reason
from selfinstruct.errors import DataError, UsageError

__all__ = ["read_personas"]

_SHOWN = 20  # errors in one message: enough to see the pattern


def read_personas(path: Path) -> str:
    """The personas of a file, each on a line of its own, each once.

    A file whose name ends in ``.jsonl`` has an object with ``persona`` on each line, as the personas of Persona Hub
    have; of any other each line is one.

    Raises:
        UsageError: The file can't be read.
        DataError: Every bad line in one message, or a file without personas.
    """
    found: dict[str, None] = {}  # a set that keeps its order
    errors: list[str] = []
    for number, value in read_jsonl_lines(path) if path.suffix == ".jsonl" else _lines(path):
        text = value.get("persona") if isinstance(value, dict) else value
        if isinstance(text, DataError):
            errors.append(str(text))
        elif not isinstance(text, str) or not text.split():
            errors.append(f"{path}:{number}: 'persona' is missing, empty or no string")
        else:
            found[" ".join(text.split())] = None
    if errors:
        more = f"\n... and {len(errors) - _SHOWN} more" if len(errors) > _SHOWN else ""
        raise DataError("\n".join(errors[:_SHOWN]) + more)
    if not found:
        raise DataError(f"{path}: no persona in it; write one a line, or JSONL with 'persona' into a .jsonl file")
    return "\n".join(found)


def _lines(path: Path) -> list[tuple[int, str]]:
    try:
        text = path.read_text(encoding="utf-8-sig")
    except OSError as error:
        raise UsageError(f"can't read {path}: {reason(error)}") from None
    except UnicodeDecodeError as error:
        raise DataError(f"{path}: not UTF-8 at byte {error.start}") from None
    return [(number, line) for number, line in enumerate(text.split("\n"), start=1) if line.split()]
