"""The version of the program, and the version of its interpretation of ledgers."""

__all__ = ["READABLE", "SEMANTICS", "__version__"]

__version__ = "0.1.0"

SEMANTICS = 2
"""Increased whenever the same ledger, config and seeds would give other bytes.

1 read completions unaltered: every finish reason except ``length`` marked a complete answer. It also had other filters
(``engine.earlier_filters``). 2 reads the answer alone, and names the finish reasons of complete answers.
"""

READABLE = frozenset({1, SEMANTICS})
"""The semantics by which this version can read; a run keeps its own, and a fork gets the current ones."""
