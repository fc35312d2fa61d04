"""Print the table of dialects and situations: ``python -m tests.dialects [DIALECT ...]``."""

from __future__ import annotations

import sys
import tempfile
import time
from pathlib import Path

from tests.dialects.servers import Situation
from tests.dialects.table import DIALECTS, observe, sentence


def main() -> None:
    """Print a row for each dialect, and details to standard error."""
    names = [name for name in DIALECTS if not sys.argv[1:] or any(word.lower() in name.lower() for word in sys.argv[1:])]
    print("| server |" + "".join(f" {situation} |" for situation in Situation))
    print("|---" * (len(Situation) + 1) + "|")
    broken = lost = 0
    for name in names:
        cells = []
        for situation in Situation:
            variants = len(DIALECTS[name].dry) if situation is Situation.DRY else 1
            texts: list[str] = []
            for variant in range(variants):
                start = time.monotonic()
                with tempfile.TemporaryDirectory() as folder:
                    outcome = observe(DIALECTS[name], situation, Path(folder), variant)
                broken += len(outcome.broken)
                lost += len(outcome.lost)
                if (text := sentence(outcome)) not in texts:
                    texts.append(text)
                print(f"## {name} × {situation} {variant}: {text} codes {outcome.codes} {time.monotonic() - start:.1f} s\n"
                      f"{outcome.output.strip()}\n{outcome.broken[:2]}", file=sys.stderr, flush=True)  # fmt: skip
            cells.append(" / ".join(texts))
        print(f"| {name} |" + "".join(f" {cell} |" for cell in cells), flush=True)
    print(f"\nRows made from broken answers: {broken}. Tasks lost to a fault that passed: {lost}.")


if __name__ == "__main__":
    main()
