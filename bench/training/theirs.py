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
    """Return a function that trains until no more turns are requested.

    Raises:
        RuntimeError: With this setting, documents see each other.
    """
    corpus = documents(cell)
    options = dict(cell.options)
    attention, packing = options.pop("attention", "sdpa"), options.pop("packing", False)
    liger = options.pop("liger", False) and importlib.util.find_spec("liger_kernel") is not None
    gpu = cell.device == "cuda"
    model = make(cell, attention)
    rows = _rows(corpus)
    step = cell.batch
    if packing:
        rows = pack_dataset(rows, cell.longest, "bfd")
        options["padding_free"] = True  # packing=True would set it, but the rows are packed already
        step = max(1, round(cell.batch * len(rows) / len(corpus)))  # about as many documents as in the other cells
    micro = min(options.pop("micro", step), step)
    step = max(1, round(step / micro)) * micro
    steps = -(-len(rows) // step)
    # One long epoch on a GPU, so that batches are prefetched; on a CPU, and for a sampler that sorts, a turn is one.
    one_epoch = gpu and "train_sampling_strategy" not in options
    dataset = concatenate_datasets([rows] * cell.turns) if one_epoch else rows
    config = SFTConfig(
        output_dir=tempfile.mkdtemp(), use_cpu=not gpu, bf16=gpu, gradient_checkpointing=False, report_to="none",
        save_strategy="no", disable_tqdm=True, logging_steps=10**6, logging_nan_inf_filter=False,
        dataset_kwargs={"skip_prepare_dataset": True}, max_length=None, num_train_epochs=1 if one_epoch else cell.turns,
        per_device_train_batch_size=micro, gradient_accumulation_steps=step // micro, learning_rate=2e-5,
        lr_scheduler_type="cosine", warmup_steps=0.03, dataloader_num_workers=8 if gpu else 0,
        dataloader_pin_memory=gpu, dataloader_persistent_workers=gpu, use_liger_kernel=liger,
        **{"train_sampling_strategy": "sequential", **options},
    )  # fmt: skip
    trainer = SFTTrainer(
        model=model, args=config, train_dataset=dataset, processing_class=_tokenizer(), peft_config=_lora(cell),
        callbacks=[_TurnCallback(turns, steps, corpus)],
    )  # fmt: skip
    if config.padding_free:
        _check(trainer, rows if not packing else _rows(corpus))
    return trainer.train


class _TurnCallback(TrainerCallback):
    """Ends a turn after each pass over the documents."""

    def __init__(self, turns: Turns, steps: int, corpus: Corpus) -> None:
        self.turns, self.steps, self.tokens = turns, steps, int(corpus.lengths.sum())

    def on_step_end(self, args: Any, state: Any, control: Any, **_kwargs: Any) -> None:  # noqa: ARG002
        if state.global_step % self.steps == 0:
            if torch.cuda.is_available():
                torch.cuda.synchronize()
            self.turns.done(tokens=self.tokens)
            self.turns.wait()


def _rows(corpus: Corpus) -> Dataset:
    documents = [corpus[index] for index in range(len(corpus))]
    return Dataset.from_dict(
        {
            "input_ids": [document.ids.tolist() for document in documents],
            "labels": [np.where(document.supervised, document.ids, -100).tolist() for document in documents],
        }
    )


def _tokenizer() -> PreTrainedTokenizerFast:
    """Return a tokenizer, which SFTTrainer requires although the rows are tokenized already."""
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
    """Check that two packed documents have the same hidden states as separate ones."""

    def hidden(*indices: int) -> torch.Tensor:
        batch = trainer.data_collator([rows[index] for index in indices])
        inputs = {
            name: value.to(trainer.model.device) if hasattr(value, "to") else value for name, value in batch.items()
        }
        del inputs["labels"]
        model = trainer.model.get_base_model() if hasattr(trainer.model, "get_base_model") else trainer.model
        with torch.autocast(trainer.model.device.type, torch.bfloat16, enabled=trainer.args.bf16):
            return model.model(**inputs, use_cache=False).last_hidden_state[0].float()

    trainer.model.eval()
    packed, separate = hidden(0, 1), torch.cat([hidden(0), hidden(1)])
    deviation = float((packed - separate).abs().max() / separate.abs().max())
    if deviation > (0.1 if trainer.args.bf16 else 1e-3):
        raise RuntimeError(f"documents see each other: hidden states differ by {deviation:.1%}")
