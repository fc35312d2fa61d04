"""Everything that completes text, by name.

Importing this package loads nothing heavy: clients and engines are imported when a backend starts.
"""

from __future__ import annotations

from typing import Any

from selfinstruct.backends.base import Backend, BackendOptions, BackendSpec, BatchBackend, Capabilities, StatusCallback
from selfinstruct.backends.batch.backend import OPENAI_BATCH
from selfinstruct.backends.llamacpp import LLAMACPP
from selfinstruct.backends.openai.backend import OPENAI
from selfinstruct.backends.replay import REPLAY
from selfinstruct.backends.vllm.backend import VLLM
from selfinstruct.common.config import nearest
from selfinstruct.errors import ConfigError

__all__ = [
    "Backend",
    "BackendOptions",
    "BackendSpec",
    "BatchBackend",
    "Capabilities",
    "backend_names",
    "backend_spec",
    "open_backend",
    "register_backend",
]

# The options of each backend have a type of their own, which no common type argument can name.
_SPECS: dict[str, BackendSpec[Any]] = {spec.name: spec for spec in (LLAMACPP, OPENAI, OPENAI_BATCH, REPLAY, VLLM)}


def register_backend(spec: BackendSpec[Any]) -> None:
    """Add a backend to the registry; ``selfinstruct.plugins`` calls this for each installed plugin.

    Raises:
        ConfigError: Another backend has the same name.
    """
    if _SPECS.setdefault(spec.name, spec) is not spec:
        raise ConfigError(f"two backends are named {spec.name!r}: uninstall one of the packages that provide them")


def backend_names() -> tuple[str, ...]:
    """Return the names of all registered backends, sorted."""
    return tuple(sorted(_SPECS))


def backend_spec(name: str) -> BackendSpec[Any]:
    """Return the registered backend of that name.

    Raises:
        ConfigError: There is none; the message suggests the nearest name.
    """
    if name not in _SPECS:
        raise ConfigError(f"unknown backend {name!r}{nearest(name, _SPECS)}", key="backend")
    return _SPECS[name]


def open_backend(name: str, options: BackendOptions, on_status: StatusCallback = lambda _: None) -> Backend:
    """Make a backend that is not yet started.

    Args:
        name: A registered name.
        options: An instance of that backend's options.
        on_status: Called when the set of unavailable servers changes, with a line about them; "" when all are up.

    Raises:
        ConfigError: There is no backend of that name.
        TypeError: The options belong to another backend.
    """
    spec = backend_spec(name)
    if not isinstance(options, spec.options):
        raise TypeError(f"backend {name!r} takes {spec.options.__name__}, not {type(options).__name__}")
    return spec.open(options, on_status)
