"""Compare this project's trainer with TRL's SFTTrainer: tokens/s on the same documents, model and precision.

    python bench/train.py [--device cpu|cuda] [--models NAME,...] [--repeats N] [--limit SECONDS] [-o FILE.md]

Each cell (a trainer on a model with one setting) is a separate process; a failure becomes a line of the table. A turn
is one pass over all documents; the first one (loading, compiling, warming up) is not counted. On a CPU each of TRL's
settings gets one turn, then this trainer and TRL's two fastest settings alternate; on a GPU the cells run one after
another. The table is rewritten after each cell.

On a GPU there are three kinds of rows for each model: documents of equal lengths, documents of real lengths, and fp8,
whose losses are printed next to bfloat16's.
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
from training.shapes import LENGTHS, SHAPES, Cell
from training.turns import Ended, FailedError, Turns, Worker

CPU = ("smollm2-135m",)
GPU = ("llama-3.2-1b", "qwen3-0.6b", "smollm2-135m", "llama-3.1-8b-lora", "llama-3.1-8b")  # the largest one last
REAL_LENGTHS = ("alpaca-like", "tulu-like")


@dataclass
class CellResult:
    """A cell and its result."""

    cell: Cell
    speeds: list[float] = field(default_factory=list)
    losses: list[float] = field(default_factory=list)
    facts: dict[str, Any] = field(default_factory=dict)
    failure: str = ""

    @property
    def median(self) -> float:
        return statistics.median(self.speeds) if self.speeds else 0.0


def cells(device: str, models: list[str], batch: int, count: int, turns: int) -> list[Cell]:
    """Return the cells, the most important ones first."""

    def cell(model: str, trainer: str, setting: str, lengths: str = "alpaca-like", **options: Any) -> Cell:
        shape = SHAPES[model]
        if device == "cpu":
            return Cell(model, trainer, setting, options, device, batch, count, turns, lengths)
        # About as many tokens in each turn, in whole steps.
        steps = max(1, round(shape.documents * 512 / LENGTHS[lengths].mean / shape.batch))
        return Cell(model, trainer, setting, options, device, shape.batch, steps * shape.batch, turns, lengths)

    if device == "cpu":
        return [entry for model in models for entry in _cpu_cells(model, cell)]
    chosen = []
    for model in models:
        rows = SHAPES[model].rows
        chosen += [
            cell(model, "ours", "default", "512"),
            cell(model, "trl", f"sdpa, liger, {rows} rows", "512", micro=rows, liger=True),
        ]
    explicit: dict[str, dict[str, Any]] = {
        "smollm2-135m": {"micro_batch_tokens": 32_768},
        "llama-3.1-8b": {"micro_batch_tokens": 8_192, "recompute": False},
        "llama-3.1-8b-lora": {"micro_batch_tokens": 16_384, "recompute": False},
    }
    chosen += [
        cell(model, "ours", _label(explicit[model]), "512", **explicit[model]) for model in models if model in explicit
    ]
    for model in models:
        for lengths in REAL_LENGTHS:
            rows = max(1, SHAPES[model].rows * 512 // LENGTHS[lengths].longest)
            grouped = {"micro": rows, "liger": True, "train_sampling_strategy": "group_by_length"}
            chosen.append(cell(model, "ours", "default", lengths))
            chosen.append(cell(model, "trl", f"sdpa, liger, {rows} rows, grouped by length", lengths, **grouped))
    chosen += [cell(model, "ours", "fp8=True", "512", fp8=True) for model in models]
    for model in models:
        for lengths in ("512", *REAL_LENGTHS):
            rows = max(1, SHAPES[model].rows * 512 // LENGTHS[lengths].longest)
            packed = {"micro": rows, "packing": True, "liger": True}
            if importlib.util.find_spec("flash_attn"):
                setting = "packed (bfd), flash 2, liger"
                chosen.append(cell(model, "trl", setting, lengths, attention="flash_attention_2", **packed))
            chosen.append(
                cell(model, "trl", "packed (bfd), flex, liger", lengths, attention="flex_attention", **packed)
            )
    first, rows = models[0], SHAPES[models[0]].rows
    variants: list[dict[str, Any]] = [{"attention": "sdpa"}, {"compile": False}]
    chosen += [cell(first, "ours", _label(options), "512", **options) for options in variants]
    chosen.append(cell(first, "trl", "sdpa, liger, compiled", "512", micro=rows, liger=True, torch_compile=True))
    return chosen


def _cpu_cells(model: str, cell: Any) -> list[Cell]:
    return [
        cell(model, "ours", "default"),
        cell(model, "trl", "padded"),
        cell(model, "trl", "padded, grouped by length", train_sampling_strategy="group_by_length"),
        cell(model, "trl", "padding-free", padding_free=True),
        cell(model, "trl", "packed (bfd)", packing=True),
    ]


def _label(options: dict[str, Any]) -> str:
    return ", ".join(f"{name}={value}" for name, value in options.items())


def _name(cell: Cell) -> str:
    return f"{cell.trainer} {cell.lengths} {cell.setting}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--models", help=f"some of {', '.join(SHAPES)}; default: {CPU[0]} on a CPU, all on a GPU")
    parser.add_argument("--repeats", type=int, default=5, help="counted turns")
    parser.add_argument("--batch", type=int, default=8, help="documents per optimizer step, on a CPU")
    parser.add_argument("--documents", type=int, default=32, help="documents per turn, on a CPU")
    parser.add_argument(
        "--only",
        default="",
        help="comma-separated words; keep the cells whose 'trainer lengths setting' contains one of them",
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
    chosen = [cell for cell in chosen if not words or any(word in _name(cell) for word in words)]
    if not chosen:
        parser.error(f"--only: no cell contains {' or '.join(words)}")
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
    facts = {"memory": memory, "device": name, "flops": flops(cell, documents(cell)), "peak": peak(name)}
    turns.answer({**facts, **turns.facts})


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
        if "loss" in facts:
            result.losses.append(facts["loss"])
        if counted:
            result.speeds.append(speed)
        message = f"{speed:,.0f} tokens/s" if counted else f"warm after {facts['seconds']:.0f} s"
        print(f"{result.cell.model:18} {_name(result.cell):50} {message}", flush=True)

    def _end(self, result: CellResult, worker: Worker) -> None:
        if result.failure:
            print(f"{result.cell.model:18} {_name(result.cell):50} {result.failure}", flush=True)
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
            "| model | lengths | trainer | setting | tokens/s, median (min to max) | MFU | peak memory | note |",
            "|---|---|---|---|---|---|---|---|",
            *(self._line(result) for result in self.results if result.speeds or result.failure), "",
            *self._ratios(), "", *self._losses(),
        ]  # fmt: skip
        self.out.write_text("\n".join(lines), encoding="utf-8")

    def _command(self) -> str:
        arguments = self.arguments
        what = f"python bench/train.py --device {arguments.device} --repeats {arguments.repeats}"
        what += f" --models {arguments.models}" if arguments.models else ""
        what += f" --only '{arguments.only}'" if arguments.only else ""
        return (
            what
            if arguments.device == "cuda"
            else f"{what} --batch {arguments.batch} --documents {arguments.documents}"
        )

    def _line(self, result: CellResult) -> str:
        cell, goal = result.cell, result.cell.shape.goal
        speed, share, memory, notes = "", "", "", [result.failure]
        if result.speeds:
            speed = f"{result.median:,.0f} ({min(result.speeds):,.0f} to {max(result.speeds):,.0f})"
        if result.facts:
            flops, peak = result.facts["flops"], result.facts["peak"]
            share = f"{result.median * flops / peak:.1%}" if flops and peak else ""
            memory = f"{result.facts['memory'] / 2**30:.1f} GiB"
            if cell.device == "cuda" and result.facts.get("predicted"):
                memory += f" of {result.facts['predicted'] / 2**30:.1f} predicted"
            notes.append(result.facts.get("note", ""))
        if result.speeds and cell.device == "cuda" and goal and (cell.trainer, cell.lengths) == ("ours", "512"):
            notes.insert(0, f"{result.median / goal:.2f} of the goal of {goal:,.0f}")
        texts = (cell.model, cell.lengths, cell.trainer, cell.setting, speed, share, memory)
        return f"| {' | '.join(texts)} | {'; '.join(filter(None, notes))} |"

    def _ratios(self) -> list[str]:
        """Return the speed of this trainer (default settings) over TRL's best for each model and kind of documents."""
        lines = []
        for model, lengths in dict.fromkeys((result.cell.model, result.cell.lengths) for result in self.results):
            measured = [
                result
                for result in self.results
                if (result.cell.model, result.cell.lengths) == (model, lengths) and result.speeds
            ]
            ours = [result for result in measured if (result.cell.trainer, result.cell.setting) == ("ours", "default")]
            others = [result for result in measured if result.cell.trainer == "trl"]
            if not ours or not others:
                continue
            # On a CPU, the first turn only selects the settings that alternate.
            best = max(others, key=lambda result: (len(result.speeds), result.median))
            ratios = [mine / theirs for mine, theirs in zip(ours[0].speeds, best.speeds, strict=False)]
            lines.append(
                f"- {model}, {lengths}: ours is **{statistics.median(ratios):.2f}x** TRL's best ({best.cell.setting}); "
                f"over {len(ratios)} turns {min(ratios):.2f} to {max(ratios):.2f}."
            )
        return lines

    def _losses(self) -> list[str]:
        """Return the losses of fp8 by turn, next to the default's."""
        lines = []
        for result in self.results:
            if not result.cell.options.get("fp8") or not result.losses:
                continue
            usual = next(
                (
                    other.losses
                    for other in self.results
                    if (other.cell.model, other.cell.lengths, other.cell.trainer, other.cell.setting)
                    == (result.cell.model, result.cell.lengths, "ours", "default")
                ),
                [],
            )
            columns = [f"{loss:.4f}" for loss in usual], [f"{loss:.4f}" for loss in result.losses]
            lines.append(
                f"- {result.cell.model}, loss by turn: default {' '.join(columns[0])}; fp8 {' '.join(columns[1])}."
            )
        return [*lines, ""] if lines else []


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
            "weights and float32 moments; TRL's weights and moments are bfloat16, and it has 8 loader processes. 128 "
            "documents per step, 64 for the 8B models. Lengths: 512 (256 of them supervised), or log-normal "
            "(bench/training/shapes.py). `default`: what `finetune train` chooses. fp8 computes other numbers, so "
            "its losses are below. MFU: by finetune/model/footprint.py, over the dense bfloat16 peak of the data sheet."
        )
    return common + (
        f"Float32. {arguments.documents} documents with the lengths of instructions (mean 133 tokens, of which 60 are "
        f"supervised: log-normal, see bench/training/shapes.py), about {arguments.batch} per step. "
        "Each of TRL's settings had one turn, then ours and the two fastest of them alternated: each ratio is of two "
        "turns of one round."
    )


if __name__ == "__main__":
    main()
