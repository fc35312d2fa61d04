"""Conversations of several rounds (Ding et al. 2023, arXiv:2305.14233, UltraChat; Xu et al. 2023, arXiv:2304.01196,
Baize).

With the style ``roles``, as in UltraChat, the model plays both sides in turn: stage ``user`` writes the user's next
message from the conversation so far, stage ``assistant`` answers it. With ``self-chat``, as in Baize, one completion
holds the rest of a complete transcript: one request for each conversation, and a less natural dialogue.

A conversation begins with a new opening, which stage ``opening`` writes after the example of some seeds, or with a task
of the seed file, in file order. The number of rounds is drawn at the beginning. A conversation ends early when a
participant writes the closing sign (``parse.CLOSING_SIGN``), and is cut back to its last complete round where a message
breaks it.

In a chat the conversation is sent as messages, with the two roles swapped for the user's part; a raw prompt holds it as
a transcript.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import ClassVar, Literal

from selfinstruct.common.codec import Json
from selfinstruct.common.formats import user_text
from selfinstruct.common.rng import Rng
from selfinstruct.filters import Copied
from selfinstruct.parse import (
    collapse,
    is_closing,
    read_dialogue,
    read_list,
    read_message,
    read_numbered_list,
    sounds_like_assistant,
)
from selfinstruct.reasons import RejectReason
from selfinstruct.records import (
    Candidate,
    Completion,
    CounterKey,
    Message,
    PromptMessage,
    Received,
    Request,
    Task,
    Verdict,
)
from selfinstruct.strategies.abilities import BeginsWithTasks, ChoosesFormat, ChoosesTarget, RecoversFailures
from selfinstruct.strategies.base import Strategy, View
from selfinstruct.strategies.shared.contexts import context_json, read_context
from selfinstruct.strategies.shared.demonstrations import is_other_task, needs_no_input, preferred, task_ids
from selfinstruct.strategies.shared.stage import Stage
from selfinstruct.verifiers import verify

__all__ = ["Conversation", "ConversationOptions"]

_SPEAKERS = {"user": "User", "assistant": "Assistant"}
_STOPS = ("\nUser:", "\nAssistant:")
_REPEATED = Copied(tokenizer="words")

_OPENING = Stage(max_tokens=1024, temperature=1.0)
_USER = Stage(max_tokens=256, temperature=1.0)
_ASSISTANT = Stage(max_tokens=1024)
_SELF_CHAT = Stage(max_tokens=4096)

_Role = Literal["user", "assistant"]
_Messages = tuple[Message, ...]
_Verifier = Mapping[str, Json] | None


@dataclass(frozen=True)
class ConversationOptions:
    """Settings of this strategy. The papers give no sampling parameters, so the numbers are this project's own.

    Attributes:
        style: ``roles`` requests each message separately, ``self-chat`` the complete transcript at once.
        openings: ``new`` has the model write them, ``seeds`` takes the tasks of the seed file one after the other.
        min_rounds: A conversation with fewer complete rounds (a user's message and its answer) is rejected.
        max_rounds: Maximum number of rounds; the number for each conversation is drawn between these two.
        demonstrations: Seeds shown in a prompt of ``opening``.
        list_length: Number of the last opening of its list, the demonstrations included.
        domains: Only seeds of these domains are shown there; an empty list shows all.
        opening, user, assistant, self_chat: The stages.
    """

    style: Literal["roles", "self-chat"] = "roles"
    openings: Literal["new", "seeds"] = "new"
    min_rounds: int = 2
    max_rounds: int = 7
    demonstrations: int = 8
    list_length: int = 9  # one new opening: each starts a chain of requests, and chains open at a run's end are lost
    domains: tuple[str, ...] = ()
    opening: Stage = _OPENING
    user: Stage = _USER
    assistant: Stage = _ASSISTANT
    self_chat: Stage = _SELF_CHAT

    def __post_init__(self) -> None:
        if self.min_rounds < 2:
            raise ValueError("min_rounds must be 2 or more; self-instruct and alpaca make single rounds")
        if self.max_rounds < self.min_rounds:
            raise ValueError("max_rounds must be at least min_rounds")
        if self.demonstrations < 1:
            raise ValueError("demonstrations must be 1 or more")
        if self.list_length <= self.demonstrations:
            raise ValueError("list_length must be above the number of demonstrations, which it includes")


@dataclass(frozen=True, slots=True)
class OpeningContext:
    """Context of the stage ``opening``.

    Attributes:
        first: Number of the first new opening of the list.
        rounds: The drawn number of rounds for each new opening.
    """

    first: int
    rounds: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class DialogueContext:
    """Context of the stages ``user`` and ``assistant``.

    Attributes:
        task: Id of the candidate or seed with the opening.
        rounds: The drawn number of rounds.
        messages: Role and text of each message so far, for raw prompts; None in a chat, whose request holds them.
    """

    task: str
    rounds: int
    messages: tuple[tuple[_Role, str], ...] | None = None


@dataclass(frozen=True, slots=True)
class SelfChatContext:
    """Context of the stage ``self-chat``; ``task`` and ``rounds`` as in ``DialogueContext``."""

    task: str
    rounds: int
    opening: str


class Conversation(Strategy, BeginsWithTasks, ChoosesFormat, ChoosesTarget, RecoversFailures):
    """Rows of several rounds."""

    name: ClassVar[str] = "conversation"
    templates: ClassVar[Mapping[str, frozenset[str]]] = {
        "conversation/opening": frozenset({"tasks", "next"}),
        "conversation/first": frozenset({"text"}),
        "conversation/plain": frozenset({"text"}),
        "conversation/user": frozenset(),
        "conversation/transcript": frozenset({"conversation", "speaker"}),
        "conversation/self-chat": frozenset({"opening", "rounds"}),
    }
    Options: ClassVar[type[ConversationOptions]] = ConversationOptions
    options: ConversationOptions

    @property
    def format(self) -> str:
        """Messages, always."""
        return "messages"

    def default_target(self, seeds: Sequence[Task]) -> int | None:
        """Return the number of seeds if each opens one conversation."""
        return len(seeds) if self.options.openings == "seeds" else None

    def propose(self, view: View, rng: Rng) -> Request | None:
        """Request new openings, or the first answer to the next seed; return None if no seed is left."""
        if self.options.openings == "new":
            return self._request_openings(view, rng)
        item = view.progress.next_item
        if item >= len(view.seeds):
            return None
        seed = view.seeds[item]
        text = user_text(seed.instruction, seed.instances[0].input if seed.instances else "")
        return replace(self._begin(text, seed.id, self._draw_rounds(rng), None), item=item)

    def receive(self, request: Request, completion: Completion, view: View) -> Received:
        """Read openings, the next message, or a transcript, depending on the request's stage."""
        if request.stage == "opening":
            return self._receive_openings(request, completion)
        if request.stage == "self-chat":
            return self._receive_transcript(request, completion, _seed_verifier(request, view))
        return self._receive_message(request, completion, _seed_verifier(request, view))

    def recover(self, request: Request, view: View) -> Received:  # noqa: ARG002
        """Offer the conversation up to the failed request: it may have outgrown the model's context."""
        if request.stage in ("opening", "self-chat"):
            return Received()
        dialogue = read_context(DialogueContext, request)
        return self._end(_messages_before(request, dialogue), dialogue, RejectReason.FAILED)

    def _draw_rounds(self, rng: Rng) -> int:
        return self.options.min_rounds + rng.below(self.options.max_rounds - self.options.min_rounds + 1)

    def _request_openings(self, view: View, rng: Rng) -> Request | None:
        options, stage = self.options, self.options.opening
        shown = rng.sample(
            preferred(view.seeds, needs_no_input, is_other_task, self._in_domains), options.demonstrations
        )
        if not shown:
            return None
        first = len(shown) + 1
        rounds = tuple(self._draw_rounds(rng) for _ in range(first, options.list_length + 1))
        lines = [f"{number}. {collapse(task.instruction)}" for number, task in enumerate(shown, 1)]
        return Request(
            stage="opening",
            turns=stage.turns(self.prompts, "conversation/opening", tasks="\n".join(lines), next=str(first)),
            sampling=stage.sampling(f"\n{options.list_length + 1}."),
            context=context_json(OpeningContext(first, rounds)),
            demonstrations=task_ids(shown),
        )

    def _in_domains(self, seed: Task) -> bool:
        return not self.options.domains or seed.domain in self.options.domains

    def _receive_openings(self, request: Request, completion: Completion) -> Received:
        """Read openings; each kept one begins a conversation."""
        context = read_context(OpeningContext, request)
        read = read_list if self.prompts.semantics > 1 else read_numbered_list
        listing = read(
            completion.text,
            first=context.first,
            last=self.options.list_length,
            continued=request.is_raw,
            truncated=completion.truncated,
        )
        openings = []
        # A list that starts again at 1 may have more items than rounds were drawn for.
        for index, (item, rounds) in enumerate(zip(listing.items, context.rounds, strict=False)):
            opening, task = collapse(item.text), request.candidate_id(index)
            first_request = self._begin(opening, task, rounds, request.number)
            openings.append(Candidate(opening, span=item.span, kind="pending_task", on_accept=first_request, id=task))
        return Received(candidates=tuple(openings), discards=listing.discards)

    def _begin(self, opening: str, task: str, rounds: int, parent: int | None) -> Request:
        """Return the request that follows the user's first message."""
        if self.options.style == "roles":
            return self._request_message((Message("user", opening),), DialogueContext(task, rounds), parent)
        stage = self.options.self_chat
        return Request(
            stage="self-chat",
            turns=stage.turns(self.prompts, "conversation/self-chat", opening=opening, rounds=str(rounds)),
            sampling=stage.sampling(),
            context=context_json(SelfChatContext(task, rounds, opening)),
            parent=parent,
        )

    def _request_message(self, messages: _Messages, dialogue: DialogueContext, parent: int | None) -> Request:
        """Request the message after ``messages``."""
        role: _Role = "user" if messages[-1].role == "assistant" else "assistant"
        stage = self.options.user if role == "user" else self.options.assistant
        if stage.is_raw(self.prompts):
            turns = self._transcript(messages, role)
            stored = tuple((message.role, message.content) for message in messages)
        else:
            turns, stored = self._chat(messages, role), None
        return Request(
            stage=role,
            turns=turns,
            sampling=stage.sampling(*_STOPS),
            context=context_json(DialogueContext(dialogue.task, dialogue.rounds, stored)),
            parent=parent,
        )

    def _transcript(self, messages: _Messages, role: _Role) -> tuple[PromptMessage, ...]:
        lines = "\n".join(f"{_SPEAKERS[message.role]}: {message.content}" for message in messages)
        variables = {"conversation": lines, "speaker": _SPEAKERS[role]}
        return (self.prompts.turn("prompt", "conversation/transcript", variables),)

    def _chat(self, messages: _Messages, role: _Role) -> tuple[PromptMessage, ...]:
        """Return one prompt message for each message, so that the ledger stores each once and servers cache them.

        The next speaker is the assistant of the request. Chat templates expect a user's message first, and alternating
        roles: for the user's part the first message asks for the opening, and the other messages read as replies to it.
        """
        if role == "user":
            head = self.prompts.turn("user", "conversation/user", {})
            return head, *(
                self.prompts.turn(_other(message.role), "conversation/plain", {"text": message.content})
                for message in messages
            )
        first, *rest = messages
        return (
            self.prompts.turn("user", "conversation/first", {"text": first.content}),
            *(self.prompts.turn(message.role, "conversation/plain", {"text": message.content}) for message in rest),
        )

    def _receive_message(self, request: Request, completion: Completion, verifier: _Verifier) -> Received:
        """Read the next message of one participant."""
        dialogue = read_context(DialogueContext, request)
        messages = _messages_before(request, dialogue)
        role: _Role = "user" if request.stage == "user" else "assistant"
        span, fault = read_message(completion.text, role)
        text = completion.text[slice(*span)]
        closed_by_assistant = fault == "closed"
        if (role == "user" and is_closing(text)) or (closed_by_assistant and not text):
            return self._end(messages, dialogue, "closed")
        if not closed_by_assistant:
            fault = RejectReason.TRUNCATED if completion.truncated else fault
        if closed_by_assistant or not fault:
            fault = _message_fault(text, role, messages)
        if fault:
            return self._end(messages, dialogue, fault)
        messages = (*messages, Message(role, text))
        if (rejection := _first_answer_rejection(verifier, messages)) is not None:
            return self._end(messages, dialogue, rejection.reason, span, rejection)
        if role == "assistant" and len(messages) >= 2 * dialogue.rounds:
            return self._end(messages, dialogue, "as planned", span)
        if closed_by_assistant:
            return self._end(messages, dialogue, "closed", span)
        return Received(follow_ups=(self._request_message(messages, dialogue, request.number),))

    def _receive_transcript(self, request: Request, completion: Completion, verifier: _Verifier) -> Received:
        """Read the messages of a transcript, up to the first that breaks it."""
        context = read_context(SelfChatContext, request)
        dialogue = read_dialogue(completion.text, context.opening, truncated=completion.truncated)
        messages: _Messages = (Message("user", context.opening),)
        ending, begin, end = dialogue.broken or "finished", 0, 0
        for utterance in dialogue.messages:
            if utterance.role == "user" and is_closing(utterance.text):
                ending = "closed"
                break
            if fault := _message_fault(utterance.text, utterance.role, messages):
                ending = fault
                break
            messages = (*messages, Message(utterance.role, utterance.text))
            if utterance.role == "assistant":
                begin, end = begin if end else utterance.span[0], utterance.span[1]
                if (rejection := _first_answer_rejection(verifier, messages)) is not None:
                    return self._end(messages, context, rejection.reason, utterance.span, rejection)
                if len(messages) >= 2 * context.rounds:
                    ending = "as planned"
                    break
        return self._end(messages, context, ending, (begin, end))

    def _end(
        self,
        messages: _Messages,
        context: DialogueContext | SelfChatContext,
        ending: str,
        span: tuple[int, int] = (0, 0),
        *verdicts: Verdict,
    ) -> Received:
        """Offer a finished conversation as a row, which needs the minimum number of rounds.

        Args:
            ending: Why it ended: ``as planned``, ``closed``, ``finished``, or the reason code of what broke it.
            verdicts: Further verdicts on the row.
        """
        rounds = len(messages) // 2
        complete = messages[: 2 * rounds]
        kept = rounds >= self.options.min_rounds
        reason = RejectReason.TOO_FEW_ROUNDS if ending in ("closed", "finished") else ending
        verdict = Verdict(
            "conversation",
            kept,
            "" if kept else reason,
            score=rounds,
            detail={"ending": ending, "planned": context.rounds},
        )
        row = Candidate(
            instruction=messages[0].content,
            output=complete[-1].content if complete else "",
            span=span,
            task=context.task,
            messages=complete,
            verdicts=(verdict, *verdicts),
        )
        counter = CounterKey("conversations", f"{rounds} {'round' if rounds == 1 else 'rounds'}", ending)
        return Received((row,), counters=(counter,))


def _messages_before(request: Request, dialogue: DialogueContext) -> _Messages:
    """Return the messages before the requested one, from the context or from the request's prompt messages."""
    if dialogue.messages is not None:
        return tuple(Message(role, text) for role, text in dialogue.messages)
    if request.stage == "user":  # the first prompt message asks for the opening, and the roles are swapped
        return tuple(Message(_other(turn.role), turn.variables["text"]) for turn in request.turns[1:])
    return tuple(Message(_same(turn.role), turn.variables["text"]) for turn in request.turns)


def _seed_verifier(request: Request, view: View) -> _Verifier:
    """Return the verifier of the seed that a request begins with; None without a seed or a verifier.

    Only the first request of a conversation has an item: a seed's verifier applies to the first answer alone.
    """
    return None if request.item is None else view.seeds[request.item].verifier


def _first_answer_rejection(verifier: _Verifier, messages: _Messages) -> Verdict | None:
    """Return the verifier's verdict if it rejects the first answer; later answers have no verifier."""
    if verifier is None or len(messages) != 2:
        return None
    verdict = verify(verifier, messages[1].content)
    return None if verdict.kept else verdict


def _same(role: str) -> _Role:
    return "assistant" if role == "assistant" else "user"


def _other(role: str) -> _Role:
    return "user" if role == "assistant" else "assistant"


def _message_fault(text: str, role: _Role, messages: _Messages) -> str:
    """Return the reason code for a message that breaks the conversation; "" if it is acceptable.

    A user may not nearly repeat any earlier message. An assistant may not nearly repeat its own; a user's text that it
    was asked to correct may well come back.
    """
    if role == "user" and sounds_like_assistant(text):
        return RejectReason.ROLE_CONFUSION
    before = [message.content for message in messages if role in ("user", message.role)]
    if any(collapse(text).casefold() == collapse(message.content).casefold() for message in messages):
        return RejectReason.REPEATED
    return "" if _REPEATED.decide(text, shown=before).kept else RejectReason.REPEATED
