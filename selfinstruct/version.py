"""The version of the program, and that of what it makes of a ledger."""

__all__ = ["SEMANTICS", "__version__"]

__version__ = "0.1.0"

SEMANTICS = 1
"""Raised whenever the same ledger, config and seeds would give other bytes; older runs are then refused."""
