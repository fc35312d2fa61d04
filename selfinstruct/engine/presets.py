"""Defaults that depend on the method, the backend and the model, resolved when a run starts."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from selfinstruct.backends import backend_names, backend_spec
from selfinstruct.common.chat_template import ChatTemplate
from selfinstruct.common.config import build, merge, read_yaml, section
from selfinstruct.common.resources import preset
from selfinstruct.engine.effect import check_preset
from selfinstruct.engine.methods import discovered_options, method_defaults, method_names, overlay
from selfinstruct.engine.settings import Settings

__all__ = ["defaults_for", "overlay_settings", "preset_for"]


def defaults_for(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Return the preset, and the options that are derived from the model's chat template."""
    defaults = preset_for(settings)
    values = merge(defaults, settings)
    return merge(defaults, discovered_options(values, _template(values)))


def preset_for(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Return the default settings for the methods, the backend and the model that ``settings`` name.

    The embedded model needs different settings, and a backend may name the lag that keeps it busy. An existing run
    keeps the settings that it was started with.

    Raises:
        ConfigError: The preset sets an option without effect.
    """
    backend = _backend(settings)
    lag = backend_spec(backend).default_lag if backend in backend_names() else None  # others are reported later
    defaults: dict[str, Any] = {} if lag is None else {"lag": lag}
    if _is_embedded(settings):
        defaults.update(_preset("embedded"))
        options = build(backend_spec(backend).options, section(defaults, backend), backend)
        check_preset(preset("embedded"), method_names(settings), options.api)
        if settings.get("quality"):
            defaults.update(_preset("embedded-quality"))
    return merge(method_defaults(settings), defaults)


def overlay_settings(base: Mapping[str, Any], settings: Mapping[str, Any]) -> dict[str, Any]:
    """Merge ``settings`` into ``base``, a preset or the recorded settings of a run.

    When quality is enabled for the embedded model, its preset is merged in as well.
    """
    merged = merge(base, settings)
    if settings.get("quality") and not base.get("quality") and _is_embedded(merged):
        base = {**base, **_preset("embedded-quality")}
    return overlay(base, settings, lambda: defaults_for(merged), _template(merged))


def _preset(name: str) -> dict[str, Any]:
    return read_yaml(preset(name))[0]


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
