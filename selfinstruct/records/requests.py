"""Requests for completions, and their outcomes.

A request gets its number *k* when the scheduler takes it. Its candidates are numbered in the order in which the
strategy reads them; ``candidate_id(k, i)`` identifies one in exports, reports and lineage.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal, TypeAlias

from selfinstruct.common.codec import Json, digest, dumps, loads
from selfinstruct.records.endings import COMPLETE, LENGTH, cut_reason

__all__ = [
    "Choice",
    "Completion",
    "Failure",
    "Outcome",
    "PromptMessage",
    "Request",
    "Role",
    "Sampling",
    "Usage",
    "candidate_id",
]

Role = Literal["prompt", "system", "user", "assistant"]


def candidate_id(number: int, index: int) -> str:
    """Return the id of candidate ``index`` of request ``number``: ``"17.2"``."""
    return f"{number}.{index}"


@dataclass(frozen=True, slots=True)
class Sampling:
    """Sampling parameters, under the names of OpenAI-compatible servers.

    Attributes:
        max_tokens: Maximum number of tokens of one choice; 0 for a request that asks for a score of its messages.
        stop: Strings that end a choice; they are not part of its text.
        n: Number of choices in a completion.
        seed: Seed of this request, or None to leave it to the server.
        schema: JSON schema that the text must follow, where the backend can enforce one; None for free text. The order
            of its keys matters: models write fields in that order.
    """

    max_tokens: int
    temperature: float = 0.7
    top_p: float = 1.0
    frequency_penalty: float = 0.0
    presence_penalty: float = 0.0
    stop: tuple[str, ...] = ()
    n: int = 1
    seed: int | None = None
    schema: Mapping[str, Json] | None = None

    def to_json(self) -> dict[str, Json]:
        """Return the parameters as JSON; ``schema`` is omitted if it is None."""
        value: dict[str, Json] = {
            "max_tokens": self.max_tokens,
            "temperature": self.temperature,
            "top_p": self.top_p,
            "frequency_penalty": self.frequency_penalty,
            "presence_penalty": self.presence_penalty,
            "stop": list(self.stop),
            "n": self.n,
            "seed": self.seed,
        }
        if self.schema is not None:  # omitted otherwise, so that requests without a schema keep their digest
            value["schema"] = dumps(self.schema)  # as text, because canonical JSON would sort the keys
        return value

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Sampling:
        """Rebuild the parameters from ``to_json``."""
        schema = {"schema": loads(value["schema"])} if "schema" in value else {}
        return cls(**{**value, **schema, "stop": tuple(value["stop"])})


@dataclass(frozen=True, slots=True)
class PromptMessage:
    """One message of a request; or, with the role ``prompt``, the complete raw prompt.

    Attributes:
        template: Name of the template that rendered the text (``alpaca/list``).
        variables: The values of the template's variables. The ledger stores these, not the text.
        text: The rendered text that the model reads.
    """

    role: Role
    template: str
    variables: Mapping[str, str]
    text: str


@dataclass(frozen=True, slots=True)
class Request:
    """One request for a completion.

    Attributes:
        stage: The strategy's name for this kind of request (``instructions``, ``instances``).
        turns: Either one message with the role ``prompt`` (raw completion), or the messages of a chat.
        context: Data that the strategy needs to read the completion, as JSON; never sent. The keys ``item`` and
            ``demonstrations`` are reserved for the fields below.
        parent: Number of the request that this one follows, or None for a proposed one.
        number: Position in the run, from 0; -1 until the scheduler assigns it.
        item: Index of the seed task that this request starts work on, for strategies that work through the seed file.
        demonstrations: Ids of the tasks that the prompt shows; None where the stage shows no tasks.
    """

    stage: str
    turns: tuple[PromptMessage, ...]
    sampling: Sampling
    context: Mapping[str, Json] = field(default_factory=dict)
    parent: int | None = None
    number: int = -1
    item: int | None = None
    demonstrations: tuple[str, ...] | None = None

    def __post_init__(self) -> None:
        if "item" in self.context or "demonstrations" in self.context:
            raise ValueError("set Request.item and Request.demonstrations instead of these keys of the context")

    @classmethod
    def from_stored(
        cls,
        stage: str,
        turns: tuple[PromptMessage, ...],
        sampling: Sampling,
        context: Mapping[str, Any],
        parent: int | None,
        number: int = -1,
    ) -> Request:
        """Rebuild a request from its stored parts.

        Args:
            context: The value of ``stored_context``.
        """
        rest = dict(context)
        item, demonstrations = rest.pop("item", None), rest.pop("demonstrations", None)
        shown = None if demonstrations is None else tuple(demonstrations)
        return cls(stage, turns, sampling, rest, parent, number, item, shown)

    @property
    def stored_context(self) -> dict[str, Json]:
        """The context as ledgers and digests hold it: with ``item`` and ``demonstrations`` where they are set."""
        fields: dict[str, Json] = {}
        if self.item is not None:
            fields["item"] = self.item
        if self.demonstrations is not None:
            fields["demonstrations"] = list(self.demonstrations)
        return {**fields, **self.context}

    def numbered(self, number: int, seed: int | None) -> Request:
        """Return a copy with its number and its own sampling seed."""
        return replace(self, number=number, sampling=replace(self.sampling, seed=seed))

    def candidate_id(self, index: int) -> str:
        """Return the id for candidate ``index`` of this request; follow-ups use it to refer to the candidate."""
        return candidate_id(self.number, index)

    @property
    def method(self) -> str:
        """Label of the method that sent this request in a mixed run (``stage`` up to the last ``/``); "" otherwise."""
        return self.stage.rpartition("/")[0]

    @property
    def is_raw(self) -> bool:
        """True for a raw prompt, False for messages."""
        return len(self.turns) == 1 and self.turns[0].role == "prompt"

    @property
    def asks_for_score(self) -> bool:
        """True for a request that a reward model scores: it holds the answer, and its limit is 0 tokens."""
        return self.sampling.max_tokens == 0

    @property
    def text_bytes(self) -> int:
        """UTF-8 bytes of everything that is sent, the schema included: an upper bound of the prompt's tokens."""
        schema = "" if self.sampling.schema is None else dumps(self.sampling.schema)
        return sum(len(text.encode("utf-8")) for text in (*(turn.text for turn in self.turns), schema))

    @property
    def digest(self) -> str:
        """SHA-256 of everything that determines the completion and how it is read."""
        return digest(
            {
                "stage": self.stage,
                "turns": [[turn.role, turn.text] for turn in self.turns],
                "sampling": self.sampling.to_json(),
                "context": self.stored_context,
                "parent": self.parent,
            }
        )


@dataclass(frozen=True, slots=True)
class Choice:
    """One text of a completion.

    Attributes:
        finish_reason: Why the text ended: ``stop``, ``length``, or the server's own term.
        reasoning: Reasoning that the server returned apart from the text.
    """

    text: str
    finish_reason: str
    reasoning: str = ""

    @property
    def cut_reason(self) -> str:
        """Reason code for a text that is not complete; "" for a complete one."""
        return cut_reason(self.finish_reason)


@dataclass(frozen=True, slots=True)
class Usage:
    """Token counts of the server.

    Attributes:
        cached_tokens: The part of the prompt that its cache served.
        reasoning_tokens: The part of the completion that the model spent on reasoning.
    """

    prompt_tokens: int = 0
    completion_tokens: int = 0
    cached_tokens: int = 0
    reasoning_tokens: int = 0

    @property
    def counted(self) -> bool:
        """True if the server counted both parts: neither a prompt nor an answer takes zero tokens."""
        return self.prompt_tokens > 0 and self.completion_tokens > 0


@dataclass(frozen=True, slots=True)
class Completion:
    """A model's answer to one request, unaltered.

    Strategies read a copy in which every text is the answer alone, and ``finish_reason`` is ``stop`` for each complete
    one (``parse.answers``).
    """

    choices: tuple[Choice, ...]
    usage: Usage
    model: str

    @property
    def text(self) -> str:
        """Text of the first choice."""
        return self.choices[0].text

    @property
    def truncated(self) -> bool:
        """True if the first choice is not complete: its last piece is missing or cut."""
        return self.choices[0].finish_reason != COMPLETE

    @property
    def failed(self) -> bool:
        """True if the first choice ended neither by itself nor at the token limit, so that nothing follows from it."""
        return self.choices[0].finish_reason not in (COMPLETE, LENGTH)

    def to_json(self) -> dict[str, Json]:
        """Return the completion as JSON, without empty optional fields."""
        usage = self.usage
        reasoning = [usage.reasoning_tokens] if usage.reasoning_tokens else []
        return {
            "choices": [
                [choice.text, choice.finish_reason, *([choice.reasoning] if choice.reasoning else [])]
                for choice in self.choices
            ],
            "usage": [usage.prompt_tokens, usage.completion_tokens, usage.cached_tokens, *reasoning],
            "model": self.model,
        }

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Completion:
        """Rebuild a completion from ``to_json``."""
        choices = tuple(Choice(*fields) for fields in value["choices"])
        return cls(choices, Usage(*value["usage"]), value["model"])


@dataclass(frozen=True, slots=True)
class Failure:
    """The terminal failure of a request.

    Attributes:
        code: A code for reports.
        message: The server's message.
    """

    code: str
    message: str

    def to_json(self) -> dict[str, Json]:
        """Return the failure as JSON."""
        return {"code": self.code, "message": self.message}

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Failure:
        """Rebuild a failure from ``to_json``."""
        return cls(value["code"], value["message"])


Outcome: TypeAlias = Completion | Failure
