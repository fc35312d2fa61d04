"""Seed tasks: reading seed files, and checking their quality."""

from selfinstruct.seeds.checks import SeedReport, check_seeds
from selfinstruct.seeds.reading import (
    LoadedTasks,
    load_demonstrations,
    load_seeds,
    load_tasks,
    seeds_from_json,
    seeds_to_json,
)

__all__ = [
    "LoadedTasks",
    "SeedReport",
    "check_seeds",
    "load_demonstrations",
    "load_seeds",
    "load_tasks",
    "seeds_from_json",
    "seeds_to_json",
]
