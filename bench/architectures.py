"""Try the trainer on a tiny random model of every architecture against a plain loop over transformers.

    python bench/architectures.py [TYPE ...] [--short] [--write]

Each model is saved, loaded and prepared as for training, and gets one row:

- packing: how documents that share a micro-batch are isolated, or that they are trained one at a time;
- gradient: largest difference to the gradients of a loop that calls transformers for each document alone, relative to
  the largest gradient;
- saved: whether the saved and reloaded model has the same logits;
- LoRA: the share of the weights of matrices that has adapters, and what has none; saved and reloaded too;
- balancing: for a mixture of experts, the largest difference to the gradients of a document with the loss that
  transformers computes with ``output_router_logits``; "none" if that has no load-balancing term; or "refused";
- GGUF: whether it can be written as GGUF.
"""

from __future__ import annotations

import argparse
import copy
import platform
import tempfile
import time
import warnings
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from reporting import RESULTS, hardware, today
from tiny_models import VOCABULARY, causal_types, make_config, make_model, vision_types
from torch.nn import functional

from finetune.data.batch import collate
from finetune.data.corpus import Corpus, Document
from finetune.export.gguf import export_gguf
from finetune.model.adapters import load_adapters, save_adapters
from finetune.model.anatomy import text_config
from finetune.model.limits import require_decoder
from finetune.model.loading import load
from finetune.model.lora_targets import coverage
from finetune.model.packed_lm import PackedCausalLM
from finetune.model.saving import save
from finetune.options import Lora, TrainingOptions
from finetune.training.distributed import SINGLE_PROCESS
from finetune.training.setup import RuntimeSetup, prepare
from selfinstruct.errors import SelfInstructError

SHORT = ("deepseek_v3", "gemma2", "glm4_moe_lite", "gpt2", "gpt_oss", "llama", "qwen2_moe", "qwen2_vl", "qwen3_5_text")
LENGTHS = (5, 30, 9, 22)  # tokens: below and beyond the windows of the tiny models
TOLERANCE = 1e-4


@dataclass(frozen=True)
class NotBuilt:
    """An architecture of which transformers makes no tiny model here, and the reason."""

    model_type: str
    reason: str


@dataclass
class Row:
    """The results of one architecture.

    Attributes:
        packing: How documents are isolated; with ``refused``, why the model is not trained.
        gradient: Relative difference to the plain loop.
        lora: Share of the weights with adapters; None if there are none.
        balancing: Relative difference of the gradients with the load-balancing loss, or that it is refused.
        problems: What is wrong, in words.
    """

    model_type: str
    parameters: int = 0
    packing: str = ""
    refused: bool = False
    gradient: float | None = None
    saved: bool | None = None
    lora: float | None = None
    left_out: str = ""
    balancing: str = ""
    gguf: str = ""
    seconds: float = 0.0
    problems: list[str] = field(default_factory=list)

    @property
    def exact(self) -> bool:
        """Whether the model trains as in the plain loop and is saved unchanged."""
        return not self.problems and self.saved is True and self.gradient is not None and self.gradient <= TOLERANCE

    def cells(self) -> list[str]:
        if self.refused:
            return [self.model_type, f"{self.parameters:,}", f"refused: {self.packing}", *[""] * 6]
        gradient = "" if self.gradient is None else f"{self.gradient:.1e}"
        lora = "" if self.lora is None else f"{self.lora:.0%}"
        saved = {True: "equal", False: "**differs**", None: ""}[self.saved]
        notes = "; ".join([*(f"**{problem}**" for problem in self.problems), self.left_out]).strip("; ")
        return [
            self.model_type,
            f"{self.parameters:,}",
            self.packing,
            gradient,
            saved,
            lora,
            notes,
            self.balancing,
            self.gguf,
        ]


def tokenizer() -> Any:
    """Return a byte-level tokenizer of ``VOCABULARY`` tokens."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    special = [f"<{number}>" for number in range(VOCABULARY - len(letters))]
    backend = Tokenizer(models.BPE({token: i for i, token in enumerate([*special, *letters])}, []))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    return PreTrainedTokenizerFast(tokenizer_object=backend, eos_token="<2>", pad_token="<0>")


def documents() -> Corpus:
    rng = np.random.default_rng(0)
    return Corpus.of(
        Document(rng.integers(10, VOCABULARY, size).astype(np.int32), np.arange(size) >= size // 3 + 1, f"row {size}")
        for size in LENGTHS
    )


def ready(model: Any, notices: list[str]) -> PackedCausalLM:
    """Prepare a model for training on a CPU; without dropout, which a plain loop would draw otherwise."""
    setup = RuntimeSetup.of(TrainingOptions(), torch.device("cpu"))
    longest = max(LENGTHS)
    packed_lm = prepare(model, setup, SINGLE_PROCESS, recompute=False, longest=longest, notify=notices.append)
    return packed_lm.eval()


def gradients(model: Any) -> dict[str, torch.Tensor]:
    return {
        name: parameter.grad for name, parameter in model.named_parameters()
        if parameter.requires_grad and parameter.grad is not None
    }  # fmt: skip


def packed_gradients(packed_lm: PackedCausalLM, corpus: Corpus) -> dict[str, torch.Tensor]:
    """Return the gradients of a step over all documents."""
    count = len(corpus)
    micro_batches = [range(count)] if packed_lm.packs else [[index] for index in range(count)]
    batches = [collate(corpus, indices, max_seqlen=max(LENGTHS)) for indices in micro_batches]
    loads = []
    if packed_lm.balancing is not None:
        loads = [packed_lm.balancing.load(sum(map(packed_lm.expert_counts, batches)))]
    for batch in batches:
        packed_lm(batch, 1 / int(corpus.targets.sum()), *loads).backward()
    return gradients(packed_lm.causal)


def plain_gradients(model: Any, corpus: Corpus) -> dict[str, torch.Tensor]:
    """Return the gradients of the mean loss, document by document, by transformers alone."""
    for document in map(corpus.__getitem__, range(len(corpus))):
        ids = torch.from_numpy(document.ids.astype(np.int64))
        logits = model(input_ids=ids[None], use_cache=False).logits[0, :-1]
        supervised = torch.from_numpy(document.supervised[1:])
        loss = functional.cross_entropy(logits[supervised].float(), ids[1:][supervised], reduction="sum")
        (loss / int(corpus.targets.sum())).backward()
    return gradients(model)


def difference(ours: dict[str, torch.Tensor], plain: dict[str, torch.Tensor]) -> float:
    """Return the largest difference of two gradients, relative to the largest gradient."""
    names = [name for name in ours if name in plain]
    scale = max((float(plain[name].abs().max()) for name in names), default=0.0)
    missing = max((float(g.abs().max()) for name, g in plain.items() if name not in ours), default=0.0)
    largest = max([float((ours[name] - plain[name]).abs().max()) for name in names] + [missing])
    return largest / scale if scale else float("inf")


def logits(model: Any) -> torch.Tensor:
    with torch.no_grad():
        return model.eval()(input_ids=torch.arange(10, 26)[None], use_cache=False).logits


def try_type(model_type: str, folder: Path, *, gguf: bool = True) -> Row | NotBuilt:
    """Return the row of an architecture, or why there is no tiny model of it."""
    row, started = Row(model_type), time.perf_counter()
    try:
        config = make_config(model_type)
        original = make_model(copy.deepcopy(config))
    except Exception as error:  # an architecture that needs more than sizes
        return NotBuilt(model_type, _brief(error))
    row.parameters = sum(parameter.numel() for parameter in original.parameters())
    base = folder / model_type
    try:
        require_decoder(config, model_type)
        original.save_pretrained(base)
        tokenizer().save_pretrained(base)
        _train(row, base, documents())
        _lora(row, base)
        row.balancing = _balancing(base)
        if gguf:
            row.gguf = _gguf(base)
    except SelfInstructError as error:
        row.packing, row.refused = str(error).replace(str(base), model_type), True
    except Exception as error:
        row.problems.append(_brief(error))
    row.seconds = time.perf_counter() - started
    return row


def _brief(error: Exception) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())[:160]}"


def _train(row: Row, base: Path, corpus: Corpus) -> None:
    notices: list[str] = []
    loaded = load(str(base), dtype=torch.float32)
    packed_lm = ready(loaded.model, notices)
    plain = load(str(base), dtype=torch.float32).model.eval()
    row.packing = packed_lm.attention or ("block mask" if packed_lm.block_mask else "one at a time")
    row.gradient = difference(packed_gradients(packed_lm, corpus), plain_gradients(plain, corpus))
    if row.gradient > TOLERANCE:
        row.problems.append("another gradient")
    expected = logits(plain)
    save(loaded.model, loaded.tokenizer, base / "saved")
    row.saved = torch.equal(logits(load(str(base / "saved"), dtype=torch.float32).model), expected)


def _lora(row: Row, base: Path) -> None:
    loaded = load(str(base), dtype=torch.float32, lora=Lora(rank=2))
    adapted, left_out = coverage(loaded.model)
    total = adapted + sum(size for _, size in left_out.values())
    row.lora = adapted / total if total else None
    row.left_out = ", ".join(f"{count} {name}" for name, (count, _) in left_out.items())
    for name, parameter in loaded.model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.1)
    expected = logits(loaded.model)
    save_adapters(loaded.model, loaded.tokenizer, base / "adapters", loaded.base)
    again = load_adapters(load(str(base), dtype=torch.float32).model, base / "adapters")
    if not torch.equal(logits(again), expected):
        row.problems.append("adapters change when they are saved")
    if torch.equal(expected, logits(load(str(base), dtype=torch.float32).model)):
        row.problems.append("adapters without effect")


def _balancing(base: Path) -> str:
    """Compare the gradients of a document with the loss of transformers, its load-balancing loss included."""
    plain, ours = (load(str(base), dtype=torch.float32).model.eval() for _ in range(2))
    configs = [text_config(model.config) for model in (plain, ours)]
    if not hasattr(configs[0], "output_router_logits"):
        return ""
    for config in configs:
        config.output_router_logits = True
    try:
        packed_lm = ready(ours, [])
    except SelfInstructError as error:
        return f"refused: {error}".split(";")[0]
    ids = torch.from_numpy(documents()[1].ids.astype(np.int64))
    document = Document(documents()[1].ids, np.arange(len(ids)) > 0, "document")
    plain(input_ids=ids[None], labels=ids[None], use_cache=False, output_router_logits=True).loss.backward()
    worst = difference(packed_gradients(packed_lm, Corpus.of([document])), gradients(plain))
    return f"{worst:.1e}" if packed_lm.balancing is not None else f"none, {worst:.1e}"


def _gguf(base: Path) -> str:
    try:
        export_gguf(str(base), base / "model.gguf", dtype="f32")
    except SelfInstructError:
        return ""
    return "yes"


def measure(types: Sequence[str], *, gguf: bool = True) -> Iterator[Row | NotBuilt]:
    """Yield the row of each architecture."""
    for model_type in types:
        with tempfile.TemporaryDirectory() as folder:
            yield try_type(model_type, Path(folder), gguf=gguf)


def report(rows: Sequence[Row], missing: Sequence[NotBuilt], arguments: str = "") -> str:
    """Return the table as Markdown, with the arguments of the command and counts before it."""
    trained = [row for row in rows if not row.refused]
    exact = sum(row.exact for row in trained)
    packing = Counter(row.packing for row in trained)
    ways = ", ".join(f"{count} {name}" for name, count in packing.most_common())
    import transformers

    lines = [
        f"# Architectures, {today()}", "",
        f"Written by `python bench/architectures.py{arguments} --write`. Random models with a vocabulary of "
        f"{VOCABULARY} and two layers, documents of {', '.join(map(str, LENGTHS))} tokens, float32, on {hardware()}; "
        f"Python {platform.python_version()}, torch {torch.__version__}, transformers {transformers.__version__}.", "",
        f"Of {len(rows)} architectures, {len(trained)} train ({ways}), {exact} of them with the gradients of a plain "
        f"loop over transformers (largest relative difference at most {TOLERANCE:g}) and equal logits after saving; "
        f"{len(rows) - len(trained)} are refused. {len(missing)} can't be built in a tiny size.", "",
        "| type | parameters | packing | gradient | saved | LoRA | without adapters, problems | balancing | GGUF |",
        "|---|---|---|---|---|---|---|---|---|",
    ]  # fmt: skip
    lines += [f"| {' | '.join(cell.replace('|', '/') for cell in row.cells())} |" for row in rows]
    if missing:
        lines += ["", "| not built | why |", "|---|---|"]
        lines += [f"| {each.model_type} | {each.reason.replace('|', '/')} |" for each in missing]
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("types", nargs="*", help="types of models; by default all that can be built")
    parser.add_argument("--short", action="store_true", help=f"only {', '.join(SHORT)}")
    parser.add_argument("--write", action="store_true", help="write the table to bench/results")
    options = parser.parse_args()
    from transformers.utils import logging

    logging.set_verbosity_error()
    logging.disable_progress_bar()
    warnings.simplefilter("ignore")
    types = options.types or (SHORT if options.short else sorted({*causal_types(), *vision_types()}))
    rows: list[Row] = []
    missing: list[NotBuilt] = []
    for result in measure(types):
        if isinstance(result, Row):
            rows.append(result)
            print(f"{result.seconds:5.1f}s | {' | '.join(result.cells())}", flush=True)
        else:
            missing.append(result)
            print(f"       | {result.model_type} | not built: {result.reason}", flush=True)
    text = report(rows, missing, "".join(f" {name}" for name in [*(["--short"] * options.short), *options.types]))
    print(text)
    if options.write:
        (RESULTS / f"architectures-{today()}.md").write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
