"""The mask matrix: each kind of row with each chat template has the expected outcome, compared with inference."""

from __future__ import annotations

import pytest

from tests.finetune_chat_models import MODELS
from tests.mask_matrix import ROWS, check

# The outcomes by template, in the order of ROWS; ``tests.mask_matrix.Cell`` explains the marks.
PLAIN = "=|=|=|- (tools)|=|!|=|- (tools)|=|="
EXPECTED = {
    **dict.fromkeys(MODELS, PLAIN),
    "Qwen2.5": "=|=|=|=|=|!|=|!|=|=",
    "Qwen3": "=|= 3|=|= 2|=|=|= 2|= 2|= 2|= (rewritten)",
    "Qwen3, enable_thinking=false":
        "=|= 3|=|= 2|- (prompt)|- (prompt)|- (prompt)|- (prompt)|= 2|= (rewritten)",
    "Qwen3.5": "≈|≈ 3|≈|≈ 2|=|=|= 2|= 2|= 2|= (rewritten)",
    "Qwen3.5, enable_thinking=false":
        "=|= 3|=|=|- (prompt)|- (prompt)|- (prompt)|- (prompt)|= 2|= (rewritten)",
    "Nemotron 3": "!|! 3|!|! 2|=|=|= 2|= 2|= 2|=",
    "Nemotron 3, enable_thinking=false": "=|=|=|=|- (prompt)|- (prompt)|- (prompt)|- (prompt)|=|=",
    "Llama 2": "=|=|=|- (template)|=|!|=|- (template)|=|=",
    "Llama 3.1": "=|=|=|=|=|!|=|!|=|=",
    "Llama 3.2": "=|=|=|=|=|!|=|!|=|=",
    "Mistral 7B v0.1": "=|=|- (template)|- (template)|=|!|=|- (template)|=|=",
    "Mistral 7B v0.3": "=|=|=|=|=|!|=|! 2|=|=",
    "Mistral Nemo": "=|=|=|=|=|!|=|! 2|=|=",
    "Mistral Small 3": "=|=|=|- (template)|=|!|=|- (template)|=|=",
    "Magistral": "=|=|=|- (template)|=|=|=|- (template)|=|=",
    "Gemma 2": "=|=|- (template)|- (template)|=|!|=|- (template)|=|=",
    "Gemma 3": "=|=|=|- (template)|=|!|=|- (template)|=|=",
    "SmolLM3": "=|=|=|= (tools)|=|+|=|+ 2 (tools)|=|=",
    "SmolLM3, enable_thinking=false": "=|=|=|= (tools)|- (prompt)|- (prompt)|- (prompt)|- (tools)|=|=",
    "DeepSeek-R1-Distill": "!|! 3|!|- (tools)|+|+|+ 2|- (tools)|= 2|= (rewritten)",
    "DeepSeek-V3.1": "=|=|=|- (tools)|- (prompt)|- (prompt)|- (prompt)|- (tools)|=|= (rewritten)",
    "DeepSeek-V3.1, thinking=true": "!|! 3|!|- (tools)|+|+|+ 2|- (tools)|= 2|= (rewritten)",
    "Granite 3": "=|=|=|=|=|!|=|!|=|=",
    "Command R": "=|=|=|- (template)|=|!|=|- (template)|=|=",
    "Command A": "=|=|=|=|=|=|=|=|=|=",
    "GLM-4.5": "=|=|=|=|=|=|= 2|= 2|=|= (rewritten)",
    "GLM-4.5, enable_thinking=false":
        "=|=|=|=|- (prompt)|- (prompt)|- (prompt)|- (prompt)|=|= (rewritten)",
    "gpt-oss": "=|= 3|=|=|=|=|= 2|+ 2|= 2|=",
}  # fmt: skip


@pytest.mark.parametrize("name", MODELS)
def test_the_mask_matrix_agrees_with_inference(name: str) -> None:
    assert "|".join(str(check(name, row)) for row in ROWS) == EXPECTED[name]
