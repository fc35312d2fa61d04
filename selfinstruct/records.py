"""What passes between the parts: frozen records, each one way to and from JSON.

A request is numbered *k* when the line takes it up. Its candidates are numbered in the order in which the strategy
finds them; ``candidate_id(k, i)`` names one for good, in exports, reports and lineage alike.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal, TypeAlias

from selfinstruct.common.codec import Json, digest, dumps, loads

__all__ = [
    "Candidate",
    "Choice",
    "Completion",
    "Discard",
    "Failure",
    "Instance",
    "Kind",
    "Message",
    "Outcome",
    "Pair",
    "PromptMessage",
    "Received",
    "Request",
    "Role",
    "Sampling",
    "Task",
    "Usage",
    "Verdict",
    "candidate_id",
]

Role = Literal["prompt", "system", "user", "assistant"]

Kind = Literal["row", "pending_task", "provisional_row"]


def candidate_id(number: int, index: int) -> str:
    """The name of candidate ``index`` of request ``number``: ``"17.2"``."""
    return f"{number}.{index}"


@dataclass(frozen=True, slots=True)
class Sampling:
    """Sampling parameters, as OpenAI-compatible servers name them.

    Attributes:
        max_tokens: Most tokens of one choice.
        stop: Strings that end a choice; they are not part of its text.
        n: Choices a completion.
        seed: Seed of this request, or None to leave it to the server.
        schema: JSON schema that the text must follow, where the backend can see to that; None for free text. The order
            of its keys counts: models write fields in that order.
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
        if self.schema is not None:  # only then: requests without one keep the digest that they always had
            value["schema"] = dumps(self.schema)  # as text, since canonical JSON would sort its keys
        return value

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Sampling:
        schema = {"schema": loads(value["schema"])} if "schema" in value else {}
        return cls(**{**value, **schema, "stop": tuple(value["stop"])})


@dataclass(frozen=True, slots=True)
class PromptMessage:
    """One message of a request; or, with the role ``prompt``, the whole raw prompt.

    Attributes:
        template: Name of the template that made the text (``alpaca/list``).
        variables: What was filled in. The ledger keeps these, not the text.
        text: The rendered text: what the model reads.
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
        turns: Either one turn with the role ``prompt`` (raw completion), or messages (chat).
        context: The strategy's memory, any JSON; never sent.
        parent: Number of the request that this one follows, or None for one that was proposed.
        number: Its place in the line; -1 until the line takes it up.
    """

    stage: str
    turns: tuple[PromptMessage, ...]
    sampling: Sampling
    context: Mapping[str, Json] = field(default_factory=dict)
    parent: int | None = None
    number: int = -1

    def numbered(self, number: int, seed: int | None) -> Request:
        """The same request with its place in the line and its own sampling seed."""
        return replace(self, number=number, sampling=replace(self.sampling, seed=seed))

    @property
    def method(self) -> str:
        """Of a mixed run, which of its methods asks: the stage's part before ``/``; "" in a run of one method."""
        return self.stage.rpartition("/")[0]

    @property
    def is_raw(self) -> bool:
        """True for a raw prompt, False for messages."""
        return len(self.turns) == 1 and self.turns[0].role == "prompt"

    @property
    def text_bytes(self) -> int:
        """UTF-8 bytes of all that is sent: an upper bound of the prompt's tokens, which may hold the schema too."""
        schema = "" if self.sampling.schema is None else dumps(self.sampling.schema)
        return sum(len(text.encode("utf-8")) for text in (*(turn.text for turn in self.turns), schema))

    @property
    def digest(self) -> str:
        """SHA-256 over everything that decides the completion and its reading."""
        return digest(
            {
                "stage": self.stage,
                "turns": [[turn.role, turn.text] for turn in self.turns],
                "sampling": self.sampling.to_json(),
                "context": self.context,
                "parent": self.parent,
            }
        )


@dataclass(frozen=True, slots=True)
class Choice:
    """One text of a completion, and why it ended: ``stop``, ``length`` or the server's own word."""

    text: str
    finish_reason: str


@dataclass(frozen=True, slots=True)
class Usage:
    """Tokens as the server counted them; ``cached_tokens`` are those of the prompt that its cache served."""

    prompt_tokens: int = 0
    completion_tokens: int = 0
    cached_tokens: int = 0

    @property
    def counted(self) -> bool:
        """False where the server did not count, or only half of it: no prompt is empty, and no answer takes nothing."""
        return self.prompt_tokens > 0 and self.completion_tokens > 0


@dataclass(frozen=True, slots=True)
class Completion:
    """What a model answered to one request, unaltered."""

    choices: tuple[Choice, ...]
    usage: Usage
    model: str

    @property
    def text(self) -> str:
        """Text of the first choice."""
        return self.choices[0].text

    @property
    def truncated(self) -> bool:
        """True when the first choice ended at the token limit."""
        return self.choices[0].finish_reason == "length"

    def to_json(self) -> dict[str, Json]:
        return {
            "choices": [[choice.text, choice.finish_reason] for choice in self.choices],
            "usage": [self.usage.prompt_tokens, self.usage.completion_tokens, self.usage.cached_tokens],
            "model": self.model,
        }

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Completion:
        choices = tuple(Choice(text, reason) for text, reason in value["choices"])
        return cls(choices, Usage(*value["usage"]), value["model"])


@dataclass(frozen=True, slots=True)
class Failure:
    """The end of a request that can't succeed: a code for reports and the server's words."""

    code: str
    message: str

    def to_json(self) -> dict[str, Json]:
        return {"code": self.code, "message": self.message}

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Failure:
        return cls(value["code"], value["message"])


Outcome: TypeAlias = Completion | Failure


@dataclass(frozen=True, slots=True)
class Message:
    """One message of a conversation."""

    role: Literal["user", "assistant"]
    content: str


@dataclass(frozen=True, slots=True)
class Pair:
    """The answer of a row that was not chosen, for preference data.

    Attributes:
        rejected: The worst of the answers to the same question.
        scores: Those of the row's own answer and of the rejected one.
    """

    rejected: str
    scores: tuple[float, float]


@dataclass(frozen=True, slots=True)
class Verdict:
    """One filter's decision on one candidate.

    Attributes:
        reason: A short word for reports when it was not kept (``too_short``, ``similar``); "" otherwise.
        score: The figure that decided, where there is one (a ROUGE-L F1, a Jaccard similarity, a number of words).
        nearest: Id of the row or seed that the score refers to.
        detail: Further figures for the record, any JSON.
    """

    filter: str
    kept: bool
    reason: str = ""
    score: float | None = None
    nearest: str | None = None
    detail: Mapping[str, Json] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Candidate:
    """A task or a row that a completion offered.

    There are three kinds. A ``row`` that is kept is a line of the dataset. A ``draft`` is a task whose instances are
    still to come: its instruction is judged. A ``trial`` is a whole row on which more is asked (what a judge thinks of
    it, say) before another request offers it as a row, with this candidate's id, or its task, as ``task``: it is judged
    as a row is, but for near-duplicates.

    Attributes:
        output: The answer; of a conversation, the last one.
        span: Where it stands in the first choice's text: start and end, in characters.
        task: Id of the draft or trial whose instance this is; None when the candidate brings its own instruction.
        shown: Outputs that the prompt displayed, so that a copy of one can be recognised.
        on_accept: Queued if the candidate is kept. A draft and a trial have one.
        on_reject: Queued if it is rejected.
        system: The system prompt that it was answered under; "" for none.
        messages: Of a conversation of more than one round: all of it, the first message the instruction.
        columns: Further fields of the exported row, by name; none of a training format's own.
        pair: Its counterpart in preference data.
        verifier: What code can check the output by (``verifiers.py``): a row that fails is not kept.
        verdicts: Those of the strategy itself, before any filter. Rejected by one, it is rejected.
        is_task: False for a text that is no task (a person, to be asked for one): the filters judge it, and no strategy
            is shown it, nor is it counted as an instruction.
        mark: Where its end is counted, as ``table|row`` (see ``Received.counters``): a row that is kept in the column
            ``passed``, whatever is rejected in one named by the reason.
    """

    instruction: str
    input: str = ""
    output: str = ""
    span: tuple[int, int] = (0, 0)
    task: str | None = None
    shown: tuple[str, ...] = ()
    kind: Kind = "row"
    on_accept: Request | None = None
    on_reject: Request | None = None
    system: str = ""
    messages: tuple[Message, ...] = ()
    columns: Mapping[str, Json] = field(default_factory=dict)
    pair: Pair | None = None
    verifier: Mapping[str, Json] | None = None
    verdicts: tuple[Verdict, ...] = ()
    is_task: bool = True
    mark: str = ""

    @property
    def extras(self) -> dict[str, Json]:
        """What an exported row may have beyond instruction, input and output, as JSON; only what is set."""
        found: dict[str, Json] = {
            "system": self.system,
            "messages": [[one.role, one.content] for one in self.messages],
            "columns": dict(self.columns),
            "pair": None if self.pair is None else [self.pair.rejected, list(self.pair.scores)],
            "verifier": None if self.verifier is None else dict(self.verifier),
        }
        return {name: value for name, value in found.items() if value}

    def with_extras(self, value: Mapping[str, Any]) -> Candidate:
        """The candidate with what ``extras`` gave."""
        return replace(
            self,
            system=value.get("system", ""),
            messages=tuple(Message(*one) for one in value.get("messages", ())),
            columns=value.get("columns", {}),
            pair=Pair(value["pair"][0], (value["pair"][1][0], value["pair"][1][1])) if "pair" in value else None,
            verifier=value.get("verifier"),
        )


@dataclass(frozen=True, slots=True)
class Discard:
    """A piece of a completion that never became a candidate, and why."""

    reason: str
    span: tuple[int, int]


@dataclass(frozen=True, slots=True)
class Received:
    """What a strategy read in one completion.

    Attributes:
        counters: Counter increments, each ``table|row|column`` (``evol|epoch 2, deepen|passed``); ``status`` shows the
            tables.
    """

    candidates: tuple[Candidate, ...] = ()
    follow_ups: tuple[Request, ...] = ()
    discards: tuple[Discard, ...] = ()
    counters: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Instance:
    """One input and its output; the input is "" where the instruction stands alone."""

    input: str
    output: str


@dataclass(frozen=True, slots=True)
class Task:
    """A task to learn from: a seed, or one that the model wrote and the filters kept.

    Attributes:
        id: The seed's own id, or the candidate's (``"17.2"``).
        is_classification: None where nobody has said.
        verifier: What code can check an answer by (``verifiers.py``).
    """

    id: str
    instruction: str
    instances: tuple[Instance, ...] = ()
    is_classification: bool | None = None
    name: str = ""
    domain: str = ""
    verifier: Mapping[str, Json] | None = None
