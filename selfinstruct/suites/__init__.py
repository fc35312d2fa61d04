"""Suites: files of questions whose answers are scored by code, by the name that ``--suite NAME=FILE`` uses.

A suite of your own is a subclass of ``Suite`` that a package offers under the entry point ``selfinstruct.suites``.
"""

from __future__ import annotations

from typing import TypeGuard

from selfinstruct.plugins import Registry
from selfinstruct.suites.base import Item, Metric, Suite
from selfinstruct.suites.ifbench import IFBench
from selfinstruct.suites.ifeval import IFEval
from selfinstruct.suites.rouge import Rouge
from selfinstruct.suites.verified import Verified

__all__ = ["SUITES", "IFBench", "IFEval", "Item", "Metric", "Suite", "suite_registry"]

SUITES: dict[str, type[Suite]] = {kind.name: kind for kind in (IFBench, IFEval, Rouge, Verified)}
"""The built-in suites."""


def _is_suite(entry: object) -> TypeGuard[type[Suite]]:
    return isinstance(entry, type) and issubclass(entry, Suite)


suite_registry = Registry("suite", SUITES, _is_suite, "a subclass of Suite")
