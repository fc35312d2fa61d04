"""Near-duplicates of the rows of a run, compared within their scopes.

The scope of a row is what its task is asked in: the system prompt and the earlier rounds that came with the task. The
same answer under two system prompts is two rows, and two answers after one long dialogue are no near-duplicates because
of the dialogue. The rounds of a dialogue that the run itself made are part of the row.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeAlias

from selfinstruct.common.formats import user_text
from selfinstruct.filters import NearDuplicateIndex
from selfinstruct.pool import AcceptedRow
from selfinstruct.records import Candidate, Message, Verdict

__all__ = ["RowIndex", "Scope", "row_text", "scope_of"]

Scope: TypeAlias = tuple[str, ...]


class RowIndex:
    """The accepted rows of a run, which reject rows that nearly repeat one in the same scope.

    Args:
        index: The empty index of the rows without a scope; the others have its settings.
        scoped: Whether scopes count. If not, every row is compared as a whole with all others.
    """

    def __init__(self, index: NearDuplicateIndex, *, scoped: bool) -> None:
        self._scoped = scoped
        self._empty = index
        self._indexes: dict[Scope, NearDuplicateIndex] = {(): index}
        self._single: dict[Scope, AcceptedRow] = {}  # rows alone in their scope, which need no index yet

    def fit(self, rows: Sequence[AcceptedRow]) -> None:
        """Add rows without decisions."""
        for scope, positions in self._by_scope(rows).items():
            members = [rows[position] for position in positions]
            if (index := self._index(scope, members)) is not None:
                index.fit(*self._columns(members), groups=[row.task for row in members])

    def offer_many(self, rows: Sequence[AcceptedRow]) -> list[Verdict]:
        """Decide on rows one after the other, and add the kept ones."""
        verdicts = [Verdict(NearDuplicateIndex.name, True)] * len(rows)
        for scope, positions in self._by_scope(rows).items():
            members = [rows[position] for position in positions]
            if (index := self._index(scope, members)) is not None:
                offered = index.offer_many(*self._columns(members), groups=[row.task for row in members])
                for position, verdict in zip(positions, offered, strict=True):
                    verdicts[position] = verdict
        return verdicts

    def _by_scope(self, rows: Sequence[AcceptedRow]) -> dict[Scope, list[int]]:
        scopes: dict[Scope, list[int]] = {}
        for position, row in enumerate(rows):
            scope = _scope(row.candidate) if self._scoped else ()
            scopes.setdefault(scope, []).append(position)
        return scopes

    def _index(self, scope: Scope, rows: Sequence[AcceptedRow]) -> NearDuplicateIndex | None:
        """Return the index of a scope; None, and the row is kept in mind, if it is the first row there."""
        if scope not in self._indexes:
            first = self._single.pop(scope, None)
            if first is None and len(rows) == 1:
                self._single[scope] = rows[0]
                return None
            index = self._indexes[scope] = self._empty.empty(self._empty.threshold)
            if first is not None:
                index.fit(*self._columns([first]), groups=[first.task])
        return self._indexes[scope]

    def _columns(self, rows: Sequence[AcceptedRow]) -> tuple[list[str], list[str]]:
        """Return the texts and the ids of rows."""
        text = _text_in_scope if self._scoped else row_text
        return [text(row.candidate) for row in rows], [row.id for row in rows]


def row_text(candidate: Candidate) -> str:
    """Return a row as one text, without its system prompt."""
    contents = [message.content for message in candidate.messages]
    return "\n".join(contents or (candidate.instruction, candidate.input, candidate.output))


def scope_of(system: str, rounds: Sequence[Message]) -> Scope:
    """Return a scope by its text alone: without case and the width of white space; () without a text."""
    texts = (system, *(f"{message.role}: {message.content}" for message in rounds))
    plain = tuple(" ".join(text.split()).casefold() for text in texts)
    return plain if any(plain) else ()


def _earlier_rounds(candidate: Candidate) -> tuple[Message, ...]:
    """Return the messages that came with the task; () if the first message of the dialogue is the task."""
    messages, question = candidate.messages, user_text(candidate.instruction, candidate.input)
    came_with_it = len(messages) > 2 and messages[0].content != question and messages[-2].content == question
    return messages[:-2] if came_with_it else ()


def _scope(candidate: Candidate) -> Scope:
    return scope_of(candidate.system, _earlier_rounds(candidate))


def _text_in_scope(candidate: Candidate) -> str:
    """Return the texts of a row outside its scope."""
    if earlier := _earlier_rounds(candidate):
        return "\n".join(message.content for message in candidate.messages[len(earlier) :])
    return row_text(candidate)
