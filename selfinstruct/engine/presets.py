"""What settings that are not given fall back on before the defaults."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from selfinstruct.backends import backend_names, backend_spec
from selfinstruct.common.chat_template import ChatTemplate
from selfinstruct.common.config import build, merge, read_yaml, section
from selfinstruct.common.resources import preset
from selfinstruct.engine.methods import discovered_options, method_defaults, overlay
from selfinstruct.engine.settings import Settings

__all__ = ["defaults_for", "overlay_settings"]


def defaults_for(given: Mapping[str, Any]) -> dict[str, Any]:
    """Settings that suit the methods, the backend and the model: the embedded model needs other ones.

    A backend with a window of its own names the lag that keeps it full. Like any setting these are resolved here, once:
    a run that exists keeps what it was begun with.
    """
    backend = _backend(given)
    lag = backend_spec(backend).default_lag if backend in backend_names() else None  # any other is refused later
    suited: dict[str, Any] = {} if lag is None else {"lag": lag}
    if _is_embedded(given):
        suited.update(_preset("embedded"))
        if given.get("quality"):
            suited.update(_preset("embedded-quality"))
    suited = merge(method_defaults(given), suited)
    values = merge(suited, given)
    return merge(suited, discovered_options(values, _template(values)))


def overlay_settings(base: Mapping[str, Any], given: Mapping[str, Any]) -> dict[str, Any]:
    """The given settings laid on others: a preset, or those of a run.

    The first time that quality is asked for, what suits a small model goes in, too.
    """
    merged = merge(base, given)
    if given.get("quality") and not base.get("quality") and _is_embedded(merged):
        base = {**base, **_preset("embedded-quality")}
    return overlay(base, given, lambda: defaults_for(merged), _template(merged))


def _preset(name: str) -> dict[str, Any]:
    return read_yaml(preset(name))[0]


def _backend(values: Mapping[str, Any]) -> str:
    return str(values.get("backend", Settings.backend))


def _is_embedded(values: Mapping[str, Any]) -> bool:
    return _backend(values) == "llamacpp" and not section(values, "llamacpp").get("model")


def _template(values: Mapping[str, Any]) -> Callable[[], ChatTemplate | None]:
    """Reads what the model says of its own chat template."""
    backend = _backend(values)

    def template() -> ChatTemplate | None:
        if backend not in backend_names():  # refused by name, later
            return None
        spec = backend_spec(backend)
        return spec.load_chat_template(build(spec.options, section(values, backend), backend))

    return template
