"""Filtering a file of rows into another one: what ``selfinstruct filter`` does."""

from selfinstruct.filtering.run import FilterFileOptions, FilterProgress, FilterSummary, filter_file

__all__ = ["FilterFileOptions", "FilterProgress", "FilterSummary", "filter_file"]
