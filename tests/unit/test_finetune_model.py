"""Models in and out: the embedded one, GGUF files, folders; adapters and what becomes of them."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

import pytest
import torch

from finetune.gguf import export_gguf
from finetune.model import load, load_tokenizer, save
from selfinstruct.backends.llamacpp import LlamaCppBackend, LlamaCppOptions
from selfinstruct.errors import UsageError
from selfinstruct.records import Request, Sampling, Turn
from tests.finetune_fixtures import make_model, make_tokenizer

TEXTS = (
    "In 2024, I paid $1,234.50; the 7th of 12 parts  cost 3x100.",
    "x  12\n\n  345   6789\t0 a1b2c3",
    "def f(x):\n    return x ** 2  # Größe, naïve café",
    "日本語のテキスト 123 和中文 😀🚀 ½ ²",
    "don't we'll I'm   spaces   \n\n\n end ",
)
PROMPTS = (
    "The capital of France is", "Once upon a time", "def add(a, b):", "1. Write a story about", "The sky is",
    "Water boils at", "My name is", "The best way to learn is", "In 1969, men", "A recipe for bread:", "Dear Sir,",
    "Question: What is a cat?\nAnswer:", "The sun", "List three colours:", "How do I", "import numpy as np\n",
    "Roses are red,", "The largest planet", "She said that", "2 + 2 =",
)  # fmt: skip


@pytest.fixture(scope="module")
def embedded_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The embedded model as a folder of transformers."""
    folder = tmp_path_factory.mktemp("embedded") / "model"
    loaded = load(None, dtype=torch.float32)
    save(loaded.model, loaded.tokenizer, folder)
    return folder


@pytest.fixture
def tiny(tmp_path: Path) -> Path:
    tokenizer = make_tokenizer()
    save(make_model(len(tokenizer)), tokenizer, tmp_path / "tiny")
    return tmp_path / "tiny"


@pytest.fixture
def llama(embedded_folder: Path, tmp_path: Path) -> LlamaCppBackend:
    """llama.cpp with what we exported."""
    export_gguf(str(embedded_folder), tmp_path / "model.gguf", dtype="f32")
    return LlamaCppBackend(
        LlamaCppOptions(model=str(tmp_path / "model.gguf"), slots=1, cache_prompt=False, context=512)
    )


def test_the_embedded_model_becomes_a_checkpoint_like_any_other(embedded_folder) -> None:
    from transformers import AutoModelForCausalLM

    config = json.loads((embedded_folder / "config.json").read_text())
    assert "quantization_config" not in config
    assert str(embedded_folder) not in json.dumps(config)
    again = AutoModelForCausalLM.from_pretrained(embedded_folder, dtype=torch.float32)
    first = load(None, dtype=torch.float32).model
    assert sum(one.numel() for one in again.parameters()) == 134_515_008
    ids = torch.tensor([[504, 3575, 282, 4649, 314]])
    with torch.no_grad():
        assert torch.equal(again(ids).logits, first(ids).logits)
    tokenizer = load_tokenizer(str(embedded_folder))
    assert tokenizer.chat_template == load_tokenizer(None).chat_template
    assert [tokenizer(text).input_ids for text in TEXTS] == [load_tokenizer(None)(text).input_ids for text in TEXTS]


@pytest.mark.model
def test_an_exported_gguf_reads_and_writes_the_same_tokens(embedded_folder, llama) -> None:
    """llama.cpp's tokens of any text are ours, and its greedy continuations those of transformers."""
    loaded = load(str(embedded_folder), dtype=torch.float32)

    async def all_answers() -> list[str]:
        await llama.start()
        try:
            found = []
            for prompt in PROMPTS:
                sampling = Sampling(max_tokens=16, temperature=0.0)
                request = Request("s", (Turn("prompt", "t", {}, prompt),), sampling)
                found.append((await llama.complete(request)).choices[0].text)
            return found
        finally:
            await llama.close()

    for prompt, answer in zip(PROMPTS, asyncio.run(all_answers()), strict=True):
        ids = loaded.tokenizer(prompt, return_tensors="pt").input_ids
        mask = torch.ones_like(ids)
        new = loaded.model.generate(ids, attention_mask=mask, do_sample=False, max_new_tokens=16)[0, ids.shape[1] :]
        assert answer == loaded.tokenizer.decode(new, skip_special_tokens=True), prompt


def test_a_gguf_of_a_tiny_model_holds_the_same_weights(tiny, tmp_path) -> None:
    export_gguf(str(tiny), tmp_path / "tiny.gguf", dtype="f32")
    one, other = (load(str(path), dtype=torch.float32) for path in (tiny, tmp_path / "tiny.gguf"))
    for name, tensor in one.model.state_dict().items():
        assert torch.equal(tensor, other.model.state_dict()[name]), name
    assert other.tokenizer.chat_template == one.tokenizer.chat_template
    assert [other.tokenizer(text).input_ids for text in TEXTS] == [one.tokenizer(text).input_ids for text in TEXTS]


def test_an_architecture_that_gguf_export_does_not_know_is_refused(tmp_path) -> None:
    from transformers import GPTNeoXConfig, GPTNeoXForCausalLM

    tokenizer = make_tokenizer()
    config = GPTNeoXConfig(
        vocab_size=len(tokenizer), hidden_size=16, intermediate_size=16, num_hidden_layers=1, num_attention_heads=2
    )
    save(GPTNeoXForCausalLM(config), tokenizer, tmp_path / "neox")
    with pytest.raises(UsageError, match="only llama"):
        export_gguf(str(tmp_path / "neox"), tmp_path / "neox.gguf")
    assert not list(tmp_path.glob("*.gguf"))


@pytest.mark.parametrize("name", ["no/such-model", "./nothing", "nothing.gguf"])
def test_a_model_that_is_not_there_is_told_in_a_line(name, monkeypatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(UsageError, match=r"no such file|can't load the model") as caught:
        load(name, dtype=torch.float32)
    assert "\n" not in str(caught.value)
