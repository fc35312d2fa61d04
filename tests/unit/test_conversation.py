"""The conversation strategy: what it asks of either role, how a conversation ends, and what breaks one."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from selfinstruct.config import build
from selfinstruct.errors import ConfigError
from selfinstruct.judge import FilterOptions, Judge
from selfinstruct.ledger.packing import pack, unpack
from selfinstruct.parse import is_closing, is_of_assistant, message, read_dialogue
from selfinstruct.pool import Account, Pool
from selfinstruct.prompts import Prompts
from selfinstruct.records import Candidate, Choice, Completion, Instance, Received, Request, Task, Usage
from selfinstruct.rng import Rng
from selfinstruct.strategies import Conversation

TEMPLATES = Path(__file__).parents[2] / "prompts"
SEEDS = (
    Task("s0", "Tell me about tides.", domain="a"),
    Task("s1", "Sort these words.", (Instance("b a", "a b"),), domain="a"),
    Task("s2", "Name a good first\nbook on stars.", domain="b"),
)
OPENING = "Why is the sea salty?"
RIVERS = "Rivers bring salt from the rocks."
LAKES = "Then why are lakes fresh?"
FLOW = "Most of them flow on to the sea and carry it away."
STAGES = ("assistant", "user")


@dataclass
class View:
    seeds: tuple[Task, ...] = SEEDS
    tasks: tuple[Task, ...] = ()
    account: Account = field(default_factory=Account)


def strategy(api: str = "chat", **options: Any) -> Conversation:
    prompts = Prompts.load(Conversation.templates, api, TEMPLATES)  # type: ignore[arg-type]
    return Conversation(build(Conversation.Options, options), prompts)


def answer(text: str, finish_reason: str = "stop") -> Completion:
    return Completion((Choice(text, finish_reason),), Usage(), "scripted")


def begun(made: Conversation, opening: str = OPENING) -> Request:
    """The request after an opening that the model wrote and the filters kept."""
    first = made.propose(View(), Rng("x"))
    assert first is not None
    first = first.numbered(3, 1)
    assert (first.stage, first.parent) == ("opening", None)
    number = "" if first.is_raw else f"{first.context['first']}."
    (draft,) = made.receive(first, answer(f"{number} {opening}"), View()).candidates
    assert (draft.kind, draft.instruction, draft.task) == ("draft", opening, None)
    assert draft.then is not None
    assert draft.then.parent == 3
    return draft.then


def spoken(made: Conversation, request: Request, *texts: str | Completion) -> tuple[list[Request], Received]:
    """The requests that these answers lead to, and what the last brought."""
    requests = [request]
    received = Received()
    for place, text in enumerate(texts):
        assert requests[-1].stage == STAGES[place % 2]
        asked = requests[-1].numbered(10 + place, place)
        received = made.receive(asked, text if isinstance(text, Completion) else answer(text), View())
        for follow in received.follow_ups:
            assert follow.parent == 10 + place
            requests.append(follow)
    return requests, received


def row(received: Received) -> Candidate:
    assert received.follow_ups == ()
    (one,) = received.candidates
    return one


def said(one: Candidate) -> list[tuple[str, str]]:
    return [(each.role, each.content) for each in one.messages]


BOTH = pytest.mark.parametrize("api", ["chat", "completion"])
FOUR = [("user", OPENING), ("assistant", RIVERS), ("user", LAKES), ("assistant", FLOW)]


def test_the_range_of_rounds() -> None:
    options = Conversation.Options()
    assert (options.min_rounds, options.max_rounds, options.style, options.openings) == (2, 7, "roles", "new")


def test_openings_are_asked_for_by_the_instructions_of_seeds_that_need_no_input() -> None:
    request = strategy("completion").propose(View(), Rng("x"))
    assert request is not None
    text = request.turns[0].text
    assert {*request.context["demonstrations"]} == {"s0", "s2"}  # type: ignore[misc]
    assert "Name a good first book on stars." in text
    assert "Sort these words" not in text
    assert text.endswith("\n3.")
    assert len(request.context["rounds"]) == 7  # type: ignore[arg-type]
    only = strategy("completion", domains=["b"]).propose(View(), Rng("x"))
    assert only is not None
    assert only.context["demonstrations"] == ["s2"]
    assert strategy().propose(View(seeds=()), Rng("x")) is None


def test_in_messages_the_assistant_gets_the_conversation_and_the_user_the_same_with_the_roles_changed_over() -> None:
    made = strategy(min_rounds=2, max_rounds=2)
    requests, received = spoken(made, begun(made), RIVERS, LAKES, FLOW)
    first, user, second = requests
    assert [(turn.role, turn.variables.get("text")) for turn in first.turns] == [("user", OPENING)]
    assert first.turns[0].text.startswith(f"{OPENING}\n\n(")
    assert [(turn.role, turn.variables.get("text")) for turn in user.turns] == [
        ("user", None), ("assistant", OPENING), ("user", RIVERS),
    ]  # fmt: skip
    assert [turn.text for turn in user.turns[1:]] == [OPENING, RIVERS]
    assert [(turn.role, turn.variables["text"]) for turn in second.turns] == FOUR[:3]
    assert all("messages" not in request.context for request in requests), "the ledger would hold each text many times"
    one = row(received)
    assert said(one) == FOUR
    assert (one.instruction, one.input, one.output, one.task, one.kind) == (OPENING, "", FLOW, "3.0", "row")
    assert FLOW[slice(*one.span)] == FLOW
    assert received.marks == ("conversations|2 rounds|as planned",)


def test_in_raw_prompts_it_is_a_transcript_that_ends_with_the_speaker() -> None:
    made = strategy("completion", min_rounds=2, max_rounds=2)
    requests, received = spoken(made, begun(made), f" {RIVERS}", f" {LAKES}\n", f" {FLOW}")
    texts = [request.turns[0].text for request in requests]
    assert all(request.is_raw for request in requests)
    assert all(request.sampling.stop == ("\nUser:", "\nAssistant:") for request in requests)
    assert texts[0].endswith(f"\n\nUser: {OPENING}\nAssistant:")
    assert texts[1].endswith(f"\n\nUser: {OPENING}\nAssistant: {RIVERS}\nUser:")
    assert texts[2].endswith(f"\nAssistant: {RIVERS}\nUser: {LAKES}\nAssistant:")
    assert said(row(received)) == FOUR


@BOTH
def test_the_ledger_gives_back_what_was_said(api: str) -> None:
    """A conversation that was read from the ledger half-way goes on as one that never was in it."""
    made = strategy(api, min_rounds=2, max_rounds=2)
    long = "The sea is old. " * 60
    requests, _ = spoken(made, begun(made), long, LAKES)
    for request in (one.numbered(9, 1) for one in requests):
        value, texts = pack(request)
        again = unpack(value, 9, made.prompts, lambda name, texts=texts: texts[name].decode())
        assert again == request
        assert made.receive(again, answer(FLOW), View()) == made.receive(request, answer(FLOW), View())


@BOTH
@pytest.mark.parametrize("style", ["roles", "self-chat"])
def test_with_openings_of_seeds_each_task_begins_one_conversation(api: str, style: str) -> None:
    made, view = strategy(api, openings="seeds", style=style, min_rounds=2, max_rounds=2), View()
    found = []
    for item in range(len(SEEDS)):
        request = made.propose(view, Rng(item))
        assert request is not None
        assert (request.context["item"], request.context["task"]) == (item, SEEDS[item].id)
        view.account.take(item)
        found.append(request)
    assert made.propose(view, Rng(9)) is None
    assert "Sort these words.\n\nb a" in found[1].turns[0].text
    if style == "roles":
        requests, received = spoken(made, found[1], RIVERS, LAKES, FLOW)
        assert all("item" not in request.context for request in requests[1:])
    else:
        received = made.receive(found[1].numbered(4, 1), answer(f"{RIVERS}\nUser: {LAKES}\nAssistant: {FLOW}"), view)
    one = row(received)
    assert (one.task, one.instruction) == ("s1", "Sort these words.\n\nb a")
    pool = Pool(SEEDS)
    assert Judge(FilterOptions(), pool).judge(found[1].numbered(4, 1), received).candidates[0].kept, (
        "no news, but wanted"
    )
    assert [kept.candidate for kept in pool.rows] == [one]


def test_the_rounds_are_drawn_from_the_range_when_it_is_begun() -> None:
    made = strategy(min_rounds=2, max_rounds=4)
    drawn = {made._openings(View(), Rng(n)).context["rounds"][0] for n in range(60)}  # type: ignore[union-attr,index]
    assert drawn == {2, 3, 4}
    fixed = strategy(min_rounds=3, max_rounds=3)
    more = "Is the Dead Sea a lake?"
    _, received = spoken(fixed, begun(fixed), RIVERS, LAKES, FLOW, more, "It is one without an outlet.")
    assert len(row(received).messages) == 6


CLOSINGS = ("[END]", "Thanks, that's all!", "Thank you so much. Have a nice day.", "Goodbye!", "OK great, thanks.",
            "No more questions.", "thanks for the explanation")  # fmt: skip


@BOTH
@pytest.mark.parametrize("closing", CLOSINGS)
def test_a_user_who_is_done_ends_it(api: str, closing: str) -> None:
    made = strategy(api, min_rounds=2, max_rounds=7)
    request = begun(made)
    request = Request(request.stage, request.turns, request.sampling, {**request.context, "rounds": 7})
    _, received = spoken(made, request, RIVERS, LAKES, FLOW, closing)
    one = row(received)
    assert said(one) == FOUR
    assert one.verdicts[0].kept
    assert one.verdicts[0].detail == {"ending": "closed", "planned": 7}
    _, received = spoken(made, request, RIVERS, closing)
    early = row(received)
    assert (early.verdicts[0].kept, early.verdicts[0].reason) == (False, "too_few_rounds")
    assert said(early) == FOUR[:2]


@pytest.mark.parametrize(
    "text",
    ["Thanks! But why is that?", "Thanks, now write a poem about it.", "Thank you. Please give me an example.",
     "Tell me how sailors say goodbye", "How do I say thanks in French?", "No, I want another one.", "Bye?",
     "Thanks. I'd like to hear about tides, too.", ""],
)  # fmt: skip
def test_thanks_with_a_question_or_a_request_is_no_end(text: str) -> None:
    assert not is_closing(text)


BROKEN = [
    ("", "empty"),
    ("  \n", "empty"),
    ("As an AI, I can't ask anything.", "role_confusion"),
    ("I\u2019m an AI language model.", "role_confusion"),
    ("How can I help you today?", "role_confusion"),
    (f"{LAKES}\nAssistant: Because.", "role_confusion"),
    ("Assistant: Lakes are fresh.", "role_confusion"),
    (OPENING, "repeated"),
    (f"{RIVERS} ", "repeated"),
    ("rivers bring salt from  the rocks.", "repeated"),
    (answer(LAKES, "length"), "truncated"),
]


@BOTH
@pytest.mark.parametrize(("text", "reason"), BROKEN)
def test_a_message_that_breaks_it_cuts_it_back(api: str, text: str | Completion, reason: str) -> None:
    """In the second message of the user it leaves one round, in the third two."""
    made = strategy(api, min_rounds=2, max_rounds=4)
    request = begun(made)
    request = Request(request.stage, request.turns, request.sampling, {**request.context, "rounds": 4})
    _, received = spoken(made, request, RIVERS, text)
    one = row(received)
    assert (one.verdicts[0].kept, one.verdicts[0].reason, one.verdicts[0].score) == (False, reason, 1)
    assert said(one) == FOUR[:2]
    _, received = spoken(made, request, RIVERS, LAKES, FLOW, text)
    one = row(received)
    assert (one.verdicts[0].kept, one.verdicts[0].reason) == (True, "")
    assert one.verdicts[0].detail["ending"] == reason
    assert said(one) == FOUR
    assert received.marks == (f"conversations|2 rounds|{reason}",)


@pytest.mark.parametrize(
    ("text", "reason"),
    [("", "empty"), (RIVERS, "repeated"), (answer(FLOW, "length"), "truncated"), (LAKES, "repeated")],
)
def test_an_answer_that_breaks_it_goes_with_its_question(text: str | Completion, reason: str) -> None:
    made = strategy(min_rounds=2, max_rounds=3)
    _, received = spoken(made, begun(made), RIVERS, LAKES, text)
    one = row(received)
    assert (one.verdicts[0].reason, said(one)) == (reason, FOUR[:2])


@BOTH
def test_a_request_that_fails_for_good_ends_it_where_it_is(api: str) -> None:
    made = strategy(api, min_rounds=2, max_rounds=7)
    requests, _ = spoken(made, begun(made), RIVERS, LAKES, FLOW)
    one = row(made.failed(requests[-1].numbered(20, 1), View()))
    assert said(one) == FOUR
    assert one.verdicts[0].detail["ending"] == "failed"
    short = row(made.failed(requests[1].numbered(20, 1), View()))
    assert (short.verdicts[0].kept, short.verdicts[0].reason) == (False, "failed")


def test_a_first_answer_that_breaks_it_leaves_an_opening_without_an_output() -> None:
    made = strategy()
    _, received = spoken(made, begun(made), "")
    one = row(received)
    assert (one.instruction, one.output, one.messages, one.verdicts[0].reason) == (OPENING, "", (), "empty")
    assert received.marks == ("conversations|0 rounds|empty",)


def test_an_assistant_may_give_back_a_text_that_it_was_to_correct_and_talk_of_itself() -> None:
    text = "Please put this right: the sea are salty and the lakes is fresh and the rivers is cold today"
    right = "Put right, this is it: the sea are salty and the lakes is fresh and the rivers is cold today"
    made = strategy(min_rounds=2, max_rounds=2)
    requests, _ = spoken(made, begun(made, text), f"{right}.", LAKES)
    assert len(requests) == 3
    requests, _ = spoken(made, begun(made), "As an AI, I have never seen it.", LAKES)
    assert len(requests) == 3


@BOTH
def test_the_speaker_s_label_and_quotation_marks_are_no_part_of_a_message(api: str) -> None:
    made = strategy(api, min_rounds=2, max_rounds=2)
    _, received = spoken(made, begun(made), f"Assistant: {RIVERS}", f'**User:** "{LAKES}"', FLOW)
    assert said(row(received)) == FOUR


# Self-chat


@BOTH
@pytest.mark.parametrize(
    "head", [" ", "Assistant: ", f"User: {OPENING}\nAssistant: ", f"Sure!\n\nHuman: {OPENING}\nAI: "]
)
def test_a_transcript_is_read_whole(api: str, head: str) -> None:
    made = strategy(api, style="self-chat", min_rounds=2, max_rounds=2)
    request = begun(made).numbered(5, 1)
    assert request.stage == "self-chat"
    assert request.turns[0].text.endswith(f"\n\nUser: {OPENING}\nAssistant:")
    assert "about 2 short messages" in request.turns[0].text
    text = f"{head}{RIVERS}\n\nUser: {LAKES}\nAssistant: {FLOW}\nUser: And ponds?\nAssistant: Them too."
    received = made.receive(request, answer(text), View())
    one = row(received)
    assert said(one) == FOUR
    assert text[slice(*one.span)] == f"{RIVERS}\n\nUser: {LAKES}\nAssistant: {FLOW}"
    assert received.marks == ("conversations|2 rounds|as planned",)


TAILS = [
    ("", 2, "finished"),
    ("\nUser: Thanks, goodbye!\nAssistant: Goodbye!", 2, "closed"),
    ("\nUser: And ponds?", 2, "finished"),
    ("\nAssistant: And another thing.", 2, "role_confusion"),
    ("\nUser: And ponds?\nUser: And wells?\nAssistant: Well.", 2, "role_confusion"),
    ("\nUser: As an AI, I have no questions.\nAssistant: Fine.", 2, "role_confusion"),
    ("\nUser:\nAssistant: And ponds.", 2, "empty"),
    (f"\nUser: And ponds?\nAssistant: {RIVERS}", 2, "repeated"),
    ("\nUser: And ponds?\nAssistant: Look:\n```\nAssistant: x\n```", 3, "finished"),
]


@pytest.mark.parametrize(("tail", "rounds", "ending"), TAILS)
def test_a_transcript_is_cut_where_it_is_not_in_order(tail: str, rounds: int, ending: str) -> None:
    made = strategy(style="self-chat", min_rounds=2, max_rounds=6)
    request = begun(made)
    request = Request(request.stage, request.turns, request.sampling, {**request.context, "rounds": 6}, None, 5)
    text = f"{RIVERS}\nUser: {LAKES}\nAssistant: {FLOW}{tail}"
    received = made.receive(request, answer(text), View())
    assert said(row(received))[:4] == FOUR
    assert received.marks == (f"conversations|{rounds} rounds|{ending}",)


def test_a_transcript_cut_short_loses_its_last_message() -> None:
    made = strategy(style="self-chat", min_rounds=2, max_rounds=2)
    request = begun(made).numbered(5, 1)
    received = made.receive(request, answer(f"{RIVERS}\nUser: {LAKES}\nAssistant: {FLOW}", "length"), View())
    assert (row(received).verdicts[0].reason, said(row(received))) == ("truncated", FOUR[:2])
    assert row(made.receive(request, answer(RIVERS, "length"), View())).verdicts[0].reason == "truncated"


PIECES = st.sampled_from(
    ["User:", "Assistant:", "\n", "\nUser: ", "\nAssistant: ", "**AI:** ", "Human:", '"', "```", "[END]", "thanks", "?",
     "$text", "${x}", "{x}", " ", OPENING, RIVERS, "\x00", "\u2028", "漢", "1. ", "4. x\n", "---", "As an AI"],
)  # fmt: skip
TEXTS = st.lists(PIECES, max_size=20).map("".join) | st.text(st.characters(exclude_categories=("Cs",)))
REQUESTS = [
    (made, request.numbered(7, 1))
    for api in ("chat", "completion")
    for made in (strategy(api), strategy(api, style="self-chat"))
    for request in (made.propose(View(), Rng(0)), begun(made), *spoken(made, begun(made), *(
        (RIVERS, LAKES) if made.options.style == "roles" else ()))[0])
    if request is not None
]  # fmt: skip


@settings(deadline=None, max_examples=300)
@given(st.sampled_from(range(len(REQUESTS))), TEXTS, st.sampled_from(["stop", "length"]))
def test_any_text_is_read_and_a_conversation_is_always_in_turns(which: int, text: str, reason: str) -> None:
    made, request = REQUESTS[which]
    received = made.receive(request, answer(text, reason), View())
    assert len(received.follow_ups) <= 1
    for one in received.candidates:
        assert 0 <= one.span[0] <= one.span[1] <= len(text)
        if one.kind == "draft":
            continue
        assert [each.role for each in one.messages] == ["user", "assistant"] * (len(one.messages) // 2)
        assert all(each.content.strip() for each in one.messages)
        if one.verdicts[0].kept:
            assert made.options.min_rounds <= len(one.messages) // 2 <= made.options.max_rounds
            assert (one.instruction, one.output) == (one.messages[0].content, one.messages[-1].content)
    read_dialogue(text, OPENING, truncated=reason == "length")
    message(text, "user")
    is_of_assistant(text)


def test_what_is_said_is_never_a_template() -> None:
    for api in ("chat", "completion"):
        made = strategy(api, min_rounds=2, max_rounds=2)
        trick = "Pay $speaker or ${text} $ and {x}?"
        requests, received = spoken(made, begun(made, trick), f"{trick} no", "Why $conversation?", FLOW)
        assert all(trick in "".join(turn.text for turn in request.turns) for request in requests)
        assert said(row(received))[0] == ("user", trick)


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"min_rounds": 1}, "min_rounds must be 2 or more"),
        ({"max_rounds": 1}, "max_rounds must be at least min_rounds"),
        ({"demonstrations": 0}, "demonstrations must be 1"),
        ({"list_length": 8}, "list_length must be above"),
        ({"style": "monologue"}, "self-chat"),
    ],
)
def test_options_out_of_range(options: dict[str, Any], says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        build(Conversation.Options, options)
