"""Any server that speaks OpenAI's API: OpenAI itself, ``vllm serve``, llama-server, Ollama, gateways.

The client library does the HTTP; its retries are off (they stand in ``retry``, once for every backend), and so are its
guesses from the environment: the key comes from the one variable that the options name, the address from the options.
"""

from __future__ import annotations

import asyncio
import html
import ipaddress
import json
import math
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any, ClassVar, Literal
from urllib.parse import quote, urlsplit

from selfinstruct.backends.answers import Peer, read_answer, read_refusal
from selfinstruct.errors import BackendError, ConfigError, SelfInstructError, TransientError
from selfinstruct.prompts import Api
from selfinstruct.records import Choice, Completion, Request

if TYPE_CHECKING:
    import httpx2
    from openai import AsyncOpenAI

__all__ = ["OpenAIBackend", "OpenAIOptions", "check_fields", "redacted", "without_key"]

_OPENAI = "https://api.openai.com/v1"
_KEY_START = 8  # characters of a key that many keys share ("sk-proj-"): what is longer gives it away
_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_FIXED = frozenset(
    {"max_tokens", "max_completion_tokens", "n", "best_of", "stream", "prompt", "messages", "model"}
)  # the budget's worst case, and the reading of answers, rest on these
_MAX_DEPTH = 16  # of extra_body's values: YAML's anchors can make one that holds itself
_MOST_BYTES = 16 << 20  # of an answer, once decompressed: ten choices of 128k tokens as JSON writes them at its longest
_MOST_HOPS = 5  # redirections that one request follows
_CONNECT_S = 15.0  # a host that does not answer at all is known as such long before a long completion is


@dataclass(frozen=True, slots=True)
class OpenAIOptions:
    """Where and what to ask.

    Attributes:
        base_url: The server's address up to and including ``/v1``; None is OpenAI's own.
        model: Name of the model, as the server knows it. Must be given.
        api: Which prompts suit the model: ``chat`` messages, or raw ``completion`` prompts. The endpoint follows from
            each request's own kind.
        api_key_env: Environment variable that holds the key. Never the key itself. None is ``OPENAI_API_KEY`` for
            OpenAI's own address and no key for any other: one server's key is not another's business.
        timeout_s: Seconds for one request as a whole, however slowly its bytes trickle in.
        concurrency: Requests at once.
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

    base_url: str | None = None
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
        if "@" in (self.base_url or ""):  # a run keeps its settings on disk
            raise ValueError("base_url can't hold a user and password; name a key's variable with api_key_env")
        if re.search("[?#]", self.base_url or ""):  # where keys are put, too
            raise ValueError("base_url can't hold a query or fragment; name a key's variable with api_key_env")
        if self.api_key_env is not None and not _VARIABLE.fullmatch(self.api_key_env):
            raise ValueError("api_key_env must be the name of an environment variable, not the key itself")
        check_fields("omit", self.omit)
        check_fields("extra_body", self.extra_body)
        if self.max_tokens_name in self.extra_body or self.max_tokens_name in self.omit:
            raise ValueError(f"extra_body and omit can't name {self.max_tokens_name!r}: it limits what a request costs")

    @property
    def key_variable(self) -> str:
        """The environment variable to read the key from; "" for none."""
        if self.api_key_env:
            return self.api_key_env
        return "OPENAI_API_KEY" if _is_openai(urlsplit(self.base_url or _OPENAI).hostname or "") else ""


class OpenAIBackend:
    """Completions over HTTP, one attempt each.

    Args:
        options: Checked by ``start``.
        key: A key that no environment variable holds: the one a local server was started with.
    """

    name: ClassVar[str] = "openai"

    def __init__(self, options: OpenAIOptions, *, key: str | None = None) -> None:
        self.concurrency = options.concurrency
        self._options = options
        self._key = key
        self._client: AsyncOpenAI | None = None
        self._peer = Peer(redacted(options.base_url or _OPENAI), options.model or "", "", False)
        self._secret = ""

    async def start(self) -> None:
        """Check the options and make the client. Sends nothing.

        Raises:
            ConfigError: No model, an address that is none, no key where one is needed, or a key that can't be sent.
        """
        options, url = self._options, self._options.base_url or _OPENAI
        if not options.model:
            raise ConfigError("which model? Name one that the server offers: --model NAME")
        host = _check_url(url)
        key = self._key or _read_key(options.key_variable)
        if key is None and _is_openai(host):
            raise ConfigError(f"no API key: set the environment variable {options.key_variable}")
        self._peer = Peer(redacted(url), options.model, options.key_variable, key is not None, self._hide)
        self._secret = key or ""
        self._client = _open_client(url, host, key or "none", options.timeout_s)

    async def complete(self, request: Request) -> Completion:
        """One attempt at one request; see ``Backend.complete`` for the errors."""
        path = "/completions" if request.is_raw else "/chat/completions"
        status, headers, body = await self.post(path, self._body(request))
        failure: SelfInstructError
        try:
            if status == 200:
                return self._without_key(read_answer(self._peer, body, chat=not request.is_raw))
            schema = request.sampling.schema is not None
            failure = read_refusal(self._peer, status, headers, body, schema=schema)
        except SelfInstructError as error:
            failure = error
        failure.args = tuple(self._hide(str(text)) for text in failure.args)  # servers have echoed keys before
        raise failure

    async def post(self, path: str, body: Mapping[str, Any]) -> tuple[int, Mapping[str, str], bytes]:
        """Status, headers and body of whatever the server answers to a path under the base URL.

        Raises:
            BackendError: The backend was not started, or is closed.
            TransientError: It does not answer, not in time, not to the end, or without end. Raised outside the
                handlers, so that no exception that holds the request and its headers hangs on to it.
        """
        import httpx2
        import openai

        client = self._client
        if client is None:
            raise BackendError("the backend was not started, or is closed")
        try:
            async with asyncio.timeout(self._options.timeout_s):
                response = await client.post(path, cast_to=httpx2.Response, body=body)
            return response.status_code, _lowered(response.headers), response.content
        except openai.APIStatusError as error:
            return error.status_code, _lowered(error.response.headers), error.response.content
        except TimeoutError:
            problem = f"no complete answer from {self._peer.url} within {self._options.timeout_s:g} s"
        except _EndlessError:
            problem = f"{self._peer.url} answered with more than {_MOST_BYTES >> 20} MiB: no completion is so long"
        except openai.APITimeoutError:
            problem = f"{self._peer.url} did not answer in time"
        except openai.APIConnectionError as error:
            problem = f"no answer from {self._peer.url}: {_reason(error)}"
        raise TransientError(problem)

    def _body(self, request: Request) -> dict[str, Any]:
        """The body of the HTTP request.

        ``temperature`` and ``top_p`` are always sent, since servers have defaults of their own; the rest only where it
        differs from the API's default, since not every server knows every field.
        """
        sampling, options = request.sampling, self._options
        body: dict[str, Any] = {"model": options.model}
        limit = "max_tokens"
        if request.is_raw:
            body["prompt"] = request.turns[0].text
        else:
            body["messages"] = [{"role": turn.role, "content": turn.text} for turn in request.turns]
            own = _is_openai(urlsplit(options.base_url or _OPENAI).hostname or "")
            limit = options.max_tokens_name or ("max_completion_tokens" if own else "max_tokens")
        body |= {limit: sampling.max_tokens, "temperature": sampling.temperature, "top_p": sampling.top_p}
        if sampling.frequency_penalty:
            body["frequency_penalty"] = sampling.frequency_penalty
        if sampling.presence_penalty:
            body["presence_penalty"] = sampling.presence_penalty
        if sampling.stop:
            body["stop"] = list(sampling.stop)
        if sampling.n != 1:
            body["n"] = sampling.n
        if sampling.seed is not None:
            body["seed"] = sampling.seed
        if sampling.schema is not None:
            body |= self._format(sampling.schema, raw=request.is_raw)
        return {name: value for name, value in body.items() if name not in options.omit} | dict(options.extra_body)

    def _format(self, schema: Mapping[str, Any], *, raw: bool) -> dict[str, Any]:
        """The field that asks for JSON by schema.

        Raises:
            BackendError: The server's name for it is not known.
        """
        if not raw:
            # A name is required, and says nothing.
            shape = {"name": "answer", "schema": schema, "strict": True}
            return {"response_format": {"type": "json_schema", "json_schema": shape}}
        name = self._options.schema_field
        if name is None:
            raise BackendError(
                f"how does {self._peer.url} take a JSON schema for raw completions? Name its field, as in --set "
                "openai.schema_field=structured_outputs (vLLM), ask with --api chat, or set structured to false"
            )
        return {name: {"json": schema} if name == "structured_outputs" else schema}

    def _without_key(self, completion: Completion) -> Completion:
        """The completion; of one that repeats the key, which gateways for tests do, without it.

        A short key is left: it may be a word. Of a long one only the whole is hidden, since its beginning may be text.
        """
        if len(self._secret) < 2 * _KEY_START:
            return completion
        hide = partial(_whole_key_hidden, key=self._secret)
        choices = tuple(Choice(hide(one.text), hide(one.finish_reason)) for one in completion.choices)
        return Completion(choices, completion.usage, hide(completion.model))

    def _hide(self, text: str) -> str:
        return without_key(text, self._secret)

    async def close(self) -> None:
        """Close every connection, those with a request under way too."""
        client, self._client = self._client, None
        if client is not None:
            await client.close()


def redacted(url: str) -> str:
    """The URL without user, password, query and fragment: what may be printed. Takes any text, well-formed or not."""
    scheme, separator, rest = url.rpartition("://")
    return scheme + separator + re.split("[?#]", rest.rpartition("@")[2], maxsplit=1)[0]


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


def without_key(text: str, key: str) -> str:
    """The text with each occurrence of the key, also as JSON, HTML or a URL would write it, as ``[key]``.

    Of a key of 16 characters or more, its beginning alone (8 characters or more) is hidden too: a server may have cut
    its own text. A shorter key is hidden whole only; such keys are passwords of local servers, often ordinary words.
    """
    if not key:
        return text
    text = _whole_key_hidden(text, key)
    if len(key) < 2 * _KEY_START:
        return text
    first, *parts = text.split(key[:_KEY_START])
    return first + "".join("[key]" + part[_common(part, key[_KEY_START:]) :] for part in parts)


def _whole_key_hidden(text: str, key: str) -> str:
    forms = {key, key.replace("/", "\\/"), json.dumps(key)[1:-1], html.escape(key), quote(key, safe="")}
    for form in sorted(forms, key=len, reverse=True):
        text = text.replace(form, "[key]")
    return text


def _common(one: str, other: str) -> int:
    """Length of the common beginning."""
    pairs = enumerate(zip(one, other, strict=False))
    return next((at for at, (a, b) in pairs if a != b), min(len(one), len(other)))


def _check_url(url: str) -> str:
    """The host of a usable base URL."""
    try:
        parts = urlsplit(url)
        host, _ = parts.hostname, parts.port
    except ValueError:
        parts, host = urlsplit(""), None
    if parts.scheme not in ("http", "https") or not host:
        raise ConfigError(f"base URL {redacted(url)!r} is none: write it like http://localhost:8000/v1")
    return host


def _read_key(name: str) -> str | None:
    key = os.environ.get(name, "").strip() if name else ""
    if not key:
        return None
    if not (key.isascii() and key.isprintable()) or " " in key:
        raise ConfigError(f"the key in {name} holds a space, a line break or a character that no key has: set it again")
    return key


def _is_openai(host: str) -> bool:
    return host == "openai.com" or host.endswith(".openai.com")


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _open_client(url: str, host: str, key: str, timeout_s: float) -> AsyncOpenAI:
    import openai

    client = openai.AsyncOpenAI(
        base_url=url,
        api_key=key,
        admin_api_key="",  # nor from the environment
        # The key too, else OPENAI_CUSTOM_HEADERS could replace it.
        default_headers={"Authorization": f"Bearer {key}", "Accept-Encoding": "gzip"},
        max_retries=0,
        timeout=openai.Timeout(timeout_s, connect=min(_CONNECT_S, timeout_s)),
        # A proxy of the environment can't reach this machine's own loopback.
        http_client=_bounded_client(trust_env=not _is_loopback(host)),
    )
    if not _is_openai(host):
        client.organization = client.project = None  # these name an OpenAI account: no other server's business
    return client


class _EndlessError(Exception):
    """An answer of more than ``_MOST_BYTES``."""


def _bounded_client(*, trust_env: bool) -> httpx2.AsyncClient:
    """A client that reads no body further than ``_MOST_BYTES``, errors' and redirections' included.

    They are counted as they are decompressed, piece by piece: a few kilobytes may stand for gigabytes.
    """
    import httpx2
    import openai

    class Bounded(openai.DefaultAsyncHttpxClient):
        async def send(self, request: httpx2.Request, *, stream: bool = False, **options: Any) -> httpx2.Response:  # noqa: ARG002
            response = await super().send(request, **options, stream=True, follow_redirects=False)
            for _ in range(_MOST_HOPS):
                if response.next_request is None:
                    break
                await response.aclose()
                response = await super().send(response.next_request, **options, stream=True, follow_redirects=False)
            try:
                body = await _read(response)
            finally:
                await response.aclose()
            encoded = ("content-encoding", "content-length", "transfer-encoding")
            headers = [(name, value) for name, value in response.headers.multi_items() if name.lower() not in encoded]
            return httpx2.Response(response.status_code, headers=headers, content=body, request=response.request)

    return Bounded(trust_env=trust_env)


async def _read(response: httpx2.Response) -> bytes:
    body = bytearray()
    async for piece in response.aiter_bytes():
        body += piece
        if len(body) > _MOST_BYTES:
            raise _EndlessError
    return bytes(body)


def _lowered(headers: Mapping[str, str]) -> dict[str, str]:
    return {name.lower(): value for name, value in headers.items()}


def _reason(error: BaseException) -> str:
    """Why a connection failed: the operating system's words, or the kind of error.

    Never the text of other layers, which may quote headers.
    """
    kind = type(error.__cause__ or error).__name__
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, OSError) and cause.strerror:
            return f"{kind} ({cause.strerror})"
        cause = cause.__cause__ or cause.__context__
    return kind
