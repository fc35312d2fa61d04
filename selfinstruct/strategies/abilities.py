"""Optional abilities of strategies, as base classes to inherit from besides ``Strategy``.

The engine asks for an ability through the functions below, which return a neutral answer for strategies without it.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, Generic, TypeVar

from selfinstruct.common.chat_template import ChatTemplate
from selfinstruct.common.unused import Unused
from selfinstruct.prompts import Api
from selfinstruct.records import Candidate, Received, Request, Task
from selfinstruct.strategies.base import Strategy, View

__all__ = [
    "AnswersTasks",
    "AsksItems",
    "BeginsWithTasks",
    "ChecksAnswers",
    "ChoosesFormat",
    "ChoosesTarget",
    "ChoosesTemplates",
    "DiscoversOptions",
    "HasModes",
    "KnowsUnansweredRows",
    "NeedsRawPrompts",
    "ReadsDataFiles",
    "RecoversFailures",
    "ResolvesOptions",
    "SendsContext",
    "UsesSchemas",
    "context_templates",
    "data_files",
    "default_target",
    "discover_options",
    "recover",
    "reject_reason",
    "resolve_options",
    "row_format",
    "schema_apis",
    "templates_for",
    "unanswered_row",
    "unused_options",
]

_Options_contra = TypeVar("_Options_contra", contravariant=True)


class BeginsWithTasks:
    """Marks a strategy that works through the tasks of the seed file, one after the other.

    The tasks need no answer then, and any dataset or finished run can take the place of the seed file (``--from``).
    Each request that starts work on a task sets ``Request.item`` to its index.
    """


class AnswersTasks(BeginsWithTasks):
    """Marks a strategy whose rows are the tasks themselves, each with an answer.

    The novelty filter then compares a task with the tasks before it, and no request is made for one that it rejects.
    """


class AsksItems(ABC):
    """A strategy that asks the items of its own files once each, where every answer counts.

    Its items take the place of the seed tasks. A run is complete when every item was processed, and answers that become
    no row don't stop it.
    """

    @classmethod
    @abstractmethod
    def read_tasks(cls, options: Any) -> Sequence[Task]:
        """Return the items as tasks.

        Raises:
            UsageError: A file can't be read, or its content is wrong.
        """


class SendsContext:
    """Marks a strategy that sends a task's system prompt and its earlier rounds, and keeps them in the row.

    Attributes:
        context_templates: Further templates, with their variables, of runs in which a task has earlier rounds.
    """

    context_templates: ClassVar[Mapping[str, frozenset[str]]]


class NeedsRawPrompts:
    """Marks a strategy that works with raw prompts only."""


class ReadsDataFiles(ABC, Generic[_Options_contra]):
    """A strategy with data files besides seeds and templates; the ledger stores their texts like templates."""

    @classmethod
    @abstractmethod
    def data_files(cls, options: _Options_contra) -> Mapping[str, Path]:
        """Return the files that these options need, by the name under which ``Prompts.texts`` holds each text."""

    @classmethod
    @abstractmethod
    def read_data(cls, path: Path) -> str:
        """Return the checked text of one file.

        Raises:
            UsageError: The file can't be read, or its content is wrong.
        """


class DiscoversOptions(ABC, Generic[_Options_contra]):
    """A strategy that derives options from the model's chat template when a run starts."""

    @classmethod
    @abstractmethod
    def discover_options(
        cls, options: _Options_contra, template: Callable[[], ChatTemplate | None]
    ) -> Mapping[str, Any]:
        """Return values for options that the user left out; the run records them.

        Args:
            options: The options as the user set them.
            template: Reads the model's own chat template; returns None where the backend has none.

        Raises:
            UsageError: The options can't be derived.
        """


class ResolvesOptions(ABC):
    """A strategy with options that may name a file; the run records the content."""

    @classmethod
    @abstractmethod
    def resolve_options(cls, options: Any) -> Any:
        """Return the options with the content in place of the file.

        Raises:
            ValueError: The file can't be read, or its content is wrong.
        """


class ChoosesTemplates(ABC, Generic[_Options_contra]):
    """A strategy whose templates depend on its options."""

    @classmethod
    @abstractmethod
    def templates_for(cls, options: _Options_contra) -> Mapping[str, frozenset[str]]:
        """Return the templates that these options need, in the form of ``Strategy.templates``."""


class HasModes(ABC, Generic[_Options_contra]):
    """A strategy with options that leave other options, or templates, unused."""

    @classmethod
    @abstractmethod
    def unused_options(cls, options: _Options_contra, api: Api) -> Iterable[Unused]:
        """Return the options and templates that have no effect.

        Args:
            options: The options of the run.
            api: The run's API, for stages that name no API.
        """


class UsesSchemas(ABC):
    """A strategy that may request text by a JSON schema."""

    @abstractmethod
    def schema_apis(self, api: Api) -> frozenset[Api]:
        """Return the APIs in which requests carry a schema.

        Args:
            api: The run's API, for stages that name no API.
        """


class ChoosesFormat(ABC):
    """A strategy whose dataset is not in the Alpaca format by default."""

    @property
    @abstractmethod
    def format(self) -> str:
        """Format of the run's dataset, one of ``formats.FORMATS``."""


class ChoosesTarget(ABC):
    """A strategy that knows how many rows to make when the user sets no number."""

    @abstractmethod
    def default_target(self, seeds: Sequence[Task]) -> int | None:
        """Return the number of rows, or None for the default of every run."""


class ChecksAnswers(ABC):
    """A strategy with additional rules for further answers to a row's question (best of K)."""

    @abstractmethod
    def reject_reason(self, row: Candidate, text: str) -> str:
        """Return the reason code for rejecting `text` as an alternative answer to `row`; "" if acceptable."""


class KnowsUnansweredRows(ABC):
    """A strategy that discards an unfinished answer to a task, and knows the row that it would have become."""

    @abstractmethod
    def unanswered_row(self, request: Request) -> Candidate | None:
        """Return the row of a request for the answer to a task, without an output; None for other requests."""


class RecoversFailures(ABC):
    """A strategy that continues after a request has failed permanently."""

    @abstractmethod
    def recover(self, request: Request, view: View) -> Received:
        """Return the candidates and requests that take the place of the missing completion."""


def data_files(kind: type[Strategy], options: object) -> Mapping[str, Path]:
    """Return the data files that a strategy needs under these options."""
    return kind.data_files(options) if issubclass(kind, ReadsDataFiles) else {}


def discover_options(
    kind: type[Strategy], options: object, template: Callable[[], ChatTemplate | None]
) -> Mapping[str, Any]:
    """Return the options that a strategy derives from the model's chat template."""
    return kind.discover_options(options, template) if issubclass(kind, DiscoversOptions) else {}


def resolve_options(kind: type[Strategy], options: object) -> object:
    """Return a strategy's options with the content of the files that they name."""
    return kind.resolve_options(options) if issubclass(kind, ResolvesOptions) else options


def templates_for(kind: type[Strategy], options: object) -> Mapping[str, frozenset[str]]:
    """Return the templates that a strategy needs under these options."""
    return kind.templates_for(options) if issubclass(kind, ChoosesTemplates) else kind.templates


def context_templates(kind: type[Strategy], seeds: Sequence[Task]) -> Mapping[str, frozenset[str]]:
    """Return the further templates that a strategy needs for tasks with earlier rounds."""
    return kind.context_templates if issubclass(kind, SendsContext) and any(task.history for task in seeds) else {}


def unused_options(kind: type[Strategy], options: object, api: Api) -> Iterable[Unused]:
    """Return the options and templates of a strategy that have no effect."""
    return kind.unused_options(options, api) if issubclass(kind, HasModes) else ()


def schema_apis(strategy: Strategy, api: Api) -> frozenset[Api]:
    """Return the APIs in which a strategy's requests carry a JSON schema."""
    return strategy.schema_apis(api) if isinstance(strategy, UsesSchemas) else frozenset()


def row_format(strategy: Strategy) -> str:
    """Return the format of a strategy's dataset."""
    return strategy.format if isinstance(strategy, ChoosesFormat) else "alpaca"


def default_target(strategy: Strategy, seeds: Sequence[Task]) -> int | None:
    """Return the number of rows to make where the user sets none; None for the default of every run."""
    return strategy.default_target(seeds) if isinstance(strategy, ChoosesTarget) else None


def reject_reason(strategy: Strategy, row: Candidate, text: str) -> str:
    """Return the strategy's reason code for rejecting `text` as an alternative answer to `row`; "" if acceptable."""
    return strategy.reject_reason(row, text) if isinstance(strategy, ChecksAnswers) else ""


def unanswered_row(strategy: Strategy, request: Request) -> Candidate | None:
    """Return the row, without an output, that a request for an answer is about; None for other requests."""
    return strategy.unanswered_row(request) if isinstance(strategy, KnowsUnansweredRows) else None


def recover(strategy: Strategy, request: Request, view: View) -> Received:
    """Return the candidates and requests by which a strategy recovers from a permanently failed request."""
    return strategy.recover(request, view) if isinstance(strategy, RecoversFailures) else Received()
