"""Scripted servers on loopback: one dialect in one situation, until the test lets the fault pass."""

from __future__ import annotations

import dataclasses
import re
import threading
from collections import Counter
from enum import StrEnum
from typing import Any

from tests.dialects.replies import Answer, Broken, Dialect, Json, streamed
from tests.loopback import Fault, Loopback

TASKS = 12
BROKEN = (3, 6, 11)  # tasks whose replies are broken; the last task is one of them, so that nothing follows it
ANSWERED = 5  # answers before an account is dry
LONG_THOUGHT = 4096  # tokens of one task's thought; a smaller limit leaves nothing for the answer
THOUGHT = "The user asks a question, so I weigh what I know before I answer it."


class Situation(StrEnum):
    """What is wrong with a server."""

    CUT = "cut"
    EMPTY = "empty"
    REFUSED = "refused prompt"
    DRY = "dry account"
    THROTTLED = "throttled"
    REASONING = "reasoning"
    PARAMETERS = "parameters refused"
    USAGE = "usage missing"


def question(task: int) -> str:
    """Return the instruction of a task."""
    return f"Question {task}: what is to be known about it?"


def right_answer(task: int) -> str:
    """Return the text that the model gives to a task, the only output that its row may have."""
    return f"The answer to question {task} is found in chapter {task + 1} of the manual."


class ScriptedServer:
    """A server that speaks a dialect. Use as a context manager.

    Args:
        dialect: The dialect.
        situation: What is wrong.
        variant: Index of the error of a dry account.

    Attributes:
        healed: Whether the fault has passed; set by the test.
        asked: Number of requests by task.
        refused: Requests that were answered with an error.
    """

    def __init__(self, dialect: Dialect, situation: Situation, variant: int = 0) -> None:
        self.dialect = dialect
        self.situation = situation
        self.healed = False
        self.asked: Counter[int] = Counter()
        self.refused = 0
        self._answered = 0
        self._variant = variant
        self._lock = threading.Lock()
        self._loopback = Loopback(faults=lambda _, body: self._reply(body))

    def __enter__(self) -> ScriptedServer:
        self._loopback.__enter__()
        return self

    def __exit__(self, *exception: object) -> None:
        self._loopback.__exit__(*exception)

    @property
    def url(self) -> str:
        """The base URL, as a user of this service writes it."""
        return f"http://127.0.0.1:{self._loopback.port}{self.dialect.path}"

    @property
    def bodies(self) -> list[Json]:
        """The bodies of all requests, in order of arrival."""
        return [call.body for call in self._loopback.arrived]

    def _reply(self, body: Json) -> Fault:
        with self._lock:
            task = _task_of(body)
            self.asked[task] += 1
            broken = None if self.healed else self._fault(task, body)
            if broken is None:
                self._answered += 1
                broken = self._right(task, body)
            elif broken.status != 200:
                self.refused += 1
        return broken

    def _fault(self, task: int, body: Json) -> Fault | None:
        """Return the broken reply to a request; None if it is answered."""
        dialect = self.dialect
        if self.situation is Situation.DRY:
            return dialect.dry[self._variant] if self._answered >= ANSWERED else None
        if self.situation is Situation.THROTTLED:
            is_refused = task % 3 == 1 and self.asked[task] == 1
            return dialect.throttled[task // 3 % len(dialect.throttled)] if is_refused else None
        if self.situation is Situation.PARAMETERS:
            names = [name for name in dialect.refuses if name in body]
            return dialect.refusal(names) if names else None
        if self.situation is Situation.REASONING:
            if dialect.only_streams and not body.get("stream"):
                return dialect.only_streams
            return self._spent_on_thoughts(body) if task == BROKEN[1] and _limit(body) < LONG_THOUGHT else None
        replies = {
            Situation.CUT: dialect.cut,
            Situation.EMPTY: dialect.empty,
            Situation.REFUSED: dialect.refused,
        }.get(self.situation)
        if replies is None or task not in BROKEN:
            return None
        broken = replies[BROKEN.index(task) % len(replies)]
        return None if broken.passes and self.asked[task] > 1 else self._sent(broken, task, body)

    def _sent(self, broken: Broken, task: int, body: Json) -> Fault:
        reply = broken.reply
        if isinstance(reply, Fault):
            return reply
        if isinstance(reply, dict):
            return Fault(body=reply)
        return self._answer(dataclasses.replace(reply, task=task), body)

    def _spent_on_thoughts(self, body: Json) -> Fault:
        """Return an answer whose limit went into the reasoning."""
        return self._answer(Answer("", "length", thought=THOUGHT, task=BROKEN[1]), body)

    def _right(self, task: int, body: Json) -> Fault:
        thought = THOUGHT if self.situation is Situation.REASONING else ""
        usage: tuple[Any] | None = None
        if self.situation is Situation.USAGE:
            usage = (self.dialect.without_usage[task % len(self.dialect.without_usage)],)
        return self._answer(Answer(right_answer(task), thought=thought, task=task, usage=usage), body)

    def _answer(self, answer: Answer, body: Json) -> Fault:
        shaped = self.dialect.shape(answer)
        if not body.get("stream"):
            return Fault(body=shaped)
        return streamed(shaped, include_usage=bool((body.get("stream_options") or {}).get("include_usage")))


def _limit(body: Json) -> int:
    return int(body.get("max_completion_tokens", body.get("max_tokens")))


def _task_of(body: Json) -> int:
    content = body["messages"][-1]["content"]
    text = content if isinstance(content, str) else "".join(part.get("text", "") for part in content)
    matched = re.search(r"Question (\d+):", text)
    assert matched, f"not a task: {text}"
    return int(matched[1])
