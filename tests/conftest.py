"""Fixtures for every test, and the table of promises at the end."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Any

import pytest
from hypothesis import settings

from tests.loopback import Loopback

Promise = Callable[[str, str], None]
_PROMISES = pytest.StashKey[list[tuple[str, str, pytest.Item]]]()


def pytest_configure() -> None:
    """Settings of hypothesis, and Ctrl-C for processes that tests start."""
    settings.register_profile("suite", deadline=None)  # how long an example takes is the machine's affair
    settings.load_profile("suite")
    # A suite that runs in the background would hand its deafness on.
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark what keeps a promise, so that ``make prove`` finds it among the quick tests too."""
    for item in items:
        if "promise" in getattr(item, "fixturenames", ()):
            item.add_marker("promise")


@pytest.fixture
def loopback() -> Iterator[Callable[..., Loopback]]:
    """Starts servers on loopback (arguments as ``Loopback`` takes them) that end with the test."""
    with ExitStack() as stack:

        def start(*arguments: Any, **options: Any) -> Loopback:
            return stack.enter_context(Loopback(*arguments, **options))

        yield start


@pytest.fixture
def promise(request: pytest.FixtureRequest) -> Promise:
    """Call it with a promise (``"crashes"``) and the figure found; ``make prove`` prints all of them as a table."""
    found = request.config.stash.setdefault(_PROMISES, [])
    return lambda kept, figure: found.append((kept, figure, request.node))


def pytest_terminal_summary(terminalreporter: Any, config: pytest.Config) -> None:
    """The table: only where the proofs were asked for, and without the short form of what has a long one."""
    found = config.stash.get(_PROMISES, [])
    if not found or "not prove" in str(config.option.markexpr):
        return
    proved = {kept for kept, _, item in found if item.get_closest_marker("prove")}
    terminalreporter.section("promises")
    terminalreporter.write_line("| promise | found | by |")
    terminalreporter.write_line("|---|---|---|")
    for kept, figure, item in sorted(found, key=lambda one: one[:2]):
        if kept not in proved or item.get_closest_marker("prove"):
            terminalreporter.write_line(f"| {kept} | {figure} | `{item.name}` |")
