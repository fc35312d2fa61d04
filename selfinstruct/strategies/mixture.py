"""Several methods in one run: each proposal draws the next method by weights, which may follow the methods' yields.

Every method has a label. Its requests have the stage ``label/stage``, and its rows a column ``strategy`` with the
label. All methods share the seeds, the tasks and one pool, so a task of one method is not novel for another.

``adapt`` draws by Thompson sampling (Thompson, 1933, Biometrika 25; Chapelle and Li, 2011, NIPS). The rows of a method
are modelled as a Poisson process over its tokens, with an unknown rate that has a Gamma distribution given the
processed requests. One rate is drawn for each method, and the method with the highest product of rate and weight is
chosen. A method is thus chosen as often as it is likely to be the best, and methods with little evidence are tried.
``draw_largest_gamma`` draws the rates with ``Rng.random``, comparisons, and operations that IEEE 754 rounds exactly, so
that the choice is the same on every machine.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar

from selfinstruct.common.rng import Rng
from selfinstruct.pool import MethodProgress
from selfinstruct.prompts import Api
from selfinstruct.records import Candidate, Completion, Received, Request, Task
from selfinstruct.strategies.abilities import (
    ChecksAnswers,
    ChoosesFormat,
    KnowsUnansweredRows,
    RecoversFailures,
    UsesSchemas,
    recover,
    reject_reason,
    row_format,
    schema_apis,
    unanswered_row,
)
from selfinstruct.strategies.base import Strategy, View

__all__ = ["COLUMN", "MixtureMember", "MixtureOptions", "MixtureStrategy", "draw_largest_gamma", "merged_defaults"]

COLUMN = "strategy"
"""The column of a row that holds the label of its method."""

_EVIDENCE_ROWS = 64  # limit on the rows that count: it keeps the uncertainty of a rate at about an eighth


@dataclass(frozen=True)
class MixtureOptions:
    """How the next method is drawn.

    Attributes:
        explore: With ``adapt``, the share of the proposals that are drawn by the configured weights regardless, so
            that no method is abandoned.
    """

    explore: float = 0.05

    def __post_init__(self) -> None:
        if not 0 <= self.explore <= 1:
            raise ValueError("explore must be from 0 to 1")


@dataclass(frozen=True)
class MixtureMember:
    """One method of a mixed run.

    Attributes:
        weight: Share of the proposals relative to the other weights; with ``adapt``, the value of a row relative to
            the other methods' rows. A method with weight 0 proposes nothing and reads answers to its earlier requests.
    """

    label: str
    weight: float
    strategy: Strategy


@dataclass(frozen=True, slots=True)
class _MemberView:
    """The view of one method: the complete pool, and its own progress."""

    _view: View
    _label: str

    @property
    def seeds(self) -> Sequence[Task]:
        return self._view.seeds

    @property
    def tasks(self) -> Sequence[Task]:
        return self._view.tasks

    @property
    def progress(self) -> MethodProgress:
        return self._view.progress_by_method[self._label]

    @property
    def progress_by_method(self) -> Mapping[str, MethodProgress]:
        return self._view.progress_by_method


class MixtureStrategy(Strategy, ChecksAnswers, ChoosesFormat, KnowsUnansweredRows, RecoversFailures, UsesSchemas):
    """Several strategies as one.

    Args:
        members: The methods; their order has no influence.
        adapt: Whether the weights follow the methods' yields.
    """

    name: ClassVar[str] = "mix"
    templates: ClassVar[Mapping[str, frozenset[str]]] = {}
    Options: ClassVar[type[MixtureOptions]] = MixtureOptions
    options: MixtureOptions

    def __init__(self, options: MixtureOptions, members: Sequence[MixtureMember], *, adapt: bool) -> None:
        self.options = options
        self._members = {member.label: member for member in sorted(members, key=lambda member: member.label)}
        self._adapt = adapt

    @property
    def format(self) -> str:
        """The common format of the methods; ``messages``, which can hold every row, if they differ."""
        formats = {row_format(member.strategy) for member in self._members.values()}
        return formats.pop() if len(formats) == 1 else "messages"

    def schema_apis(self, api: Api) -> frozenset[Api]:
        """Return the APIs in which any method sends a schema."""
        return frozenset().union(*(schema_apis(member.strategy, api) for member in self._members.values()))

    def propose(self, view: View, rng: Rng) -> Request | None:
        """Return the next request of a drawn method; None if no method has one."""
        method_seed = int(rng.random() * 2**53)  # drawn first, so that a method's generator does not depend on the draw
        remaining = [member for member in self._members.values() if member.weight]
        while remaining:
            member = self._draw(remaining, view, rng)
            member_rng = Rng("mix", member.label, method_seed)
            request = member.strategy.propose(_MemberView(view, member.label), member_rng)
            if request is not None:
                return _label_request(member.label, request)
            remaining.remove(member)
        return None

    def receive(self, request: Request, completion: Completion, view: View) -> Received:
        """Let the method that sent the request read the completion."""
        member = self._members[request.method]
        received = member.strategy.receive(_without_label(request), completion, _MemberView(view, member.label))
        return _label_received(member.label, received)

    def recover(self, request: Request, view: View) -> Received:
        """Let the method that sent the request recover from its failure."""
        member = self._members[request.method]
        received = recover(member.strategy, _without_label(request), _MemberView(view, member.label))
        return _label_received(member.label, received)

    def reject_reason(self, row: Candidate, text: str) -> str:
        """Apply the rules of the method that offered the row."""
        return reject_reason(self._members[str(row.columns[COLUMN])].strategy, row, text)

    def unanswered_row(self, request: Request) -> Candidate | None:
        """Let the method that sent the request return its row."""
        row = unanswered_row(self._members[request.method].strategy, _without_label(request))
        return None if row is None else _label_candidate(request.method, row)

    def _draw(self, members: Sequence[MixtureMember], view: View, rng: Rng) -> MixtureMember:
        """Draw the method of the next proposal."""
        if len(members) == 1:
            return members[0]
        progress = [view.progress_by_method[member.label] for member in members]
        rows, tokens = sum(entry.rows for entry in progress), sum(entry.tokens for entry in progress)
        if not self._adapt or not tokens or rng.random() < self.options.explore:
            return members[_draw_weighted([member.weight for member in members], rng)]
        prior_tokens = tokens / (rows + 1)  # the prior of every method: one row at the rate of all methods together
        shapes, exposures = [], []
        for member, entry in zip(members, progress, strict=True):
            counted = min(entry.rows, _EVIDENCE_ROWS)
            counted_tokens = entry.tokens * counted / entry.rows if entry.rows else entry.tokens
            shapes.append(1 + counted)
            exposures.append((prior_tokens + counted_tokens) / member.weight)
        return members[draw_largest_gamma(shapes, exposures, rng)]


def draw_largest_gamma(shapes: Sequence[int], exposures: Sequence[float], rng: Rng) -> int:
    """Draw a Gamma variable of each shape, divided by its exposure, and return the index of the largest.

    A Gamma variable of integer shape a over an exposure x is the time of the a-th event of a Poisson process of
    intensity x. The function therefore simulates a race: each event belongs to one of the processes with a probability
    proportional to its intensity, a process is out after its a-th event, and the last remaining one has the largest
    variable. This is exact and needs neither a logarithm, which may differ between C libraries, nor ``sum``, which
    differs between Python versions.

    Args:
        shapes: Each 1 or more.
        exposures: Each above 0.
    """
    events_left, racing = list(shapes), list(range(len(shapes)))
    while len(racing) > 1:
        bounds, total = [], 0.0
        for index in racing:
            total += exposures[index]
            bounds.append(total)
        while True:
            index = racing[bisect_right(bounds, rng.random() * total)]  # ``random`` is below 1: this is below total
            events_left[index] -= 1
            if not events_left[index]:
                break
        racing.remove(index)
    return racing[0]


def _draw_weighted(weights: Sequence[float], rng: Rng) -> int:
    """Draw an index with a probability proportional to its weight."""
    total = 0.0
    for weight in weights:
        total += weight
    point, bound = rng.random() * total, 0.0
    for index, weight in enumerate(weights):
        bound += weight
        if point < bound:
            return index
    return len(weights) - 1


def _without_label(request: Request) -> Request:
    """Return a request as its method made it."""
    return replace(request, stage=request.stage.removeprefix(f"{request.method}/"))


def _label_request(label: str, request: Request) -> Request:
    return replace(request, stage=f"{label}/{request.stage}")


def _label_received(label: str, received: Received) -> Received:
    return Received(
        candidates=tuple(_label_candidate(label, candidate) for candidate in received.candidates),
        follow_ups=tuple(_label_request(label, follow_up) for follow_up in received.follow_ups),
        discards=received.discards,
        counters=tuple(counter.for_method(label) for counter in received.counters),
    )


def _label_candidate(label: str, candidate: Candidate) -> Candidate:
    on_accept, on_reject = candidate.on_accept, candidate.on_reject
    return replace(
        candidate,
        columns={**candidate.columns, COLUMN: label},
        counter=None if candidate.counter is None else candidate.counter.for_method(label),
        on_accept=None if on_accept is None else _label_request(label, on_accept),
        on_reject=None if on_reject is None else _label_request(label, on_reject),
    )


def merged_defaults(defaults: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Merge the default settings of several methods (``Strategy.defaults``).

    A run has one set of filters for all methods. A setting that any method switches off (null, false or 0) is off,
    since that method would otherwise lose its rows; for everything else the first method with a default decides.
    """
    merged: dict[str, Any] = {}
    for settings in defaults:
        for key, value in settings.items():
            earlier = merged.get(key)
            if isinstance(earlier, Mapping) and isinstance(value, Mapping):
                merged[key] = merged_defaults([earlier, value])
            elif key not in merged or not value:
                merged[key] = value
    return merged
