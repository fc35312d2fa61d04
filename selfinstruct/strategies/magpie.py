"""Magpie (Xu et al., 2024, arXiv:2406.08464): what an aligned model takes for a user's words, and its answer to them.

The model reads its chat template as far as the place of the user's words, as a raw prompt, and goes on: it writes a
turn as its users do (stage ``instruction``). The turn is a draft; kept, it is put to the model as a user would
(``answer``). With ``turns`` above 1 the conversation so far and the template's beginning of a user's turn are the next
raw prompt, and so on: one conversation is one row.

Turns are data. One that spells a special token of the template would forge turns in the prompts after it, and in
whatever is trained on it: it is rejected. So is one that ended at the token limit.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, ClassVar, Literal

from selfinstruct.common.chat_template import ChatTemplate
from selfinstruct.common.config import nearest
from selfinstruct.common.rng import Rng
from selfinstruct.errors import ConfigError
from selfinstruct.parse import spoken, stripped
from selfinstruct.prompts import Prompts
from selfinstruct.records import (
    Candidate,
    Completion,
    Discard,
    Message,
    PromptMessage,
    Received,
    Request,
    Role,
    Verdict,
    candidate_id,
)
from selfinstruct.strategies.base import Strategy, View
from selfinstruct.strategies.shared.stage import Stage
from selfinstruct.strategies.shared.template_markers import KNOWN, known, markers, of_template

__all__ = ["Magpie", "MagpieOptions"]

OWN = "own"
_TEXTS = ("pre_query", "post_query", "past_query", "next_query", "system_pre_query", "markers")
_SPELLED = re.compile(r"<[|\uff5c][^\s<>|\uff5c]{1,60}[|\uff5c]>")  # a special token of whatever model

# Sampling of the released code: exp/gen_ins.py for the user's turns, exp/gen_res.py for the answers.
_INSTRUCTION = Stage(max_tokens=512, temperature=1.0, top_p=1.0)
_ANSWER = Stage(max_tokens=4096, temperature=0.0, top_p=1.0)


@dataclass(frozen=True)
class MagpieOptions:
    """What a run may set for this strategy. Defaults are the published ones.

    Attributes:
        turns: Rounds of a conversation, each a user's turn and its answer. Above 1 the dataset holds messages.
        system: A system prompt under which the user's turns are written, to steer what they are about. Answers are
            given without it, as in the released code (exp/gen_mt.py).
        template: The model's chat template: ``own`` for the one in its file (llamacpp) or folder (vllm), or the name of
            a known one.
        pre_query, post_query: Its text before the user's first turn, and between a user's turn and the answer. Found
            when the run begins, unless given.
        past_query: As ``post_query``, before an answer that is given. None: the same.
        next_query: Its text between an answer and the user's next turn.
        system_pre_query: ``pre_query`` with the system prompt in it. None: no system prompt.
        markers: Strings that tell turns apart: they end a turn where the model writes one, and a text that spells one
            is rejected. None: those in the texts above.
        stop: Further strings that end a user's turn. The released code stops at the end of the line.
        instruction: The user's turns; always raw.
        answer: The answers: raw with the texts above, or ``chat``.
    """

    turns: int = 1
    system: str = ""
    template: str = OWN
    pre_query: str | None = None
    post_query: str | None = None
    past_query: str | None = None
    next_query: str | None = None
    system_pre_query: str | None = None
    markers: tuple[str, ...] | None = None
    stop: tuple[str, ...] = ("\n",)
    instruction: Stage = field(default=_INSTRUCTION)
    answer: Stage = field(default=_ANSWER)

    def __post_init__(self) -> None:
        if self.turns < 1:
            raise ValueError("turns must be 1 or more")
        if self.template != OWN and self.template not in KNOWN:
            raise ValueError(f"template must be {OWN!r} or a known one{nearest(self.template, KNOWN)}")
        if (self.pre_query is None) != (self.post_query is None):
            raise ValueError("pre_query and post_query go together")
        if "" in (self.post_query, self.next_query, *(self.markers or ()), *self.stop):
            raise ValueError("post_query, next_query, markers and stop can't be empty texts")
        if self.instruction.api == "chat":
            raise ValueError("instruction.api can't be chat: the model goes on from inside its template")


class Magpie(Strategy):
    """Conversations that the model has with itself.

    Args:
        options: With the texts of the template.
        prompts: The run's templates.

    Raises:
        ConfigError: The texts of the template are not known, or not those that the options ask for.
    """

    name: ClassVar[str] = "magpie"
    templates: ClassVar[Mapping[str, frozenset[str]]] = {
        "magpie/instruction": frozenset({"text"}),
        "magpie/answer": frozenset({"text"}),
    }
    defaults: ClassVar[Mapping[str, Any]] = {
        # Users ask about pictures, files and programs, and at any length that the sampling allows.
        "filters": {"word_count": {"max_words": 500}, "keywords": None, "program": None}
    }
    needs_raw: ClassVar[bool] = True
    Options: ClassVar[type[MagpieOptions]] = MagpieOptions

    @classmethod
    def found(cls, options: Any, template: Callable[[], ChatTemplate | None]) -> Mapping[str, Any]:
        """The texts of the template."""
        if options.pre_query is not None:
            return {}
        if options.template == OWN:
            own = template()
            texts = of_template(own, options.system) if own is not None else None
        else:
            texts = known(options.template, options.system)
        if texts is None:
            return {}
        found = asdict(texts)
        more = found.pop("more")
        read = {"markers": markers(texts.pre_query, texts.post_query, texts.next_query, more)}
        return {name: value for name, value in {**found, **read}.items() if getattr(options, name) is None}

    def __init__(self, options: MagpieOptions, prompts: Prompts) -> None:
        if options.pre_query is None or options.post_query is None:
            raise ConfigError(
                "magpie goes on from inside the model's chat template, and nothing here tells which: name a known "
                f"one, as in --set magpie.template=chatml ({', '.join(KNOWN)}), or give its texts, magpie.pre_query "
                "and magpie.post_query",
                key="magpie.template",
            )
        if options.turns > 1 and options.next_query is None:
            raise ConfigError(
                "what stands between an answer and the user's next turn in the model's chat template? Give "
                "magpie.next_query, or leave magpie.turns at 1",
                key="magpie.next_query",
            )
        if options.system and options.system.strip() not in (options.system_pre_query or ""):
            raise ConfigError(
                "the text before the user's turn does not hold this system prompt: give magpie.system_pre_query too",
                key="magpie.system_pre_query",
            )
        self.options = options
        self.prompts = prompts
        self._pre, self._post, self._next = options.pre_query, options.post_query, options.next_query or ""
        self._past = self._post if options.past_query is None else options.past_query
        self._steered = self._pre if options.system_pre_query is None else options.system_pre_query
        given = options.markers
        self._markers = markers(self._pre, self._post, options.next_query) if given is None else given

    @property
    def format(self) -> str:
        """Messages where a row is more than a question and its answer."""
        return "messages" if self.options.turns > 1 else "alpaca"

    def propose(self, view: View, rng: Rng) -> Request | None:  # noqa: ARG002  (the seed is drawn by the line)
        """Ask for a user's first turn: the same prompt each time, with another seed."""
        return self._ask_user(())

    def receive(self, request: Request, completion: Completion, view: View) -> Received:  # noqa: ARG002
        """Read a user's turn or an answer, the whole text of either; of an answer, what follows its reasoning."""
        answers = request.stage == "answer"
        start, end = spoken(completion.text) if answers and not completion.truncated else stripped(completion.text)
        if start == end:
            return Received(discards=(Discard("empty", (0, len(completion.text))),))
        text, said = completion.text[start:end], _said(request)
        verdict = self._judge(text, truncated=completion.truncated)
        if answers:
            return self._answered(request, text, (start, end), verdict)
        if said and verdict.kept:
            return Received(follow_ups=(self._ask_answer((*said, text), _task(request), request.number),))
        task = candidate_id(request.number, 0)
        draft = Candidate(
            text,
            span=(start, end),
            kind="pending_task",
            task=_task(request) if said else None,
            on_accept=self._ask_answer((text,), task, request.number),
            verdicts=(verdict,),
        )
        return Received((draft,))

    def _answered(self, request: Request, text: str, span: tuple[int, int], verdict: Verdict) -> Received:
        """The last answer makes a row; after one before it the user goes on, if it would do as a row."""
        said, task = (*_said(request), text), _task(request)
        last = len(said) == 2 * self.options.turns
        messages = tuple(Message(_role(place), one) for place, one in enumerate(said))
        return Received(
            (
                Candidate(
                    instruction=said[0],
                    output=text,
                    span=span,
                    task=task,
                    shown=said[:-1],
                    kind="row" if last else "provisional_row",
                    on_accept=None if last else self._ask_user(said, task, request.number),
                    messages=messages if len(said) > 2 else (),
                    verdicts=(verdict,),
                ),
            )
        )

    def fault(self, row: Candidate, text: str) -> str:  # noqa: ARG002  (the contract)
        if spoken(text) != stripped(text):
            return "reasoning"
        return self._judge(text, truncated=False).reason

    def _judge(self, text: str, *, truncated: bool) -> Verdict:
        """Whether a text can be a turn."""
        token = next((one for one in self._markers if one in text), None)
        if token is None and (spelled := _SPELLED.search(text)):
            token = spelled.group()
        if token is not None:
            return Verdict("turn", False, "special_tokens", detail={"token": token})
        return Verdict("turn", not truncated, "truncated" if truncated else "")

    def _ask_user(self, said: Sequence[str], task: str = "", parent: int | None = None) -> Request:
        # Where the template puts a blank before the user's words, the model begins its own word with it.
        text = self._text(self._steered, said).rstrip(" ")
        return Request(
            stage="instruction",
            turns=(self._turn("prompt", "magpie/instruction", text),),
            sampling=self.options.instruction.sampling(*dict.fromkeys([*self._markers, *self.options.stop])),
            context={"said": list(said), "task": task} if said else {},
            parent=parent,
        )

    def _ask_answer(self, said: Sequence[str], task: str, parent: int) -> Request:
        stage = self.options.answer
        if "chat" in (stage.api, self.prompts.api if stage.api == "run" else ""):
            turns = tuple(self._turn(_role(place), "magpie/answer", one) for place, one in enumerate(said))
            sampling = stage.sampling()
        else:
            turns = (self._turn("prompt", "magpie/answer", self._text(self._pre, said)),)
            sampling = stage.sampling(*self._markers)
        return Request("answer", turns, sampling, {"said": list(said), "task": task}, parent)

    def _text(self, beginning: str, said: Sequence[str]) -> str:
        """The conversation as the template writes it, up to where the model is to go on."""
        pieces = [beginning]
        for place, one in enumerate(said, start=1):
            given = place < len(said)
            pieces += [one, self._next if place % 2 == 0 else self._past if given else self._post]
        return "".join(pieces)

    def _turn(self, role: Role, template: str, text: str) -> PromptMessage:
        return self.prompts.turn(role, template, {"text": text})


def _role(place: int) -> Literal["user", "assistant"]:
    """Who speaks at a place of a conversation."""
    return "assistant" if place % 2 else "user"


def _said(request: Request) -> tuple[str, ...]:
    """The turns before the one that was asked for, the user's first."""
    said = request.context.get("said", ())
    assert isinstance(said, Sequence), said
    return tuple(str(one) for one in said)


def _task(request: Request) -> str:
    """Id of the draft that the user's first turn was."""
    return str(request.context["task"])
