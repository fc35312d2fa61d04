"""Keys and passwords never reach the disk, an output or a traceback, even if a server echoes them."""

from __future__ import annotations

import base64
import html
import json
import subprocess
import sys
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest

from selfinstruct.common.rng import derive
from tests.abuse.hostile import ROOT, selfinstruct
from tests.cli import command, environment
from tests.conftest import Promise
from tests.loopback import Fault, Loopback
from tests.scripted import reply

# Not in one piece anywhere in the source: a traceback may show these lines.
KEY = "sk-" + "canary-" + "".join(chr(97 + (7 * place) % 26) for place in range(30)) + '/+&"<9'
PASSWORD = "".join(chr(97 + (11 * place) % 26) for place in range(20))
PIECE = 12  # characters of a secret that nobody may find in a row


def forms(secret: str) -> set[bytes]:
    """A secret as different writers would write it."""
    basic = base64.b64encode(f"user:{secret}".encode()).decode()
    texts = {secret, secret[::-1], json.dumps(secret)[1:-1], html.escape(secret), quote(secret, safe=""), basic}
    return {text.encode(coding) for text in texts for coding in ("utf-8", "utf-16-le", "utf-16-be")}


def leaked(content: bytes) -> list[bytes]:
    """Pieces of the secrets that are in the content; of a text of two bytes a character, as many characters."""
    found = []
    for secret in (KEY, PASSWORD):
        for form in forms(secret):
            width = PIECE * (2 if b"\x00" in form else 1)
            found += [
                piece for start in range(len(form) - width + 1) if (piece := form[start : start + width]) in content
            ]
    return found


def test_the_search_for_leaked_keys_works() -> None:
    assert not leaked(b"".join(path.read_bytes() for path in Path(__file__).parent.glob("*.py")))
    for secret in (KEY, PASSWORD):
        for text in (f"a {secret} b", secret[5:18], quote(secret), html.escape(secret), json.dumps({"k": secret})):
            assert leaked(text.encode())
            assert leaked(text.encode("utf-16"))
        assert leaked(base64.b64encode(f"user:{secret}".encode()))


class Watch:
    """Runs commands, and keeps what they print."""

    def __init__(self, home: Path) -> None:
        self.home = home
        self.outputs: list[tuple[str, bytes]] = []

    def run(self, *args: object, code: int, **more: str) -> bytes:
        env = environment(CANARY=KEY, HOME=str(self.home), **more)
        done = subprocess.run(command(*args), capture_output=True, check=False, timeout=60, env=env, cwd=self.home)
        self.outputs.append((" ".join(map(str, args)), done.stdout + done.stderr))
        assert done.returncode == code, self.outputs[-1]
        return done.stdout + done.stderr

    def call(self, *args: object, code: int) -> str:
        """In this process: much faster, for what neither asks a server nor could know the key."""
        said = selfinstruct(*args)
        self.outputs.append((" ".join(map(str, args)), said.output.encode()))
        assert said.code == code, self.outputs[-1]
        return said.output

    def check(self) -> tuple[int, int]:
        """Files and outputs looked through."""
        for name, output in self.outputs:
            assert not leaked(output), (name, output)
        files = [path for path in self.home.rglob("*") if path.is_file()]
        for path in files:
            assert not leaked(path.read_bytes()), (path, leaked(path.read_bytes()))
            assert not leaked(str(path).encode())
        return len(files), len(self.outputs)


ECHO = {"error": {"message": f"Incorrect API key provided: {KEY} (Authorization: Bearer {KEY})", "param": KEY}}
OWN = {"error": {"message": f"Your prompt is bad, Bearer {KEY}", "code": "bad", "type": KEY}}
HEADERS = {
    "X-Api-Key": KEY,
    "WWW-Authenticate": f'Bearer realm="{KEY}"',
    "Retry-After": KEY,
    "Set-Cookie": f"key={KEY}",
}
FAULTS = (
    Fault(400, HEADERS, OWN),
    Fault(500, HEADERS, f"<html><h1>{KEY}</h1>{html.escape(KEY)}</html>"),
    Fault(400, HEADERS, {"error": {"message": KEY, "code": "context_length_exceeded"}}),
    Fault(200, HEADERS, f"no JSON, but {KEY}"),
    Fault(422, HEADERS, json.dumps(OWN)[:-5]),
    Fault(200, HEADERS, {"choices": [], "authorization": f"Bearer {KEY}"}),
    Fault(400, HEADERS, ("x" * 290) + KEY),
)


def fault(number: int, body: dict[str, Any]) -> Fault | None:
    """Every other request from the fourth on meets a server that echoes its request."""
    places = {derive("request", 0, 3 + 2 * at): at for at in range(len(FAULTS))}
    place = places.get(body["seed"])
    return None if place is None else FAULTS[place]


def test_a_key_is_in_no_file_and_no_output(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, promise: Promise) -> None:
    watch = Watch(tmp_path / "home")
    watch.home.mkdir()
    run, refused, other = watch.home / "run", watch.home / "refused", watch.home / "other"

    def args(folder: Path, url: str, *more: object) -> tuple[object, ...]:
        return ("generate", folder, "--backend", "openai", "--model", "scripted", "--base-url", url, "--api",
                "completion", "--strategy", "alpaca", "--api-key-env", "CANARY", "--set", "retry.base_s=0.01",
                "--set", "retry.attempts=2", *more)  # fmt: skip

    monkeypatch.setenv("CANARY", KEY)
    monkeypatch.chdir(watch.home)
    with Loopback(reply, fault) as server:
        watch.call(*args(run, server.url, "--dry-run"), code=0)
        assert not server.arrived
        watch.run(*args(run, server.url, "-n", 40, "--concurrency", 3), code=0)
        assert all(one.headers["authorization"] == f"Bearer {KEY}" for one in server.arrived), "it is sent, in truth"
        said = watch.call("status", run, "--json", code=0)
        assert sum(json.loads(said)["failures"].values()) == len(FAULTS), "on record, with the server's own words"
    for status in (401, 403, 404, 429, 500):
        with Loopback(reply, lambda number, body, status=status: Fault(status, HEADERS, ECHO)) as server:
            watch.call(*args(refused, server.url, "-n", 3, "--set", "retry.total_s=0.3"), code=1)
    with Loopback(reply, lambda number, body: Fault(401, HEADERS, ECHO)) as server:
        watch.run(*args(refused, server.url, "-n", 3), code=1)
    with Loopback(reply, lambda number, body: Fault(200, HEADERS, ECHO, how="half")) as server:
        watch.call(*args(refused, server.url, "-n", 3), code=1)
    with Loopback(reply) as server:
        watch.call(*args(other, server.url, "-n", 5), code=0)
    watch.call("status", run, code=0)
    watch.call("status", refused, code=0)
    watch.call("runs", watch.home, code=0)
    watch.call("explain", run, "1", code=0)
    watch.call("explain", run, "2.0", "--json", code=0)
    watch.call("explain", run, "3.0", code=2)
    watch.call("diff", run, other, "--json", code=0)
    watch.call("refilter", run, "-o", "strict", "--set", "filters.novelty.threshold=0.5", code=0)
    watch.call("tune", run, "--json", code=0)
    watch.run("doctor", code=0)
    for name in ("alpaca", "messages", "sharegpt", "prompt-completion", "candidates"):
        watch.call("export", run, "--format", name, code=0)
    watch.call("filter", run / "dataset" / "alpaca.jsonl", "-o", "out.jsonl", "--report", "why.jsonl", code=0)
    watch.call("generate", watch.home / "again", "--backend", "replay", "--from", run, "-n", 40, code=0)
    files, outputs = watch.check()
    promise("abuse: canary keys", f"0 of {files} files and {outputs} outputs hold {PIECE} characters of a key")


def test_a_key_that_a_completion_echoes_is_not_stored(tmp_path: Path) -> None:
    """A gateway that answers with what it was sent: the text of a completion, its model, its reason to finish."""
    watch = Watch(tmp_path / "home")
    watch.home.mkdir()

    def echoing(body: dict[str, Any]) -> dict[str, Any]:
        text = reply(body).replace(".", f" Bearer {KEY}.")
        return {"model": KEY, "choices": [{"text": text, "finish_reason": KEY}], "system_fingerprint": KEY}

    with Loopback(echoing) as server:
        typed = ("generate", "run", "--backend", "openai", "--model", "m", "--base-url", server.url, "-n", 3)
        watch.run(*typed, "--api", "completion", "--strategy", "alpaca", "--api-key-env", "CANARY", code=0)
    assert b"Bearer" in (watch.home / "run" / "dataset" / "alpaca.jsonl").read_bytes()
    watch.check()


def test_a_password_in_an_address_is_in_no_file_and_no_output(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, promise: Promise
) -> None:
    watch = Watch(tmp_path / "home")
    watch.home.mkdir()
    monkeypatch.chdir(watch.home)
    with Loopback(reply) as server:
        url = server.url.replace("//", f"//user:{PASSWORD}@")
        asked = server.url + f"?key={PASSWORD}"
        config = tmp_path / "c.yaml"  # the user's own file, outside of what is looked through
        typed = ("generate", "run", "--backend", "openai", "--model", "m")
        for address in (url, asked):
            watch.call(*typed, "--base-url", address, code=2)
            watch.call(*typed, "--base-url", address, "--dry-run", code=2)
            watch.call(*typed, "--set", f"openai.base_url={address}", code=2)
            watch.call(*typed, "--set", f"openai.base_url=[{address}]", code=2)
            watch.call(*typed, "--set", f"openai.base_url={{{address}: 1}}", code=2)
            watch.call("generate", "run", "--base-url", address, code=2)
            config.write_text(f"backend: openai\nopenai:\n  model: m\n  base_url: {json.dumps(address)}\n")
            watch.call("generate", "run", "--config", config, code=2)
        watch.call(*typed, "--api-key-env", PASSWORD + "!", code=2)
        watch.call(*typed, "--set", f"openai.api_key={PASSWORD}", code=2)
        watch.call(*typed, "--set", f"api_key={PASSWORD}", code=2)
        watch.call(*typed, "--set", f"openai.api_key_env=[{PASSWORD}]", code=2)
        # A proxy's address may contain a password, and client libraries log proxies.
        proxy = f"http://user:{PASSWORD}@127.0.0.1:9"
        slow = ("--set", "retry.attempts=1", "--set", "openai.timeout_s=5")
        monkeypatch.setenv("HTTP_PROXY", proxy)
        monkeypatch.setenv("ALL_PROXY", proxy)
        watch.call(*typed, "--base-url", "http://h.invalid/v1", *slow, code=1)
        watch.run(*typed, "--base-url", url, code=2)
        assert not server.arrived
    files, outputs = watch.check()
    promise("abuse: canary keys", f"0 of {files} files and {outputs} outputs hold {PIECE} characters of a password")


INDUCED = """
import sys
import {module} as part
def broken(*_, **__):
    raise RuntimeError("induced")
part.{name} = broken
from selfinstruct.cli import main
sys.argv[:] = ["selfinstruct", *sys.argv[1:]]
main()
"""


@pytest.mark.parametrize(
    ("module", "name", "shown"),
    [
        ("selfinstruct.backends.openai.server", "read_answer", "1"),
        ("selfinstruct.backends.openai.server", "_open_client", "1"),
        ("selfinstruct.backends.openai.server", "_lowered", ""),
        ("selfinstruct.strategies.alpaca", "read_blocks", "1"),
    ],
)
def test_a_key_is_in_no_traceback_of_an_unknown_error(module: str, name: str, shown: str, tmp_path: Path) -> None:
    script = INDUCED.format(module=module, name=name)
    with Loopback(reply) as server:
        typed = ["generate", "run", "--backend", "openai", "--model", "m", "--base-url", server.url, "-n", "3"]
        more = ["--api", "completion", "--strategy", "alpaca", "--api-key-env", "CANARY"]
        env = environment(CANARY=KEY, SELFINSTRUCT_TRACEBACK=shown, PYTHONPATH=str(ROOT))
        done = subprocess.run(
            [sys.executable, "-c", script, *typed, *more],
            capture_output=True, check=False, timeout=60, env=env, cwd=tmp_path,
        )  # fmt: skip
    assert done.returncode == 1
    assert b"RuntimeError: induced" in done.stderr
    assert (b"Traceback" in done.stderr) == bool(shown)
    assert not leaked(done.stdout + done.stderr)
    for path in tmp_path.rglob("*"):
        assert path.is_dir() or not leaked(path.read_bytes())
