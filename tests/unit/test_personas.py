"""Personas: the requests, the constraints that are drawn together, and the rows read from answers."""

from __future__ import annotations

import json
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from selfinstruct.common.config import build
from selfinstruct.common.resources import builtin_personas
from selfinstruct.common.rng import Rng
from selfinstruct.engine.row_filters import FilterOptions, RowFilters
from selfinstruct.errors import ConfigError, DataError, UsageError
from selfinstruct.pool import Pool
from selfinstruct.prompts import Prompts
from selfinstruct.records import Choice, Completion, Request, Task, Usage
from selfinstruct.strategies import Personas
from selfinstruct.strategies.shared.constraints import all_of, draw
from selfinstruct.strategies.shared.persona_lists import read_personas
from selfinstruct.verifiers import check_verifier, verify

TEMPLATES = Path(__file__).parents[2] / "prompts"
PEOPLE = ("A baker in Lyon who pays $rent.", "A judge in Oslo.", "A diver in Malta.", "A ${persona} maker in Bonn.")


@dataclass
class View:
    seeds: tuple[Task, ...] = ()
    tasks: tuple[Task, ...] = ()
    progress: object = field(default_factory=object)


def strategy(api="completion", **options):
    prompts = Prompts.load(Personas.templates, api, TEMPLATES)
    return Personas(build(Personas.Options, options), Prompts({**prompts.texts, Personas.DATA: "\n".join(PEOPLE)}, api))


def only(kind: str) -> dict[str, float]:
    return {one: float(one == kind) for one in ("instruction", "math", "code", "precise")}


def answer(text, finish_reason="stop"):
    return Completion((Choice(text, finish_reason),), Usage(), "scripted")


def asked(api="completion", name="a", **options) -> tuple[Personas, Request]:
    made = strategy(api, **options)
    request = made.propose(View(), Rng(name))
    assert request is not None
    return made, request.numbered(7, 1)


def answering(kind: str, task: str = "Tell how bread is kept fresh.", **options) -> tuple[Personas, Request]:
    """Return the request for the answer to a task of this kind."""
    made, request = asked(kinds=only(kind), **options)
    follow_up = made.receive(request, answer(f" {task}"), View()).candidates[0].on_accept
    assert follow_up is not None
    return made, follow_up.numbered(8, 2)


def test_the_defaults_are_the_published_ones():
    options = Personas.Options()
    for stage in (options.task, options.continued, options.answer):
        assert (stage.temperature, stage.top_p) == (0.7, 0.95)
    assert options.constraints == 3
    assert options.kinds.weights == (1.0, 1.0, 1.0, 1.0)


@pytest.mark.parametrize("kind", ["instruction", "math", "code", "precise"])
def test_a_prompt_shows_other_peoples_tasks_of_the_kind_and_ends_with_the_person(kind):
    made, request = asked(kinds=only(kind))
    text, persona = request.turns[0].text, request.context["persona"]
    assert persona in PEOPLE, "and what it says of variables stands there as it is"
    assert text.endswith(f"\n\nPerson: {persona}\nTask:")
    assert text.count("Person: ") == text.count("Task:") == 3
    assert request.turns[0].template == f"personas/{kind}"
    assert request.sampling.stop == ("\nPerson:", "\n\n")
    none = made.propose(View(), Rng("a")).turns[0].text
    assert none == text
    _, bare = asked(kinds=only(kind), demonstrations=0)
    assert bare.turns[0].text.count("Person: ") == 1
    _, chat = asked("chat", kinds=only(kind))
    assert (chat.turns[0].role, chat.sampling.stop) == ("user", ("\nPerson:",))


def test_kinds_are_drawn_by_their_weights():
    made = strategy(kinds={"instruction": 3, "math": 1, "code": 0, "precise": 0})
    drawn = [made.propose(View(), Rng("draw", index)).context["kind"] for index in range(400)]
    assert set(drawn) == {"instruction", "math"}
    assert 260 < drawn.count("instruction") < 340
    people = {made.propose(View(), Rng("draw", index)).context["persona"] for index in range(40)}
    assert people == set(PEOPLE)


def test_a_kept_task_is_sent_without_the_person():
    made, request = asked(kinds=only("instruction"))
    received = made.receive(request, answer(" Tell how bread\nis kept fresh.\n\nAnswer: In a bag."), View())
    (pending,) = received.candidates
    assert (pending.kind, pending.instruction, pending.output) == ("pending_task", "Tell how bread is kept fresh.", "")
    assert tuple(map(str, received.counters)) == ("kinds|instruction|task",)
    assert [discard.reason for discard in received.discards] == ["trailing"]
    follow_up = pending.on_accept.numbered(8, 2)
    assert (follow_up.stage, follow_up.parent, follow_up.context["task"]) == ("answer", 7, "7.0")
    assert str(request.context["persona"]) not in follow_up.turns[0].text
    assert "Tell how bread is kept fresh.\n" in follow_up.turns[0].text
    received = made.receive(follow_up, answer(" In a paper bag.\n"), View())
    (row,) = received.candidates
    assert (row.kind, row.instruction, row.output) == ("row", "Tell how bread is kept fresh.", "In a paper bag.")
    assert (row.task, row.columns, row.verifier) == (
        "7.0",
        {"persona": request.context["persona"], "kind": "instruction"},
        None,
    )
    assert tuple(map(str, received.counters)) == ("kinds|instruction|answer",)


@pytest.mark.parametrize(
    ("text", "task", "discards"),
    [
        ("**Task:** Bake a loaf of rye.", "Bake a loaf of rye.", []),
        ("Sure! Here is one:\n\n\"Bake a loaf of rye.\"", "Bake a loaf of rye.", ["preamble"]),
        ("User prompt:\nBake a loaf\n\nof rye.", "Bake a loaf of rye.", []),
        ("Person: A baker.\nTask: Bake a loaf of rye.\n\nAnswer: no", "Bake a loaf of rye.", ["preamble", "trailing"]),
        ("Bake a loaf of rye. Explain:", "Bake a loaf of rye. Explain:", []),
        ("Here is a task:\nBake a loaf of rye.", "Bake a loaf of rye.", ["preamble"]),
        ("Here is a task: Bake a loaf of rye.", "Bake a loaf of rye.", ["preamble"]),
        ("Sure! Here's a task for this person: Bake a loaf of rye.", "Bake a loaf of rye.", ["preamble"]),
        ("Sure!\n\n**Here\u2019s a task:** *Bake a loaf of rye.*", "Bake a loaf of rye.", ["preamble"]),
        ("Here is a problem that suits the persona: Bake a loaf of rye.", "Bake a loaf of rye.", ["preamble"]),
        ("Certainly. Here is one request of theirs:\nBake a loaf.\n\nAnswer: no", "Bake a loaf.",
         ["preamble", "trailing"]),
        ("Here is my question:\nWhy is rye sour?", "Here is my question: Why is rye sour?", []),
        ("Here is my question: why is rye sour?", "Here is my question: why is rye sour?", []),
        ("Here is a sentence: rye is sour. Say it in Latin.", "Here is a sentence: rye is sour. Say it in Latin.", []),
        ("Here is a question of a child: why? Answer.", "Here is a question of a child: why? Answer.", []),
        ("Sure, bake rye: how is it done?", "Sure, bake rye: how is it done?", []),
    ],
)  # fmt: skip
def test_a_chat_model_states_its_task_in_its_own_way(text, task, discards):
    made, request = asked("chat", kinds=only("instruction"))
    received = made.receive(request, answer(text), View())
    assert [candidate.instruction for candidate in received.candidates] == [task]
    assert [discard.reason for discard in received.discards] == discards


@pytest.mark.parametrize(
    ("text", "finish_reason", "reason"),
    [
        (" \n", "stop", "no_instruction"),
        ("Tell how bre", "length", "truncated"),
        ("", "stop", "no_instruction"),
    ],
)
def test_a_completion_without_a_task_is_discarded_with_a_reason(text, finish_reason, reason):
    made, request = asked(kinds=only("math"))
    received = made.receive(request, answer(text, finish_reason), View())
    assert [discard.reason for discard in received.discards] == [reason]
    assert received.candidates == ()
    assert tuple(map(str, received.counters)) == ("kinds|math|no task",)


@pytest.mark.parametrize("text", ["Here is a task for this person:\n", "Sure! Here's a task:", "**Here is one task:**"])
def test_an_announcement_is_not_a_task(text):
    made, request = asked("chat", kinds=only("math"))
    received = made.receive(request, answer(text), View())
    assert (received.candidates, [discard.reason for discard in received.discards]) == ((), ["no_instruction"])


def test_a_task_that_the_prompt_shows_or_that_only_repeats_the_person_is_rejected():
    made, request = asked(kinds=only("instruction"))
    shown = str(request.context["shown"][1]).partition("\nTask: ")[2]
    person = str(request.context["persona"]).rstrip(".")
    for text, reason in ((shown, "copied_demonstration"), (f"{person} is {person}.", "copied_input")):
        received = made.receive(request, answer(f" {text}"), View())
        filtered = RowFilters(FilterOptions(), Pool(())).apply(request, received)
        assert [candidate.reason for candidate in filtered.candidates] == [reason]


@given(st.integers(), st.integers(1, 12))
def test_constraints_that_are_drawn_together_do_not_contradict_each_other(seed, most):
    found = draw(Rng("constraints", seed), most)
    assert 1 <= len(found) <= most
    kinds = {one.verifier["kind"]: one.verifier for one in found}
    assert len(kinds) == len(found)
    for one in found:
        check_verifier(one.verifier)
        assert one.text.endswith(".")
    # Make an answer that meets all constraints.
    count = kinds.get("sentences", {"min": 2})["min"]
    body = list(kinds.get("contains", {"words": ["stone"]})["words"])
    sentences = [" ".join(["Stone", *body]) + "." for _ in range(count)]
    if "words" in kinds and "min" in kinds["words"]:
        sentences[0] = "Stone " * kinds["words"]["min"] + sentences[0]
    if "starts_with" in kinds:
        sentences[0] = f"{kinds['starts_with']['text']} {sentences[0]}"
    if "ends_with" in kinds:
        sentences[-1] = kinds["ends_with"]["text"]
    text = " ".join(sentences)
    if "json" in kinds:
        keys = kinds["json"]["schema"]["required"]
        text = json.dumps({key: " ".join(["stone", *body]) for key in keys})
    if "bullets" in kinds:
        text = "\n".join(f"- {text}" if index == 0 else "- stone" for index in range(kinds["bullets"]["count"]))
    if "lowercase" in kinds:
        text = text.lower()
    if "uppercase" in kinds:
        text = text.upper()
    assert verify(all_of(found), text).kept, (found, text)


def test_every_kind_of_constraint_is_drawn_up_to_the_maximum():
    found = [draw(Rng("constraints", seed), 3) for seed in range(400)]
    assert {one.verifier["kind"] for some in found for one in some} == {
        "words", "sentences", "bullets", "contains", "excludes", "starts_with", "ends_with", "lowercase", "uppercase",
        "no_commas", "json",
    }  # fmt: skip
    assert {len(some) for some in found} == {1, 2, 3}


def test_the_filters_see_a_precise_task_alone_and_the_model_sees_its_constraints():
    made, request = asked(kinds=only("precise"))
    assert "constraints" not in request.turns[0].variables
    assert made.receive(request, answer(" Describe a stone."), View()).candidates[0].instruction == "Describe a stone."
    _, follow_up = answering("precise", "Describe a stone.")
    said = [one["text"] for one in request.context["constraints"]]
    assert said
    assert follow_up.context["instruction"] == " ".join(("Describe a stone.", *said))
    assert str(follow_up.context["instruction"]) in follow_up.turns[0].text


def about(persona: str, kind: str = "instruction", **options) -> tuple[Personas, Request]:
    """Return the request for a task of this person."""
    made, request = asked(kinds=only(kind), **options)
    return made, replace(request, context={**request.context, "persona": persona})


def test_a_task_that_only_repeats_the_person_is_rejected():
    made, request = about(PEOPLE[0])
    filtered = []
    for text in ("A baker in Lyon who pays her rent.", "Tell a baker in Lyon how rent is lowered by asking."):
        received = made.receive(request, answer(f" {text}"), View())
        filtered += RowFilters(FilterOptions(), Pool(())).apply(request, received).candidates
    assert [one.reason for one in filtered] == ["copied_input", ""]


@pytest.mark.parametrize(
    ("kind", "template", "task"),
    [
        ("instruction", "personas/answer", "Add these: 1 2"),
        ("precise", "personas/answer", "Add these: 1 2"),
        ("math", "personas/answer-math", "Add these:\n1\n2"),
        ("code", "personas/answer-code", "Add these:\n1\n2"),
    ],
)
def test_each_kind_is_answered_under_its_template_and_numbers_and_code_keep_their_lines(kind, template, task):
    sampling = {"answer": {"max_tokens": 77, "temperature": 0.3}, "task": {"max_tokens": 55}}
    made, request = asked(kinds=only(kind), **sampling)
    assert request.sampling.max_tokens == 55
    (pending,) = made.receive(request, answer(" Add these:\n1\n2"), View()).candidates
    assert (pending.instruction, pending.is_task) == (task, True)
    assert pending.on_accept.turns[0].template == template
    assert str(pending.on_accept.context["instruction"]).startswith(task)
    assert (pending.on_accept.sampling.max_tokens, pending.on_accept.sampling.temperature) == (77, 0.3)


def test_an_answer_that_repeats_the_task_is_rejected():
    task = "Tell a baker in Lyon how bread is kept fresh."
    made, request = answering("instruction", task)
    received = made.receive(request, answer(f" {task}"), View())
    (filtered,) = RowFilters(FilterOptions(), Pool(())).apply(request, received).candidates
    assert filtered.reason == "copied_demonstration"


@pytest.mark.parametrize(
    ("task", "end"), [("Describe a stone", "."), ("What is a stone?", ""), ("Say \u00abstone\u00bb. Explain:", "")]
)
def test_a_task_without_an_end_gets_one_before_its_constraints(task, end):
    _, follow_up = answering("precise", task, constraints=1)
    (constraint,) = follow_up.context["constraints"]
    assert follow_up.context["instruction"] == f"{task}{end} {constraint['text']}"
    _, follow_up = answering("instruction", task)
    assert follow_up.context["instruction"] == task


def test_an_answer_that_breaks_a_constraint_is_rejected_and_each_constraint_is_counted():
    made, follow_up = answering("precise", constraints=1)
    held = [
        {"name": "no commas", "text": "Do not use any commas.", "verifier": {"kind": "no_commas"}},
        {"name": "lowercase", "text": "Write small.", "verifier": {"kind": "lowercase"}},
    ]
    request = Request(
        "answer", follow_up.turns, follow_up.sampling, {**follow_up.context, "constraints": held}, 7, number=8
    )
    outcomes = {}
    for text in ("it keeps well in a bag", "It keeps well in a bag"):
        received = made.receive(request, answer(text), View())
        assert received.candidates[0].verifier == {"kind": "all", "of": [one["verifier"] for one in held]}
        (filtered,) = RowFilters(FilterOptions(), Pool(())).apply(request, received).candidates
        outcomes[filtered.reason] = tuple(map(str, received.counters))
    assert outcomes == {
        "": (
            "kinds|precise|answer",
            "kinds|precise|all kept",
            "constraints|no commas|kept",
            "constraints|lowercase|kept",
        ),
        "wrong_answer": (
            "kinds|precise|answer",
            "kinds|precise|one broken",
            "constraints|no commas|kept",
            "constraints|lowercase|broken",
        ),
    }


@pytest.mark.parametrize(
    ("last", "result"),
    [
        ("Answer: 42", "42"),
        ("**Final answer:** 42 loaves.", "42 loaves"),
        ("Final Answer: The final answer is $3/4$. I hope it is correct.", "$3/4$. I hope it is correct"),
        ("The answer is 42", "42"),
        ("> Result: [1, 2]", "[1, 2]"),
        ("So there are 42.", None),
        ("Answer:", None),
        ("**Answer:** **", None),
        ("Answer: .", None),
    ],
)
@pytest.mark.parametrize("kind", ["math", "code"])
def test_the_result_is_read_from_the_last_line(kind, last, result):
    made, follow_up = answering(kind)
    received = made.receive(follow_up, answer(f"Answer: 1 is a step.\n{last}\n"), View())
    assert received.candidates[0].columns.get("result") == result
    assert received.candidates[0].verifier is None
    assert (f"kinds|{kind}|result" in tuple(map(str, received.counters))) == (result is not None)


@pytest.mark.parametrize(
    ("text", "finish_reason", "reason"), [("Half", "length", "truncated"), (" ", "stop", "no_output")]
)
def test_a_truncated_or_empty_answer_is_discarded_with_a_reason(text, finish_reason, reason):
    made, follow_up = answering("code")
    received = made.receive(follow_up, answer(text, finish_reason), View())
    assert [discard.reason for discard in received.discards] == [reason]
    assert received.candidates == ()


def test_a_list_of_people_is_continued_and_each_new_one_gets_a_task():
    made, request = asked(generate=True, people=2, list_length=6)
    shown = request.context["shown"]
    assert request.turns[0].text.endswith(f"\n1. {shown[0]}\n2. {shown[1]}\n3.")
    assert request.sampling.stop == ("\n7.",)
    other = next(one for one in PEOPLE if one not in shown)
    text = f" A smith in Riga.\n4. {other.upper()}\n5. {shown[0]}\n6. A nurse in Lima who\n\nsings"
    received = made.receive(request, answer(text), View())
    assert [(candidate.instruction, candidate.kind) for candidate in received.candidates] == [
        (name, "pending_task") for name in ("A smith in Riga.", other.upper(), shown[0], "A nurse in Lima who")
    ]
    filtered = RowFilters(FilterOptions(), Pool(())).apply(request, received)
    copied = "copied_demonstration"
    assert [candidate.reason for candidate in filtered.candidates] == ["", copied, copied, ""]
    first, last = received.candidates[0].on_accept, received.candidates[3].on_accept
    assert (first.stage, first.parent, first.context["persona"]) == ("task", 7, "A smith in Riga.")
    assert made.receive(request, answer(text), View()) == received
    ways = {
        (candidate.on_accept.context["kind"], str(candidate.on_accept.context["shown"]))
        for name in range(9)
        for candidate in made.receive(asked(generate=True, name=name)[1], answer(text), View()).candidates
    }
    assert len(ways) > 9, "each has a draw of its own"
    assert last.context["persona"] == "A nurse in Lima who"


def test_a_persona_that_resembles_a_shown_one_is_rejected_and_personas_are_not_tasks():
    made, request = asked(generate=True, people=4, list_length=6, continued={"max_tokens": 66})
    assert request.sampling.max_tokens == 66
    received = made.receive(request, answer(" A baker in Lyon who pays little rent.\n6. A smith in Riga."), View())
    pool = Pool(())
    judge = RowFilters(FilterOptions(), pool)
    filtered = judge.apply(request, received).candidates
    assert [one.reason for one in filtered] == ["copied_demonstration", ""]
    assert [one.candidate.is_task for one in filtered] == [False, False]
    assert pool.tasks == []
    assert [other.instruction for other in pool.others] == ["A smith in Riga."]
    again = judge.apply(request.numbered(8, 1), made.receive(request, answer(" A smith in old Riga."), View()))
    assert [candidate.reason for candidate in again.candidates] == ["similar"]


@given(st.text(max_size=200), st.sampled_from(["stop", "length"]), st.booleans())
def test_any_text_is_accepted(text, finish_reason, generate):
    made, request = asked(generate=generate)
    made.receive(request, answer(text, finish_reason), View())
    for kind in ("math", "precise"):
        made, follow_up = answering(kind)
        made.receive(follow_up, answer(text, finish_reason), View())


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"constraints": 0}, "constraints must be 1"),
        ({"demonstrations": -1}, "demonstrations must be 0"),
        ({"people": 0}, "people must be 1"),
        ({"people": 15}, "list_length above it"),
        ({"kinds": {"math": -1}}, "must be 0 or more"),
        ({"kinds": only("none")}, "one of them above"),
        ({"kinds": {"poems": 1}}, "unknown key"),
    ],
)
def test_options_out_of_range(options, said):
    with pytest.raises(ConfigError, match=said):
        build(Personas.Options, options)


def test_the_built_in_personas_are_many_and_each_is_one_sentence():
    people = read_personas(builtin_personas()).split("\n")
    assert len(people) == len({one.casefold() for one in people}) >= 100
    assert all(one.endswith(".") and one.count(". ") == 0 and 5 <= len(one.split()) <= 20 for one in people)


def test_personas_are_read_from_text_and_from_jsonl(tmp_path):
    (tmp_path / "a.txt").write_bytes("\ufeffA  baker\tin Lyon.\r\n\n{A judge}\u2028in Oslo\nA baker in Lyon.".encode())
    assert read_personas(tmp_path / "a.txt") == "A baker in Lyon.\n{A judge} in Oslo"
    (tmp_path / "a.jsonl").write_text('{"persona": "A baker\\nin Lyon.", "id": 1}\n\n{"persona": "A judge"}\n')
    assert read_personas(tmp_path / "a.jsonl") == "A baker in Lyon.\nA judge"


@pytest.mark.parametrize(
    ("name", "content", "kind", "said"),
    [
        (
            "a.jsonl",
            b'{"person": "A baker"}\nno\n{"persona": 7}\n{"persona": " "}\n',
            DataError,
            "a.jsonl:4: 'persona'",
        ),
        ("a.jsonl", b"", DataError, "no persona in it"),
        ("a.txt", b" \n", DataError, "no persona in it"),
        ("a.txt", b"A baker\xff", DataError, "not UTF-8 at byte 7"),
        ("b.txt", None, UsageError, "can't read"),
        ("b.jsonl", None, UsageError, "can't read"),
    ],
)
def test_a_wrong_file_of_personas_is_refused(tmp_path, name, content, kind, said):
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(kind, match=said):
        read_personas(tmp_path / name)
