"""Answers from the ledger of a finished run: no model, no network, the same bytes.

Request k receives that run's outcome of request k, failures included, provided that both requests have the same digest.
"""

from __future__ import annotations

import asyncio
import difflib
from dataclasses import dataclass
from pathlib import Path

from selfinstruct.backends.base import ALL_APIS, Backend, BackendSpec, Capabilities
from selfinstruct.common.codec import dumps
from selfinstruct.errors import ReplayError, RequestError
from selfinstruct.ledger import Reader
from selfinstruct.prompts import Api
from selfinstruct.records import Completion, Failure, Request

__all__ = ["REPLAY", "ReplayBackend", "ReplayOptions"]


@dataclass(frozen=True)
class ReplayOptions:
    """Options of the replay backend.

    Attributes:
        source: Run directory whose ledger supplies the answers.
        pace: Delay of each answer: 0 for none, a number of seconds, or ``recorded`` for the request's original
            duration.
        api: The source's kind of prompts, filled in when the run is made.
    """

    source: str = ""
    pace: float | str = 0
    api: Api = "completion"

    def __post_init__(self) -> None:
        if isinstance(self.pace, str) and self.pace != "recorded":
            raise ValueError("pace must be a number of seconds or 'recorded'")
        if isinstance(self.pace, float | int) and not 0 <= self.pace < 3600:
            raise ValueError("pace must be from 0 to 3600 seconds")


class ReplayBackend(Backend):
    """The replay backend."""

    def __init__(self, options: ReplayOptions) -> None:
        self._options = options
        self._reader: Reader | None = None

    async def start(self) -> None:
        self._reader = Reader(Path(self._options.source))

    async def complete(self, request: Request) -> Completion:
        assert self._reader is not None, "start() comes first"
        recorded = self._reader.outcome(request.number)
        if recorded is None:
            raise ReplayError(
                f"{self._options.source} has no outcome of request {request.number} ({request.stage}); "
                "ask for fewer rows (-n), or continue that run itself"
            )
        if self._reader.request_digest(request.number) != request.digest:
            if self._reader.meta("reopened", None) is not None:
                raise ReplayError(
                    f"{self._options.source} was continued after a retry: its request {request.number} was made before "
                    "an earlier request was answered, and can't be made again; use selfinstruct fork"
                )
            raise ReplayError(
                f"request {request.number} is not the one that {self._options.source} recorded; a replay needs the "
                f"same settings, seeds and prompts:\n{self._difference(request)}"
            )
        delay = recorded.seconds if self._options.pace == "recorded" else float(self._options.pace)
        await asyncio.sleep(delay)
        if isinstance(recorded.outcome, Failure):
            raise RequestError(recorded.outcome.code, recorded.outcome.message, certain=True)
        return recorded.outcome

    async def close(self) -> None:
        if self._reader is not None:
            self._reader.close()

    def _difference(self, request: Request) -> str:
        assert self._reader is not None, "start() comes first"
        recorded = self._reader.request(request.number)
        before = _as_lines(recorded) if recorded else []
        return "\n".join(difflib.unified_diff(before, _as_lines(request), "recorded", "asked now", lineterm="", n=1))


def _as_lines(request: Request) -> list[str]:
    """Return a request as lines of text, for a diff."""
    head = [f"stage: {request.stage}", f"parent: {request.parent}", f"sampling: {dumps(request.sampling.to_json())}"]
    head.append(f"context: {dumps(request.stored_context)}")
    return head + [f"{turn.role}: {line}" for turn in request.turns for line in turn.text.splitlines()]


REPLAY = BackendSpec(
    name="replay",
    options=ReplayOptions,
    open=lambda options, _: ReplayBackend(options),
    capabilities=lambda _: Capabilities(  # answers any recorded request
        raw_prompts=True, schema_apis=ALL_APIS, limits_reasoning=False
    ),
    free_options=frozenset({"source", "pace"}),
)
