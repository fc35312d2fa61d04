"""Print the table of docs/servers.md: ``python -m tests.dialects [WORD ...]``.

Words select the servers whose names contain one of them. What each command printed goes to standard error.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

from tests.dialects.servers import Situation
from tests.dialects.table import DIALECTS, Outcome, observe, sentence


def main() -> None:
    """Print a row for each server, then the sums."""
    words = [word.lower() for word in sys.argv[1:]] or [""]
    outcomes: list[Outcome] = []
    print("| server |" + "".join(f" {situation} |" for situation in Situation))
    print("|---" * (len(Situation) + 1) + "|")
    for name in (name for name in DIALECTS if any(word in name.lower() for word in words)):
        cells = []
        for situation in Situation:
            variants = len(DIALECTS[name].dry) if situation is Situation.DRY else 1
            tried = [_observe(name, situation, variant) for variant in range(variants)]
            outcomes += tried
            cells.append(" / ".join(dict.fromkeys(map(sentence, tried))))
        print(f"| {name} |" + "".join(f" {cell} |" for cell in cells), flush=True)
    broken, lost = (sum(map(len, column)) for column in zip(*((one.broken, one.lost) for one in outcomes), strict=True))
    print(f"\nRows made from broken answers: {broken}. Tasks lost to a fault that passed: {lost}.")


def _observe(name: str, situation: Situation, variant: int) -> Outcome:
    with tempfile.TemporaryDirectory() as folder:
        outcome = observe(DIALECTS[name], situation, Path(folder), variant)
    print(f"\n## {name}, {situation} {variant}: {sentence(outcome)}\nexit codes {outcome.codes}, {outcome.refused} "
          f"refused, then {outcome.refused_again}; {outcome.broken}\n{outcome.output.strip()}",
          file=sys.stderr, flush=True)  # fmt: skip
    return outcome


if __name__ == "__main__":
    main()
