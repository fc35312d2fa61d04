"""Measure training steps with idle OpenMP threads that sleep (the default of both packages) and that spin.

    python bench/openmp.py [--rounds N] [--steps N] [--write]

A model with random weights is trained in new processes, with sleeping and with spinning threads, first without and then
next to one busy process. The spin count of the spinning processes is the default of GNU's runtime, 300,000.
Both policies of a pair follow each other directly and swap their order from round to round, so that other load slows
both. A ratio compares the two of one round; the table shows the medians.
"""

from __future__ import annotations

import argparse
import contextlib
import datetime
import os
import statistics
import subprocess
import sys
from collections.abc import Iterator

from filters import RESULTS, hardware

POLICIES = {"sleeping": {}, "spinning": {"GOMP_SPINCOUNT": "300000"}}
VARIABLES = ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT", "KMP_BLOCKTIME", "KMP_LIBRARY", "OMP_NUM_THREADS")
STEPS = """
import finetune, sys, time, torch
from transformers import LlamaConfig, LlamaForCausalLM
torch.manual_seed(0)
config = LlamaConfig(vocab_size=8192, hidden_size=576, intermediate_size=1536, num_hidden_layers=6,
                     num_attention_heads=9, num_key_value_heads=3)
model = LlamaForCausalLM(config)
optimizer = torch.optim.AdamW(model.parameters())
ids = torch.randint(0, 8192, (4, 128))
for step in range(int(sys.argv[1]) + 1):
    if step == 1:  # the first one allocates
        started = time.perf_counter()
    loss = model(input_ids=ids, labels=ids).loss
    loss.backward()
    optimizer.step()
    optimizer.zero_grad()
print(time.perf_counter() - started, float(loss))
"""


def train(steps: int, variables: dict[str, str]) -> tuple[float, float]:
    """Return the seconds of the steps, and the last loss."""
    environ = {name: value for name, value in os.environ.items() if name not in VARIABLES} | variables
    command = [sys.executable, "-c", STEPS, str(steps)]
    done = subprocess.run(command, env=environ, capture_output=True, text=True, check=True)
    seconds, loss = done.stdout.split()
    return float(seconds), float(loss)


@contextlib.contextmanager
def busy(count: int) -> Iterator[None]:
    """Keep ``count`` processes busy."""
    processes = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(count)]
    try:
        yield
    finally:
        for process in processes:
            process.kill()
            process.wait()


def main() -> None:
    """Print a line for each pair, and the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--write", action="store_true", help="write the table into bench/results")
    options = parser.parse_args()
    load = os.getloadavg()[0]
    lines = [
        f"| busy processes | {' s | '.join(POLICIES)} s | spinning / sleeping, median (min to max) |",
        "|---|---|---|---|",
    ]
    for count in (0, 1):
        seconds: dict[str, list[float]] = {name: [] for name in POLICIES}
        with busy(count):
            for number in range(options.rounds):
                losses = set()
                for name in list(POLICIES)[:: 1 if number % 2 else -1]:
                    elapsed, loss = train(options.steps, POLICIES[name])
                    seconds[name].append(elapsed)
                    losses.add(loss)
                assert len(losses) == 1, f"the losses differ: {losses}"
                print(count, {name: round(values[-1], 2) for name, values in seconds.items()}, flush=True)
        ratios = [spin / sleep for sleep, spin in zip(*seconds.values(), strict=True)]
        cells = [f"{statistics.median(values):.2f}" for values in seconds.values()]
        cells.append(f"{statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})")
        lines.append(f"| {count} | {' | '.join(cells)} |")
    print("\n".join(lines))
    if options.write:
        today = datetime.datetime.now(datetime.UTC).date()
        head = (
            f"# Idle OpenMP threads, {today}\n\n{hardware()}, load {load:.1f} at the start (a shared, noisy machine). "
            f"{options.steps} steps a turn. Printed by\n"
            f"`python bench/openmp.py --rounds {options.rounds} --steps {options.steps} --write`.\n\n"
        )
        (RESULTS / f"openmp-{today}.md").write_text(head + "\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
