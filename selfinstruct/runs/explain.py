"""How a row came to be, or why a candidate is none: everything about it that the ledger knows, judged again.

A candidate has an id, ``17.2``: the third that request 17 offered. A row is named by its place in the dataset, from 1,
and is the candidate that it was.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from rapidfuzz.distance import LCSseq

from selfinstruct.common.formats import user_text
from selfinstruct.engine.inherited import about
from selfinstruct.engine.plan import RunPlan, recorded_plan
from selfinstruct.engine.row_filters import FilteredCandidate, FilterOutcome, row_text
from selfinstruct.engine.run_state import RunState
from selfinstruct.engine.verdict_cache import VerdictCache
from selfinstruct.errors import UsageError
from selfinstruct.ledger import Reader
from selfinstruct.records import Outcome, Request, Task, Verdict

__all__ = ["Ancestor", "Explanation", "Neighbour", "Step", "explain"]

_ID = re.compile(r"(\d{1,18})\.(\d{1,18})")  # what the ledger's numbers can be


@dataclass(frozen=True)
class Neighbour:
    """The text that a verdict's score refers to.

    Attributes:
        id: Of a seed or of a candidate.
        text: Its instruction; of a near-duplicate, the whole row.
        common: Which of its words the two have in common, in their order: (start, end) in characters.
    """

    id: str
    text: str
    common: tuple[tuple[int, int], ...]


@dataclass(frozen=True)
class Step:
    """One request on the way to a candidate, and what it brought.

    Attributes:
        shown: Ids and instructions of the tasks that the prompt displays.
        candidate: The candidate of this request that lies on the way: a draft, the only one, or the candidate itself.
        neighbours: By filter, of the verdicts that have one.
    """

    request: Request
    outcome: Outcome
    shown: tuple[tuple[str, str], ...]
    candidate: FilteredCandidate
    neighbours: Mapping[str, Neighbour]


@dataclass(frozen=True)
class Ancestor:
    """One text on the way from a seed to a candidate that was made of it.

    Attributes:
        id: Of the seed, or of the candidate that brought the text.
        label: What was done to come to it: the candidate's columns; "" of the seed.
        reason: Why nothing was made of it; "" of what the way goes on from.
    """

    id: str
    label: str
    text: str
    reason: str


@dataclass(frozen=True)
class Explanation:
    """A candidate's way.

    Attributes:
        id: Of the candidate.
        row: Its place in the dataset, from 1; None if it is no row.
        steps: From the first request to the one that brought it.
        seed: The run's, from which every choice of demonstrations follows.
        lineage: Of a method that works on a seed further and further, and names it in the column ``root``: the seed,
            then each text in turn, the candidate's own last.
    """

    id: str
    row: int | None
    steps: tuple[Step, ...]
    seed: int
    lineage: tuple[Ancestor, ...] = ()

    @property
    def candidate(self) -> FilteredCandidate:
        """The one that is explained."""
        return self.steps[-1].candidate


def explain(folder: Path, name: str) -> Explanation:
    """Explain a candidate by its id, or a row by its place in the dataset.

    Raises:
        LedgerError: There is no readable run in ``folder``.
        UsageError: There is no such candidate or row, or it is not judged yet.
    """
    with Reader(folder) as reader:
        reader.freeze()
        plan = recorded_plan(reader)
        place = int(name) if name.isascii() and name.isdigit() and len(name) <= 18 else None
        if place is not None:
            name = _id_of_row(folder, plan, reader, place)
        elif not _ID.fullmatch(name):
            raise UsageError(f"{name!r} is neither a row's number (5) nor a candidate's id (17.2)")
        way = _Way(plan, reader, name)
        course = RunState.of(plan, reader, way.take, dense=way.wants)
        if name not in way.found:
            raise UsageError(
                f"{folder}: {way.absence(course)}; selfinstruct export {folder} --format candidates lists all"
            )
        rows = [row.id for row in course.rows]
        place = rows.index(name) + 1 if name in rows else None
        steps = way.steps(course)
        return Explanation(name, place, steps, plan.settings.seed, _lineage(steps, plan.seeds))


def _id_of_row(folder: Path, plan: RunPlan, reader: Reader, place: int) -> str:
    rows = RunState.of(plan, reader, snapshot=VerdictCache(folder, plan).load(reader)).rows
    if not 1 <= place <= len(rows):
        raise UsageError(f"{folder} has no row {place}: its rows are 1 to {len(rows)}")
    return rows[place - 1].id


class _Way:
    """The requests from the first to the one that offered a candidate, kept while the run is judged again."""

    def __init__(self, plan: RunPlan, reader: Reader, name: str) -> None:
        self.name = name
        self.found: dict[str, FilteredCandidate] = {}
        self._plan = plan
        self._last = int(name.partition(".")[0])
        self._chain: list[int] = []
        self._judged: dict[int, tuple[FilterOutcome, Outcome]] = {}
        number: int | None = self._last
        while number is not None and (request := reader.request(number)) is not None:
            self._chain.insert(0, number)
            number = request.parent

    def wants(self, number: int) -> bool:
        """Whether the verdicts of a request are to tell all: the nearest of what was kept, too."""
        return number in self._chain

    def take(self, judged: FilterOutcome, outcome: Outcome) -> None:
        if judged.request.number in self._chain:
            self._judged[judged.request.number] = judged, outcome
            self.found.update((one.id, one) for one in judged.candidates)

    def absence(self, course: RunState) -> str:
        if self._last >= course.line.judged:
            return f"request {self._last} is not judged" + (" yet" if self._chain else ", nor was it ever sent")
        if self._last not in self._judged:  # of a fork's history
            return f"request {self._last} is passed over: " + (
                "what it followed is not kept under this run's settings" if self._chain else "it was never answered"
            )
        count = len(self._judged[self._last][0].candidates)
        return f"request {self._last} offered {count} candidates, and {self.name} is none of them"

    def steps(self, course: RunState) -> tuple[Step, ...]:
        target = self.found[self.name]
        wanted = {
            number: judged.candidates[0] for number, (judged, _) in self._judged.items() if len(judged.candidates) == 1
        }
        wanted[self._last] = target
        if (task := target.candidate.task) is not None and task in self.found:
            wanted[int(task.partition(".")[0])] = self.found[task]
        for number, after in itertools.pairwise(self._chain):
            if (one := _followed(self._judged[number][0], self._judged[after][0].request)) is not None:
                wanted[number] = one
        texts = self._texts(course)
        steps = []
        for number in self._chain:
            judged, outcome = self._judged[number]
            one = wanted.get(number)
            if one is None:  # a request between them, which offers nothing of its own
                one = FilteredCandidate("", target.candidate, ())
            steps.append(Step(judged.request, outcome, _shown(judged.request, texts), one, _neighbours(one, texts)))
        return tuple(steps)

    def _texts(self, course: RunState) -> dict[str, str]:
        pool = course.line.pool
        tasks: list[Task] = [*pool.seeds, *pool.tasks, *pool.others]
        return {task.id: task.instruction for task in tasks} | {
            f"row {row.id}": row_text(row.candidate) for row in pool.rows
        }


def _lineage(steps: Sequence[Step], seeds: Sequence[Task]) -> tuple[Ancestor, ...]:
    """The texts of a way, each with what became of it: rejected, by whichever step, it led no further."""
    root = steps[-1].candidate.candidate.columns.get("root")
    seed = next((seed for seed in seeds if seed.id == root), None)
    if seed is None:
        return ()
    text = user_text(seed.instruction, seed.instances[0].input if seed.instances else "")
    found = {seed.id: Ancestor(seed.id, "", text, "")}
    for step in steps:
        one = step.candidate
        if not one.id:
            continue
        columns = one.candidate.columns
        label = ", ".join(f"{name} {value}" for name, value in columns.items() if name != "root")
        found[one.candidate.task or one.id] = Ancestor(
            one.candidate.task or one.id, label, one.candidate.instruction, one.reason
        )
    return tuple(found.values())


def _followed(judged: FilterOutcome, after: Request) -> FilteredCandidate | None:
    """The candidate of a request whose fate led to the next request: a draft, or a trial."""
    for one in judged.candidates:
        next_ = one.candidate.on_accept if one.kept else one.candidate.on_reject
        if next_ is not None and about(next_) == about(after):
            return one
    return None


def _shown(request: Request, texts: Mapping[str, str]) -> tuple[tuple[str, str], ...]:
    return tuple((name, texts.get(name, "")) for name in request.demonstrations or ())


def _neighbours(one: FilteredCandidate, texts: Mapping[str, str]) -> dict[str, Neighbour]:
    return {verdict.filter: _neighbour(verdict, one, texts) for verdict in one.verdicts if verdict.nearest is not None}


def _neighbour(verdict: Verdict, one: FilteredCandidate, texts: Mapping[str, str]) -> Neighbour:
    name, candidate = str(verdict.nearest), one.candidate
    if verdict.filter != "minhash":
        ours, text = candidate.instruction, texts.get(name, "")
    else:
        ours, text = row_text(candidate), texts.get(f"row {name}", "")
    return Neighbour(name, text, _common(ours, text))


def _common(ours: str, theirs: str) -> tuple[tuple[int, int], ...]:
    """Where in ``theirs`` the words stand that both have, in one order."""
    first = [word.lower() for word in re.findall(r"\w+", ours)]
    places = [(match.start(), match.end()) for match in re.finditer(r"\w+", theirs)]
    second = [theirs[start:end].lower() for start, end in places]
    same = [step for step in LCSseq.opcodes(first, second) if step.tag == "equal"]
    return tuple(places[at] for step in same for at in range(step.dest_start, step.dest_end))
