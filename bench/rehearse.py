"""Rehearse the GPU path on a null GPU: a stand-in for the CUDA libraries that runs no kernel and counts the rest.

    NULLGPU_HOME=~/nullgpu python bench/rehearse.py [--layers N] [--only WORDS]

``NULLGPU_HOME`` holds ``venv``, an environment with the versions of a GPU machine, and ``lib``, the stand-in libraries.
PyTorch looks for the CUDA runtime in its own environment first: there, ``nvidia/cu13/lib/libcudart.so.13`` must be a
link to the stand-in.
Without it, nothing is rehearsed. PyTorch's dispatch, Dynamo, Inductor, Triton and the caching allocator run as on a
GPU; nothing is computed, so that losses and times mean nothing, and three things that read results are replaced here.

For each model (with few layers) and a whole session, these must hold: no graph break; nothing is compiled after the
first epoch; the host waits once for each line of the log and never within a step; nothing is allocated on the device
in the last epoch; the peak of the memory is within the prediction.
"""

from __future__ import annotations

import argparse
import ctypes
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

CELLS: dict[str, tuple[str, str, dict[str, Any]]] = {
    "SmolLM2": ("smollm2-135m", "512", {}),
    "SmolLM2, real lengths": ("smollm2-135m", "alpaca-like", {}),
    "Qwen3": ("qwen3-0.6b", "512", {}),
    "Qwen3, recomputed": ("qwen3-0.6b", "512", {"recompute": True}),
    "Llama 1B, fp8": ("llama-3.2-1b", "512", {"fp8": True}),
    "Llama 8B": ("llama-3.1-8b", "512", {}),
    "Llama 8B, LoRA": ("llama-3.1-8b-lora", "512", {}),
}
SESSIONS: dict[str, dict[str, Any]] = {"session": {}, "session, LoRA": {"lora": True}}
TURNS = 3


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--layers", type=int, default=2, help="layers of each model")
    parser.add_argument("--only", default="", help="rehearse what has one of these comma-separated words in its name")
    parser.add_argument("--child", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.child:
        _replace_what_reads_results()
        rehearse_session(arguments.child) if arguments.child in SESSIONS else rehearse(
            arguments.child, arguments.layers
        )
        return
    home = os.environ.get("NULLGPU_HOME")
    if not home:
        print("skipped: NULLGPU_HOME names no null GPU, so the GPU path is not rehearsed")
        return
    words = arguments.only.split(",")
    names = [name for name in (*CELLS, *SESSIONS) if any(word in name for word in words)]
    failed = [name for name in names if not run(Path(home), name, arguments.layers)]
    print(
        f"{len(names) - len(failed)} of {len(names)} rehearsals pass" + (f"; not {', '.join(failed)}" if failed else "")
    )
    sys.exit(bool(failed))


def run(home: Path, name: str, layers: int) -> bool:
    """Rehearse in a process that loads the stand-in libraries, and print what it finds."""
    root = Path(__file__).parents[1]
    nvidia = next(home.glob("venv/lib/python*/site-packages/nvidia/cu13/lib"), home)
    environment = {
        **os.environ, "LD_LIBRARY_PATH": f"{home / 'lib'}:{nvidia}", "TRITON_LIBCUDA_PATH": str(home / "lib"),
        "PYTHONPATH": f"{root}:{root / 'bench'}", "HF_HUB_OFFLINE": "1",
        "PYTORCH_ALLOC_CONF": "expandable_segments:False",  # the stand-in has no virtual memory
    }  # fmt: skip
    command = [home / "venv/bin/python", "-W", "ignore", __file__, "--child", name, "--layers", str(layers)]
    result = subprocess.run(command, env=environment, text=True, capture_output=True, check=False)
    lines = [line for line in result.stdout.splitlines() if line.startswith("{")]
    if not lines:
        print(f"{name}: failed\n{result.stderr[-3000:]}", flush=True)
        return False
    facts = json.loads(lines[-1])
    broken = [rule for rule, holds in facts.pop("rules").items() if not holds]
    print(f"{name}: {'broken: ' + '; '.join(broken) if broken else 'holds'} {json.dumps(facts)}", flush=True)
    return not broken


def _replace_what_reads_results() -> None:
    import torch

    import finetune.training.loop as loop
    import finetune.training.setup as setup

    torch.backends.cuda.enable_cudnn_sdp(False)
    read, check_head = loop._Monitor._read, setup.check_head
    # Each reads, and waits for, what the stand-in didn't compute.
    loop._Monitor._read = lambda monitor: [[1.0, 1.0, 1.0] for _ in read(monitor)]  # type: ignore[method-assign]  # no numbers here
    setup.check_head = lambda *arguments: check_head(*arguments) or True


class Counters:
    """What the stand-in counts: launches, waits, allocations."""

    def __init__(self) -> None:
        self._library = ctypes.CDLL("libcuda.so.1")

    def reset(self) -> None:
        self._library.ng_reset()

    def __getitem__(self, name: str) -> int:
        return ctypes.c_long.in_dll(self._library, f"ng_{name}").value


class Observer:
    """Stands in for the benchmark's turns: counts between them."""

    def __init__(self) -> None:
        self.facts: dict[str, Any] = {}
        self.turns: list[dict[str, int]] = []
        self._counters = Counters()

    def wait(self) -> None:
        import torch

        torch.cuda.synchronize()
        self._counters.reset()

    def done(self, **_facts: Any) -> None:
        from torch._dynamo.utils import counters

        turn = {name: self._counters[name] for name in ("launches", "syncs", "mallocs")}
        self.turns.append({**turn, "graphs": counters["stats"]["unique_graphs"]})


def rehearse(name: str, layers: int) -> None:
    """Train a model for a few epochs as the benchmark does, and print facts and rules."""
    import torch
    from training import ours
    from training.shapes import SHAPES, Cell

    model, lengths, options = CELLS[name]
    shape = SHAPES[model]
    shape.fields["num_hidden_layers"] = layers
    documents = shape.batch * (8 if lengths != "512" else 2)
    cell = Cell(model, "ours", "rehearsal", options, "cuda", shape.batch, documents, TURNS, lengths)
    observer = Observer()
    train = ours.prepare(cell, observer)
    torch.cuda.reset_peak_memory_stats()
    observer.wait()
    train()
    peak, predicted = torch.cuda.max_memory_allocated(), observer.facts["predicted"]
    first, *others = observer.turns
    report(
        {
            "nothing is compiled after the first epoch": all(turn["graphs"] == first["graphs"] for turn in others),
            "the host waits once an epoch, for its log": all(turn["syncs"] <= 1 for turn in others),
            "nothing is allocated in the last epoch": others[-1]["mallocs"] == 0,
            "the memory is within the prediction": peak <= predicted,
        },
        {**observer.facts, "graphs": first["graphs"], "waits": others[-1]["syncs"],
         "launches": others[-1]["launches"], "GiB": round(peak / 2**30, 2), "predicted": round(predicted / 2**30, 2)},
    )  # fmt: skip


def rehearse_session(name: str) -> None:
    """Run a whole training session with evaluation and checkpoints, stop it, resume it, and print facts and rules."""
    from transformers import LlamaConfig, LlamaForCausalLM

    import finetune
    from finetune.options import Evaluation, Lora, TrainingOptions
    from tests.finetune_fixtures import make_tokenizer

    with tempfile.TemporaryDirectory() as folder:
        root, tokenizer = Path(folder), make_tokenizer()
        tokenizer.save_pretrained(root / "model")
        config = LlamaConfig(
            vocab_size=len(tokenizer), hidden_size=128, intermediate_size=256, num_hidden_layers=2,
            num_attention_heads=4, num_key_value_heads=2, bos_token_id=None, eos_token_id=2, pad_token_id=0,
        )  # fmt: skip
        LlamaForCausalLM(config).bfloat16().save_pretrained(root / "model")
        rows = [
            {"instruction": f"Say {n} {'a b ' * (n % 40)}", "input": "", "output": "yes " * (1 + n % 30)}
            for n in range(200)
        ]
        (root / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        options = TrainingOptions(
            format="alpaca", batch_size=32, epochs=2, checkpoint_every=3, lora=Lora(rank=4) if SESSIONS[name] else None,
            evaluation=Evaluation(fraction=0.1, samples=2, sample_tokens=4),
        )  # fmt: skip
        arguments = (str(root / "model"), str(root / "rows.jsonl"), root / "out", options)
        for _ in interrupted_once():
            with suppress(KeyboardInterrupt):
                result = finetune.train(*arguments)
        report({"the session is complete": result.complete}, {"steps": result.steps})


def interrupted_once() -> Iterator[None]:
    """Yield twice; the first time, SIGINT arrives in the second step, after which the session saves and stops."""
    import signal

    import finetune.training.loop as loop

    step = loop.TrainingLoop._step

    def interrupt(self: Any, number: int, *arguments: Any) -> Any:
        if number == 1:
            signal.raise_signal(signal.SIGINT)
        return step(self, number, *arguments)

    loop.TrainingLoop._step = interrupt  # type: ignore[method-assign]  # for one run
    yield
    loop.TrainingLoop._step = step  # type: ignore[method-assign]  # as before
    yield


def report(rules: dict[str, bool], facts: dict[str, Any]) -> None:
    """Print rules and facts as a line of JSON, and end without the clean-up that would wait for a GPU."""
    from torch._dynamo.utils import counters

    rules = {"no graph breaks": not counters["graph_break"], **rules}
    print(json.dumps({"rules": rules, **facts}), flush=True)
    os._exit(0)


if __name__ == "__main__":
    main()
