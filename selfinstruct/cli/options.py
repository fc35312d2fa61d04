"""Options that several commands share."""

from __future__ import annotations

import click

__all__ = ["json_option", "skip_malformed_option"]

json_option = click.option("--json", "as_json", is_flag=True, help="Print one JSON object (docs/commands.md).")
"""``--json`` of every command that prints figures."""

skip_malformed_option = click.option(
    "--skip-malformed", is_flag=True, help="Leave out rows that can't be read, and count them."
)
"""``--skip-malformed`` of every command that reads rows."""
