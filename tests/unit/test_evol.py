"""Evol-Instruct: the operations, the rules of elimination, and the instruction with which the next epoch begins."""

from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest

from selfinstruct.common.codec import dumps, loads
from selfinstruct.common.config import build
from selfinstruct.common.rng import Rng
from selfinstruct.engine.row_filters import FilterOptions, RowFilters
from selfinstruct.errors import ConfigError
from selfinstruct.pool import MethodProgress, Pool
from selfinstruct.prompts import Prompts
from selfinstruct.records import Candidate, Choice, Completion, Instance, Request, Task, Usage
from selfinstruct.strategies.evol import INPUTS, OPERATIONS, EvolInstruct

TEMPLATES = Path(__file__).parents[2] / "prompts"
SEEDS = (
    Task("s0", "Name three birds that live near the sea."),
    Task("s1", "Say how the word is spelled.", (Instance("colour", "British"), Instance("color", "American"))),
)
DEEPER = "Name three birds that live near the sea, what each eats in winter, and how it raises its young there."
GAIN, SAME = "different", "They are equal."
ANSWER = "Gulls eat fish and raise two or three chicks on cliffs."


@dataclass
class View:
    seeds: tuple[Task, ...] = SEEDS
    tasks: tuple[Task, ...] = ()
    progress: MethodProgress = field(default_factory=MethodProgress)


def strategy(api="chat", **options):
    return EvolInstruct(build(EvolInstruct.Options, options), Prompts.load(EvolInstruct.templates, api, TEMPLATES))


def answer(text, finish_reason="stop"):
    return Completion((Choice(text, finish_reason),), Usage(), "scripted")


def begun(made: EvolInstruct, *operations: str, seed: int = 0) -> Request:
    """Return the first request of a seed whose epochs draw these operations."""
    view = View()
    for item in range(seed):
        view.progress.take(item)
    for attempt in range(100_000):
        request = made.propose(view, Rng("test", attempt))
        assert request is not None
        drawn = [draw[0] for draw in request.context["draws"]]
        if drawn[: len(operations)] == list(operations):
            return request.numbered(0, 1)
    raise AssertionError(operations)


class Run:
    """The requests of one seed: each text is the model's next answer."""

    def __init__(self, made: EvolInstruct, request: Request) -> None:
        self.made, self.request, self.counters = made, request, []
        self.judge = RowFilters(FilterOptions(novelty=None), Pool(SEEDS))

    def says(self, text: str, finish_reason: str = "stop"):
        """Return the filtered candidate of this answer and advance to the follow-up request."""
        received = self.made.receive(self.request, answer(text, finish_reason), View())
        outcome = self.judge.apply(self.request, received)
        filtered = outcome.candidates[0] if outcome.candidates else None
        following = list(received.follow_ups)
        if filtered is not None:
            following.append(filtered.candidate.on_accept if filtered.kept else filtered.candidate.on_reject)
        self.counters += tuple(map(str, received.counters))
        assert len(following) <= 1
        next_ = following[0] if following else None
        assert next_ is None or next_.parent == self.request.number
        self.request = next_ and replace(
            next_.numbered(self.request.number + 1, 1), context=loads(dumps(next_.context))
        )
        return filtered

    def asks_to_evolve(self, text: str) -> bool:
        return self.request.stage == "evolve" and self.request.context["current"][1] == text


def run(*operations: str, **options) -> Run:
    made = strategy(**options)
    return Run(made, begun(made, *operations))


def rejecting(filtered) -> list[tuple[str, str]]:
    return [(verdict.filter, verdict.reason) for verdict in filtered.verdicts if not verdict.kept]


def prompt(operation: str) -> str:
    """Return the instructions of an operation's prompt."""
    request = begun(strategy(epochs=1), operation)
    assert request.turns[0].text.count(SEEDS[0].instruction) == 1
    return request.turns[0].text.split("\n\n")[0]


# --- the six operations ---


def test_add_constraints_asks_for_one_more_constraint():
    assert "one more constraint or requirement" in prompt("add-constraints")


def test_deepen_asks_for_depth_and_breadth():
    assert "more depth and more breadth" in prompt("deepen")


def test_concretise_asks_for_specific_things():
    assert "name more specific ones" in prompt("concretise")


def test_increase_reasoning_asks_for_steps():
    assert "several steps of reasoning" in prompt("increase-reasoning")


def test_complicate_input_asks_for_data_of_a_drawn_kind():
    made = strategy(epochs=1)
    kinds = set()
    for attempt in range(400):
        request = made.propose(View(), Rng(attempt))
        operation, kind, _ = request.context["draws"][0]
        if operation == "complicate-input":
            assert f"the data are {kind}." in request.turns[0].text
            kinds.add(kind)
    assert kinds == set(INPUTS)


def test_breadth_asks_for_a_new_task_of_the_same_domain():
    text = prompt("breadth")
    assert "wholly new one: of the same domain but rarer, about as long" in text
    assert "10 to 20" not in text


def test_the_operations_in_depth_add_ten_to_twenty_words():
    assert all("10 to 20 words" in prompt(operation) for operation in OPERATIONS if operation != "breadth")


def test_operations_are_equally_likely_in_every_epoch():
    made, view = strategy(), View()
    counts = [dict.fromkeys(OPERATIONS, 0) for _ in range(4)]
    for attempt in range(1200):
        for epoch, draw in enumerate(made.propose(view, Rng("draws", attempt)).context["draws"]):
            counts[epoch][draw[0]] += 1
    assert all(150 < count < 250 for epoch in counts for count in epoch.values()), counts


# --- the epochs of a seed ---


def test_the_defaults_are_the_published_ones():
    options = EvolInstruct.Options()
    assert (options.epochs, options.sorry_words) == (4, 80)
    for stage in (options.evolve, options.answer):
        assert (stage.max_tokens, stage.temperature, stage.top_p) == (2048, 1.0, 0.9)


def test_seeds_are_evolved_in_order_with_their_input_until_none_is_left():
    made, view = strategy(), View()
    first = made.propose(view, Rng("a"))
    assert (first.item, first.context["root"]) == (0, "s0")
    view.progress.take(0)
    second = made.propose(view, Rng("a"))
    assert second.context["current"] == ["s1", "Say how the word is spelled.\n\ncolour"]
    view.progress.take(1)
    assert made.propose(view, Rng("a")) is None


def test_an_epoch_evolves_compares_and_answers_and_the_next_continues_from_there():
    way = run("deepen", "breadth")
    pending = way.says(f"**Rewritten task:** {DEEPER}\n")
    assert (pending.candidate.kind, pending.candidate.instruction) == ("pending_task", DEEPER)
    assert way.request.stage == "compare"
    assert f"First task: {SEEDS[0].instruction}\nSecond task: {DEEPER}\n" in way.request.turns[0].text
    assert way.says(GAIN).kept
    assert way.request.stage == "answer"
    assert DEEPER in way.request.turns[0].text
    row = way.says(ANSWER)
    assert (row.kept, row.candidate.kind) == (True, "row")
    assert (row.candidate.instruction, row.candidate.output, row.candidate.task) == (DEEPER, ANSWER, pending.id)
    assert row.candidate.columns == {"epoch": 1, "operation": "deepen", "root": "s0"}
    assert way.asks_to_evolve(DEEPER)
    assert way.request.turns[0].template == "evol-instruct/breadth"
    assert way.request.item is None


@pytest.mark.parametrize(
    "head",
    [
        "Sure! Here's a harder version:\n\n",
        "**Here is the new task:**\nRewritten task: ",
        "Sure!\n\nHere is a task:\n",
        "Sure! Here's a harder version: ",
    ],
)
def test_an_announcement_is_not_part_of_the_instruction(head):
    assert run("deepen").says(f'{head}"{DEEPER}"').candidate.instruction == DEEPER
    for full_text in (f"Here is my question: {DEEPER}", f"Here is my question:\n{DEEPER}"):
        assert run("deepen").says(full_text).candidate.instruction == full_text
    way = run("deepen")
    assert way.says(head.removesuffix("Rewritten task: ")) is None
    assert way.counters == ["evol|epoch 1, deepen|no_instruction"]


def test_nothing_follows_the_last_epoch():
    way = run("deepen", epochs=1)
    way.says(DEEPER)
    way.says(GAIN)
    assert way.says(ANSWER).kept
    assert way.request is None
    way = run("deepen", epochs=1)
    way.says("")
    assert way.request is None


def test_a_rejection_by_a_filter_continues_with_the_unevolved_instruction():
    way = run("deepen", "deepen")
    assert rejecting(way.says("Draw an image of three birds that live near the sea, in winter and in spring."))[0] == (
        "keywords",
        "keyword",
    )
    assert way.asks_to_evolve(SEEDS[0].instruction)
    way.says(DEEPER)
    way.says(GAIN)
    assert rejecting(way.says("The three birds are these:")) == [("instances", "colon")]
    assert way.asks_to_evolve(SEEDS[0].instruction)
    assert way.request.context["epoch"] == 3


# --- the four rules of elimination ---


def test_a_judge_that_sees_no_gain_sends_the_instruction_back():
    for reply, reason in ((SAME, "equal"), ("Equal.", "equal"), ("Hm, they rhyme.", "unjudged"), ("", "unjudged")):
        way = run("deepen", "breadth")
        way.says(DEEPER)
        assert rejecting(way.says(reply)) == [("evol_judge", reason)]
        assert way.asks_to_evolve(SEEDS[0].instruction)
    for answer_text in ("Different", "**Not equal**", "They are unequal."):
        way = run("deepen")
        way.says(DEEPER)
        assert way.says(answer_text).kept


def test_an_instruction_that_resembles_its_source_is_not_sent_to_the_judge():
    way = run("deepen", "breadth")
    assert rejecting(way.says("name three birds  that live near THE sea.")) == [("evol_similarity", "unchanged")]
    assert way.asks_to_evolve(SEEDS[0].instruction)
    way = run("deepen", similarity=0.9)
    filtered = way.says("Name three birds that live near the open sea.")
    assert rejecting(filtered) == [("evol_similarity", "too_similar")]
    (verdict,) = (verdict for verdict in filtered.verdicts if verdict.filter == "evol_similarity")
    assert verdict.score == pytest.approx(16 / 17)
    assert verdict.nearest == "s0"
    assert way.asks_to_evolve(SEEDS[0].instruction)
    way = run("deepen")
    assert way.says("Name three birds that live near the open sea.").kept  # 0.94, below the default


def test_a_short_response_with_sorry_is_rejected():
    long = "Sorry is a board game. " + "It has many rules that players argue about. " * 10
    for reply, kept in (("I'm sorry, I can't name them all.", False), (long, True), ("A sorrycat is no bird.", True)):
        way = run("deepen", "breadth")
        way.says(DEEPER)
        way.says(GAIN)
        filtered = way.says(reply)
        assert rejecting(filtered) == ([] if kept else [("evol_apology", "sorry")]), reply
        assert way.asks_to_evolve(DEEPER if kept else SEEDS[0].instruction)


def test_a_response_of_punctuation_and_stop_words_is_rejected():
    for answer_text in ("It is what it is!", "...", "", "You're\n- the\n- and"):
        way = run("deepen", "breadth")
        way.says(DEEPER)
        way.says(GAIN)
        assert rejecting(way.says(answer_text))[0] == ("evol_content", "no_content"), answer_text
        assert way.asks_to_evolve(SEEDS[0].instruction)


def test_a_further_answer_has_to_pass_the_rules_of_a_response():
    made, row = strategy(sorry_words=9), Candidate(DEEPER, output=ANSWER)
    assert made.reject_reason(row, ANSWER) == ""
    assert made.reject_reason(row, "I am sorry, that I do not know.") == "sorry"
    assert made.reject_reason(row, "I am sorry, that I do not know it.") == ""
    assert made.reject_reason(row, "... and so!") == "no_content"


def test_an_answer_in_a_chat_may_contain_the_stop_string_of_raw_prompts():
    stops = {}
    for api in ("completion", "chat"):
        way = Run(strategy(api), begun(strategy(api), "deepen"))
        way.says(DEEPER)
        way.says(GAIN)
        stops[api] = (way.request.stage, way.request.sampling.stop)
    assert stops == {"completion": ("answer", ("\n### Task",)), "chat": ("answer", ())}


def test_an_instruction_with_words_of_the_prompt_is_rejected():
    copied = (
        "Of the #Given Prompt# name three more birds, and say where they live.",
        "Name three birds. The rewritten task, with more depth, is about their nests in winter.",
        "Name birds that cost less than ten pounds, fits into an envelope and needs no wrapping.",
    )
    for text in copied:
        way = run("add-constraints", "breadth")
        assert rejecting(way.says(text)) == [("evol_wording", "prompt_words")], text
        assert way.asks_to_evolve(SEEDS[0].instruction)


def test_words_of_the_unevolved_instruction_are_not_copied():
    made = strategy()
    request = begun(made, "deepen")
    given = "Rate the given prompt from 1 to 5."
    request = replace(request, context={**request.context, "current": ["s0", given]})
    way = Run(made, request)
    assert way.says("Rate the given prompt from 1 to 5, for clarity, length, tone and grammar apart, and say why.").kept


def test_truncated_text_is_rejected():
    way = run("deepen", "breadth")
    assert rejecting(way.says(DEEPER, "length")) == [("evol_whole", "truncated")]
    way.says(DEEPER)
    way.says(GAIN, "length")
    assert rejecting(way.says(ANSWER, "length")) == [("evol_whole", "truncated")]


def test_a_failed_request_continues_with_the_unevolved_instruction():
    made = strategy(epochs=2)
    first = begun(made, "deepen", "breadth")
    received = made.recover(first, View())
    assert tuple(map(str, received.counters)) == ("evol|epoch 1, deepen|failed",)
    (again,) = received.follow_ups
    assert (again.stage, again.parent, again.context["current"]) == ("evolve", first.number, first.context["current"])
    assert again.turns[0].template == "evol-instruct/breadth"
    last = again.numbered(9, 1)
    assert made.recover(last, View()).follow_ups == ()


@pytest.mark.parametrize("stage", ["evolve", "compare", "answer"])
def test_after_any_failed_request_the_next_epoch_begins_with_the_current_instruction(stage):
    way = run("deepen", "breadth")
    if stage != "evolve":
        way.says(DEEPER)
    if stage == "answer":
        way.says(GAIN)
    assert way.request.stage == stage
    received = way.made.recover(way.request, View())
    (again,) = received.follow_ups
    assert (again.stage, again.parent, again.turns[0].template) == (
        "evolve",
        way.request.number,
        "evol-instruct/breadth",
    )
    assert again.context["current"] == ["s0", SEEDS[0].instruction]
    assert SEEDS[0].instruction in again.turns[0].text
    assert tuple(map(str, received.counters)) == ("evol|epoch 1, deepen|failed",)


def test_an_answer_that_repeats_the_instruction_is_rejected():
    way = run("deepen", "breadth")
    way.says(DEEPER)
    way.says(GAIN)
    assert rejecting(way.says(DEEPER)) == [("copied", "copied_demonstration")]
    assert way.asks_to_evolve(SEEDS[0].instruction)


def test_the_instruction_in_the_prompt_does_not_count_as_wording_of_the_prompt():
    evolved = "Do this task: name three birds that live near the sea, then say how each builds its nest on cliffs."
    assert run("deepen").says(evolved).kept, "with the word before it they are eight in a row of the prompt"


@pytest.mark.parametrize(
    ("answer_text", "evolved"),
    [
        (f"Sure! Here's a harder version of the task:\n\n{DEEPER}", DEEPER),
        (f"Here is the rewritten task:\n{DEEPER}", DEEPER),
        (f"{DEEPER} Use the table below:\n\n| bird | food |\n|---|---|\n| gull | fish |", None),
    ],
)
def test_an_announcement_of_the_instruction_is_removed_and_an_announcement_of_data_is_kept(answer_text, evolved):
    assert run("deepen").says(answer_text).candidate.instruction == (evolved or answer_text)


# --- requests ---


def test_a_raw_completion_stops_at_the_next_task():
    assert begun(strategy("completion"), "deepen").sampling.stop == ("\nGiven task:",)


def comparing(api="chat", **options) -> Run:
    made = strategy(api, **options)
    way = Run(made, begun(made, "deepen", "breadth"))
    way.says(DEEPER)
    assert way.request.stage == "compare"
    return way


def test_a_judge_is_sampled_greedily_and_may_reason_in_a_chat():
    word = {"api": "chat", "max_tokens": 300}
    for api, options, most in (
        ("chat", {}, 1024),
        ("completion", {}, 16),
        ("completion", {"compare": {"max_tokens": 4}}, 4),
        ("completion", {"compare": word}, 300),
        ("chat", {"compare": {**word, "api": "completion"}}, 16),
    ):
        request = comparing(api, **options).request
        assert request.sampling.max_tokens == most, (api, options)
        assert request.sampling.stop == ("\nFirst task:",)
    assert comparing().request.sampling.temperature == comparing("completion").request.sampling.temperature == 0.0


@pytest.mark.parametrize(
    ("answer_text", "reason"),
    [
        ("<think>they look equal</think> different", ""),
        ("they look equal\n</think>\n\n**Different**", ""),
        ("<think>The second is different.</think>\n\nThey are equal.", "equal"),
        ("<think>They are different, or", "unjudged"),
    ],
)
def test_a_judges_reasoning_is_not_its_decision(answer_text, reason):
    way = comparing()
    filtered = way.says(answer_text)
    assert rejecting(filtered) == ([("evol_judge", reason)] if reason else [])
    start, end = filtered.candidate.span
    assert "think" not in answer_text[start:end]
    assert way.request.stage == ("evolve" if reason else "answer")


# --- counters ---


def test_a_failed_audit_is_not_counted_twice():
    way = run("deepen", "breadth", audit=1.0)
    way.says(SEEDS[0].instruction)
    received = way.made.recover(way.request, View())
    assert tuple(map(str, received.counters)) == ()
    assert received.follow_ups[0].context["current"][1] == SEEDS[0].instruction


def test_the_judge_decides_on_a_share_of_the_instructions_that_the_cheap_test_rejects():
    way = run("deepen", "breadth", audit=1.0)
    filtered = way.says(SEEDS[0].instruction)
    assert rejecting(filtered) == [("evol_similarity", "unchanged")]
    assert (way.request.stage, way.request.context["audited"]) == ("compare", True)
    assert way.says(GAIN) is None
    assert way.counters == ["agreement|cheap test: no gain|judge: gain"]
    assert way.asks_to_evolve(SEEDS[0].instruction)  # regardless of the judge
    way = run("deepen", audit=1.0)
    way.says(DEEPER)
    way.says(SAME)
    assert way.counters == ["agreement|cheap test: gain|judge: no gain"]
    made = strategy(audit=0.25)
    drawn = [draw[2] for n in range(500) for draw in made.propose(View(), Rng(n)).context["draws"]]
    assert 0.2 < sum(drawn) / len(drawn) < 0.3


def test_a_rejection_by_another_rule_is_not_audited():
    way = run("deepen", audit=1.0)
    way.says(SEEDS[0].instruction, "length")
    assert way.request.stage == "evolve"


def test_an_empty_evolution_is_counted():
    way = run("deepen", "breadth")
    assert way.says(" \n ") is None
    assert way.counters == ["evol|epoch 1, deepen|no_instruction"]
    assert way.asks_to_evolve(SEEDS[0].instruction)


@pytest.mark.parametrize(
    "text", ["", "\x00", "**", '"""', "$instruction ${kind} $", "Rewritten task:", "\u0301" * 5000]
)
def test_any_text_is_accepted(text):
    for stage in ("evolve", "compare", "answer"):
        way = run("complicate-input", "complicate-input")
        if stage != "evolve":
            way.says(DEEPER)
        if stage == "answer":
            way.says(GAIN)
        way.says(text)
        assert way.request is not None


def test_an_instruction_is_data_and_never_a_template():
    way = run("complicate-input", "complicate-input")
    evolved = "Pay $kind or ${instruction} $ to the birds named in the table, and say what each of them buys."
    way.says(evolved)
    assert f"Second task: {evolved}\n" in way.request.turns[0].text
    way.says(GAIN)
    way.says(ANSWER)
    assert f"Given task: {evolved}\n" in way.request.turns[0].text


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"epochs": 0}, "epochs must be 1"),
        ({"similarity": 0}, "similarity must be above 0"),
        ({"audit": 1.5}, "audit must be from 0 to 1"),
        ({"sorry_words": -1}, "sorry_words must be 0"),
    ],
)
def test_options_out_of_range(options, message):
    with pytest.raises(ConfigError, match=message):
        build(EvolInstruct.Options, options)
