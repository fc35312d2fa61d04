"""The explanation of a candidate: how a row came to be, or why it was rejected, recomputed from the ledger.

A candidate has an id: ``17.2`` is the third candidate of request 17. A row is named by its position in the dataset,
from 1, and has the id of its candidate.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from rapidfuzz.distance import LCSseq

from selfinstruct.common.formats import user_text
from selfinstruct.common.suggestions import suggest
from selfinstruct.engine.inherited import follow_up_key
from selfinstruct.engine.near_duplicates import row_text
from selfinstruct.engine.plan import RunPlan, recorded_plan
from selfinstruct.engine.row_filters import FilteredCandidate, FilterOutcome
from selfinstruct.engine.run_state import RunState
from selfinstruct.engine.verdict_cache import VerdictCache
from selfinstruct.errors import UsageError
from selfinstruct.evaluation.scores import explain_answer
from selfinstruct.ledger import Reader
from selfinstruct.records import Outcome, Request, Task, Verdict
from selfinstruct.records.requests import candidate_id

__all__ = ["Ancestor", "Explanation", "NearestText", "Step", "explain"]

_CANDIDATE_ID = re.compile(r"(\d{1,18})\.(\d{1,18})")  # at most 18 digits: SQLite's integers have 64 bits


@dataclass(frozen=True)
class NearestText:
    """The text that the score of a verdict refers to.

    Attributes:
        id: Id of a seed or of a candidate.
        text: Its instruction; the whole row for near-duplicates.
        common: Spans of the words that both texts have in the same order, as (start, end) in characters of ``text``.
    """

    id: str
    text: str
    common: tuple[tuple[int, int], ...]


@dataclass(frozen=True)
class Step:
    """One request on the way to a candidate.

    Attributes:
        request: The request as it was sent.
        outcome: Its recorded outcome.
        shown: Ids and instructions of the tasks in the prompt.
        candidate: The candidate of this request that leads to the next step, or the explained candidate itself. Its id
            is "" if the request offers none.
        nearest_texts: The nearest text of each verdict that has one, by filter.
    """

    request: Request
    outcome: Outcome
    shown: tuple[tuple[str, str], ...]
    candidate: FilteredCandidate
    nearest_texts: Mapping[str, NearestText]


@dataclass(frozen=True)
class Ancestor:
    """One text on the way from a seed to a candidate that was derived from it.

    Attributes:
        id: Id of the seed, or of the candidate with this text.
        label: The operation that produced it, from the candidate's columns; "" for the seed.
        text: The text.
        reason: Why the text was rejected; "" if the next text was derived from it.
    """

    id: str
    label: str
    text: str
    reason: str


@dataclass(frozen=True)
class Explanation:
    """How a candidate came to be.

    Attributes:
        id: Id of the candidate.
        row: Its position in the dataset, from 1; None if it is not in the dataset.
        steps: The requests from the first to the one that offered the candidate.
        seed: The seed of the run, which determines every choice of demonstrations.
        lineage: The seed and each text derived from it, the candidate's own last. Empty unless the strategy derives
            rows from seeds and names the seed in the column ``root``.
        failed_requirements: For an item of an evaluation: a line for each requirement that its answer fails, or why
            there is no answer. None for other runs.
    """

    id: str
    row: int | None
    steps: tuple[Step, ...]
    seed: int
    lineage: tuple[Ancestor, ...] = ()
    failed_requirements: tuple[str, ...] | None = None

    @property
    def candidate(self) -> FilteredCandidate:
        """The explained candidate with its verdicts."""
        return self.steps[-1].candidate


def explain(folder: Path, name: str) -> Explanation:
    """Explain a row or a candidate of a run.

    Args:
        folder: The run directory. The run may be at work.
        name: The position of a row in the dataset, from 1 (``"5"``), the id of a candidate (``"17.2"``), or an item of
            an evaluation (``"ifeval/1001"``).

    Returns:
        The requests that led to the candidate, with prompts, completions and verdicts.

    Raises:
        LedgerError: If there is no readable run in ``folder``.
        UsageError: If there is no such row or candidate, or it is not processed yet.
    """
    with Reader(folder) as reader:
        reader.freeze()
        plan = recorded_plan(reader)
        if name.isascii() and name.isdigit() and len(name) <= 18:
            name = _row_id(folder, plan, reader, int(name))
        elif not _CANDIDATE_ID.fullmatch(name):
            name = _item_candidate(folder, plan, reader, name)
        chain = _RequestChain(reader, name)
        state = RunState.from_ledger(plan, reader, chain.collect, full_comparison=chain.contains)
        if name not in chain.candidates:
            raise UsageError(
                f"{folder}: {chain.reason_absent(state)}; selfinstruct export {folder} --format candidates lists all"
            )
        ids = [row.id for row in state.rows]
        position = ids.index(name) + 1 if name in ids else None
        steps = chain.steps(state)
        requirements = _failed_requirements(folder, plan, steps[-1].request)
        return Explanation(name, position, steps, plan.settings.seed, _lineage(steps, plan.seeds), requirements)


def _failed_requirements(folder: Path, plan: RunPlan, request: Request) -> tuple[str, ...] | None:
    if not plan.counts_every_answer or request.item is None:
        return None
    return tuple(explain_answer(folder, plan.seeds[request.item].id))


def _item_candidate(folder: Path, plan: RunPlan, reader: Reader, item: str) -> str:
    """Return the id of the candidate that answers an item of an evaluation."""
    if not plan.counts_every_answer:
        raise UsageError(f"{item!r} is neither a row's number (5) nor a candidate's id (17.2)")
    if all(task.id != item for task in plan.seeds):
        raise UsageError(f"{folder} has no item {item!r}{suggest(item, [task.id for task in plan.seeds])}")
    numbers: list[int] = []

    def collect(filtered: FilterOutcome, _: object) -> None:
        if filtered.request.item is not None and plan.seeds[filtered.request.item].id == item:
            numbers.append(filtered.request.number)

    RunState.from_ledger(plan, reader, collect)
    if not numbers:
        raise UsageError(f"{folder}: the item {item!r} has no outcome yet; selfinstruct evaluate {folder} asks it")
    return candidate_id(numbers[-1], 0)


def _row_id(folder: Path, plan: RunPlan, reader: Reader, position: int) -> str:
    rows = RunState.from_ledger(plan, reader, checkpoint=VerdictCache(folder, plan).load(reader)).rows
    if not 1 <= position <= len(rows):
        raise UsageError(f"{folder} has no row {position}: its rows are 1 to {len(rows)}")
    return rows[position - 1].id


class _RequestChain:
    """The requests from the first to the one of a candidate, collected while the run is processed again.

    Args:
        reader: The ledger of the run.
        name: Id of the candidate.

    Attributes:
        candidates: Candidates of all requests in the chain, by id.
    """

    def __init__(self, reader: Reader, name: str) -> None:
        self.candidates: dict[str, FilteredCandidate] = {}
        self._name = name
        self._last = int(name.partition(".")[0])
        self._numbers: list[int] = []
        self._processed: dict[int, tuple[FilterOutcome, Outcome]] = {}
        number: int | None = self._last
        while number is not None and (request := reader.request(number)) is not None:
            self._numbers.insert(0, number)
            number = request.parent

    def contains(self, number: int) -> bool:
        """Return whether a request is in the chain; its verdicts then list the nearest texts of all candidates."""
        return number in self._numbers

    def collect(self, filtered: FilterOutcome, outcome: Outcome) -> None:
        """Keep a processed request if it belongs to the chain."""
        if filtered.request.number in self._numbers:
            self._processed[filtered.request.number] = filtered, outcome
            self.candidates.update((candidate.id, candidate) for candidate in filtered.candidates)

    def reason_absent(self, state: RunState) -> str:
        """Return why the candidate does not exist, as a sentence."""
        if self._last >= state.scheduler.decided:
            return f"request {self._last} " + ("is not processed yet" if self._numbers else "was never sent")
        if self._last not in self._processed:  # an inherited request
            cause = "the candidate that it follows is not kept under this run's settings"
            return f"request {self._last} is skipped: {cause if self._numbers else 'it has no outcome'}"
        count = len(self._processed[self._last][0].candidates)
        return f"request {self._last} offered {count} candidates, and {self._name} is not among them"

    def steps(self, state: RunState) -> tuple[Step, ...]:
        """Return the steps from the first request to the candidate."""
        target = self.candidates[self._name]
        chosen = self._chosen_candidates(target)
        texts = _texts_by_id(state)
        steps = []
        for number in self._numbers:
            filtered, outcome = self._processed[number]
            # A request in between may offer no candidate.
            candidate = chosen.get(number) or FilteredCandidate("", target.candidate, ())
            nearest = {
                verdict.filter: _nearest_text(verdict, candidate, texts)
                for verdict in candidate.verdicts
                if verdict.nearest is not None
            }
            steps.append(Step(filtered.request, outcome, _shown(filtered.request, texts), candidate, nearest))
        return tuple(steps)

    def _chosen_candidates(self, target: FilteredCandidate) -> dict[int, FilteredCandidate]:
        """Return the candidate of each request that lies on the way to the target, by request number."""
        chosen = {
            number: filtered.candidates[0]
            for number, (filtered, _) in self._processed.items()
            if len(filtered.candidates) == 1
        }
        chosen[self._last] = target
        if (task := target.candidate.task) is not None and task in self.candidates:
            chosen[int(task.partition(".")[0])] = self.candidates[task]
        for number, following in itertools.pairwise(self._numbers):
            candidate = _followed_candidate(self._processed[number][0], self._processed[following][0].request)
            if candidate is not None:
                chosen[number] = candidate
        return chosen


def _texts_by_id(state: RunState) -> dict[str, str]:
    pool = state.scheduler.pool
    tasks: list[Task] = [*pool.seeds, *pool.tasks, *pool.others]
    instructions = {task.id: task.instruction for task in tasks}
    return instructions | {f"row {row.id}": row_text(row.candidate) for row in pool.rows}


def _lineage(steps: Sequence[Step], seeds: Sequence[Task]) -> tuple[Ancestor, ...]:
    """Return the texts that lead from a seed to the last candidate, including rejected ones."""
    root = steps[-1].candidate.candidate.columns.get("root")
    seed = next((seed for seed in seeds if seed.id == root), None)
    if seed is None:
        return ()
    text = user_text(seed.instruction, seed.instances[0].input if seed.instances else "")
    ancestors = {seed.id: Ancestor(seed.id, "", text, "")}
    for step in steps:
        if not step.candidate.id:
            continue
        candidate = step.candidate.candidate
        ancestor_id = candidate.task or step.candidate.id
        label = ", ".join(f"{name} {value}" for name, value in candidate.columns.items() if name != "root")
        ancestors[ancestor_id] = Ancestor(ancestor_id, label, candidate.instruction, step.candidate.reason)
    return tuple(ancestors.values())


def _followed_candidate(filtered: FilterOutcome, following: Request) -> FilteredCandidate | None:
    """Return the candidate whose acceptance or rejection queued the request ``following``, or None."""
    for decided in filtered.candidates:
        follow_up = decided.candidate.on_accept if decided.kept else decided.candidate.on_reject
        if follow_up is not None and follow_up_key(follow_up) == follow_up_key(following):
            return decided
    return None


def _shown(request: Request, texts: Mapping[str, str]) -> tuple[tuple[str, str], ...]:
    return tuple((task_id, texts.get(task_id, "")) for task_id in request.demonstrations or ())


def _nearest_text(verdict: Verdict, filtered: FilteredCandidate, texts: Mapping[str, str]) -> NearestText:
    nearest_id, candidate = str(verdict.nearest), filtered.candidate
    if verdict.filter != "minhash":
        text, nearest = candidate.instruction, texts.get(nearest_id, "")
    else:
        text, nearest = row_text(candidate), texts.get(f"row {nearest_id}", "")
    return NearestText(nearest_id, nearest, _common_words(text, nearest))


def _common_words(text: str, nearest: str) -> tuple[tuple[int, int], ...]:
    """Return the spans in ``nearest`` of a longest common subsequence of words."""
    words = [word.lower() for word in re.findall(r"\w+", text)]
    spans = [(match.start(), match.end()) for match in re.finditer(r"\w+", nearest)]
    nearest_words = [nearest[start:end].lower() for start, end in spans]
    matches = [step for step in LCSseq.opcodes(words, nearest_words) if step.tag == "equal"]
    return tuple(spans[index] for match in matches for index in range(match.dest_start, match.dest_end))
