"""The answers of a run to the items of its suites, read from the ledger."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from selfinstruct.engine.plan import RunPlan, recorded_plan
from selfinstruct.engine.row_filters import FilterOutcome
from selfinstruct.engine.run_state import RunState
from selfinstruct.errors import UsageError
from selfinstruct.ledger import ExecutionJournal, Ledger, Reader
from selfinstruct.reasons import RejectReason
from selfinstruct.records import Failure, Outcome
from selfinstruct.strategies import Evaluate
from selfinstruct.suites.files import SuiteItem
from selfinstruct.verifiers import Journal

__all__ = ["Answer", "Answers", "read_answers"]


@dataclass(frozen=True, slots=True)
class Answer:
    """An item and its answer.

    Attributes:
        item: The item with its suite.
        text: The answer without reasoning; "" for none.
        request: Number of the request; None while the item has no outcome.
        reason: Why there is no answer: the code of a failure, or ``empty`` or the ending of a completion without text.
            "" if there is one, and while the item has no outcome.
        cut: Whether the answer is not complete. It is scored as it stands.
    """

    item: SuiteItem
    text: str = ""
    request: int | None = None
    reason: str = ""
    cut: bool = False


@dataclass(frozen=True)
class Answers:
    """The answers of a run.

    Attributes:
        folder: The run directory.
        plan: The plan of the run.
        answers: One for each item, in order.
        journal: Stored results of verifiers that run code.
    """

    folder: Path
    plan: RunPlan
    answers: Sequence[Answer]
    journal: Journal

    @property
    def readers(self) -> Sequence[str]:
        """The suites with the versions by which they are read and scored now."""
        return tuple(self.plan.strategy_options.readers)


def read_answers(folder: Path, ledger: Ledger | None = None) -> Answers:
    """Read the answers of a run, which may be at work.

    Args:
        folder: The run directory.
        ledger: Stores the results of verifiers that run code; None does not store them.

    Raises:
        UsageError: The run is no evaluation.
        LedgerError: There is no readable run in ``folder``.
    """
    with Reader(folder) as reader:
        reader.freeze()
        plan = recorded_plan(reader)
        if not isinstance(plan.strategy, Evaluate):
            raise UsageError(
                f"{folder} is a run of {plan.settings.strategy} and has no scores; "
                "make one with: selfinstruct evaluate RUN --suite NAME=FILE"
            )
        outcomes: dict[str, tuple[int, Outcome]] = {}

        def collect(filtered: FilterOutcome, outcome: Outcome) -> None:
            request = filtered.request
            assert request.item is not None
            outcomes[plan.seeds[request.item].id] = request.number, outcome

        RunState.from_ledger(plan, reader, collect)
        items = {each.id: each for each in plan.strategy.items()}
        answers = [_answer(plan, items[task.id], outcomes.get(task.id)) for task in plan.seeds]
        return Answers(folder, plan, answers, ExecutionJournal(reader, ledger))


def _answer(plan: RunPlan, item: SuiteItem, recorded: tuple[int, Outcome] | None) -> Answer:
    if recorded is None:
        return Answer(item)
    number, outcome = recorded
    if isinstance(outcome, Failure):
        return Answer(item, request=number, reason=outcome.code)
    raw = plan.strategy_options.answer.is_raw(plan.prompts)
    choice = plan.reader.read(outcome, chat=not raw).completion.choices[0]
    if not choice.text.strip():
        return Answer(item, request=number, reason=str(choice.cut_reason or RejectReason.EMPTY))
    return Answer(item, choice.text, number, cut=choice.cut_reason != "")
