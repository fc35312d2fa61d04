"""The version of the program, and the version of its interpretation of ledgers."""

__all__ = ["SEMANTICS", "__version__"]

__version__ = "0.1.0"

SEMANTICS = 2
"""Increased whenever the same ledger, config and seeds would give other bytes. A run keeps the semantics that it was
started with, a fork gets the current ones, and every version up to this one is read.

1 read completions unaltered: every finish reason except ``length`` marked a complete answer. It also had other filters
(``engine.earlier_filters``). 2 reads the answer alone, and names the finish reasons of complete answers.
"""
