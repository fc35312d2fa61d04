"""``selfinstruct doctor``."""

from __future__ import annotations

import click

from selfinstruct.doctor import check


@click.command("doctor")
def command() -> None:
    """Show what is installed and which backends would work, and why not.

    \b
    Example:
      selfinstruct doctor
    """
    for one in check():
        mark = click.style("ok  ", fg="green") if one.ok else click.style("no  ", fg="yellow")
        click.echo(f"{mark} {one.name:<18} {one.detail}" + (f"\n{'':<24}{one.remedy}" if one.remedy else ""))
