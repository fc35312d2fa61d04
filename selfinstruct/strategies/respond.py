"""Respond: a file of instructions is given answers, one request for each.

The answers may come under system prompts drawn from a set, as in Orca (Mukherjee et al. 2023, arXiv:2306.02707, section
3.1: 16 of them), so that one kind of task is answered in many forms; and with their reasoning, kept apart from them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from selfinstruct.common.codec import Json
from selfinstruct.common.files import read_text
from selfinstruct.common.formats import user_text
from selfinstruct.common.resources import builtin_prompts
from selfinstruct.common.rng import Rng
from selfinstruct.errors import UsageError
from selfinstruct.filters.instances import COLONS
from selfinstruct.parse import collapse, reasoned, stripped
from selfinstruct.prompts import Prompts
from selfinstruct.records import Candidate, Completion, PromptMessage, Received, Request, Sampling, Task, Verdict
from selfinstruct.strategies.base import Strategy, View
from selfinstruct.strategies.shared.stage import Stage

__all__ = ["Respond", "RespondOptions"]

_ANSWER = Stage(max_tokens=2048, api="chat")
_REASON = Stage(max_tokens=8192, api="chat")
_RULE = "---"  # between two system prompts of a file


@dataclass(frozen=True)
class RespondOptions:
    """What a run may set for this strategy.

    Attributes:
        systems: System prompts, one of which is drawn for each task: a list of them, a file that has a line ``---``
            between two, ``builtin`` for the project's own, or ``none``. The run keeps the texts themselves.
        default_system: In a chat, the system prompt of a task for which none is drawn. No row shows it: it is for
            models that are used to one.
        reasoning: Ask for the reasoning before the answer, and keep it as the row's ``reasoning``.
        answer, reason: The one stage, without reasoning and with it. As a raw completion (``api: completion``) the
            prompt is one for a base model.
    """

    systems: tuple[str, ...] | str | None = ()
    default_system: str = ""
    reasoning: bool = False
    answer: Stage = _ANSWER
    reason: Stage = _REASON

    def __post_init__(self) -> None:
        object.__setattr__(self, "systems", _system_prompts(self.systems))


def _system_prompts(given: Sequence[str] | str | None) -> tuple[str, ...]:
    if given is None or given == "none":
        return ()
    if not isinstance(given, str):
        return tuple(given)
    path = builtin_prompts() / "respond" / "systems.txt" if given == "builtin" else Path(given)
    try:
        lines = read_text(path).split("\n")
    except UsageError as error:
        raise ValueError(f"{error}; give a file, a list of system prompts, builtin or none") from None
    prompts = [""]
    for line in lines:
        if line.strip() == _RULE:
            prompts.append("")
        else:
            prompts[-1] += f"{line}\n"
    if not (found := tuple(text for one in prompts if (text := one.strip()))):
        raise ValueError(f"{path}: no system prompt in it")
    return found


class Respond(Strategy):
    """Rows from the tasks of a file, in their order: each as it stands, with the model's answer.

    Args:
        options: What is asked for.
        prompts: The run's templates.
    """

    name: ClassVar[str] = "respond"
    templates: ClassVar[Mapping[str, frozenset[str]]] = {
        "respond/answer": frozenset({"task"}),
        "respond/reason": frozenset({"task"}),
        "respond/system": frozenset({"system"}),
        "respond/raw": frozenset({"system", "task"}),
        "respond/raw-reason": frozenset({"system", "task"}),
    }
    # What is given is to be answered whatever its form, and whatever resembles it: a correction may well be close to
    # its input. `selfinstruct filter` takes out afterwards what is too much alike.
    defaults: ClassVar[Mapping[str, Any]] = {
        "filters": {
            "word_count": None,
            "keywords": None,
            "punctuation": None,
            "program": None,
            "novelty": None,
            "copied": None,
            "near_duplicate": None,
        }
    }
    begins_with_tasks: ClassVar[bool] = True
    Options: ClassVar[type[RespondOptions]] = RespondOptions

    def __init__(self, options: RespondOptions, prompts: Prompts) -> None:
        self.options = options
        self.prompts = prompts
        self._systems = _system_prompts(options.systems)

    @property
    def format(self) -> str:
        """Messages where there are system prompts: every program reads them there."""
        return "messages" if self._systems else "alpaca"

    def rows(self, seeds: Sequence[Task]) -> int:
        """One for each task."""
        return len(seeds)

    def propose(self, view: View, rng: Rng) -> Request | None:
        """Ask for the answer to the next task; None when all were asked for."""
        item = view.progress.next_item
        if item >= len(view.seeds):
            return None
        task = view.seeds[item]
        instruction, given = _given(task)
        system = rng.choice(self._systems) if self._systems else ""
        context: dict[str, Json] = {
            "item": item,
            "demonstrations": [task.id],
            "instruction": instruction,
            "input": given,
            "system": system,
            **({} if task.verifier is None else {"verifier": task.verifier}),
        }
        turns, sampling = self._asked(user_text(instruction, given), system)
        return Request("answer", turns, sampling, context)

    def _asked(self, task: str, system: str) -> tuple[tuple[PromptMessage, ...], Sampling]:
        reasoning = self.options.reasoning
        stage = self.options.reason if reasoning else self.options.answer
        if (self.prompts.api if stage.api == "run" else stage.api) == "completion":
            variables = {"system": f"{system}\n\n" if system else "", "task": task}
            turn = self.prompts.turn("prompt", "respond/raw-reason" if reasoning else "respond/raw", variables)
            # A base model that has answered goes on with a task of its own.
            return (turn,), stage.sampling("\nQuestion:" if reasoning else "\n### Task")
        turn = self.prompts.turn("user", "respond/reason" if reasoning else "respond/answer", {"task": task})
        system = system or self.options.default_system
        opening = (self.prompts.turn("system", "respond/system", {"system": system}),) if system else ()
        return (*opening, turn), stage.sampling()

    def receive(self, request: Request, completion: Completion, view: View) -> Received:  # noqa: ARG002
        """The whole answer as one row; with ``reasoning``, what comes after it."""
        text, context = completion.text, request.context
        span, why, columns = stripped(text), "", {}
        if completion.truncated:
            why = "truncated"
        elif self.options.reasoning:
            parts = reasoned(text)
            if parts.answer[0] == parts.answer[1]:
                why = "no_answer"
            elif parts.reasoning[0] == parts.reasoning[1]:
                why = "no_reasoning"
            else:
                span, columns = parts.answer, {"reasoning": text[slice(*parts.reasoning)]}
        output, instruction = text[slice(*span)], str(context["instruction"])
        if not why and _same(output, user_text(instruction, str(context["input"]))):
            why = "task_repeated"
        row = Candidate(
            instruction=instruction,
            input=str(context["input"]),
            output=output,
            span=span,
            system=str(context["system"]),
            columns=columns,
            verifier=verifier if isinstance(verifier := context.get("verifier"), Mapping) else None,
            verdicts=(Verdict("answer", not why, why),),
        )
        return Received(candidates=(row,))

    def fault(self, row: Candidate, text: str) -> str:
        return "task_repeated" if _same(text, user_text(row.instruction, row.input)) else ""


def _given(task: Task) -> tuple[str, str]:
    """Instruction and input. An input that ends with a colon, which the instance rules take for a cut one, goes into
    the instruction: it was given so.
    """
    given = task.instances[0].input if task.instances else ""
    if given.endswith(COLONS):
        return user_text(task.instruction, given), ""
    return task.instruction, given


def _same(one: str, other: str) -> bool:
    return collapse(one).casefold() == collapse(other).casefold()
