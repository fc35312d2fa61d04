"""The exception hierarchy of selfinstruct.

::

    SelfInstructError                 exit code 1 unless a class says otherwise
    ├── UsageError                    2: the command, its settings or its input must change first
    │   ├── ConfigError               a wrong key, value or file of the configuration
    │   ├── DataError                 a wrong line of a seed or data file
    │   ├── TemplateError             a prompt template: unknown or missing variable
    │   ├── MissingExtraError         an optional dependency is not installed
    │   └── PluginError               a plugin that cannot be imported, or whose name another distribution uses
    ├── LedgerError                   a run directory that cannot be read or written
    │   ├── RunLockedError            another process holds it
    │   └── RunChangedError           config, seeds, prompts or semantics differ from the run's own
    ├── BackendError                  the server or the account is at fault: the run stops and the request stays open
    │   ├── TransientError            worth another attempt (429, 5xx)
    │   │   └── UnreachableError      no connection, a lost connection, or no answer in time
    │   └── ReplayError               the replayed run has no outcome for this request
    └── RequestError                  the request was refused: final only if others are answered meanwhile

A message says what happened, where (file and line, row id, run directory), and what to do next. Messages never contain
credentials. The command line prints them without a traceback.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import Any, Self

__all__ = [
    "BackendError",
    "ConfigError",
    "DataError",
    "LedgerError",
    "MissingExtraError",
    "PluginError",
    "RefusedOption",
    "ReplayError",
    "RequestError",
    "RunChangedError",
    "RunLockedError",
    "SelfInstructError",
    "TemplateError",
    "TransientError",
    "UnreachableError",
    "UsageError",
]


@dataclass(frozen=True, slots=True)
class RefusedOption:
    """The option whose value a server refuses.

    Attributes:
        name: Name of the option of a stage or a strategy, such as ``temperature``.
        accepted: A value that the server accepts, as text; "" if it does not say.
    """

    name: str
    accepted: str = ""


class SelfInstructError(Exception):
    """Base class of the errors that this package raises deliberately.

    Attributes:
        cost: For a failed send: the tokens of its prompt and its completion, if they are certain; None otherwise.
        refused_option: For a refused request: the option at fault; None if it is not known.
    """

    exit_code = 1
    cost: tuple[int, int] | None = None
    refused_option: RefusedOption | None = None

    def with_facts_of(self, other: SelfInstructError) -> Self:
        """Take over the attributes of an error about the same send, and return this error."""
        self.cost, self.refused_option = other.cost, other.refused_option
        return self


class UsageError(SelfInstructError):
    """The command, its settings or its input must change before it can run."""

    exit_code = 2


class ConfigError(UsageError):
    """A key, a value or a file of the configuration is wrong.

    Attributes:
        key: The dotted key at fault, or "". The reader of the file uses it to add the line number.
    """

    def __init__(self, message: str, *, key: str = "") -> None:
        super().__init__(message)
        self.key = key


class DataError(UsageError):
    """A line of a seed or data file is invalid; the message begins with ``file:line:``."""


class TemplateError(UsageError):
    """A prompt template is missing, or its variables differ from the ones its stage provides."""


class MissingExtraError(UsageError):
    """An optional dependency is not installed."""

    def __init__(self, need: str, extra: str, otherwise: str = "") -> None:
        other = f" ({otherwise})" if otherwise else ""
        super().__init__(f"{need} is not installed; run: pip install 'selfinstruct[{extra}]'{other}")


class PluginError(UsageError):
    """A plugin cannot be imported, is not of its kind, or competes with another distribution for its name."""


class LedgerError(SelfInstructError):
    """A run directory cannot be read or written."""


class RunLockedError(LedgerError):
    """Another process is using the run directory."""


class RunChangedError(LedgerError):
    """The configuration, seeds, prompts or semantics differ from the ones that the ledger recorded."""


class BackendError(SelfInstructError):
    """The server or the account is at fault (refused, 401, 403, 404, quota).

    The run stops, and the request stays open.
    """


class TransientError(BackendError):
    """Another attempt may succeed (429, 5xx, a lost connection).

    Attributes:
        retry_after: Seconds that the server asked to wait, or None.
        throttled: Whether the server reported too many requests (429).
        elsewhere: Number of other servers if one of them can be asked at once; 0 otherwise.
    """

    def __init__(
        self, message: str, *, retry_after: float | None = None, throttled: bool = False, elsewhere: int = 0
    ) -> None:
        super().__init__(message)
        self.retry_after = retry_after
        self.throttled = throttled
        self.elsewhere = elsewhere

    def reworded(self, message: str, **changes: Any) -> Self:
        """Return a copy of the error with another message and the given attributes replaced."""
        other = copy.copy(self)
        other.args = (message,)
        vars(other).update(changes)
        return other


class UnreachableError(TransientError):
    """The connection failed or was lost, or the answer was not complete in time.

    Attributes:
        unheard: No connection was established, so the request cannot be the cause.
    """

    def __init__(self, message: str, *, unheard: bool = False) -> None:
        super().__init__(message)
        self.unheard = unheard
        if unheard:
            self.cost = (0, 0)


class ReplayError(BackendError):
    """The replayed run has no outcome for a request, or recorded a different request under its number."""


class RequestError(SelfInstructError):
    """The request was refused, and may be at fault itself.

    An account without credit is often refused in the same words as a prompt, so the engine records the refusal as final
    only if other requests are answered under the same conditions (``engine.dispatch.suspects``).

    Attributes:
        code: Short code for reports: ``bad_request``, ``context_length``, ``content_filter``, ``forbidden``.
        certain: Whether the request is known to be at fault, so that the failure is final at once: a recorded failure,
            or an answer that a content filter withheld.
    """

    def __init__(self, code: str, message: str, *, certain: bool = False) -> None:
        super().__init__(message)
        self.code = code
        self.certain = certain
