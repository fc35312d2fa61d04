"""Bootstrap instruction-tuning data with any language model, and explain every row of it."""

__version__ = "0.1.0"

SEMANTICS = 1
"""Raised whenever the same ledger, config and seeds would give other bytes; older runs are then refused."""
