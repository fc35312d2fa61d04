"""Filter a file of rows into another file: the Python interface of ``selfinstruct filter``."""

from selfinstruct.filtering.file_filter import FilterProgress, FilterSummary, filter_file
from selfinstruct.filtering.options import EMBEDDER, FilterFileOptions

__all__ = ["EMBEDDER", "FilterFileOptions", "FilterProgress", "FilterSummary", "filter_file"]
