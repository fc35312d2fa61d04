"""Does the data help? Train on verified answers and on control arms, and compare the models on held-out tasks.

    python bench/proof.py [--out DIR] [--model MODEL] [--backend NAME] [--tasks N] [--held-out N] [--seeds N]

The same command resumes after an interruption. The steps:

1. A model answers tasks with one constraint each (``bench/proof_tasks.py``) up to four times; code verifies them.
2. It answers the same tasks once more without a check.
3. The model is trained on each arm, with several seeds: *verified* answers, the same number of *unverified* ones, and
   *shuffled* ones, the verified answers given to other tasks of the same data.
4. Every model, and the *base* model, answers held-out tasks about other topics greedily, and code scores the answers.

The table has the share of right answers and the paired differences, with intervals that cover the choice of tasks and
the training seed.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from proof_tasks import held_out_tasks, training_tasks
from reporting import hardware, today

from selfinstruct.common.files import write_atomic
from selfinstruct.common.rng import Rng
from selfinstruct.evaluation.answers import read_answers
from selfinstruct.evaluation.distributions import t_quantile
from selfinstruct.evaluation.scores import score_run
from selfinstruct.evaluation.statistics import estimate_difference

Row = dict[str, Any]
ARMS = ("verified", "unverified", "shuffled")
COMPARISONS = (("verified", "base"), ("unverified", "base"), ("shuffled", "base"), ("verified", "unverified"),
               ("verified", "shuffled"))  # fmt: skip
PASSES = 2  # runs over the tasks that have no right answer yet


def main() -> None:
    """Run all steps and print the table."""
    args = _arguments()
    began = time.monotonic()
    proof = Proof(args)
    proof.write_tasks()
    verified = proof.verified_rows()
    unverified = proof.unverified_rows(verified)
    count = min(len(verified), len(unverified))
    arms = {
        "verified": verified[:count],
        "unverified": unverified[:count],
        "shuffled": _shuffled(verified[:count]),
    }
    scores = {("base", 0): proof.scores("base", args.model)}
    for arm, rows in arms.items():
        for seed in range(1, args.seeds + 1):
            scores[arm, seed] = proof.scores(f"{arm}-{seed}", str(proof.train(arm, rows, seed)))
    table = _table(args, count, scores, time.monotonic() - began)
    write_atomic(args.out / "table.md", [table.encode()])
    print(table)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("runs/proof"))
    parser.add_argument("--model", default="", help="model to train and measure; default: the embedded one")
    parser.add_argument("--backend", default="", help="backend that runs the models: transformers, vllm or llamacpp")
    parser.add_argument("--tasks", type=int, default=200, help="training tasks, at most 350")
    parser.add_argument("--held-out", type=int, default=120, help="held-out tasks, at most 140")
    parser.add_argument("--seeds", type=int, default=3, help="training seeds")
    parser.add_argument("--epochs", type=int, default=2)
    parser.add_argument("--learning-rate", type=float, default=5e-5)
    parser.add_argument("--answer-tokens", type=int, default=128, help="longest answer")
    return parser.parse_args()


class Proof:
    """The steps, whose results are kept in a folder."""

    def __init__(self, args: argparse.Namespace) -> None:
        self.args = args
        self.out: Path = args.out
        self.model = ["--model", args.model] if args.model else []
        self.backend = ["--backend", args.backend] if args.backend else []
        self.limit = ["--set", f"respond.answer.max_tokens={args.answer_tokens}"]

    def write_tasks(self) -> None:
        """Write the training and the held-out tasks."""
        _write(self.out / "tasks.jsonl", training_tasks(self.args.tasks))
        _write(self.out / "held-out.jsonl", held_out_tasks(self.args.held_out))

    def verified_rows(self) -> list[Row]:
        """Return a row for each task that has a right answer."""
        tasks = _read(self.out / "tasks.jsonl")
        rows: dict[str, Row] = {}
        for number in range(1, PASSES + 1):
            source = self.out / f"tasks-{number}.jsonl"
            if not source.exists():
                _write(source, [task for task in tasks if task["instruction"] not in rows])
            run = self.out / f"verified-{number}"
            self._respond(run, source, "--set", "quality.best_of=4", "--set", f"seed={number}")
            rows |= {row["instruction"]: row for row in _dataset(run)}
        print(f"{len(rows)} of {len(tasks)} tasks have an answer that code verified", flush=True)
        return [rows[task["instruction"]] for task in tasks if task["instruction"] in rows]

    def unverified_rows(self, verified: Sequence[Row]) -> list[Row]:
        """Return a row with an unchecked answer for each of the same tasks."""
        source = self.out / "plain.jsonl"
        _write(source, [{"instruction": row["instruction"]} for row in verified])
        run = self.out / "unverified"
        self._respond(run, source)
        return _dataset(run)

    def _respond(self, run: Path, source: Path, *more: str) -> None:
        _run("selfinstruct", "respond", run, "--from", source, *self.model, *self.backend, *self.limit, *more, "-q")

    def train(self, arm: str, rows: Sequence[Row], seed: int) -> Path:
        """Train a model on the rows of an arm, and return its folder."""
        data, out = self.out / f"{arm}.jsonl", self.out / "models" / f"{arm}-{seed}"
        _write(data, [{"instruction": row["instruction"], "output": row["output"]} for row in rows])
        settings = {
            "seed": seed, "epochs": self.args.epochs, "learning_rate": self.args.learning_rate,
            "evaluation.fraction": 0, "evaluation.seed_tasks": 0, "evaluation.samples": 0,
            "evaluation.patience": 0,
        }  # fmt: skip
        words = [word for name, value in settings.items() for word in ("--set", f"{name}={value}")]
        _run("finetune", "train", *self.model, "--data", data, "--recipe", "quickstart", *words, "-o", out, "-q")
        return out

    def scores(self, name: str, model: str) -> np.ndarray:
        """Return 1 or 0 for each held-out task: whether the model's greedy answer passes the verifier."""
        run = self.out / "scores" / name
        suite = f"verified={self.out / 'held-out.jsonl'}"
        chosen = ["--model", model] if model else []
        backend = ["--backend", self.args.backend or "transformers"] if model else self.backend
        _run("selfinstruct", "evaluate", run, "--suite", suite, *chosen, *backend,
             "--answer-tokens", self.args.answer_tokens, "-q")  # fmt: skip
        items = score_run(read_answers(run)).suites[0].items
        return np.array([item.values["verified"][0] for item in items if item.values is not None])


def _shuffled(rows: Sequence[Row]) -> list[Row]:
    """Return the rows with each answer moved to the next task of a random order."""
    order = Rng("shuffled").shuffled(range(len(rows)))
    following = dict(zip(order, [*order[1:], order[0]], strict=True))
    return [{**row, "output": rows[following[index]]["output"]} for index, row in enumerate(rows)]


def _run(program: str, *words: object) -> None:
    """Run a command of the project, and stop with its message if it fails.

    A run whose tasks were all asked has done its work, although some have no right answer.
    """
    began = time.monotonic()
    line = [sys.executable, "-m", program, *map(str, words)]
    environment = {**os.environ, "OMP_WAIT_POLICY": "passive"}
    done = subprocess.run(
        line, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False, env=environment
    )
    if done.returncode and "has nothing more to ask" not in done.stdout:
        sys.exit(f"{' '.join(line[2:])}\n{done.stdout}")
    print(f"{time.monotonic() - began:6.0f} s  {program} {words[0]} {words[1]}", flush=True)


def _write(path: Path, rows: Iterable[Mapping[str, Any]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomic(path, [json.dumps(row).encode() + b"\n" for row in rows])


def _read(path: Path) -> list[Row]:
    return [json.loads(line) for line in path.read_text("utf-8").splitlines()]


def _dataset(run: Path) -> list[Row]:
    return _read(run / "dataset" / "alpaca.jsonl")


def _table(args: argparse.Namespace, count: int, scores: Mapping[tuple[str, int], np.ndarray], seconds: float) -> str:
    lines = [
        f"# Proof, {today()}",
        "",
        f"Printed by `python bench/proof.py` on {hardware()} in {seconds / 60:.0f} minutes. "
        f"Model: {args.model or 'SmolLM2-135M-Instruct'}. "
        f"{count} training rows in each arm, {args.epochs} epochs, {args.seeds} training seeds; "
        f"{len(scores['base', 0])} held-out tasks about other topics, answered greedily.",
        "",
        "| arm | right | of each seed |",
        "|---|---|---|",
    ]
    for arm in ("base", *ARMS):
        means = [float(values.mean()) for (name, _), values in scores.items() if name == arm]
        lines.append(f"| {arm} | {np.mean(means):.1%} | {', '.join(f'{mean:.1%}' for mean in means)} |")
    topics = [task["cluster"] for task in held_out_tasks(args.held_out)]
    lines += ["", "| difference | points | 95% interval | |", "|---|---|---|---|"]
    for one, other in COMPARISONS:
        mean, low, high = _difference(_of(scores, one), _of(scores, other), topics)
        verdict = "tied" if low <= 0 <= high else "higher" if low > 0 else "lower"
        lines.append(f"| {one} minus {other} | {100 * mean:+.1f} | [{100 * low:.1f}, {100 * high:.1f}] | {verdict} |")
    return "\n".join(lines) + "\n"


def _of(scores: Mapping[tuple[str, int], np.ndarray], arm: str) -> np.ndarray:
    """Return the scores of an arm, shape (seeds, tasks)."""
    return np.stack([values for (name, _), values in scores.items() if name == arm])


def _difference(first: np.ndarray, second: np.ndarray, topics: Sequence[str]) -> tuple[float, float, float]:
    """Return the mean of ``first`` minus ``second`` and its 95% interval.

    The variance is the sum of two: over the topics of the tasks (of scores averaged over the seeds), and over the
    training seeds. The degrees of freedom are Welch and Satterthwaite's.

    Args:
        first, second: Scores, shape (seeds, tasks).
        topics: The topic of each task.
    """
    estimate = estimate_difference(second.mean(0), first.mean(0), topics, is_proportion=False)
    parts = [(float(estimate.standard_error or 0) ** 2, len(set(topics)) - 1)]
    parts += [(float(arm.mean(1).var(ddof=1)) / len(arm), len(arm) - 1) for arm in (first, second) if len(arm) > 1]
    variance = sum(part for part, _ in parts)
    degrees = variance**2 / sum(part**2 / free for part, free in parts) if variance else 1.0
    half = t_quantile(0.975, degrees) * variance**0.5
    return estimate.value, estimate.value - half, estimate.value + half


if __name__ == "__main__":
    main()
