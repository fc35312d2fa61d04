"""The real engine: a model in safetensors, and one engine shared by all tests that only send requests."""

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
"""In float32 the batch size changes no text of this model. With half a GiB, several engines fit into memory."""

collect_ignore_glob = [] if importlib.util.find_spec("vllm") else ["test_*.py"]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if HERE in item.path.parents:
            item.add_marker("vllm")


@pytest.fixture(scope="session")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the embedded model, converted from GGUF to safetensors."""
    import torch

    from finetune.model.loading import load
    from finetune.model.saving import save

    folder = tmp_path_factory.mktemp("model") / "SmolLM2"
    loaded = load(None, dtype=torch.float32)
    save(loaded.model, loaded.tokenizer, folder)
    return folder


@pytest.fixture(autouse=True)
def logs_in_the_tests_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Keep the log of an engine that does not start in the test's folder."""
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
    """A function that sends all given requests at once."""

    async def go(*requests: Request) -> list[Completion]:
        return list(await asyncio.gather(*(backend.complete(request) for request in requests)))

    return lambda *requests: runner.run(go(*requests))


def group_of(backend: VllmBackend) -> int:
    """Return the session of the engine's processes."""
    assert backend._process is not None
    return backend._process._process.pid


def members(group: int) -> list[int]:
    """Return the living processes of a session."""
    alive = []
    for folder in Path("/proc").iterdir():
        if folder.name.isdigit():
            try:
                fields = (folder / "stat").read_text().rpartition(")")[2].split()
            except OSError:
                continue  # it has just ended
            if int(fields[3]) == group and fields[0] != "Z":
                alive.append(int(folder.name))
    return alive


def children(pid: int) -> list[int]:
    try:
        return [int(word) for word in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    except FileNotFoundError:
        return []


def title(pid: int) -> str:
    return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode()


def shared_memory() -> set[str]:
    return set(os.listdir("/dev/shm"))
