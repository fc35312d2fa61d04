"""The filters of a run, in their order, over the candidates of one completion at a time.

A candidate that brings its own instruction is judged as a task first; one with an output is judged as a row. A task
whose instruction passes stays in the novelty pool even if its instances fail: asking for it again would be no news.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from selfinstruct.filters import (
    Copied,
    Keywords,
    LeadingPunctuation,
    NearDuplicateIndex,
    NoveltyIndex,
    ProgramPrefix,
    Tokenizer,
    WordCount,
    judge_instances,
)
from selfinstruct.filters.rouge.index import Explain
from selfinstruct.pool import AcceptedRow, Pool
from selfinstruct.records import Candidate, Instance, Received, Request, Task, Verdict
from selfinstruct.verifiers import verify

__all__ = [
    "FilterOptions",
    "FilterOutcome",
    "FilteredCandidate",
    "FullComparison",
    "NearDuplicateOptions",
    "NoveltyOptions",
    "RowFilters",
    "every_request",
    "no_request",
    "row_text",
]


FullComparison = Callable[[int], bool]


def every_request(_number: int) -> bool:
    """Every request is judged densely."""
    return True


def no_request(_number: int) -> bool:
    """No request is."""
    return False


@dataclass(frozen=True)
class NoveltyOptions:
    """ROUGE-L novelty of instructions against seeds and pool.

    Attributes:
        threshold: An instruction is kept while its highest F1 is at most this. Self-Instruct: 0.7.
        tokenizer: ``rouge`` for the decisions of the original code, ``auto`` for every script.
    """

    threshold: float = 0.7
    tokenizer: Tokenizer = "auto"

    def __post_init__(self) -> None:
        if not 0 < self.threshold <= 1:
            raise ValueError("threshold must be above 0 and at most 1")


@dataclass(frozen=True)
class NearDuplicateOptions:
    """MinHash near-duplicates over instruction, input and output, against the rows of other tasks.

    Attributes:
        threshold: Jaccard similarity of character 5-grams from which on a row is a duplicate.
    """

    threshold: float = 0.8
    num_perm: int = 128
    bands: int = 20

    def __post_init__(self) -> None:
        if not 0 < self.threshold <= 1:
            raise ValueError("threshold must be above 0 and at most 1")
        if not 0 < self.bands <= self.num_perm:
            raise ValueError("bands must be at least 1 and at most num_perm")


@dataclass(frozen=True)
class FilterOptions:
    """The filters of a run; null switches one off. The instance rules of Self-Instruct always hold."""

    word_count: WordCount | None = field(default_factory=WordCount)
    keywords: Keywords | None = field(default_factory=Keywords)
    punctuation: LeadingPunctuation | None = field(default_factory=LeadingPunctuation)
    program: ProgramPrefix | None = field(default_factory=ProgramPrefix)
    novelty: NoveltyOptions | None = field(default_factory=NoveltyOptions)
    copied: Copied | None = field(default_factory=Copied)
    near_duplicate: NearDuplicateOptions | None = field(default_factory=NearDuplicateOptions)


@dataclass(frozen=True, slots=True)
class FilteredCandidate:
    """A candidate with every verdict that was reached on it, in the order of the filters."""

    id: str
    candidate: Candidate
    verdicts: tuple[Verdict, ...]

    @property
    def kept(self) -> bool:
        return all(verdict.kept for verdict in self.verdicts)

    @property
    def reason(self) -> str:
        """Why it was rejected; "" if it was not."""
        return next((verdict.reason for verdict in self.verdicts if not verdict.kept), "")


@dataclass(frozen=True, slots=True)
class FilterOutcome:
    """All that one completion came to."""

    request: Request
    received: Received
    candidates: tuple[FilteredCandidate, ...]

    @property
    def fruitful(self) -> bool:
        """True when something came of it: a row, or something that may still bring one."""
        return bool(self.received.follow_ups) or any(one.kept for one in self.candidates)


class RowFilters:
    """Judges candidates against a pool, and adds to the pool what is kept. Deterministic in the order of calls.

    Args:
        dense: Of which requests (by number) to compare each instruction with the whole pool, so that its verdict tells
            the ten nearest and the mean, as the logs of the original do. The decision is the same, and takes longer the
            larger the pool is.
    """

    def __init__(self, options: FilterOptions, pool: Pool, *, dense: FullComparison = no_request) -> None:
        self._pool = pool
        self._dense = dense
        stateless = (options.word_count, options.keywords, options.punctuation, options.program)
        self._instruction_filters = tuple(one for one in stateless if one is not None)
        self._copied = options.copied
        self._novelty = self._near_duplicate = None
        if novelty := options.novelty:
            self._novelty = NoveltyIndex(threshold=novelty.threshold, tokenizer=novelty.tokenizer)
            self._novelty.fit([seed.instruction for seed in pool.seeds], [seed.id for seed in pool.seeds])
        if near := options.near_duplicate:
            self._near_duplicate = NearDuplicateIndex(near.threshold, num_perm=near.num_perm, bands=near.bands)

    def know_pool(self) -> None:
        """Take in what the pool holds as if it had been judged here: what was kept is all that a filter remembers."""
        if self._novelty is not None:
            known = [*self._pool.tasks, *self._pool.others]
            self._novelty.fit([task.instruction for task in known], [task.id for task in known])
        if self._near_duplicate is not None:
            rows = self._pool.rows
            self._near_duplicate.fit(
                [row_text(row.candidate) for row in rows], [row.id for row in rows], groups=[row.task for row in rows]
            )

    def judge(self, request: Request, received: Received) -> FilterOutcome:
        """Judge the candidates of one completion, in their order.

        Filter by filter, since an index judges many texts at once far faster than one by one. The verdicts are the
        same: what a filter says of a candidate depends on those before it that passed this filter, and on no later one.
        """
        received = received.with_ids(request)
        verdicts = _Verdicts(received.candidates)
        self._judge_tasks(verdicts, "dense" if self._dense(request.number) else "match")
        self._judge_rows(verdicts)
        judged = zip(verdicts.names, received.candidates, map(tuple, verdicts.found), strict=True)
        return FilterOutcome(request, received, tuple(FilteredCandidate(*one) for one in judged))

    def _judge_tasks(self, verdicts: _Verdicts, explain: Explain) -> None:
        """The instruction filters, cheapest first; what passes enters the novelty pool, and what is a task the view."""
        texts, names = verdicts.instructions, verdicts.names
        places = [place for place, one in enumerate(verdicts.candidates) if one.task is None and verdicts.kept(place)]
        for one in self._instruction_filters:
            places = verdicts.passed(places, one.judge([texts[place] for place in places]))
        if self._novelty is not None and places:  # an empty index is falsy
            offered = [texts[place] for place in places], [names[place] for place in places]
            places = verdicts.passed(places, self._novelty.offer_many(*offered, explain=explain))
        for place in places:
            kept = self._pool.tasks if verdicts.candidates[place].is_task else self._pool.others
            kept.append(Task(names[place], texts[place]))

    def _judge_rows(self, verdicts: _Verdicts) -> None:
        """The filters of rows, over those whose own instruction passed or was judged before."""
        candidates, names = verdicts.candidates, verdicts.names
        places = [place for place, one in enumerate(candidates) if one.kind != "pending_task" and verdicts.kept(place)]
        by_rules = _instance_rules(candidates)
        places = verdicts.passed(places, [by_rules[place] for place in places])
        if self._copied is not None:
            rows = [candidates[place] for place in places]
            copied = [self._copied.judge(row.output, row.input, row.shown_outputs) for row in rows]
            places = verdicts.passed(places, copied)
        verified = [place for place in places if candidates[place].verifier is not None]
        failed = set(verified) - set(verdicts.passed(verified, [_verified(candidates[place]) for place in verified]))
        places = [place for place in places if place not in failed and candidates[place].kind == "row"]
        tasks = {place: candidates[place].task or names[place] for place in places}
        if self._near_duplicate is not None and places:
            texts = [row_text(candidates[place]) for place in places]
            offered = self._near_duplicate.offer_many(texts, [names[place] for place in places], groups=tasks.values())
            places = verdicts.passed(places, offered)
        self._pool.rows.extend(AcceptedRow(names[place], tasks[place], candidates[place]) for place in places)


class _Verdicts:
    """The verdicts on the candidates of one completion, as they are reached; candidates are told by their place."""

    def __init__(self, candidates: Sequence[Candidate]) -> None:
        self.candidates = candidates
        self.instructions = [one.instruction for one in candidates]
        self.names = [one.id for one in candidates]
        self.found: list[list[Verdict]] = [list(one.verdicts) for one in candidates]

    def kept(self, place: int) -> bool:
        """Whether no filter rejected it so far."""
        return all(verdict.kept for verdict in self.found[place])

    def passed(self, places: Sequence[int], verdicts: Sequence[Verdict]) -> list[int]:
        """Note one filter's verdicts on some of them, and give the places of those that it keeps."""
        for place, verdict in zip(places, verdicts, strict=True):
            self.found[place].append(verdict)
        return [place for place, verdict in zip(places, verdicts, strict=True) if verdict.kept]


def row_text(candidate: Candidate) -> str:
    """A row as one text: what near-duplicates are looked for in."""
    said = [message.content for message in candidate.messages]
    return "\n".join(said or (candidate.instruction, candidate.input, candidate.output))


def _verified(candidate: Candidate) -> Verdict:
    assert candidate.verifier is not None
    return verify(candidate.verifier, candidate.output)


def _instance_rules(candidates: Sequence[Candidate]) -> dict[int, Verdict]:
    """The verdict of the instance rules for the place of each row.

    Instances of one task are judged side by side; a row that is its own task stands alone. That the last instance of
    a truncated completion goes is the parsers' business: they see where it was cut.
    """
    groups: dict[str, list[int]] = {}
    for index, candidate in enumerate(candidates):
        if candidate.kind != "pending_task":
            groups.setdefault(candidate.task or f"own {index}", []).append(index)
    verdicts: dict[int, Verdict] = {}
    for places in groups.values():
        rows = [candidates[place] for place in places]
        found = judge_instances([Instance(row.input, row.output) for row in rows], truncated=False)
        verdicts.update(zip(places, found, strict=True))
    return verdicts
