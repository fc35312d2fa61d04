"""Options that change the computation: an adapter, and speculative tokens."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from selfinstruct.backends.vllm.backend import VllmBackend, VllmOptions
from selfinstruct.records import PromptMessage, Request, Sampling
from tests.vllm.conftest import SETTINGS

PROMPTS = ("The capital of France is", "1. Name a colour.\n2. Name a colour.\n3. Name a")


def answers(options: VllmOptions) -> list[str]:
    """Return the answers of a new engine at temperature 0."""

    async def go() -> list[str]:
        backend = VllmBackend(options)
        await backend.start()
        try:
            sampling = Sampling(max_tokens=16, temperature=0.0)
            requests = [Request("s", (PromptMessage("prompt", "t", {}, text),), sampling) for text in PROMPTS]
            return [completion.text for completion in await asyncio.gather(*map(backend.complete, requests))]
        finally:
            await backend.close()

    return asyncio.run(go())


@pytest.fixture(scope="module")
def adapted(model: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[str]]:
    """An adapter above vLLM's default rank, and the answers of transformers with it, which it changes."""
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(model)
    torch.manual_seed(0)
    plain = AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32)
    wrapped = get_peft_model(plain, LoraConfig(r=24, lora_alpha=48, target_modules=["q_proj", "v_proj"]))
    with torch.no_grad():
        for name, weight in wrapped.named_parameters():
            if "lora_B" in name:  # zero in a new adapter, which changes nothing
                weight.normal_(std=0.2)
    folder = tmp_path_factory.mktemp("adapter") / "changed"
    wrapped.save_pretrained(folder)

    def says(text: str) -> str:
        tokens = tokenizer(text, return_tensors="pt")
        made = wrapped.generate(**tokens, max_new_tokens=16, do_sample=False)
        return tokenizer.decode(made[0, tokens["input_ids"].shape[1] :], skip_special_tokens=True)

    texts = [says(text) for text in PROMPTS]
    with wrapped.disable_adapter():
        assert all(says(text) != changed for text, changed in zip(PROMPTS, texts, strict=True))
    return folder, texts


def test_an_adapter_is_applied_as_transformers_applies_it(model: Path, adapted: tuple[Path, list[str]]) -> None:
    folder, texts = adapted
    assert answers(VllmOptions(model=str(model), lora=str(folder), **SETTINGS)) == texts


def test_speculative_tokens_change_no_text(model: Path) -> None:
    plain = answers(VllmOptions(model=str(model), **SETTINGS))
    assert answers(VllmOptions(model=str(model), speculative_tokens=3, **SETTINGS)) == plain
    assert "colour" in plain[1], "a text that can be guessed"
