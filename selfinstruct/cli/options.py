"""Options and types of options that several commands share."""

from __future__ import annotations

import math
from typing import Any

import click

__all__ = ["FiniteRange", "json_option"]

json_option = click.option("--json", "as_json", is_flag=True, help="Print one JSON object (docs/commands.md).")
"""``--json`` of every command that prints figures."""


class FiniteRange(click.FloatRange):
    """A number between two bounds; ``click.FloatRange`` also takes nan, which is neither below nor above a bound."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Return the number."""
        number = super().convert(value, param, ctx)
        if math.isnan(number):
            self.fail(f"{value} is not in the range {self._describe_range()}.", param, ctx)
        return number
