"""The alpaca strategy: its requests, and the rows read from answers of both APIs."""

from dataclasses import dataclass
from pathlib import Path

import pytest

from selfinstruct.common.config import build
from selfinstruct.common.rng import Rng
from selfinstruct.errors import ConfigError
from selfinstruct.prompts import Prompts
from selfinstruct.records import Choice, Completion, Instance, Request, Task, Usage
from selfinstruct.strategies import STRATEGIES, Alpaca

TEMPLATES = Path(__file__).parents[2] / "prompts"
SEEDS = tuple(
    Task(f"s{index}", f"Do  thing\n{index}.", (Instance(given, f"Output {index}"),), domain=domain)
    for index, (given, domain) in enumerate((("", "a"), ("An input", "a"), ("", "b"), ("x" * 500, "b"), ("", "c")))
)


@dataclass
class View:
    seeds: tuple[Task, ...] = SEEDS
    tasks: tuple[Task, ...] = ()


def strategy(api="completion", **options):
    return Alpaca(build(Alpaca.Options, options), Prompts.load(Alpaca.templates, api, TEMPLATES))


def answer(text, finish_reason="stop"):
    return Completion((Choice(text, finish_reason),), Usage(), "scripted")


def asked(api="completion", view=None, **options) -> tuple[Alpaca, Request]:
    made = strategy(api, **options)
    request = made.propose(view or View(), Rng("test"))
    assert request is not None
    return made, request.numbered(7, 1)


def test_the_defaults_are_the_published_ones():
    options = Alpaca.Options()
    assert (options.demonstrations, options.list_length) == (3, 20)
    assert (options.tasks.max_tokens, options.tasks.temperature, options.tasks.top_p) == (3072, 1.0, 1.0)


def test_the_prompt_shows_the_drawn_seeds_and_ends_inside_the_next_block():
    _, request = asked()
    text = request.turns[0].text
    names = request.demonstrations
    assert len(set(names)) == 3
    for index, name in enumerate(names, 1):
        seed = next(seed for seed in SEEDS if seed.id == name)
        given = seed.instances[0].input or "<noinput>"
        output = seed.instances[0].output
        assert f"### Task {index}\nInstruction: Do thing {name[1:]}.\nInput: {given}\nOutput: {output}" in text
    assert text.endswith("\n\n### Task 4\nInstruction:")
    assert "list of 20" in text
    assert request.sampling.stop == ("\n### Task 21",)
    assert request.is_raw
    assert request.context["first"] == 4


def test_the_demonstrations_depend_on_the_generator_alone():
    made = strategy()
    first, again, other = (made.propose(View(), Rng(name)) for name in ("a", "a", "b"))
    assert first == again != other


def test_without_seeds_nothing_is_proposed():
    assert strategy().propose(View(seeds=()), Rng("a")) is None
    assert strategy().propose(View(seeds=(Task("s", "Do it.", ()),)), Rng("a")) is None


def test_only_seeds_of_the_chosen_domains_and_lengths_are_shown():
    _, request = asked(domains=["b"], demonstration_chars=100)
    assert request.demonstrations == ("s2",)
    assert request.turns[0].text.endswith("### Task 2\nInstruction:")


def test_a_raw_answer_gives_rows():
    made, request = asked()
    text = (
        " Name a bird.\nInput: <noinput>\nOutput: An owl.\n\n"
        "### Task 5\nInstruction: Name the tree.\nInput: It has acorns.\nOutput: An oak.\n\n"
        "### Task 6\nInstruction: Name a f"
    )
    received = made.receive(request, answer(text, "length"), View())
    assert [(row.instruction, row.input, row.output) for row in received.candidates] == [
        ("Name a bird.", "", "An owl."),
        ("Name the tree.", "It has acorns.", "An oak."),
    ]
    for row in received.candidates:
        assert row.output in text[slice(*row.span)]
        assert row.task is None
        assert row.on_accept is None
        names = request.demonstrations
        assert row.shown_outputs == tuple(f"Output {name[1:]}" for name in names)
    assert [discard.reason for discard in received.discards] == ["truncated"]
    assert received.follow_ups == ()


@pytest.mark.parametrize("marker", ["<noinput>", "N/A", "None", "*(no input)*", "<No Input>"])
def test_a_chat_answer_gives_rows(marker):
    made, request = asked("chat")
    assert request.turns[0].role == "user"
    text = (
        "Sure! Here are the tasks:\n\n```\n"
        f"**Task 4**\n**Instruction:** Name a bird.\n**Input:** {marker}\n**Output:** An owl.\n\n---\n\n"
        "**Task 5**\n**Instruction:** Name the tree.\n**Input:** It has acorns.\n**Output:** An oak.\n```"
    )
    received = made.receive(request, answer(text), View())
    assert [(row.instruction, row.input, row.output) for row in received.candidates] == [
        ("Name a bird.", "", "An owl."),
        ("Name the tree.", "It has acorns.", "An oak."),
    ]
    assert [discard.reason for discard in received.discards] == ["preamble"]


def test_items_beyond_the_list_length_are_discarded():
    made, request = asked(list_length=4)
    text = " a b\nOutput: c\n\n### Task 5\nInstruction: d e\nOutput: f"
    received = made.receive(request, answer(text), View())
    assert [row.output for row in received.candidates] == ["c"]
    assert [discard.reason for discard in received.discards] == ["over_count"]


def test_seed_text_is_never_a_template():
    seeds = (Task("s", "Pay $next or ${tasks} $", (Instance("$count", "$$"),)),)
    _, request = asked(view=View(seeds=seeds))
    assert "Instruction: Pay $next or ${tasks} $\nInput: $count\nOutput: $$\n" in request.turns[0].text


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"list_length": 3}, "list_length must be above"),
        ({"demonstrations": 0}, "demonstrations must be 1"),
        ({"demonstration_chars": -1}, "demonstration_chars must be 0"),
        ({"tasks": {"max_tokens": 0}}, "max_tokens must be at least 1"),
        ({"tasks": {"max_tokens": 9, "top_p": 0}}, "top_p must be above 0"),
        ({"tasks": {"max_tokens": 9, "temperature": 3}}, "temperature must be from 0 to 2"),
        ({"tasks": {"max_tokens": 9, "presence_penalty": 3}}, "penalties must be from -2 to 2"),
        ({"tasks": {"max_tokens": 9, "api": "telnet"}}, "chat"),
    ],
)
def test_options_out_of_range(options, message):
    with pytest.raises(ConfigError, match=message):
        build(Alpaca.Options, options)


def test_strategies_are_registered_under_their_names():
    assert {name: kind.name for name, kind in STRATEGIES.items()} == {name: name for name in STRATEGIES}
    assert {"self-instruct", "alpaca"} < set(STRATEGIES)
