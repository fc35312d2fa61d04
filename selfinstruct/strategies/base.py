"""The contract between the line and a method of synthesis.

A strategy is two pure functions: ``propose`` draws the next request from what the pool holds, ``receive`` reads a
completion. It has no clock, no network and no state of its own; whatever it must remember travels in
``Request.context``, and whatever it may know is in the view. One file here, one folder in ``prompts/``, and an entry
in ``strategies/__init__.py`` make a new method.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, Protocol

from selfinstruct.common.chat_template import ChatTemplate
from selfinstruct.common.rng import Rng
from selfinstruct.pool import MethodProgress
from selfinstruct.prompts import Api
from selfinstruct.records import Candidate, Completion, Received, Request, Task

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
    def progress(self) -> MethodProgress:
        """What this strategy has asked to begin with, and what it brings."""

    @property
    def progress_by_method(self) -> Mapping[str, MethodProgress]:
        """Those of all methods of a mixed run, by label."""


class Strategy(Protocol):
    """A method of synthesis."""

    name: ClassVar[str]
    templates: ClassVar[Mapping[str, frozenset[str]]]
    """Template name to the variables that it must use: checked when a run starts."""
    defaults: ClassVar[Mapping[str, Any]] = {}
    """Settings of a run that suit the method where they are not given, as in a configuration file."""
    begins_with_tasks: ClassVar[bool] = False
    """True where the tasks of the seed file are what is worked on, one after the other, not examples: they need no
    answer, any dataset or finished run can be one (``--from``), and each request that begins with one says which by
    ``item`` in its context.
    """

    @classmethod
    def data(cls, options: Any) -> Mapping[str, Path]:  # noqa: ARG003  (those of a subclass)
        """Files of its own that it works from under these options, by the name at which their texts stand among the
        run's templates (of a mixed run, behind the entry's label), which the ledger keeps; a run whose file has gone
        takes them from there.
        """
        return {}

    @classmethod
    def read_data(cls, path: Path) -> str:
        """The text of one of those files, checked; an error of the tree in ``errors.py`` where it is no good."""
        return path.read_text(encoding="utf-8")

    needs_raw: ClassVar[bool] = False
    """True where the method is nothing without raw prompts."""

    @classmethod
    def found(cls, options: Any, template: Callable[[], ChatTemplate | None]) -> Mapping[str, Any]:  # noqa: ARG003
        """Options that were not given and are found out when a run begins; it keeps them for life.

        Args:
            options: Those that were given, as an instance of the strategy's ``Options``.
            template: Reads the model's own chat template; None where the backend can't tell.

        Raises:
            UsageError: They can't be found out.
        """
        return {}

    @property
    def format(self) -> str:
        """The layout of the run's own dataset, of ``formats.FORMATS``."""
        return "alpaca"

    @classmethod
    def templates_for(cls, options: Any) -> Mapping[str, frozenset[str]]:  # noqa: ARG003
        """The templates that these options need, where not all options need the same; in the form of ``templates``."""
        return cls.templates

    def schema_apis(self, api: Api) -> frozenset[Api]:  # noqa: ARG002
        """In which APIs it asks for text by a JSON schema; none where it does not.

        Args:
            api: The run's, which stages use that name none of their own.
        """
        return frozenset()

    def rows(self, seeds: Sequence[Task]) -> int | None:  # noqa: ARG002
        """Rows to make where no number is given; None for the default of every run."""
        return None

    def propose(self, view: View, rng: Rng) -> Request | None:
        """The next request, or None when there is nothing (more) to ask."""

    def receive(self, request: Request, completion: Completion, view: View) -> Received:
        """Candidates, follow-ups and discards read from one completion. Must accept any text whatever."""

    def fault(self, row: Candidate, text: str) -> str:  # noqa: ARG002  (those of a subclass)
        """Why another answer to a row's question is none, by the method's own rules (a short word); "" if it is one."""
        return ""

    def failed(self, request: Request, view: View) -> Received:  # noqa: ARG002
        """What is to be done instead where a request failed for good: a way of several requests need not end there."""
        return Received()
