"""Magpie (Xu et al., 2024, arXiv:2406.08464): instructions that an aligned model writes in the user's place.

The raw prompt is the beginning of the model's chat template, up to where the user's message starts; the model continues
it as its users would (stage ``instruction``). The message is a pending task; if kept, it is sent to the model like a
user's message (``answer``). With ``turns`` above 1 the conversation so far, followed by the template's beginning of a
user's message, is the next raw prompt, until the conversation is complete: one conversation is one row.

Messages are data. A message that contains a special token of the template would forge further messages in later prompts
and in training data, so it is rejected. A message that ended at the token limit is rejected, too.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, ClassVar, Literal

from selfinstruct.common.chat_template import ChatTemplate
from selfinstruct.common.config import suggest
from selfinstruct.common.rng import Rng
from selfinstruct.common.unused import Unused
from selfinstruct.errors import ConfigError
from selfinstruct.parse import answer_span, content_span
from selfinstruct.prompts import Api, Prompts
from selfinstruct.reasons import RejectReason
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
)
from selfinstruct.strategies.abilities import (
    ChecksAnswers,
    ChoosesFormat,
    DiscoversOptions,
    HasModes,
    NeedsRawPrompts,
)
from selfinstruct.strategies.base import Strategy, View
from selfinstruct.strategies.shared.contexts import context_json, read_context, stored_as
from selfinstruct.strategies.shared.stage import Stage
from selfinstruct.strategies.shared.template_markers import KNOWN, known_texts, markers, template_texts

__all__ = ["Magpie", "MagpieOptions"]

OWN = "own"
_SPECIAL_TOKEN = re.compile(r"<[|\uff5c][^\s<>|\uff5c]{1,60}[|\uff5c]>")  # the form of special tokens of any model

# Sampling of the released code: exp/gen_ins.py for the user's messages, exp/gen_res.py for the answers.
_INSTRUCTION = Stage(max_tokens=512, temperature=1.0, top_p=1.0)
_ANSWER = Stage(max_tokens=4096, temperature=0.0, top_p=1.0)


@dataclass(frozen=True)
class MagpieOptions:
    """Settings of this strategy. Defaults are the published ones.

    Attributes:
        turns: Rounds of a conversation, each a user's message and its answer. Above 1 the dataset holds messages.
        system: A system prompt that steers the topics of the user's messages. Answers are requested without it, as in
            the released code (exp/gen_mt.py).
        template: The model's chat template: ``own`` for the template in its file (llamacpp) or folder (transformers,
            vllm), or the name of a known template.
        pre_query, post_query: Template text before the user's first message, and between a user's message and the
            answer. Derived when the run starts, unless set.
        past_query: Like ``post_query``, before an answer that the prompt contains. None: the same text.
        next_query: Template text between an answer and the user's next message.
        system_pre_query: ``pre_query`` with the system prompt in it. None: no system prompt.
        markers: Strings that separate messages: they end a user's message where the model writes one, and a message
            that contains one is rejected. None: the special tokens of the texts above.
        stop: Further strings that end a user's message. The released code stops at the end of the line.
        instruction: The stage of the user's messages; always raw.
        answer: The stage of the answers: raw prompts with the texts above, or ``chat``.
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
            raise ValueError(f"template must be {OWN!r} or a known one{suggest(self.template, KNOWN)}")
        if (self.pre_query is None) != (self.post_query is None):
            raise ValueError("pre_query and post_query must be set together")
        if "" in (self.post_query, self.next_query, *(self.markers or ()), *self.stop):
            raise ValueError("post_query, next_query, markers and stop can't be empty texts")
        if self.instruction.api == "chat":
            raise ValueError("instruction.api can't be chat: the model continues a prompt inside its template")


@dataclass(frozen=True, slots=True)
class DialogueContext:
    """Context of both stages; the first request of a conversation has none.

    Attributes:
        texts: The messages so far, the user's first.
        task: Id of the candidate with the user's first message.
    """

    texts: tuple[str, ...] = stored_as("said")
    task: str = stored_as("task")


class Magpie(
    Strategy,
    ChecksAnswers,
    ChoosesFormat,
    DiscoversOptions[MagpieOptions],
    HasModes[MagpieOptions],
    NeedsRawPrompts,
):
    """Conversations that the model has with itself.

    Raises:
        ConfigError: The texts of the chat template are unknown or contradict the options.
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
    Options: ClassVar[type[MagpieOptions]] = MagpieOptions
    options: MagpieOptions

    @classmethod
    def discover_options(cls, options: MagpieOptions, template: Callable[[], ChatTemplate | None]) -> Mapping[str, Any]:
        """Return the texts of the chat template that the user left out."""
        if options.pre_query is not None:
            return {}
        if options.template == OWN:
            model_template = template()
            texts = None if model_template is None else template_texts(model_template, options.system)
        else:
            texts = known_texts(options.template, options.system)
        if texts is None:
            return {}
        values = asdict(texts)
        more = values.pop("more")
        values["markers"] = markers(texts.pre_query, texts.post_query, texts.next_query, more)
        return {name: value for name, value in values.items() if getattr(options, name) is None}

    @classmethod
    def unused_options(cls, options: MagpieOptions, api: Api) -> Iterable[Unused]:  # noqa: ARG003  # the signature is of HasModes
        """Return the texts of later rounds where there is one round, and the template's name where its texts are set.

        Args:
            options: The options before any text was derived.
        """
        if options.turns == 1:
            yield Unused("turns", "2 or more", ("next_query", "past_query"))
        if options.pre_query is not None:
            yield Unused("pre_query", "null, and post_query too", ("template",))
        if options.system_pre_query is not None and not options.system:
            yield Unused("system", "the system prompt in it", ("system_pre_query",))

    def __init__(self, options: MagpieOptions, prompts: Prompts) -> None:
        super().__init__(options, prompts)
        if options.pre_query is None or options.post_query is None:
            raise ConfigError(
                "magpie continues a prompt inside the model's chat template, and the template is unknown: name a "
                f"known one, as in --set magpie.template=chatml ({', '.join(KNOWN)}), or set its texts, "
                "magpie.pre_query and magpie.post_query",
                key="magpie.template",
            )
        if options.turns > 1 and options.next_query is None:
            raise ConfigError(
                "magpie.turns above 1 needs the text between an answer and the user's next message in the model's "
                "chat template: set magpie.next_query, or leave magpie.turns at 1",
                key="magpie.next_query",
            )
        if options.system and options.system.strip() not in (options.system_pre_query or ""):
            raise ConfigError(
                "the text before the user's message does not contain magpie.system: set magpie.system_pre_query, too",
                key="magpie.system_pre_query",
            )
        self._pre, self._post, self._next = options.pre_query, options.post_query, options.next_query or ""
        self._past = self._post if options.past_query is None else options.past_query
        self._steered = self._pre if options.system_pre_query is None else options.system_pre_query
        derived = markers(self._pre, self._post, options.next_query)
        self._markers = derived if options.markers is None else options.markers

    @property
    def format(self) -> str:
        """Messages where a row has more than one round."""
        return "messages" if self.options.turns > 1 else "alpaca"

    def propose(self, view: View, rng: Rng) -> Request | None:  # noqa: ARG002  (the scheduler draws the seed)
        """Request a user's first message: the same prompt each time, with another sampling seed."""
        return self._request_user(None)

    def receive(self, request: Request, completion: Completion, view: View) -> Received:  # noqa: ARG002
        """Read a user's message or an answer: the complete text, without the reasoning before an answer."""
        is_answer = request.stage == "answer"
        start, end = (
            answer_span(completion.text) if is_answer and not completion.truncated else content_span(completion.text)
        )
        if start == end:
            return Received(discards=(Discard(RejectReason.EMPTY, (0, len(completion.text))),))
        text = completion.text[start:end]
        dialogue = read_context(DialogueContext, request) if request.context else None
        verdict = self._verdict(text, truncated=completion.truncated)
        if dialogue is not None and is_answer:
            return self._receive_answer(request, dialogue, text, (start, end), verdict)
        if dialogue is not None and verdict.kept:
            follow_up = self._request_answer(DialogueContext((*dialogue.texts, text), dialogue.task), request.number)
            return Received(follow_ups=(follow_up,))
        task = request.candidate_id(0)
        candidate = Candidate(
            text,
            span=(start, end),
            kind="pending_task",
            task=None if dialogue is None else dialogue.task,
            on_accept=self._request_answer(DialogueContext((text,), task), request.number),
            verdicts=(verdict,),
            id=task,
        )
        return Received((candidate,))

    def _receive_answer(
        self, request: Request, dialogue: DialogueContext, text: str, span: tuple[int, int], verdict: Verdict
    ) -> Received:
        """Offer a row after the last answer; after an earlier one, continue if it would be accepted as a row."""
        texts = (*dialogue.texts, text)
        is_last = len(texts) == 2 * self.options.turns
        next_request = self._request_user(DialogueContext(texts, dialogue.task), request.number)
        messages = tuple(Message(_role(index), content) for index, content in enumerate(texts))
        row = Candidate(
            instruction=texts[0],
            output=text,
            span=span,
            task=dialogue.task,
            shown_outputs=dialogue.texts,
            kind="row" if is_last else "provisional_row",
            on_accept=None if is_last else next_request,
            messages=messages if len(texts) > 2 else (),
            verdicts=(verdict,),
        )
        return Received((row,))

    def reject_reason(self, row: Candidate, text: str) -> str:  # noqa: ARG002  (the contract)
        """Return the reason code for an answer with reasoning or with special tokens."""
        if answer_span(text) != content_span(text):
            return RejectReason.REASONING
        return self._verdict(text, truncated=False).reason

    def _verdict(self, text: str, *, truncated: bool) -> Verdict:
        """Decide whether a text can be a message."""
        token = next((marker for marker in self._markers if marker in text), None)
        if token is None and (special := _SPECIAL_TOKEN.search(text)):
            token = special.group()
        if token is not None:
            return Verdict("turn", False, RejectReason.SPECIAL_TOKENS, detail={"token": token})
        return Verdict("turn", not truncated, RejectReason.TRUNCATED if truncated else "")

    def _request_user(self, dialogue: DialogueContext | None, parent: int | None = None) -> Request:
        """Request the user's next message; the first one without ``dialogue``."""
        # Where the template puts a space before the user's words, the model begins its own first word with it.
        text = self._render(self._steered, () if dialogue is None else dialogue.texts).rstrip(" ")
        return Request(
            stage="instruction",
            turns=(self._message("prompt", "magpie/instruction", text),),
            sampling=self.options.instruction.sampling(*dict.fromkeys([*self._markers, *self.options.stop])),
            context={} if dialogue is None else context_json(dialogue),
            parent=parent,
        )

    def _request_answer(self, dialogue: DialogueContext, parent: int) -> Request:
        stage = self.options.answer
        if stage.is_raw(self.prompts):
            prompt = self._message("prompt", "magpie/answer", self._render(self._pre, dialogue.texts))
            turns: tuple[PromptMessage, ...] = (prompt,)
            sampling = stage.sampling(*self._markers)
        else:
            turns = tuple(
                self._message(_role(index), "magpie/answer", text) for index, text in enumerate(dialogue.texts)
            )
            sampling = stage.sampling()
        return Request("answer", turns, sampling, context_json(dialogue), parent)

    def _render(self, beginning: str, texts: Sequence[str]) -> str:
        """Return the conversation as the template writes it, up to where the model continues."""
        pieces = [beginning]
        for count, text in enumerate(texts, start=1):
            after_user = self._past if count < len(texts) else self._post
            pieces += [text, self._next if count % 2 == 0 else after_user]
        return "".join(pieces)

    def _message(self, role: Role, template: str, text: str) -> PromptMessage:
        return self.prompts.turn(role, template, {"text": text})


def _role(index: int) -> Literal["user", "assistant"]:
    """Return who speaks the message at ``index`` of a conversation."""
    return "assistant" if index % 2 else "user"
