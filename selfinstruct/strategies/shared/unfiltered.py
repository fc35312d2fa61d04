"""Default settings of strategies whose tasks are given, so that no filter decides on them."""

from __future__ import annotations

from collections.abc import Mapping

__all__ = ["UNFILTERED"]

UNFILTERED: Mapping[str, None] = dict.fromkeys(
    ("word_count", "keywords", "punctuation", "program", "novelty", "copied", "near_duplicate")
)
"""The section ``filters``, with every filter off."""
