"""Shared parts of both command lines: lazily loaded commands, error messages without a traceback, progress displays."""

from __future__ import annotations

import importlib
import os
import re
import signal
import sys
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any

import click
from click.shell_completion import CompletionItem

from selfinstruct.errors import MissingExtraError, SelfInstructError

if TYPE_CHECKING:
    from rich.console import RenderableType

__all__ = [
    "LazyGroup",
    "echo",
    "format_duration",
    "plural",
    "run",
    "show",
    "strip_control_chars",
]

# Control characters except tab and newline, characters that change the writing direction, and lone surrogates.
_CONTROL_CHARS = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069\ud800-\udfff]")
_PLAIN_EVERY_S = 5.0


class LazyGroup(click.Group):
    """A group that can show its help without importing any command.

    Each command is the attribute ``command`` of the module of its name, imported when the command is called.

    Args:
        package: Package that holds the modules.
        summaries: One line for each command, in the order of the help.
        extras: Optional packages, and the extra that installs each.
        sections: Headings of the help, each with the names of its commands; by default one heading for all.
    """

    def __init__(
        self,
        *args: Any,
        package: str,
        summaries: Mapping[str, str],
        extras: Mapping[str, str],
        sections: Mapping[str, Sequence[str]] | None = None,
        **attributes: Any,
    ) -> None:
        super().__init__(*args, **attributes)
        self.package = package
        self.summaries = summaries
        self.extras = extras
        self.sections = {"Commands": tuple(summaries)} if sections is None else sections

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002 - click's signature
        """Return the names of the commands, in the order of the help."""
        return [name for names in self.sections.values() for name in names]

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:  # noqa: ARG002
        """Import a command."""
        if cmd_name not in self.summaries:
            return None
        command: click.Command = importlib.import_module(f"{self.package}.{cmd_name}").command
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:  # noqa: ARG002
        """Write the sections of commands without importing any."""
        width = max(map(len, self.summaries))  # one column for all sections
        for title, names in self.sections.items():
            with formatter.section(title):
                formatter.write_dl([(name.ljust(width), self.summaries[name]) for name in names])

    def shell_complete(self, ctx: click.Context, incomplete: str) -> list[CompletionItem]:
        """Complete the name of a command without importing any."""
        names = [name for name in self.summaries if name.startswith(incomplete)]
        items = [CompletionItem(name, help=self.summaries[name]) for name in names]
        return [*items, *click.Command.shell_complete(self, ctx, incomplete)]

    def invoke(self, ctx: click.Context) -> Any:
        """Call the command; print an error of this package without a traceback and exit with its code."""
        try:
            return self._invoke(ctx)
        except SelfInstructError as error:
            echo(f"Error: {strip_control_chars(str(error))}", err=True)
            ctx.exit(error.exit_code)

    def _invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except ModuleNotFoundError as error:
            package = (error.name or "").partition(".")[0]
            if package not in self.extras:
                raise
        raise MissingExtraError(package, self.extras[package])


def run(cli: click.Group, name: str, kept: str) -> None:
    """Call a command line and exit the process with its exit code.

    Args:
        cli: The group of commands.
        name: Name of the program.
        kept: The data that survive an unexpected error, for its message.
    """
    signal.signal(signal.SIGTERM, _interrupt)
    try:
        code = cli(prog_name=name, standalone_mode=False) or 0
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        sys.exit(code)
    except click.ClickException as error:
        error.show()
        sys.exit(error.exit_code)
    except (click.Abort, KeyboardInterrupt):
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # another Ctrl-C would print a traceback while Python shuts down
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        click.echo("stopped", err=True)
        sys.exit(130)
    except Exception as error:
        if os.environ.get("SELFINSTRUCT_TRACEBACK"):
            raise
        click.echo(
            f"Error: {type(error).__name__}: {error}\nThis should not happen; {kept}. "
            "Set SELFINSTRUCT_TRACEBACK=1 to see the traceback.",
            err=True,
        )
        sys.exit(1)


def _interrupt(_number: int, _frame: object) -> None:
    raise KeyboardInterrupt


def strip_control_chars(text: str) -> str:
    """Return a text with every character that could control a terminal replaced by U+FFFD."""
    return _CONTROL_CHARS.sub("\N{REPLACEMENT CHARACTER}", text)


def plural(count: int, noun: str) -> str:
    """Return a count and its noun: ``1 row``, ``2 rows``."""
    return f"{count:,} {noun}" + ("" if count == 1 else "s")


def format_duration(seconds: float | None) -> str:
    """Return a duration as ``1:02:03`` or ``2:03``; ``?`` for None."""
    if seconds is None:
        return "?"
    minutes, rest = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


def echo(text: str, *, err: bool = False) -> None:
    """Print a line; ignore a reader that is gone (``| head -1``, a closed terminal).

    Raises:
        OSError: Writing to standard output failed for another reason, such as a full disk.
    """
    try:
        click.echo(text, err=err)
    except OSError as error:
        if not err and not isinstance(error, BrokenPipeError):
            raise
        # The rest of the buffer would fail again when Python exits, and change the exit code.
        with suppress(OSError, ValueError):
            nowhere = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, (sys.stderr if err else sys.stdout).fileno())
            os.close(nowhere)


@contextmanager
def show(panel: Callable[[], RenderableType], line: Callable[[], str], *, last: bool = True) -> Iterator[None]:
    """Show progress on standard error: a panel on a terminal, otherwise lines (see ``_show_lines``)."""
    if sys.stderr and sys.stderr.isatty():
        with _show_panel(panel):
            yield
    else:
        with _show_lines(line, last=last):
            yield


@contextmanager
def _show_lines(line: Callable[[], str], *, last: bool = True) -> Iterator[None]:
    """Print ``line()`` every few seconds if it has changed; with ``last``, also once at the end."""
    stopped = threading.Event()

    def print_lines() -> None:
        printed = ""
        while not stopped.wait(_PLAIN_EVERY_S):
            if (text := line()) != printed:
                echo(text, err=True)
                printed = text

    thread = threading.Thread(target=print_lines, name="display", daemon=True)
    thread.start()
    try:
        yield
    finally:
        stopped.set()
        thread.join()
        if last:
            echo(line(), err=True)


@contextmanager
def _show_panel(render: Callable[[], RenderableType]) -> Iterator[None]:
    """Redraw ``render()`` on a terminal four times a second."""
    from rich.console import Console
    from rich.live import Live

    with Live(get_renderable=render, console=Console(stderr=True), refresh_per_second=4):
        yield
