"""TRL's SFTTrainer as a worker, on the same documents."""

from __future__ import annotations

import importlib.util
import tempfile
from typing import Any

import numpy as np
import torch
from datasets import Dataset, concatenate_datasets
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from training.shapes import Cell, documents, make
from training.turns import Turns
from transformers import PreTrainedTokenizerFast, TrainerCallback
from trl import SFTConfig, SFTTrainer, pack_dataset

from finetune.data.corpus import Corpus

__all__ = ["prepare"]


def prepare(cell: Cell, turns: Turns) -> Any:
    """A function that trains until no more turns are wanted.

    Raises:
        RuntimeError: In this setting documents see each other.
    """
    corpus = documents(cell)
    options = dict(cell.options)
    attention, packing = options.pop("attention", "sdpa"), options.pop("packing", False)
    liger = options.pop("liger", False) and importlib.util.find_spec("liger_kernel") is not None
    gpu = cell.device == "cuda"
    model = make(cell, attention)
    rows = _rows(corpus)
    if packing:
        rows = pack_dataset(rows, 512, "bfd")
        options["padding_free"] = True  # what packing=True sets; the rows are packed here already
    micro = options.pop("micro", cell.batch)
    step = options.pop("step", cell.batch)
    steps = -(-len(rows) // step)
    # One long epoch on a GPU, so that its batches are made ahead; on a CPU an epoch is a turn, whatever the sampler.
    longer = concatenate_datasets([rows] * cell.turns) if gpu else rows
    config = SFTConfig(
        output_dir=tempfile.mkdtemp(), use_cpu=not gpu, bf16=gpu, gradient_checkpointing=False, report_to="none",
        save_strategy="no", disable_tqdm=True, logging_steps=10**6, logging_nan_inf_filter=False,
        dataset_kwargs={"skip_prepare_dataset": True}, max_length=None, num_train_epochs=1 if gpu else cell.turns,
        per_device_train_batch_size=micro, gradient_accumulation_steps=step // micro, learning_rate=2e-5,
        lr_scheduler_type="cosine", warmup_steps=0.03, dataloader_num_workers=2 if gpu else 0,
        dataloader_pin_memory=gpu, use_liger_kernel=liger, **{"train_sampling_strategy": "sequential", **options},
    )  # fmt: skip
    trainer = SFTTrainer(
        model=model, args=config, train_dataset=longer, processing_class=_tokenizer(), peft_config=_lora(cell),
        callbacks=[_Turning(turns, steps, corpus)],
    )  # fmt: skip
    if config.padding_free:
        _check(trainer, rows if not packing else _rows(corpus))
    return trainer.train


class _Turning(TrainerCallback):
    def __init__(self, turns: Turns, steps: int, corpus: Corpus) -> None:
        self.turns, self.steps, self.tokens = turns, steps, int(corpus.lengths.sum())

    def on_step_end(self, args: Any, state: Any, control: Any, **_more: Any) -> None:  # noqa: ARG002
        if state.global_step % self.steps == 0:
            if torch.cuda.is_available():
                torch.cuda.synchronize()
            self.turns.done(tokens=self.tokens)
            self.turns.wait()


def _rows(corpus: Corpus) -> Dataset:
    found = [corpus[index] for index in range(len(corpus))]
    return Dataset.from_dict(
        {
            "input_ids": [one.ids.tolist() for one in found],
            "labels": [np.where(one.supervised, one.ids, -100).tolist() for one in found],
        }
    )


def _tokenizer() -> PreTrainedTokenizerFast:
    """SFTTrainer asks for one; the rows are tokens already."""
    words = WordLevel({"<pad>": 0, "<s>": 1, "</s>": 2}, unk_token="<pad>")
    return PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer(words), pad_token="<pad>", bos_token="<s>", eos_token="</s>"
    )


def _lora(cell: Cell) -> Any:
    if not cell.shape.lora:
        return None
    from peft import LoraConfig

    return LoraConfig(r=16, lora_alpha=32, target_modules="all-linear", task_type="CAUSAL_LM")


@torch.no_grad()
def _check(trainer: SFTTrainer, rows: Dataset) -> None:
    """Two documents side by side must have the hidden states that each has alone."""

    def hidden(*some: int) -> torch.Tensor:
        batch = trainer.data_collator([rows[index] for index in some])
        inputs = {
            name: value.to(trainer.model.device) if hasattr(value, "to") else value for name, value in batch.items()
        }
        del inputs["labels"]
        model = trainer.model.get_base_model() if hasattr(trainer.model, "get_base_model") else trainer.model
        with torch.autocast(trainer.model.device.type, torch.bfloat16, enabled=trainer.args.bf16):
            return model.model(**inputs, use_cache=False).last_hidden_state[0].float()

    trainer.model.eval()
    together, alone = hidden(0, 1), torch.cat([hidden(0), hidden(1)])
    off = float((together - alone).abs().max() / alone.abs().max())
    if off > (0.1 if trainer.args.bf16 else 1e-3):
        raise RuntimeError(f"documents see each other: hidden states differ by {off:.1%}")
