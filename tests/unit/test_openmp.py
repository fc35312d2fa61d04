"""Idle OpenMP threads sleep in every process of both packages, and a setting of the user is kept."""

from __future__ import annotations

import os
import re
import subprocess
import sys

import pytest

from selfinstruct.common.openmp import wait_passively

VARIABLES = ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT", "KMP_BLOCKTIME", "KMP_LIBRARY")
TRAIN = ("-m", "finetune", "train", "--data", "missing.jsonl", "--dry-run")


def spin_counts(*args: str, **variables: str) -> list[str]:
    """Return the spin count that GNU's OpenMP runtime reports in each process of a command that loads it."""
    environ = {name: value for name, value in os.environ.items() if name not in VARIABLES}
    environ |= {"OMP_DISPLAY_ENV": "verbose", **variables}
    command = [sys.executable, *args]
    done = subprocess.run(command, env=environ, capture_output=True, text=True, timeout=300, check=False)
    counts = re.findall(r"GOMP_SPINCOUNT = '(\w+)'", done.stderr)
    assert counts, done.stderr
    return counts


@pytest.mark.parametrize("module", ["finetune", "selfinstruct.filters", "selfinstruct.backends.vllm.worker"])
@pytest.mark.parametrize("user", [None, *VARIABLES])
def test_importing_either_package_sets_the_policy_unless_the_user_did(module: str, user: str | None) -> None:
    environ = {name: value for name, value in os.environ.items() if name not in VARIABLES}
    if user:
        environ[user] = "1"
    code = f"import os, {module}; print(os.environ.get('OMP_WAIT_POLICY'))"
    done = subprocess.run([sys.executable, "-c", code], env=environ, capture_output=True, text=True, check=True)
    assert done.stdout.split() == {None: ["passive"], "OMP_WAIT_POLICY": ["1"]}.get(user, ["None"])


def test_every_setting_of_the_user_is_kept() -> None:
    for name in VARIABLES:
        environ = {name: "1"}
        wait_passively(environ)
        assert environ == {name: "1"}


@pytest.mark.parametrize("args", [("-c", "import finetune, torch"), ("-c", "import selfinstruct.filters, torch")])
def test_the_runtime_that_torch_loads_does_not_spin(args: tuple[str, ...]) -> None:
    assert set(spin_counts(*args)) == {"0"}
    assert set(spin_counts(*args, GOMP_SPINCOUNT="4000")) == {"4000"}


@pytest.mark.slow
def test_a_process_started_by_torchrun_does_not_spin() -> None:
    *launcher, process = spin_counts("-m", "torch.distributed.run", "--nproc-per-node", "1", *TRAIN)
    assert launcher, "torchrun loads torch itself, with the settings of the user"
    assert process == "0"


@pytest.mark.slow
def test_torch_may_be_loaded_already() -> None:
    """Nothing is said; the processes that this one starts do not spin."""
    code = "import torch, finetune, subprocess, sys; subprocess.run([sys.executable, '-c', 'import torch'])"
    assert spin_counts("-c", code)[1:] == ["0"]
