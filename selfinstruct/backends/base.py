"""The contract between the engine and a backend: anything that completes text.

A backend sends one request and returns one completion. It does not retry or count, and it knows nothing of pools, files
or budgets: ``engine.dispatch`` takes care of those once, for every backend.

A new backend consists of a frozen dataclass of options, a subclass of ``Backend`` and a ``BackendSpec`` that registers
the two under a name.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Generic, Protocol, TypeVar

from selfinstruct.common.chat_template import ChatTemplate
from selfinstruct.common.codec import Json
from selfinstruct.prompts import Api
from selfinstruct.records import Completion, Request

__all__ = [
    "ALL_APIS",
    "AdaptiveBackend",
    "Backend",
    "BackendObserver",
    "BackendOptions",
    "BackendSpec",
    "BatchBackend",
    "Capabilities",
    "StatusCallback",
    "StillPendingError",
]

ALL_APIS: frozenset[Api] = frozenset(("chat", "completion"))

StatusCallback = Callable[[str], None]
"""Receives one line for the user about the state of the servers; "" when there is nothing to report."""


class StillPendingError(Exception):
    """The server holds the request, but this process has stopped waiting; a later start can collect the answer."""


class Backend(Protocol):
    """Something that completes text."""

    async def start(self) -> None:
        """Load the model or open the client. Called once, before any request.

        Raises:
            UsageError: The model file, address or key is not usable; nothing has been sent.
            BackendError: The server cannot be reached.
        """

    async def complete(self, request: Request) -> Completion:
        """Complete one request. Called from many tasks at once.

        Raises:
            RequestError: The request itself is at fault; it would fail again.
            TransientError: Another attempt may succeed.
            BackendError: The server or the account is at fault; no further request will succeed.
        """

    async def close(self) -> None:
        """Release every resource. Called once; must not raise."""


class BackendObserver(Protocol):
    """Receives what a backend finds out about its servers while it works."""

    def options_changed(self, options: Mapping[str, Json], remark: str) -> None:
        """Keep options with the run, so that its next invocation asks in the same way.

        Args:
            options: New values of options that ``BackendSpec.discovered_options`` lists.
            remark: A sentence for the user.
        """

    def usage_missing(self, server: str) -> None:
        """Take note that a server does not report how many tokens it counted. Called once for each server."""


class AdaptiveBackend(Backend):
    """A backend that finds out from the refusals of its servers how they want to be asked."""

    @abstractmethod
    def observe(self, observer: BackendObserver) -> None:
        """Report to ``observer`` from now on. Called before ``start``."""


class BatchBackend(Backend):
    """A backend whose server keeps working on submitted requests after this process has ended.

    It keeps a journal next to the ledger, finds the submitted requests again at its next start, and need not be waited
    for: an answer may take a day.
    """

    @abstractmethod
    def open_journal(self, folder: Path, on_status: StatusCallback) -> None:
        """Read the journal of a run. Called before ``start``.

        Args:
            folder: The run directory.
            on_status: Receives progress and retries, one line each.
        """

    @abstractmethod
    def use_room(self, enlarged: Callable[[Request], Request], observe: Callable[[Request, Completion], None]) -> None:
        """Give requests room for reasoning. Called before ``start``.

        Args:
            enlarged: Returns a request with the limit of tokens to submit it with. The limit may grow during a run, so
                it must not be part of the name by which a submitted request is found again.
            observe: Receives each completion, since the limit grows once a model is seen to reason.
        """

    @abstractmethod
    async def resume(self, requests: Iterable[Request]) -> set[int]:
        """Find requests that were sent by an earlier invocation. Called once, after ``start``.

        Args:
            requests: Requests that were sent and have no outcome.

        Returns:
            Numbers of the requests that ``complete`` answers without another send: the server has them, or never
            received them.

        Raises:
            BackendError: The server cannot be asked, or does not know a batch that was submitted to it.
        """

    @abstractmethod
    async def wait_for_batch(self, request: Request) -> None:
        """Wait until the request is about to be submitted with others. Cancelling the wait costs nothing."""

    @abstractmethod
    def active_count_changed(self, count: int) -> None:
        """Take note that ``count`` requests are in ``wait_for_batch`` or ``complete``, or are about to be.

        Once all of them are waiting, no more arrive until one finishes, so the batch can be submitted.
        """

    @abstractmethod
    def detach(self) -> None:
        """Stop waiting for answers.

        Requests already passed to ``complete`` are still submitted; ``complete`` then raises StillPendingError.
        """


class BackendOptions(Protocol):
    """The options of a backend: a frozen dataclass in which every field has a default."""

    @property
    def api(self) -> Api:
        """The kind of prompt that suits the model: ``chat`` messages or raw ``completion`` prompts."""


@dataclass(frozen=True, slots=True)
class Capabilities:
    """The capabilities of a backend under given options.

    Attributes:
        concurrency: Default number of requests in flight.
        raw_prompts: Whether raw prompts reach the model unchanged.
        schema_apis: Kinds of prompt that can be sent with a JSON schema.
        schema_option: Option that lets raw prompts carry a schema where ``schema_apis`` lacks them; "" for none.
        max_choices: Most choices (``n``) of one request; None for no limit.
        max_choices_option: Option that sets ``max_choices``; "" for none.
        limits_reasoning: Whether a model's reasoning counts against the limit of tokens of a request.
        reasoning_option: Option that switches reasoning off if it is false; "" for none.
    """

    concurrency: int = 16
    raw_prompts: bool = False
    schema_apis: frozenset[Api] = frozenset()
    schema_option: str = ""
    max_choices: int | None = None
    max_choices_option: str = ""
    limits_reasoning: bool = True
    reasoning_option: str = ""


OptionsT = TypeVar("OptionsT", bound=BackendOptions)


def _no_chat_template(_: BackendOptions) -> ChatTemplate | None:
    return None


@dataclass(frozen=True, slots=True)
class BackendSpec(Generic[OptionsT]):
    """A backend as the registry, and a plugin, declares it.

    Attributes:
        name: Value of ``--backend``, and name of the section of its options.
        options: Dataclass of its options.
        open: Make a backend that is not yet started; the callback reports the state of its servers.
        capabilities: Return what the backend can do under the given options. Reads no file.
        default_lag: Lag of a run that does not set one; None for the default of all runs.
        free_options: Options that may change during the life of a run: they decide where and how fast a request is
            answered, not what is asked.
        discovered_options: Free options that an ``AdaptiveBackend`` fills in while it works. They hold for the other
            options that they were found out under, so a fork that changes one of those begins without them.
        load_chat_template: Read the model's own chat template; None if it is not known. May read files, and raises a
            UsageError if the model is unusable.
    """

    name: str
    options: type[OptionsT]
    open: Callable[[OptionsT, StatusCallback], Backend]
    capabilities: Callable[[OptionsT], Capabilities]
    default_lag: int | None = None
    free_options: frozenset[str] = frozenset()
    discovered_options: frozenset[str] = frozenset()
    load_chat_template: Callable[[OptionsT], ChatTemplate | None] = _no_chat_template
