"""Compare this project's trainer with TRL's SFTTrainer: tokens/s on the same documents, model and precision.

    python bench/train.py [--device cpu|cuda] [--models NAME,...] [--repeats N] [--limit SECONDS] [-o FILE.md]

Each cell (a trainer on a model with one setting) is a separate process; a failure becomes a line of the table. A turn
is one pass over all documents; the first one (loading, compiling, warming up) is not counted. On a CPU each of TRL's
settings gets one turn, then this trainer and TRL's two fastest settings alternate; on a GPU the cells run one after
another. The table is rewritten after each cell.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import importlib.util
import json
import os
import platform
import statistics
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from reporting import RESULTS, processors, today
from training.shapes import SHAPES, Cell
from training.turns import Ended, FailedError, Turns, Worker

CPU = ("smollm2-135m",)
GPU = ("smollm2-135m", "qwen3-0.6b", "llama-3.2-1b", "llama-3.1-8b", "llama-3.1-8b-lora")


@dataclass
class CellResult:
    """A cell and its result."""

    cell: Cell
    speeds: list[float] = field(default_factory=list)
    facts: dict[str, Any] = field(default_factory=dict)
    failure: str = ""

    @property
    def median(self) -> float:
        return statistics.median(self.speeds) if self.speeds else 0.0


def cells(device: str, models: list[str], batch: int, count: int, turns: int) -> list[Cell]:
    """Return the cells, the most important ones first."""

    def cell(model: str, trainer: str, setting: str, **options: Any) -> Cell:
        shape = SHAPES[model]
        on_gpu = device == "cuda"
        return Cell(
            model, trainer, setting, options, device, batch=shape.batch if on_gpu else batch,
            documents=shape.documents if on_gpu else count, turns=turns,
        )  # fmt: skip

    if device == "cpu":
        return [entry for model in models for entry in _cpu_cells(model, cell, batch)]
    chosen = []
    for model in models:
        shape = SHAPES[model]
        chosen.append(cell(model, "ours", _label(shape.ours) or "default", **shape.ours))
        chosen.append(cell(model, "trl", f"sdpa, liger, {shape.rows} rows", micro=shape.rows, liger=True))
    for model in models:
        rows = SHAPES[model].rows
        settings = {"micro": rows, "packing": True, "liger": True}
        if importlib.util.find_spec("flash_attn"):
            chosen.append(cell(model, "trl", "packed (bfd), flash 2, liger", attention="flash_attention_2", **settings))
        chosen.append(cell(model, "trl", "packed (bfd), flex, liger", attention="flex_attention", **settings))
    first, rows = models[0], SHAPES[models[0]].rows
    variants: list[dict[str, Any]] = [
        {"attention": "sdpa"}, {"compile": False}, {"micro_batch_tokens": 16_384},
        {"micro_batch_tokens": 65_536},
    ]  # fmt: skip
    chosen += [cell(first, "ours", _label(options), **options) for options in variants]
    chosen.append(cell(first, "trl", "sdpa, liger, compiled", micro=rows, liger=True, torch_compile=True))
    return chosen


def _cpu_cells(model: str, cell: Any, batch: int) -> list[Cell]:
    return [
        cell(model, "ours", "default"),
        cell(model, "trl", "padded"),
        cell(model, "trl", "padded, grouped by length", train_sampling_strategy="group_by_length"),
        cell(model, "trl", "padding-free", padding_free=True),
        # About four documents share a row of 512 tokens, so that a step has as many documents as in the other cells.
        cell(model, "trl", "packed (bfd)", packing=True, micro=max(1, batch // 4), step=max(1, batch // 4)),
    ]


def _label(options: dict[str, Any]) -> str:
    return ", ".join(f"{name}={value}" for name, value in options.items())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--models", help=f"some of {', '.join(SHAPES)}; default: {CPU[0]} on a CPU, all on a GPU")
    parser.add_argument("--repeats", type=int, default=5, help="counted turns")
    parser.add_argument("--batch", type=int, default=8, help="documents per optimizer step, on a CPU")
    parser.add_argument("--documents", type=int, default=32, help="documents per turn, on a CPU")
    parser.add_argument(
        "--only", default="", help="comma-separated words; keep the cells whose trainer or setting contains one of them"
    )
    parser.add_argument("--seconds", type=float, default=900, help="time limit of a turn")
    parser.add_argument("--limit", type=float, default=86_400, help="total time limit")
    parser.add_argument("-o", "--out", type=Path)
    parser.add_argument("--worker", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.worker:
        work(Cell(**json.loads(arguments.worker)))
        return
    models = arguments.models.split(",") if arguments.models else list(CPU if arguments.device == "cpu" else GPU)
    chosen = cells(arguments.device, models, arguments.batch, arguments.documents, arguments.repeats + 1)
    words = [word for word in arguments.only.split(",") if word]
    chosen = [cell for cell in chosen if not words or any(word in f"{cell.trainer} {cell.setting}" for word in words)]
    out = arguments.out or RESULTS / f"train-{arguments.device}-{today()}.md"
    out.parent.mkdir(parents=True, exist_ok=True)
    bench = Bench(out, arguments, [CellResult(cell) for cell in chosen])
    (bench.run_interleaved if arguments.device == "cpu" else bench.run_sequentially)()
    print(out.read_text(encoding="utf-8"))


def work(cell: Cell) -> None:
    """Run the child process: import, wait for the signal, train in turns, report."""
    turns = Turns()
    if cell.trainer == "ours":
        from training.ours import prepare
    else:
        from training.theirs import prepare
    import resource

    import torch
    from training.shapes import documents, flops

    from finetune.model.footprint import peak

    try:
        turns.wait()
        prepare(cell, turns)()
    except Ended:
        pass
    gpu = cell.device == "cuda"
    memory = torch.cuda.max_memory_allocated() if gpu else resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    name = torch.cuda.get_device_name() if gpu else f"{torch.get_num_threads()} threads of {processors()[1]}"
    turns.answer({"memory": memory, "device": name, "flops": flops(cell, documents(cell)), "peak": peak(name)})


class Bench:
    """Runs all cells and writes the table."""

    def __init__(self, out: Path, arguments: argparse.Namespace, results: list[CellResult]) -> None:
        self.out, self.arguments, self.results = out, arguments, results
        self.deadline = time.monotonic() + arguments.limit
        self.load = os.getloadavg()[0]

    def remaining(self) -> float:
        return self.deadline - time.monotonic()

    def run_interleaved(self) -> None:
        """Run one turn of each of TRL's settings, then alternate this trainer and the two fastest settings."""
        for model in dict.fromkeys(result.cell.model for result in self.results):
            cells_of_model = [result for result in self.results if result.cell.model == model]
            theirs = [result for result in cells_of_model if result.cell.trainer == "trl"]
            for result in theirs if len(theirs) > 1 else ():
                self._run_alone(result, turns=1)
                self.write()
            fastest = sorted((result for result in theirs if not result.failure), key=lambda result: -result.median)[:2]
            alternating = [result for result in cells_of_model if result.cell.trainer == "ours" or result in fastest]
            workers = [(result, Worker(result.cell.plain())) for result in alternating]
            for result in alternating:
                result.speeds.clear()
            for turn in range(self.arguments.repeats + 1):
                for result, worker in workers:
                    self._turn(result, worker, counted=turn > 0)
                self.write()
            for result, worker in workers:
                self._end(result, worker)
            self.write()

    def _run_alone(self, result: CellResult, turns: int, worker: Worker | None = None) -> None:
        worker = worker or Worker(result.cell.plain())
        for turn in range(turns + 1):
            self._turn(result, worker, counted=turn > 0)
        self._end(result, worker)

    def run_sequentially(self) -> None:
        """Run one cell after another, while the next one is importing."""
        workers = {0: Worker(self.results[0].cell.plain())} if self.results else {}
        for number, result in enumerate(self.results):
            worker = workers.pop(number)
            if number + 1 < len(self.results):
                workers[number + 1] = Worker(self.results[number + 1].cell.plain())
            self._run_alone(result, self.arguments.repeats, worker)
            self.write()

    def _turn(self, result: CellResult, worker: Worker, *, counted: bool) -> None:
        if result.failure:
            return
        try:
            if self.remaining() < 1:
                raise FailedError("no time left")
            facts = worker.turn(min(self.arguments.seconds, self.remaining()))
        except FailedError as error:
            result.failure = str(error)
            worker.kill()
            return
        speed = facts["tokens"] / facts["seconds"]
        if counted:
            result.speeds.append(speed)
        message = f"{speed:,.0f} tokens/s" if counted else f"warm after {facts['seconds']:.0f} s"
        print(f"{result.cell.model:18} {result.cell.trainer:5} {result.cell.setting:32} {message}", flush=True)

    def _end(self, result: CellResult, worker: Worker) -> None:
        if result.failure:
            print(
                f"{result.cell.model:18} {result.cell.trainer:5} {result.cell.setting:32} {result.failure}", flush=True
            )
            return
        try:
            result.facts = worker.end()
        except FailedError as error:
            result.failure = str(error)

    def write(self) -> None:
        gpu = self.arguments.device == "cuda"
        device = next((result.facts["device"] for result in self.results if result.facts), self.arguments.device)
        lines = [
            f"# Training, {today()}", "", f"{device}, {versions()}, load {self.load:.1f} at the start. Printed by",
            f"`{self._command()}`.", "", _description(gpu, self.arguments), "",
            "| model | trainer | setting | tokens/s, median (min to max) | MFU | peak memory | note |",
            "|---|---|---|---|---|---|---|",
            *(self._line(result) for result in self.results if result.speeds or result.failure), "",
            *self._ratios(), "",
        ]  # fmt: skip
        self.out.write_text("\n".join(lines), encoding="utf-8")

    def _command(self) -> str:
        arguments = self.arguments
        what = f"python bench/train.py --device {arguments.device} --repeats {arguments.repeats}"
        what += f" --models {arguments.models}" if arguments.models else ""
        return (
            what
            if arguments.device == "cuda"
            else f"{what} --batch {arguments.batch} --documents {arguments.documents}"
        )

    def _line(self, result: CellResult) -> str:
        cell, goal = result.cell, result.cell.shape.goal
        speed, share, memory, note = "", "", "", result.failure
        if result.speeds:
            speed = f"{result.median:,.0f} ({min(result.speeds):,.0f} to {max(result.speeds):,.0f})"
        if result.facts:
            flops, peak = result.facts["flops"], result.facts["peak"]
            share = f"{result.median * flops / peak:.1%}" if flops and peak else ""
            memory = f"{result.facts['memory'] / 2**30:.1f} GiB"
        if result.speeds and not note and cell.device == "cuda" and goal and cell.trainer == "ours":
            note = f"{result.median / goal:.2f} of the goal of {goal:,.0f}"
        return f"| {cell.model} | {cell.trainer} | {cell.setting} | {speed} | {share} | {memory} | {note} |"

    def _ratios(self) -> list[str]:
        """Return the speed of this trainer (default settings) over TRL's best for each model; on a CPU, by turn."""
        lines = []
        for model in dict.fromkeys(result.cell.model for result in self.results):
            ours = next(
                (result for result in self.results if result.cell.model == model and result.cell.trainer == "ours"),
                None,
            )
            others = [
                result
                for result in self.results
                if result.cell.model == model and result.cell.trainer == "trl" and result.speeds
            ]
            if ours is None or not ours.speeds or not others:
                continue
            # The first turn only selects the settings that alternate.
            best = max(others, key=lambda result: (len(result.speeds), result.median))
            ratios = [mine / theirs for mine, theirs in zip(ours.speeds, best.speeds, strict=False)]
            lines.append(
                f"- {model}: ours is **{statistics.median(ratios):.2f}x** TRL's best ({best.cell.setting}); "
                f"over {len(ratios)} turns {min(ratios):.2f} to {max(ratios):.2f}."
            )
        return lines


def versions() -> str:
    names = ("torch", "transformers", "trl", "accelerate", "peft", "liger-kernel", "triton")
    packages = [f"Python {platform.python_version()}"]
    for name in names:
        try:
            packages.append(f"{name} {importlib.metadata.version(name)}")
        except importlib.metadata.PackageNotFoundError:
            continue
    return ", ".join(packages)


def _description(gpu: bool, arguments: argparse.Namespace) -> str:
    common = "Models have random weights. Tokens are document tokens, without padding. "
    common += "TRL runs without activation checkpointing. "
    if gpu:
        return common + (
            "Full-parameter training in bfloat16 (LoRA: rank 16 on all linear layers). Ours keeps exact float32 master "
            "weights and float32 moments; TRL's weights and moments are bfloat16. Documents of 512 tokens, 256 of them "
            "supervised; 128 documents per step, 64 for the 8B models. MFU: by finetune/model/footprint.py, over "
            "the dense bfloat16 peak of the data sheet."
        )
    return common + (
        f"Float32. {arguments.documents} documents with the lengths of instructions (mean 133 tokens, of which 60 are "
        f"supervised: log-normal, see bench/training/shapes.py), about {arguments.batch} per step. "
        "Each of TRL's settings had one turn, then ours and the two fastest of them alternated: each ratio is of two "
        "turns of one round."
    )


if __name__ == "__main__":
    main()
