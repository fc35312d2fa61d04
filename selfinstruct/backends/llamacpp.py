"""llama.cpp in this process: a GGUF model behind an OpenAI-compatible endpoint on loopback.

``xllamacpp`` starts llama.cpp's own server in threads of this process, on a free port that only a random key opens;
requests then go through ``Server``. When the process dies, however it dies, everything dies with it.
"""

from __future__ import annotations

import asyncio
import json
import os
import secrets
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

from selfinstruct.backends import threads as load
from selfinstruct.backends.openai.options import OpenAIOptions, check_fields
from selfinstruct.backends.openai.server import Server
from selfinstruct.common import embedded, gguf
from selfinstruct.common.chat_template import ChatTemplate
from selfinstruct.errors import BackendError, MissingExtraError, RequestError, TransientError
from selfinstruct.prompts import Api
from selfinstruct.records import Completion, Request

__all__ = ["LlamaCppBackend", "LlamaCppOptions"]

_TEMPLATE_TOKENS = 256  # room for what a chat template adds to the messages, before tokens are counted exactly
_CACHE_MIB = 256


@dataclass(frozen=True, slots=True)
class LlamaCppOptions:
    """How to load and run the model.

    Attributes:
        model: Path of a .gguf file; None is the embedded model.
        api: Which prompts suit the model: raw ``completion`` prompts, or ``chat`` messages in the model's template.
        context: Tokens of one request: prompt and completion together.
        slots: Requests at once. Each has its own context and remembers its last prompt, so that a common beginning is
            read once a slot. Also the most choices (``n``) that one request may ask for.
        threads: CPU threads; None looks how busy the machine is (see ``load``).
        gpu_layers: Layers on the GPU; None lets llama.cpp fill what is there, 0 stays on the CPU.
        cache_prompt: Keep the part of a slot's last prompt that the next one begins with.
        top_k: Sample among so many most likely tokens; 0 for all. llama.cpp's own default, said here to stay.
        min_p: Drop tokens less likely than this share of the likeliest one; 0 for none. As above.
        timeout_s: Seconds for one request as a whole.
        extra_body: Further fields of each request's body, as llama.cpp's server knows them.
    """

    FREE: ClassVar[frozenset[str]] = frozenset({"slots", "threads", "gpu_layers", "cache_prompt", "timeout_s"})
    """Options that may change while a run goes on: they decide how fast it answers."""

    RAW: ClassVar[bool] = True
    """Raw prompts are read as they are, whatever ``api`` says."""

    model: str | None = None
    api: Api = "completion"
    context: int = 4096
    slots: int = 4
    threads: int | None = None
    gpu_layers: int | None = None
    cache_prompt: bool = True
    top_k: int = 40
    min_p: float = 0.05
    timeout_s: float = 600.0
    extra_body: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if min(self.context, self.slots) < 1 or (self.threads is not None and self.threads < 1):
            raise ValueError("context, slots and threads must be at least 1")
        if self.timeout_s <= 0:
            raise ValueError("timeout_s must be above 0")
        check_fields("extra_body", self.extra_body)

    def chat_template(self) -> ChatTemplate | None:
        """The model's own, read in its file; None if there is none in it.

        Raises:
            EmbeddedModelError, ModelFileError: The file is not there, or no model.
        """
        return gguf.chat_template(embedded.find() if self.model is None else _model_file(self.model))


class _LlamaServer(Server):
    """llama.cpp's server: of a raw prompt it would end an answer at no special token, since it writes none out."""

    def body(self, request: Request) -> dict[str, Any]:
        body = super().body(request)
        if request.is_raw and request.sampling.stop:
            body.setdefault("preserved_tokens", list(request.sampling.stop))  # of these, it takes those of one token
        return body


class LlamaCppBackend:
    """Completions by llama.cpp in this process.

    Attributes:
        threads: CPU threads chosen by ``start``; 0 before.
    """

    name: ClassVar[str] = "llamacpp"

    def __init__(self, options: LlamaCppOptions) -> None:
        self.concurrency = options.slots
        self.threads = 0
        self._options = options
        self._server: Any = None
        self._client: Server | None = None

    async def start(self) -> None:
        """Check the file, load the model, open the endpoint.

        llama.cpp holds Python's lock while it loads (half a second for the embedded model, more for larger ones): in
        that time nothing else in this process moves, Ctrl-C included.

        Raises:
            MissingExtraError: ``xllamacpp`` is not installed.
            EmbeddedModelError: The embedded model is not installed, or damaged.
            ModelFileError: The file is no model that llama.cpp could load.
            BackendError: llama.cpp refused the model.
        """
        options = self._options
        llama = _import()
        path = await asyncio.to_thread(_model_file, options.model)
        self.threads = options.threads or load.choose_threads(load.cores(), await load.busy_cores())
        key = secrets.token_urlsafe(24)
        self._server = await asyncio.to_thread(_open_server, llama, path, options, self.threads, key)
        fields: dict[str, Any] = {
            "cache_prompt": options.cache_prompt,
            "top_k": options.top_k,
            "min_p": options.min_p,
            **options.extra_body,
        }
        speaking = OpenAIOptions(
            model=path.name,
            api=options.api,
            timeout_s=options.timeout_s,
            concurrency=options.slots,
            extra_body=fields,
            schema_field="json_schema",  # its /completions passes over response_format without a word
        )
        self._client = _LlamaServer(speaking, f"{self._server.listening_address}/v1", key=key)
        await self._client.start()

    async def complete(self, request: Request) -> Completion:
        """One attempt at one request; see ``Backend.complete`` for the errors.

        A request whose prompt and token limit don't fit a slot together is refused, as other servers do; llama.cpp
        alone would cut the answer short without a word.
        """
        if self._client is None:
            raise BackendError("the backend was not started, or is closed")
        limit, wanted = self._options.context, request.sampling.max_tokens
        if request.text_bytes + wanted + _TEMPLATE_TOKENS > limit:  # a token is at least one byte: else it surely fits
            prompt = await self._count_tokens(self._client, request)
            if prompt + wanted > limit:
                raise RequestError(
                    "context_length",
                    f"{prompt} tokens of prompt and {wanted} of answer exceed the context of {limit} tokens: "
                    "begin a new run with a larger --set llamacpp.context=, or shorten prompt or answer",
                )
        return await self._client.complete(request)

    async def _count_tokens(self, client: Server, request: Request) -> int:
        """Tokens of the prompt, with what the model's template and conventions add.

        Raises:
            TransientError: The server doesn't answer as it should.
        """
        if request.is_raw:
            path = f"{self._server.listening_address}/tokenize"
            body: dict[str, Any] = {"content": request.turns[0].text, "add_special": True, "parse_special": True}
        else:
            path = "/chat/completions/input_tokens"
            body = {"messages": [{"role": turn.role, "content": turn.text} for turn in request.turns]}
        status, _, answer = await client.post(path, body)
        try:
            value = json.loads(answer)
            return len(value["tokens"]) if request.is_raw else int(value["input_tokens"])
        except (ValueError, KeyError, TypeError):
            raise TransientError(f"llama.cpp could not count the prompt's tokens (status {status})") from None

    async def close(self) -> None:
        """Stop the server, join its threads, free the model."""
        client, self._client = self._client, None
        server, self._server = self._server, None
        if client is not None:
            # First of all: llama.cpp's server waits for its open connections, and for ever if one is in use.
            await client.close()
        if server is not None:
            holder = [server]
            del server
            await asyncio.to_thread(holder.clear)  # the last reference: its destructor stops and joins


def _import() -> Any:
    """The ``xllamacpp`` module.

    Its threads are told not to spin while they wait for each other: beside another busy process, spinning threads take
    the cores from the one that they wait for, and next to nothing is decoded. The OpenMP runtime reads this once, when
    it is loaded.
    """
    os.environ.setdefault("GOMP_SPINCOUNT", "0")
    try:
        import xllamacpp
    except ImportError:
        raise MissingExtraError("xllamacpp", "llamacpp") from None
    return xllamacpp


def _model_file(model: str | None) -> Path:
    if model is None:
        return embedded.path()
    try:
        path = Path(model).expanduser()
    except RuntimeError:  # "~nobody": no such user
        raise gguf.ModelFileError(f"{model}: the home directory it begins with is not known") from None
    gguf.check(path)
    return path


def _open_server(llama: Any, path: Path, options: LlamaCppOptions, threads: int, key: str) -> Any:
    params = llama.CommonParams()
    params.model.path = str(path)
    params.model_alias = {path.name}  # else answers would carry the path
    params.n_ctx = options.context * options.slots  # shared among the slots
    params.n_parallel = options.slots
    params.kv_unified = False
    params.cache_prompt = options.cache_prompt
    params.cache_ram_mib = _CACHE_MIB if options.cache_prompt else 0  # its own default may grow to 8 GiB
    params.cpuparams.n_threads = threads
    params.cpuparams_batch.n_threads = threads
    if options.gpu_layers is not None:
        params.n_gpu_layers = options.gpu_layers
        params.fit_params = False
    params.warmup = False
    params.hostnames = ["127.0.0.1"]
    params.port = 0  # the system chooses a free one
    params.api_keys = [key]
    params.endpoint_slots = False  # would show prompts
    params.ui = False
    params.verbosity = -1
    try:
        return llama.Server(params)
    except RuntimeError:
        pass
    size = path.stat().st_size
    raise BackendError(
        f"llama.cpp can't load {path} ({size} bytes) with {options.slots} slots of {options.context} tokens. "
        f"It is damaged, or too large for the memory, or xllamacpp {llama.__version__} doesn't know its architecture"
    )
