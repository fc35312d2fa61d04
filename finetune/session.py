"""One training run from end to end: read, render, measure, train, measure again, save.

A run is a folder. ``finetune.json`` in it says what the run is, and, at its end, that it is complete; checkpoints lie
below ``checkpoints/`` until then. The same call goes on where the last one stopped.
"""

from __future__ import annotations

import hashlib
import os
import shutil
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from finetune import checkpoint
from finetune.adapters import save_adapters
from finetune.attention import choose, install
from finetune.corpus import Corpus
from finetune.data import Example, read_examples
from finetune.estimate import flops_per_token, memory, mfu, parameters
from finetune.evaluate import Losses, evaluate
from finetune.isolation import check_head, check_isolation
from finetune.loop import Loop, Plan, Stopped
from finetune.metrics import Metrics
from finetune.model import Loaded, load, load_config, load_tokenizer, save
from finetune.optim import FlatAdamW
from finetune.options import Options
from finetune.progress import Progress
from finetune.render import Rendered, Renderer, render_all
from finetune.sample import sample
from finetune.trainee import Trainee
from selfinstruct.codec import dumps, loads
from selfinstruct.errors import RunChangedError, UsageError
from selfinstruct.files import write_atomic
from selfinstruct.resources import builtin_seeds
from selfinstruct.rng import Rng

__all__ = ["Preview", "Result", "plan", "train"]

_RECORD = "finetune.json"
_FREE = ("checkpoint_every", "keep", "log_every", "micro_batch_tokens", "recompute", "compile")  # may change on the way
_BUDGET = {"cuda": 32_768, "cpu": 2_048}

Show = Callable[[Progress], AbstractContextManager[None]]
Tell = Callable[[str], None]


@dataclass(frozen=True)
class Measured:
    """Held-out losses and sample answers at one moment.

    Attributes:
        losses: By name of the held-out set: ``rows``, ``seed tasks``.
        answers: One for each sample instruction.
    """

    losses: dict[str, Losses]
    answers: list[str]

    def plain(self) -> dict[str, Any]:
        return {
            "losses": {
                name: {"sums": list(map(float, one.sums)), "counts": list(map(int, one.counts))}
                for name, one in self.losses.items()
            },
            "answers": self.answers,
        }

    @classmethod
    def of(cls, plain: dict[str, Any]) -> Measured:
        losses = {name: Losses.of(one["sums"], one["counts"]) for name, one in plain["losses"].items()}
        return cls(losses, list(plain["answers"]))


@dataclass(frozen=True)
class Result:
    """What became of a run.

    Attributes:
        folder: Where the model lies.
        steps: Optimizer steps of the run.
        before, after: Measured on held-out text; None where the options ask for nothing.
        prompts: Of the sample answers.
        seconds: Spent on training steps.
        complete: False after Ctrl-C: the same call goes on.
        already: The run was complete before this call.
    """

    folder: Path
    steps: int
    before: Measured | None = None
    after: Measured | None = None
    prompts: list[str] = field(default_factory=list)
    seconds: float = 0.0
    complete: bool = True
    already: bool = False


@dataclass(frozen=True)
class Preview:
    """What a run would do.

    Attributes:
        rendered: The documents, and the rows that were dropped.
        renderer: Shows a document in pieces.
        plan: Its steps.
        skipped: Rows that could not be read, with the reason.
        memory: Predicted bytes by part; empty where the model's shape is unknown.
    """

    rendered: Rendered
    renderer: Renderer
    plan: Plan
    skipped: list[str]
    memory: dict[str, int]


@dataclass(frozen=True)
class _Texts:
    """The documents of a run."""

    rendered: Rendered
    skipped: list[str]
    train: Corpus
    held_out: dict[str, Corpus]
    samples: list[Example]


def plan(model: str | None, data: str, options: Options) -> Preview:
    """Render the dataset and plan the steps, without loading the weights.

    Raises:
        SelfInstructError: Whatever ``train`` would refuse of the dataset and the tokenizer.
    """
    renderer = Renderer(load_tokenizer(model), options.format, max_length=options.max_length)
    texts = _texts(data, renderer, options)
    device = _device()
    steps = Plan.of(texts.train, options, budget=_budget(options, device))
    return Preview(texts.rendered, renderer, steps, texts.skipped, _memory(model, options, steps, device))


def _memory(model: str | None, options: Options, steps: Plan, device: torch.device) -> dict[str, int]:
    config = load_config(model)
    trained = None
    if options.lora is not None:  # an adapter of rank r beside an (m, n) matrix has r (m + n) parameters
        layers, _ = parameters(config)
        trained = round(2 * options.lora.rank * layers / config.hidden_size)
    size = 4 if _dtype(options, device) == torch.float32 else 2
    tokens = steps.packing.budget
    return memory(config, tokens=tokens, bytes_each=size, trained=trained, recompute=options.recompute == "on")


def train(
    model: str | None,
    data: str,
    out: Path,
    options: Options,
    *,
    show: Show = lambda _progress: nullcontext(),
    tell: Tell = lambda _what: None,
) -> Result:
    """Fine-tune ``model`` on ``data`` into the folder ``out``, or go on with what is there.

    Args:
        model: The embedded model (None), a .gguf file, a folder or a hub name.
        data: A file, a run of selfinstruct, a datasets folder or a hub name.
        show: Shows a progress while its context is open.
        tell: Called with a line on anything unusual.

    Raises:
        SelfInstructError: Bad data or settings; a run of other settings in ``out``; a loss that is not finite; ...
    """
    device = _device()
    progress = Progress()
    with show(progress):
        run = _Run(model, out, options, device, progress, tell)
        return run.go(data)


class _Run:
    def __init__(
        self, model: str | None, out: Path, options: Options, device: torch.device, progress: Progress, tell: Tell
    ) -> None:
        self.name, self.out, self.options, self.device = model, out, options, device
        self.progress, self.tell = progress, tell
        self.budget = _budget(options, device)

    def go(self, data: str) -> Result:
        options, progress = self.options, self.progress
        progress.phase = "reading"
        renderer = Renderer(load_tokenizer(self.name), options.format, max_length=options.max_length)
        texts = _texts(data, renderer, options)
        for line in _told(texts):
            self.tell(line)
        plan = Plan.of(texts.train, options, budget=self.budget)
        identity = _identity(self.name, options, texts, renderer)
        record = _read_record(self.out, identity)
        prompts = [example.turns[-2].content if len(example.turns) > 1 else "" for example in texts.samples]
        if record.get("complete"):
            return _finished(self.out, record, prompts, already=True)
        if plan.steps < 10:
            self.tell(
                f"only {plan.steps} steps: too few to learn much; more rows, more epochs or a smaller batch give more"
            )
        progress.phase = "loading"
        torch.manual_seed(options.seed)
        loaded = load(self.name, dtype=_dtype(options, self.device), device=self.device, lora=options.lora)
        attention = choose(options.attention, self.device)
        trainee = self._trainee(loaded, attention)
        if "before" not in record:
            record = {**identity, "model_digest": loaded.base.digest, "format": renderer.format, "complete": False}
            record["before"] = self._measure(trainee, loaded, renderer, texts).plain()
            _write_record(self.out, record)
        elif record["model_digest"] != loaded.base.digest:
            raise RunChangedError(f"{self.out}: the weights of the model are not those that this run began with")
        seconds = self._fit(trainee, plan, attention)
        if seconds is None:
            return Result(self.out, self.progress.step, complete=False)
        record["after"] = self._measure(trainee, loaded, renderer, texts).plain()
        progress.phase = "saving"
        self._save(loaded)
        record.update(steps=plan.steps, seconds=round(seconds, 3), complete=True)
        _write_record(self.out, record)
        self._draw(record)
        shutil.rmtree(self.out / "checkpoints", ignore_errors=True)
        progress.phase = "done"
        return _finished(self.out, record, prompts)

    def _trainee(self, loaded: Loaded, attention: str) -> Trainee:
        trainee = Trainee(loaded.model)
        # Alone in its micro-batch, a document sees nothing but itself, whatever the layers.
        if self.options.packing:
            install(trainee.causal, attention)
            check_isolation(trainee, self.device)
        trainee.own_head = check_head(trainee, self.device)
        if self.options.recompute == "on":
            trainee.causal.gradient_checkpointing_enable({"use_reentrant": False})
        return trainee

    def _measure(self, trainee: Trainee, loaded: Loaded, renderer: Renderer, texts: _Texts) -> Measured:
        self.progress.phase = "evaluating"
        losses = {
            name: evaluate(trainee, corpus, budget=self.budget, device=self.device)
            for name, corpus in texts.held_out.items()
            if len(corpus)
        }
        self.progress.phase = "answering"
        evaluation = self.options.evaluation
        answers = sample(trainee, loaded.tokenizer, renderer, texts.samples, evaluation.sample_tokens)
        return Measured(losses, answers)

    def _fit(self, trainee: Trainee, plan: Plan, attention: str) -> float | None:
        """Train; the seconds it took over all calls, or None after Ctrl-C."""
        options = self.options
        optimizer = FlatAdamW(trainee.parameters(), options)
        root = self.out / "checkpoints"
        found = checkpoint.latest(root)
        start = 0
        if found is not None:
            tensors = found.tensors()
            optimizer.restore(tensors)
            checkpoint.restore_generators(tensors)
            start = found.step
            self.tell(f"going on after step {start} of {plan.steps}")
        else:
            torch.manual_seed(options.seed)
        metrics = Metrics(self.out)
        metrics.rewind(start)
        before = float(found.facts["seconds"]) if found else 0.0
        loop = Loop(
            trainee, optimizer, plan, self.device, progress=self.progress,
            log=metrics.log, flex=attention == "flex" and options.packing, mfu=_share(trainee, plan, self.device),
        )  # fmt: skip

        def keep(step: int) -> None:
            facts = {"seconds": before + loop.seconds}
            checkpoint.save(root, step, {**optimizer.state(), **checkpoint.generators()}, facts, keep=options.keep)

        loop.save = keep
        if self.device.type == "cuda" and options.compile is not False:
            loop.fixed = attention == "varlen" and options.packing
            _compile(trainee)
        try:
            loop.run(start)
        except Stopped:
            return None
        finally:
            metrics.close()
        return before + loop.seconds

    def _save(self, loaded: Loaded) -> None:
        """The model's files into the folder, each moved there when all are written."""
        part = self.out / ".model.part"
        shutil.rmtree(part, ignore_errors=True)
        if self.options.lora is None:
            save(loaded.model, loaded.tokenizer, part)
        else:
            save_adapters(loaded.model, loaded.tokenizer, part, loaded.base)
        for path in sorted(part.iterdir()):
            os.replace(path, self.out / path.name)
        part.rmdir()

    def _draw(self, record: dict[str, Any]) -> None:
        held_out = {
            name: (Losses.of(**one).mean, Losses.of(**record["after"]["losses"][name]).mean)
            for name, one in record["before"]["losses"].items()
        }
        Metrics(self.out).plot(self.out.name, held_out)


def _texts(data: str, renderer: Renderer, options: Options) -> _Texts:
    found = read_examples(data)
    rendered = render_all(found.examples, renderer)
    evaluation = options.evaluation
    training, rows = rendered.corpus.split(evaluation.fraction, options.seed)
    held_out = {"rows": rows} if len(rows) else {}
    samples = [example for example in found.examples if example.name in set(rows.names)]
    if evaluation.seed_tasks:
        seeds = read_examples(str(builtin_seeds())).examples
        chosen = Rng("seed tasks", options.seed).sample(seeds, evaluation.seed_tasks)
        held_out["seed tasks"] = render_all(chosen, renderer).corpus
        samples += chosen
    return _Texts(rendered, found.skipped, training, held_out, samples[: evaluation.samples])


def _told(texts: _Texts) -> list[str]:
    lines = [f"skipped {line}" for line in texts.skipped[:20]]
    lines += [f"dropped {name}: {reason} ({detail})" for name, reason, detail in texts.rendered.dropped[:20]]
    more = len(texts.skipped) + len(texts.rendered.dropped) - len(lines)
    if more > 0:
        lines.append(f"and {more:,} more rows")
    if texts.rendered.truncated:
        lines.append(f"{texts.rendered.truncated:,} documents are longer than max_length and were cut")
    return lines


def _identity(model: str | None, options: Options, texts: _Texts, renderer: Renderer) -> dict[str, Any]:
    """What a run may not change on the way."""
    from dataclasses import asdict

    settings = {name: value for name, value in asdict(options).items() if name not in _FREE}
    held = hashlib.sha256("".join(one.digest for one in texts.held_out.values()).encode()).hexdigest()
    return {
        "model": model or "embedded", "options": settings, "format": renderer.format,
        "documents": texts.train.digest, "held_out": held,
    }  # fmt: skip


def _read_record(out: Path, identity: dict[str, Any]) -> dict[str, Any]:
    path = out / _RECORD
    if not path.exists():
        if out.exists() and (not out.is_dir() or any(out.iterdir())):
            raise UsageError(f"{out}: there is something else here already; name another folder with -o")
        return {}
    try:
        record = loads(path.read_bytes())
    except (OSError, ValueError) as error:
        raise UsageError(f"{path}: can't be read ({error}); remove {out} to begin again") from None
    changed = [name for name in identity if record.get(name) != identity[name]]
    if "options" in changed:
        old = record.get("options") or {}
        changed.remove("options")
        changed += [name for name, value in identity["options"].items() if old.get(name) != value]
    if changed:
        raise RunChangedError(
            f"{out} holds a run with another {', '.join(changed)}; name another folder with -o, or remove this one"
        )
    return dict(record)


def _write_record(out: Path, record: dict[str, Any]) -> None:
    write_atomic(out / _RECORD, [dumps(record).encode("utf-8")])


def _finished(out: Path, record: dict[str, Any], prompts: list[str], *, already: bool = False) -> Result:
    before, after = Measured.of(record["before"]), Measured.of(record["after"])
    return Result(out, record["steps"], before, after, prompts, record["seconds"], already=already)


def _device() -> torch.device:
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def _dtype(options: Options, device: torch.device) -> torch.dtype:
    if options.dtype == "auto":
        return torch.bfloat16 if device.type == "cuda" else torch.float32
    return {"float32": torch.float32, "bfloat16": torch.bfloat16}[options.dtype]


def _budget(options: Options, device: torch.device) -> int:
    return options.micro_batch_tokens or _BUDGET[device.type]


def _share(trainee: Trainee, plan: Plan, device: torch.device) -> Callable[[float], float | None]:
    """From tokens per second to the share of the GPU's peak, where that is known."""
    if device.type != "cuda":
        return lambda _speed: None
    corpus = plan.corpus
    supervised = float(corpus.supervised.mean())
    # A token attends to its own document: long documents weigh by their tokens.
    length = float((corpus.lengths**2).sum() / corpus.lengths.sum())
    frozen = plan.options.lora is not None
    flops = flops_per_token(trainee.causal.config, length, supervised=supervised, frozen=frozen)
    name = torch.cuda.get_device_name(device)
    return lambda speed: mfu(speed, flops, name)


def _compile(trainee: Trainee) -> None:
    """Compile each layer by itself: they share their code, so that one is compiled and the others reuse it."""
    for layer in trainee.decoder.layers:
        layer.compile(dynamic=False)
