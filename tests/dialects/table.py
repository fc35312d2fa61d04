"""Run a task file against a scripted server, as a user would, and say what happened in a sentence."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from click.testing import CliRunner

from selfinstruct import status
from selfinstruct.cli import cli
from tests.cli import ROOT
from tests.dialects.gateways import GATEWAYS
from tests.dialects.hosted import HOSTED
from tests.dialects.local import LOCAL
from tests.dialects.replies import Dialect
from tests.dialects.servers import BROKEN, TASKS, ScriptedServer, Situation, question, right_answer

_ORDER = ("OpenAI", "Azure OpenAI", "vLLM", "llama-server", "Ollama", "LM Studio", "OpenRouter", "Mistral", "DeepSeek",
          "DashScope", "Gemini (compatible)", "LiteLLM proxy")  # fmt: skip
DIALECTS = {name: next(item for item in (*HOSTED, *GATEWAYS, *LOCAL) if item.name == name) for name in _ORDER}

PAGE = ROOT / "docs" / "servers.md"
HEAD = "| server |"  # beginning of the table in the page

CONCURRENCY = 4
_SETTINGS = ("--concurrency", CONCURRENCY, "-q", "--max-tokens", 400_000, "--set", "retry.base_s=0.01", "--set",
             "retry.cap_s=0.05", "--set", "retry.total_s=2")  # fmt: skip


@dataclass(frozen=True)
class Outcome:
    """What the commands of ``observe`` did with a run.

    Attributes:
        codes: Exit code of each command.
        output: What the first command printed.
        rows: Rows before the fault passes.
        rejected, failures: Reasons and codes at that time, with their counts.
        final_rows: Rows in the end.
        broken: Task and output of each row that was not the right answer to its task, at any moment.
        lost: Tasks whose fault has passed and that have no row in the end.
        reasoning: The reasoning of the rows in the end, where rows have some.
        refused: Requests that the first command sent and that were answered with an error.
        refused_again: The same for the second command, before the fault has passed.
    """

    codes: tuple[int, ...]
    output: str
    rows: int
    rejected: dict[str, int]
    failures: dict[str, int]
    final_rows: int
    broken: tuple[tuple[int, str], ...]
    lost: tuple[int, ...]
    reasoning: frozenset[str]
    refused: int
    refused_again: int


class User:
    """Types commands about one run directory, and reads the dataset after each.

    Args:
        folder: Folder for the run and its task file.
        server: The server to name.
        more: Further options of every ``respond``.
    """

    def __init__(self, folder: Path, server: ScriptedServer, *more: object) -> None:
        self.run = folder / "run"
        tasks = folder / "tasks.jsonl"
        tasks.write_text("".join(json.dumps({"instruction": question(task)}) + "\n" for task in range(TASKS)))
        self.codes: list[int] = []
        self.broken: set[tuple[int, str]] = set()
        self._arguments = ("respond", self.run, "--from", tasks, "--backend", "openai", "--base-url", server.url,
                           "--model", server.dialect.model, *_SETTINGS, *more)  # fmt: skip

    def respond(self, *more: object) -> str:
        return self._type(*self._arguments, *more)

    def retry(self) -> str:
        return self._type("retry", self.run)

    def rows(self) -> dict[int, dict[str, str]]:
        """Return the rows of the dataset by task."""
        path = self.run / "dataset" / "alpaca.jsonl"
        lines = path.read_text().splitlines() if path.exists() else []
        return {int(re.findall(r"\d+", row["instruction"])[0]): row for row in map(json.loads, lines)}

    def _type(self, *arguments: object) -> str:
        result = CliRunner().invoke(cli, [*map(str, arguments)])
        if result.exception is not None and not isinstance(result.exception, SystemExit):
            raise result.exception
        self.codes.append(result.exit_code)
        rows = self.rows().items()
        self.broken |= {(task, row["output"]) for task, row in rows if row["output"] != right_answer(task)}
        return result.output


def observe(dialect: Dialect, situation: Situation, folder: Path, variant: int = 0, *more: object) -> Outcome:
    """Answer twelve tasks with a server in a situation, let the fault pass, and repeat the command.

    An account stays dry for one more command. Where a model refuses parameters, the first command asks for half of the
    rows, so that the second can show what it remembers. Failures that the first command recorded are reopened by
    ``retry``.

    Args:
        dialect: The server's dialect.
        situation: What is wrong with it.
        folder: An empty folder.
        variant: Index of the error of a dry account.
        more: Further options of every ``respond``.
    """
    with ScriptedServer(dialect, situation, variant) as server:
        user = User(folder, server, *more)
        if situation is Situation.PARAMETERS:
            stage = "respond.answer={max_tokens: 2048, frequency_penalty: 0.2}"
            output = user.respond("-n", TASKS // 2, "--set", stage)
        else:
            output = user.respond()
        refused = server.refused
        if situation is Situation.DRY:
            user.respond()
        elif situation is Situation.PARAMETERS:
            user.respond("-n", TASKS)
        refused_again, rows, stats = server.refused - refused, len(user.rows()), status(user.run).stats
        server.healed = True
        if stats.failures:
            user.retry()
        if len(final := user.rows()) < TASKS:
            user.respond()
            final = user.rows()
    own = _own_faults(dialect, situation)
    return Outcome(
        tuple(user.codes),
        output,
        rows,
        dict(stats.rejected),
        dict(stats.failures),
        len(final),
        tuple(sorted(user.broken)),
        tuple(task for task in range(TASKS) if task not in final and task not in own),
        frozenset(row["reasoning"] for row in final.values() if "reasoning" in row),
        refused,
        refused_again,
    )


def _own_faults(dialect: Dialect, situation: Situation) -> tuple[int, ...]:
    """Return the tasks that stay without a row because a stored answer to them is cut or empty."""
    replies = {Situation.CUT: dialect.cut, Situation.EMPTY: dialect.empty}.get(situation, ())
    return tuple(task for index, task in enumerate(BROKEN) if replies and not replies[index % len(replies)].passes)


def sentence(outcome: Outcome) -> str:
    """Describe an outcome for the table."""
    return ", ".join(_parts(outcome))


def _parts(outcome: Outcome) -> Iterator[str]:
    if outcome.codes[0]:  # how many answers precede a stop depends on their order of arrival
        yield "stops"
    else:
        yield f"{outcome.rows} rows"
        for counts in (outcome.rejected, outcome.failures):
            for name, count in sorted(counts.items()):
                yield f"{count} {name}"
    if outcome.codes[0] or outcome.final_rows != outcome.rows:
        yield f"then {outcome.final_rows} rows"
    if outcome.broken:
        yield f"**{len(outcome.broken)} broken**"
    if outcome.lost:
        yield f"**{len(outcome.lost)} lost**"
