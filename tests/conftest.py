"""Fixtures for every test, and the table of promises that ``make prove`` prints."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from hypothesis import settings

from tests.loopback import Loopback

# Read when torch is first imported, also by processes that tests start. The tensors of the tests are tiny: more threads
# would only wait for each other, and waiting threads that spin take the cores of other tests.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("OMP_WAIT_POLICY", "passive")
os.environ.setdefault("GOMP_SPINCOUNT", "0")

# These modules of unit tests import torch, and most of them train or load models: `make check` leaves them out.
SLOW = {
    f"test_finetune_{name}.py"
    for name in (
        "adapters",
        "architectures",
        "chat",
        "core",
        "estimate",
        "evaluate",
        "gguf",
        "gguf_architectures",
        "gguf_tokenizers",
        "model",
        "optim",
        "preferences",
        "preparation",
        "report",
        "sample",
        "speed",
        "stopping",
    )
} | {"test_transformers_backend.py", "test_transformers_sampling.py"}

Promise = Callable[[str, str], None]


def pytest_configure(config: pytest.Config) -> None:
    """Configure markers and hypothesis, and let processes that tests start receive Ctrl-C."""
    config.addinivalue_line("markers", "slow: a unit test that takes seconds or needs torch; make check leaves it out")
    settings.register_profile("suite", deadline=None)  # a slow machine is no failure
    settings.load_profile("suite")
    # A suite that runs in the background ignores SIGINT, and child processes would inherit that.
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """Do not import modules of slow tests only to deselect their tests: torch and transformers take seconds to load."""
    return True if collection_path.name in SLOW and "not slow" in config.option.markexpr else None


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark slow unit tests, and tests that prove a promise, so that ``make prove`` also selects the quick ones."""
    for item in items:
        if item.path.name in SLOW:
            item.add_marker("slow")
        if "promise" in getattr(item, "fixturenames", ()):
            item.add_marker("promise")


@pytest.fixture
def loopback() -> Iterator[Callable[..., Loopback]]:
    """Return a function that starts a ``Loopback`` server with its arguments; servers end with the test."""
    with ExitStack() as stack:

        def start(*arguments: Any, **options: Any) -> Loopback:
            return stack.enter_context(Loopback(*arguments, **options))

        yield start


@pytest.fixture
def promise(request: pytest.FixtureRequest) -> Promise:
    """Return a function that records a promise (``"crashes"``) and the measured figure; ``make prove`` prints them."""
    slow = request.node.get_closest_marker("prove") is not None

    def record(name: str, figure: str) -> None:
        # Properties of a test are part of its report, which xdist sends to the process that prints the table.
        row = {"promise": name, "figure": figure, "test": request.node.name, "slow": slow}
        request.node.user_properties.append(("promise", row))

    return record


def pytest_terminal_summary(terminalreporter: Any, config: pytest.Config) -> None:
    """Print the table where proofs were requested, without the short form of a proof that has a long one."""
    reports = [report for reports in terminalreporter.stats.values() for report in reports]
    rows = [
        value
        for report in reports
        if getattr(report, "when", "") == "call"
        for name, value in report.user_properties
        if name == "promise"
    ]
    if not rows or "not prove" in str(config.option.markexpr):
        return
    proved = {row["promise"] for row in rows if row["slow"]}
    terminalreporter.section("promises")
    terminalreporter.write_line("| promise | measured | test |")
    terminalreporter.write_line("|---|---|---|")
    for row in sorted(rows, key=lambda row: (row["promise"], row["figure"])):
        if row["promise"] not in proved or row["slow"]:
            terminalreporter.write_line(f"| {row['promise']} | {row['figure']} | `{row['test']}` |")
