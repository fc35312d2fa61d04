"""One server that speaks OpenAI's API: the requests it receives, and the answers it returns.

The client library does the HTTP. Its retries are switched off, since ``engine.dispatch.retry`` retries for every
backend, and so is its use of the environment: the key comes from the one variable named by the options, the address
from the options.
"""

from __future__ import annotations

import asyncio
import ipaddress
import os
from collections.abc import Awaitable, Callable, Mapping
from typing import TYPE_CHECKING, Any, Literal
from urllib.parse import urlsplit

from selfinstruct.backends.openai.addresses import endpoint_root, key_headers, query_of
from selfinstruct.backends.openai.answers import read_answer
from selfinstruct.backends.openai.dialect import LIMITS, Dialect, read_demand
from selfinstruct.backends.openai.discovery import Discovery, Refusal
from selfinstruct.backends.openai.error_body import ServerInfo, decoded, is_error, read_error
from selfinstruct.backends.openai.keys import completion_without_key, is_openai, read_key, redacted, without_key
from selfinstruct.backends.openai.options import OpenAIOptions
from selfinstruct.backends.openai.reasoning import reasoning_fields
from selfinstruct.backends.openai.refusals import read_refusal
from selfinstruct.backends.openai.stream import EventStream, StreamCutError, StreamError
from selfinstruct.errors import BackendError, ConfigError, SelfInstructError, TransientError, UnreachableError
from selfinstruct.records import Completion, Request

if TYPE_CHECKING:
    import httpx2
    from openai import AsyncOpenAI

__all__ = ["Server"]

_MAX_BYTES = 16 << 20  # decompressed size of an answer: ten choices of 128k tokens in their longest JSON form
_MAX_REDIRECTS = 5
_CONNECT_S = 15.0  # detects an unreachable host long before a long completion would time out


class Server:
    """Completions over HTTP, one attempt each.

    Args:
        options: The backend's options, which ``start`` checks.
        url: One of the addresses in the options.
        key: A key that is in no environment variable, such as the one a local server was started with.

    Attributes:
        discovery: How the server wants to be asked, as far as its refusals have shown.
    """

    def __init__(self, options: OpenAIOptions, url: str, *, key: str | None = None) -> None:
        self._options = options
        self._url = url
        self._key = key
        self._client: AsyncOpenAI | None = None
        self._info = ServerInfo(redacted(url), options.model or "", "", False)
        self._secret = ""
        self.discovery = Discovery(self._info.url, _known_dialect(options))

    @property
    def name(self) -> str:
        """The address in a form that can be shown."""
        return self._info.url

    async def start(self) -> None:
        """Check options and address, and create the client. Sends nothing.

        Raises:
            ConfigError: The model is missing, the address is not a URL, a required key is missing, or the key cannot be
                sent in a header.
        """
        options, url = self._options, self._url
        if not options.model:
            raise ConfigError("which model? Name one that the server offers: --model NAME")
        host = _check_url(url)
        variable = options.key_variable(url)
        key = self._key or read_key(variable)
        if key is None and is_openai(host):
            raise ConfigError(f"no API key: set the environment variable {variable}")
        self._info = ServerInfo(redacted(url), options.model, variable, key is not None, self.hide)
        self._secret = key or ""
        self._client = _open_client(url, host, key or "none", options.timeout_s)

    async def complete(self, request: Request) -> Completion:
        """Return the completion of a request; see ``Backend.complete`` for the errors.

        It is sent once, and again at once for each refusal that asks for another dialect.
        """
        body = self.body(request)

        async def ask(dialect: Dialect) -> Completion | Refusal:
            sent = dialect.apply(body)
            status, headers, content = await self._post_completion(request, sent)
            return self.read(request, sent, status, headers, content)

        return await self.discovery.complete(ask)

    def read(
        self, request: Request, sent: Mapping[str, Any], status: int, headers: Mapping[str, str], body: bytes
    ) -> Completion | Refusal:
        """Return the completion in an answer to a request, or a refusal that another dialect may overcome.

        Args:
            sent: The body of the request.

        Raises:
            SelfInstructError: See ``Backend.complete``.
        """
        failure: SelfInstructError
        try:
            if status == 200:
                return completion_without_key(read_answer(self._info, body, chat=not request.is_raw), self._secret)
            failure = self.refusal(status, headers, body, schema=request.sampling.schema is not None, sent=sent)
        except SelfInstructError as error:
            failure = self._without_key(error)
        if status != 200 or _holds_error(body):
            error_body, fixed = read_error(self._info, body), self._options.fixed_fields
            demand = read_demand(status, error_body, sent, fixed=fixed)
            if demand is not None:
                return Refusal(demand, failure)
        raise failure

    def refusal(
        self,
        status: int,
        headers: Mapping[str, str],
        body: bytes,
        *,
        schema: bool = False,
        sent: Mapping[str, Any] | None = None,
    ) -> SelfInstructError:
        """Return the error for a status other than 200, without the key.

        Args:
            schema: Whether the request carried a JSON schema.
            sent: The body of the request, if it was one for a completion.
        """
        return self._without_key(read_refusal(self._info, status, headers, body, schema=schema, sent=sent))

    def _without_key(self, failure: SelfInstructError) -> SelfInstructError:
        failure.args = tuple(self.hide(str(text)) for text in failure.args)  # some servers echo keys
        return failure

    async def _post_completion(self, request: Request, body: Mapping[str, Any]) -> tuple[int, Mapping[str, str], bytes]:
        """Post a request for a completion and return status, headers and body; see ``call``.

        An answer that arrives piece by piece is assembled into the body of an ordinary one.
        """
        path = "/completions" if request.is_raw else "/chat/completions"
        if not body.get("stream"):
            return await self.call("post", path, body=body)
        stream = EventStream(chat=not request.is_raw)
        failure: TransientError
        try:
            status, headers, content = await self.call("post", path, stream.feed, body=body)
            if status != 200:
                return status, headers, content
            stream.end()
            return status, headers, stream.body(accept_unnamed=self.discovery.names_no_ending(stream))
        except StreamCutError as error:
            failure = UnreachableError(f"no complete answer from {self._info.url}: {error}")
        except StreamError as error:
            failure = TransientError(f"{self._info.url} answered with a broken stream: {error}")
        raise failure

    async def post(self, path: str, body: Mapping[str, Any]) -> tuple[int, Mapping[str, str], bytes]:
        """Post to a path under the base URL and return status, headers and body; see ``call``."""
        return await self.call("post", path, body=body)

    async def call(
        self, method: Literal["get", "post"], path: str, take: Callable[[bytes], None] | None = None, **arguments: Any
    ) -> tuple[int, Mapping[str, str], bytes]:
        """Send any call and return status, headers and body of the answer.

        Args:
            take: Receives the pieces of a successful answer's body as they arrive. The body is then neither limited nor
                returned.
            arguments: Passed to the client's method: ``body``, ``files``, ``options``.

        Raises:
            BackendError: The backend was not started, or is closed.
            UnreachableError: The connection failed or was lost, or the answer did not arrive in time.
            TransientError: The answer exceeds the size limit.
        """
        import httpx2
        import openai

        client = self._client
        if client is None:
            raise BackendError("the backend was not started, or is closed")
        send: Callable[..., Awaitable[httpx2.Response]] = client.get if method == "get" else client.post
        failure: TransientError
        try:
            async with asyncio.timeout(self._options.timeout_s):
                response = await send(path, cast_to=httpx2.Response, stream=take is not None, **arguments)
                if take is not None:
                    await _pass_on(response, take)
                    return response.status_code, _lowered(response.headers), b""
            return response.status_code, _lowered(response.headers), response.content
        except openai.APIStatusError as error:
            return error.status_code, _lowered(error.response.headers), error.response.content
        except TimeoutError:
            failure = UnreachableError(f"no complete answer from {self._info.url} within {self._options.timeout_s:g} s")
        except _TooLongError:
            what = f"{self._info.url} answered with more than {_MAX_BYTES >> 20} MiB, which no completion takes"
            failure = TransientError(what)
        except openai.APITimeoutError as error:
            failure = UnreachableError(f"{self._info.url} did not answer in time", unheard=_never_connected(error))
        except (openai.APIConnectionError, httpx2.HTTPError) as error:  # the latter while a body is passed on
            what = f"no answer from {self._info.url}: {_reason(error)}"
            failure = UnreachableError(what, unheard=_never_connected(error))
        # Raised outside the handlers: the client's error holds the request and its headers, the key among them, and
        # would become the context of this one.
        raise failure

    def body(self, request: Request) -> dict[str, Any]:
        """Return the body of the HTTP request.

        ``temperature`` and ``top_p`` are always sent, since servers have different defaults. Other fields are sent only
        if they differ from the API's default, since not every server knows every field.
        """
        sampling, options = request.sampling, self._options
        body: dict[str, Any] = {"model": options.model}
        limit = "max_tokens"
        if request.is_raw:
            body["prompt"] = request.turns[0].text
        else:
            body["messages"] = [{"role": turn.role, "content": turn.text} for turn in request.turns]
            default = "max_completion_tokens" if is_openai(urlsplit(self._url).hostname or "") else "max_tokens"
            limit = options.max_tokens_name or default
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
            body |= self._schema_fields(sampling.schema, raw=request.is_raw)
        if not request.is_raw:
            body |= reasoning_fields(options, urlsplit(self._url).hostname or "")
        return {name: value for name, value in body.items() if name not in options.omit} | dict(options.extra_body)

    def _schema_fields(self, schema: Mapping[str, Any], *, raw: bool) -> dict[str, Any]:
        """Return the field that asks for JSON according to a schema.

        Raises:
            BackendError: The server's name for the field is not known.
        """
        if not raw:
            # The API requires a name and does not use it.
            response_format = {"name": "answer", "schema": schema, "strict": True}
            return {"response_format": {"type": "json_schema", "json_schema": response_format}}
        name = self._options.schema_field
        if name is None:
            raise BackendError(
                f"how does {self._info.url} take a JSON schema for raw completions? Name its field with "
                "schema_field, ask with --api chat, or set structured to false"
            )
        return {name: {"json": schema} if name == "structured_outputs" else schema}

    def hide(self, text: str) -> str:
        """Return the text without the key."""
        return without_key(text, self._secret)

    async def close(self) -> None:
        """Close every connection, including those with a request in flight."""
        client, self._client = self._client, None
        if client is not None:
            await client.close()


def _known_dialect(options: OpenAIOptions) -> Dialect:
    """Return the dialect in the options, without a name of the token limit if servers differ in it."""
    refused = frozenset(options.refused)
    return Dialect(refused - LIMITS.keys() if LIMITS.keys() <= refused else refused, bool(options.stream))


def _holds_error(body: bytes) -> bool:
    """Return whether the body of a success holds an error and no completion."""
    value = decoded(body)
    return isinstance(value, Mapping) and not value.get("choices") and is_error(value)


def _check_url(url: str) -> str:
    """Return the host of a base URL."""
    try:
        parts = urlsplit(url)
        host, _ = parts.hostname, parts.port
    except ValueError:
        parts, host = urlsplit(""), None
    if parts.scheme not in ("http", "https") or not host:
        raise ConfigError(f"base URL {redacted(url)!r} is not valid: write it like http://localhost:8000/v1")
    return host


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _open_client(url: str, host: str, key: str, timeout_s: float) -> AsyncOpenAI:
    import openai

    client = openai.AsyncOpenAI(
        base_url=endpoint_root(url),
        default_query=query_of(url),
        api_key=key,
        admin_api_key="",  # else it is read from the environment
        # The key too, else OPENAI_CUSTOM_HEADERS could replace it.
        default_headers={"Authorization": f"Bearer {key}", "Accept-Encoding": "gzip"},
        max_retries=0,
        timeout=openai.Timeout(timeout_s, connect=min(_CONNECT_S, timeout_s)),
        # A proxy named by the environment can't reach this machine's loopback.
        http_client=_bounded_client(key_headers(url, key), trust_env=not _is_loopback(host)),
    )
    if not is_openai(host):
        client.organization = client.project = None  # they name an OpenAI account, which no other server may see
    return client


class _TooLongError(Exception):
    """An answer longer than ``_MAX_BYTES``."""


def _bounded_client(key: Mapping[str, str], *, trust_env: bool) -> httpx2.AsyncClient:
    """Return a client that reads at most ``_MAX_BYTES`` of a body, also of errors and redirects.

    Bytes are counted after decompression, piece by piece: a few kilobytes may expand to gigabytes.

    Args:
        key: The header that carries the key. It replaces the one of the client library, and stays at its host.
    """
    import httpx2
    import openai

    class Bounded(openai.DefaultAsyncHttpxClient):
        async def send(self, request: httpx2.Request, *, stream: bool = False, **options: Any) -> httpx2.Response:
            request.headers.pop("Authorization", None)
            request.headers.update(key)
            response = await super().send(request, **options, stream=True, follow_redirects=False)
            for _ in range(_MAX_REDIRECTS):
                if (following := response.next_request) is None:
                    break
                await response.aclose()
                if following.url.netloc != request.url.netloc:
                    for name in key:
                        following.headers.pop(name, None)
                response = await super().send(following, **options, stream=True, follow_redirects=False)
            if stream and response.is_success:
                return response  # the caller limits the body
            try:
                body = await _read(response)
            finally:
                await response.aclose()
            encoded = ("content-encoding", "content-length", "transfer-encoding")
            headers = [(name, value) for name, value in response.headers.multi_items() if name.lower() not in encoded]
            return httpx2.Response(response.status_code, headers=headers, content=body, request=response.request)

    return Bounded(trust_env=trust_env)


async def _pass_on(response: httpx2.Response, take: Callable[[bytes], None]) -> None:
    try:
        async for piece in response.aiter_bytes():
            take(piece)
    finally:
        await response.aclose()


async def _read(response: httpx2.Response) -> bytes:
    body = bytearray()
    async for piece in response.aiter_bytes():
        body += piece
        if len(body) > _MAX_BYTES:
            raise _TooLongError
    return bytes(body)


def _lowered(headers: Mapping[str, str]) -> dict[str, str]:
    return {name.lower(): value for name, value in headers.items()}


def _never_connected(error: BaseException) -> bool:
    """Return whether no connection was made, so that nothing was sent."""
    import httpx2

    return isinstance(error.__cause__ or error, httpx2.ConnectError | httpx2.ConnectTimeout)


def _reason(error: BaseException) -> str:
    """Return why a connection failed: the operating system's message, or the type of the error.

    The text of other layers is never repeated, since it may quote headers.
    """
    kind = type(error.__cause__ or error).__name__
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, ConnectionError) and cause.errno:  # asyncio's own message repeats the address instead
            return f"{kind} ({os.strerror(cause.errno)})"
        if isinstance(cause, OSError) and cause.strerror:
            return f"{kind} ({cause.strerror})"
        cause = cause.__cause__ or cause.__context__
    return kind
