"""Counts over processed requests, for the live display, ``status`` and the manifest."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any

from selfinstruct.common.codec import Json
from selfinstruct.engine.row_filters import FilterOutcome
from selfinstruct.reasons import ending_of, is_unfinished
from selfinstruct.records import Completion, CounterKey, Outcome, Usage
from selfinstruct.records.endings import is_recognised

__all__ = ["MethodStats", "Stats", "UnfinishedKey"]

_MANY = 64  # answers without a known finish reason and without a row, after which a run stops


@dataclass(frozen=True)
class MethodStats:
    """Cost and yield of one method of a mixed run.

    Attributes:
        proposals: Processed requests of the method that are not follow-ups.
        requests: All processed requests of the method.
        tokens: Prompt and completion tokens of these requests.
        rows: Accepted rows.
    """

    proposals: int
    requests: int
    tokens: int
    rows: int

    @property
    def rate(self) -> float | None:
        """Accepted rows per 1,000 tokens; None before the first token."""
        return 1000 * self.rows / self.tokens if self.tokens else None


@dataclass(frozen=True, slots=True)
class UnfinishedKey:
    """A kind of answer that is not complete.

    Attributes:
        stage: Stage of the request.
        limit: Its limit of tokens.
        reason: Reason code of the ending.
    """

    stage: str
    limit: int
    reason: str

    def __str__(self) -> str:
        return f"{self.stage}|{self.limit}|{self.reason}"

    @classmethod
    def from_text(cls, text: str) -> UnfinishedKey:
        """Read the form that ``str`` writes."""
        stage, limit, reason = text.rsplit("|", 2)
        return cls(stage, int(limit), reason)


@dataclass
class Stats:
    """Running counts.

    Attributes:
        requests: Processed requests.
        instructions: Parsed instructions, the denominator of ``acceptance``.
        tasks: Accepted tasks that are not rows themselves.
        rows: Accepted rows.
        rejected: Rejected candidates by reason.
        discarded: Parts of completions that never became candidates, by reason.
        failures: Terminally failed requests, by code.
        stages: Processed requests by stage.
        models: Completions by the model name that the server reported.
        counters: Counters of strategies, see ``Received.counters`` and ``Candidate.counter``.
        unfinished: Rejected candidates and discarded parts of answers that are not complete.
        reasoning_tokens: The part of ``completion_tokens`` that models spent on reasoning.
        methods: The figures of each ``MethodStats`` of a mixed run, keyed ``figure|label``.
    """

    requests: int = 0
    instructions: int = 0
    tasks: int = 0
    rows: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0
    cached_tokens: int = 0
    reasoning_tokens: int = 0
    rejected: Counter[str] = field(default_factory=Counter)
    discarded: Counter[str] = field(default_factory=Counter)
    failures: Counter[str] = field(default_factory=Counter)
    stages: Counter[str] = field(default_factory=Counter)
    models: Counter[str] = field(default_factory=Counter)
    counters: Counter[CounterKey] = field(default_factory=Counter)
    unfinished: Counter[UnfinishedKey] = field(default_factory=Counter)
    methods: Counter[str] = field(default_factory=Counter)

    def add(self, filtered: FilterOutcome, outcome: Outcome) -> None:
        """Count one processed request."""
        self.requests += 1
        self.stages[filtered.request.stage] += 1
        if isinstance(outcome, Completion):
            self.prompt_tokens += outcome.usage.prompt_tokens
            self.completion_tokens += outcome.usage.completion_tokens
            self.cached_tokens += outcome.usage.cached_tokens
            self.reasoning_tokens += outcome.usage.reasoning_tokens
            self.models[outcome.model] += 1
        else:
            self.failures[outcome.code] += 1
        if label := filtered.request.method:
            self._add_to_method(label, filtered, outcome)
        self.counters.update(filtered.received.counters)
        self.discarded.update(discard.reason for discard in filtered.received.discards)
        lost = [discard.reason for discard in filtered.received.discards]
        lost += [decided.reason for decided in filtered.candidates if not decided.kept]
        self.unfinished.update(
            UnfinishedKey(filtered.request.stage, filtered.request.sampling.max_tokens, str(reason))
            for reason in lost
            if is_unfinished(reason)
        )
        for decided in filtered.candidates:
            is_instruction = decided.candidate.is_task and decided.candidate.task is None
            self.instructions += is_instruction
            self.tasks += decided.kept and decided.candidate.kind != "row" and is_instruction
            self.rows += decided.kept and decided.candidate.kind == "row"
            if not decided.kept:
                self.rejected[decided.reason] += 1
            if decided.candidate.counter and (not decided.kept or decided.candidate.kind == "row"):
                self.counters[decided.candidate.counter.column(decided.reason or "passed")] += 1

    def _add_to_method(self, label: str, filtered: FilterOutcome, outcome: Outcome) -> None:
        usage = outcome.usage if isinstance(outcome, Completion) else Usage()
        figures = {
            "proposals": filtered.request.parent is None,
            "requests": 1,
            "tokens": usage.prompt_tokens + usage.completion_tokens,
            "rows": sum(each.kept and each.candidate.kind == "row" for each in filtered.candidates),
        }
        self.methods.update({f"{name}|{label}": int(value) for name, value in figures.items()})

    @property
    def by_method(self) -> dict[str, MethodStats]:
        """Figures of each method of a mixed run, by label."""
        labels = sorted(name.partition("|")[2] for name in self.methods if name.startswith("requests|"))
        figures = [field.name for field in fields(MethodStats)]
        return {label: MethodStats(*(self.methods[f"{figure}|{label}"] for figure in figures)) for label in labels}

    @property
    def unknown_endings(self) -> Counter[str]:
        """Number of answers by ending, for the endings that are missing or not known to mark an answer or none."""
        counts: Counter[str] = Counter()
        for key, count in self.unfinished.items():
            name = ending_of(key.reason)
            if name and not is_recognised(name):
                counts[name] += count
        return counts

    @property
    def names_no_complete_ending(self) -> bool:
        """Whether none of many answers has a known finish reason for a complete answer, and no row came of them.

        Some of them may have reached the limit of tokens; most end in another way.
        """
        answers, unfinished = self.models.total(), self.unfinished.total()
        if self.rows or not _MANY <= answers <= unfinished:
            return False
        return unfinished < 2 * self.unknown_endings.total()

    def to_json(self) -> dict[str, Json]:
        """Return the counts as JSON."""
        return {
            name: {str(key): count for key, count in value.items()} if isinstance(value, Counter) else value
            for name, value in vars(self).items()
        }

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Stats:
        """Rebuild the counts from the value of ``to_json``."""
        values: dict[str, Any] = {
            name: Counter(figure) if isinstance(figure, Mapping) else figure for name, figure in value.items()
        }
        counters = {CounterKey.from_text(text): count for text, count in values.pop("counters", {}).items()}
        unfinished = {UnfinishedKey.from_text(text): count for text, count in values.pop("unfinished", {}).items()}
        return cls(**values, counters=Counter(counters), unfinished=Counter(unfinished))

    @property
    def tables(self) -> dict[str, dict[str, Counter[str]]]:
        """``counters`` as tables: counts by column, keyed by table and row."""
        tables: dict[str, dict[str, Counter[str]]] = {}
        for key, count in sorted(self.counters.items(), key=lambda item: str(item[0])):
            tables.setdefault(key.table, {}).setdefault(key.row, Counter())[key.column] += count
        return tables

    @property
    def cached(self) -> float | None:
        """Fraction of prompt tokens served from the server's prefix cache; None if the server reports none."""
        return self.cached_tokens / self.prompt_tokens if self.cached_tokens and self.prompt_tokens else None

    @property
    def acceptance(self) -> float | None:
        """Accepted rows per parsed instruction; None before the first instruction."""
        return self.rows / self.instructions if self.instructions else None
