"""The conversation strategy: what it asks of either role, how a conversation ends, and what breaks one."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from selfinstruct.common.config import build
from selfinstruct.common.rng import Rng
from selfinstruct.common.rows import texts_of
from selfinstruct.engine.row_filters import FilterOptions, RowFilters
from selfinstruct.errors import ConfigError
from selfinstruct.ledger.packing import pack, unpack
from selfinstruct.parse import is_closing, is_of_assistant, message, read_dialogue
from selfinstruct.pool import MethodProgress, Pool
from selfinstruct.prompts import Prompts
from selfinstruct.records import Candidate, Choice, Completion, Instance, Received, Request, Task, Usage
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
    progress: MethodProgress = field(default_factory=MethodProgress)


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
    assert (draft.kind, draft.instruction, draft.task) == ("pending_task", opening, None)
    assert draft.on_accept is not None
    assert draft.on_accept.parent == 3
    return draft.on_accept


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
    assert received.counters == ("conversations|2 rounds|as planned",)


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
        view.progress.take(item)
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
    assert RowFilters(FilterOptions(), pool).apply(found[1].numbered(4, 1), received).candidates[0].kept, (
        "no news, but wanted"
    )
    assert [kept.candidate for kept in pool.rows] == [one]


SUM = (
    *SEEDS[:2],
    Task("s2", "What is 17 + 25?", (Instance("", "42"),), verifier={"kind": "number", "value": 42}),
)


def summed(style: str, *texts: str, api: str = "chat", seeds: tuple[Task, ...] = SUM, **options: Any) -> Received:
    """What the run makes of a conversation that begins with the last of the seeds."""
    made = strategy(api, openings="seeds", style=style, **{"min_rounds": 2, "max_rounds": 2, **options})
    view = View(seeds=seeds)
    for item in range(len(seeds) - 1):
        view.progress.take(item)
    request = made.propose(view, Rng(1))
    assert request is not None
    if style == "self-chat":
        labels = ("", *("\nUser: ", "\nAssistant: ") * len(texts))
        text = "".join(f"{label}{text}" for label, text in zip(labels, texts, strict=False))
        return made.receive(request.numbered(4, 1), answer(text), view)
    for place, text in enumerate(texts, 4):
        received = made.receive(request.numbered(place, 1), answer(text), view)
        if not received.follow_ups:
            assert place == 3 + len(texts)
            return received
        (request,) = received.follow_ups
    raise AssertionError(received)


@BOTH
@pytest.mark.parametrize("style", ["roles", "self-chat"])
def test_the_first_answer_to_a_seed_with_a_verifier_is_checked(api: str, style: str) -> None:
    wrong = ("It is 43.",) if style == "roles" else ("It is 43.", "And twice that?", "86.", "And half?", "21.5")
    received = summed(style, *wrong, api=api)
    one = row(received)
    assert [(each.filter, each.kept, each.reason) for each in one.verdicts] == [
        ("conversation", False, "wrong_answer"), ("verifier", False, "wrong_answer"),
    ]  # fmt: skip
    assert one.verdicts[1].detail["found"] == '"43"'
    assert (said(one), one.output) == ([("user", "What is 17 + 25?"), ("assistant", "It is 43.")], "It is 43.")
    assert wrong[0][slice(*one.span)] == "It is 43."
    assert received.counters == ("conversations|1 round|wrong_answer",)
    pool = Pool(SUM)
    request = Request("assistant", (), begun(strategy()).sampling).numbered(4, 1)
    (judged,) = RowFilters(FilterOptions(), pool).apply(request, received).candidates
    assert (judged.kept, judged.reason, pool.rows) == (False, "wrong_answer", [])
    right = row(summed(style, "It is 42.", "And twice that?", "It's 86.", api=api))
    assert [each.kept for each in right.verdicts] == [True], "of what came later nothing is known"
    assert right.verifier is None, "its last answer is to another question"
    assert len(right.messages) == 4
    plain = (*SUM[:2], Task("s2", "What is 17 + 25?"))
    assert row(summed(style, "It is 43.", "And twice that?", "86.", api=api, seeds=plain)).verdicts[0].kept


@pytest.mark.parametrize("style", ["roles", "self-chat"])
def test_what_is_checked_is_the_answer_as_the_row_has_it(style: str) -> None:
    spec = {"kind": "regex", "pattern": "42", "full": True}
    seeds = (Task("s0", "What is 17 + 25?", verifier=spec),)
    assert len(row(summed(style, " 42 \n", "And twice that?", "84.", seeds=seeds)).verdicts) == 1
    one = row(summed(style, "42\n\n[END]", seeds=seeds))
    assert (said(one)[1], one.verdicts[0].reason) == (("assistant", "42"), "too_few_rounds")


def test_an_opening_that_the_model_wrote_is_checked_by_no_seed_s_verifier() -> None:
    """A candidate's id may be a seed's, too."""
    seeds = (Task("3.0", "What is 17 + 25?", verifier={"kind": "number", "value": 42}),)
    made = strategy(min_rounds=2, max_rounds=2)
    request = begun(made).numbered(10, 0)
    assert request.context["task"] == "3.0"
    assert made.receive(request, answer(RIVERS), View(seeds=seeds)).follow_ups


def test_the_rounds_are_drawn_from_the_range_when_it_is_begun() -> None:
    made = strategy(min_rounds=2, max_rounds=4)
    drawn = {made._openings(View(), Rng(n)).context["rounds"][0] for n in range(60)}  # type: ignore[union-attr,index]
    assert drawn == {2, 3, 4}
    fixed = strategy(min_rounds=3, max_rounds=3)
    more = "Is the Dead Sea a lake?"
    _, received = spoken(fixed, begun(fixed), RIVERS, LAKES, FLOW, more, "It is one without an outlet.")
    assert len(row(received).messages) == 6


CLOSINGS = ("[END]", "Thanks, that's all!", "Thank you so much. Have a nice day.", "Goodbye!", "OK great, thanks.",
            "No more questions.", "thanks for the explanation", "[end]", "That helps.\n**[End]**")  # fmt: skip


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
     "Thanks. I'd like to hear about tides, too.", "", "Thanks, I have one more question.",
     "Thanks, that worked. I got an error though: TypeError.", "Thank you! Yes, do that.", "Sure, thanks.",
     "No more pizza recipes, only pasta.", "Take care of the formatting in the table", "That is it, but shorter.",
     "Thank you for the list. Number three confuses me.", "Thanks, that is wrong.", "Thank you note for a teacher",
     "Thanks for that, I will try number 2. Number 3 needs an example.", "Bye-bye birdie, sum it up",
     "That's all wrong.",
     "Have a good recipe for soup", "Thanks for the poem please make it shorter", "Thanks and now add two", "Great.",
     "Thank you. That is not what I asked.", "I understand it, but not the end. Thanks.", "Write [END] on each page",
     "Thanks. I see an error in line 2."],
)  # fmt: skip
def test_thanks_with_a_question_or_a_request_is_no_end(text: str) -> None:
    assert not is_closing(text)


@pytest.mark.parametrize(
    "text",
    ["Thanks!", "No, thanks.", "Yes, that's all. Thank you!", "Thank you for the tips and tricks!", "Got it, thanks!",
     "Thanks for your help! I'll try it tonight.", "Perfect, that\u2019s exactly what I needed. Thanks again!",
     "That makes sense. Thank you for explaining!", "Thank you, you've been very helpful. Goodbye!", "Not now, thanks.",
     "I have no further questions. Thanks and have a good day.", "Great - thanks a lot \U0001f60a", "No more, bye!",
     "Goodbye and thanks for the fish", "Okay, I understand it now. Thank you very much.", "Thanks [END]",
     "[END] Goodbye."],
)  # fmt: skip
def test_thanks_and_good_wishes_alone_are_an_end(text: str) -> None:
    assert is_closing(text)


def test_who_writes_much_has_something_else_to_say() -> None:
    text = "Thank you for all of it".ljust(200, "!")
    assert is_closing(text)
    assert not is_closing(f"{text}!")
    assert not is_closing("Thank you for all that you told me of " + "the sea and the rivers and " * 6 + "the rain.")


def test_an_assistant_s_thanks_are_no_farewell() -> None:
    thanks = "You're right, thanks."
    assert is_closing(thanks)
    made = strategy(min_rounds=2, max_rounds=2)
    _, received = spoken(made, begun(made), RIVERS, LAKES, thanks)
    assert said(row(received)) == [*FOUR[:3], ("assistant", thanks)]
    made = strategy(style="self-chat", min_rounds=2, max_rounds=2)
    text = f"{RIVERS}\nUser: {LAKES}\nAssistant: {thanks}"
    received = made.receive(begun(made).numbered(5, 1), answer(text), View())
    assert said(row(received)) == [*FOUR[:3], ("assistant", thanks)]
    assert received.counters == ("conversations|2 rounds|as planned",)


# The closing sign in what the assistant says

ENDED = ["\n[END]", "\n\n[end]\n", " [END]", "\n**[End]**", "\n[END]\nUser: And ponds?\nAssistant: Them too.",
         "\n[END]\n\nThe conversation is over."]  # fmt: skip


@BOTH
@pytest.mark.parametrize("tail", ENDED)
@pytest.mark.parametrize("reason", ["stop", "length"])
def test_the_sign_ends_it_in_the_assistant_s_words_too(api: str, tail: str, reason: str) -> None:
    made = strategy(api, min_rounds=2, max_rounds=7)
    request = begun(made)
    request = Request(request.stage, request.turns, request.sampling, {**request.context, "rounds": 7})
    _, received = spoken(made, request, RIVERS, LAKES, answer(f"{FLOW}{tail}", reason))
    one = row(received)
    assert (said(one), one.verdicts[0].detail["ending"]) == (FOUR, "closed")
    assert f"{FLOW}{tail}"[slice(*one.span)] == FLOW
    made = strategy(api, style="self-chat", min_rounds=2, max_rounds=7)
    request = begun(made)
    request = Request(request.stage, request.turns, request.sampling, {**request.context, "rounds": 7}, None, 5)
    received = made.receive(request, answer(f"{RIVERS}\nUser: {LAKES}\nAssistant: {FLOW}{tail}", reason), View())
    assert (said(row(received)), received.counters) == (FOUR, ("conversations|2 rounds|closed",))


@BOTH
def test_a_sign_alone_is_no_answer(api: str) -> None:
    made = strategy(api, min_rounds=2, max_rounds=7)
    _, received = spoken(made, begun(made), RIVERS, LAKES, "[END]")
    one = row(received)
    assert (said(one), one.verdicts[0].reason, one.verdicts[0].detail["ending"]) == (
        FOUR[:2], "too_few_rounds", "closed",
    )  # fmt: skip
    made = strategy(api, style="self-chat", min_rounds=2, max_rounds=2)
    text = f"{RIVERS}\nUser: {LAKES}\nAssistant: [END]"
    received = made.receive(begun(made).numbered(5, 1), answer(text), View())
    assert (said(row(received)), received.counters) == (FOUR[:2], ("conversations|1 round|closed",))


@BOTH
def test_a_sign_in_a_sentence_or_in_code_is_a_part_of_the_answer(api: str) -> None:
    told = "The program writes [END] last:\n```\ncount\n[END]\n```\nThat is all."
    made = strategy(api, min_rounds=2, max_rounds=2)
    _, received = spoken(made, begun(made), told, LAKES, FLOW)
    assert said(row(received))[1] == ("assistant", told)
    made = strategy(api, style="self-chat", min_rounds=2, max_rounds=2)
    text = f"{told}\nUser: {LAKES}\nAssistant: {FLOW}"
    assert said(row(made.receive(begun(made).numbered(5, 1), answer(text), View())))[1] == ("assistant", told)


def test_the_last_answer_of_a_dialogue_is_what_is_answered() -> None:
    messages = [{"role": role, "content": text} for role, text in FOUR]
    found = texts_of({"messages": [{"role": "system", "content": "Be brief."}, *messages]})
    assert (found.asked, found.prompt, found.answered) == (OPENING, OPENING, FLOW)
    assert found.whole == "\n".join(text for _, text in FOUR)


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
    assert received.counters == (f"conversations|2 rounds|{reason}",)


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
    assert received.counters == ("conversations|0 rounds|empty",)


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


@BOTH
@pytest.mark.parametrize("text", [f'"{FLOW}"', f"**{FLOW}**"])
def test_quotation_marks_and_emphasis_around_an_answer_are_its_own(api: str, text: str) -> None:
    made = strategy(api, min_rounds=2, max_rounds=2)
    _, received = spoken(made, begun(made), RIVERS, LAKES, text)
    assert row(received).output == text
    made = strategy(api, style="self-chat", min_rounds=2, max_rounds=2)
    whole = f"{RIVERS}\nUser: {LAKES}\nAssistant: {text}"
    assert row(made.receive(begun(made).numbered(5, 1), answer(whole), View())).output == text


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
    assert received.counters == ("conversations|2 rounds|as planned",)


@pytest.mark.parametrize("head", ["Sure! Here is the rest:\n\n", "Here is\nthe conversation:\n"])
def test_what_announces_a_transcript_is_no_answer(head: str) -> None:
    made = strategy(style="self-chat", min_rounds=2, max_rounds=2)
    request = begun(made).numbered(5, 1)
    rest = f"User: {LAKES}\nAssistant: {FLOW}\nUser: And ponds?\nAssistant: Them too."
    one = row(made.receive(request, answer(head + rest), View()))
    assert (one.verdicts[0].reason, said(one)) == ("role_confusion", [])
    for whole in (f"{head}Assistant: {RIVERS}\n{rest}", f"{head}User: {OPENING}\nAssistant: {RIVERS}\n{rest}"):
        assert said(row(made.receive(request, answer(whole), View()))) == FOUR
    long = f"{RIVERS}\n\nIt goes like this:"
    assert said(row(made.receive(request, answer(f"{long}\n{rest}"), View())))[1] == ("assistant", long)


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
    assert received.counters == (f"conversations|{rounds} rounds|{ending}",)


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
        if one.kind == "pending_task":
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
