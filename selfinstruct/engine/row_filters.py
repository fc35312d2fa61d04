"""The filters of a run, applied in order to the candidates of one completion at a time.

A candidate with an instruction is filtered as a task first; one with an output is filtered as a row. A task whose
instruction passes stays in the novelty index even if its instances fail: another instruction like it is not new.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar

from selfinstruct.common.config import ADDED
from selfinstruct.engine.near_duplicates import RowIndex, Scope, row_text, scope_of
from selfinstruct.filters import (
    Copied,
    Keywords,
    LeadingPunctuation,
    NearDuplicateIndex,
    NoveltyIndex,
    ProgramPrefix,
    Tokenizer,
    WordCount,
    check_instances,
)
from selfinstruct.filters.base import Filter
from selfinstruct.filters.registry import build_filter
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
]


FullComparison = Callable[[int], bool]
"""Decides by request number whether its instructions are compared with the whole pool, see ``RowFilters``."""


def every_request(_number: int) -> bool:
    """Request a full comparison for every request."""
    return True


def no_request(_number: int) -> bool:
    """Request a full comparison for no request."""
    return False


@dataclass(frozen=True)
class NoveltyOptions:
    """ROUGE-L novelty of instructions, compared with the seeds and the pool.

    Attributes:
        threshold: Highest F1 with any other instruction at which an instruction is kept (Self-Instruct, section 2.2:
            0.7).
        tokenizer: ``rouge`` decides as the original code does; ``auto`` supports every script and reads symbols;
            ``words`` is ``auto`` without symbols.
    """

    threshold: float = 0.7
    tokenizer: Tokenizer = "auto"

    def __post_init__(self) -> None:
        if not 0 < self.threshold <= 1:
            raise ValueError("threshold must be above 0 and at most 1")


@dataclass(frozen=True)
class NearDuplicateOptions:
    """MinHash near-duplicates of whole rows (instruction, input and output) among the rows of other tasks.

    Rows are compared within their scope: the system prompt and the earlier rounds that came with the task.

    Attributes:
        threshold: Lowest Jaccard similarity of character 5-grams at which a row is a near-duplicate.
        num_perm: Number of hash permutations of a signature.
        bands: Number of bands of the locality-sensitive hash.
    """

    threshold: float = 0.8
    num_perm: int = 128
    bands: int = 20
    # Not with semantics 1.
    scoped: ClassVar[bool] = True
    symbols: ClassVar[bool] = True

    def __post_init__(self) -> None:
        if not 0 < self.threshold <= 1:
            raise ValueError("threshold must be above 0 and at most 1")
        if not 0 < self.bands <= self.num_perm:
            raise ValueError("bands must be at least 1 and at most num_perm")


@dataclass(frozen=True)
class FilterOptions:
    """The filters of a run; null disables one. The instance rules of Self-Instruct always apply.

    Attributes:
        plugins: Further stateless filters, built-in or of plugins, each with its ``name`` and its settings
            (docs/extending.md).
    """

    word_count: WordCount | None = field(default_factory=WordCount)
    keywords: Keywords | None = field(default_factory=Keywords)
    punctuation: LeadingPunctuation | None = field(default_factory=LeadingPunctuation)
    program: ProgramPrefix | None = field(default_factory=ProgramPrefix)
    novelty: NoveltyOptions | None = field(default_factory=NoveltyOptions)
    copied: Copied | None = field(default_factory=Copied)
    near_duplicate: NearDuplicateOptions | None = field(default_factory=NearDuplicateOptions)
    plugins: tuple[Mapping[str, Any], ...] = field(default=(), metadata=ADDED)

    def build_plugins(self) -> tuple[Filter, ...]:
        """Make the filters of ``plugins``.

        Raises:
            ConfigError: A name or a setting is wrong.
            PluginError: A plugin can't be used.
        """
        return tuple(build_filter(settings, f"filters.plugins.{index}") for index, settings in enumerate(self.plugins))


@dataclass(frozen=True, slots=True)
class FilteredCandidate:
    """A candidate and its verdicts, in the order of the filters."""

    id: str
    candidate: Candidate
    verdicts: tuple[Verdict, ...]

    @property
    def kept(self) -> bool:
        """Whether no filter rejected the candidate."""
        return all(verdict.kept for verdict in self.verdicts)

    @property
    def reason(self) -> str:
        """The reason of the first rejection; "" if the candidate is kept."""
        return next((verdict.reason for verdict in self.verdicts if not verdict.kept), "")


@dataclass(frozen=True, slots=True)
class FilterOutcome:
    """The filtered candidates of one completion."""

    request: Request
    received: Received
    candidates: tuple[FilteredCandidate, ...]

    @property
    def productive(self) -> bool:
        """Whether the completion led to a row, or to a follow-up that may still lead to one."""
        return bool(self.received.follow_ups) or any(candidate.kept for candidate in self.candidates)


class RowFilters:
    """The filters of one run and their indexes. Accepted candidates are added to the pool.

    The verdicts depend only on the order of the calls.

    Args:
        options: Settings of the filters.
        pool: Seeds and accepted tasks and rows.
        full_comparison: Selects the requests whose instructions are compared with the whole pool, so that the verdict
            lists the ten nearest and the mean, as the logs of the original code do. The decision is the same, and
            takes time in proportion to the size of the pool.
        answering: Labels of the methods whose candidates are seed tasks with answers ("" in a run of one method).
            Novelty compares such a task with the seeds before it, and not with itself.

    Attributes:
        repeated_tasks: Rejections of seeds that a method answers and that resemble an earlier seed, with the id of the
            seed in ``detail["task"]``.
    """

    def __init__(
        self,
        options: FilterOptions,
        pool: Pool,
        *,
        full_comparison: FullComparison = no_request,
        answering: Collection[str] = (),
    ) -> None:
        self._pool = pool
        self._answering = answering
        self._task_verdicts: list[Verdict] = []
        self._full_comparison = full_comparison
        stateless = (options.word_count, options.keywords, options.punctuation, options.program)
        plugins = options.build_plugins()
        of_instructions = (each for each in plugins if each.reads == "instruction")
        self._instruction_filters = (*(each for each in stateless if each is not None), *of_instructions)
        self._row_filters = tuple(each for each in plugins if each.reads != "instruction")
        self._copied = options.copied
        self._novelty = self._near_duplicate = None
        if novelty := options.novelty:
            self._novelty = NoveltyIndex(threshold=novelty.threshold, tokenizer=novelty.tokenizer)
            self._novelty.fit([seed.instruction for seed in pool.seeds], [seed.id for seed in pool.seeds])
            if answering:
                self._task_verdicts = _compare_tasks(pool.seeds, self._novelty, novelty.threshold)
        self.repeated_tasks = [
            replace(verdict, detail={"task": seed.id})
            for seed, verdict in zip(pool.seeds, self._task_verdicts, strict=False)
            if not verdict.kept
        ]
        if near := options.near_duplicate:
            index = NearDuplicateIndex(near.threshold, near.num_perm, near.bands, symbols=near.symbols)
            self._near_duplicate = RowIndex(index, scoped=near.scoped)

    def index_pool(self) -> None:
        """Add the content of the pool to the indexes, which hold nothing but accepted texts."""
        if self._novelty is not None:
            tasks = [*self._pool.tasks, *self._pool.others]
            self._novelty.fit([task.instruction for task in tasks], [task.id for task in tasks])
        if self._near_duplicate is not None:
            self._near_duplicate.fit(self._pool.rows)

    def repeats_task(self, request: Request) -> bool:
        """Return whether a request would answer a task that novelty rejects."""
        verdict = self._task_verdict(request)
        return verdict is not None and not verdict.kept

    def _task_verdict(self, request: Request) -> Verdict | None:
        """Return the verdict of novelty on the task that a request answers; None if it answers none."""
        if request.item is None or request.method not in self._answering or not self._task_verdicts:
            return None
        return self._task_verdicts[request.item]

    def apply(self, request: Request, received: Received) -> FilterOutcome:
        """Filter the candidates of one completion, in order.

        Each filter handles all candidates before the next filter starts, because an index is much faster on a batch
        of texts. The verdicts are the same: a filter's verdict on a candidate depends only on earlier candidates that
        passed this filter.
        """
        received = received.with_ids(request)
        verdicts = _Verdicts(received.candidates)
        explain: Explain = "full" if self._full_comparison(request.number) else "match"
        self._filter_tasks(verdicts, explain, self._task_verdict(request))
        self._filter_rows(verdicts)
        filtered = zip(verdicts.ids, received.candidates, map(tuple, verdicts.verdicts), strict=True)
        return FilterOutcome(request, received, tuple(FilteredCandidate(*fields) for fields in filtered))

    def _filter_tasks(self, verdicts: _Verdicts, explain: Explain, task_verdict: Verdict | None) -> None:
        """Apply the instruction filters, cheapest first, and add the tasks that pass to the pool.

        Args:
            task_verdict: The verdict of novelty where the candidates are a seed task.
        """
        texts, ids = verdicts.instructions, verdicts.ids
        indices = [i for i, each in enumerate(verdicts.candidates) if each.task is None and verdicts.kept(i)]
        for instruction_filter in self._instruction_filters:
            indices = verdicts.record(indices, instruction_filter.decide([texts[i] for i in indices]))
        if self._novelty is not None and indices:  # an empty index is falsy
            batch = [texts[i] for i in indices], [ids[i] for i in indices]
            if task_verdict is None:
                indices = verdicts.record(indices, self._novelty.offer_many(*batch, explain=explain))
            elif indices := verdicts.record(indices, [task_verdict] * len(indices)):
                self._novelty.fit(*batch)
        for i in indices:
            accepted = self._pool.tasks if verdicts.candidates[i].is_task else self._pool.others
            accepted.append(Task(ids[i], texts[i]))

    def _filter_rows(self, verdicts: _Verdicts) -> None:
        """Apply the row filters to candidates whose instruction passed now or earlier, and add rows to the pool."""
        candidates, ids = verdicts.candidates, verdicts.ids
        indices = [i for i, each in enumerate(candidates) if each.kind != "pending_task" and verdicts.kept(i)]
        by_rules = _instance_rules(candidates)
        indices = verdicts.record(indices, [by_rules[i] for i in indices])
        if self._copied is not None:
            rows = [candidates[i] for i in indices]
            copied = [self._copied.decide(row.output, row.input, row.shown_outputs) for row in rows]
            indices = verdicts.record(indices, copied)
        verifiable = [i for i in indices if candidates[i].verifier is not None]
        failed = set(verifiable) - set(verdicts.record(verifiable, [_verify(candidates[i]) for i in verifiable]))
        indices = [i for i in indices if i not in failed and candidates[i].kind == "row"]
        for row_filter in self._row_filters:
            texts = [_text_read_by(row_filter, candidates[i]) for i in indices]
            indices = verdicts.record(indices, row_filter.decide(texts))
        accepted = {i: AcceptedRow(ids[i], candidates[i].task or ids[i], candidates[i]) for i in indices}
        if self._near_duplicate is not None and indices:
            indices = verdicts.record(indices, self._near_duplicate.offer_many(list(accepted.values())))
        self._pool.rows.extend(accepted[i] for i in indices)


class _Verdicts:
    """The verdicts on the candidates of one completion so far, by the index of the candidate."""

    def __init__(self, candidates: Sequence[Candidate]) -> None:
        self.candidates = candidates
        self.instructions = [candidate.instruction for candidate in candidates]
        self.ids = [candidate.id for candidate in candidates]
        self.verdicts: list[list[Verdict]] = [list(candidate.verdicts) for candidate in candidates]

    def kept(self, index: int) -> bool:
        """Return whether no filter has rejected the candidate so far."""
        return all(verdict.kept for verdict in self.verdicts[index])

    def record(self, indices: Sequence[int], verdicts: Sequence[Verdict]) -> list[int]:
        """Record one filter's verdicts on the candidates at ``indices``; return the indices that it keeps."""
        for index, verdict in zip(indices, verdicts, strict=True):
            self.verdicts[index].append(verdict)
        return [index for index, verdict in zip(indices, verdicts, strict=True) if verdict.kept]


def _compare_tasks(tasks: Sequence[Task], index: NoveltyIndex, threshold: float) -> list[Verdict]:
    """Return the verdict of novelty on each task, compared with the earlier ones in the same scope.

    The scope is what the question is asked in: the system prompt, the earlier rounds and the input. The same question
    about two passages is two tasks, however short the passages are.
    """
    members: dict[tuple[Scope, Scope], list[int]] = {}
    for number, task in enumerate(tasks):
        task_input = scope_of(task.instances[0].input if task.instances else "", ())
        members.setdefault((scope_of(task.system, task.history), task_input), []).append(number)
    verdicts = [Verdict(index.name, True)] * len(tasks)
    for numbers in members.values():
        if len(numbers) > 1:
            batch = [tasks[number].instruction for number in numbers], [tasks[number].id for number in numbers]
            for number, verdict in zip(numbers, index.empty(threshold).offer_many(*batch), strict=True):
                verdicts[number] = verdict
    return verdicts


def _text_read_by(row_filter: Filter, candidate: Candidate) -> str:
    return candidate.output if row_filter.reads == "output" else row_text(candidate)


def _verify(candidate: Candidate) -> Verdict:
    assert candidate.verifier is not None
    return verify(candidate.verifier, candidate.output)


def _instance_rules(candidates: Sequence[Candidate]) -> dict[int, Verdict]:
    """Return the verdict of the instance rules on each row, by the index of the candidate.

    Instances of one task are compared with each other; a row with its own instruction forms a group by itself.
    Parsers drop the last instance of a truncated completion, since only they see where it was cut.
    """
    groups: dict[str, list[int]] = {}
    for index, candidate in enumerate(candidates):
        if candidate.kind != "pending_task":
            groups.setdefault(candidate.task or f"own {index}", []).append(index)
    verdicts: dict[int, Verdict] = {}
    for indices in groups.values():
        rows = [candidates[i] for i in indices]
        group_verdicts = check_instances([Instance(row.input, row.output) for row in rows], truncated=False)
        verdicts.update(zip(indices, group_verdicts, strict=True))
    return verdicts
