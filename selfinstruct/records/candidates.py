"""Candidates and everything else that a strategy reads in a completion; verdicts, and tasks."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from selfinstruct.common.codec import Json
from selfinstruct.records.requests import Request

__all__ = [
    "Candidate",
    "CounterKey",
    "CounterRow",
    "Discard",
    "Instance",
    "Kind",
    "Message",
    "Pair",
    "Received",
    "Task",
    "Verdict",
]

Kind = Literal["row", "pending_task", "provisional_row"]


@dataclass(frozen=True, slots=True)
class Message:
    """One message of a conversation."""

    role: Literal["user", "assistant"]
    content: str


@dataclass(frozen=True, slots=True)
class Pair:
    """The rejected answer of a preference pair.

    Attributes:
        rejected: The worst answer to the row's question.
        scores: Score of the row's own answer, score of the rejected answer; None if that is wrong and has no score.
    """

    rejected: str
    scores: tuple[float, float | None]


@dataclass(frozen=True, slots=True)
class Verdict:
    """One filter's decision on one candidate.

    Attributes:
        reason: Reason code of a rejection, usually a ``RejectReason``; "" if the candidate is kept.
        score: The number that decided (a ROUGE-L F1, a Jaccard similarity, a number of words); None without one.
        nearest: Id of the row or seed that the score refers to.
        detail: Further figures, any JSON.
    """

    filter: str
    kept: bool
    reason: str = ""
    score: float | None = None
    nearest: str | None = None
    detail: Mapping[str, Json] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class CounterKey:
    """One cell of the tables that ``status`` shows.

    Attributes:
        table, row: Names without ``|``.
        column: Name of the column.
    """

    table: str
    row: str
    column: str

    def __str__(self) -> str:
        return f"{self.table}|{self.row}|{self.column}"

    @classmethod
    def from_text(cls, text: str) -> CounterKey:
        """Read the form that ``str`` writes."""
        table, row, column = text.split("|", 2)
        return cls(table, row, column)

    def for_method(self, label: str) -> CounterKey:
        """Return the same cell in the table of one method of a mixed run; "" leaves the table unchanged."""
        return replace(self, table=f"{label}: {self.table}") if label else self


@dataclass(frozen=True, slots=True)
class CounterRow:
    """One row of the tables that ``status`` shows: the part of a ``CounterKey`` without the column."""

    table: str
    row: str

    def __str__(self) -> str:
        return f"{self.table}|{self.row}"

    @classmethod
    def from_text(cls, text: str) -> CounterRow:
        """Read the form that ``str`` writes."""
        table, row = text.split("|", 1)
        return cls(table, row)

    def column(self, name: str) -> CounterKey:
        """Return the cell in the column ``name``."""
        return CounterKey(self.table, self.row, name)

    def for_method(self, label: str) -> CounterRow:
        """Return the same row in the table of one method of a mixed run."""
        return replace(self, table=f"{label}: {self.table}")


@dataclass(frozen=True, slots=True)
class Candidate:
    """A task or a row that a completion offers.

    There are three kinds. A kept ``row`` is a line of the dataset. A ``pending_task`` is a task whose instances are
    requested next; the filters decide on its instruction. A ``provisional_row`` is a complete row about which more is
    requested (a judge's score, for example) before a later request offers the final row with this candidate's id, or
    its task, as ``task``; every filter of rows applies to it except the one for near-duplicates.

    Attributes:
        output: The answer; the last one of a conversation.
        span: Position in the first choice's text: start and end, in characters.
        task: Id of the pending task or provisional row that this candidate belongs to; None if the candidate brings
            its own instruction.
        shown_outputs: Outputs that the prompt displays, so that a copy can be recognised.
        on_accept: Request that is queued if the candidate is kept.
        on_reject: Request that is queued if the candidate is rejected.
        system: System prompt of the row; "" for none.
        messages: All messages of a conversation of more than one round; the first one is the instruction, or the last
            question is, if the earlier rounds came with the task.
        columns: Further fields of the exported row, by name, apart from the fields of training formats.
        pair: The rejected answer, for preference data.
        verifier: Verifier specification; rows whose output fails it are rejected.
        verdicts: The strategy's own verdicts, which precede the filters. One rejection rejects the candidate.
        is_task: False for a text that is not a task (a persona, for example): the filters decide on it, but no
            strategy sees it and it does not count as an instruction.
        counter: Row of a table in which the candidate's result is counted: a kept row in the column ``passed``, a
            rejected candidate in the column of its reason.
        id: ``Request.candidate_id`` of this candidate; "" lets the engine number it by its position.
    """

    instruction: str
    input: str = ""
    output: str = ""
    span: tuple[int, int] = (0, 0)
    task: str | None = None
    shown_outputs: tuple[str, ...] = ()
    kind: Kind = "row"
    on_accept: Request | None = None
    on_reject: Request | None = None
    system: str = ""
    messages: tuple[Message, ...] = ()
    columns: Mapping[str, Json] = field(default_factory=dict)
    pair: Pair | None = None
    verifier: Mapping[str, Json] | None = None
    verdicts: tuple[Verdict, ...] = ()
    is_task: bool = True
    counter: CounterRow | None = None
    id: str = ""

    @property
    def extras(self) -> dict[str, Json]:
        """The fields of an exported row besides instruction, input and output, as JSON; only the ones that are set."""
        fields: dict[str, Json] = {
            "system": self.system,
            "messages": [[message.role, message.content] for message in self.messages],
            "columns": dict(self.columns),
            "pair": None if self.pair is None else [self.pair.rejected, list(self.pair.scores)],
            "verifier": None if self.verifier is None else dict(self.verifier),
        }
        return {name: value for name, value in fields.items() if value}

    def with_extras(self, value: Mapping[str, Any]) -> Candidate:
        """Return a copy with the fields that ``extras`` returned."""
        return replace(
            self,
            system=value.get("system", ""),
            messages=tuple(Message(*message) for message in value.get("messages", ())),
            columns=value.get("columns", {}),
            pair=Pair(value["pair"][0], (value["pair"][1][0], value["pair"][1][1])) if "pair" in value else None,
            verifier=value.get("verifier"),
        )


@dataclass(frozen=True, slots=True)
class Discard:
    """A piece of a completion that never became a candidate.

    Attributes:
        reason: Reason code.
        span: Position in the first choice's text: start and end, in characters.
    """

    reason: str
    span: tuple[int, int]


@dataclass(frozen=True, slots=True)
class Received:
    """Everything that a strategy reads in one completion.

    Attributes:
        counters: Cells to increment by one.
    """

    candidates: tuple[Candidate, ...] = ()
    follow_ups: tuple[Request, ...] = ()
    discards: tuple[Discard, ...] = ()
    counters: tuple[CounterKey, ...] = ()

    def with_ids(self, request: Request) -> Received:
        """Return a copy in which every candidate has an id; candidates without one are numbered by their position.

        Raises:
            ValueError: Two candidates have the same id, or one has the id of another request.
        """
        candidates = tuple(
            candidate if candidate.id else replace(candidate, id=request.candidate_id(index))
            for index, candidate in enumerate(self.candidates)
        )
        ids = [candidate.id for candidate in candidates]
        if len(set(ids)) < len(ids) or any(id_.partition(".")[0] != str(request.number) for id_ in ids):
            raise ValueError(f"request {request.number} ({request.stage}) has wrong candidate ids: {', '.join(ids)}")
        return replace(self, candidates=candidates)


@dataclass(frozen=True, slots=True)
class Instance:
    """One input and its output; the input is "" where the instruction needs none."""

    input: str
    output: str


@dataclass(frozen=True, slots=True)
class Task:
    """A task to learn from: a seed, or a task that the model wrote and the filters kept.

    Attributes:
        id: The seed's own id, or the candidate's (``"17.2"``).
        is_classification: None where it is unknown.
        verifier: Verifier specification for answers (``verifiers``).
        system: System prompt under which the task is answered; "" for none.
        history: Earlier messages of the conversation in which the task is asked.
    """

    id: str
    instruction: str
    instances: tuple[Instance, ...] = ()
    is_classification: bool | None = None
    name: str = ""
    domain: str = ""
    verifier: Mapping[str, Json] | None = None
    system: str = ""
    history: tuple[Message, ...] = ()
