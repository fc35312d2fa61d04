"""Any server that speaks OpenAI's API, or several: OpenAI itself, ``vllm serve``, llama-server, Ollama, gateways."""

from __future__ import annotations

from selfinstruct.backends.base import (
    ALL_APIS,
    AdaptiveBackend,
    BackendObserver,
    BackendSpec,
    Capabilities,
    StatusCallback,
)
from selfinstruct.backends.openai.findings import Findings
from selfinstruct.backends.openai.options import OpenAIOptions
from selfinstruct.backends.openai.server import Server
from selfinstruct.backends.openai.server_pool import ServerPool
from selfinstruct.errors import BackendError, RequestError
from selfinstruct.prompts import Api
from selfinstruct.records import Completion, Request

__all__ = ["OPENAI", "OpenAIBackend", "OpenAIOptions", "openai_capabilities"]


_DISCOVERED = frozenset({"stream", "refused"})


class OpenAIBackend(AdaptiveBackend):
    """Completions over HTTP, one attempt each, by the server with the fewest requests.

    Args:
        options: The options, which ``start`` checks.
        on_status: Called when the set of unavailable servers changes, with a line about them; "" when all are up.
    """

    def __init__(self, options: OpenAIOptions, on_status: StatusCallback = lambda _: None) -> None:
        self._options = options
        self._servers = [Server(options, url) for url in options.addresses]
        self._pool = ServerPool([server.name for server in self._servers], on_status)

    def observe(self, observer: BackendObserver) -> None:
        Findings([server.discovery for server in self._servers], self._options.model or "", observer)

    async def start(self) -> None:
        """Check the options and create the clients. Sends nothing.

        Raises:
            ConfigError: The model is missing, an address is not a URL, a required key is missing, or a key cannot be
                sent in a header.
        """
        for server in self._servers:
            await server.start()

    async def complete(self, request: Request) -> Completion:
        """Send one request once, to one server. ``Backend.complete`` and ``ServerPool.failed`` list the errors."""
        with self._pool.acquire(request.number) as slot:
            try:
                completion = await self._servers[slot.index].complete(request)
            except RequestError as error:
                failure = self._pool.refused(slot, request.number, error).with_facts_of(error)
            except BackendError as error:
                failure = self._pool.failed(slot, error).with_facts_of(error)
            else:
                self._pool.answered(slot, request.number)
                return completion
        raise failure  # outside the handler, so that the server's own error does not become its context

    async def close(self) -> None:
        """Close every connection, including those with a request in flight."""
        for server in self._servers:
            await server.close()


def openai_capabilities(options: OpenAIOptions) -> Capabilities:
    """Return the capabilities of a server that speaks OpenAI's API."""
    chat_only: frozenset[Api] = frozenset(("chat",))
    return Capabilities(
        concurrency=options.concurrency,
        raw_prompts=options.api == "completion",
        schema_apis=ALL_APIS if options.schema_field else chat_only,  # raw prompts have no standard field for a schema
        schema_option="schema_field",
        reasoning_option="thinking",
    )


OPENAI = BackendSpec(
    name="openai",
    options=OpenAIOptions,
    open=OpenAIBackend,
    capabilities=openai_capabilities,
    free_options=frozenset(
        {
            "base_url",
            "api_key_env",
            "timeout_s",
            "concurrency",
            "schema_field",
            "thinking",
            "reasoning_effort",
            "stream",
            "refused",
        }
    ),
    discovered_options=frozenset({"stream", "refused"}),
)
