"""Filter or split a file of rows: the Python interface of ``selfinstruct filter`` and ``selfinstruct split``."""

from selfinstruct.filtering.file_filter import FilterProgress, FilterSummary, filter_file
from selfinstruct.filtering.options import EMBEDDER, FilterFileOptions
from selfinstruct.filtering.split import SplitSummary, split_file

__all__ = [
    "EMBEDDER",
    "FilterFileOptions",
    "FilterProgress",
    "FilterSummary",
    "SplitSummary",
    "filter_file",
    "split_file",
]
