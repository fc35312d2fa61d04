"""The output of a dry run: text or JSON, and a file of the rows that are not trained on."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from selfinstruct.common.codec import dumps
from selfinstruct.common.console import echo
from selfinstruct.common.files import write_atomic

if TYPE_CHECKING:
    from finetune.preparation import Preview

__all__ = ["write_preview"]


def write_preview(preview: Preview, report: Path | None, *, as_json: bool) -> None:
    """Print a preview, and write a line of JSON to ``report`` for each row that is not trained on."""
    from finetune.display import show_preview
    from finetune.report import preview_json, unread_json

    if report is not None:
        write_atomic(report, [f"{dumps(row)}\n".encode() for row in unread_json(preview.unread)])
    if as_json:
        echo(dumps(preview_json(preview)))
    else:
        show_preview(preview)
