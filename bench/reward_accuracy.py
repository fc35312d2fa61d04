"""Accuracy of a reward model on held-out pairs of a file, against chance (50%) and against the longer answer.

    python bench/reward_accuracy.py FILE [--rejected other|cut] [--train N] [--held-out N] [--model NAME]
        [--characters N] [--set KEY=VALUE]... [--write]

FILE holds compared answers (chosen and rejected; docs/preferences.md), or with --rejected rows with an instruction and
an output, of which pairs are made: the output is chosen, and rejected is the output of another row of the same
``source`` (other), or the first half of the output's own words (cut). Neither is what people compare: "other" asks
whether an answer belongs to its question, "cut" whether it is complete, and the longer answer wins every cut pair.

The pairs are shuffled and divided before rejected answers are drawn, so that no held-out text is trained on.
``finetune reward`` trains on one part; the rewards of the other part are those that ``selfinstruct filter --reward``
gives. The default model is the embedded one.
"""

from __future__ import annotations

import argparse
import gzip
import json
import os
import random
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

os.environ.setdefault("HF_HUB_OFFLINE", "1")
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from reporting import RESULTS, hardware, today

import finetune
from finetune.evaluation.pairs import wilson_interval
from finetune.options import RewardOptions
from selfinstruct.common.formats import user_text
from selfinstruct.filters import Reward

SETTINGS = ("max_length=128", "batch_size=8", "learning_rate=2e-5", "warmup=0.1", "checkpoint_every=0",
            "evaluation.fraction=0")  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("file", type=Path, metavar="FILE", help="JSON lines, also compressed by gzip")
    parser.add_argument("--rejected", choices=("other", "cut"), help="make pairs of rows with one answer each")
    parser.add_argument("--train", type=int, default=300, help="pairs to train on")
    parser.add_argument("--held-out", type=int, default=200, help="pairs to measure")
    parser.add_argument("--model", help="model to start from; default: the embedded one")
    parser.add_argument("--characters", type=int, default=240, help="longest prompt with an answer")
    parser.add_argument("--seed", type=int, default=0, help="seed of the division and of the rejected answers")
    parser.add_argument("--set", dest="assignments", action="append", default=[], help="a setting of the training")
    parser.add_argument("--write", action="store_true", help="write the lines under bench/results")
    arguments = parser.parse_args()
    draw = random.Random(arguments.seed)
    rows = [row for row in read(arguments.file) if longest(row) <= arguments.characters]
    draw.shuffle(rows)
    needed = arguments.train + arguments.held_out
    if len(rows) < needed:
        parser.error(
            f"{arguments.file} has {len(rows)} prompts of at most {arguments.characters} characters, not {needed}"
        )
    parts = rows[: arguments.train], rows[arguments.train : needed]
    train, held_out = (make_pairs(part, arguments.rejected, draw) for part in parts)
    options = finetune.load_options("reward", None, [*SETTINGS, *arguments.assignments], kind=RewardOptions)
    with tempfile.TemporaryDirectory() as folder:
        data, out = Path(folder) / "train.jsonl", Path(folder) / "reward"
        data.write_text("".join(json.dumps(pair) + "\n" for pair in train), encoding="utf-8")
        began = time.process_time()
        result = finetune.train_reward(arguments.model, str(data), out, options, notify=print)
        if not result.complete:
            sys.exit("interrupted")
        trained = time.process_time() - began
        rewards = [measure(str(out), held_out, side) for side in ("chosen", "rejected")]
    lines = report(held_out, *rewards)
    title = f"# Accuracy of a reward model, {today()}\n\n{hardware()}. Printed by `python bench/reward_accuracy.py"
    head = f"{title} {arguments.file.name} {' '.join(sys.argv[2:])}`."
    steps = f"{len(train)} pairs trained in {result.steps} steps, {trained:.0f} s of processor time."
    text = "\n".join([head, "", steps, "", *lines, ""])
    print(text)
    if arguments.write:
        (RESULTS / f"reward-accuracy-{today()}.md").write_text(text, encoding="utf-8")


def read(path: Path) -> list[dict[str, Any]]:
    """Return the rows with texts, one for each prompt."""
    content = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
    rows = [json.loads(line) for line in content.splitlines()]
    by_prompt = {prompt_of(row): row for row in rows if answers_of(row)[0].strip()}
    return list(by_prompt.values())


def prompt_of(row: dict[str, Any]) -> str:
    return str(row["prompt"]) if "prompt" in row else user_text(row["instruction"], row.get("input", ""))


def answers_of(row: dict[str, Any]) -> tuple[str, str]:
    """Return the chosen and the rejected answer; the latter is "" in a row with one answer."""
    return (row["chosen"], row["rejected"]) if "chosen" in row else (row["output"], "")


def longest(row: dict[str, Any]) -> int:
    return len(prompt_of(row)) + max(map(len, answers_of(row)))


def make_pairs(rows: list[dict[str, Any]], kind: str | None, draw: random.Random) -> list[dict[str, str]]:
    """Return pairs; rejected answers are drawn from the same rows."""
    pairs = []
    for row in rows:
        chosen, rejected = answers_of(row)
        if kind == "other":
            others = {each["output"] for each in rows if each.get("source") == row.get("source")} - {chosen}
            rejected = draw.choice(sorted(others))
        elif kind == "cut":
            words = chosen.split(" ")
            rejected = " ".join(words[: max(1, len(words) // 2)])
        if rejected != chosen:
            pairs.append({"prompt": prompt_of(row), "chosen": chosen, "rejected": rejected})
    return pairs


def measure(model: str, pairs: list[dict[str, str]], side: str) -> list[float | None]:
    verdicts = Reward(model).decide([pair["prompt"] for pair in pairs], [pair[side] for pair in pairs])
    return [verdict.score for verdict in verdicts]


def report(
    pairs: list[dict[str, str]], chosen: list[float | None], rejected: list[float | None]
) -> list[str]:  # fmt: skip
    """Return the accuracy with its interval, next to what the length of the answers alone achieves."""
    scored = [
        (good - bad, len(pair["chosen"]) - len(pair["rejected"]))
        for pair, good, bad in zip(pairs, chosen, rejected, strict=True)
        if good is not None and bad is not None
    ]
    lines = ["| decides by | held-out pairs | right | 95% interval | mean margin |", "|---|---|---|---|---|"]
    for name, differences in zip(("the reward", "the longer answer"), zip(*scored, strict=True), strict=True):
        right = sum(1.0 if value > 0 else 0.5 if value == 0 else 0.0 for value in differences) / len(scored)
        low, high = wilson_interval(right, len(scored))
        margin = f"{sum(differences) / len(scored):+.3f}" if name == "the reward" else ""
        lines.append(f"| {name} | {len(scored)} | {right:.1%} | {low:.1%} to {high:.1%} | {margin} |")
    return lines


if __name__ == "__main__":
    main()
