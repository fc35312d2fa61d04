"""Files of personas: one description of a person on each line."""

from __future__ import annotations

from pathlib import Path

from selfinstruct.common.files import describe_os_error, read_jsonl_lines
from selfinstruct.errors import DataError, UsageError

__all__ = ["read_personas"]

_MAX_ERRORS = 20  # in one message: enough to see the pattern


def read_personas(path: Path) -> str:
    """Return the distinct personas of a file, one on each line.

    A file whose name ends in ``.jsonl`` holds an object with ``persona`` on each line, like the personas of Persona
    Hub; in any other file each line is a persona.

    Raises:
        UsageError: The file can't be read.
        DataError: Lines are wrong (all in one message), or the file holds no persona.
    """
    personas: dict[str, None] = {}  # an ordered set
    errors: list[str] = []
    for number, value in read_jsonl_lines(path) if path.suffix == ".jsonl" else _lines(path):
        text = value.get("persona") if isinstance(value, dict) else value
        if isinstance(text, DataError):
            errors.append(str(text))
        elif not isinstance(text, str) or not text.split():
            errors.append(f"{path}:{number}: 'persona' is missing, empty or no string")
        else:
            personas[" ".join(text.split())] = None
    if errors:
        more = f"\n... and {len(errors) - _MAX_ERRORS} more" if len(errors) > _MAX_ERRORS else ""
        raise DataError("\n".join(errors[:_MAX_ERRORS]) + more)
    if not personas:
        raise DataError(f"{path}: no persona in it; write one a line, or JSONL with 'persona' into a .jsonl file")
    return "\n".join(personas)


def _lines(path: Path) -> list[tuple[int, str]]:
    try:
        text = path.read_text(encoding="utf-8-sig")
    except OSError as error:
        raise UsageError(f"can't read {path}: {describe_os_error(error)}") from None
    except UnicodeDecodeError as error:
        raise DataError(f"{path}: not UTF-8 at byte {error.start}") from None
    return [(number, line) for number, line in enumerate(text.split("\n"), start=1) if line.split()]
