"""The suites of a run: files with the kind of each, their items, and the choice of some of them."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Self

from selfinstruct.common.codec import digest
from selfinstruct.common.suggestions import suggest
from selfinstruct.errors import DataError
from selfinstruct.suites import suite_registry
from selfinstruct.suites.base import Item, Suite

__all__ = ["SuiteFile", "SuiteItem", "choose_items", "read_items", "read_suite", "read_suite_text", "suite_version"]

_ENDINGS = (".json", ".jsonl")


@dataclass(frozen=True, slots=True)
class SuiteFile:
    """A file of items and the kind of suite that reads it; several files of one kind are one suite."""

    name: str
    path: Path

    def __str__(self) -> str:
        return f"{self.name}={self.path}"

    @classmethod
    def parse(cls, text: str) -> Iterator[Self]:
        """Yield the files that ``NAME=FILE`` or ``NAME=FOLDER`` names.

        Raises:
            ValueError: It is not of this form, there is no such suite, or the folder holds no suite file.
        """
        name, separator, value = text.partition("=")
        name, names = name.strip(), suite_registry.names()
        if not separator or not value.strip():
            raise ValueError(f"{text!r}: write NAME=FILE, with one of the suites {', '.join(names)}")
        if name not in suite_registry:
            raise ValueError(f"there is no suite {name!r}{suggest(name, names)}; there are {', '.join(names)}")
        path = Path(value.strip())
        if not path.is_dir():
            yield cls(name, path)
            return
        files = sorted(file for file in path.iterdir() if file.suffix in _ENDINGS and file.is_file())
        if not files:
            raise ValueError(f"{path}: the folder holds no suite file ({' or '.join(_ENDINGS)})")
        yield from (cls(name, file) for file in files)


@dataclass(frozen=True, slots=True)
class SuiteItem:
    """An item with the suite that scores it.

    Attributes:
        id: Name of the suite and key of the item, as in ``ifeval/1001``.
    """

    id: str
    suite: Suite
    item: Item

    @property
    def suite_name(self) -> str:
        """The name of the suite."""
        return self.id.partition("/")[0]

    @property
    def cluster(self) -> str:
        """The cluster of the item, which is the item alone by default."""
        return f"{self.suite_name}/{self.item.cluster}" if self.item.cluster else self.id


def suite_version(name: str) -> str:
    """Return the version of a suite's reader and scoring, with the distribution of a plugin."""
    origin = suite_registry.origin(name)
    return f"{name} {suite_registry.get(name).version}{f' ({origin})' if origin else ''}"


def read_suite(file: SuiteFile) -> Suite:
    """Read the file of a suite.

    Raises:
        UsageError: The file can't be read.
        DataError: A row is invalid, or there are no rows.
    """
    suite = suite_registry.get(file.name).read(file.path)
    if not suite.items:
        raise DataError(f"{file.path}:1: the file holds no item for the suite {file.name}")
    return suite


def read_suite_text(file: SuiteFile, text: str) -> Suite:
    """Read a suite from the text of its file, as a ledger stores it; the file itself need not exist."""
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder) / (os.path.basename(file.path) or "suite")  # suites read the name of a file, too
        copy.write_text(text, encoding="utf-8")
        return read_suite(SuiteFile(file.name, copy))


def read_items(suites: Iterable[tuple[SuiteFile, Suite]]) -> list[SuiteItem]:
    """Return the items of several files, in order.

    Raises:
        DataError: Two items of one suite have the same key.
    """
    items: dict[str, SuiteItem] = {}
    origins: dict[str, Path] = {}
    for file, suite in suites:
        for item in suite.items:
            name = f"{file.name}/{item.key}"
            if name in items:
                where = f"{file.path} and {origins[name]}" if origins[name] != file.path else f"{file.path}"
                raise DataError(f"{where}: the key {item.key!r} is used twice; give one of the items another one")
            items[name], origins[name] = SuiteItem(name, suite, item), file.path
    return list(items.values())


def choose_items(items: Sequence[SuiteItem], limit: int | None, seed: int) -> list[SuiteItem]:
    """Return at most ``limit`` items of each suite, in order.

    A larger limit keeps the items of a smaller one, and further items in a file leave the order of preference as it is:
    the rank of an item is a digest of seed and id.
    """
    if limit is None:
        return list(items)
    chosen: set[str] = set()
    by_suite = sorted((item.suite_name, digest([seed, item.id]), item.id) for item in items)
    for _, ranked in groupby(by_suite, key=lambda entry: entry[0]):
        chosen.update(name for _, _, name in list(ranked)[:limit])
    return [item for item in items if item.id in chosen]
