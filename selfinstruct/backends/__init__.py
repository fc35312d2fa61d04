"""Whatever completes text, by name.

Importing this package loads no heavy one: clients and engines are imported when a backend starts.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from selfinstruct.backends.base import Backend, BatchBackend
from selfinstruct.backends.batch.backend import OpenAIBatchBackend, OpenAIBatchOptions
from selfinstruct.backends.llamacpp import LlamaCppBackend, LlamaCppOptions
from selfinstruct.backends.openai.backend import OpenAIBackend, OpenAIOptions
from selfinstruct.backends.replay import ReplayBackend, ReplayOptions
from selfinstruct.backends.vllm.backend import VllmBackend, VllmOptions
from selfinstruct.errors import ConfigError

__all__ = ["OPTIONS", "Backend", "BatchBackend", "open_backend"]

Tell = Callable[[str], None]

_BACKENDS: dict[str, tuple[type, Callable[[Any, Tell], Backend]]] = {
    "llamacpp": (LlamaCppOptions, lambda options, _: LlamaCppBackend(options)),
    "openai": (OpenAIOptions, lambda options, tell: OpenAIBackend(options, tell=tell)),
    "openai-batch": (OpenAIBatchOptions, lambda options, _: OpenAIBatchBackend(options)),
    "replay": (ReplayOptions, lambda options, _: ReplayBackend(options)),
    "vllm": (VllmOptions, lambda options, _: VllmBackend(options)),
}

OPTIONS: dict[str, type] = {name: options for name, (options, _) in _BACKENDS.items()}
"""Backend name to the dataclass of its options."""


def open_backend(name: str, options: Any, tell: Tell = lambda _: None) -> Backend:
    """A backend that is yet to be started.

    Args:
        name: A key of ``OPTIONS``.
        options: An instance of that backend's options.
        tell: Told which of its servers are set aside whenever that changes; "" when none is.

    Raises:
        ConfigError: There is no such backend.
    """
    if name not in _BACKENDS:
        raise ConfigError(f"no backend {name!r}; there are: {', '.join(sorted(_BACKENDS))}")
    kind, make = _BACKENDS[name]
    if not isinstance(options, kind):
        raise TypeError(f"backend {name!r} takes {kind.__name__}, not {type(options).__name__}")
    return make(options, tell)
