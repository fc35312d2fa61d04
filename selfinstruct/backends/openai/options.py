"""The options of the openai backend, checked as far as that goes without asking anybody."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal
from urllib.parse import urlsplit

from selfinstruct.backends.openai.keys import is_openai
from selfinstruct.prompts import Api

__all__ = ["OpenAIOptions", "check_fields"]

_OPENAI = "https://api.openai.com/v1"
_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_FIXED = frozenset(
    {"max_tokens", "max_completion_tokens", "n", "best_of", "stream", "prompt", "messages", "model"}
)  # the budget's worst case, and the reading of answers, rest on these
_MAX_DEPTH = 16  # of extra_body's values: YAML's anchors can make one that holds itself


@dataclass(frozen=True, slots=True)
class OpenAIOptions:
    """Where and what to ask.

    Attributes:
        base_url: The server's address up to and including ``/v1``; None is OpenAI's own. Or a list of addresses: of
            servers that all offer the model, and among which the requests are spread.
        model: Name of the model, as the server knows it. Must be given.
        api: Which prompts suit the model: ``chat`` messages, or raw ``completion`` prompts. The endpoint follows from
            each request's own kind.
        api_key_env: Environment variable that holds the key, for every address. Never the key itself. None is
            ``OPENAI_API_KEY`` for OpenAI's own address and no key for any other: one server's key is not another's
            business.
        timeout_s: Seconds for one request as a whole, however slowly its bytes trickle in.
        concurrency: Requests at once, at all servers together.
        max_tokens_name: How the server calls the token limit in chat requests: newer OpenAI models insist on
            ``max_completion_tokens``, most other servers know ``max_tokens`` only. None chooses by the base URL.
        omit: Sampling parameters not to send (``temperature`` for a model that refuses it).
        extra_body: Further fields of each request's body, any JSON; they win over the computed ones. Neither these nor
            ``omit`` can name what a request's cost rests on (``max_tokens``, ``n``, ``model`` and the like).
        schema_field: How the server calls a JSON schema in raw completions, where it can be sent one:
            ``structured_outputs`` (vLLM from 0.12 on), ``guided_json`` (older vLLM), ``json_schema`` (llama-server).
            Chat requests have ``response_format`` for it everywhere.
    """

    FREE: ClassVar[frozenset[str]] = frozenset({"base_url", "api_key_env", "timeout_s", "concurrency", "schema_field"})
    """Options that may change while a run goes on: they say where to ask, not what."""

    base_url: str | tuple[str, ...] | None = None
    model: str | None = None
    api: Api = "chat"
    api_key_env: str | None = None
    timeout_s: float = 300.0
    concurrency: int = 16
    max_tokens_name: str | None = None
    omit: tuple[str, ...] = ()
    extra_body: Mapping[str, Any] = field(default_factory=dict)
    schema_field: Literal["structured_outputs", "guided_json", "json_schema"] | None = None

    def __post_init__(self) -> None:
        if self.concurrency < 1 or self.timeout_s <= 0:
            raise ValueError("concurrency must be at least 1 and timeout_s above 0")
        for url in self.addresses:
            if "@" in url:  # a run keeps its settings on disk
                raise ValueError("base_url can't hold a user and password; name a key's variable with api_key_env")
            if re.search("[?#]", url):  # where keys are put, too
                raise ValueError("base_url can't hold a query or fragment; name a key's variable with api_key_env")
        if len({url.rstrip("/") for url in self.addresses}) < max(1, len(self.addresses)):
            raise ValueError("base_url must name at least one address, and each once")
        if self.api_key_env is not None and not _VARIABLE.fullmatch(self.api_key_env):
            raise ValueError("api_key_env must be the name of an environment variable, not the key itself")
        check_fields("omit", self.omit)
        check_fields("extra_body", self.extra_body)
        if self.max_tokens_name in self.extra_body or self.max_tokens_name in self.omit:
            raise ValueError(f"extra_body and omit can't name {self.max_tokens_name!r}: it limits what a request costs")

    @property
    def addresses(self) -> tuple[str, ...]:
        """The base URL of each server, in order."""
        return self.base_url if isinstance(self.base_url, tuple) else (self.base_url or _OPENAI,)

    def key_variable(self, url: str) -> str:
        """The environment variable to read the key for one of the addresses from; "" for none."""
        if self.api_key_env:
            return self.api_key_env
        return "OPENAI_API_KEY" if is_openai(urlsplit(url).hostname or "") else ""


def check_fields(option: str, fields: Mapping[str, Any] | Sequence[str]) -> None:
    """Refuse what ``extra_body`` or ``omit`` may not hold.

    Args:
        option: Its name, for messages.
        fields: Names of fields of a request's body, with values where there are any.

    Raises:
        ValueError: A field that the budget rests on, or a value that is no JSON; named, but not repeated.
    """
    for name in fields:
        if name in _FIXED:
            raise ValueError(f"{option} can't name {name!r}: the run's own settings decide it, and budgets rest on it")
    if isinstance(fields, Mapping):
        _check_json(option, dict(fields), _MAX_DEPTH)


def _check_json(place: str, value: Any, depth: int) -> None:
    if depth == 0:
        raise ValueError(f"{place} is nested too deeply")
    if isinstance(value, dict):
        for key, inner in value.items():
            if not isinstance(key, str):
                raise ValueError(f"{place} must have text as its keys")
            _check_json(f"{place}.{key}", inner, depth - 1)
    elif isinstance(value, list):
        for at, inner in enumerate(value):
            _check_json(f"{place}.{at}", inner, depth - 1)
    elif not (value is None or isinstance(value, str | int) or (isinstance(value, float) and math.isfinite(value))):
        raise ValueError(f"{place} must be plain JSON, not {type(value).__name__}")
