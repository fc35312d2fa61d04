"""The options of the openai backend, checked as far as that is possible without a network."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal
from urllib.parse import urlsplit

from selfinstruct.backends.openai.addresses import check_address
from selfinstruct.backends.openai.dialect import REFUSABLE
from selfinstruct.backends.openai.keys import is_openai
from selfinstruct.prompts import Api

__all__ = ["OpenAIOptions", "check_fields"]

_OPENAI = "https://api.openai.com/v1"
_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_FIXED = frozenset(
    {"max_tokens", "max_completion_tokens", "n", "best_of", "stream", "prompt", "messages", "model"}
)  # the budget's worst case, and the parsing of answers, depend on these
_MAX_DEPTH = 16  # nesting of extra_body's values; a YAML anchor can make a value that contains itself


@dataclass(frozen=True, slots=True)
class OpenAIOptions:
    """Which server and model to ask, and how.

    Attributes:
        base_url: The server's address up to and including ``/v1``; null is OpenAI's own. A query at its end, such as
            Azure's ``?api-version=``, is part of each request. Or a list of addresses of servers that all offer the
            model, among which the requests are distributed.
        model: Name of the model on the server. Required.
        api: Kind of prompt that suits the model: ``chat`` messages, or raw ``completion`` prompts. Each request's own
            kind decides the endpoint.
        api_key_env: Environment variable that holds the key, for every address; never the key itself. null is
            ``OPENAI_API_KEY`` for OpenAI's own address and no key for any other, so that no key reaches a server it
            was not meant for.
        timeout_s: Time limit of one request in seconds, however slowly its bytes arrive.
        concurrency: Requests in flight, at all servers together.
        max_tokens_name: The server's name for the token limit in chat requests: newer OpenAI models require
            ``max_completion_tokens``, most other servers only know ``max_tokens``. null chooses by the base URL.
        omit: Sampling parameters not to send, such as ``temperature`` for a model that refuses it.
        extra_body: Further fields of each request's body, any JSON; they override the computed ones. Neither
            ``extra_body`` nor ``omit`` may name a field that decides what a request costs (``max_tokens``, ``n``,
            ``model`` and the like).
        thinking: false asks a model that reasons to answer at once, with the fields of the server's family: the chat
            template's variables for most servers, ``reasoning_effort`` or a field of their own for others. null and
            true send nothing.
        reasoning_effort: How much a model reasons (``none``, ``minimal``, ``low``, ``medium``, ``high``), where a
            server has the field; null sends nothing.
        schema_field: The server's name for a JSON schema in raw completions: ``structured_outputs`` (vLLM 0.12 and
            later), ``guided_json`` (older vLLM), ``json_schema`` (llama-server); null if it accepts none. Chat requests
            use ``response_format`` on every server.
        stream: Whether to ask for answers piece by piece (server-sent events); null begins without, and changes to it
            once a server says that it only streams. A run records that.
        refused: Sampling parameters, and names of the token limit, that the model refused in the first requests of the
            run. They are not sent since; the token limit is sent under its other name. A run fills this in.
    """

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
    thinking: bool | None = None
    reasoning_effort: str | None = None
    stream: bool | None = None
    refused: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.concurrency < 1 or self.timeout_s <= 0:
            raise ValueError("concurrency must be at least 1 and timeout_s above 0")
        for url in self.addresses:
            check_address(url)
        if len({url.rstrip("/") for url in self.addresses}) < max(1, len(self.addresses)):
            raise ValueError("base_url must name at least one address, and each once")
        if self.api_key_env is not None and not _VARIABLE.fullmatch(self.api_key_env):
            raise ValueError("api_key_env must be the name of an environment variable, not the key itself")
        if unknown := sorted(set(self.refused) - REFUSABLE):
            raise ValueError(f"refused can't name {unknown[0]!r}; it may name {', '.join(sorted(REFUSABLE))}")
        check_fields("omit", self.omit)
        check_fields("extra_body", self.extra_body)
        if self.max_tokens_name in self.extra_body or self.max_tokens_name in self.omit:
            raise ValueError(f"extra_body and omit can't name {self.max_tokens_name!r}: it limits what a request costs")

    @property
    def addresses(self) -> tuple[str, ...]:
        """The base URL of each server, in order."""
        return self.base_url if isinstance(self.base_url, tuple) else (self.base_url or _OPENAI,)

    @property
    def fixed_fields(self) -> frozenset[str]:
        """Fields of a request that the user decided, so that no refusal of the server changes them."""
        limit = {self.max_tokens_name} if self.max_tokens_name else set()
        return frozenset({*self.extra_body, *limit, *({"stream"} if self.stream is False else ())})

    def key_variable(self, url: str) -> str:
        """Return the environment variable that holds the key for an address; "" if it needs none."""
        if self.api_key_env:
            return self.api_key_env
        return "OPENAI_API_KEY" if is_openai(urlsplit(url).hostname or "") else ""


def check_fields(option: str, fields: Mapping[str, Any] | Sequence[str]) -> None:
    """Check the fields named by ``extra_body`` or ``omit``.

    Args:
        option: Name of the option, for messages.
        fields: Names of fields of a request's body, as a mapping if they have values.

    Raises:
        ValueError: A field on which the budget depends, or a value that is not JSON; the message does not repeat it.
    """
    for name in fields:
        if name in _FIXED:
            raise ValueError(f"{option} can't name {name!r}: the run's own settings decide it, and budgets rest on it")
    if isinstance(fields, Mapping):
        _check_json(option, dict(fields), _MAX_DEPTH)


def _check_json(path: str, value: Any, depth: int) -> None:
    if depth == 0:
        raise ValueError(f"{path} is nested too deeply")
    if isinstance(value, dict):
        for key, inner in value.items():
            if not isinstance(key, str):
                raise ValueError(f"{path} must have text as its keys")
            _check_json(f"{path}.{key}", inner, depth - 1)
    elif isinstance(value, list):
        for index, inner in enumerate(value):
            _check_json(f"{path}.{index}", inner, depth - 1)
    elif not (value is None or isinstance(value, str | int) or (isinstance(value, float) and math.isfinite(value))):
        raise ValueError(f"{path} must be plain JSON, not {type(value).__name__}")
