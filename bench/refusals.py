"""Measure precision and recall of the refusal filter on labelled lines.

    python bench/refusals.py [--data tests/data/refusals.jsonl] [--errors]

The forms of the filter were written by the development half; the held-out half, drawn from the same lines by a hash of
their text, was only measured. A line counts as positive if it is a
refusal or an assistant's reference to itself; both are useless as an answer.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from selfinstruct.filters import Refusals

DATA = Path(__file__).resolve().parents[1] / "tests" / "data" / "refusals.jsonl"
ANSWER = "answer"
HALVES = ("development", "held-out")


@dataclass(frozen=True)
class Line:
    """One labelled line."""

    half: str
    label: str
    language: str
    text: str

    @property
    def positive(self) -> bool:
        """Whether the filter should reject the line."""
        return self.label != ANSWER


@dataclass(frozen=True)
class Measurement:
    """The filter's decisions on some lines.

    Attributes:
        hits: Positive lines that were rejected.
        misses: Positive lines that were kept.
        false_alarms: Answers that were rejected.
    """

    hits: tuple[Line, ...]
    misses: tuple[Line, ...]
    false_alarms: tuple[Line, ...]

    @property
    def precision(self) -> float:
        """Share of the rejected lines that are positive."""
        rejected = len(self.hits) + len(self.false_alarms)
        return len(self.hits) / rejected if rejected else 1.0

    @property
    def recall(self) -> float:
        """Share of the positive lines that were rejected."""
        return len(self.hits) / (len(self.hits) + len(self.misses))


def read(path: Path = DATA) -> list[Line]:
    """Read labelled lines."""
    return [Line(**json.loads(line)) for line in path.read_text(encoding="utf-8").splitlines()]


def measure(lines: Sequence[Line]) -> Measurement:
    """Let the filter decide on every line."""
    rejected = [not verdict.kept for verdict in Refusals().decide([line.text for line in lines])]
    pairs = list(zip(lines, rejected, strict=True))
    return Measurement(
        tuple(line for line, was_rejected in pairs if was_rejected and line.positive),
        tuple(line for line, was_rejected in pairs if not was_rejected and line.positive),
        tuple(line for line, was_rejected in pairs if was_rejected and not line.positive),
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=DATA)
    parser.add_argument("--errors", action="store_true", help="also print the wrong decisions of the development half")
    options = parser.parse_args()
    lines = read(options.data)
    print("| half | lines | refusals | precision | recall |\n|---|---|---|---|---|")
    for half in HALVES:
        part = [line for line in lines if line.half == half]
        result = measure(part)
        positive = sum(line.positive for line in part)
        print(f"| {half} | {len(part)} | {positive} | {result.precision:.3f} | {result.recall:.3f} |")
    if options.errors:
        result = measure([line for line in lines if line.half == HALVES[0]])
        for title, wrong in (("missed", result.misses), ("false alarm", result.false_alarms)):
            for line in wrong:
                print(f"{title}: {line.text!r}")


if __name__ == "__main__":
    main()
