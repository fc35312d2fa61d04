"""Our trainer beside TRL's SFTTrainer: tokens/s on the same documents, the same model and the same precision.

    python bench/train.py [--device cpu|cuda] [--models NAME,...] [--repeats N] [--limit SECONDS] [-o FILE.md]

Every cell (a trainer on a model in one setting) is a process of its own; a failure is a line of the table. A turn is
the training on all documents once; the first (loading, compiling, warming up) is not counted. On a CPU each of
TRL's settings has one turn, then ours and the two fastest of them alternate; on a GPU one cell runs after the other.
The table is rewritten after each cell.
"""

from __future__ import annotations

import argparse
import datetime
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

from training.shapes import SHAPES, Cell
from training.turns import Ended, FailedError, Turns, Worker

RESULTS = Path(__file__).parent / "results"
CPU = ("smollm2-135m",)
GPU = ("smollm2-135m", "qwen3-0.6b", "llama-3.2-1b", "llama-3.1-8b", "llama-3.1-8b-lora")


@dataclass
class CellResult:
    """A cell and what came of it."""

    cell: Cell
    speeds: list[float] = field(default_factory=list)
    facts: dict[str, Any] = field(default_factory=dict)
    failure: str = ""

    @property
    def median(self) -> float:
        return statistics.median(self.speeds) if self.speeds else 0.0


def cells(device: str, models: list[str], batch: int, count: int, turns: int) -> list[Cell]:
    """The cells, the most important ones first."""

    def cell(model: str, trainer: str, setting: str, **options: Any) -> Cell:
        shape = SHAPES[model]
        on_gpu = device == "cuda"
        return Cell(
            model, trainer, setting, options, device, batch=shape.batch if on_gpu else batch,
            documents=shape.documents if on_gpu else count, turns=turns,
        )  # fmt: skip

    if device == "cpu":
        return [one for model in models for one in _on_cpu(model, cell, batch)]
    found = []
    for model in models:
        shape = SHAPES[model]
        found.append(cell(model, "ours", _told(shape.ours) or "default", **shape.ours))
        found.append(cell(model, "trl", f"sdpa, liger, {shape.rows} rows", micro=shape.rows, liger=True))
    for model in models:
        rows = SHAPES[model].rows
        how = {"micro": rows, "packing": True, "liger": True}
        if importlib.util.find_spec("flash_attn"):
            found.append(cell(model, "trl", "packed (bfd), flash 2, liger", attention="flash_attention_2", **how))
        found.append(cell(model, "trl", "packed (bfd), flex, liger", attention="flex_attention", **how))
    first, rows = models[0], SHAPES[models[0]].rows
    tried: list[dict[str, Any]] = [
        {"attention": "sdpa"}, {"compile": False}, {"micro_batch_tokens": 16_384},
        {"micro_batch_tokens": 65_536},
    ]  # fmt: skip
    found += [cell(first, "ours", _told(options), **options) for options in tried]
    found.append(cell(first, "trl", "sdpa, liger, compiled", micro=rows, liger=True, torch_compile=True))
    return found


def _on_cpu(model: str, cell: Any, batch: int) -> list[Cell]:
    return [
        cell(model, "ours", "default"),
        cell(model, "trl", "padded"),
        cell(model, "trl", "padded, grouped by length", train_sampling_strategy="group_by_length"),
        cell(model, "trl", "padding-free", padding_free=True),
        # Four documents or so share a row of 512 tokens: as many documents in a step as the others have.
        cell(model, "trl", "packed (bfd)", packing=True, micro=max(1, batch // 4), step=max(1, batch // 4)),
    ]


def _told(options: dict[str, Any]) -> str:
    return ", ".join(f"{name}={value}" for name, value in options.items())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--models", help=f"of {', '.join(SHAPES)}; default: {CPU[0]} on a CPU, all on a GPU")
    parser.add_argument("--repeats", type=int, default=5, help="turns that are counted")
    parser.add_argument("--batch", type=int, default=8, help="documents in an optimizer step, on a CPU")
    parser.add_argument("--documents", type=int, default=32, help="documents in a turn, on a CPU")
    parser.add_argument(
        "--only", default="", help="take the cells whose setting or trainer contains one of these, with commas"
    )
    parser.add_argument("--seconds", type=float, default=900, help="most that one cell may take")
    parser.add_argument("--limit", type=float, default=86_400, help="most that everything may take")
    parser.add_argument("-o", "--out", type=Path)
    parser.add_argument("--worker", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.worker:
        work(Cell(**json.loads(arguments.worker)))
        return
    models = arguments.models.split(",") if arguments.models else list(CPU if arguments.device == "cpu" else GPU)
    chosen = cells(arguments.device, models, arguments.batch, arguments.documents, arguments.repeats + 1)
    wanted = [word for word in arguments.only.split(",") if word]
    chosen = [one for one in chosen if not wanted or any(word in f"{one.trainer} {one.setting}" for word in wanted)]
    today = datetime.datetime.now(datetime.UTC).date().isoformat()
    out = arguments.out or RESULTS / f"train-{arguments.device}-{today}.md"
    out.parent.mkdir(parents=True, exist_ok=True)
    bench = Bench(out, today, arguments, [CellResult(one) for one in chosen])
    (bench.in_turns if arguments.device == "cpu" else bench.one_by_one)()
    print(out.read_text(encoding="utf-8"))


def work(cell: Cell) -> None:
    """The child: import, wait for the word, train in turns, tell."""
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
    name = torch.cuda.get_device_name() if gpu else f"{torch.get_num_threads()} threads of {processor()}"
    turns.answer({"memory": memory, "device": name, "flops": flops(cell, documents(cell)), "peak": peak(name)})


def processor() -> str:
    lines = Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else []
    return next((line.split(":")[1].strip() for line in lines if line.startswith("model name")), platform.machine())


class Bench:
    """The run of all cells, and its table."""

    def __init__(self, out: Path, today: str, arguments: argparse.Namespace, measured: list[CellResult]) -> None:
        self.out, self.today, self.arguments, self.measured = out, today, arguments, measured
        self.until = time.monotonic() + arguments.limit
        self.load = os.getloadavg()[0]

    def left(self) -> float:
        return self.until - time.monotonic()

    def in_turns(self) -> None:
        """First one turn of each of TRL's settings alone; then ours and the two fastest, one working at a time."""
        for model in dict.fromkeys(one.cell.model for one in self.measured):
            here = [one for one in self.measured if one.cell.model == model]
            theirs = [one for one in here if one.cell.trainer == "trl"]
            for one in theirs if len(theirs) > 1 else ():
                self._alone(one, turns=1)
                self.write()
            fastest = sorted((one for one in theirs if not one.failure), key=lambda one: -one.median)[:2]
            together = [one for one in here if one.cell.trainer == "ours" or one in fastest]
            workers = [(one, Worker(one.cell.plain())) for one in together]
            for one in together:
                one.speeds.clear()
            for turn in range(self.arguments.repeats + 1):
                for one, worker in workers:
                    self._turn(one, worker, counted=turn > 0)
                self.write()
            for one, worker in workers:
                self._end(one, worker)
            self.write()

    def _alone(self, one: CellResult, turns: int, worker: Worker | None = None) -> None:
        worker = worker or Worker(one.cell.plain())
        for turn in range(turns + 1):
            self._turn(one, worker, counted=turn > 0)
        self._end(one, worker)

    def one_by_one(self) -> None:
        """One cell after the other; the next is already importing."""
        workers = {0: Worker(self.measured[0].cell.plain())} if self.measured else {}
        for number, one in enumerate(self.measured):
            worker = workers.pop(number)
            if number + 1 < len(self.measured):
                workers[number + 1] = Worker(self.measured[number + 1].cell.plain())
            self._alone(one, self.arguments.repeats, worker)
            self.write()

    def _turn(self, one: CellResult, worker: Worker, *, counted: bool) -> None:
        if one.failure:
            return
        try:
            if self.left() < 1:
                raise FailedError("no time left")
            facts = worker.turn(min(self.arguments.seconds, self.left()))
        except FailedError as error:
            one.failure = str(error)
            worker.kill()
            return
        speed = facts["tokens"] / facts["seconds"]
        if counted:
            one.speeds.append(speed)
        what = f"{speed:,.0f} tokens/s" if counted else f"warm after {facts['seconds']:.0f} s"
        print(f"{one.cell.model:18} {one.cell.trainer:5} {one.cell.setting:32} {what}", flush=True)

    def _end(self, one: CellResult, worker: Worker) -> None:
        if one.failure:
            print(f"{one.cell.model:18} {one.cell.trainer:5} {one.cell.setting:32} {one.failure}", flush=True)
            return
        try:
            one.facts = worker.end()
        except FailedError as error:
            one.failure = str(error)

    def write(self) -> None:
        gpu = self.arguments.device == "cuda"
        device = next((one.facts["device"] for one in self.measured if one.facts), self.arguments.device)
        lines = [
            f"# Training, {self.today}", "", f"{device}, {versions()}, load {self.load:.1f} at the start. Printed by",
            f"`{self._command()}`.", "", _what(gpu, self.arguments), "",
            "| model | trainer | setting | tokens/s, median (min to max) | MFU | peak memory | note |",
            "|---|---|---|---|---|---|---|",
            *(self._line(one) for one in self.measured if one.speeds or one.failure), "",
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

    def _line(self, one: CellResult) -> str:
        cell, goal = one.cell, one.cell.shape.goal
        speed, share, memory, note = "", "", "", one.failure
        if one.speeds:
            speed = f"{one.median:,.0f} ({min(one.speeds):,.0f} to {max(one.speeds):,.0f})"
        if one.facts:
            flops, peak = one.facts["flops"], one.facts["peak"]
            share = f"{one.median * flops / peak:.1%}" if flops and peak else ""
            memory = f"{one.facts['memory'] / 2**30:.1f} GiB"
        if one.speeds and not note and cell.device == "cuda" and goal and cell.trainer == "ours":
            note = f"{one.median / goal:.2f} of the goal of {goal:,.0f}"
        return f"| {cell.model} | {cell.trainer} | {cell.setting} | {speed} | {share} | {memory} | {note} |"

    def _ratios(self) -> list[str]:
        """Ours (at its default) over TRL's best, model by model; on a CPU, turn by turn."""
        found = []
        for model in dict.fromkeys(one.cell.model for one in self.measured):
            ours = next((one for one in self.measured if one.cell.model == model and one.cell.trainer == "ours"), None)
            others = [
                one for one in self.measured if one.cell.model == model and one.cell.trainer == "trl" and one.speeds
            ]
            if ours is None or not ours.speeds or not others:
                continue
            # One turn alone decides who takes part in the rest, no more.
            best = max(others, key=lambda one: (len(one.speeds), one.median))
            ratios = [mine / theirs for mine, theirs in zip(ours.speeds, best.speeds, strict=False)]
            found.append(
                f"- {model}: ours is **{statistics.median(ratios):.2f}x** TRL's best ({best.cell.setting}); "
                f"over {len(ratios)} turns {min(ratios):.2f} to {max(ratios):.2f}."
            )
        return found


def versions() -> str:
    names = ("torch", "transformers", "trl", "accelerate", "peft", "liger-kernel", "triton")
    found = [f"Python {platform.python_version()}"]
    for name in names:
        try:
            found.append(f"{name} {importlib.metadata.version(name)}")
        except importlib.metadata.PackageNotFoundError:
            continue
    return ", ".join(found)


def _what(gpu: bool, arguments: argparse.Namespace) -> str:
    common = "Models have random weights. Tokens are those of documents, padding is not counted. "
    common += "TRL without activation checkpointing. "
    if gpu:
        return common + (
            "Full-parameter training in bfloat16 (LoRA: rank 16 on all linear layers). Ours keeps exact float32 master "
            "weights and float32 moments; TRL's weights and moments are bfloat16. Documents of 512 tokens, 256 of them "
            "supervised; 128 documents in a step, 64 for the 8B models. MFU: by finetune/model/footprint.py, over "
            "the dense bfloat16 peak of the data sheet."
        )
    return common + (
        f"Float32. {arguments.documents} documents with the lengths of instructions (mean 133 tokens, of which 60 are "
        f"supervised: log-normal, see bench/training/shapes.py), about {arguments.batch} of them in a step. "
        "Each of TRL's settings had one turn, then ours and the two fastest of them took turns: a ratio is that of two "
        "turns of one round."
    )


if __name__ == "__main__":
    main()
