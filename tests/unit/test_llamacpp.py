"""llama.cpp in this process: invalid model files, and the real model."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import re
import signal
import socket
import struct
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from selfinstruct.backends import backend_spec, open_backend
from selfinstruct.backends import threads as load
from selfinstruct.backends.llamacpp import LlamaCppBackend, LlamaCppOptions
from selfinstruct.common import embedded, gguf
from selfinstruct.common.config import build
from selfinstruct.common.gguf import ModelFileError
from selfinstruct.errors import BackendError, ConfigError, MissingExtraError, RequestError
from selfinstruct.records import Completion, PromptMessage, Request, Sampling


def raw(text: str, **sampling: Any) -> Request:
    values = {"max_tokens": 8, "temperature": 0.0, **sampling}
    return Request("s", (PromptMessage("prompt", "t", {}, text),), Sampling(**values))


def chat(text: str, **sampling: Any) -> Request:
    values = {"max_tokens": 8, "temperature": 0.0, **sampling}
    return Request("s", (PromptMessage("user", "t", {}, text),), Sampling(**values))


# Model files


def text(value: str) -> bytes:
    return struct.pack("<Q", len(value)) + value.encode()


def make_gguf(*, version: int = 3, data: int = 256) -> bytes:
    """Return a small valid file with every kind of value and two tensors, the second of which begins at byte 128."""
    head = b"GGUF" + struct.pack("<IQQ", version, 2, 5)
    head += text("general.alignment") + struct.pack("<II", 4, 64)
    head += text("general.architecture") + struct.pack("<I", 8) + text("no-such-thing")
    head += text("tokens") + struct.pack("<IIQ", 9, 8, 3) + text("a") + text("") + text("bc")
    head += text("scores") + struct.pack("<IIQ", 9, 6, 2) + struct.pack("<ff", 0.5, 1.0)
    head += text("nested") + struct.pack("<IIQ", 9, 9, 1) + struct.pack("<IQB", 7, 1, 1)
    for name, offset in (("first", 0), ("second", 128)):
        head += text(name) + struct.pack("<IQIQ", 1, 16, 0, offset)
    return head + bytes(-len(head) % 64) + bytes(data)


def test_a_valid_file_is_accepted(tmp_path: Path) -> None:
    model = tmp_path / "m.gguf"
    model.write_bytes(make_gguf())
    header = gguf.check(model)
    assert header.texts == {"general.architecture": "no-such-thing"}
    assert header.numbers == {"general.alignment": 64}
    assert header.tensors == {"first", "second"}


def test_every_truncation_before_the_last_tensor_is_detected(tmp_path: Path) -> None:
    model, content = tmp_path / "m.gguf", make_gguf()
    for length in range(4, len(content) - 128 + 1):
        model.write_bytes(content[:length])
        with pytest.raises(ModelFileError, match="truncated"):
            gguf.check(model)


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"", "it is empty"),
        (b"FUGG" + bytes(40), "a big-endian GGUF file"),
        (b"PK\x03\x04" + bytes(40), "PyTorch"),
        (b"version https://git-lfs.github.com/spec/v1\n", "pointer of Git LFS"),
        (b"<!doctype html>", "web page"),
        (b"\x01\x02\x03\x04", r"begins with b'\\x01"),
        (make_gguf(version=9), "GGUF version 9"),
        (b"GGUF" + struct.pack("<IQQ", 3, 2**60, 1) + bytes(64), "damaged header"),
        (b"GGUF" + struct.pack("<IQQ", 3, 0, 1) + text("k") + struct.pack("<I", 99) + bytes(64), "value type 99"),
        (b"GGUF" + struct.pack("<IQQ", 3, 0, 1) + text("k") + struct.pack("<IIQ", 9, 8, 2**50), "array of"),
        (b"GGUF" + struct.pack("<IQQ", 3, 0, 1) + struct.pack("<Q", 2**63) + bytes(64), "truncated in its header"),
    ],
)
def test_an_invalid_model_file_is_refused(tmp_path: Path, content: bytes, says: str) -> None:
    model = tmp_path / "m.gguf"
    model.write_bytes(content)
    with pytest.raises(ModelFileError, match=says) as caught:
        asyncio.run(LlamaCppBackend(LlamaCppOptions(model=str(model))).start())
    assert str(model) in str(caught.value)


def test_missing_files_and_directories_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ModelFileError, match="no such file"):
        gguf.check(tmp_path / "absent.gguf")
    with pytest.raises(ModelFileError, match=r"a directory; name the .gguf file"):
        gguf.check(tmp_path)


def test_unusable_paths_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ModelFileError, match="too long"):
        gguf.check(tmp_path / ("x" * 5000 + ".gguf"))
    with pytest.raises(ModelFileError, match="no such file"):
        gguf.check(Path("a\0b.gguf"))
    with pytest.raises(ModelFileError, match=r"~nosuchuser/x\.gguf: the home directory"):
        asyncio.run(LlamaCppBackend(LlamaCppOptions(model="~nosuchuser/x.gguf")).start())


CLOSED = """
import os, sys
from pathlib import Path
from selfinstruct.common import gguf
if os.geteuid() == 0:
    os.setuid(65534)
try:
    gguf.check(Path(sys.argv[1]))
except gguf.ModelFileError as error:
    print(error)
"""


def test_a_folder_without_permission_is_refused(tmp_path: Path) -> None:
    folder = tmp_path / "closed"
    folder.mkdir()
    folder.chmod(0)
    try:
        arguments = [sys.executable, "-c", CLOSED, folder / "m.gguf"]
        done = subprocess.run(arguments, capture_output=True, text=True, check=True)
    finally:
        folder.chmod(0o700)
    assert done.stdout.endswith("m.gguf: Permission denied\n")


def test_the_error_names_the_missing_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "xllamacpp", None)
    with pytest.raises(MissingExtraError, match=r"pip install 'selfinstruct\[llamacpp\]'"):
        asyncio.run(LlamaCppBackend(LlamaCppOptions()).start())


@pytest.mark.parametrize("wrong", [{"slots": 0}, {"context": 0}, {"threads": 0}, {"timeout_s": 0.0}])
def test_options_out_of_range(wrong: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match="must be"):
        build(LlamaCppOptions, wrong, "llamacpp")


def test_capabilities_follow_the_slots() -> None:
    capabilities = backend_spec("llamacpp").capabilities(LlamaCppOptions(slots=2))
    assert (capabilities.concurrency, capabilities.max_choices) == (2, 2)


@pytest.mark.parametrize(
    ("extra", "says"),
    [({"max_tokens": 9}, "'max_tokens'"), ({"n": 2}, "'n'"), ({"a": {"b": [float("nan")]}}, r"extra_body\.a\.b\.0")],
)
def test_invalid_extra_body_is_refused(extra: dict[str, Any], says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        build(LlamaCppOptions, {"extra_body": extra}, "llamacpp")


# Threads


@pytest.mark.parametrize(
    ("physical", "busy", "threads"),
    [(2, 0.0, 2), (2, 0.4, 2), (2, 0.6, 1), (2, 1.0, 1), (2, 5.0, 1), (1, 0.0, 1), (8, 0.2, 8), (8, 3.0, 5), (8, 9, 1)],
)
def test_threads_use_only_idle_cores(physical: int, busy: float, threads: int) -> None:
    assert load.choose_threads(physical, busy) == threads


def test_cores_and_load_of_this_machine_are_plausible() -> None:
    assert 1 <= load.cores() <= (os.cpu_count() or 1)
    assert 0 <= asyncio.run(load.busy_cores()) <= 10_000


# The model itself

Ask = Callable[[Request], Completion]


@pytest.fixture(scope="module")
def runner() -> Iterator[asyncio.Runner]:
    with asyncio.Runner() as runner:
        yield runner


@pytest.fixture(scope="module")
def backend(runner: asyncio.Runner) -> Iterator[LlamaCppBackend]:
    backend = LlamaCppBackend(LlamaCppOptions(context=256, slots=2, threads=1))
    runner.run(backend.start())
    yield backend
    runner.run(backend.close())


@pytest.fixture(scope="module")
def ask(runner: asyncio.Runner, backend: LlamaCppBackend) -> Ask:
    return lambda request: runner.run(backend.complete(request))


@pytest.mark.model
def test_it_completes_raw_prompts_and_chats(ask: Ask) -> None:
    completion = ask(raw("The capital of France is"))
    assert "Paris" in completion.text
    assert completion.truncated
    assert completion.usage.prompt_tokens == 5, "this model adds no token at the beginning of a prompt"
    assert completion.usage.completion_tokens == 8
    assert completion.model == embedded.FILE, "a name without a path"
    answer = ask(chat("Say hello.", max_tokens=32))
    assert answer.usage.prompt_tokens > 20, "the model's own chat template surrounds the message"
    assert "<|im_" not in answer.text


@pytest.mark.model
def test_stop_strings_end_the_text_and_are_excluded(ask: Ask) -> None:
    completion = ask(raw("1. one\n2. two\n3. three\n4.", max_tokens=40, stop=("\n6.",)))
    assert completion.text == " four\n5. five"
    assert completion.choices[0].finish_reason == "stop"


@pytest.mark.model
def test_several_choices(ask: Ask) -> None:
    completion = ask(raw("A story:", n=2, seed=5, temperature=1.5))
    assert len({choice.text for choice in completion.choices}) == 2
    with pytest.raises(BackendError, match="refuses n = 3, the number of choices of one request"):
        ask(raw("A story:", n=3))


@pytest.mark.model
def test_a_shared_prefix_is_processed_once(ask: Ask) -> None:
    head = "A list of short and clear tasks.\n" + "".join(f"Rule {k}: be brief.\n" for k in range(20))
    first, second = ask(raw(head + "Task 1:", max_tokens=1)), ask(raw(head + "Task 2:", max_tokens=1))
    assert first.usage.cached_tokens < 10
    assert second.usage.cached_tokens > second.usage.prompt_tokens - 8


@pytest.mark.model
@pytest.mark.parametrize(
    "request_", [raw("x " * 252), raw("x", max_tokens=256), chat("x " * 225), raw("x " * 3000), raw("日本" * 200)]
)
def test_a_request_that_exceeds_the_context_is_at_fault_itself(ask: Ask, request_: Request) -> None:
    with pytest.raises(RequestError, match=r"exceed the context of 256 tokens: .* --set llamacpp\.context=") as caught:
        ask(request_)
    assert caught.value.code == "context_length"


@pytest.mark.model
def test_a_request_that_fills_the_context_exactly_is_answered(ask: Ask) -> None:
    completion = ask(raw("x " * 247))
    assert completion.usage.prompt_tokens + 8 == 256
    assert completion.usage.completion_tokens == 8


@pytest.mark.model
def test_its_endpoint_accepts_only_its_own_key(backend: LlamaCppBackend) -> None:
    url = backend._server.listening_address
    assert re.fullmatch(r"http://127\.0\.0\.1:\d+", url)
    data = json.dumps({"prompt": "x", "max_tokens": 1}).encode()
    request = urllib.request.Request(f"{url}/v1/completions", data, {"authorization": "Bearer none"})
    with pytest.raises(urllib.error.HTTPError) as caught:
        urllib.request.build_opener(urllib.request.ProxyHandler({})).open(request)
    with caught.value as refused:
        assert refused.code == 401


@pytest.mark.model
def test_a_model_that_llama_cpp_refuses_is_reported(tmp_path: Path) -> None:
    model = tmp_path / "m.gguf"
    model.write_bytes(make_gguf())
    with pytest.raises(BackendError, match=r"can't load .*m\.gguf \(\d+ bytes\)"):
        asyncio.run(LlamaCppBackend(LlamaCppOptions(model=str(model), threads=1)).start())


def threads_of_this_process() -> int:
    return len(os.listdir("/proc/self/task")) if sys.platform == "linux" else 0


@pytest.mark.model
def test_close_joins_and_frees_even_with_a_request_in_flight() -> None:
    async def go() -> None:
        before = threads_of_this_process()
        backend = open_backend("llamacpp", LlamaCppOptions(context=600, slots=1, threads=1, model=str(embedded.find())))
        await backend.start()
        port = int(backend._server.listening_address.rpartition(":")[2])
        waiting = asyncio.create_task(backend.complete(raw("Once upon a time", max_tokens=300)))
        cancelled = asyncio.create_task(backend.complete(raw("Once upon a time", max_tokens=300)))
        done, _ = await asyncio.wait([waiting, cancelled], timeout=0.5)
        assert not done
        cancelled.cancel()
        await backend.close()
        with pytest.raises(BackendError):
            await waiting
        with pytest.raises(OSError, match="refused"):
            socket.create_connection(("127.0.0.1", port))
        # Only the event loop's own threads may remain: at most two, for to_thread.
        assert threads_of_this_process() <= before + 2
        with pytest.raises(BackendError, match="closed"):
            await backend.complete(raw("x"))
        await backend.close()

    asyncio.run(go())


PROCESS = """
import asyncio
import contextlib
from selfinstruct.backends.llamacpp import LlamaCppBackend, LlamaCppOptions
from selfinstruct.records import Request, Sampling, PromptMessage

async def main():
    backend = LlamaCppBackend(LlamaCppOptions(slots=1, threads=1))
    await backend.start()
    try:
        print(backend._server.listening_address, flush=True)
        prompt = PromptMessage("prompt", "t", {}, "Once")
        await backend.complete(Request("s", (prompt,), Sampling(1500, temperature=1.5)))
    finally:
        await backend.close()
        print("closed", flush=True)

asyncio.run(main())
"""


def end_by(signum: int) -> tuple[int, str, str]:
    """Run ``PROCESS``, signal it during its request, and return its exit code, its address and its further output."""
    arguments = [sys.executable, "-c", PROCESS]
    with subprocess.Popen(
        arguments, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True
    ) as process:
        assert process.stdout is not None
        address = process.stdout.readline().strip()
        process.send_signal(signum)
        out, _ = process.communicate(timeout=30)
        _wait_for_end_of_group(process.pid)
    return process.returncode, address, out


def _wait_for_end_of_group(group: int) -> None:
    """Wait until no process of a group is left; init takes a moment to reap an orphan."""
    deadline = time.monotonic() + 30
    with contextlib.suppress(ProcessLookupError):
        while time.monotonic() < deadline:
            os.killpg(group, 0)
            time.sleep(0.01)
        pytest.fail(f"process group {group} is still there")


def refuses(address: str) -> bool:
    host, _, port = address.removeprefix("http://").rpartition(":")
    try:
        socket.create_connection((host, int(port))).close()
    except ConnectionRefusedError:
        return True
    return False


@pytest.mark.model
def test_an_interrupt_during_a_request_closes_properly() -> None:
    code, address, out = end_by(signal.SIGINT)
    assert out == "closed\n"
    assert code in (1, 130, -signal.SIGINT)
    assert refuses(address)


@pytest.mark.model
def test_a_kill_leaves_nothing_behind() -> None:
    code, address, out = end_by(signal.SIGKILL)
    assert (code, out) == (-signal.SIGKILL, "")
    assert refuses(address)
