"""The dialects of servers that people run themselves."""

from __future__ import annotations

from typing import Any

from tests.dialects.replies import (
    HALF,
    OMITTED,
    TOOL_CALL,
    Answer,
    Broken,
    Dialect,
    Json,
    chat,
    cut,
    error,
    flat,
    openai_error,
    reasoned,
    without_text,
)
from tests.loopback import Fault


def _vllm(answer: Answer) -> Json:
    """Show the reasoning in the field of either name, or, without a reasoning parser, in the channels of gpt-oss."""
    message: Json = {"content": answer.text, "refusal": None, "tool_calls": []}
    if answer.thought and answer.task % 3 == 0 and answer.text:
        message["content"] = (
            f"<|channel|>analysis<|message|>{answer.thought}<|end|><|start|>assistant<|channel|>final<|message|>"
            f"{answer.text}<|return|>"
        )
    elif answer.thought:
        message["reasoning" if answer.task % 3 == 1 else "reasoning_content"] = answer.thought
    body = chat(answer, "Qwen/Qwen3-8B", message=message, prompt_logprobs=None, kv_transfer_params=None)
    for choice in body["choices"]:
        choice |= {"logprobs": None, "stop_reason": None}
    return body


def _vllm_error(status: int, message: str, kind: str, param: str | None = None) -> Fault:
    return openai_error(status, message, kind, status, param)


_TOO_LONG = (
    "This model's maximum context length is 4096 tokens. However, you requested 6144 tokens (4096 in the messages, "
    "2048 in the completion). Please reduce the length of the messages or completion."
)

VLLM = Dialect(
    "vLLM",
    "/v1",
    "Qwen/Qwen3-8B",
    _vllm,
    cut=(
        *cut("abort", "length", passes="abort"),
        Broken(Answer(f"{HALF} half, half, half, half", "repetition")),
    ),
    empty=(*without_text("", "<|im_end|>"), TOOL_CALL),
    refused=(
        Broken(_vllm_error(400, _TOO_LONG, "BadRequestError")),
        Broken(flat(400, _TOO_LONG, type="BadRequestError", code=400)),
    ),
    dry=(
        Fault(401, {}, {"error": "Unauthorized"}),
        _vllm_error(500, "EngineCore encountered an issue. See stack trace (above) for the root cause.",
                    "InternalServerError"),
    ),
    throttled=(
        _vllm_error(503, "The server is overloaded. Please try again later.", "ServiceUnavailableError"),
        Fault(429, {}, "Too Many Requests"),
    ),
    refuses=("seed",),
    refusal=lambda names: _vllm_error(
        400, "Torch XLA does not support per-request seed.", "BadRequestError", names[0] if len(names) > 1 else None
    ),
)  # fmt: skip


def _llama(answer: Answer) -> Json:
    """Show the reasoning in its field, or in the text whose opening tag the chat template wrote."""
    message: Json = {"content": answer.text}
    if answer.thought and answer.task % 2:
        message["reasoning_content"] = answer.thought
    elif answer.thought:
        message["content"] = f"{answer.thought}\n</think>\n\n{answer.text}" if answer.text else answer.thought
    timings = {"prompt_n": 21, "predicted_n": 9, "predicted_per_second": 41.2}
    return chat(answer, "Qwen3-8B-Q4_K_M.gguf", message=message, system_fingerprint="b6431-1", timings=timings)


def _llama_error(status: int, message: str, kind: str, **fields: Any) -> Fault:
    return error(status, message, code=status, type=kind, **fields)


_LOADING = _llama_error(503, "Loading model", "unavailable_error")

LLAMA_SERVER = Dialect(
    "llama-server",
    "/v1",
    "Qwen3-8B-Q4_K_M.gguf",
    _llama,
    cut=cut("length", "length", OMITTED),
    empty=without_text("", None, "</s>"),
    refused=(
        Broken(
            _llama_error(
                400,
                "the request exceeds the available context size. try increasing the context size or enable context "
                "shift",
                "exceed_context_size_error",
                n_prompt_tokens=6144,
                n_ctx=4096,
            )
        ),
    ),
    dry=(
        _llama_error(401, "Invalid API Key", "authentication_error"),
        _LOADING,
    ),
    throttled=(_LOADING,),
)


def _ollama(answer: Answer) -> Json:
    text = "" if answer.text is OMITTED else answer.text or ""
    message = reasoned(answer, "reasoning") | {"content": text}
    return chat(answer, "qwen3:8b", message=message, system_fingerprint="fp_ollama")


OLLAMA = Dialect(
    "Ollama",
    "/v1",
    "qwen3:8b",
    _ollama,
    cut=cut("length", "length", None),
    empty=(Broken(Answer("")), Broken(Answer("", "load")), Broken(Answer("", "length"))),
    refused=(
        Broken(openai_error(400, "the input length exceeds the context length")),
        Broken(Fault(400, {}, {"error": "prompt too long; exceeded max context length by 2048 tokens"})),
    ),
    dry=(
        openai_error(
            429,
            "you (name) have reached your weekly usage limit, upgrade for higher limits: https://ollama.com/upgrade",
            "api_error",
        ),
        openai_error(404, 'model "qwen3:8b" not found, try pulling it first', "api_error"),
    ),
    throttled=(
        openai_error(503, "server busy, please try again.  maximum pending requests exceeded", "api_error"),
        Fault(503, {}, {"error": "Server overloaded, please retry shortly (ref: aaa65c70)"}),
    ),
)


def _lm_studio(answer: Answer) -> Json:
    """Show the reasoning between tags in the text, which is the program's default."""
    text = answer.text
    if answer.thought:
        text = f"<think>\n{answer.thought}\n</think>\n\n{text}" if text else f"<think>\n{answer.thought}"
    return chat(
        answer, "qwen3-8b", message={"content": text, "tool_calls": []}, stats={}, system_fingerprint="qwen3-8b"
    )


_FAILED_TO_LOAD = 'Failed to load model "qwen3-8b". Error: Error loading model.'

LM_STUDIO = Dialect(
    "LM Studio",
    "/v1",
    "qwen3-8b",
    _lm_studio,
    cut=cut("length", None, "failed", passes="failed"),
    empty=(Broken(Answer("")), Broken(Answer("<think>\n\n</think>\n\n")), Broken(Answer("", "length"))),
    refused=(
        Broken(
            Fault(
                400,
                {},
                {
                    "error": "The number of tokens to keep from the initial prompt is greater than the context length "
                    "(n_keep: 13055>= n_ctx: 4096). Try to load the model with a larger context length, or provide a "
                    "shorter input."
                },
            )
        ),
    ),
    dry=(
        Fault(400, {}, {"error": _FAILED_TO_LOAD}),
        openai_error(
            404,
            "No models loaded. Please load a model in the developer page or use the `lms load` command.",
            code="model_not_found",
            param="model",
        ),
        Fault(body={"error": "Unexpected endpoint or method. (POST /v1/chat/completions)"}),
    ),
    throttled=(Fault(500, {}, {"error": "The model has crashed without additional information. (Exit code: 11)"}),),
)


LOCAL = (VLLM, LLAMA_SERVER, OLLAMA, LM_STUDIO)
