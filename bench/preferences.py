"""Preference training: speed against TRL on a CPU in one run, first loss, agreement with TRL, resuming, two processes.

    python bench/preferences.py [--model SHAPE] [--pairs N] [--rounds N] [--processor-time] [--write]

The trainers take turns in one process, each on a copy of the same model with the same pairs in the same steps; a ratio
compares two turns of one round. The first round warms up and is not counted.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import random
import statistics
import subprocess
import sys
import tempfile
import time
import warnings
from dataclasses import replace
from pathlib import Path
from typing import Any

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from reporting import RESULTS, hardware, today

ROOT = Path(__file__).resolve().parents[1]
SETTINGS: dict[str, Any] = {
    "max_length": 512, "batch_size": 8, "epochs": 1, "learning_rate": 1e-5, "checkpoint_every": 0, "warmup": 0.1,
}  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="small", help="small, or a shape of bench/training/shapes.py")
    parser.add_argument("--pairs", type=int, default=32, help="pairs of an epoch, 8 in a step")
    parser.add_argument("--rounds", type=int, default=3, help="counted rounds")
    parser.add_argument("--processor-time", action="store_true",
                        help="count processor time, for a machine that is busy with other work")  # fmt: skip
    parser.add_argument("--only", choices=("speed", "checks"), help="leave out the other half")
    parser.add_argument("--write", action="store_true", help="write the table under bench/results")
    arguments = parser.parse_args()
    warnings.simplefilter("ignore")  # deprecations in TRL
    load = os.getloadavg()[0]
    import transformers
    import trl

    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    lines = [
        f"# Preferences, {today()}", "",
        f"{hardware()}, trl {trl.__version__}, load {load:.1f} at the start. Printed by `python bench/preferences.py "
        f"--model {arguments.model} --pairs {arguments.pairs} --rounds {arguments.rounds}"
        f"{' --processor-time' if arguments.processor_time else ''}`.", "",
    ]  # fmt: skip
    if arguments.only != "checks":
        lines += speed(arguments)
    if arguments.only != "speed":
        lines += checks()
    text = "\n".join(lines)
    print(text)
    if arguments.write:
        (RESULTS / f"preferences-{today()}.md").write_text(text, encoding="utf-8")


def make_model(shape: str) -> Any:
    """Return a model with random weights."""
    import torch
    from training.shapes import SHAPES, Shape, _decoder, config
    from transformers import AutoModelForCausalLM

    torch.manual_seed(0)
    small = Shape("LlamaConfig", _decoder(8_192, 192, 512, 6, 6, 3))
    tiny = Shape("LlamaConfig", {**_decoder(512, 32, 64, 2, 4, 2), "initializer_range": 0.2})
    chosen = {"small": small, "tiny-parity": tiny, **SHAPES}[shape]
    return AutoModelForCausalLM.from_config(config(chosen), dtype=torch.float32, attn_implementation="sdpa").eval()


def speed(arguments: argparse.Namespace) -> list[str]:
    """Return the table of speeds."""
    from training.pairs import random_pairs, run_ours, run_trl

    from finetune.options import DpoOptions, RewardOptions

    model = make_model(arguments.model)
    pairs = random_pairs(arguments.pairs, model.config.vocab_size, 512)
    dpo, reward = DpoOptions(**SETTINGS), RewardOptions(**SETTINGS)
    clock = time.process_time if arguments.processor_time else time.perf_counter
    cells = {
        ("DPO", "ours"): lambda: run_ours(model, pairs, dpo, clock=clock),
        ("DPO", "TRL, reference before the steps"): lambda: run_trl(model, pairs, dpo, clock=clock),
        ("DPO", "TRL, reference in each step"): lambda: run_trl(model, pairs, dpo, precompute=False, clock=clock),
        ("reward", "ours"): lambda: run_ours(model, pairs, reward, clock=clock),
        ("reward", "TRL"): lambda: run_trl(model, pairs, reward, clock=clock),
    }
    rounds: dict[tuple[str, str], list[Any]] = {key: [] for key in cells}
    for number in range(arguments.rounds + 1):
        for key, run in cells.items():
            epoch = run()
            epoch.weights.clear()
            print(f"{' '.join(key):40} {epoch.steps_speed:9,.0f} tokens/s {'' if number else '(warm-up)'}",
                  file=sys.stderr, flush=True)  # fmt: skip
            if number:
                rounds[key].append(epoch)
    kind = " of processor time" if arguments.processor_time else ""
    lines = [
        f"Model `{arguments.model}` ({sum(weight.numel() for weight in model.parameters()) / 1e6:.1f} million random "
        f"weights), float32; {arguments.pairs} pairs of {pairs.documents.lengths.mean():.0f} tokens on average, 8 in "
        f"a step. Tokens/s{kind} count both answers, without padding. A ratio above 1 means that ours is faster; it is "
        "the median over the rounds, with minimum and maximum.", "",
        "| loss | trainer | tokens/s of the steps | with the reference | ours is faster, steps | with the reference |",
        "|---|---|---|---|---|---|",
    ]  # fmt: skip
    for (loss, trainer), epochs in rounds.items():
        ours = rounds[loss, "ours"]
        steps = _ratio([mine.steps_speed / other.steps_speed for mine, other in zip(ours, epochs, strict=True)])
        whole = _ratio([mine.speed / other.speed for mine, other in zip(ours, epochs, strict=True)])
        speeds = [statistics.median(getattr(epoch, name) for epoch in epochs) for name in ("steps_speed", "speed")]
        compared = (steps, whole if loss == "DPO" else "") if trainer != "ours" else ("", "")
        second = f"{speeds[1]:,.0f}" if loss == "DPO" else ""
        lines.append(f"| {loss} | {trainer} | {speeds[0]:,.0f} | {second} | {compared[0]} | {compared[1]} |")
    return [*lines, ""]


def _ratio(values: list[float]) -> str:
    return f"**{statistics.median(values):.2f}x** ({min(values):.2f} to {max(values):.2f})"


def checks() -> list[str]:
    """Return the table of what must be exact."""
    return [
        "| what | measured | goal |",
        "|---|---|---|",
        *first_losses(), *parity(), *processes(), "",
    ]  # fmt: skip


def first_losses() -> list[str]:
    """Measure the first loss for several packings."""
    from training.pairs import random_pairs, run_ours

    from finetune.options import DpoOptions

    model, pairs = make_model("tiny-parity"), random_pairs(24, 512, 200)
    deviations = []
    for budget in (128, 400, 1000, 1 << 16):
        epoch = run_ours(model, pairs, replace(DpoOptions(**SETTINGS), batch_size=24), budget=budget)
        deviations.append(abs(epoch.losses[0] - math.log(2)))
    return [f"| first DPO loss - ln 2, largest of 4 packings | {max(deviations):.1e} | 1e-6 |"]


def parity() -> list[str]:
    """Compare losses and weights of 50 steps with TRL's."""
    from training.pairs import random_pairs, run_ours, run_trl

    from finetune.options import DpoOptions, RewardOptions

    model, pairs = make_model("tiny-parity"), random_pairs(80, 512, 64)
    settings = {**SETTINGS, "max_length": 64, "learning_rate": 1e-3, "max_grad_norm": 0.5, "epochs": 5}
    lines = []
    for name, options, loss in (
        ("DPO, sigmoid", DpoOptions(**settings), "sigmoid"),
        ("DPO, length-normalised", DpoOptions(**settings, beta=5.0, length_normalised=True), "sigmoid_norm"),
        ("reward model", RewardOptions(**settings), ""),
    ):
        ours = run_ours(model, pairs, options, budget=256)
        theirs = run_trl(model, pairs, options, loss=loss, accumulated=2)
        assert len(ours.losses) == len(theirs.losses) == 50
        loss_gap = max(abs(mine - other) for mine, other in zip(ours.losses, theirs.losses, strict=True))
        gaps = [float((mine - other).abs().max()) for mine, other in zip(ours.weights, theirs.weights, strict=True)]
        lines.append(
            f"| {name}: 50 steps against TRL, largest difference of a loss, of a weight (loss {ours.losses[0]:.4f} to "
            f"{ours.losses[-1]:.4f}) | {loss_gap:.1e}, {max(gaps):.1e} | 1e-4 |"
        )
    return lines


def processes() -> list[str]:
    """Compare an interrupted run, and a run of two processes, with an uninterrupted one of one process."""
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        model, data = _write_inputs(root)
        common = ["prefer", "--model", model, "--data", data, "--set=batch_size=6", "--set=micro_batch_tokens=128",
                  "--set=epochs=4", "--set=learning_rate=1e-3", "--set=checkpoint_every=1", "-q", "-o"]  # fmt: skip
        _finetune([*common, str(root / "alone")])
        _finetune([*common, str(root / "two")], processes=2)
        _interrupt([*common, str(root / "resumed")], root / "resumed")
        _finetune([*common, str(root / "resumed")])
        weights = [(root / name / "model.safetensors").read_bytes() for name in ("alone", "resumed")]
        alone, two = (_losses(root / name) for name in ("alone", "two"))
        gap = max(abs(mine - other) for mine, other in zip(alone, two, strict=True))
        return [
            f"| an interrupted and resumed run against an uninterrupted one | {'the same' if weights[0] == weights[1] else 'other'} "  # noqa: E501 a line of a table
            "bytes | the same bytes |",
            f"| two processes (FSDP2, gloo): first loss - ln 2 | {abs(two[0] - math.log(2)):.1e} | 1e-6 |",
            f"| two processes against one, largest difference of a loss over {len(two)} steps | {gap:.1e} | 1e-4 |",
        ]


def _write_inputs(root: Path) -> tuple[str, str]:
    """Write a tiny model and pairs about colours."""
    from tests.finetune_fixtures import make_model as make_tiny
    from tests.finetune_fixtures import make_tokenizer

    tokenizer = make_tokenizer()
    make_tiny(len(tokenizer)).save_pretrained(root / "model")
    tokenizer.save_pretrained(root / "model")
    draw = random.Random(0)
    rows = [{"prompt": f"Name colour {number}.", "chosen": "Red, green and blue." + " Indeed." * draw.randint(0, 4),
             "rejected": "The quick brown fox." * draw.randint(1, 3)} for number in range(40)]  # fmt: skip
    (root / "pairs.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return str(root / "model"), str(root / "pairs.jsonl")


def _command(arguments: list[str], processes: int) -> list[str]:
    launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(processes)]
    return [sys.executable, *(launcher if processes > 1 else []), "-m", "finetune", *arguments]


def _finetune(arguments: list[str], processes: int = 1) -> None:
    subprocess.run(_command(arguments, processes), check=True, cwd=ROOT, capture_output=True)


def _interrupt(arguments: list[str], out: Path) -> None:
    """Send SIGTERM after the first checkpoint."""
    process = subprocess.Popen(_command(arguments, 1), cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    while process.poll() is None and not list(out.glob("checkpoints/step-*")):
        try:
            process.wait(timeout=0.01)
        except subprocess.TimeoutExpired:
            continue
    process.terminate()
    process.communicate()
    assert process.returncode == 130, "the run was complete before it could be interrupted"


def _losses(out: Path) -> list[float]:
    return [json.loads(line)["loss"] for line in (out / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]


if __name__ == "__main__":
    main()
