"""The dialects of hosted services, as their documentation and the reports of their users show them."""

from __future__ import annotations

from typing import Any

from tests.dialects.replies import (
    INVALID,
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

FLAGGED = "Invalid prompt: your prompt was flagged as potentially violating our usage policy."
POLICY = (
    "The response was filtered due to the prompt triggering Azure OpenAI's content management policy. Please modify "
    "your prompt and retry."
)
NO_QUOTA = "You exceeded your current quota, please check your plan and billing details."
WAIT_S = 0.02  # seconds that a throttling server asks to wait


def _openai(answer: Answer) -> Json:
    message = {"content": answer.text, "refusal": None, "annotations": []}
    return chat(answer, "gpt-5-mini-2025-08-07", message=message, details=True, service_tier="default")


def _unsupported(names: list[str]) -> Fault:
    """OpenAI names one parameter at a time; what it can't change to is a value, what it does not know a parameter."""
    name = names[0]
    if name == "max_tokens":
        instead = "Use 'max_completion_tokens' instead."
        what = f"Unsupported parameter: 'max_tokens' is not supported with this model. {instead}"
        return openai_error(400, what, code="unsupported_parameter", param=name)
    what = f"Unsupported value: '{name}' does not support 0.7 with this model. Only the default (1) value is supported."
    return openai_error(400, what, code="unsupported_value", param=name)


OPENAI = Dialect(
    "OpenAI",
    "/v1",
    "gpt-5-mini",
    _openai,
    cut=cut("length", "content_filter", "length"),
    empty=(*without_text("", None), TOOL_CALL),
    refused=(Broken(openai_error(400, FLAGGED, code="invalid_prompt")),),
    dry=(
        openai_error(429, NO_QUOTA, "insufficient_quota", "insufficient_quota", headers={"retry-after": "1"}),
        openai_error(400, "Billing hard limit has been reached", code="billing_hard_limit_reached"),
    ),
    throttled=(
        openai_error(
            429,
            "Rate limit reached for gpt-5-mini in organization org-1 on tokens per min (TPM): Limit 200000, Used "
            "199000, Requested 2100. Please try again in 20ms.",
            "tokens",
            "rate_limit_exceeded",
            headers={"retry-after-ms": "20", "x-ratelimit-reset-tokens": "20ms"},
        ),
    ),
    refuses=("max_tokens", "temperature"),
    refusal=_unsupported,
)

_SAFE = {name: {"filtered": False, "severity": "safe"} for name in ("hate", "self_harm", "sexual", "violence")}
_VIOLENT = _SAFE | {"violence": {"filtered": True, "severity": "medium"}}


def _azure(answer: Answer) -> Json:
    verdict = _VIOLENT if answer.finish == "content_filter" else _SAFE
    body = chat(
        answer,
        "gpt-4o-2024-11-20",
        message={"content": answer.text, "refusal": None},
        details=True,
        prompt_filter_results=[{"prompt_index": 0, "content_filter_results": _SAFE}],
    )
    for choice in body["choices"]:
        choice["content_filter_results"] = verdict
    return body


AZURE = Dialect(
    "Azure OpenAI",
    "/openai/v1",
    "gpt-4o",
    _azure,
    cut=cut("length", "content_filter", "content_filter"),
    empty=(*without_text("", OMITTED), TOOL_CALL),
    refused=(
        Broken(
            error(
                400,
                POLICY,
                type=None,
                param="prompt",
                code="content_filter",
                status=400,
                innererror={"code": "ResponsibleAIPolicyViolation", "content_filter_result": _VIOLENT},
            )
        ),
        Broken(Answer(OMITTED, "content_filter")),
    ),
    dry=(
        error(
            403,
            "Access denied: the Azure subscription of this resource is disabled. Please enable it and try again.",
            code="403",
        ),
    ),
    throttled=(
        error(
            429,
            "Requests to the ChatCompletions_Create Operation under Azure OpenAI API version 2024-10-21 have exceeded "
            "token rate limit of your current OpenAI S0 pricing tier. Please retry after 86400 seconds.",
            {"retry-after": "1", "retry-after-ms": "20"},
            code="429",
        ),
    ),
    refuses=("max_tokens", "temperature", "top_p"),
    refusal=_unsupported,
)


def _mistral(answer: Answer) -> Json:
    content: Any = answer.text
    if answer.thought:
        content = [{"type": "thinking", "thinking": [{"type": "text", "text": answer.thought}], "closed": True}]
        content += [{"type": "text", "text": answer.text}] if answer.text else []
    return chat(answer, "magistral-medium-2509", message={"content": content, "tool_calls": None})


def _forbidden(names: list[str]) -> Fault:
    """Mistral validates strictly, and wraps its list of errors in one of several ways."""
    found = [
        {"type": "extra_forbidden", "loc": ["body", name], "msg": "Extra inputs are not permitted", "input": 1}
        for name in names
    ]
    if len(names) > 1:
        return Fault(422, {}, {"detail": found})
    body = {"object": "error", "message": {"detail": found}, "type": INVALID, "param": None, "code": None}
    return Fault(422, {}, body)


MISTRAL = Dialect(
    "Mistral",
    "/v1",
    "magistral-medium",
    _mistral,
    cut=cut("model_length", "length", "error", passes="error"),
    empty=without_text("", [], [{"type": "text", "text": None}]),
    refused=(
        Broken(flat(403, "The request was blocked by moderation: category violence", type="moderation", code="1910")),
    ),
    dry=(
        flat(402, "You have reached your monthly spending limit.", type="payment_required", code="1901"),
        Fault(429, {}, {"message": "Monthly usage limit reached. Please upgrade your plan."}),
    ),
    throttled=(
        flat(429, "Rate limit exceeded", type="rate_limited", code="1300", raw_status_code=429),
        flat(503, "Service tier capacity exceeded for this model.", type="service_tier_capacity_exceeded", code="3505"),
        Fault(429, {}, {"message": "Requests rate limit exceeded"}),
    ),
    refuses=("seed", "top_p"),
    refusal=_forbidden,
)


def _deepseek(answer: Answer) -> Json:
    return chat(answer, "deepseek-reasoner", message=reasoned(answer), details=True, system_fingerprint="fp_1")


DEEPSEEK = Dialect(
    "DeepSeek",
    "/v1",
    "deepseek-reasoner",
    _deepseek,
    cut=cut("insufficient_system_resource", "length", "content_filter", passes="insufficient_system_resource"),
    empty=without_text("", " \n", None),
    refused=(
        Broken(openai_error(400, "Content Exists Risk", code=INVALID)),
        Broken(Fault(400, {}, {"detail": "Content Exists Risk"})),
    ),
    dry=(
        openai_error(402, "Insufficient Balance", "unknown_error", INVALID),
        openai_error(400, "Insufficient Balance", "unknown_error", INVALID),
    ),
    throttled=(
        openai_error(429, "Rate limit reached", "rate_limit_error", "rate_limit_exceeded"),
        openai_error(
            503,
            "Service is too busy. We advise users to temporarily switch to alternative providers.",
            "service_unavailable_error",
            "service_unavailable_error",
        ),
    ),
)


def _dashscope(answer: Answer) -> Json:
    return chat(answer, "qwen3-32b", message=reasoned(answer), details=True, system_fingerprint=None)


def _dashscope_error(status: int, message: str, code: str, kind: str | None = None) -> Fault:
    fields = {"message": message, "type": kind or code, "param": None, "code": code}
    return Fault(status, {}, {"error": fields, "id": "chatcmpl-1", "request_id": "f9fdb027"})


DASHSCOPE = Dialect(
    "DashScope",
    "/compatible-mode/v1",
    "qwen3-32b",
    _dashscope,
    cut=cut("length", "length", None),
    empty=(*without_text("", None), Broken(Answer("", "length"))),
    refused=(
        Broken(_dashscope_error(400, "Input data may contain inappropriate content.", "data_inspection_failed")),
        Broken(
            _dashscope_error(
                400,
                "<400> InternalError.Algo.DataInspectionFailed: Input text data may contain inappropriate content.",
                "data_inspection_failed",
            )
        ),
    ),
    dry=(
        _dashscope_error(400, "Access denied, please make sure your account is in good standing.", "Arrearage"),
        _dashscope_error(
            403,
            "The free tier of the model has been exhausted. If you wish to continue access the model on a paid basis, "
            'please disable the "use free tier only" mode in the management console.',
            "AllocationQuota.FreeTierOnly",
        ),
    ),
    throttled=(
        # A limit per minute in OpenAI's words for an empty account; the link names the limit.
        _dashscope_error(
            429,
            f"{NO_QUOTA} For details, see: https://help.aliyun.com/zh/model-studio/error-code#token-limit",
            "insufficient_quota",
        ),
        _dashscope_error(429, "You have exceeded your current request limit.", "limit_requests"),
    ),
    refuses=("top_p",),
    refusal=lambda names: _dashscope_error(
        400,
        f"<400> InternalError.Algo.InvalidParameter: Range of {names[0]} should be (0.0, 1.0)",
        "invalid_parameter_error",
        INVALID,
    ),
    only_streams=_dashscope_error(
        400,
        "parameter.enable_thinking must be set to false for non-streaming calls",
        "invalid_parameter_error",
        INVALID,
    ),
)


def _gemini(answer: Answer) -> Json:
    text = answer.text
    if answer.thought and text:
        text = f"<thought>{answer.thought}</thought>{text}"
    elif answer.thought:
        text = OMITTED  # nothing but thoughts: the message has no content, and no token of the answer is counted
    return chat(answer, "gemini-2.5-flash", message={"content": text})


def _google_error(status: int, name: str, message: str, *details: Json) -> Fault:
    """Google wraps the error in a list of one."""
    fields: Json = {"code": status, "message": message, "status": name}
    return Fault(status, {}, [{"error": fields | ({"details": list(details)} if details else {})}])


def _unknown_names(names: list[str]) -> Fault:
    lines = [f'Invalid JSON payload received. Unknown name "{name}": Cannot find field.' for name in names]
    violations = {
        "@type": "type.googleapis.com/google.rpc.BadRequest",
        "fieldViolations": [{"description": line} for line in lines],
    }
    return _google_error(400, "INVALID_ARGUMENT", "\n".join(lines), violations)


GEMINI = Dialect(
    "Gemini (compatible)",
    "/v1beta/openai",
    "gemini-2.5-flash",
    _gemini,
    cut=cut("length", "RECITATION", "MAX_TOKENS"),
    empty=(
        Broken(Answer(OMITTED)),
        Broken(Answer(None, "stop", usage=({"prompt_tokens": 21, "completion_tokens": 0, "total_tokens": 21},))),
        Broken(Answer("", top={"choices": None}), passes=True),
    ),
    refused=(
        Broken(Answer(OMITTED, "content_filter: PROHIBITED_CONTENT")),
        Broken(Answer(OMITTED, "SAFETY")),
        Broken(Answer(OMITTED, "content_filter")),
    ),
    dry=(
        _google_error(
            429,
            "RESOURCE_EXHAUSTED",
            "Your prepayment credits are depleted. Please go to AI Studio at https://ai.studio/projects to manage your "
            "project and billing.",
        ),
        _google_error(
            400,
            "FAILED_PRECONDITION",
            "User location is not supported for the API use without a billing account linked.",
        ),
    ),
    throttled=(
        _google_error(
            429,
            "RESOURCE_EXHAUSTED",
            f"{NO_QUOTA} For more information on this error, head to: https://ai.google.dev/gemini-api/docs/rate-limits"
            ". * Quota exceeded for metric: generativelanguage.googleapis.com/generate_content_free_tier_requests, "
            f"limit: 10. Please retry in {WAIT_S}s.",
            {"@type": "type.googleapis.com/google.rpc.RetryInfo", "retryDelay": f"{WAIT_S}s"},
        ),
        _google_error(503, "UNAVAILABLE", "The model is overloaded. Please try again later."),
    ),
    refuses=("seed", "frequency_penalty"),
    refusal=_unknown_names,
)

HOSTED = (OPENAI, AZURE, MISTRAL, DEEPSEEK, DASHSCOPE, GEMINI)
