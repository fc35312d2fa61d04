"""Evaluate: each item of a suite is asked once, and every answer counts."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, ClassVar

from selfinstruct.common.config import NAMES_FILE
from selfinstruct.common.files import read_text
from selfinstruct.common.rng import Rng
from selfinstruct.common.unused import Unused
from selfinstruct.parse import content_span
from selfinstruct.prompts import Api
from selfinstruct.reasons import RejectReason
from selfinstruct.records import Candidate, Completion, Received, Request, Task, Verdict
from selfinstruct.strategies.abilities import (
    AsksItems,
    ChoosesTarget,
    HasModes,
    ReadsDataFiles,
    RecoversFailures,
    ResolvesOptions,
)
from selfinstruct.strategies.base import Strategy, View
from selfinstruct.strategies.shared.stage import Stage
from selfinstruct.strategies.shared.unfiltered import UNFILTERED
from selfinstruct.suites.files import (
    SuiteFile,
    SuiteItem,
    choose_items,
    read_items,
    read_suite,
    read_suite_text,
    suite_version,
)

__all__ = ["Evaluate", "EvaluateOptions"]

_ANSWER = Stage(max_tokens=1280, temperature=0.0, api="chat")


@dataclass(frozen=True)
class EvaluateOptions:
    """Settings of this strategy.

    Attributes:
        suites: The suites, each as ``NAME=FILE`` or ``NAME=FOLDER``; several files of one name are one suite.
        limit: Maximum number of items of each suite; null for all of them.
        sample_seed: Decides which items a limit chooses. A larger limit keeps the items of a smaller one.
        default_system: System prompt of a chat for items without one: for models that are used to one.
        readers: The suites with their versions, which the run records. It can't be set.
        answer: The only stage. A temperature of 0 always takes the likeliest token.
    """

    suites: tuple[str, ...] = field(default=(), metadata=NAMES_FILE)
    limit: int | None = None
    sample_seed: int = 0
    default_system: str = ""
    readers: tuple[str, ...] = ()
    answer: Stage = _ANSWER

    def __post_init__(self) -> None:
        if self.limit is not None and self.limit < 1:
            raise ValueError("limit must be at least 1")

    @property
    def files(self) -> list[SuiteFile]:
        """The files of the suites, in order."""
        return [file for text in self.suites for file in SuiteFile.parse(text)]


class Evaluate(
    Strategy,
    AsksItems,
    ReadsDataFiles[EvaluateOptions],
    ChoosesTarget,
    RecoversFailures,
    HasModes[EvaluateOptions],
    ResolvesOptions,
):
    """Answers to the items of suites, in order. Complete answers are rows; what they score is computed elsewhere."""

    name: ClassVar[str] = "evaluate"
    templates: ClassVar[Mapping[str, frozenset[str]]] = {
        "evaluate/question": frozenset({"question"}),
        "evaluate/raw": frozenset({"system", "question"}),
        "evaluate/system": frozenset({"system"}),
    }
    defaults: ClassVar[Mapping[str, Any]] = {"filters": UNFILTERED}
    Options: ClassVar[type[EvaluateOptions]] = EvaluateOptions
    options: EvaluateOptions

    @classmethod
    def resolve_options(cls, options: EvaluateOptions) -> EvaluateOptions:
        """Return the options with every file of each folder, and the versions of the suites."""
        files = options.files
        readers = tuple(dict.fromkeys(suite_version(file.name) for file in files))
        return replace(options, suites=tuple(map(str, files)), readers=readers)

    @classmethod
    def unused_options(cls, options: EvaluateOptions, api: Api) -> Iterable[Unused]:
        """Return what only a chat or only a raw prompt uses."""
        if options.answer.api_in(api) == "completion":
            yield Unused("answer.api", "chat", ("default_system",), ("evaluate/question", "evaluate/system"))
        else:
            yield Unused("answer.api", "completion", (), ("evaluate/raw",))

    @classmethod
    def data_files(cls, options: EvaluateOptions) -> Mapping[str, Path]:
        """Return the files of the suites."""
        return {name: file.path for name, file in _named_files(options)}

    @classmethod
    def read_data(cls, path: Path) -> str:
        """Return the text of the file of a suite; ``read_tasks`` checks it."""
        return read_text(path)

    @classmethod
    def read_tasks(cls, options: EvaluateOptions) -> list[Task]:
        """Return the chosen items as tasks.

        Raises:
            UsageError: A file can't be read, or a row is invalid.
        """
        items = read_items((file, read_suite(file)) for file in options.files)
        chosen = choose_items(items, options.limit, options.sample_seed)
        return [Task(each.id, each.item.question, system=each.item.system) for each in chosen]

    def items(self) -> list[SuiteItem]:
        """Return all items of the suites, read from the texts that the run stores."""
        named = _named_files(self.options)
        return read_items((file, read_suite_text(file, self.prompts.texts[name])) for name, file in named)

    def default_target(self, seeds: Sequence[Task]) -> int:
        """Return the number of items."""
        return len(seeds)

    def propose(self, view: View, rng: Rng) -> Request | None:  # noqa: ARG002
        """Ask the next item; return None after the last."""
        index = view.progress.next_item
        if index >= len(view.seeds):
            return None
        task, stage = view.seeds[index], self.options.answer
        if stage.is_raw(self.prompts):
            system = f"{task.system}\n\n" if task.system else ""
            turn = self.prompts.turn("prompt", "evaluate/raw", {"system": system, "question": task.instruction})
            # A base model continues after its answer by inventing another task.
            return Request("answer", (turn,), stage.sampling("\n### Task"), item=index, demonstrations=(task.id,))
        turn = self.prompts.turn("user", "evaluate/question", {"question": task.instruction})
        system = task.system or self.options.default_system
        opening = (self.prompts.turn("system", "evaluate/system", {"system": system}),) if system else ()
        return Request("answer", (*opening, turn), stage.sampling(), item=index, demonstrations=(task.id,))

    def receive(self, request: Request, completion: Completion, view: View) -> Received:
        """Take a complete answer as a row. One that was cut is rejected as a row, and its score counts all the same."""
        reason = RejectReason.TRUNCATED if completion.truncated else ""
        span = content_span(completion.text)
        return Received((self._row(request, view, completion.text[slice(*span)], reason, span),))

    def recover(self, request: Request, view: View) -> Received:
        """Take a failed request as an item without an answer."""
        return Received((self._row(request, view, "", RejectReason.NO_ANSWER),))

    @staticmethod
    def _row(request: Request, view: View, output: str, reason: str, span: tuple[int, int] = (0, 0)) -> Candidate:
        assert request.item is not None
        task, verdicts = view.seeds[request.item], (Verdict("answer", not reason, reason),)
        columns = {"item": task.id}
        return Candidate(
            task.instruction, output=output, span=span, system=task.system, columns=columns, verdicts=verdicts
        )


def _named_files(options: EvaluateOptions) -> list[tuple[str, SuiteFile]]:
    """Return the files with the names of their texts among the texts of the run."""
    return [(f"suites/{index:04}-{file.name}", file) for index, file in enumerate(options.files)]
