"""Respond: each instruction of a file is answered by one request.

The answers may be written under system prompts drawn from a set, as in Orca (Mukherjee et al. 2023, arXiv:2306.02707,
section 3.1: 16 prompts), so that tasks of one kind are answered in many forms. Reasoning can be requested as well; it
is stored apart from the answer.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar, Literal

from selfinstruct.common.codec import Json
from selfinstruct.common.files import read_text
from selfinstruct.common.formats import user_text
from selfinstruct.common.resources import builtin_prompts
from selfinstruct.common.rng import Rng
from selfinstruct.common.unused import Unused
from selfinstruct.errors import UsageError
from selfinstruct.filters.instances import COLONS
from selfinstruct.parse import collapse, content_span, split_reasoning
from selfinstruct.prompts import Api, Prompts
from selfinstruct.reasons import RejectReason
from selfinstruct.records import (
    Candidate,
    Completion,
    Message,
    PromptMessage,
    Received,
    Request,
    Sampling,
    Task,
    Verdict,
)
from selfinstruct.strategies.abilities import (
    AnswersTasks,
    ChecksAnswers,
    ChoosesFormat,
    ChoosesTarget,
    HasModes,
    ResolvesOptions,
    SendsContext,
)
from selfinstruct.strategies.base import Strategy, View
from selfinstruct.strategies.shared.contexts import context_json, read_context
from selfinstruct.strategies.shared.stage import Stage
from selfinstruct.strategies.shared.unfiltered import UNFILTERED

__all__ = ["Respond", "RespondOptions"]

_ANSWER = Stage(max_tokens=2048, api="chat")
_REASON = Stage(max_tokens=8192, api="chat")
_SEPARATOR = "---"  # line between two system prompts of a file


@dataclass(frozen=True)
class RespondOptions:
    """Settings of this strategy.

    Attributes:
        systems: System prompts, one of which is drawn for each task: a list of texts, a file with a line ``---``
            between two prompts, ``builtin`` for the built-in prompts, or ``none``. The run records the texts.
        default_system: System prompt of a chat for tasks without a drawn one. Rows do not show it: it is for models
            that are used to one.
        reasoning: Request the reasoning before the answer, and store it as the row's ``reasoning``.
        answer, reason: The only stage, without reasoning and with it. As a raw completion (``api: completion``) the
            prompt suits a base model.
    """

    systems: tuple[str, ...] | str | None = ()
    default_system: str = ""
    reasoning: bool = False
    answer: Stage = _ANSWER
    reason: Stage = _REASON


def _system_prompts(systems: Sequence[str] | str | None) -> tuple[str, ...]:
    """Return the texts that the setting ``systems`` lists or refers to."""
    if systems is None or systems == "none":
        return ()
    if not isinstance(systems, str):
        return tuple(systems)
    path = builtin_prompts() / "respond" / "systems.txt" if systems == "builtin" else Path(systems)
    try:
        lines = read_text(path).split("\n")
    except UsageError as error:
        raise ValueError(f"{error}; give a file, a list of system prompts, builtin or none") from None
    prompts = [""]
    for line in lines:
        if line.strip() == _SEPARATOR:
            prompts.append("")
        else:
            prompts[-1] += f"{line}\n"
    if not (texts := tuple(text for prompt in prompts if (text := prompt.strip()))):
        raise ValueError(f"{path}: no system prompt in it")
    return texts


@dataclass(frozen=True, slots=True)
class AnswerContext:
    """Context of the stage ``answer``: everything of the row except its output.

    Attributes:
        system: The task's own system prompt, or the drawn one; "" for none.
        verifier: The task's verifier specification.
        history: Role and content of each message before the task; None for none.
    """

    instruction: str
    input: str
    system: str
    verifier: Mapping[str, Json] | None = None
    history: tuple[tuple[Literal["user", "assistant"], str], ...] | None = None


class Respond(
    Strategy,
    AnswersTasks,
    SendsContext,
    ChecksAnswers,
    ChoosesFormat,
    ChoosesTarget,
    HasModes[RespondOptions],
    ResolvesOptions,
):
    """Rows from the tasks of a file, in order: each task with the model's answer."""

    name: ClassVar[str] = "respond"
    templates: ClassVar[Mapping[str, frozenset[str]]] = {
        "respond/answer": frozenset({"task"}),
        "respond/reason": frozenset({"task"}),
        "respond/system": frozenset({"system"}),
        "respond/raw": frozenset({"system", "task"}),
        "respond/raw-reason": frozenset({"system", "task"}),
    }
    context_templates: ClassVar[Mapping[str, frozenset[str]]] = {"respond/earlier": frozenset({"text"})}
    # Every task is to be answered, regardless of its form and of similar tasks: a correction may well be close to its
    # input. With filters.novelty, tasks that resemble an earlier one are not asked.
    defaults: ClassVar[Mapping[str, Any]] = {"filters": UNFILTERED}
    Options: ClassVar[type[RespondOptions]] = RespondOptions
    options: RespondOptions

    @classmethod
    def resolve_options(cls, options: RespondOptions) -> RespondOptions:
        """Return the options with the texts of the system prompts."""
        return replace(options, systems=_system_prompts(options.systems))

    @classmethod
    def unused_options(cls, options: RespondOptions, api: Api) -> Iterable[Unused]:
        """Return the stage that is not requested, and what only a chat or only a raw prompt uses."""
        name, stage = ("reason", options.reason) if options.reasoning else ("answer", options.answer)
        if options.reasoning:
            yield Unused("reasoning", "false", ("answer",), ("respond/answer", "respond/raw"))
        else:
            yield Unused("reasoning", "true", ("reason",), ("respond/reason", "respond/raw-reason"))
        if stage.api_in(api) == "completion":
            chat_templates = ("respond/answer", "respond/reason", "respond/system")
            yield Unused(f"{name}.api", "chat", ("default_system",), chat_templates)
        else:
            yield Unused(f"{name}.api", "completion", (), ("respond/raw", "respond/raw-reason"))
        if options.systems:
            yield Unused("systems", "none", ("default_system",))

    def __init__(self, options: RespondOptions, prompts: Prompts) -> None:
        if options.systems is None or isinstance(options.systems, str):
            raise TypeError("call Respond.resolve_options first: it reads the system prompts")
        super().__init__(options, prompts)
        self._systems = options.systems

    @property
    def format(self) -> str:
        """Messages if there are system prompts, because every program reads them there."""
        return "messages" if self._systems else "alpaca"

    def default_target(self, seeds: Sequence[Task]) -> int:
        """Return the number of tasks."""
        return len(seeds)

    def propose(self, view: View, rng: Rng) -> Request | None:
        """Request the answer to the next task; return None after the last."""
        item = view.progress.next_item
        if item >= len(view.seeds):
            return None
        task = view.seeds[item]
        instruction, task_input = _fields(task)
        system = rng.choice(self._systems) if self._systems else ""
        system = task.system or system
        turns, sampling = self._prompt(user_text(instruction, task_input), system, task.history)
        history = tuple((message.role, message.content) for message in task.history) or None
        context = context_json(AnswerContext(instruction, task_input, system, task.verifier, history))
        return Request("answer", turns, sampling, context, item=item, demonstrations=(task.id,))

    def _prompt(self, task: str, system: str, history: Sequence[Message]) -> tuple[tuple[PromptMessage, ...], Sampling]:
        reasoning = self.options.reasoning
        stage = self.options.reason if reasoning else self.options.answer
        if stage.is_raw(self.prompts):
            names = {"user": "Question", "assistant": "Answer"} if reasoning else {"user": "### Task", "assistant":
                     "### Answer"}  # fmt: skip
            separator = ": " if reasoning else "\n"
            rounds = [f"{names[message.role]}{separator}{message.content}\n\n" for message in history]
            opening_text = "".join([f"{system}\n\n" if system else "", *rounds])
            variables = {"system": opening_text, "task": task}
            turn = self.prompts.turn("prompt", "respond/raw-reason" if reasoning else "respond/raw", variables)
            # A base model continues after its answer by inventing another task.
            return (turn,), stage.sampling("\nQuestion:" if reasoning else "\n### Task")
        turn = self.prompts.turn("user", "respond/reason" if reasoning else "respond/answer", {"task": task})
        system = system or self.options.default_system
        opening = (self.prompts.turn("system", "respond/system", {"system": system}),) if system else ()
        earlier = [self.prompts.turn(message.role, "respond/earlier", {"text": message.content}) for message in history]
        return (*opening, *earlier, turn), stage.sampling()

    def receive(self, request: Request, completion: Completion, view: View) -> Received:  # noqa: ARG002
        """Take the complete answer as one row; with ``reasoning``, the part after the reasoning."""
        text, context = completion.text, read_context(AnswerContext, request)
        span, reason, columns = content_span(text), "", {}
        if completion.truncated:
            reason = RejectReason.TRUNCATED
        elif self.options.reasoning and completion.choices[0].reasoning:
            columns = {"reasoning": completion.choices[0].reasoning}
            reason = "" if span[0] < span[1] else RejectReason.NO_ANSWER
        elif self.options.reasoning:
            parts = split_reasoning(text)
            if parts.answer[0] == parts.answer[1]:
                hidden = parts.reasoning == span and completion.usage.reasoning_tokens  # the server keeps the reasoning
                reason = RejectReason.NO_REASONING if hidden else RejectReason.NO_ANSWER
            elif parts.reasoning[0] == parts.reasoning[1]:
                reason = RejectReason.NO_REASONING
            else:
                span, columns = parts.answer, {"reasoning": text[slice(*parts.reasoning)]}
        output = text[slice(*span)]
        if not reason and _is_same(output, user_text(context.instruction, context.input)):
            reason = RejectReason.TASK_REPEATED
        row = Candidate(
            instruction=context.instruction,
            input=context.input,
            output=output,
            span=span,
            system=context.system,
            messages=_messages(context, output),
            columns=columns,
            verifier=context.verifier,
            verdicts=(Verdict("answer", not reason, reason),),
        )
        return Received(candidates=(row,))

    def reject_reason(self, row: Candidate, text: str) -> str:
        """Return the reason code for an answer that repeats the task."""
        return RejectReason.TASK_REPEATED if _is_same(text, user_text(row.instruction, row.input)) else ""


def _messages(context: AnswerContext, output: str) -> tuple[Message, ...]:
    """Return all messages of a row whose task has earlier rounds; () for a row of one round."""
    if context.history is None:
        return ()
    earlier = (Message(role, content) for role, content in context.history)
    question = user_text(context.instruction, context.input)
    return (*earlier, Message("user", question), Message("assistant", output))


def _fields(task: Task) -> tuple[str, str]:
    """Return instruction and input of a task.

    An input that ends with a colon becomes part of the instruction, because the instance rules would take it for a
    truncated one.
    """
    task_input = task.instances[0].input if task.instances else ""
    if task_input.endswith(COLONS):
        return user_text(task.instruction, task_input), ""
    return task.instruction, task_input


def _is_same(first: str, second: str) -> bool:
    """Return True if two texts are equal apart from case and spaces."""
    return collapse(first).casefold() == collapse(second).casefold()
