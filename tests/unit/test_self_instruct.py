"""The self-instruct strategy: the 6 + 2 rule, the three stages and the stage ``answer``, in both APIs."""

from dataclasses import dataclass, field
from pathlib import Path

import pytest

from selfinstruct.common.config import build
from selfinstruct.common.rng import Rng
from selfinstruct.errors import ConfigError
from selfinstruct.prompts import Prompts
from selfinstruct.records import Choice, Completion, Instance, Request, Task, Usage
from selfinstruct.strategies import SelfInstruct

TEMPLATES = Path(__file__).parents[2] / "prompts"


def seed(index):
    """Return a seed: every third is a classification task, every second other needs an input; later ones are longer."""
    label = index % 3 == 0
    given = label or index % 2 == 0
    instances = tuple(
        Instance(f"Input {index}.{one}" if given else "", f"Output {index}.{one}")
        for one in range(1, 4 if given else 2)
    )
    name = f"Seed {'x' * index} {index}."
    return Task(f"s{index}", name, instances, label, domain="even" if index % 2 == 0 else "odd")


SEEDS = tuple(seed(index) for index in range(24))


@dataclass
class View:
    seeds: tuple[Task, ...] = SEEDS
    tasks: list[Task] = field(default_factory=list)


def strategy(api="completion", **options):
    return SelfInstruct(build(SelfInstruct.Options, options), Prompts.load(SelfInstruct.templates, api, TEMPLATES))


def answer(text, finish_reason="stop"):
    return Completion((Choice(text, finish_reason),), Usage(), "scripted")


def pending_tasks(made, text, view=None, finish_reason="stop"):
    """Return what the strategy reads in this answer to its first request, number 7."""
    request = made.propose(view or View(), Rng("test")).numbered(7, 1)
    return made.receive(request, answer(text, finish_reason), view or View())


def follow(made, request: Request, text, number=8, view=None):
    return made.receive(request.numbered(number, 1), answer(text), view or View())


def instances(made, label: str, view=None) -> Request:
    """Return the request for the instances of one task, after this answer of the stage ``classify``."""
    pending = pending_tasks(made, "9. Name a bird.", view).candidates[0]
    (request,) = follow(made, pending.on_accept, label, view=view).follow_ups
    return request


class TestInstructions:
    def test_the_defaults_are_the_published_ones(self):
        options = SelfInstruct.Options()
        assert (options.human_demonstrations, options.machine_demonstrations, options.instances) == (6, 2, 5)
        assert (options.classify_yes, options.classify_no) == (12, 19)
        assert (options.instructions.temperature, options.instructions.top_p) == (0.7, 0.5)
        assert (options.instructions.presence_penalty, options.instructions.max_tokens) == (2.0, 1024)

    @pytest.mark.parametrize(("machine", "human", "shown"), [(0, 8, 0), (1, 7, 1), (2, 6, 2), (50, 6, 2)])
    def test_a_prompt_shows_six_human_and_up_to_two_machine_tasks(self, machine, human, shown):
        made = strategy()
        view = View(tasks=[Task(f"3.{index}", f"Machine {index}.") for index in range(machine)])
        indexes = set()
        for draw in range(200):
            names = made.propose(view, Rng("propose", draw)).demonstrations
            kinds = [name.startswith("s") for name in names]
            assert len(set(names)) == 8
            assert (kinds.count(True), kinds.count(False)) == (human, shown)
            indexes.update(index for index, kind in enumerate(kinds) if not kind)
        assert indexes == (set(range(8)) if shown else set()), "machine tasks appear at any position of the list"

    def test_the_prompt_is_a_list_that_ends_with_the_next_number(self):
        request = strategy().propose(View(tasks=[Task("3.1", "Machine\n task.")]), Rng("test"))
        lines = request.turns[0].text.splitlines()[-9:]
        assert [line.split(" ")[0] for line in lines] == [f"{number}." for number in range(1, 10)]
        assert lines[-1] == "9."
        assert any(line.endswith(". Machine task.") for line in lines)
        assert request.sampling.stop == ("\n16.",)

    def test_fewer_seeds_than_demonstrations_shorten_the_list(self):
        request = strategy().propose(View(seeds=SEEDS[:3]), Rng("test"))
        assert request.context["first"] == 4
        assert request.turns[0].text.endswith("\n4.")

    def test_without_seeds_nothing_is_proposed(self):
        assert strategy().propose(View(seeds=()), Rng("test")) is None

    def test_only_seeds_of_the_domains_are_shown(self):
        names = strategy(domains=["odd"]).propose(View(), Rng("test")).demonstrations
        assert all(int(name[1:]) % 2 for name in names)

    def test_follow_ups_carry_the_id_of_their_candidate(self):
        text = " Name a\tbird.\n10. \n11. Name a tree.\n12. Name a f"
        received = pending_tasks(strategy(), text, finish_reason="length")
        assert [pending.instruction for pending in received.candidates] == ["Name a bird.", "Name a tree."]
        assert [pending.on_accept.context["task"] for pending in received.candidates] == ["7.0", "7.1"]
        assert [pending.on_accept.stage for pending in received.candidates] == ["classify", "classify"]
        assert [pending.on_accept.parent for pending in received.candidates] == [7, 7]
        assert [discard.reason for discard in received.discards] == ["no_instruction", "truncated"]
        assert [pending.output for pending in received.candidates] == ["", ""]

    def test_a_chat_answer_is_read(self):
        received = pending_tasks(
            strategy("chat"), "Sure! Here are more:\n\n**9.** Name a bird.\n**10.** Name a tree.\n\nEnjoy!"
        )
        assert [pending.instruction for pending in received.candidates] == ["Name a bird.", "Name a tree."]
        assert [discard.reason for discard in received.discards] == ["preamble", "trailing"]


class TestClassify:
    def test_the_beginning_of_the_prompt_is_constant(self):
        made = strategy(classify_yes=2, classify_no=3)
        received = pending_tasks(made, " Name a bird.\n10. Name a tree.")
        texts = [pending.on_accept.turns[0].text for pending in received.candidates]
        heads = {text.rpartition("Task: ")[0] for text in texts}
        assert len(heads) == 1
        assert texts[0].endswith("\n\nTask: Name a bird.\nClassification:")
        assert received.candidates[0].on_accept.demonstrations == ("s1", "s0", "s2", "s3", "s4")
        assert [line for line in heads.pop().splitlines() if line.startswith("Classification")] == [
            "Classification: no",
            "Classification: yes",
            "Classification: no",
            "Classification: yes",
            "Classification: no",
        ]

    @pytest.mark.parametrize(
        ("text", "label", "reasons"),
        [
            (" Yes", True, []),
            (" no", False, []),
            ("**Yes**, because the answer is one of two.", True, []),
            ("I am not sure.", False, ["no_answer"]),
            ("", False, ["no_answer"]),
        ],
    )
    def test_the_class_decides_the_order_of_fields(self, text, label, reasons):
        made = strategy()
        received = follow(made, pending_tasks(made, " Name a bird.").candidates[0].on_accept, text)
        (request,) = received.follow_ups
        assert request.context["is_classification"] is label
        assert request.turns[0].template == f"self-instruct/{'output' if label else 'input'}-first"
        assert (request.context["task"], request.parent) == ("7.0", 8)
        assert [discard.reason for discard in received.discards] == reasons
        assert received.candidates == ()

    def test_without_classification_seeds_the_stage_is_skipped(self):
        view = View(seeds=tuple(one for one in SEEDS if not one.is_classification))
        then = pending_tasks(strategy(), " Name a bird.", view).candidates[0].on_accept
        assert (then.stage, then.turns[0].template) == ("instances", "self-instruct/input-first")
        assert (then.context["task"], then.parent) == ("7.0", 7)


class TestInstances:
    def test_the_input_first_prompt_mixes_tasks_with_and_without_input(self):
        request = instances(strategy(input_first_examples=4, example_instances=2), "no")
        text = request.turns[0].text
        assert request.demonstrations == ("s2", "s1", "s4", "s5")
        assert (
            "### Task: Seed xx 2.\nExample 1\nInput: Input 2.1\nOutput: Output 2.1\nExample 2\nInput: Input 2.2" in text
        )
        assert "Input 2.3" not in text
        assert "### Task: Seed x 1.\nOutput: Output 1.1\n" in text
        assert text.endswith("\n\n### Task: Name a bird.")
        assert request.sampling.stop == ("\n### Task", "\nExample 6\n")

    def test_the_output_first_prompt_shows_classification_tasks_only(self):
        request = instances(strategy(output_first_examples=2), "yes")
        assert request.demonstrations == ("s0", "s3")
        assert "### Task: Seed xxx 3.\nExample 1\nLabel: Output 3.1\nInput: Input 3.1\n" in request.turns[0].text

    def test_input_first_rows(self):
        made = strategy(input_first_examples=2)
        request = instances(made, "no")
        received = follow(
            made, request, "\nExample 1\nInput: <noinput>\nOutput: An owl.\nExample 2\nInput: red\nOutput: b"
        )
        assert [(row.instruction, row.input, row.output) for row in received.candidates] == [
            ("Name a bird.", "", "An owl."),
            ("Name a bird.", "red", "b"),
        ]
        assert {row.task for row in received.candidates} == {"7.0"}
        assert received.candidates[0].shown_outputs == ("Output 2.1", "Output 2.2", "Output 2.3", "Output 1.1")

    def test_output_first_rows_in_a_chat_answer(self):
        made = strategy("chat", output_first_examples=2)
        text = (
            "Sure!\n\n**Example 1**\n**Label:** bird\n**Input:** an owl\n\n"
            "**Example 2**\n**Label:** tree\n**Input:** an oak"
        )
        received = follow(made, instances(made, "Yes."), text)
        assert [(row.input, row.output) for row in received.candidates] == [("an owl", "bird"), ("an oak", "tree")]
        assert [discard.reason for discard in received.discards] == ["preamble"]

    def test_instances_beyond_the_limit_are_discarded(self):
        made = strategy(instances=2)
        text = "".join(f"\nExample {index}\nInput: in {index}\nOutput: out {index}" for index in range(1, 5))
        received = follow(made, instances(made, "no"), text)
        assert [row.output for row in received.candidates] == ["out 1", "out 2"]
        assert [discard.reason for discard in received.discards] == ["over_count"]

    def test_examples_come_from_the_chosen_domains_if_there_are_any(self):
        made = strategy(domains=["odd"], output_first_examples=9)
        assert instances(made, "yes").demonstrations == ("s3", "s9", "s15", "s21")
        made = strategy(domains=["nowhere"], output_first_examples=2)
        assert instances(made, "yes").demonstrations == ("s0", "s3")


class TestAnswer:
    OPTIONS = {"input_first_examples": 0, "answer": {"api": "chat", "max_tokens": 50}}  # noqa: RUF012  (never modified)

    def test_only_seeds_without_an_input_are_shown(self):
        names = strategy(**self.OPTIONS).propose(View(), Rng("test")).demonstrations
        assert all(not SEEDS[int(name[1:])].instances[0].input for name in names)

    def test_the_task_is_sent_verbatim_in_the_api_of_its_stage(self):
        request = instances(strategy(**self.OPTIONS), "no")
        assert (request.stage, request.turns[0].role, request.sampling.max_tokens) == ("answer", "user", 50)
        assert request.turns[0].text.endswith("\n\nName a bird.")
        assert request.demonstrations == ()

    def test_the_complete_answer_is_the_output(self):
        made = strategy(**self.OPTIONS)
        received = follow(made, instances(made, "no"), "\nAn owl.\nInput: and more\n\nOutput: still more\n")
        (row,) = received.candidates
        assert (row.input, row.output) == ("", "An owl.\nInput: and more\n\nOutput: still more")
        assert (row.task, row.span, row.shown_outputs) == ("7.0", (1, 44), ("Name a bird.",))

    @pytest.mark.parametrize(
        ("text", "why", "reason"), [("An ow", "length", "truncated"), (" \n", "stop", "no_output")]
    )
    def test_a_truncated_or_blank_answer_is_discarded(self, text, why, reason):
        made = strategy(**self.OPTIONS)
        received = made.receive(instances(made, "no").numbered(9, 1), answer(text, why), View())
        assert received.candidates == ()
        assert [discard.reason for discard in received.discards] == [reason]

    def test_classification_tasks_keep_their_form(self):
        assert instances(strategy(**self.OPTIONS), "yes").turns[0].template == "self-instruct/output-first"


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"list_length": 8}, "list_length must be above"),
        ({"human_demonstrations": 0}, "human_demonstrations must be 1"),
        ({"machine_demonstrations": -1}, "machine_demonstrations must be 0"),
        ({"instances": 0}, "instances must be 1"),
        ({"classify": {"max_tokens": 3, "api": "fax"}}, "chat"),
    ],
)
def test_options_out_of_range(options, said):
    with pytest.raises(ConfigError, match=said):
        build(SelfInstruct.Options, options)


def test_a_request_has_the_same_digest_in_every_instance():
    one, other = (pending_tasks(strategy(), " Name a bird.").candidates[0].on_accept.digest for _ in range(2))
    assert one == other
