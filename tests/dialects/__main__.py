"""Print the table of docs/servers.md: ``python -m tests.dialects [--write] [WORD ...]``.

Words select the servers whose names contain one of them; ``--write`` puts the table into the page. What each command
printed goes to standard error.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path

from tests.dialects.servers import Situation
from tests.dialects.table import DIALECTS, HEAD, PAGE, Outcome, observe, sentence


def main() -> None:
    """Print a row for each server, then the sums."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("words", nargs="*", metavar="WORD")
    parser.add_argument("--write", action="store_true", help="put the table of all servers into docs/servers.md")
    arguments = parser.parse_args()
    words = [word.lower() for word in arguments.words] or [""]
    names = [name for name in DIALECTS if arguments.write or any(word in name.lower() for word in words)]
    outcomes: list[Outcome] = []
    lines = [f"{HEAD}{''.join(f' {situation} |' for situation in Situation)}", "|---" * (len(Situation) + 1) + "|"]
    for name in names:
        cells = []
        for situation in Situation:
            variants = len(DIALECTS[name].dry) if situation is Situation.DRY else 1
            tried = [_observe(name, situation, variant) for variant in range(variants)]
            outcomes += tried
            cells.append(" / ".join(dict.fromkeys(map(sentence, tried))))
        lines.append(f"| {name} | {' | '.join(cells)} |")
    broken, lost = sum(len(one.broken) for one in outcomes), sum(len(one.lost) for one in outcomes)
    print(*lines, f"\nRows made from broken answers: {broken}. Tasks lost to a fault that passed: {lost}.", sep="\n")
    if arguments.write:
        before, _, rest = PAGE.read_text().partition(HEAD)
        PAGE.write_text(before + "\n".join(lines) + "\n\n" + rest.partition("\n\n")[2])


def _observe(name: str, situation: Situation, variant: int) -> Outcome:
    with tempfile.TemporaryDirectory() as folder:
        outcome = observe(DIALECTS[name], situation, Path(folder), variant)
    print(f"\n## {name}, {situation} {variant}: {sentence(outcome)}\nexit codes {outcome.codes}, {outcome.refused} "
          f"refused, then {outcome.refused_again}; {outcome.broken}\n{outcome.output.strip()}",
          file=sys.stderr, flush=True)  # fmt: skip
    return outcome


if __name__ == "__main__":
    main()
