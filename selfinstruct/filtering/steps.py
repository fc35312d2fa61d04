"""The filters of a pass over a file, in order, each with the text of a row that it decides on."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from selfinstruct.common.codec import dumps
from selfinstruct.common.rows import RowTexts, texts_of
from selfinstruct.common.sources import STDIO, SourceRow, open_lines, open_source
from selfinstruct.errors import DataError, UsageError
from selfinstruct.filtering.options import FilterFileOptions
from selfinstruct.filters import (
    Boilerplate,
    Decontaminator,
    Filter,
    Ifd,
    Keywords,
    Language,
    NearDuplicateIndex,
    NoveltyIndex,
    Perplexity,
    Pii,
    Refusals,
    Repetition,
    SemanticIndex,
    TextIndex,
    Verdict,
    WordCount,
)
from selfinstruct.filters.base import Reads
from selfinstruct.filters.perplexity import load_scorer
from selfinstruct.verifiers import verify, without_nulls

__all__ = ["Step", "full_text", "steps_of"]

Text = Callable[[SourceRow], str]


@dataclass(frozen=True)
class Step:
    """One filter of the pass.

    Attributes:
        filter: The filter.
        label: Name and setting, for the summary.
        text: Returns the text that the filter decides on.
        reported: Returns the text for the report; None for the text that the filter decides on.
    """

    filter: Filter | TextIndex
    label: str
    text: Text
    reported: Text | None = None


def steps_of(options: FilterFileOptions) -> list[Step]:
    """Return the filters that are on: rules first, then models, indexes last.

    Raises:
        UsageError: An option is invalid, or a model or a file of benchmark items cannot be read.
        MissingExtraError: A filter needs a package that is not installed.
    """
    return [*_rules(options), *_models(options), *_indexes(options)]


def _rules(options: FilterFileOptions) -> Iterator[Step]:
    if options.words is not None:
        least, most = options.words
        yield _step(WordCount(least, most), f"words {least} to {most}")
    if options.keywords:
        yield _step(Keywords(), "keywords")
    if options.repetition:
        yield _step(Repetition(), "repetition")
    if options.refusals:
        yield _step(Refusals(), "refusals")
    if options.boilerplate:
        yield _step(Boilerplate(), "boilerplate")
    if options.language:
        languages = Language(allow=options.language)
        languages.verdict("")  # fails before any row is read if lingua is missing or a code is unknown
        yield _step(languages, f"language {', '.join(options.language)}")
    if options.pii == "drop":
        yield _step(Pii(), "pii")
    if options.decontaminate:
        ids, items = _items(options.decontaminate)
        yield _step(Decontaminator(items, ids), f"decontamination from {len(items):,} items")
    for plugin in options.plugins:
        yield _step(plugin, plugin.name)
    if options.verify:
        yield Step(_Verified(), "verify", _verifier_and_answer, reported=_answer_of)


def _models(options: FilterFileOptions) -> Iterator[Step]:
    if options.perplexity is None and options.ifd is None:
        return
    if options.scorer is None:
        raise UsageError("perplexity and ifd need a causal language model: name it or its directory by --scorer")
    scorer = load_scorer(options.scorer)  # fails before any row is read
    if options.perplexity is not None:
        low, high = options.perplexity
        yield _step(Perplexity(scorer, min=low, max=high), f"perplexity {_bounds(low, high)}")
    if options.ifd is not None:
        low, high = options.ifd
        difficulty = _RowIfd(Ifd(scorer, min=low, max=high))
        yield Step(difficulty, f"ifd {_bounds(low, high)}", _prompt_and_answer, reported=_answer_of)


def _indexes(options: FilterFileOptions) -> Iterator[Step]:
    if options.rouge is not None:
        yield Step(NoveltyIndex(options.rouge, options.tokenizer), f"rouge {options.rouge:g}", _instruction_of)
    if options.minhash is not None:
        yield Step(NearDuplicateIndex(options.minhash), f"minhash {options.minhash:g}", full_text)
    if options.semantic is not None:
        yield Step(SemanticIndex(options.semantic, options.embedder), f"semantic {options.semantic:g}", _instruction_of)


def _step(member: Filter, label: str) -> Step:
    return Step(member, label, TEXTS[member.reads])


def _bounds(low: float, high: float) -> str:
    return f"{low:g} to {high:g}" if math.isfinite(high) else f"{low:g} or more"


def _items(names: Iterable[str]) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Return ids and texts of benchmark items; a text file holds one item per line."""
    ids: list[str] = []
    items: list[str] = []
    for name in names:
        if name == STDIO:
            raise UsageError("benchmark items are read from files, not from standard input")
        opened = open_source(name) if Path(name).suffix != ".txt" else open_lines(Path(name))
        for row in opened.rows:
            if isinstance(row, DataError):
                raise row
            try:
                item = texts_of(row.value).prompt
            except ValueError as error:
                raise DataError(f"{opened.where(row.number)}: {error}") from None
            if item.strip():
                ids.append(opened.where(row.number))
                items.append(item)
    if not items:
        raise UsageError(f"{', '.join(names)}: contains no benchmark item")
    return tuple(ids), tuple(items)


def _texts_of(row: SourceRow) -> RowTexts:
    assert row.texts is not None
    return row.texts


def _instruction_of(row: SourceRow) -> str:
    return _texts_of(row).question


def _answer_of(row: SourceRow) -> str:
    return _texts_of(row).answer


def full_text(row: SourceRow) -> str:
    """Return all texts of a row except system messages."""
    return _texts_of(row).full_text


TEXTS: Mapping[Reads, Text] = {"row": full_text, "instruction": _instruction_of, "output": _answer_of}


def _verifier_and_answer(row: SourceRow) -> str:
    """Return a row's verifier and answer as one JSON text, since a filter decides on texts."""
    return dumps([without_nulls(row.value.get("verifier")), _answer_of(row)])


def _prompt_and_answer(row: SourceRow) -> str:
    """Return a row's prompt and answer as one JSON text, since a filter decides on texts."""
    return dumps([_texts_of(row).prompt, _answer_of(row)])


@dataclass(frozen=True)
class _Verified(Filter):
    """Rejects a row whose answer fails the row's own verifier; a row without a verifier is kept."""

    name: ClassVar[str] = "verifier"

    def verdict(self, text: str) -> Verdict:
        """Decide on a text that ``_verifier_and_answer`` made."""
        verifier, answer = json.loads(text)
        return self.keep() if verifier is None else verify(verifier, answer)


@dataclass(frozen=True)
class _RowIfd(Filter):
    """``Ifd`` on texts that ``_prompt_and_answer`` made."""

    name: ClassVar[str] = Ifd.name
    difficulty: Ifd

    def decide(self, texts: Iterable[str]) -> list[Verdict]:
        """Decide on each text."""
        pairs = [json.loads(text) for text in texts]
        return self.difficulty.decide([prompt for prompt, _ in pairs], [answer for _, answer in pairs])
