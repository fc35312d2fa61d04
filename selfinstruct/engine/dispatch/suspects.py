"""Decide who is at fault for a failed request: the request itself, or the server and its account.

A server that refuses a prompt and a server that refuses an account that has run dry may use the same status and the
same words. What distinguishes them is how other requests fare under the same conditions, that is in the same stage:

- A failed request is a *suspect* until a request that was sent after the failure arrived is answered. A request that
  was sent earlier proves nothing, however late its answer arrives.
- A suspect is then asked again, since the fault may have passed meanwhile. If it fails again, it is at fault itself.
- After an unbroken series of failures, or when nothing else remains to be sent, a *control* is sent: a request that was
  answered before. If the control fails too, the server or the account is at fault, and every suspect stays open.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

from selfinstruct.errors import BackendError, RequestError, SelfInstructError, TransientError, UnreachableError
from selfinstruct.records import Request

__all__ = ["Suspect", "Suspects"]

_MAX_REFUSED = 8  # as many requests as a run may send before the first is decided; a refusal costs nothing
_MAX_EXHAUSTED = 3  # requests that used up their attempts, each of which takes a while


@dataclass(slots=True)
class Suspect:
    """A failed request.

    Attributes:
        request: The request.
        error: Its latest failure.
        since: The newest send of any request when the failure arrived. Only later sends are evidence.
        latest: Its latest send.
        failed_before: Whether it was asked again after an earlier failure, from which ``since`` is kept.
    """

    request: Request
    error: TransientError | RequestError
    since: int
    latest: int
    failed_before: bool = False

    @property
    def is_blameless(self) -> bool:
        """Whether the failure says nothing about the request: it was throttled, or reached no server."""
        error = self.error
        return isinstance(error, TransientError) and (
            error.throttled or (isinstance(error, UnreachableError) and error.unheard)
        )


class Suspects:
    """The suspects of one invocation of a run, and the requests that were answered."""

    def __init__(self) -> None:
        self._suspects: dict[int, Suspect] = {}
        self._asked_again: dict[int, Suspect] = {}
        self._series: Counter[type[SelfInstructError]] = Counter()  # failures since the last answer, by type
        self._answered: dict[str, Request] = {}  # the latest request answered in each stage
        self._newest_evidence: dict[str, int] = {}  # the newest send of an answered request, by stage

    def __bool__(self) -> bool:
        return bool(self._suspects)

    def add(self, request: Request, error: TransientError | RequestError, latest: int, newest: int) -> None:
        """Record a failure.

        Args:
            request: The request that failed.
            error: Its failure.
            latest: Its latest send.
            newest: The newest send of any request.
        """
        suspect = Suspect(request, error, newest, latest)
        earlier = self._asked_again.pop(request.number, None)
        if earlier is not None and not earlier.is_blameless:
            suspect.since, suspect.failed_before = earlier.since, not suspect.is_blameless
        self._suspects[request.number] = suspect
        if not suspect.failed_before:
            self._series[type(error)] += 1

    def answered(self, request: Request, send: int, *, control_of: str = "") -> None:
        """Record that a request was answered.

        Args:
            request: The request.
            send: The send that led to the answer.
            control_of: For a control, the stage whose suspects it tests.
        """
        self._series.clear()
        self._answered[request.stage] = request
        for stage in {request.stage, control_of or request.stage}:
            self._newest_evidence[stage] = max(send, self._newest_evidence.get(stage, 0))
        self._asked_again.pop(request.number, None)

    def latest_answered(self, stage: str) -> Request | None:
        """Return the latest request answered in a stage during this invocation, or None."""
        return self._answered.get(stage)

    def take_guilty(self) -> list[Suspect]:
        """Remove and return the suspects that are at fault themselves, in order of number."""
        return self._take([suspect for suspect in self._testable() if suspect.failed_before])

    def take_to_ask_again(self) -> list[Suspect]:
        """Remove and return the suspects that are to be asked again, in order of number."""
        taken = self._take([suspect for suspect in self._testable() if not suspect.failed_before])
        self._asked_again |= {suspect.request.number: suspect for suspect in taken}
        return taken

    def take_all(self) -> list[Suspect]:
        """Remove and return all suspects, to be asked again together with a control."""
        taken = self._take(list(self._suspects.values()))
        self._asked_again |= {suspect.request.number: suspect for suspect in taken}
        return taken

    def _testable(self) -> list[Suspect]:
        suspects, evidence = self._suspects.values(), self._newest_evidence
        return [suspect for suspect in suspects if evidence.get(suspect.request.stage, 0) > suspect.since]

    def _take(self, suspects: list[Suspect]) -> list[Suspect]:
        for suspect in suspects:
            del self._suspects[suspect.request.number]
        return sorted(suspects, key=lambda suspect: suspect.request.number)

    @property
    def first(self) -> Suspect:
        """The suspect with the lowest number."""
        return self._suspects[min(self._suspects)]

    @property
    def first_to_test(self) -> Suspect | None:
        """The suspect with the lowest number that a control can help to judge, or None."""
        return min(
            (suspect for suspect in self._suspects.values() if not suspect.is_blameless),
            key=lambda suspect: suspect.request.number,
            default=None,
        )

    @property
    def is_series(self) -> bool:
        """Whether the series of failures without an answer is long enough to send nothing more."""
        refused = self._series[RequestError]
        if not self._suspects:
            return False
        return refused >= _MAX_REFUSED or self._series.total() - refused >= _MAX_EXHAUSTED

    @property
    def is_outage(self) -> bool:
        """Whether enough connections failed in a row to consider the server down, without a control."""
        return self._series[UnreachableError] >= _MAX_EXHAUSTED

    def is_series_in(self, stage: str) -> bool:
        """Whether a stage has a series of suspects, about which answers in other stages say nothing."""
        return sum(suspect.request.stage == stage for suspect in self._suspects.values()) >= _MAX_REFUSED

    def fault(self, control: Request | None, cause: SelfInstructError | None = None) -> SelfInstructError:
        """Return the error that ends the run: the first suspect's failure, and why the request is not at fault.

        Args:
            control: The control that failed; None if there was none.
            cause: The failure of the control.
        """
        suspect = self.first
        error: SelfInstructError = suspect.error
        if not isinstance(error, RequestError):
            return error
        count = len(self._suspects)
        requests = "1 request is" if count == 1 else f"{count} requests are"
        if control is None:
            explanation = "no request has been answered since, so the settings, the key or the account may be at fault"
        else:
            explanation = f"request {control.number}, which was answered before, now fails too"
            explanation += "" if cause is None or str(cause) == str(error) else f" ({cause})"
            explanation += ", so the account, the key or the server is at fault and not the prompt"
        return BackendError(
            f"request {suspect.request.number}: {error}. {requests} refused; {explanation}. "
            "Nothing is recorded as failed: correct that (credit, quota, key, settings), then run the same command "
            "again to ask them"
        )
