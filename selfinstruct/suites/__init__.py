"""Suites: files of questions whose answers are scored by code."""

from selfinstruct.suites.base import Item, Metric, Suite

__all__ = ["Item", "Metric", "Suite"]
