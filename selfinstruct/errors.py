"""Every error a user can meet, in one tree.

::

    SelfInstructError                 exit code 1 unless a class says otherwise
    ├── UsageError                    2: something the user typed or wrote must change first
    │   ├── ConfigError               a key, a value or a file of the configuration
    │   ├── DataError                 a line of a seed or data file
    │   ├── TemplateError             a prompt template: unknown or missing variable
    │   ├── MissingExtraError         an optional dependency that is not installed
    │   └── PluginError               a plugin that cannot be imported, or whose name another distribution uses
    ├── LedgerError                   a run directory that cannot be read or written
    │   ├── RunLockedError            another process holds it
    │   └── RunChangedError           config, seeds, prompts or semantics differ from the run's own
    ├── BackendError                  the server's or the account's fault: the run stops, the request stays open
    │   ├── TransientError            worth another attempt (429, 5xx)
    │   │   └── UnreachableError      no connection to the server, a lost one, or no answer in time
    │   └── ReplayError               the recorded run has no such outcome, or one of another request
    └── RequestError                  the request's own fault: recorded as its terminal failure

A message says what happened, where (file and line, row id, run directory), and what to do next. It never holds a
credential. The CLI prints it without a traceback.
"""

from __future__ import annotations

import copy
from typing import Any, Self

__all__ = [
    "BackendError",
    "ConfigError",
    "DataError",
    "LedgerError",
    "MissingExtraError",
    "PluginError",
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


class SelfInstructError(Exception):
    """Base of every error that this package raises on purpose."""

    exit_code = 1


class UsageError(SelfInstructError):
    """Something the user typed or wrote has to change before the command can run."""

    exit_code = 2


class ConfigError(UsageError):
    """A key, a value or a file of the configuration is wrong.

    Attributes:
        key: The dotted key at fault, where there is one; whoever read the file can add its line.
    """

    def __init__(self, message: str, *, key: str = "") -> None:
        super().__init__(message)
        self.key = key


class DataError(UsageError):
    """A line of a seed or data file is wrong; the message begins with ``file:line:``."""


class TemplateError(UsageError):
    """A prompt template is absent, or its variables are not the ones its stage fills in."""


class MissingExtraError(UsageError):
    """An optional dependency is not installed."""

    def __init__(self, need: str, extra: str, otherwise: str = "") -> None:
        other = f" ({otherwise})" if otherwise else ""
        super().__init__(f"{need} is not installed; run: pip install 'selfinstruct[{extra}]'{other}")
        self.extra = extra


class PluginError(UsageError):
    """A plugin cannot be imported, is not of its kind, or competes with another distribution for its name."""


class LedgerError(SelfInstructError):
    """A run directory cannot be read or written."""


class RunLockedError(LedgerError):
    """Another process is at work in the run directory."""


class RunChangedError(LedgerError):
    """What defines the run (config, seeds, prompts, semantics) is not what the ledger recorded."""


class BackendError(SelfInstructError):
    """The server or the account is at fault (refused, 401, 403, 404, quota): the run stops, the request stays open."""


class TransientError(BackendError):
    """Another attempt may succeed.

    Attributes:
        retry_after: Seconds the server asked to wait, or None.
        throttled: True when the server said that it is asked too often (429).
        elsewhere: Number of other servers, where one of them is up: it can be asked at once. Else 0.
    """

    def __init__(
        self, message: str, *, retry_after: float | None = None, throttled: bool = False, elsewhere: int = 0
    ) -> None:
        super().__init__(message)
        self.retry_after = retry_after
        self.throttled = throttled
        self.elsewhere = elsewhere

    def reworded(self, message: str, **changes: Any) -> Self:
        """The same error with another message, and other attributes where they are given."""
        other = copy.copy(self)
        other.args = (message,)
        vars(other).update(changes)
        return other


class UnreachableError(TransientError):
    """There is no connection to the server, it was lost before its answer was whole, or that did not come in time.

    Attributes:
        unheard: No connection came about: whatever the request is, it is not what the server fails on.
    """

    def __init__(self, message: str, *, unheard: bool = False) -> None:
        super().__init__(message)
        self.unheard = unheard


class ReplayError(BackendError):
    """A replayed run has no outcome for a request, or that of a different request."""


class RequestError(SelfInstructError):
    """The request itself is at fault; it will fail again however often it is sent.

    Attributes:
        code: A short word for reports: ``bad_request``, ``context_length``, ``content_filter``, ``attempts``.
        certain: No doubt about whose fault it is: a content filter, or a recorded failure. Before anything was ever
            answered, other refusals may be due to the settings.
    """

    def __init__(self, code: str, message: str, *, certain: bool = False) -> None:
        super().__init__(message)
        self.code = code
        self.certain = certain or code == "content_filter"
