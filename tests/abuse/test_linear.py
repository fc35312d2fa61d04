"""Filters, parsers and the codec take linear time for every text.

No time is asserted: the kernel kills a process that exceeds its CPU time. The limits are more than ten times the
slowest case, and far below the 1,000 s that one nanosecond per pair of characters takes for 1 MB.
"""

from __future__ import annotations

import json
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import pytest

from tests.abuse.hostile import ROOT
from tests.abuse.linear import FEW, PIECES, SUBJECTS, texts
from tests.cli import environment
from tests.conftest import Promise

HEAVY = ("rouge", "dedup", "minhash char5", "token_spans")  # so that two processes have about the same amount of work
COMPOSED = ("dedup", "minhash word3", "pipeline")


def spent(size: int, seconds: int, which: str, subjects: list[str]) -> dict[tuple[str, str], float]:
    """Return the CPU seconds of each case."""
    line = [sys.executable, "-m", "tests.abuse.linear", str(size), str(seconds), which, ",".join(subjects)]
    done = subprocess.run(line, cwd=ROOT, capture_output=True, text=True, check=False, env=environment())
    cases = [json.loads(line) for line in done.stdout.splitlines()]
    assert done.returncode == 0, f"exit {done.returncode} in {cases[-1:]}\n{done.stderr[-2000:]}"
    return {(case[0], case[1]): case[2] for case in cases if len(case) == 3}


def all_spent(size: int, seconds: int, which: str) -> dict[tuple[str, str], float]:
    """Run heavy subjects in a second process; with few texts, skip subjects that are composed of others."""
    wanted = [subject for subject in SUBJECTS if which == "all" or subject not in COMPOSED]
    light, heavy = ([name for name in wanted if (name in HEAVY) is kind] for kind in (False, True))
    with ThreadPoolExecutor(2) as pool:
        first, second = pool.map(lambda part: spent(size, seconds, which, part), [light, heavy])
    return first | second


def test_every_reader_of_text_reads_40_kb_in_linear_time() -> None:
    """Each case takes at most 8 s of CPU time; the slowest takes 1 s, and a quadratic regular expression 10 s."""
    seconds = all_spent(40_000, 8, "few")
    assert len(seconds) == (len(SUBJECTS) - len(COMPOSED)) * len(FEW)


@pytest.mark.prove
def test_every_reader_of_text_reads_1_mb_in_linear_time(promise: Promise) -> None:
    """Each case within 120 s of CPU time; one step a nanosecond for each pair of characters would take 1,000 s.

    A text that NFKC lengthens, such as U+FDFA by a factor of 18, has as many times as long.
    """
    seconds = all_spent(1_000_000, 120, "all")
    assert len(seconds) == len(SUBJECTS) * len(texts(1000))
    (subject, text), worst = max(seconds.items(), key=lambda case: case[1])
    plain = max((cost, name) for (name, what), cost in seconds.items() if what == "a...!")
    promise(
        "abuse: linear filters",
        f"{len(SUBJECTS)} readers x {len(texts(1000))} texts of 1 MB: aaaa...! takes {plain[0]:.2f} s at most "
        f"({plain[1]}), the worst text {worst:.1f} s ({subject}, {text})",
    )


@pytest.mark.prove
def test_the_comparison_of_two_long_texts_is_bounded() -> None:
    """8 MB take less than 60 s of CPU time; an unbounded longest common subsequence takes minutes."""
    seconds = spent(8_000_000, 60, "few", ["copied"])
    assert len(seconds) == len(FEW)


def test_the_texts_have_the_requested_size() -> None:
    assert len(PIECES) == len(set(PIECES))
    assert all(85_000 <= len(text) <= 105_000 for text in texts(100_000).values())
