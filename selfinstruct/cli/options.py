"""Options that several commands share."""

from __future__ import annotations

import click

__all__ = ["json_option"]

json_option = click.option("--json", "as_json", is_flag=True, help="Print one JSON object (docs/commands.md).")
"""``--json`` of every command that prints figures."""
