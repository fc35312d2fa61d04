"""What the command lines share: commands loaded when they are called, errors as sentences, lines and panels."""

from __future__ import annotations

import importlib
import os
import re
import signal
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any

import click

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
    "show_lines",
    "show_panel",
    "strip_control_chars",
]

# Control characters but tab and newline, those that turn the writing direction, and halves of surrogate pairs.
_DRIVING = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069\ud800-\udfff]")
_PLAIN_EVERY_S = 5.0


class LazyGroup(click.Group):
    """A group whose help needs no command: each is ``command`` of a module of its name, loaded when it is called.

    Args:
        package: Where the modules lie.
        summaries: A line for each command, in the order of the help.
        extras: Packages that may be absent, and the extra that brings each.
    """

    def __init__(
        self, *args: Any, package: str, summaries: Mapping[str, str], extras: Mapping[str, str], **attributes: Any
    ) -> None:
        super().__init__(*args, **attributes)
        self.package = package
        self.summaries = summaries
        self.extras = extras

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002 - click's signature
        """The names, in the order of the help."""
        return list(self.summaries)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:  # noqa: ARG002
        """Load a command."""
        if cmd_name not in self.summaries:
            return None
        command: click.Command = importlib.import_module(f"{self.package}.{cmd_name}").command
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:  # noqa: ARG002
        """Write the list of commands without loading them."""
        with formatter.section("Commands"):
            formatter.write_dl(list(self.summaries.items()))

    def invoke(self, ctx: click.Context) -> Any:
        """Call the command; an error that a user can mend is a sentence and an exit code."""
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
    """Call a command line and end the process with its exit code; ``kept`` tells what an unknown error leaves."""
    signal.signal(signal.SIGTERM, _interrupt)
    try:
        code = cli(prog_name=name, standalone_mode=False) or 0
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        sys.exit(code)
    except click.ClickException as error:
        error.show()
        sys.exit(error.exit_code)
    except (click.Abort, KeyboardInterrupt):
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # impatience would make a traceback of Python's own end
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        click.echo("stopped", err=True)
        sys.exit(130)
    except Exception as error:
        if os.environ.get("SELFINSTRUCT_TRACEBACK"):
            raise
        click.echo(
            f"Error: {type(error).__name__}: {error}\nThis should not happen; {kept}. "
            "Set SELFINSTRUCT_TRACEBACK=1 to see where it came from.",
            err=True,
        )
        sys.exit(1)


def _interrupt(_number: int, _frame: object) -> None:
    raise KeyboardInterrupt


def strip_control_chars(text: str) -> str:
    """A text that is somebody else's, without what could drive a terminal: each such character becomes U+FFFD."""
    return _DRIVING.sub("\N{REPLACEMENT CHARACTER}", text)


def plural(count: int, noun: str) -> str:
    """``1 row``, ``2 rows``."""
    return f"{count:,} {noun}" + ("" if count == 1 else "s")


def format_duration(seconds: float | None) -> str:
    """``1:02:03``, ``2:03``, or ``?``."""
    if seconds is None:
        return "?"
    minutes, rest = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


def echo(text: str, *, err: bool = False) -> None:
    """Print a line; that nobody reads it any more (``| head -1``, a terminal that is gone) is no reason to stop.

    Raises:
        OSError: Standard output can't take it for another reason: a full disk, say.
    """
    try:
        click.echo(text, err=err)
    except OSError as error:
        if not err and not isinstance(error, BrokenPipeError):
            raise
        # What is still in the buffer would fail again when Python ends, and change the exit code.
        with suppress(OSError, ValueError):
            nowhere = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, (sys.stderr if err else sys.stdout).fileno())
            os.close(nowhere)


@contextmanager
def show(panel: Callable[[], RenderableType], line: Callable[[], str], *, last: bool = True) -> Iterator[None]:
    """Show what goes on on standard error: as a panel on a terminal, else as lines, ``last`` once more at the end."""
    if sys.stderr and sys.stderr.isatty():
        with show_panel(panel):
            yield
    else:
        with show_lines(line, last=last):
            yield


@contextmanager
def show_lines(line: Callable[[], str], *, last: bool = True) -> Iterator[None]:
    """Print a line every few seconds when it has changed, and, with ``last``, once at the end."""
    stopped = threading.Event()

    def tell() -> None:
        before = ""
        while not stopped.wait(_PLAIN_EVERY_S):
            if (now := line()) != before:
                echo(now, err=True)
                before = now

    thread = threading.Thread(target=tell, name="display", daemon=True)
    thread.start()
    try:
        yield
    finally:
        stopped.set()
        thread.join()
        if last:
            echo(line(), err=True)


@contextmanager
def show_panel(render: Callable[[], RenderableType]) -> Iterator[None]:
    """Draw what ``render`` gives, again and again, on a terminal."""
    from rich.console import Console
    from rich.live import Live

    with Live(get_renderable=render, console=Console(stderr=True), refresh_per_second=4):
        yield
