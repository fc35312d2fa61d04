"""The dialects of gateways, which pass on the errors of others in their own words: OpenRouter and the LiteLLM proxy."""

from __future__ import annotations

import json
from typing import Any

from tests.dialects.hosted import POLICY
from tests.dialects.replies import (
    HALF,
    INVALID,
    OMITTED,
    Answer,
    Broken,
    Dialect,
    Json,
    chat,
    cut,
    error,
    openai_error,
    without_text,
)
from tests.loopback import Fault


def _openrouter(answer: Answer) -> Json:
    message = {"content": answer.text, "refusal": None, "reasoning": answer.thought or None}
    if answer.thought:
        message["reasoning_details"] = [{"type": "reasoning.text", "text": answer.thought, "index": 0}]
    body = chat(answer, "qwen/qwen3-32b", message=message, details=True, provider="Cerebras")
    for choice in body["choices"]:
        choice.setdefault("native_finish_reason", choice["finish_reason"])
    return body


def _provider_refusal(names: list[str]) -> Fault:
    """OpenRouter repeats the error of the provider as a string of JSON."""
    what = f"Unsupported parameter: '{names[0]}' is not supported with this model."
    inner = openai_error(400, what, code="unsupported_parameter", param=names[0])
    metadata = {"raw": json.dumps(inner.body, indent=2), "provider_name": "OpenAI"}
    return error(400, "Provider returned error", code=400, metadata=metadata)


_LOST = {"code": 502, "message": "Provider returned error", "metadata": {"provider_name": "Cerebras"}}

OPENROUTER = Dialect(
    "OpenRouter",
    "/api/v1",
    "qwen/qwen3-32b",
    _openrouter,
    cut=(
        Broken(Answer(HALF, "error", choice={"error": _LOST, "native_finish_reason": None}), passes=True),
        Broken(Answer(HALF, "length", choice={"native_finish_reason": "MAX_TOKENS"})),
        Broken(Answer(HALF, "error", usage=(None,), choice={"native_finish_reason": "error"}), passes=True),
    ),
    empty=(
        Broken(Answer("")),
        Broken(Answer(None, choice={"native_finish_reason": "completed"})),
        Broken({"error": {"code": 502, "message": "Provider returned error"}, "user_id": "user_1"}, passes=True),
    ),
    refused=(
        Broken(
            error(
                403,
                "qwen/qwen3-32b requires moderation on Cerebras. Your input was flagged for \"violence/graphic\". No "
                "credits were charged.",
                code=403,
                metadata={
                    "reasons": ["violence/graphic"],
                    "flagged_input": "Describe…",
                    "provider_name": "Cerebras",
                    "model_slug": "qwen/qwen3-32b",
                },
            )
        ),
    ),
    dry=(
        error(402, "Insufficient credits. Add more using https://openrouter.ai/settings/credits", code=402),
        Fault(body={"error": {"code": 402, "message": "Insufficient credits. This account never purchased credits."}}),
        error(403, "Key limit exceeded (total limit). Manage it using https://openrouter.ai/settings/keys", code=403),
    ),
    throttled=(
        error(
            429,
            "Provider returned error",
            code=429,
            metadata={"raw": "qwen/qwen3-32b is temporarily rate-limited upstream. Please retry shortly.",
                      "provider_name": "Cerebras"},
        ),
        Fault(body={"error": {"code": 429, "message": "Rate limit exceeded: free-models-per-min."}}),
    ),
    refuses=("temperature", "top_p"),
    refusal=_provider_refusal,
    without_usage=(None, {"prompt_tokens": None, "completion_tokens": None, "total_tokens": 0}, OMITTED),
)  # fmt: skip


def _litellm(answer: Answer) -> Json:
    message: Json = {"content": answer.text, "role": "assistant", "tool_calls": None, "function_call": None}
    if answer.thought:
        message["reasoning_content"] = answer.thought
        message["thinking_blocks"] = [{"type": "thinking", "thinking": answer.thought, "signature": "c2ln"}]
    return chat(answer, "claude-sonnet", message=message, details=True, system_fingerprint=None)


def _wrapped(status: int, message: str, kind: str | None = None, **more: Any) -> Fault:
    """The proxy puts the provider's words into its own, and sends the status as a string."""
    tail = "\nReceived Model Group=claude-sonnet\nAvailable Model Group Fallbacks=None"
    return openai_error(status, message + tail, kind, str(status), headers=more or None)


_BUDGET = "Budget has been exceeded! Current cost: 10.51, Max budget: 10.0"

LITELLM = Dialect(
    "LiteLLM proxy",
    "/v1",
    "claude-sonnet",
    _litellm,
    cut=cut("length", "max_tokens", "content_filter"),
    empty=(*without_text("", None), Broken(Answer("", top={"choices": []}), passes=True)),
    refused=(
        Broken(
            _wrapped(
                400,
                f"litellm.BadRequestError: litellm.ContentPolicyViolationError: AzureException - {POLICY}\n"
                "model=azure/gpt-4o. content_policy_fallback=None. fallbacks=None.",
            )
        ),
    ),
    dry=(
        openai_error(400, _BUDGET, "budget_exceeded", "400"),
        openai_error(429, _BUDGET, "budget_exceeded", "429"),
        _wrapped(400, "litellm.BadRequestError: AnthropicException - {\"type\":\"error\",\"error\":{\"type\":"
                      "\"invalid_request_error\",\"message\":\"Your credit balance is too low to access the Anthropic "
                      "API. Please go to Plans & Billing to upgrade or purchase credits.\"}}"),
    ),
    throttled=(
        _wrapped(429, "litellm.RateLimitError: AzureException RateLimitError - Requests have exceeded call rate limit "
                      "of your current AIServices S0 pricing tier.", "throttling_error", **{"retry-after": "0.02"}),
        error(429, "No deployments available for selected model, Try again in 1 seconds. Passed model=claude-sonnet.",
              type="None", param="None", code="429"),
    ),
    refuses=("temperature", "top_p"),
    refusal=lambda names: _wrapped(
        400,
        f"litellm.UnsupportedParamsError: openai does not support parameters: {names}, for model=gpt-5-nano. To drop "
        "these, set `litellm.drop_params=True`",
        INVALID,
    ),
)  # fmt: skip

GATEWAYS = (OPENROUTER, LITELLM)
