"""Suites: files of questions whose answers are scored by code."""

from selfinstruct.suites.base import Item, Metric, Suite
from selfinstruct.suites.ifbench import IFBench
from selfinstruct.suites.ifeval import IFEval

__all__ = ["IFBench", "IFEval", "Item", "Metric", "Suite"]
