"""One server that speaks OpenAI's API: what is sent to it, and what comes back.

The client library does the HTTP; its retries are off (they stand in ``retry``, once for every backend), and so are its
guesses from the environment: the key comes from the one variable that the options name, the address from the options.
"""

from __future__ import annotations

import asyncio
import ipaddress
import os
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from selfinstruct.backends.openai.answers import ServerInfo, read_answer, read_refusal
from selfinstruct.backends.openai.keys import completion_without_key, is_openai, read_key, redacted, without_key
from selfinstruct.backends.openai.options import OpenAIOptions
from selfinstruct.errors import BackendError, ConfigError, SelfInstructError, TransientError, UnreachableError
from selfinstruct.records import Completion, Request

if TYPE_CHECKING:
    import httpx2
    from openai import AsyncOpenAI

__all__ = ["Server"]

_MOST_BYTES = 16 << 20  # of an answer, once decompressed: ten choices of 128k tokens as JSON writes them at its longest
_MOST_HOPS = 5  # redirections that one request follows
_CONNECT_S = 15.0  # a host that does not answer at all is known as such long before a long completion is


class Server:
    """Completions over HTTP, one attempt each.

    Args:
        options: Of the backend; checked by ``start``.
        url: Which of its addresses.
        key: A key that no environment variable holds: the one a local server was started with.
    """

    def __init__(self, options: OpenAIOptions, url: str, *, key: str | None = None) -> None:
        self._options = options
        self._url = url
        self._key = key
        self._client: AsyncOpenAI | None = None
        self._peer = ServerInfo(redacted(url), options.model or "", "", False)
        self._secret = ""

    @property
    def name(self) -> str:
        """The address, as it may be shown."""
        return self._peer.url

    async def start(self) -> None:
        """Check options and address, and make the client. Sends nothing.

        Raises:
            ConfigError: No model, an address that is none, no key where one is needed, or a key that can't be sent.
        """
        options, url = self._options, self._url
        if not options.model:
            raise ConfigError("which model? Name one that the server offers: --model NAME")
        host = _check_url(url)
        variable = options.key_variable(url)
        key = self._key or read_key(variable)
        if key is None and is_openai(host):
            raise ConfigError(f"no API key: set the environment variable {variable}")
        self._peer = ServerInfo(redacted(url), options.model, variable, key is not None, self.hide)
        self._secret = key or ""
        self._client = _open_client(url, host, key or "none", options.timeout_s)

    async def complete(self, request: Request) -> Completion:
        """One attempt at one request; see ``Backend.complete`` for the errors."""
        path = "/completions" if request.is_raw else "/chat/completions"
        status, headers, body = await self.post(path, self.body(request))
        return self.read(request, status, headers, body)

    def read(self, request: Request, status: int, headers: Mapping[str, str], body: bytes) -> Completion:
        """The completion in an answer to a request; see ``Backend.complete`` for the errors."""
        failure: SelfInstructError
        try:
            if status == 200:
                return completion_without_key(read_answer(self._peer, body, chat=not request.is_raw), self._secret)
            failure = self.refusal(status, headers, body, schema=request.sampling.schema is not None)
        except SelfInstructError as error:
            failure = self._hidden(error)
        raise failure

    def refusal(
        self, status: int, headers: Mapping[str, str], body: bytes, *, schema: bool = False
    ) -> SelfInstructError:
        """The error for a status other than 200, without the key; ``schema``: JSON by schema was asked for."""
        return self._hidden(read_refusal(self._peer, status, headers, body, schema=schema))

    def _hidden(self, failure: SelfInstructError) -> SelfInstructError:
        failure.args = tuple(self.hide(str(text)) for text in failure.args)  # servers have echoed keys before
        return failure

    async def post(self, path: str, body: Mapping[str, Any]) -> tuple[int, Mapping[str, str], bytes]:
        """Status, headers and body of whatever the server answers to a path under the base URL; see ``call``."""
        return await self.call("post", path, body=body)

    async def call(
        self, method: str, path: str, take: Callable[[bytes], None] | None = None, **more: Any
    ) -> tuple[int, Mapping[str, str], bytes]:
        """Status, headers and body of the answer to any call.

        Args:
            method: ``get`` or ``post``.
            take: Is given the pieces of a success's body as they come; it has no bound then, and is not kept.
            more: As the client's method takes it: ``body``, ``files``, ``options``.

        Raises:
            BackendError: The backend was not started, or is closed.
            UnreachableError: There is no connection to it, it was lost, or nothing came in time.
            TransientError: It answers without end. All are raised outside the handlers, so that no
                exception that holds the request and its headers hangs on to them.
        """
        import httpx2
        import openai

        client = self._client
        if client is None:
            raise BackendError("the backend was not started, or is closed")
        failure: TransientError
        try:
            async with asyncio.timeout(self._options.timeout_s):
                send = getattr(client, method)
                response = await send(path, cast_to=httpx2.Response, stream=take is not None, **more)
                if take is not None:
                    await _hand_over(response, take)
                    return response.status_code, _lowered(response.headers), b""
            return response.status_code, _lowered(response.headers), response.content
        except openai.APIStatusError as error:
            return error.status_code, _lowered(error.response.headers), error.response.content
        except TimeoutError:
            failure = UnreachableError(f"no complete answer from {self._peer.url} within {self._options.timeout_s:g} s")
        except _EndlessError:
            what = f"{self._peer.url} answered with more than {_MOST_BYTES >> 20} MiB: no completion is so long"
            failure = TransientError(what)
        except openai.APITimeoutError as error:
            failure = UnreachableError(f"{self._peer.url} did not answer in time", unheard=_is_unheard(error))
        except (openai.APIConnectionError, httpx2.HTTPError) as error:  # the second while a body is handed over
            what = f"no answer from {self._peer.url}: {_reason(error)}"
            failure = UnreachableError(what, unheard=_is_unheard(error))
        raise failure

    def body(self, request: Request) -> dict[str, Any]:
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
            own = is_openai(urlsplit(self._url).hostname or "")
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
                f"how does {self._peer.url} take a JSON schema for raw completions? Name its field with "
                "schema_field, ask with --api chat, or set structured to false"
            )
        return {name: {"json": schema} if name == "structured_outputs" else schema}

    def hide(self, text: str) -> str:
        """The text without the key."""
        return without_key(text, self._secret)

    async def close(self) -> None:
        """Close every connection, those with a request under way too."""
        client, self._client = self._client, None
        if client is not None:
            await client.close()


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
    if not is_openai(host):
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
        async def send(self, request: httpx2.Request, *, stream: bool = False, **options: Any) -> httpx2.Response:
            response = await super().send(request, **options, stream=True, follow_redirects=False)
            for _ in range(_MOST_HOPS):
                if response.next_request is None:
                    break
                await response.aclose()
                response = await super().send(response.next_request, **options, stream=True, follow_redirects=False)
            if stream and response.is_success:
                return response  # whoever asked for it counts
            try:
                body = await _read(response)
            finally:
                await response.aclose()
            encoded = ("content-encoding", "content-length", "transfer-encoding")
            headers = [(name, value) for name, value in response.headers.multi_items() if name.lower() not in encoded]
            return httpx2.Response(response.status_code, headers=headers, content=body, request=response.request)

    return Bounded(trust_env=trust_env)


async def _hand_over(response: httpx2.Response, take: Callable[[bytes], None]) -> None:
    try:
        async for piece in response.aiter_bytes():
            take(piece)
    finally:
        await response.aclose()


async def _read(response: httpx2.Response) -> bytes:
    body = bytearray()
    async for piece in response.aiter_bytes():
        body += piece
        if len(body) > _MOST_BYTES:
            raise _EndlessError
    return bytes(body)


def _lowered(headers: Mapping[str, str]) -> dict[str, str]:
    return {name.lower(): value for name, value in headers.items()}


def _is_unheard(error: BaseException) -> bool:
    """Whether no connection came about, so that nothing was sent."""
    import httpx2

    return isinstance(error.__cause__ or error, httpx2.ConnectError | httpx2.ConnectTimeout)


def _reason(error: BaseException) -> str:
    """Why a connection failed: the operating system's words, or the kind of error.

    Never the text of other layers, which may quote headers.
    """
    kind = type(error.__cause__ or error).__name__
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, ConnectionError) and cause.errno:  # asyncio's own words repeat the address instead
            return f"{kind} ({os.strerror(cause.errno)})"
        if isinstance(cause, OSError) and cause.strerror:
            return f"{kind} ({cause.strerror})"
        cause = cause.__cause__ or cause.__context__
    return kind
