"""Filters, parsers and the codec take time in proportion to a text, whatever the text.

No time is asserted: the kernel ends what takes too much of it. The limits of CPU time are ten times what the slowest
case takes and more, and far below one step a nanosecond for each pair of characters at 1 MB, which is 1,000 s.
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

HEAVY = ("rouge", "dedup", "minhash char5", "token_spans")  # so that two processes have about as much to do
MADE_OF_OTHERS = ("dedup", "minhash word3", "pipeline")


def spent(size: int, seconds: int, which: str, subjects: list[str]) -> dict[tuple[str, str], float]:
    """CPU seconds of each case."""
    line = [sys.executable, "-m", "tests.abuse.linear", str(size), str(seconds), which, ",".join(subjects)]
    done = subprocess.run(line, cwd=ROOT, capture_output=True, text=True, check=False, env=environment())
    told = [json.loads(one) for one in done.stdout.splitlines()]
    assert done.returncode == 0, f"exit {done.returncode} in {told[-1:]}\n{done.stderr[-2000:]}"
    return {(case[0], case[1]): case[2] for case in told if len(case) == 3}


def all_spent(size: int, seconds: int, which: str) -> dict[tuple[str, str], float]:
    """The heavy ones in a process of their own; of a few texts, without those that are made of others."""
    wanted = [subject for subject in SUBJECTS if which == "all" or subject not in MADE_OF_OTHERS]
    light, heavy = ([one for one in wanted if (one in HEAVY) is kind] for kind in (False, True))
    with ThreadPoolExecutor(2) as pool:
        first, second = pool.map(lambda part: spent(size, seconds, which, part), [light, heavy])
    return first | second


def test_every_reader_of_text_is_done_with_40_kb_of_the_worst() -> None:
    """Each case takes at most 5 s of CPU time; the slowest takes 0.4 s, and a quadratic regular expression 10 s."""
    found = all_spent(40_000, 5, "few")
    assert len(found) == (len(SUBJECTS) - len(MADE_OF_OTHERS)) * len(FEW)


@pytest.mark.prove
def test_every_reader_of_text_is_done_with_1_mb_of_anything(promise: Promise) -> None:
    """Each case within 120 s of CPU time; one step a nanosecond for each pair of characters would take 1,000 s."""
    found = all_spent(1_000_000, 120, "all")
    assert len(found) == len(SUBJECTS) * len(texts(1000))
    (subject, text), worst = max(found.items(), key=lambda one: one[1])
    plain = max((cost, name) for (name, what), cost in found.items() if what == "a...!")
    promise(
        "abuse: linear filters",
        f"{len(SUBJECTS)} readers x {len(texts(1000))} texts of 1 MB: aaaa...! takes {plain[0]:.2f} s at most "
        f"({plain[1]}), the worst text {worst:.1f} s ({subject}, {text})",
    )


@pytest.mark.prove
def test_a_comparison_of_two_long_texts_has_a_bound() -> None:
    """Of 8 MB, within 60 s of CPU time: the longest common subsequence of all of them takes minutes."""
    found = spent(8_000_000, 60, "few", ["copied"])
    assert len(found) == len(FEW)


def test_the_texts_are_as_long_as_they_say() -> None:
    assert len(PIECES) == len(set(PIECES))
    assert all(85_000 <= len(text) <= 105_000 for text in texts(100_000).values())
