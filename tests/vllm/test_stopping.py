"""vLLM stops a model that was trained here where it learnt to stop, by the files in its folder alone."""

from __future__ import annotations

import asyncio
from pathlib import Path

import torch

from finetune.data.render import Renderer
from finetune.model.loading import load
from finetune.model.saving import save
from finetune.model.stopping import set_stop_tokens
from selfinstruct.backends.vllm.backend import VllmBackend, VllmOptions
from selfinstruct.records import Completion, PromptMessage, Request, Sampling
from tests.vllm.conftest import SETTINGS

END_OF_TEXT, END_OF_TURN = 0, 2  # of the embedded model


def answer(folder: Path) -> Completion:
    """Return the answer to a question that a chat model answers in a sentence."""

    async def ask() -> Completion:
        backend = VllmBackend(VllmOptions(model=str(folder), api="chat", **SETTINGS))
        await backend.start()
        try:
            question = PromptMessage("user", "t", {}, "What is the capital of France? Answer in one sentence.")
            return await backend.complete(Request("s", (question,), Sampling(max_tokens=200, temperature=0.0)))
        finally:
            await backend.close()

    return asyncio.run(ask())


def test_it_stops_at_the_end_of_turn_of_a_base_model(tmp_path: Path) -> None:
    """Without ``set_stop_tokens`` it writes all 200 tokens, as transformers and llama.cpp do in the other tests."""
    loaded = load(None, dtype=torch.float32)
    loaded.tokenizer.eos_token = "<|endoftext|>"  # as base models have it
    loaded.model.config.eos_token_id = loaded.model.generation_config.eos_token_id = END_OF_TEXT
    set_stop_tokens(loaded.model, loaded.tokenizer, Renderer(loaded.tokenizer, "chat", max_length=512))
    assert loaded.model.generation_config.eos_token_id == [END_OF_TURN, END_OF_TEXT]
    save(loaded.model, loaded.tokenizer, tmp_path / "model")
    completion = answer(tmp_path / "model")
    assert "Paris" in completion.text
    assert completion.choices[0].finish_reason == "stop"
    assert completion.usage.completion_tokens < 200
