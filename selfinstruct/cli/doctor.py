"""``selfinstruct doctor``."""

from __future__ import annotations

import dataclasses

import click

from selfinstruct.cli.options import json_option
from selfinstruct.common.codec import dumps
from selfinstruct.common.console import echo
from selfinstruct.doctor import check_environment


@click.command("doctor")
@json_option
def command(as_json: bool) -> None:
    """Show what is installed, which backends would work, and which plugins were found.

    \b
    Examples:
      selfinstruct doctor
      selfinstruct doctor --json
    """
    checks = check_environment()
    if as_json:
        echo(dumps({"checks": [dataclasses.asdict(check) for check in checks]}))
        return
    for check in checks:
        mark = click.style("ok  ", fg="green") if check.ok else click.style("no  ", fg="yellow")
        echo(f"{mark} {check.name:<18} {check.detail}" + (f"\n{'':<24}{check.remedy}" if check.remedy else ""))
