"""The filters of a pass over a file, in order, each with the text of a row that it decides on."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

from selfinstruct.common.codec import dumps
from selfinstruct.common.nested import parse_nested
from selfinstruct.common.row_texts import RowTexts, texts_of
from selfinstruct.common.sources import STDIO, SourceRow, open_rows
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
    Reward,
    SemanticIndex,
    TextIndex,
    Verdict,
    WordCount,
)
from selfinstruct.filters.base import Reads
from selfinstruct.filters.perplexity import load_scorer
from selfinstruct.filters.reward import load_reward_scorer
from selfinstruct.reasons import RejectReason
from selfinstruct.suites.files import SuiteFile, read_items, read_suite
from selfinstruct.verifiers import verify, without_nulls

__all__ = ["Step", "all_texts", "full_text", "steps_of"]

Text = Callable[[SourceRow], str]


@dataclass(frozen=True)
class Step:
    """One filter of the pass.

    Attributes:
        filter: The filter.
        label: Name and setting, for the summary; "" for a step that belongs to the next one.
        text: Returns the text that the filter decides on.
        reported: Returns the text for the report; None for the text that the filter decides on.
        compares: Whether the filter compares rows, so that a rejection names a row.
        column: The field of a kept row that takes the score of the verdict; "" for none.
    """

    filter: Filter | TextIndex
    label: str
    text: Text
    reported: Text | None = None
    compares: bool = False
    column: str = ""

    @property
    def reads_answer(self) -> bool:
        """Whether the filter decides on the answer, which must be readable then."""
        return self.text in (_answer_of, _verifier_and_answer, _prompt_and_answer, _messages_of)


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
        yield Step(Pii(), "pii", all_texts)
    if options.decontaminate or options.suites:
        ids, items = _benchmark(options)
        yield Step(Decontaminator(items, ids), f"decontamination from {len(items):,} items", _scope_and_body)
    for plugin in options.plugins:
        yield _step(plugin, plugin.name)
    if options.verify:
        yield Step(_Verified(), "verify", _verifier_and_answer, reported=_answer_of)


def _models(options: FilterFileOptions) -> Iterator[Step]:
    yield from _language_models(options)
    if options.reward is not None:
        low = options.min_reward
        reward = _RowReward(Reward(load_reward_scorer(options.reward), min=low))  # fails before any row is read
        label = "reward" if low is None else f"reward {low:g} or more"
        yield Step(reward, label, _messages_of, reported=_answer_of, column=reward.name)
    elif options.min_reward is not None:
        raise UsageError("min_reward needs a reward model: name it or its directory by --reward")


def _language_models(options: FilterFileOptions) -> Iterator[Step]:
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
        yield from _compared(NoveltyIndex(options.rouge, options.tokenizer), options.rouge, _instruction_of)
    if options.minhash is not None:
        yield from _compared(NearDuplicateIndex(options.minhash), options.minhash, _body_of)
    if options.semantic is not None:
        yield from _compared(SemanticIndex(options.semantic, options.embedder), options.semantic, _instruction_of)


def _compared(index: TextIndex, threshold: float, text: Text) -> Iterator[Step]:
    """Yield the step that rejects blank texts, and the one that compares the others in their scope."""

    def scoped_text(row: SourceRow) -> str:
        return dumps([str(row.number), _texts_of(row).scope, text(row)])

    reported = full_text if text is _body_of else text
    yield Step(_HasText(index.name), "", text, reported)
    yield Step(_Scoped(index.name, index), f"{index.name} {threshold:g}", scoped_text, reported, compares=True)


def _step(member: Filter, label: str) -> Step:
    return Step(member, label, TEXTS[member.reads])


def _bounds(low: float, high: float) -> str:
    return f"{low:g} to {high:g}" if math.isfinite(high) else f"{low:g} or more"


def _benchmark(options: FilterFileOptions) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Return ids and texts of the benchmark items and of the questions of the suites.

    Raises:
        DataError: An item can't be read.
        UsageError: A suite is unknown, or a file can't be read.
    """
    ids: tuple[str, ...] = ()
    items: tuple[str, ...] = ()
    if options.decontaminate:
        ids, items = _items(options.decontaminate, skip_malformed=options.skip_malformed)
    try:
        files = [file for text in options.suites for file in SuiteFile.parse(text)]
    except ValueError as error:
        raise UsageError(str(error)) from None
    asked = read_items((file, read_suite(file)) for file in files)
    return (*ids, *(each.id for each in asked)), (*items, *(each.item.question for each in asked))


def _items(names: Iterable[str], *, skip_malformed: bool) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Return ids and texts of benchmark items; a text file holds one item per line.

    Raises:
        DataError: An item can't be read, and ``skip_malformed`` is off.
        UsageError: A file can't be read, or there is no item.
    """
    ids: list[str] = []
    items: list[str] = []
    for name in names:
        if name == STDIO:
            raise UsageError("benchmark items are read from files, not from standard input")
        opened = open_rows(name)
        for row in opened.rows:
            try:
                if isinstance(row, DataError):
                    raise row
                item = texts_of(row.value).prompt
            except (DataError, ValueError) as error:
                if skip_malformed:
                    continue
                message = error if isinstance(row, DataError) else f"{opened.where(row.number)}: {error}"
                raise DataError(str(message)) from None
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
    """Return all texts of a row except its system prompt and its tools."""
    return _texts_of(row).full_text


def _body_of(row: SourceRow) -> str:
    return _texts_of(row).body


def _scope_and_body(row: SourceRow) -> str:
    texts = _texts_of(row)
    return "\n".join(filter(None, (texts.scope, texts.body)))


def all_texts(row: SourceRow) -> str:
    """Return every string in a row, at any depth and in any field, one per line."""
    return "\n".join(_strings(row.value))


def _strings(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        nested = parse_nested(value)
        yield value
        if nested is not None:  # its strings without the escapes of JSON
            yield from _strings(nested)
    elif isinstance(value, Mapping):
        for item in value.values():
            yield from _strings(item)
    elif isinstance(value, list | tuple):
        for item in value:
            yield from _strings(item)


TEXTS: Mapping[Reads, Text] = {"row": full_text, "instruction": _instruction_of, "output": _answer_of}


def _verifier_and_answer(row: SourceRow) -> str:
    """Return a row's verifier and answer as one JSON text, since a filter decides on texts."""
    return dumps([without_nulls(row.value.get("verifier")), _answer_of(row)])


def _prompt_and_answer(row: SourceRow) -> str:
    """Return a row's prompt and answer as one JSON text, since a filter decides on texts."""
    return dumps([_texts_of(row).prompt, _answer_of(row)])


def _messages_of(row: SourceRow) -> str:
    """Return a row's messages as one JSON text, since a filter decides on texts."""
    return dumps(_texts_of(row).messages)


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


@dataclass(frozen=True)
class _RowReward(Filter):
    """``Reward`` on texts that ``_messages_of`` made."""

    name: ClassVar[str] = Reward.name
    reward: Reward

    def decide(self, texts: Iterable[str]) -> list[Verdict]:
        """Decide on each text."""
        return self.reward.decide_conversations([json.loads(text) for text in texts])


@dataclass(frozen=True)
class _HasText(Filter):
    """Rejects a blank text, which an index would take for a duplicate of every other blank text.

    Attributes:
        index: Name of the index that follows, as whose verdict the rejection is reported.
    """

    name: ClassVar[str] = "has_text"
    index: str

    def verdict(self, text: str) -> Verdict:
        """Decide on one text."""
        kept = bool(text.strip())
        return Verdict(self.index, kept, "" if kept else RejectReason.NOTHING_TO_JUDGE)


@dataclass(frozen=True)
class _Scoped(Filter):
    """An index that compares a row with the rows whose scopes are near-duplicates of its own.

    A scope (``RowTexts.scope``) is often longer than the row's own text and shared by many rows. It is therefore
    compared by itself: in one text with the row it would make different rows alike, and without it the same question
    about two passages, or under two system prompts, would count as one row.

    Attributes:
        index_name: Name of the index, as whose verdict a rejection is reported.
        index: The index of the rows without a scope; the others have its settings.
    """

    name: ClassVar[str] = "scoped"
    index_name: str
    index: TextIndex = field(repr=False, compare=False)
    _scopes: NearDuplicateIndex = field(default_factory=NearDuplicateIndex, init=False, repr=False, compare=False)
    _group_of: dict[str, str] = field(default_factory=lambda: {"": ""}, init=False, repr=False, compare=False)
    _indexes: dict[str, TextIndex] = field(default_factory=dict, init=False, repr=False, compare=False)
    _single: dict[str, tuple[str, str]] = field(default_factory=dict, init=False, repr=False, compare=False)

    def decide(self, texts: Sequence[str]) -> list[Verdict]:
        """Decide on JSON texts of a row's number, its scope and the text to compare."""
        rows = [json.loads(text) for text in texts]
        self._group([scope for _, scope, _ in rows])
        members: dict[str, list[int]] = {}
        for position, (_, scope, _) in enumerate(rows):
            members.setdefault(self._group_of[scope], []).append(position)
        verdicts: dict[int, Verdict] = {}
        for group, positions in members.items():
            batch = [(rows[position][0], rows[position][2]) for position in positions]
            verdicts.update(zip(positions, self._offer(group, batch), strict=True))
        return [verdicts[position] for position in range(len(rows))]

    def _group(self, scopes: Sequence[str]) -> None:
        """Assign new scopes to the group of the nearest earlier scope, or to groups of their own."""
        new = [scope for scope in dict.fromkeys(scopes) if scope not in self._group_of]
        names = [str(len(self._group_of) + number) for number in range(len(new))]
        for scope, name, verdict in zip(new, names, self._scopes.offer_many(new, names), strict=True):
            self._group_of[scope] = name if verdict.kept else str(verdict.nearest)

    def _offer(self, group: str, rows: Sequence[tuple[str, str]]) -> list[Verdict]:
        """Offer numbers and texts to the index of a group, which is made for the second row: most groups have one."""
        index = self.index if group == "" else self._indexes.get(group)
        if index is None:
            if len(rows) == 1 and group not in self._single:
                self._single[group] = rows[0]
                return [Verdict(self.index_name, True)]
            index = self._indexes[group] = self.index.empty(self.index.threshold)
            if group in self._single:
                number, text = self._single.pop(group)
                index.add(text, number)
        return index.offer_many([text for _, text in rows], [number for number, _ in rows])
