"""The version of the program, and the version of its interpretation of ledgers."""

__all__ = ["SEMANTICS", "__version__"]

__version__ = "0.1.0"

SEMANTICS = 1
"""Increased whenever the same ledger, config and seeds would give other bytes; older runs are then refused."""
