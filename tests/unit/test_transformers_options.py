"""The transformers backend without a model: options, folders and error messages that need no heavy package."""

from __future__ import annotations

import asyncio
import json
import sys
from pathlib import Path
from typing import Any

import pytest

from selfinstruct.backends import backend_spec, open_backend
from selfinstruct.backends.transformers.options import (
    TransformersOptions,
    load_chat_template,
    model_label,
    model_sources,
)
from selfinstruct.common.chat_template import ChatTemplate
from selfinstruct.common.config import build
from selfinstruct.engine.plan import make_plan
from selfinstruct.errors import ConfigError, MissingExtraError


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        ({"context": 0}, "at least 1"),
        ({"max_batch_tokens": 0}, "at least 1"),
        ({"concurrency": 0}, "at least 1"),
        ({"threads": 0}, "at least 1"),
        ({"device": "gpu"}, "auto, cpu, mps, cuda"),
        ({"device": "cuda:one"}, "auto, cpu, mps, cuda"),
        ({"dtype": "int8"}, "dtype"),
    ],
)
def test_invalid_options_are_refused(wrong: dict[str, Any], says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        build(TransformersOptions, wrong, "transformers")


@pytest.mark.parametrize(
    ("model", "says"),
    [
        (None, "which model"),
        ("just-a-name", "neither a folder nor a name on the hub"),
        ("./nowhere", "nowhere: no such folder"),
        ("./nowhere.gguf", "a GGUF file; use it with --backend llamacpp"),
        ("~nosuchuser/x", "home directory"),
        (__file__, "a file"),
        (str(Path(__file__).parent), r"no config\.json in it"),
    ],
)
def test_an_invalid_model_is_reported_before_torch_is_imported(
    model: str | None, says: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "torch", None)
    with pytest.raises(ConfigError, match=says):
        asyncio.run(open_backend("transformers", TransformersOptions(model=model)).start())


def test_the_error_names_the_missing_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torch", None)
    with pytest.raises(MissingExtraError, match=r"pip install 'selfinstruct\[train\]'"):
        asyncio.run(open_backend("transformers", TransformersOptions(model="owner/name")).start())


def adapters(folder: Path, base: object) -> Path:
    folder.mkdir(parents=True)
    (folder / "adapter_config.json").write_text(json.dumps({"base_model_name_or_path": base}))
    (folder / "adapter_model.safetensors").touch()
    return folder


def base_model(folder: Path) -> Path:
    folder.mkdir()
    (folder / "config.json").write_text("{}")
    return folder


def test_the_base_of_adapters_is_the_recorded_one_or_where_it_has_moved(tmp_path: Path) -> None:
    base, moved = base_model(tmp_path / "base"), base_model(tmp_path / "moved")
    folder = adapters(tmp_path / "pirate", str(base))
    assert model_sources(TransformersOptions(model=str(folder))) == (str(base), folder, str(base))
    options = TransformersOptions(model=str(folder), base=str(moved))
    assert model_sources(options) == (str(moved), folder, str(moved))
    (folder / "tokenizer_config.json").write_text('{"chat_template": "A", "eos_token": "</s>"}')
    assert model_sources(options).tokenizer == str(folder), "the tokenizer that the adapters were trained with"
    assert load_chat_template(options) == ChatTemplate("A", "", "</s>")


@pytest.mark.parametrize(
    ("base", "says"),
    [
        (None, "does not name the model of the adapters; give it: --set transformers.base=FOLDER"),
        ("embedded", "adapters of a GGUF model; merge them first"),
        ("/models/small.gguf", "adapters of a GGUF model; merge them first"),
        ("/nowhere", "no such folder.* If it has moved: --set transformers.base=FOLDER"),
    ],
)
def test_adapters_without_a_usable_base_are_refused(tmp_path: Path, base: object, says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        model_sources(TransformersOptions(model=str(adapters(tmp_path / "pirate", base))))


def test_adapters_in_a_pickle_are_refused(tmp_path: Path) -> None:
    folder = adapters(tmp_path / "pirate", "owner/name")
    (folder / "adapter_model.safetensors").rename(folder / "adapter_model.bin")
    with pytest.raises(ConfigError, match=r"no adapter_model\.safetensors in it"):
        model_sources(TransformersOptions(model=str(folder)))


def test_the_models_label_contains_no_path(tmp_path: Path) -> None:
    assert model_label(TransformersOptions(model=str(base_model(tmp_path / "llama")))) == "llama"
    assert model_label(TransformersOptions(model="meta/llama")) == "meta/llama"


def test_where_and_how_fast_it_runs_may_change_during_the_life_of_a_run() -> None:
    settings = {"backend": "transformers", "transformers": {"model": "a/b"}}

    def identity(**options: Any) -> Any:
        return make_plan({**settings, "transformers": {"model": "a/b", **options}}).identity

    first = identity()
    assert identity(device="cpu", max_batch_tokens=64, threads=1, local_files_only=True, concurrency=2) == first
    assert identity(dtype="float32") != first
    assert identity(context=512) != first


def test_json_schemas_are_refused_before_the_first_request() -> None:
    capabilities = backend_spec("transformers").capabilities(TransformersOptions(concurrency=5))
    assert (capabilities.concurrency, capabilities.raw_prompts, capabilities.max_choices) == (5, True, None)
    assert capabilities.schema_apis == frozenset()
