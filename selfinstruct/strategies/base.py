"""The contract between the scheduler and a method of synthesis.

A strategy is two pure functions: ``propose`` draws the next request from the pool, ``receive`` reads a completion. It
has no clock, no network and no state; everything it must remember travels in ``Request.context``, and everything it may
know is in the view. Abilities beyond these two functions are the optional base classes of ``abilities``.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, Protocol

from selfinstruct.common.rng import Rng
from selfinstruct.pool import MethodProgress
from selfinstruct.prompts import Prompts
from selfinstruct.records import Completion, Received, Request, Task

__all__ = ["Strategy", "View"]


class View(Protocol):
    """The read-only view of the pool that a strategy may use: nothing but processed requests influence it."""

    @property
    def seeds(self) -> Sequence[Task]:
        """The seed tasks, in file order."""

    @property
    def tasks(self) -> Sequence[Task]:
        """Machine-written tasks whose instruction the filters kept, oldest first."""

    @property
    def progress(self) -> MethodProgress:
        """Progress of this strategy: the seed tasks it has started, and the rows and tokens of its requests."""

    @property
    def progress_by_method(self) -> Mapping[str, MethodProgress]:
        """Progress of every method of a mixed run, by label."""


class Strategy(ABC):
    """A method of synthesis.

    Args:
        options: An instance of ``Options``.
        prompts: The templates of the run.

    Attributes:
        name: The name that configurations use.
        templates: Template names and the variables that each must use; checked when a run starts.
        Options: A frozen dataclass of plain types: the strategy's section of a configuration.
        defaults: Settings of a run that suit the method, for everything the user leaves out, in the form of a
            configuration file.
        prompts_folder: Folder of a plugin's templates; None for templates in ``prompts/``.
    """

    name: ClassVar[str]
    templates: ClassVar[Mapping[str, frozenset[str]]]
    Options: ClassVar[type[Any]]
    defaults: ClassVar[Mapping[str, Any]] = {}
    prompts_folder: ClassVar[Path | None] = None

    def __init__(self, options: Any, prompts: Prompts) -> None:
        self.options = options
        self.prompts = prompts

    @abstractmethod
    def propose(self, view: View, rng: Rng) -> Request | None:
        """Return the next request, or None when there is nothing (more) to ask.

        Args:
            view: The pool after the requests processed so far.
            rng: Generator for every random choice; it depends on the run's seed and the request's number.
        """

    @abstractmethod
    def receive(self, request: Request, completion: Completion, view: View) -> Received:
        """Return the candidates, follow-up requests and discards read from one completion.

        Any text must be accepted: a model may write anything.
        """
