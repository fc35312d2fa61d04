"""The strategy respond: its requests, and the rows made from answers."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from selfinstruct.common.resources import builtin_prompts
from selfinstruct.common.rng import Rng
from selfinstruct.engine.methods import build_options
from selfinstruct.engine.plan import make_plan
from selfinstruct.engine.row_filters import FilterOptions, RowFilters
from selfinstruct.errors import ConfigError
from selfinstruct.parse import split_reasoning
from selfinstruct.pool import MethodProgress, Pool
from selfinstruct.prompts import Prompts
from selfinstruct.records import Candidate, Choice, Completion, Instance, Request, Task, Usage
from selfinstruct.strategies import Respond
from selfinstruct.strategies.respond import RespondOptions

NUMBER = {"kind": "number", "value": 4}
TASKS = (
    Task("row_1", "Name a {river} of $country."),
    Task("own", "Add.", (Instance("1 3", "4"),), verifier=NUMBER),
    Task("row_3", "Go on.", (Instance("The list:", ""),)),
)


@dataclass
class View:
    seeds: tuple[Task, ...] = TASKS
    tasks: tuple[Task, ...] = ()
    progress: MethodProgress = field(default_factory=MethodProgress)


def strategy(api: str = "completion", **options: Any) -> Respond:
    return Respond(build_options(Respond, options, "respond"), Prompts.load(Respond.templates, api, builtin_prompts()))


def asked(item: int = 0, **options: Any) -> tuple[Respond, Request]:
    made, view = strategy(**options), View()
    for before in range(item):
        view.progress.take(before)
    request = made.propose(view, Rng("test", item))
    assert request is not None
    return made, request.numbered(7, 1)


def resolved(systems: str | None) -> RespondOptions:
    return build_options(Respond, {"systems": systems}, "respond")


def turns(request: Request) -> list[tuple[str, str]]:
    return [(turn.role, turn.text) for turn in request.turns]


def row(made: Respond, request: Request, text: str, finish: str = "stop") -> tuple[Candidate, str]:
    """Return the candidate, and the reason code with which the strategy rejects it."""
    completion = Completion((Choice(text, finish),), Usage(), "scripted")
    (filtered,) = made.receive(request, completion, View()).candidates
    return filtered, next((verdict.reason for verdict in filtered.verdicts if not verdict.kept), "")


def test_each_task_is_sent_verbatim_in_order_until_none_is_left() -> None:
    assert turns(asked(0)[1]) == [("user", "Name a {river} of $country.")]
    assert turns(asked(1)[1]) == [("user", "Add.\n\n1 3")]
    view = View()
    for item in range(3):
        view.progress.take(item)
    assert strategy().propose(view, Rng("x")) is None
    assert strategy().default_target(TASKS) == 3


def test_a_raw_prompt_suits_a_base_model_and_stops_at_the_next_task() -> None:
    _, request = asked(1, answer={"api": "completion", "max_tokens": 9}, systems=["Be brief.", "Be brief."])
    assert turns(request) == [("prompt", "Be brief.\n\n### Task\nAdd.\n\n1 3\n\n### Answer")]
    assert request.sampling.stop == ("\n### Task",)
    assert turns(asked(1, answer={"api": "run", "max_tokens": 9})[1])[0][0] == "prompt"
    assert asked(1, answer={"api": "run", "max_tokens": 9}, api="chat")[1].sampling.stop == ()
    made, request = asked(1, default_system="Default", reasoning=True, reason={"api": "completion", "max_tokens": 9})
    assert turns(request)[0][1].startswith("Each question")
    assert turns(request)[0][1].endswith("\n\nQuestion: Add.\n\n1 3\nReasoning:")
    assert request.sampling.stop == ("\nQuestion:",)
    filtered, why = row(made, request, " One and three.\nAnswer: 4")
    assert (filtered.columns, filtered.output, why) == ({"reasoning": "One and three."}, "4", "")


def test_the_answer_is_a_row_with_the_task_s_verifier() -> None:
    made, request = asked(1)
    filtered, why = row(made, request, "\n 4 ")
    assert (filtered.instruction, filtered.input, filtered.output, why) == ("Add.", "1 3", "4", "")
    assert (filtered.verifier, filtered.task, filtered.system, filtered.columns) == (NUMBER, None, "", {})
    assert "\n 4 "[slice(*filtered.span)] == "4"
    assert request.demonstrations == ("own",)


def test_system_prompts_are_drawn_and_stored_in_the_row() -> None:
    systems = ["Be brief.", "Be {kind} to $you.", ""]
    drawn = set()
    for seed in range(40):
        made = strategy(systems=systems, default_system="Default")
        request = made.propose(View(), Rng(seed))
        assert request is not None
        filtered, _ = row(made, request, "The Loire.")
        drawn.add(filtered.system)
        assert turns(request)[0] == ("system", filtered.system or "Default")
    assert drawn == set(systems)
    assert (strategy(systems=systems).format, strategy().format) == ("messages", "alpaca")
    assert strategy(systems=systems).propose(View(), Rng(1)) == strategy(systems=systems).propose(View(), Rng(1))


def test_system_prompts_come_from_a_file_or_the_project_or_are_off(tmp_path: Path) -> None:
    path = tmp_path / "systems.txt"
    path.write_text("\ufeffOne\u2028more\n\nline.\n---\n\n--- \r\nTwo $x.\r\n", "utf-8", newline="")
    assert resolved(str(path)).systems == ("One\u2028more\n\nline.", "Two $x.")
    builtin = resolved("builtin").systems
    assert len(set(builtin)) == 12
    assert min(map(len, builtin)) < 30 < 130 < max(map(len, builtin))
    assert resolved("none") == resolved(None) == Respond.Options()
    path.write_text("---\n")
    for name, says in (("systems.txt", "no system prompt in it"), ("no", r"can't read .*builtin or none")):
        with pytest.raises(ConfigError, match=says):
            resolved(str(tmp_path / name))


def test_truncated_answers_and_repeated_tasks_are_rejected() -> None:
    made, request = asked(1)
    filtered, why = row(made, request, "It is 4 bec", "length")
    assert (filtered.output, why) == ("It is 4 bec", "truncated")
    assert row(made, request, " add.\n1 3")[1] == "task_repeated"
    assert row(made, request, "")[0].output == ""  # rejected by the instance rules


def test_a_further_answer_that_repeats_the_task_is_rejected() -> None:
    made, row = strategy(), Candidate("Name a river.", "In France.")
    assert made.reject_reason(row, "name a  river.\nin France.") == "task_repeated"
    assert made.reject_reason(row, "The Loire.") == ""


def test_no_filter_rejects_a_task_for_its_form_or_similarity(tmp_path: Path) -> None:
    path = tmp_path / "tasks.txt"
    path.write_text("Draw an image.\n")
    plan = make_plan({"strategy": "respond", "seeds": str(path), "backend": "openai", "openai": {"model": "m"}})
    assert plan.settings.n == 1
    pool = Pool(TASKS)
    judge = RowFilters(plan.settings.filters, pool)
    texts = ["Draw an image.", "Draw an image.", "!", "Write a program", "word " * 200]
    given = [("", "Yes, here."), ("Correct she go to school.", "Correct: she goes to school.")]
    for number, text in enumerate(texts):
        for extra, output in given:
            made = strategy()
            view = View((Task("t", text, (Instance(extra, ""),) if extra else ()),))
            request = made.propose(view, Rng("x"))
            assert request is not None
            completion = Completion((Choice(output, "stop"),), Usage(), "m")
            judge.apply(request.numbered(number, 0), made.receive(request, completion, view))
    assert len(pool.rows) == len(texts) * len(given)
    assert FilterOptions().novelty is not None  # the default of other strategies


def test_an_input_that_ends_with_a_colon_is_accepted() -> None:
    made, request = asked(2)
    filtered, _ = row(made, request, "Milk.")
    assert (filtered.instruction, filtered.input) == ("Go on.\n\nThe list:", "")
    assert turns(request) == [("user", "Go on.\n\nThe list:")]


REASONED = [
    ("<think>a\nb</think>\n\nc", "a\nb", "c"),
    ("a</think> c", "a", "c"),
    ("Sure. <THINK> a </THINK> c <think>d</think>", "a", "c <think>d</think>"),
    ("<reasoning>a</reasoning>\n<answer>\nc\n</answer> bye", "a", "c"),
    ("<thinking>a</thinking> **Final answer:** c", "a", "c"),
    ("Reasoning: a\nb\n\nAnswer: c\nAnswer: d", "a\nb", "c\nAnswer: d"),
    ("## Reasoning\na\n## Answer\nc", "a", "c"),
    ("**Reasoning:** a\n\n**The answer:** c", "a", "c"),
    ("a\n```\nAnswer: x\n```\nAnswer: c", "a\n```\nAnswer: x\n```", "c"),
    ("<think>a", "a", ""),
    ("a</think>  \n", "a", ""),
    ("The answer is 4.", "The answer is 4.", ""),
    ("<think>\n\n</think>\n\nc", "", "c"),
    ("Answer: c", "", "c"),
    ("", "", ""),
]


@pytest.mark.parametrize(("text", "reasoning", "answer"), REASONED)
def test_reasoning_is_separated_from_the_answer(text: str, reasoning: str, answer: str) -> None:
    parts = split_reasoning(text)
    assert (text[slice(*parts.reasoning)], text[slice(*parts.answer)]) == (reasoning, answer)


@given(
    st.text() | st.lists(st.sampled_from(["<think>", "</think>", "Answer:", "\n", "a", " ", "**", "```"])).map("".join)
)
def test_any_text_is_separated_in_order(text: str) -> None:
    parts = split_reasoning(text)
    assert 0 <= parts.reasoning[0] <= parts.reasoning[1] <= parts.answer[0] <= parts.answer[1] <= len(text)
    for options in ({}, {"reasoning": True}):
        made, request = asked(0, **options)
        row(made, request, text)


@pytest.mark.parametrize(
    ("text", "why"),
    [("<think>a</think>c", ""), ("a", "no_answer"), ("<think>a", "no_answer"), ("Answer: c", "no_reasoning")],
)
def test_the_row_has_the_answer_alone_and_a_column_of_reasoning(text: str, why: str) -> None:
    made, request = asked(0, reasoning=True)
    ((role, said),) = turns(request)
    assert role == "user"
    assert said.startswith("Name a {river} of $country.\n\n")
    assert len(said) > 100
    filtered, reason = row(made, request, text)
    assert reason == why
    assert filtered.columns == ({} if why else {"reasoning": "a"})
    assert filtered.output == (text if why else "c")
    assert row(made, request, text, "length")[1] == "truncated"


@pytest.mark.parametrize(
    ("text", "why"), [("The answer is 4.", "no_reasoning"), ("Reasoning: a", "no_answer"), ("<think>a", "no_answer")]
)
def test_reasoning_that_the_server_keeps_to_itself_is_missing(text: str, why: str) -> None:
    """The server counts the tokens of the reasoning and returns none of it."""
    made, request = asked(0, reasoning=True)
    completion = Completion((Choice(text, "stop"),), Usage(20, 80, 0, 70), "scripted")
    (candidate,) = made.receive(request, completion, View()).candidates
    assert [verdict.reason for verdict in candidate.verdicts] == [why]
