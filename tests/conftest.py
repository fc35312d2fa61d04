"""Fixtures for every test."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Any

import pytest

from tests.loopback import Loopback


@pytest.fixture
def loopback() -> Iterator[Callable[..., Loopback]]:
    """Starts servers on loopback (arguments as ``Loopback`` takes them) that end with the test."""
    with ExitStack() as stack:

        def start(*arguments: Any, **options: Any) -> Loopback:
            return stack.enter_context(Loopback(*arguments, **options))

        yield start
