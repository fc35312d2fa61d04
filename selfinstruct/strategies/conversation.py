"""Conversations of several rounds (Ding et al. 2023, arXiv:2305.14233, UltraChat; Xu et al. 2023, arXiv:2304.01196,
Baize).

With the style ``roles``, as UltraChat does it, the model plays both sides in turns: stage ``user`` writes the user's
next message from the conversation so far, stage ``assistant`` answers it. With ``self-chat``, as Baize does it, one
completion holds the rest of a whole transcript: a request for each conversation, and less like two people.

A conversation begins with a new opening, which stage ``opening`` writes after the model of some seeds, or with a task
of the seed file, each in its turn. How many rounds it is to have is drawn when it is begun. It ends before that where
the user is done (``parse.is_closing``), and is cut back to its last whole round where a message breaks it.

In messages the conversation is sent as what it is, and for the user's part with the two roles changed over; a raw
prompt holds it as a transcript.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal, cast

from selfinstruct.common.codec import Json
from selfinstruct.common.formats import user_text
from selfinstruct.common.rng import Rng
from selfinstruct.filters import Copied
from selfinstruct.parse import collapse, is_closing, is_of_assistant, message, numbered, read_dialogue
from selfinstruct.prompts import Prompts
from selfinstruct.records import (
    Candidate,
    Completion,
    Message,
    PromptMessage,
    Received,
    Request,
    Task,
    Verdict,
    candidate_id,
)
from selfinstruct.strategies.base import Strategy, View
from selfinstruct.strategies.shared.demonstrations import ids, is_alone, is_other, preferred
from selfinstruct.strategies.shared.stage import Stage
from selfinstruct.verifiers import verify

__all__ = ["Conversation", "ConversationOptions"]

_SPEAKERS = {"user": "User", "assistant": "Assistant"}
_STOPS = ("\nUser:", "\nAssistant:")
_REPEATED = Copied()

_OPENING = Stage(max_tokens=1024, temperature=1.0)
_USER = Stage(max_tokens=256, temperature=1.0)
_ASSISTANT = Stage(max_tokens=1024)
_SELF_CHAT = Stage(max_tokens=4096)

_Role = Literal["user", "assistant"]
_Said = tuple[Message, ...]
_Verifier = Mapping[str, Json] | None


@dataclass(frozen=True)
class ConversationOptions:
    """What a run may set for this strategy. The papers give no sampling parameters: the numbers are this project's own.

    Attributes:
        style: ``roles`` asks for each message by itself, ``self-chat`` for the whole transcript at once.
        openings: ``new`` has the model write them, ``seeds`` takes the tasks of the seed file one after the other.
        min_rounds: A conversation of fewer whole rounds (a message of the user and its answer) is rejected.
        max_rounds: Most rounds; how many a conversation is to have is drawn between these two.
        demonstrations: Seeds shown in a prompt of ``opening``.
        list_length: Number of the last opening of its list, the demonstrations included.
        domains: Only seeds of these domains are shown there; none named shows all.
        opening, user, assistant, self_chat: The stages.
    """

    style: Literal["roles", "self-chat"] = "roles"
    openings: Literal["new", "seeds"] = "new"
    min_rounds: int = 2
    max_rounds: int = 7
    demonstrations: int = 8
    list_length: int = 9  # one new: each is a chain of requests, and what is still open when a run ends is lost to it
    domains: tuple[str, ...] = ()
    opening: Stage = _OPENING
    user: Stage = _USER
    assistant: Stage = _ASSISTANT
    self_chat: Stage = _SELF_CHAT

    def __post_init__(self) -> None:
        if self.min_rounds < 2:
            raise ValueError("min_rounds must be 2 or more; of single rounds make self-instruct or alpaca")
        if self.max_rounds < self.min_rounds:
            raise ValueError("max_rounds must be at least min_rounds")
        if self.demonstrations < 1:
            raise ValueError("demonstrations must be 1 or more")
        if self.list_length <= self.demonstrations:
            raise ValueError("list_length must be above the number of demonstrations, which it includes")


@dataclass(frozen=True, slots=True)
class _Plan:
    """What a conversation is and how long it is to be: the part of a request's context that its followers inherit."""

    task: str
    rounds: int

    @classmethod
    def of(cls, request: Request) -> _Plan:
        return cls(str(request.context["task"]), int(str(request.context["rounds"])))

    @property
    def context(self) -> dict[str, Json]:
        return {"task": self.task, "rounds": self.rounds}


class Conversation(Strategy):
    """Rows of several rounds.

    Args:
        options: Numbers of the method.
        prompts: The run's templates.
    """

    name: ClassVar[str] = "conversation"
    templates: ClassVar[Mapping[str, frozenset[str]]] = {
        "conversation/opening": frozenset({"tasks", "next"}),
        "conversation/first": frozenset({"text"}),
        "conversation/plain": frozenset({"text"}),
        "conversation/user": frozenset(),
        "conversation/transcript": frozenset({"conversation", "speaker"}),
        "conversation/self-chat": frozenset({"opening", "rounds"}),
    }
    begins_with_tasks: ClassVar[bool] = True
    Options: ClassVar[type[ConversationOptions]] = ConversationOptions

    def __init__(self, options: ConversationOptions, prompts: Prompts) -> None:
        self.options = options
        self.prompts = prompts

    @property
    def format(self) -> str:
        return "messages"

    def propose(self, view: View, rng: Rng) -> Request | None:
        """Ask for new openings, or for the first answer to the next seed; None without a seed (left)."""
        if self.options.openings == "new":
            return self._openings(view, rng)
        item = view.progress.next_item
        if item >= len(view.seeds):
            return None
        seed = view.seeds[item]
        text = user_text(seed.instruction, seed.instances[0].input if seed.instances else "")
        return self._begin(text, _Plan(seed.id, self._rounds(rng)), None, {"item": item})

    def receive(self, request: Request, completion: Completion, view: View) -> Received:
        """Read openings, the next message, or a transcript, as the request's stage says."""
        if request.stage == "opening":
            return self._drafts(request, completion)
        plan = _Plan.of(request)
        if request.stage == "self-chat":
            return self._transcribed(request, completion, plan, _verifier(request, view))
        return self._said(request, completion, plan, _verifier(request, view))

    def failed(self, request: Request, view: View) -> Received:  # noqa: ARG002
        """The conversation as far as it came: it may have outgrown the model's context."""
        if request.stage in ("opening", "self-chat"):
            return Received()
        return self._ended(_heard(request), _Plan.of(request), "failed")

    def rows(self, seeds: Sequence[Task]) -> int | None:
        return len(seeds) if self.options.openings == "seeds" else None

    def _rounds(self, rng: Rng) -> int:
        return self.options.min_rounds + rng.below(self.options.max_rounds - self.options.min_rounds + 1)

    def _openings(self, view: View, rng: Rng) -> Request | None:
        options, stage = self.options, self.options.opening
        shown = rng.sample(preferred(view.seeds, is_alone, is_other, self._is_known), options.demonstrations)
        if not shown:
            return None
        first = len(shown) + 1
        rounds: list[Json] = [self._rounds(rng) for _ in range(first, options.list_length + 1)]
        lines = [f"{place}. {collapse(task.instruction)}" for place, task in enumerate(shown, 1)]
        return Request(
            stage="opening",
            turns=stage.turns(self.prompts, "conversation/opening", tasks="\n".join(lines), next=str(first)),
            sampling=stage.sampling(f"\n{options.list_length + 1}."),
            context={"demonstrations": ids(shown), "first": first, "rounds": rounds},
        )

    def _is_known(self, seed: Task) -> bool:
        return not self.options.domains or seed.domain in self.options.domains

    def _drafts(self, request: Request, completion: Completion) -> Received:
        """Openings, each with the request that goes on with it."""
        first, rounds = int(str(request.context["first"])), cast("Sequence[int]", request.context["rounds"])
        found = numbered(
            completion.text,
            first=first,
            last=self.options.list_length,
            continued=request.is_raw,
            truncated=completion.truncated,
        )
        drafts = []
        for place, item in enumerate(found.items[: len(rounds)]):  # a list begun again at 1 has room for more
            opening = collapse(item.text)
            plan = _Plan(candidate_id(request.number, place), rounds[place])
            then = self._begin(opening, plan, request.number)
            drafts.append(Candidate(opening, span=item.span, kind="pending_task", on_accept=then))
        return Received(candidates=tuple(drafts), discards=found.discards)

    def _begin(self, opening: str, plan: _Plan, parent: int | None, more: Mapping[str, Json] | None = None) -> Request:
        """The request after the first message of the user."""
        if self.options.style == "roles":
            return self._next((Message("user", opening),), plan, parent, more)
        stage = self.options.self_chat
        return Request(
            stage="self-chat",
            turns=stage.turns(self.prompts, "conversation/self-chat", opening=opening, rounds=str(plan.rounds)),
            sampling=stage.sampling(),
            context={**plan.context, "opening": opening, **(more or {})},
            parent=parent,
        )

    def _next(self, said: _Said, plan: _Plan, parent: int | None, more: Mapping[str, Json] | None = None) -> Request:
        """Ask for the message after what was said."""
        role: _Role = "user" if said[-1].role == "assistant" else "assistant"
        stage = self.options.user if role == "user" else self.options.assistant
        context = {**plan.context, **(more or {})}
        if stage.is_raw(self.prompts):
            turns: tuple[PromptMessage, ...] = self._transcript(said, role)
            context["messages"] = [[one.role, one.content] for one in said]
        else:
            turns = self._messages(said, role)
        return Request(stage=role, turns=turns, sampling=stage.sampling(*_STOPS), context=context, parent=parent)

    def _transcript(self, said: _Said, role: _Role) -> tuple[PromptMessage, ...]:
        lines = "\n".join(f"{_SPEAKERS[one.role]}: {one.content}" for one in said)
        variables = {"conversation": lines, "speaker": _SPEAKERS[role]}
        return (self.prompts.turn("prompt", "conversation/transcript", variables),)

    def _messages(self, said: _Said, role: _Role) -> tuple[PromptMessage, ...]:
        """The messages by themselves, so that the ledger holds each once (see ``_heard``) and servers cache them.

        Whoever is to speak is the assistant of the request. Chat templates want the first message to be a user's, and
        the two in turns: for the user's part the head asks for the opening, and the rest is as if it had been answered.
        """
        if role == "user":
            head = self.prompts.turn("user", "conversation/user", {})
            return head, *(
                self.prompts.turn(_other(one.role), "conversation/plain", {"text": one.content}) for one in said
            )
        first, *rest = said
        return (
            self.prompts.turn("user", "conversation/first", {"text": first.content}),
            *(self.prompts.turn(one.role, "conversation/plain", {"text": one.content}) for one in rest),
        )

    def _said(self, request: Request, completion: Completion, plan: _Plan, verifier: _Verifier) -> Received:
        """The next message of one of the two."""
        said, role = _heard(request), cast("_Role", request.stage)
        span, wrong = message(completion.text, role)
        text = completion.text[slice(*span)]
        closed = wrong == "closed"  # by the assistant
        if (role == "user" and is_closing(text)) or (closed and not text):
            return self._ended(said, plan, "closed")
        wrong = "" if closed else "truncated" if completion.truncated else wrong
        if wrong := wrong or _wrong(text, role, said):
            return self._ended(said, plan, wrong)
        said = (*said, Message(role, text))
        if (failed := _unverified(verifier, said)) is not None:
            return self._ended(said, plan, failed.reason, span, failed)
        if role == "assistant" and len(said) >= 2 * plan.rounds:
            return self._ended(said, plan, "as planned", span)
        if closed:
            return self._ended(said, plan, "closed", span)
        return Received(follow_ups=(self._next(said, plan, request.number),))

    def _transcribed(self, request: Request, completion: Completion, plan: _Plan, verifier: _Verifier) -> Received:
        """All messages of a transcript, up to the first that breaks it."""
        opening = str(request.context["opening"])
        found = read_dialogue(completion.text, opening, truncated=completion.truncated)
        said: _Said = (Message("user", opening),)
        ending, begin, end = found.broken or "finished", 0, 0
        for one in found.messages:
            if one.role == "user" and is_closing(one.text):
                ending = "closed"
                break
            if wrong := _wrong(one.text, one.role, said):
                ending = wrong
                break
            said = (*said, Message(one.role, one.text))
            if one.role == "assistant":
                begin, end = begin if end else one.span[0], one.span[1]
                if (failed := _unverified(verifier, said)) is not None:
                    return self._ended(said, plan, failed.reason, one.span, failed)
                if len(said) >= 2 * plan.rounds:
                    ending = "as planned"
                    break
        return self._ended(said, plan, ending, (begin, end))

    def _ended(self, said: _Said, plan: _Plan, ending: str, span: tuple[int, int] = (0, 0), *more: Verdict) -> Received:
        """A conversation that is over: a row, if it has rounds enough. ``more``: other verdicts on it."""
        rounds = len(said) // 2
        whole = said[: 2 * rounds]
        kept = rounds >= self.options.min_rounds
        broken = ending not in ("closed", "finished")
        verdict = Verdict(
            "conversation",
            kept,
            "" if kept else ending if broken else "too_few_rounds",
            score=rounds,
            detail={"ending": ending, "planned": plan.rounds},
        )
        row = Candidate(
            instruction=said[0].content,
            output=whole[-1].content if whole else "",
            span=span,
            task=plan.task,
            messages=whole,
            verdicts=(verdict, *more),
        )
        return Received((row,), counters=(f"conversations|{rounds} {'round' if rounds == 1 else 'rounds'}|{ending}",))


def _heard(request: Request) -> _Said:
    """What was said before the message that a request asks for: as its context has it, or else its turns."""
    if (told := cast("Sequence[tuple[_Role, str]] | None", request.context.get("messages"))) is not None:
        return tuple(Message(role, text) for role, text in told)
    if request.stage == "user":
        return tuple(Message(_other(turn.role), turn.variables["text"]) for turn in request.turns[1:])
    return tuple(Message(cast("_Role", turn.role), turn.variables["text"]) for turn in request.turns)


def _verifier(request: Request, view: View) -> _Verifier:
    """What code can check the answer to a seed by; None where that isn't what a request asks for, or nothing is known.

    Only the request that begins with a seed names its place among them.
    """
    item = request.context.get("item")
    return view.seeds[item].verifier if isinstance(item, int) else None


def _unverified(verifier: _Verifier, said: _Said) -> Verdict | None:
    """What is wrong with the first answer; of those that came later, nothing is known."""
    if verifier is None or len(said) != 2:
        return None
    verdict = verify(verifier, said[1].content)
    return None if verdict.kept else verdict


def _other(role: str) -> _Role:
    return "user" if role == "assistant" else "assistant"


def _wrong(text: str, role: _Role, said: _Said) -> str:
    """Why a message breaks the conversation, or "".

    A message may not be nearly one that came before: for the assistant one of its own, since a text that it was given
    to correct may well come back.
    """
    if role == "user" and is_of_assistant(text):
        return "role_confusion"
    before = [one.content for one in said if role in ("user", one.role)]
    if any(collapse(text).casefold() == collapse(one.content).casefold() for one in said):
        return "repeated"
    return "" if _REPEATED.decide(text, shown=before).kept else "repeated"
