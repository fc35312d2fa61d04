"""The contract between the line and a method of synthesis.

A strategy is two pure functions: ``propose`` draws the next request from what the pool holds, ``receive`` reads a
completion. It has no clock, no network and no state of its own; whatever it must remember travels in
``Request.context``, and whatever it may know is in the view. One file here, one folder in ``prompts/``, and an entry
in ``strategies/__init__.py`` make a new method.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Protocol

from selfinstruct.pool import Account
from selfinstruct.records import Completion, Received, Request, Task
from selfinstruct.rng import Rng

__all__ = ["Strategy", "View"]


class View(Protocol):
    """What a strategy may look at: read only, and only what the line has judged."""

    @property
    def seeds(self) -> Sequence[Task]:
        """The seed tasks, in file order."""

    @property
    def tasks(self) -> Sequence[Task]:
        """Machine-written tasks whose instruction the filters kept, oldest first."""

    @property
    def account(self) -> Account:
        """What this strategy has asked to begin with, and what it brings."""


class Strategy(Protocol):
    """A method of synthesis."""

    name: ClassVar[str]
    templates: ClassVar[Mapping[str, frozenset[str]]]
    """Template name to the variables that it must use: checked when a run starts.

    A strategy with an option ``structured`` has ``structured_templates`` as well, needed where it is set, and names
    in ``structured_stages`` the options of those stages that then ask for JSON.
    """
    defaults: ClassVar[Mapping[str, Any]] = {}
    """Settings of a run that suit the method where they are not given, as in a configuration file."""
    begins_with_tasks: ClassVar[bool] = False
    """True where the tasks of the seed file are what is worked on, one after the other, not examples: they need no
    answer, any dataset or finished run can be one (``--from``), and each request that begins with one says which by
    ``item`` in its context.
    """

    @property
    def format(self) -> str:
        """The layout of the run's own dataset, of ``formats.FORMATS``."""
        return "alpaca"

    def rows(self, seeds: Sequence[Task]) -> int | None:  # noqa: ARG002
        """Rows to make where no number is given; None for the default of every run."""
        return None

    def propose(self, view: View, rng: Rng) -> Request | None:
        """The next request, or None when there is nothing (more) to ask."""

    def receive(self, request: Request, completion: Completion, view: View) -> Received:
        """Candidates, follow-ups and discards read from one completion. Must accept any text whatever."""
