"""Any server that speaks OpenAI's API, or several: OpenAI itself, ``vllm serve``, llama-server, Ollama, gateways."""

from __future__ import annotations

from collections.abc import Callable
from typing import ClassVar

from selfinstruct.backends.openai.options import OpenAIOptions
from selfinstruct.backends.openai.server import Server
from selfinstruct.backends.openai.server_pool import ServerPool
from selfinstruct.errors import BackendError, RequestError
from selfinstruct.records import Completion, Request

__all__ = ["OpenAIBackend", "OpenAIOptions"]


class OpenAIBackend:
    """Completions over HTTP, one attempt each, at whichever server has the fewest requests.

    Args:
        options: Checked by ``start``.
        tell: Told which servers are set aside whenever that changes; "" when none is.
    """

    name: ClassVar[str] = "openai"

    def __init__(self, options: OpenAIOptions, *, tell: Callable[[str], None] | None = None) -> None:
        self.concurrency = options.concurrency
        self._servers = [Server(options, url) for url in options.addresses]
        self._fleet = ServerPool([server.name for server in self._servers], tell or (lambda _: None))

    async def start(self) -> None:
        """Check the options and make the clients. Sends nothing.

        Raises:
            ConfigError: No model, an address that is none, no key where one is needed, or a key that can't be sent.
        """
        for server in self._servers:
            await server.start()

    async def complete(self, request: Request) -> Completion:
        """Send one request once, to one server. ``Backend.complete`` and ``ServerPool.failed`` list the errors."""
        with self._fleet.place() as place:
            try:
                completion = await self._servers[place.at].complete(request)
            except RequestError:
                self._fleet.answered(place)
                raise
            except BackendError as error:
                failure = self._fleet.failed(place, error)
            else:
                self._fleet.answered(place)
                return completion
        raise failure  # outside the handler: the error of the one server may not hang on to it

    async def close(self) -> None:
        """Close every connection, those with a request under way too."""
        for server in self._servers:
            await server.close()
