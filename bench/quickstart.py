"""Measure what `make train` does to the embedded model, for several settings of the recipe `quickstart`.

    python bench/quickstart.py runs/quickstart [--seeds 3] [--settings learning_rate=1e-5 ...] [--write]

Each setting is trained with each seed, which draws the held-out rows and the order of the documents. The losses are the
ones that `finetune train` reports, in nats per supervised token: on the held-out rows and on the 64 seed tasks, before
and after, with the standard error of the difference. A setting is acceptable if no seed makes the seed tasks worse by
more than two standard errors. Several assignments of one setting are separated by `;`.
"""

from __future__ import annotations

import argparse
import datetime
import tempfile
from pathlib import Path

from filters import RESULTS, hardware

import finetune
from finetune.evaluation.held_out import difference

SETTINGS = ("learning_rate=1e-4", "learning_rate=2e-5", "learning_rate=1e-5", "learning_rate=2e-4;lora={rank: 8}")


def measure(data: str, setting: str, seed: int) -> str:
    """Train once and return a row of the table."""
    assignments = [*setting.split(";"), f"seed={seed}", "evaluation.samples=0"]
    options = finetune.load_options("quickstart", assignments=assignments)
    with tempfile.TemporaryDirectory() as folder:
        result = finetune.train(None, data, Path(folder) / "model", options)
    assert result.before is not None
    assert result.after is not None
    cells = [f"`{setting}`", str(seed), str(result.steps), f"{result.seconds:.0f}"]
    for name, before in result.before.losses.items():
        after = result.after.losses[name]
        change, error = difference(before, after)
        cells.append(f"{before.mean:.3f} -> {after.mean:.3f} ({change:+.3f} ± {error or 0:.3f})")
    return f"| {' | '.join(cells)} |"


def main() -> None:
    """Print a row after each training run, and write the table if asked."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", help="run or dataset")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--settings", nargs="+", default=SETTINGS)
    parser.add_argument("--write", action="store_true", help="write the table into bench/results")
    options = parser.parse_args()
    lines = ["| setting | seed | steps | s | held-out rows | seed tasks |", "|---|---|---|---|---|---|"]
    print("\n".join(lines), flush=True)
    for setting in options.settings:
        for seed in range(options.seeds):
            lines.append(measure(options.data, setting, seed))
            print(lines[-1], flush=True)
    if options.write:
        today = datetime.datetime.now(datetime.UTC).date()
        text = (
            f"# Quickstart recipe, {today}\n\n{hardware()}. Printed by\n`python bench/quickstart.py RUN --write`.\n\n"
        )
        (RESULTS / f"quickstart-{today}.md").write_text(text + "\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
