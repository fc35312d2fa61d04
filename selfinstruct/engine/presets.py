"""Defaults that depend on the method, the backend and the model, resolved when a run starts."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from selfinstruct.backends import backend_names, backend_spec
from selfinstruct.common import gguf
from selfinstruct.common.chat_template import ChatTemplate
from selfinstruct.common.config import build, merge, read_yaml, section
from selfinstruct.common.resources import preset
from selfinstruct.engine.effect import check_preset
from selfinstruct.engine.methods import discovered_options, method_defaults, method_names, overlay
from selfinstruct.engine.settings import Settings

__all__ = ["defaults_for", "overlay_settings", "preset_for"]

_EMBEDDED, _SMALL_BASE = "embedded", "small-base"
_SMALL = 1_500_000_000  # bytes of a small model


def defaults_for(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Return the preset, and the options that are derived from the model's chat template."""
    defaults = preset_for(settings)
    values = merge(defaults, settings)
    return merge(defaults, discovered_options(values, _template(values)))


def preset_for(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Return the default settings for the methods, the backend and the model that ``settings`` name.

    The embedded model and small base models need different settings, and a backend may name the lag that keeps it busy.
    An existing run keeps the settings that it was started with.

    Raises:
        ConfigError: The preset sets an option without effect.
    """
    backend = _backend(settings)
    lag = backend_spec(backend).default_lag if backend in backend_names() else None  # others are reported later
    defaults: dict[str, Any] = {} if lag is None else {"lag": lag}
    name = _preset_name(settings)
    if name is not None:
        defaults.update(_preset(name))
        options = build(backend_spec(backend).options, section(defaults, backend), backend)
        check_preset(preset(name), method_names(settings), options.api)
    if name == _EMBEDDED and settings.get("quality"):
        defaults.update(_preset("embedded-quality"))
    return merge(method_defaults(settings), defaults)


def overlay_settings(base: Mapping[str, Any], settings: Mapping[str, Any]) -> dict[str, Any]:
    """Merge ``settings`` into ``base``, a preset or the recorded settings of a run.

    When quality is enabled for the embedded model, its preset is merged in as well.
    """
    base = _without_identity(_without_discoveries(base, settings), settings)
    merged = merge(base, settings)
    if settings.get("quality") and not base.get("quality") and _is_embedded(merged):
        base = {**base, **_preset("embedded-quality")}
    return overlay(base, settings, lambda: defaults_for(merged), _template(merged))


def _without_discoveries(base: Mapping[str, Any], settings: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return recorded settings without what a run found out about another model than the one in ``settings``."""
    backend = _backend(base)
    if backend not in backend_names() or backend not in settings or backend not in base:
        return base
    spec, before, after = backend_spec(backend), section(base, backend), section(settings, backend)
    if all(name in spec.free_options or before.get(name) == value for name, value in after.items()):
        return base
    return {**base, backend: {key: value for key, value in before.items() if key not in spec.discovered_options}}


def _without_identity(base: Mapping[str, Any], settings: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return recorded settings without the identity of their reward model if ``settings`` name a model."""
    quality = base.get("quality")
    if not isinstance(quality, Mapping) or "model" not in section(section(settings, "quality"), "reward"):
        return base
    return {**base, "quality": {**quality, "reward": {**section(quality, "reward"), "identity": ""}}}


def _preset(name: str) -> dict[str, Any]:
    return read_yaml(preset(name))[0]


def _preset_name(settings: Mapping[str, Any]) -> str | None:
    """Return the preset that the user names, or that suits the model; None for the defaults of all models."""
    choice = settings.get("preset", "auto")
    if choice in (_EMBEDDED, _SMALL_BASE):
        return str(choice)
    if choice != "auto":  # none, or a wrong name, which is reported later
        return None
    if _is_embedded(settings):
        return _EMBEDDED
    return _SMALL_BASE if _is_small_base(settings) else None


def _is_small_base(settings: Mapping[str, Any]) -> bool:
    """Return whether the model is a small GGUF file without a chat template."""
    model = section(settings, "llamacpp").get("model")
    if _backend(settings) != "llamacpp" or not isinstance(model, str):
        return False
    try:
        path = Path(model).expanduser()
        return path.stat().st_size <= _SMALL and gguf.chat_template(path) is None
    except (OSError, RuntimeError, ValueError, gguf.ModelFileError):  # reported when the model is loaded
        return False


def _backend(values: Mapping[str, Any]) -> str:
    return str(values.get("backend", Settings.backend))


def _is_embedded(values: Mapping[str, Any]) -> bool:
    return _backend(values) == "llamacpp" and not section(values, "llamacpp").get("model")


def _template(values: Mapping[str, Any]) -> Callable[[], ChatTemplate | None]:
    """Return a function that loads the model's chat template, since loading may be slow."""
    backend = _backend(values)

    def template() -> ChatTemplate | None:
        if backend not in backend_names():  # reported later, with the name
            return None
        spec = backend_spec(backend)
        return spec.load_chat_template(build(spec.options, section(values, backend), backend))

    return template
