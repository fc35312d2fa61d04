"""llama.cpp in this process: a GGUF model behind an OpenAI-compatible endpoint on loopback.

``xllamacpp`` starts llama.cpp's own server in threads of this process, on a free port that a random key protects;
requests are sent to it through ``Server``. The server ends with the process, even if the process is killed.
"""

from __future__ import annotations

import asyncio
import json
import secrets
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from selfinstruct.backends import threads
from selfinstruct.backends.base import ALL_APIS, Backend, BackendSpec, Capabilities
from selfinstruct.backends.openai.options import OpenAIOptions, check_fields
from selfinstruct.backends.openai.server import Server
from selfinstruct.common import embedded, gguf
from selfinstruct.common.chat_template import ChatTemplate
from selfinstruct.errors import BackendError, MissingExtraError, RequestError, TransientError
from selfinstruct.prompts import Api
from selfinstruct.records import Completion, Request

__all__ = ["LLAMACPP", "LlamaCppBackend", "LlamaCppOptions", "load_chat_template"]

_TEMPLATE_TOKENS = 256  # allowance for a chat template's own tokens, until tokens are counted exactly
_CACHE_MIB = 256


@dataclass(frozen=True, slots=True)
class LlamaCppOptions:
    """How to load and run the model.

    Attributes:
        model: Path of a .gguf file; null is the embedded model.
        api: Kind of prompt that suits the model: raw ``completion`` prompts, or ``chat`` messages in the model's
            template.
        context: Most tokens of one request, prompt and completion together.
        slots: Requests in flight, and most choices (``n``) of one request. Each slot has a context for itself and
            caches its last prompt, so that a shared prefix is processed once per slot.
        threads: CPU threads; null measures how busy the machine is and uses the idle cores.
        gpu_layers: Layers on the GPU; null lets llama.cpp use the memory there is, 0 stays on the CPU.
        cache_prompt: Reuse the prefix that a prompt shares with the previous prompt of its slot.
        top_k: Sample among this many most likely tokens; 0 for all. llama.cpp's default, made explicit.
        min_p: Exclude tokens less likely than this fraction of the most likely one; 0 for none. llama.cpp's default,
            made explicit.
        timeout_s: Time limit of one request in seconds.
        extra_body: Further fields of each request's body, as llama.cpp's server defines them.
        thinking: false asks a model that reasons to answer at once, by the variables of its chat template.
    """

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
    thinking: bool | None = None

    def __post_init__(self) -> None:
        if min(self.context, self.slots) < 1 or (self.threads is not None and self.threads < 1):
            raise ValueError("context, slots and threads must be at least 1")
        if self.timeout_s <= 0:
            raise ValueError("timeout_s must be above 0")
        check_fields("extra_body", self.extra_body)


def load_chat_template(options: LlamaCppOptions) -> ChatTemplate | None:
    """Read the chat template in the model's file; None if it has none.

    Raises:
        EmbeddedModelError, ModelFileError: The file is missing or not a model.
    """
    return gguf.chat_template(embedded.find() if options.model is None else _model_file(options.model))


class _LlamaServer(Server):
    """A client of llama.cpp's server that makes stop strings work if they are special tokens."""

    def body(self, request: Request) -> dict[str, Any]:
        body = super().body(request)
        if request.is_raw and request.sampling.stop:
            # llama.cpp does not write special tokens out, so they would never match a stop string. It preserves the
            # strings in this list that are single tokens.
            body.setdefault("preserved_tokens", list(request.sampling.stop))
        return body


class LlamaCppBackend(Backend):
    """Completions by llama.cpp in this process.

    Attributes:
        threads: Number of CPU threads, chosen by ``start``; 0 before.
    """

    def __init__(self, options: LlamaCppOptions) -> None:
        self.threads = 0
        self._options = options
        self._server: Any = None
        self._client: Server | None = None

    async def start(self) -> None:
        """Check the file, load the model and open the endpoint.

        llama.cpp holds Python's global lock while it loads (half a second for the embedded model, longer for larger
        ones). Until then nothing else in this process runs, including the handler of Ctrl-C.

        Raises:
            MissingExtraError: ``xllamacpp`` is not installed.
            EmbeddedModelError: The embedded model is not installed, or is damaged.
            ModelFileError: The file is not a model that llama.cpp can load.
            BackendError: llama.cpp refused the model.
        """
        options = self._options
        llama = _import()
        path = await asyncio.to_thread(_model_file, options.model)
        self.threads = options.threads or threads.choose_threads(threads.cores(), await threads.busy_cores())
        key = secrets.token_urlsafe(24)
        self._server = await asyncio.to_thread(_open_server, llama, path, options, self.threads, key)
        fields: dict[str, Any] = {
            "cache_prompt": options.cache_prompt,
            "top_k": options.top_k,
            "min_p": options.min_p,
            **options.extra_body,
        }
        client_options = OpenAIOptions(
            model=path.name,
            api=options.api,
            timeout_s=options.timeout_s,
            concurrency=options.slots,
            extra_body=fields,
            thinking=options.thinking,
            schema_field="json_schema",  # llama.cpp's /completions ignores response_format without an error
        )
        self._client = _LlamaServer(client_options, f"{self._server.listening_address}/v1", key=key)
        await self._client.start()

    async def complete(self, request: Request) -> Completion:
        """Send one request once; see ``Backend.complete`` for the errors.

        A request whose prompt and token limit together exceed the context is refused, as other servers do; llama.cpp by
        itself would silently cut the answer short.
        """
        if self._client is None:
            raise BackendError("the backend was not started, or is closed")
        limit, max_tokens = self._options.context, request.sampling.max_tokens
        # A token is at least one byte, so a shorter request surely fits and needs no exact count.
        if request.text_bytes + max_tokens + _TEMPLATE_TOKENS > limit:
            prompt_tokens = await self._count_tokens(self._client, request)
            if prompt_tokens + max_tokens > limit:
                raise RequestError(
                    "context_length",
                    f"{prompt_tokens} tokens of prompt and {max_tokens} of answer exceed the context of {limit} "
                    "tokens: begin a new run with a larger --set llamacpp.context=, or shorten prompt or answer",
                )
        return await self._client.complete(request)

    async def _count_tokens(self, client: Server, request: Request) -> int:
        """Return the number of tokens of the prompt, including those added by the model's template.

        Raises:
            TransientError: The server's answer is not usable.
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
        """Stop the server, join its threads and free the model."""
        client, self._client = self._client, None
        server, self._server = self._server, None
        if client is not None:
            # The client must close first: llama.cpp's server waits for its open connections, without a limit.
            await client.close()
        if server is not None:
            holder = [server]
            del server
            await asyncio.to_thread(holder.clear)  # the last reference: its destructor stops and joins


def _import() -> Any:
    """Import ``xllamacpp``, whose package is needed only here."""
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


def _open_server(llama: Any, path: Path, options: LlamaCppOptions, thread_count: int, key: str) -> Any:
    params = llama.CommonParams()
    params.model.path = str(path)
    params.model_alias = {path.name}  # else answers would contain the full path
    params.n_ctx = options.context * options.slots  # shared among the slots
    params.n_parallel = options.slots
    params.kv_unified = False
    params.cache_prompt = options.cache_prompt
    params.cache_ram_mib = _CACHE_MIB if options.cache_prompt else 0  # its default may grow to 8 GiB
    params.cpuparams.n_threads = thread_count
    params.cpuparams_batch.n_threads = thread_count
    if options.gpu_layers is not None:
        params.n_gpu_layers = options.gpu_layers
        params.fit_params = False
    params.warmup = False
    params.hostnames = ["127.0.0.1"]
    params.port = 0  # the system chooses a free one
    params.api_keys = [key]
    params.endpoint_slots = False  # it would expose prompts
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


LLAMACPP = BackendSpec(
    name="llamacpp",
    options=LlamaCppOptions,
    open=lambda options, _: LlamaCppBackend(options),
    capabilities=lambda options: Capabilities(
        concurrency=options.slots,
        raw_prompts=True,
        schema_apis=ALL_APIS,
        max_choices=options.slots,
        max_choices_option="slots",
        reasoning_option="thinking",
    ),
    free_options=frozenset({"slots", "threads", "gpu_layers", "cache_prompt", "timeout_s", "thinking"}),
    load_chat_template=load_chat_template,
)
