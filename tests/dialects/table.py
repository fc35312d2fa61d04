"""Run a task file against a scripted server, as a user would, and say what happened in a sentence."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from selfinstruct import status
from tests.cli import CommandServer, environment
from tests.dialects.hosted import HOSTED
from tests.dialects.local import LOCAL
from tests.dialects.replies import Dialect
from tests.dialects.servers import BROKEN, TASKS, ScriptedServer, Situation, question, right_answer

_ORDER = ("OpenAI", "Azure OpenAI", "vLLM", "llama-server", "Ollama", "LM Studio", "OpenRouter", "Mistral", "DeepSeek",
          "DashScope", "Gemini (compatible)", "LiteLLM proxy")  # fmt: skip
DIALECTS = {name: next(item for item in (*HOSTED, *LOCAL) if item.name == name) for name in _ORDER}

_SETTINGS = ("--concurrency", 4, "-q", "--max-tokens", 400_000, "--set", "retry.base_s=0.01", "--set",
             "retry.cap_s=0.05", "--set", "retry.total_s=2")  # fmt: skip


@dataclass(frozen=True)
class Outcome:
    """What one or several commands did with a run.

    Attributes:
        codes: Exit code of each command.
        output: What the first command printed.
        rows: Rows after the first command.
        rejected, failures: Reasons and codes after the first command, with their counts.
        open: Requests without an outcome after the first command.
        final_rows: Rows in the end, after the fault has passed.
        broken: Rows of any moment that are not the right answer to their task.
        lost: Tasks whose fault has passed and that have no row in the end.
        requests: Requests that arrived before the fault passed.
        refused: Requests that were answered with an error.
        answers_twice: Tasks asked again although they were answered.
    """

    codes: tuple[int, ...]
    output: str
    rows: int
    rejected: dict[str, int]
    failures: dict[str, int]
    open: int
    final_rows: int
    broken: tuple[str, ...]
    lost: tuple[int, ...]
    requests: int
    refused: int


class _User:
    """Types commands about one run directory, and reads the dataset after each."""

    def __init__(self, folder: Path, server: ScriptedServer, *more: object) -> None:
        self.run = folder / "run"
        self.tasks = folder / "tasks.jsonl"
        self.tasks.write_text("".join(json.dumps({"instruction": question(task)}) + "\n" for task in range(TASKS)))
        self.codes: list[int] = []
        self.broken: list[str] = []
        self._arguments = ("respond", self.run, "--from", self.tasks, "--backend", "openai", "--base-url", server.url,
                           "--model", server.dialect.model, *_SETTINGS, *more)  # fmt: skip

    def respond(self) -> str:
        return self._type(*self._arguments)

    def retry(self) -> str:
        return self._type("retry", self.run)

    def rows(self) -> dict[int, dict[str, str]]:
        """Return the rows of the dataset by task."""
        path = self.run / "dataset" / "alpaca.jsonl"
        lines = path.read_text().splitlines() if path.exists() else []
        return {int(re.findall(r"\d+", row["instruction"])[0]): row for row in map(json.loads, lines)}

    def _type(self, *arguments: object) -> str:
        code, output = _commands().run([*map(str, arguments)], environment(), self.tasks.parent, 60.0)
        self.codes.append(code)
        for task, row in self.rows().items():
            if row["output"] != right_answer(task) and row["output"] not in self.broken:
                self.broken.append(row["output"])
        return output


@cache
def _commands() -> CommandServer:
    return CommandServer("selfinstruct")


def observe(dialect: Dialect, situation: Situation, folder: Path, variant: int = 0, *more: object) -> Outcome:
    """Answer twelve tasks with a server in a situation, let the fault pass, and repeat the command.

    An account stays dry for one more command. Failures that the first command recorded are reopened by ``retry``.
    """
    with ScriptedServer(dialect, situation, variant) as server:
        user = _User(folder, server, *more)
        output = user.respond()
        first = status(user.run)
        rows, requests, refused = len(user.rows()), sum(server.asked.values()), server.refused
        if situation is Situation.DRY:
            user.respond()
        server.healed = True
        if status(user.run).stats.failures:
            user.retry()
        if user.codes[-1] == 0 or len(user.rows()) < TASKS:
            user.respond()
        final = user.rows()
    own = _own_faults(dialect, situation)
    return Outcome(
        tuple(user.codes),
        output,
        rows,
        dict(first.stats.rejected),
        dict(first.stats.failures),
        first.open,
        len(final),
        tuple(user.broken),
        tuple(task for task in range(TASKS) if task not in final and task not in own),
        requests,
        refused,
    )


def _own_faults(dialect: Dialect, situation: Situation) -> tuple[int, ...]:
    """Return the tasks that stay without a row: a stored answer to them is cut or empty."""
    if situation is Situation.REASONING:
        return BROKEN[1:2]
    replies = {Situation.CUT: dialect.cut, Situation.EMPTY: dialect.empty}.get(situation, ())
    return tuple(task for index, task in enumerate(BROKEN) if replies and not replies[index % len(replies)].passes)


def sentence(situation: Situation, outcome: Outcome) -> str:
    """Describe an outcome for the table."""
    return ", ".join(_parts(situation, outcome))


def _parts(situation: Situation, outcome: Outcome) -> Iterator[str]:
    yield f"{outcome.rows} rows"
    for counts in (outcome.rejected, outcome.failures):
        for name, count in sorted(counts.items()):
            yield f"{count} {name}"
    if outcome.codes[0]:
        yield "stops"
    if outcome.open:
        yield f"{outcome.open} open"
    if outcome.final_rows != outcome.rows:
        yield f"then {outcome.final_rows} rows"
    if outcome.broken:
        yield f"**{len(outcome.broken)} broken**"
    if outcome.lost:
        yield f"**{len(outcome.lost)} lost**"
    if situation is Situation.PARAMETERS and outcome.refused:
        yield f"{outcome.refused} refused"
