"""Filtering a file of rows into another one: what ``selfinstruct filter`` does."""

from selfinstruct.filtering.run import Options, Outcome, Progress, filter_file

__all__ = ["Options", "Outcome", "Progress", "filter_file"]
