"""The options of the openai-batch backend."""

from __future__ import annotations

from dataclasses import dataclass

from selfinstruct.backends.openai.options import OpenAIOptions

__all__ = ["OpenAIBatchOptions"]

_MAX_REQUESTS = 50_000  # OpenAI's limit for one batch


@dataclass(frozen=True, slots=True)
class OpenAIBatchOptions(OpenAIOptions):
    """Which server and model to ask, and how to form batches.

    Attributes:
        base_url, model, api, api_key_env, max_tokens_name, omit, extra_body, schema_field, thinking,
        reasoning_effort, refused: As for ``openai``.
        timeout_s: Time limit of one call in seconds (an upload, a download, a status query), not of a batch.
        concurrency: Requests at the server at once, in all batches together. An account has a limit of enqueued tokens.
        batch_size: Most requests of one batch; more requests are divided into several batches.
        poll_s: Seconds between two status queries for a batch.
        stream: Always false: a batch has no connection on which answers could arrive piece by piece.
    """

    concurrency: int = 2048
    batch_size: int = _MAX_REQUESTS
    poll_s: float = 30.0
    stream: bool | None = False

    def __post_init__(self) -> None:
        OpenAIOptions.__post_init__(self)
        if len(self.addresses) > 1:
            raise ValueError("base_url must be a single address: a batch stays at the server that it was submitted to")
        if self.stream:
            raise ValueError("stream can't be set: a batch does not stream; use --backend openai")
        if not 1 <= self.batch_size <= _MAX_REQUESTS:
            raise ValueError(f"batch_size must be from 1 to {_MAX_REQUESTS:,}")
        if self.poll_s <= 0:
            raise ValueError("poll_s must be above 0")
