"""Counts over judged requests: what a live view, a report and a manifest tell."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any

from selfinstruct.common.codec import Json
from selfinstruct.engine.row_filters import FilterOutcome
from selfinstruct.records import Completion, CounterKey, Outcome, Usage

__all__ = ["Share", "Stats"]


@dataclass(frozen=True)
class Share:
    """What one method of a mixed run took and brought.

    Attributes:
        proposals: Its judged requests that followed no other.
        tokens: Of the prompts and answers of all its judged requests.
    """

    proposals: int
    requests: int
    tokens: int
    rows: int

    @property
    def rate(self) -> float | None:
        """Rows for 1,000 tokens; None before the first token."""
        return 1000 * self.rows / self.tokens if self.tokens else None


@dataclass
class Stats:
    """Running counts.

    Attributes:
        instructions: Instructions parsed: what acceptance is measured against.
        rejected: Rejected candidates by reason (drafts and rows).
        discarded: Pieces of completions that never became candidates, by reason.
        failures: Requests that failed for good, by code.
        stages: Judged requests by stage.
        models: Names under which servers answered.
        counters: Cells counted by strategies, see ``Received.counters`` and ``Candidate.counter``.
        methods: Of a mixed run, the figures of each ``Share``: ``proposals|label``.
    """

    requests: int = 0
    instructions: int = 0
    tasks: int = 0
    rows: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0
    cached_tokens: int = 0
    rejected: Counter[str] = field(default_factory=Counter)
    discarded: Counter[str] = field(default_factory=Counter)
    failures: Counter[str] = field(default_factory=Counter)
    stages: Counter[str] = field(default_factory=Counter)
    models: Counter[str] = field(default_factory=Counter)
    counters: Counter[CounterKey] = field(default_factory=Counter)
    methods: Counter[str] = field(default_factory=Counter)

    def add(self, judged: FilterOutcome, outcome: Outcome) -> None:
        """Count one judged request."""
        self.requests += 1
        self.stages[judged.request.stage] += 1
        if isinstance(outcome, Completion):
            self.prompt_tokens += outcome.usage.prompt_tokens
            self.completion_tokens += outcome.usage.completion_tokens
            self.cached_tokens += outcome.usage.cached_tokens
            self.models[outcome.model] += 1
        else:
            self.failures[outcome.code] += 1
        if label := judged.request.method:
            self._add_to(label, judged, outcome)
        self.counters.update(judged.received.counters)
        self.discarded.update(discard.reason for discard in judged.received.discards)
        for one in judged.candidates:
            is_instruction = one.candidate.is_task and one.candidate.task is None
            self.instructions += is_instruction
            self.tasks += one.kept and one.candidate.kind != "row" and is_instruction
            self.rows += one.kept and one.candidate.kind == "row"
            if not one.kept:
                self.rejected[one.reason] += 1
            if one.candidate.counter and (not one.kept or one.candidate.kind == "row"):
                self.counters[one.candidate.counter.column(one.reason or "passed")] += 1

    def _add_to(self, label: str, judged: FilterOutcome, outcome: Outcome) -> None:
        usage = outcome.usage if isinstance(outcome, Completion) else Usage()
        figures = {
            "proposals": judged.request.parent is None,
            "requests": 1,
            "tokens": usage.prompt_tokens + usage.completion_tokens,
            "rows": sum(one.kept and one.candidate.kind == "row" for one in judged.candidates),
        }
        self.methods.update({f"{name}|{label}": int(value) for name, value in figures.items()})

    @property
    def shares(self) -> dict[str, Share]:
        """By label, what the methods of a mixed run took and brought."""
        labels = sorted(name.partition("|")[2] for name in self.methods if name.startswith("requests|"))
        names = [figure.name for figure in fields(Share)]
        return {label: Share(*(self.methods[f"{name}|{label}"] for name in names)) for label in labels}

    def to_json(self) -> dict[str, Json]:
        return {
            name: {str(key): count for key, count in value.items()} if isinstance(value, Counter) else value
            for name, value in vars(self).items()
        }

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Stats:
        values: dict[str, Any] = {
            name: Counter(one) if isinstance(one, Mapping) else one for name, one in value.items()
        }
        keys = {CounterKey.from_text(text): count for text, count in values.pop("counters", {}).items()}
        return cls(**values, counters=Counter(keys))

    @property
    def tables(self) -> dict[str, dict[str, Counter[str]]]:
        """``counters`` as tables: by name of the table and of its row, the counts by column."""
        found: dict[str, dict[str, Counter[str]]] = {}
        for key, count in sorted(self.counters.items(), key=lambda item: str(item[0])):
            found.setdefault(key.table, {}).setdefault(key.row, Counter())[key.column] += count
        return found

    @property
    def cached(self) -> float | None:
        """Share of the prompts' tokens that the server's prefix cache served; None where it reports nothing."""
        return self.cached_tokens / self.prompt_tokens if self.cached_tokens and self.prompt_tokens else None

    @property
    def acceptance(self) -> float | None:
        """Rows for each parsed instruction; None before the first."""
        return self.rows / self.instructions if self.instructions else None
