"""The conversation strategy: the requests for both roles, and the endings of a conversation."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from selfinstruct.common.config import build
from selfinstruct.common.rng import Rng
from selfinstruct.common.row_texts import texts_of
from selfinstruct.engine.row_filters import FilterOptions, RowFilters
from selfinstruct.errors import ConfigError
from selfinstruct.ledger.packing import pack, unpack
from selfinstruct.parse import is_closing, read_dialogue, read_message, sounds_like_assistant
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
    """Return the request after an opening that the model wrote and the filters kept."""
    first = made.propose(View(), Rng("x"))
    assert first is not None
    first = first.numbered(3, 1)
    assert (first.stage, first.parent) == ("opening", None)
    number = "" if first.is_raw else f"{first.context['first']}."
    (pending,) = made.receive(first, answer(f"{number} {opening}"), View()).candidates
    assert (pending.kind, pending.instruction, pending.task) == ("pending_task", opening, None)
    assert pending.on_accept is not None
    assert pending.on_accept.parent == 3
    return pending.on_accept


def spoken(made: Conversation, request: Request, *texts: str | Completion) -> tuple[list[Request], Received]:
    """Return the requests that these answers lead to, and the result of the last answer."""
    requests = [request]
    received = Received()
    for index, text in enumerate(texts):
        assert requests[-1].stage == STAGES[index % 2]
        asked = requests[-1].numbered(10 + index, index)
        received = made.receive(asked, text if isinstance(text, Completion) else answer(text), View())
        for follow in received.follow_ups:
            assert follow.parent == 10 + index
            requests.append(follow)
    return requests, received


def row(received: Received) -> Candidate:
    assert received.follow_ups == ()
    (conversation,) = received.candidates
    return conversation


def exchange(candidate: Candidate) -> list[tuple[str, str]]:
    return [(each.role, each.content) for each in candidate.messages]


BOTH = pytest.mark.parametrize("api", ["chat", "completion"])
FOUR = [("user", OPENING), ("assistant", RIVERS), ("user", LAKES), ("assistant", FLOW)]


def test_the_range_of_rounds() -> None:
    options = Conversation.Options()
    assert (options.min_rounds, options.max_rounds, options.style, options.openings) == (2, 7, "roles", "new")


def test_openings_are_requested_with_seed_instructions_that_need_no_input() -> None:
    request = strategy("completion").propose(View(), Rng("x"))
    assert request is not None
    text = request.turns[0].text
    assert {*request.demonstrations} == {"s0", "s2"}  # type: ignore[misc]
    assert "Name a good first book on stars." in text
    assert "Sort these words" not in text
    assert text.endswith("\n3.")
    assert len(request.context["rounds"]) == 7  # type: ignore[arg-type]
    only = strategy("completion", domains=["b"]).propose(View(), Rng("x"))
    assert only is not None
    assert only.demonstrations == ("s2",)
    assert strategy().propose(View(seeds=()), Rng("x")) is None


def test_a_chat_sends_the_conversation_and_swaps_the_roles_for_the_user() -> None:
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
    assert all("messages" not in request.context for request in requests), "the ledger would store each text many times"
    conversation = row(received)
    assert exchange(conversation) == FOUR
    assert (
        conversation.instruction,
        conversation.input,
        conversation.output,
        conversation.task,
        conversation.kind,
    ) == (OPENING, "", FLOW, "3.0", "row")
    assert FLOW[slice(*conversation.span)] == FLOW
    assert tuple(map(str, received.counters)) == ("conversations|2 rounds|as planned",)


def test_a_raw_prompt_is_a_transcript_that_ends_with_the_speaker() -> None:
    made = strategy("completion", min_rounds=2, max_rounds=2)
    requests, received = spoken(made, begun(made), f" {RIVERS}", f" {LAKES}\n", f" {FLOW}")
    texts = [request.turns[0].text for request in requests]
    assert all(request.is_raw for request in requests)
    assert all(request.sampling.stop == ("\nUser:", "\nAssistant:") for request in requests)
    assert texts[0].endswith(f"\n\nUser: {OPENING}\nAssistant:")
    assert texts[1].endswith(f"\n\nUser: {OPENING}\nAssistant: {RIVERS}\nUser:")
    assert texts[2].endswith(f"\nAssistant: {RIVERS}\nUser: {LAKES}\nAssistant:")
    assert exchange(row(received)) == FOUR


@BOTH
def test_a_conversation_is_restored_from_the_ledger(api: str) -> None:
    """A conversation restored from the ledger half-way continues like one that was never stored."""
    made = strategy(api, min_rounds=2, max_rounds=2)
    long = "The sea is old. " * 60
    requests, _ = spoken(made, begun(made), long, LAKES)
    for request in (request.numbered(9, 1) for request in requests):
        value, texts = pack(request)
        again = unpack(value, 9, made.prompts, lambda name, texts=texts: texts[name].decode())
        assert again == request
        assert made.receive(again, answer(FLOW), View()) == made.receive(request, answer(FLOW), View())


@BOTH
@pytest.mark.parametrize("style", ["roles", "self-chat"])
def test_with_openings_of_seeds_each_task_begins_one_conversation(api: str, style: str) -> None:
    made, view = strategy(api, openings="seeds", style=style, min_rounds=2, max_rounds=2), View()
    result = []
    for item in range(len(SEEDS)):
        request = made.propose(view, Rng(item))
        assert request is not None
        assert (request.item, request.context["task"]) == (item, SEEDS[item].id)
        view.progress.take(item)
        result.append(request)
    assert made.propose(view, Rng(9)) is None
    assert "Sort these words.\n\nb a" in result[1].turns[0].text
    if style == "roles":
        requests, received = spoken(made, result[1], RIVERS, LAKES, FLOW)
        assert all(request.item is None for request in requests[1:])
    else:
        received = made.receive(result[1].numbered(4, 1), answer(f"{RIVERS}\nUser: {LAKES}\nAssistant: {FLOW}"), view)
    conversation = row(received)
    assert (conversation.task, conversation.instruction) == ("s1", "Sort these words.\n\nb a")
    pool = Pool(SEEDS)
    assert RowFilters(FilterOptions(), pool).apply(result[1].numbered(4, 1), received).candidates[0].kept, (
        "a seed is not novel, and is accepted"
    )
    assert [(kept.id, kept.candidate.output) for kept in pool.rows] == [("4.0", conversation.output)]


SUM = (
    *SEEDS[:2],
    Task("s2", "What is 17 + 25?", (Instance("", "42"),), verifier={"kind": "number", "value": 42}),
)


def summed(style: str, *texts: str, api: str = "chat", seeds: tuple[Task, ...] = SUM, **options: Any) -> Received:
    """Return the result of a conversation that begins with the last seed."""
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
    for index, text in enumerate(texts, 4):
        received = made.receive(request.numbered(index, 1), answer(text), view)
        if not received.follow_ups:
            assert index == 3 + len(texts)
            return received
        (request,) = received.follow_ups
    raise AssertionError(received)


@BOTH
@pytest.mark.parametrize("style", ["roles", "self-chat"])
def test_the_first_answer_to_a_seed_with_a_verifier_is_checked(api: str, style: str) -> None:
    wrong = ("It is 43.",) if style == "roles" else ("It is 43.", "And twice that?", "86.", "And half?", "21.5")
    received = summed(style, *wrong, api=api)
    conversation = row(received)
    assert [(each.filter, each.kept, each.reason) for each in conversation.verdicts] == [
        ("conversation", False, "wrong_answer"), ("verifier", False, "wrong_answer"),
    ]  # fmt: skip
    assert conversation.verdicts[1].detail["found"] == '"43"'
    assert (exchange(conversation), conversation.output) == (
        [("user", "What is 17 + 25?"), ("assistant", "It is 43.")],
        "It is 43.",
    )
    assert wrong[0][slice(*conversation.span)] == "It is 43."
    assert tuple(map(str, received.counters)) == ("conversations|1 round|wrong_answer",)
    pool = Pool(SUM)
    request = Request("assistant", (), begun(strategy()).sampling).numbered(4, 1)
    (filtered,) = RowFilters(FilterOptions(), pool).apply(request, received).candidates
    assert (filtered.kept, filtered.reason, pool.rows) == (False, "wrong_answer", [])
    right = row(summed(style, "It is 42.", "And twice that?", "It's 86.", api=api))
    assert [each.kept for each in right.verdicts] == [True], "of what came later nothing is known"
    assert right.verifier is None, "its last answer is to another question"
    assert len(right.messages) == 4
    plain = (*SUM[:2], Task("s2", "What is 17 + 25?"))
    assert row(summed(style, "It is 43.", "And twice that?", "86.", api=api, seeds=plain)).verdicts[0].kept


@pytest.mark.parametrize("style", ["roles", "self-chat"])
def test_the_verifier_checks_the_answer_of_the_row(style: str) -> None:
    spec = {"kind": "regex", "pattern": "42", "full": True}
    seeds = (Task("s0", "What is 17 + 25?", verifier=spec),)
    assert len(row(summed(style, " 42 \n", "And twice that?", "84.", seeds=seeds)).verdicts) == 1
    conversation = row(summed(style, "42\n\n[END]", seeds=seeds))
    assert (exchange(conversation)[1], conversation.verdicts[0].reason) == (("assistant", "42"), "too_few_rounds")


def test_a_verifier_does_not_apply_to_an_opening_of_the_model() -> None:
    """A candidate may have the same id as a seed."""
    seeds = (Task("3.0", "What is 17 + 25?", verifier={"kind": "number", "value": 42}),)
    made = strategy(min_rounds=2, max_rounds=2)
    request = begun(made).numbered(10, 0)
    assert request.context["task"] == "3.0"
    assert made.receive(request, answer(RIVERS), View(seeds=seeds)).follow_ups


def test_the_number_of_rounds_is_drawn_from_the_range_at_the_beginning() -> None:
    made = strategy(min_rounds=2, max_rounds=4)
    drawn = {made._request_openings(View(), Rng(n)).context["rounds"][0] for n in range(60)}  # type: ignore[union-attr,index]
    assert drawn == {2, 3, 4}
    fixed = strategy(min_rounds=3, max_rounds=3)
    more = "Is the Dead Sea a lake?"
    _, received = spoken(fixed, begun(fixed), RIVERS, LAKES, FLOW, more, "It is one without an outlet.")
    assert len(row(received).messages) == 6


CLOSINGS = ("[END]", "Thanks. [END]", "[end]", "That helps.\n**[End]**", "[END] Goodbye.")


@BOTH
@pytest.mark.parametrize("closing", CLOSINGS)
def test_the_closing_sign_of_the_user_ends_a_conversation(api: str, closing: str) -> None:
    made = strategy(api, min_rounds=2, max_rounds=7)
    request = begun(made)
    request = Request(request.stage, request.turns, request.sampling, {**request.context, "rounds": 7})
    _, received = spoken(made, request, RIVERS, LAKES, FLOW, closing)
    conversation = row(received)
    assert exchange(conversation) == FOUR
    assert conversation.verdicts[0].kept
    assert conversation.verdicts[0].detail == {"ending": "closed", "planned": 7}
    _, received = spoken(made, request, RIVERS, closing)
    early = row(received)
    assert (early.verdicts[0].kept, early.verdicts[0].reason) == (False, "too_few_rounds")
    assert exchange(early) == FOUR[:2]


@pytest.mark.parametrize("text", ["", "Goodbye!", "Thanks, that is all.", "Write [END] on each page"])
def test_only_the_closing_sign_at_an_end_of_a_line_ends_a_conversation(text: str) -> None:
    assert not is_closing(text)


@pytest.mark.parametrize("text", ["Thanks [END]", "[END] Goodbye.", "Thank you.\n[END]\n"])
def test_the_closing_sign_at_an_end_of_a_line_ends_a_conversation(text: str) -> None:
    assert is_closing(text)


# The closing sign in messages of the assistant

ENDED = ["\n[END]", "\n\n[end]\n", " [END]", "\n**[End]**", "\n[END]\nUser: And ponds?\nAssistant: Them too.",
         "\n[END]\n\nThe conversation is over."]  # fmt: skip


@BOTH
@pytest.mark.parametrize("tail", ENDED)
@pytest.mark.parametrize("reason", ["stop", "length"])
def test_the_closing_sign_of_the_assistant_ends_a_conversation(api: str, tail: str, reason: str) -> None:
    made = strategy(api, min_rounds=2, max_rounds=7)
    request = begun(made)
    request = Request(request.stage, request.turns, request.sampling, {**request.context, "rounds": 7})
    _, received = spoken(made, request, RIVERS, LAKES, answer(f"{FLOW}{tail}", reason))
    conversation = row(received)
    assert (exchange(conversation), conversation.verdicts[0].detail["ending"]) == (FOUR, "closed")
    assert f"{FLOW}{tail}"[slice(*conversation.span)] == FLOW
    made = strategy(api, style="self-chat", min_rounds=2, max_rounds=7)
    request = begun(made)
    request = Request(request.stage, request.turns, request.sampling, {**request.context, "rounds": 7}, None, 5)
    received = made.receive(request, answer(f"{RIVERS}\nUser: {LAKES}\nAssistant: {FLOW}{tail}", reason), View())
    assert (exchange(row(received)), tuple(map(str, received.counters))) == (FOUR, ("conversations|2 rounds|closed",))


@BOTH
def test_a_closing_sign_alone_is_not_an_answer(api: str) -> None:
    made = strategy(api, min_rounds=2, max_rounds=7)
    _, received = spoken(made, begun(made), RIVERS, LAKES, "[END]")
    conversation = row(received)
    assert (exchange(conversation), conversation.verdicts[0].reason, conversation.verdicts[0].detail["ending"]) == (
        FOUR[:2], "too_few_rounds", "closed",
    )  # fmt: skip
    made = strategy(api, style="self-chat", min_rounds=2, max_rounds=2)
    text = f"{RIVERS}\nUser: {LAKES}\nAssistant: [END]"
    received = made.receive(begun(made).numbered(5, 1), answer(text), View())
    assert (exchange(row(received)), tuple(map(str, received.counters))) == (
        FOUR[:2],
        ("conversations|1 round|closed",),
    )


@BOTH
def test_a_closing_sign_in_a_sentence_or_in_code_is_part_of_the_answer(api: str) -> None:
    told = "The program writes [END] last:\n```\ncount\n[END]\n```\nThat is all."
    made = strategy(api, min_rounds=2, max_rounds=2)
    _, received = spoken(made, begun(made), told, LAKES, FLOW)
    assert exchange(row(received))[1] == ("assistant", told)
    made = strategy(api, style="self-chat", min_rounds=2, max_rounds=2)
    text = f"{told}\nUser: {LAKES}\nAssistant: {FLOW}"
    assert exchange(row(made.receive(begun(made).numbered(5, 1), answer(text), View())))[1] == ("assistant", told)


def test_the_last_answer_of_a_dialogue_may_contain_speaker_labels() -> None:
    messages = [{"role": role, "content": text} for role, text in FOUR]
    result = texts_of({"messages": [{"role": "system", "content": "Be brief."}, *messages]})
    assert (result.question, result.prompt, result.answer) == (OPENING, OPENING, FLOW)
    assert result.full_text == "\n".join(text for _, text in FOUR)


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
def test_a_message_that_breaks_a_conversation_cuts_it_back(api: str, text: str | Completion, reason: str) -> None:
    """A break in the user's second message leaves one round, in the third two."""
    made = strategy(api, min_rounds=2, max_rounds=4)
    request = begun(made)
    request = Request(request.stage, request.turns, request.sampling, {**request.context, "rounds": 4})
    _, received = spoken(made, request, RIVERS, text)
    conversation = row(received)
    assert (conversation.verdicts[0].kept, conversation.verdicts[0].reason, conversation.verdicts[0].score) == (
        False,
        reason,
        1,
    )
    assert exchange(conversation) == FOUR[:2]
    _, received = spoken(made, request, RIVERS, LAKES, FLOW, text)
    conversation = row(received)
    assert (conversation.verdicts[0].kept, conversation.verdicts[0].reason) == (True, "")
    assert conversation.verdicts[0].detail["ending"] == reason
    assert exchange(conversation) == FOUR
    assert tuple(map(str, received.counters)) == (f"conversations|2 rounds|{reason}",)


@pytest.mark.parametrize(
    ("text", "reason"),
    [("", "empty"), (RIVERS, "repeated"), (answer(FLOW, "length"), "truncated"), (LAKES, "repeated")],
)
def test_an_answer_that_breaks_a_conversation_removes_its_question(text: str | Completion, reason: str) -> None:
    made = strategy(min_rounds=2, max_rounds=3)
    _, received = spoken(made, begun(made), RIVERS, LAKES, text)
    conversation = row(received)
    assert (conversation.verdicts[0].reason, exchange(conversation)) == (reason, FOUR[:2])


@BOTH
def test_a_failed_request_ends_a_conversation(api: str) -> None:
    made = strategy(api, min_rounds=2, max_rounds=7)
    requests, _ = spoken(made, begun(made), RIVERS, LAKES, FLOW)
    conversation = row(made.recover(requests[-1].numbered(20, 1), View()))
    assert exchange(conversation) == FOUR
    assert conversation.verdicts[0].detail["ending"] == "failed"
    short = row(made.recover(requests[1].numbered(20, 1), View()))
    assert (short.verdicts[0].kept, short.verdicts[0].reason) == (False, "failed")


def test_a_first_answer_that_breaks_a_conversation_leaves_no_output() -> None:
    made = strategy()
    _, received = spoken(made, begun(made), "")
    conversation = row(received)
    assert (conversation.instruction, conversation.output, conversation.messages, conversation.verdicts[0].reason) == (
        OPENING,
        "",
        (),
        "empty",
    )
    assert tuple(map(str, received.counters)) == ("conversations|0 rounds|empty",)


def test_an_assistant_may_return_a_text_that_it_was_asked_to_correct_and_speak_of_itself() -> None:
    text = "Please put this right: the sea are salty and the lakes is fresh and the rivers is cold today"
    right = "Put right, this is it: the sea are salty and the lakes is fresh and the rivers is cold today"
    made = strategy(min_rounds=2, max_rounds=2)
    requests, _ = spoken(made, begun(made, text), f"{right}.", LAKES)
    assert len(requests) == 3
    requests, _ = spoken(made, begun(made), "As an AI, I have never seen it.", LAKES)
    assert len(requests) == 3


@BOTH
def test_the_speakers_label_and_quotation_marks_are_removed(api: str) -> None:
    made = strategy(api, min_rounds=2, max_rounds=2)
    _, received = spoken(made, begun(made), f"Assistant: {RIVERS}", f'**User:** "{LAKES}"', FLOW)
    assert exchange(row(received)) == FOUR


@BOTH
@pytest.mark.parametrize("text", [f'"{FLOW}"', f"**{FLOW}**"])
def test_quotation_marks_and_emphasis_around_an_answer_are_kept(api: str, text: str) -> None:
    made = strategy(api, min_rounds=2, max_rounds=2)
    _, received = spoken(made, begun(made), RIVERS, LAKES, text)
    assert row(received).output == text
    made = strategy(api, style="self-chat", min_rounds=2, max_rounds=2)
    full_text = f"{RIVERS}\nUser: {LAKES}\nAssistant: {text}"
    assert row(made.receive(begun(made).numbered(5, 1), answer(full_text), View())).output == text


# Self-chat


@BOTH
@pytest.mark.parametrize(
    "head", [" ", "Assistant: ", f"User: {OPENING}\nAssistant: ", f"Sure!\n\nHuman: {OPENING}\nAI: "]
)
def test_a_complete_transcript_is_read(api: str, head: str) -> None:
    made = strategy(api, style="self-chat", min_rounds=2, max_rounds=2)
    request = begun(made).numbered(5, 1)
    assert request.stage == "self-chat"
    assert request.turns[0].text.endswith(f"\n\nUser: {OPENING}\nAssistant:")
    assert "about 2 short messages" in request.turns[0].text
    text = f"{head}{RIVERS}\n\nUser: {LAKES}\nAssistant: {FLOW}\nUser: And ponds?\nAssistant: Them too."
    received = made.receive(request, answer(text), View())
    conversation = row(received)
    assert exchange(conversation) == FOUR
    assert text[slice(*conversation.span)] == f"{RIVERS}\n\nUser: {LAKES}\nAssistant: {FLOW}"
    assert tuple(map(str, received.counters)) == ("conversations|2 rounds|as planned",)


@pytest.mark.parametrize("head", ["Sure! Here is the rest:\n\n", "Here is\nthe conversation:\n"])
def test_an_announcement_of_a_transcript_is_not_an_answer(head: str) -> None:
    made = strategy(style="self-chat", min_rounds=2, max_rounds=2)
    request = begun(made).numbered(5, 1)
    rest = f"User: {LAKES}\nAssistant: {FLOW}\nUser: And ponds?\nAssistant: Them too."
    conversation = row(made.receive(request, answer(head + rest), View()))
    assert (conversation.verdicts[0].reason, exchange(conversation)) == ("role_confusion", [])
    for full_text in (f"{head}Assistant: {RIVERS}\n{rest}", f"{head}User: {OPENING}\nAssistant: {RIVERS}\n{rest}"):
        assert exchange(row(made.receive(request, answer(full_text), View()))) == FOUR
    long = f"{RIVERS}\n\nIt goes like this:"
    assert exchange(row(made.receive(request, answer(f"{long}\n{rest}"), View())))[1] == ("assistant", long)


TAILS = [
    ("", 2, "finished"),
    ("\nUser: Thanks! [END]\nAssistant: Goodbye!", 2, "closed"),
    ("\nUser: And ponds?", 2, "finished"),
    ("\nAssistant: And another thing.", 2, "role_confusion"),
    ("\nUser: And ponds?\nUser: And wells?\nAssistant: Well.", 2, "role_confusion"),
    ("\nUser: As an AI, I have no questions.\nAssistant: Fine.", 2, "role_confusion"),
    ("\nUser:\nAssistant: And ponds.", 2, "empty"),
    (f"\nUser: And ponds?\nAssistant: {RIVERS}", 2, "repeated"),
    ("\nUser: And ponds?\nAssistant: Look:\n```\nAssistant: x\n```", 3, "finished"),
]


@pytest.mark.parametrize(("tail", "rounds", "ending"), TAILS)
def test_a_transcript_ends_where_the_speakers_do_not_alternate(tail: str, rounds: int, ending: str) -> None:
    made = strategy(style="self-chat", min_rounds=2, max_rounds=6)
    request = begun(made)
    request = Request(request.stage, request.turns, request.sampling, {**request.context, "rounds": 6}, None, 5)
    text = f"{RIVERS}\nUser: {LAKES}\nAssistant: {FLOW}{tail}"
    received = made.receive(request, answer(text), View())
    assert exchange(row(received))[:4] == FOUR
    assert tuple(map(str, received.counters)) == (f"conversations|{rounds} rounds|{ending}",)


def test_a_truncated_transcript_loses_its_last_message() -> None:
    made = strategy(style="self-chat", min_rounds=2, max_rounds=2)
    request = begun(made).numbered(5, 1)
    received = made.receive(request, answer(f"{RIVERS}\nUser: {LAKES}\nAssistant: {FLOW}", "length"), View())
    assert (row(received).verdicts[0].reason, exchange(row(received))) == ("truncated", FOUR[:2])
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
def test_any_text_is_accepted_and_speakers_always_alternate(which: int, text: str, reason: str) -> None:
    made, request = REQUESTS[which]
    received = made.receive(request, answer(text, reason), View())
    assert len(received.follow_ups) <= 1
    for conversation in received.candidates:
        assert 0 <= conversation.span[0] <= conversation.span[1] <= len(text)
        if conversation.kind == "pending_task":
            continue
        assert [each.role for each in conversation.messages] == ["user", "assistant"] * (
            len(conversation.messages) // 2
        )
        assert all(each.content.strip() for each in conversation.messages)
        if conversation.verdicts[0].kept:
            assert made.options.min_rounds <= len(conversation.messages) // 2 <= made.options.max_rounds
            assert (conversation.instruction, conversation.output) == (
                conversation.messages[0].content,
                conversation.messages[-1].content,
            )
    read_dialogue(text, OPENING, truncated=reason == "length")
    read_message(text, "user")
    sounds_like_assistant(text)


def test_a_message_is_data_and_never_a_template() -> None:
    for api in ("chat", "completion"):
        made = strategy(api, min_rounds=2, max_rounds=2)
        trick = "Pay $speaker or ${text} $ and {x}?"
        requests, received = spoken(made, begun(made, trick), f"{trick} no", "Why $conversation?", FLOW)
        assert all(trick in "".join(turn.text for turn in request.turns) for request in requests)
        assert exchange(row(received))[0] == ("user", trick)


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
