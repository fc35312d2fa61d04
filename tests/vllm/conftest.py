"""The real engine: a model in safetensors, and one engine for all tests that only ask it something."""

from __future__ import annotations

import asyncio
import importlib.util
import os
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from selfinstruct.backends.vllm.backend import VllmBackend, VllmOptions
from selfinstruct.records import Completion, Request

HERE = Path(__file__).parent
SETTINGS: dict[str, Any] = {"dtype": "float32", "max_model_len": 2048, "kv_cache_gib": 0.5}
"""Float32: batches of another size then change no text of this model. Half a GiB: several engines run side by side."""

collect_ignore_glob = [] if importlib.util.find_spec("vllm") else ["test_*.py"]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if HERE in item.path.parents:
            item.add_marker("vllm")


@pytest.fixture(scope="session")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The embedded model out of its GGUF file, as a folder with safetensors."""
    import torch

    from finetune.model.loading import load, save

    folder = tmp_path_factory.mktemp("model") / "SmolLM2"
    loaded = load(None, dtype=torch.float32)
    save(loaded.model, loaded.tokenizer, folder)
    return folder


@pytest.fixture(autouse=True)
def logs_in_the_tests_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where an engine that does not start leaves its log."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))


@pytest.fixture(scope="session")
def runner() -> Iterator[asyncio.Runner]:
    with asyncio.Runner() as runner:
        yield runner


@pytest.fixture(scope="session")
def backend(runner: asyncio.Runner, model: Path) -> Iterator[VllmBackend]:
    backend = VllmBackend(VllmOptions(model=str(model), **SETTINGS))
    runner.run(backend.start())
    yield backend
    group = group_of(backend)
    runner.run(backend.close())
    assert members(group) == []


@pytest.fixture(scope="session")
def ask(runner: asyncio.Runner, backend: VllmBackend) -> Callable[..., list[Completion]]:
    """Ask for all of these at once."""

    async def go(*requests: Request) -> list[Completion]:
        return list(await asyncio.gather(*(backend.complete(request) for request in requests)))

    return lambda *requests: runner.run(go(*requests))


def group_of(backend: VllmBackend) -> int:
    """The session of the engine's processes."""
    assert backend._process is not None
    return backend._process._process.pid


def members(group: int) -> list[int]:
    """Processes of a session that are alive."""
    found = []
    for folder in Path("/proc").iterdir():
        if folder.name.isdigit():
            try:
                fields = (folder / "stat").read_text().rpartition(")")[2].split()
            except OSError:
                continue  # it ended just now
            if int(fields[3]) == group and fields[0] != "Z":
                found.append(int(folder.name))
    return found


def children(pid: int) -> list[int]:
    try:
        return [int(word) for word in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    except FileNotFoundError:
        return []


def title(pid: int) -> str:
    return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode()


def shared_memory() -> set[str]:
    return set(os.listdir("/dev/shm"))
