"""The fields by which servers switch a model's reasoning off."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from selfinstruct.backends.openai.options import OpenAIOptions

__all__ = ["TEMPLATE_VARIABLES", "reasoning_fields"]

TEMPLATE_VARIABLES = {"enable_thinking": False, "thinking": False}
"""Variables of chat templates that switch reasoning off: Qwen, GLM and most others, and DeepSeek."""

_DISABLED: Mapping[str, Any] = {"thinking": {"type": "disabled"}}
_BY_HOST: tuple[tuple[str, Mapping[str, Any]], ...] = (
    ("openai.com", {"reasoning_effort": "minimal"}),  # the least that every model with the field accepts
    ("openai.azure.com", {"reasoning_effort": "minimal"}),
    ("generativelanguage.googleapis.com", {"reasoning_effort": "none"}),
    ("groq.com", {"reasoning_effort": "none"}),
    ("mistral.ai", {"reasoning_effort": "none"}),
    ("openrouter.ai", {"reasoning": {"enabled": False}}),
    ("aliyuncs.com", {"enable_thinking": False}),
    ("siliconflow.cn", {"enable_thinking": False}),
    ("deepseek.com", _DISABLED),
    ("moonshot.ai", _DISABLED),
    ("moonshot.cn", _DISABLED),
    ("z.ai", _DISABLED),
    ("bigmodel.cn", _DISABLED),
    ("volces.com", _DISABLED),
    ("anthropic.com", _DISABLED),
)
_OTHERS: Mapping[str, Any] = {"chat_template_kwargs": TEMPLATE_VARIABLES}  # vLLM, SGLang, llama-server, LM Studio


def reasoning_fields(options: OpenAIOptions, host: str) -> dict[str, Any]:
    """Return the fields of a chat request's body that decide whether and how much the model reasons."""
    fields: dict[str, Any] = {}
    if options.thinking is False:
        known = (values for name, values in _BY_HOST if host == name or host.endswith(f".{name}"))
        fields |= next(known, _OTHERS)
    if options.reasoning_effort is not None:
        fields["reasoning_effort"] = options.reasoning_effort
    return fields
