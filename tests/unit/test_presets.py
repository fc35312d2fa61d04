"""Defaults that suit a model: chosen by name, or by the model's file."""

from __future__ import annotations

from pathlib import Path

import pytest

from selfinstruct.common import embedded
from selfinstruct.engine import presets
from selfinstruct.engine.plan import make_plan
from selfinstruct.errors import ConfigError


def examples(**settings: object) -> int:
    """Return the number of examples in the prompt for instances."""
    return int(make_plan(settings).strategy_options.input_first_examples)


def test_a_preset_is_chosen_by_name() -> None:
    model = {"model": str(embedded.find())}
    assert examples(preset="small-base", llamacpp=model) == 3
    assert examples(preset="none", llamacpp=model) == 11
    assert examples() == 0, "the embedded model's own preset"
    with pytest.raises(ConfigError, match="preset"):
        make_plan({"preset": "tiny"})


def test_a_small_file_without_a_chat_template_is_a_base_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "base.gguf"
    source = embedded.find().read_bytes()
    path.write_bytes(source.replace(b"tokenizer.chat_template", b"tokenizer.no_chat_templ"))
    assert examples(llamacpp={"model": str(path)}) == 3
    assert examples(llamacpp={"model": str(embedded.find())}) == 11, "it has a chat template"
    monkeypatch.setattr(presets, "_SMALL", 1000)
    assert examples(llamacpp={"model": str(path)}) == 11
