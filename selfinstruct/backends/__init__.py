"""Everything that completes text, by name.

Importing this package loads nothing heavy: clients and engines are imported when a backend starts.
"""

from __future__ import annotations

from typing import Any, TypeGuard

from selfinstruct.backends.base import (
    AdaptiveBackend,
    Backend,
    BackendObserver,
    BackendOptions,
    BackendSpec,
    BatchBackend,
    Capabilities,
    StatusCallback,
)
from selfinstruct.backends.batch.backend import OPENAI_BATCH
from selfinstruct.backends.llamacpp import LLAMACPP
from selfinstruct.backends.openai.backend import OPENAI
from selfinstruct.backends.replay import REPLAY
from selfinstruct.backends.transformers.backend import TRANSFORMERS
from selfinstruct.backends.vllm.backend import VLLM
from selfinstruct.common.config import suggest
from selfinstruct.errors import ConfigError
from selfinstruct.plugins import Registry

__all__ = [
    "AdaptiveBackend",
    "Backend",
    "BackendObserver",
    "BackendOptions",
    "BackendSpec",
    "BatchBackend",
    "Capabilities",
    "backend_names",
    "backend_registry",
    "backend_spec",
    "builtin_backends",
    "open_backend",
]


def _is_spec(entry: object) -> TypeGuard[BackendSpec[Any]]:
    return isinstance(entry, BackendSpec)


# Each backend has another type of options, so the type argument of a registry entry is not known.
_BUILTINS: dict[str, BackendSpec[Any]] = {
    spec.name: spec for spec in (LLAMACPP, OPENAI, OPENAI_BATCH, REPLAY, TRANSFORMERS, VLLM)
}
backend_registry = Registry("backend", _BUILTINS, _is_spec, "a BackendSpec")


def builtin_backends() -> tuple[BackendSpec[Any], ...]:
    """Return the built-in backends, sorted by name."""
    return tuple(spec for _, spec in sorted(_BUILTINS.items()))


def backend_names() -> tuple[str, ...]:
    """Return the names of all backends, including plugins, sorted."""
    return tuple(sorted(backend_registry.names()))


def backend_spec(name: str) -> BackendSpec[Any]:
    """Return the backend of that name.

    Raises:
        ConfigError: No backend has that name; the message suggests the nearest one.
        PluginError: It comes from a plugin that can't be used.
    """
    if name not in backend_registry:
        raise ConfigError(f"unknown backend {name!r}{suggest(name, backend_names())}", key="backend")
    return backend_registry.get(name)


def open_backend(name: str, options: BackendOptions, on_status: StatusCallback = lambda _: None) -> Backend:
    """Make a backend that is not yet started.

    Args:
        name: A registered name.
        options: An instance of that backend's options.
        on_status: Called when the set of unavailable servers changes, with a line about them; "" when all are up.

    Raises:
        ConfigError: No backend has that name.
        TypeError: The options belong to another backend.
    """
    spec = backend_spec(name)
    if not isinstance(options, spec.options):
        raise TypeError(f"backend {name!r} takes {spec.options.__name__}, not {type(options).__name__}")
    return spec.open(options, on_status)
