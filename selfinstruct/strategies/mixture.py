"""Several methods in one run: which of them asks next is drawn, by weights that may follow what each of them brings.

Every method has a label. Its requests have the stage ``label/stage``, and its rows a column ``strategy`` with the
label. All see the same seeds, the same tasks and one pool: what one has brought is no news from another.

``adapt`` draws by Thompson sampling (Thompson, 1933, Biometrika 25; Chapelle and Li, 2011, NIPS): the rows of a method
are a Poisson process over its tokens, of an unknown rate that has a Gamma distribution given what the line has judged;
one rate is drawn for each method, and the method asks whose drawn rate, times its weight, is the highest. So a method
is chosen as often as it is likely to be the best, and one that little is known of is tried. See ``last_of_race`` for
how the rates are drawn: nothing but ``Rng.random``, comparisons, and operations that IEEE 754 rounds exactly, so that
the choice is the same on every machine.
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
from selfinstruct.strategies.base import Strategy, View

__all__ = ["COLUMN", "MixtureMember", "MixtureOptions", "MixtureStrategy", "last_of_race", "suited"]

COLUMN = "strategy"
"""The column of a row that names the method, by its label."""

_EVIDENCE = 64  # rows that count at most: a rate is then known to about an eighth, and is asked about again and again


@dataclass(frozen=True)
class MixtureOptions:
    """How the next method is drawn.

    Attributes:
        explore: With ``adapt``, the share of the proposals that are drawn by the given weights all the same, so that no
            method is given up for good.
    """

    explore: float = 0.05

    def __post_init__(self) -> None:
        if not 0 <= self.explore <= 1:
            raise ValueError("explore must be from 0 to 1")


@dataclass(frozen=True)
class MixtureMember:
    """One method of a mixed run.

    Attributes:
        weight: Its share of the proposals beside the others' weights; with ``adapt``, what a row of it is worth beside
            theirs. One of 0 asks for nothing, and reads what it asked for before.
    """

    label: str
    weight: float
    strategy: Strategy


@dataclass(frozen=True, slots=True)
class _PartView:
    """What one of the methods may look at: all of it, and its own account."""

    _whole: View
    _label: str

    @property
    def seeds(self) -> Sequence[Task]:
        return self._whole.seeds

    @property
    def tasks(self) -> Sequence[Task]:
        return self._whole.tasks

    @property
    def progress(self) -> MethodProgress:
        return self._whole.progress_by_method[self._label]

    @property
    def progress_by_method(self) -> Mapping[str, MethodProgress]:
        return self._whole.progress_by_method


class MixtureStrategy(Strategy):
    """Several strategies as one.

    Args:
        parts: In any order: it decides nothing.
        adapt: Whether weights follow what the methods bring.
    """

    name: ClassVar[str] = "mix"
    templates: ClassVar[Mapping[str, frozenset[str]]] = {}
    Options: ClassVar[type[MixtureOptions]] = MixtureOptions

    def __init__(self, options: MixtureOptions, parts: Sequence[MixtureMember], *, adapt: bool) -> None:
        self.options = options
        self._parts = {part.label: part for part in sorted(parts, key=lambda part: part.label)}
        self._adapt = adapt

    @property
    def format(self) -> str:
        """That of all of them; ``messages``, which can hold anything, where they differ."""
        formats = {part.strategy.format for part in self._parts.values()}
        return formats.pop() if len(formats) == 1 else "messages"

    def schema_apis(self, api: Api) -> frozenset[Api]:
        return frozenset().union(*(part.strategy.schema_apis(api) for part in self._parts.values()))

    def propose(self, view: View, rng: Rng) -> Request | None:
        """What one of the methods asks; None when none of them has anything."""
        own = int(rng.random() * 2**53)  # all that ``random`` draws: the method's generator does not depend on the draw
        left = [part for part in self._parts.values() if part.weight]
        while left:
            part = self._drawn(left, view, rng)
            request = part.strategy.propose(_PartView(view, part.label), Rng("mix", part.label, own))
            if request is not None:
                return _labelled(part.label, request)
            left.remove(part)
        return None

    def receive(self, request: Request, completion: Completion, view: View) -> Received:
        """What the method that asked reads in it."""
        part = self._parts[request.method]
        return _of(part.label, part.strategy.receive(_asked(request), completion, _PartView(view, part.label)))

    def failed(self, request: Request, view: View) -> Received:
        """What the method that asked does instead."""
        part = self._parts[request.method]
        return _of(part.label, part.strategy.failed(_asked(request), _PartView(view, part.label)))

    def fault(self, row: Candidate, text: str) -> str:
        """By the rules of the method that offered the row."""
        return self._parts[str(row.columns[COLUMN])].strategy.fault(row, text)

    def _drawn(self, parts: Sequence[MixtureMember], view: View, rng: Rng) -> MixtureMember:
        if len(parts) == 1:
            return parts[0]
        accounts = [view.progress_by_method[part.label] for part in parts]
        rows, tokens = sum(one.rows for one in accounts), sum(one.tokens for one in accounts)
        if not self._adapt or not tokens or rng.random() < self.options.explore:
            return parts[_weighted([part.weight for part in parts], rng)]
        known = tokens / (rows + 1)  # what is known of a method beforehand: a row at the rate of all
        shapes, exposures = [], []
        for part, account in zip(parts, accounts, strict=True):
            counted = min(account.rows, _EVIDENCE)
            seen = account.tokens * counted / account.rows if account.rows else account.tokens
            shapes.append(1 + counted)
            exposures.append((known + seen) / part.weight)
        return parts[last_of_race(shapes, exposures, rng)]


def last_of_race(shapes: Sequence[int], exposures: Sequence[float], rng: Rng) -> int:
    """Draw a Gamma variable of each shape, divided by its exposure, and tell the place of the largest.

    A Gamma variable of integer shape a over an exposure x is the time of the a-th event of a Poisson process of
    intensity x. So let the processes run: each event is of one of them with the chance that its intensity has among
    all, one that has had its a events is out, and the last one left has the largest. This is exact, and needs no
    logarithm, in which the C libraries of two machines may differ; nor ``sum``, in which two versions of Python do.

    Args:
        shapes: Each 1 or more.
        exposures: Each above 0.
    """
    left, places = list(shapes), list(range(len(shapes)))
    while len(places) > 1:
        bounds, total = [], 0.0
        for place in places:
            total += exposures[place]
            bounds.append(total)
        while True:
            place = places[bisect_right(bounds, rng.random() * total)]  # ``random`` is below 1, so this is below total
            left[place] -= 1
            if not left[place]:
                break
        places.remove(place)
    return places[0]


def _weighted(weights: Sequence[float], rng: Rng) -> int:
    """A place, each with the chance of its weight."""
    total = 0.0
    for weight in weights:
        total += weight
    point, bound = rng.random() * total, 0.0
    for place, weight in enumerate(weights):
        bound += weight
        if point < bound:
            return place
    return len(weights) - 1


def _asked(request: Request) -> Request:
    """As the method knows it."""
    return replace(request, stage=request.stage.removeprefix(f"{request.method}/"))


def _of(label: str, found: Received) -> Received:
    """What a method read, as the run knows it."""
    return Received(
        candidates=tuple(_own(label, one) for one in found.candidates),
        follow_ups=tuple(_labelled(label, one) for one in found.follow_ups),
        discards=found.discards,
        counters=tuple(f"{label}: {mark}" for mark in found.counters),
    )


def _labelled(label: str, request: Request) -> Request:
    return replace(request, stage=f"{label}/{request.stage}")


def _own(label: str, one: Candidate) -> Candidate:
    return replace(
        one,
        columns={**one.columns, COLUMN: label},
        mark=f"{label}: {one.mark}" if one.mark else "",
        on_accept=None if one.on_accept is None else _labelled(label, one.on_accept),
        on_reject=None if one.on_reject is None else _labelled(label, one.on_reject),
    )


def suited(parts: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """The settings that suit several methods, from what suits each (``Strategy.defaults``).

    A run has one set of filters for all. What one of the methods wants switched off (null, false or 0) is off, for
    else its rows would be lost; in everything else the first that has a wish decides.
    """
    found: dict[str, Any] = {}
    for part in parts:
        for key, value in part.items():
            before = found.get(key)
            if isinstance(before, Mapping) and isinstance(value, Mapping):
                found[key] = suited([before, value])
            elif key not in found or not value:
                found[key] = value
    return found
