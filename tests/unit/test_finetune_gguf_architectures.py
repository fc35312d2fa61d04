"""GGUF files of each architecture: llama.cpp computes and continues what transformers does, or the export fails."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from finetune.export.architectures import check_architecture
from finetune.export.gguf import export_gguf
from finetune.model.loading import load, load_config
from finetune.model.saving import save
from selfinstruct.errors import UsageError
from tests.finetune_fixtures import make_tokenizer
from tests.gguf_models import ARCHITECTURES, tiny
from tests.llama import IDS, PROMPTS, Llama, logits

QUICK = ("gemma", "gemma2", "gemma3", "mistral", "olmo2", "phi3", "qwen2", "qwen3")  # the others are in make prove
ENDS = [0, 2]  # tokens at which llama.cpp stops
NOT_READ = ("gemma", "olmo2")  # by transformers


@pytest.fixture(scope="module")
def tokenizer() -> Any:
    return make_tokenizer()


def exported(what: str, folder: Path, tokenizer: Any, **options: Any) -> tuple[Any, Path, list[str]]:
    """Return a random model, its GGUF file, and the notices of the export."""
    model, notices = tiny(what, len(tokenizer), **options), []
    save(model, tokenizer, folder / "model")
    export_gguf(str(folder / "model"), folder / "m.gguf", dtype="f32", notify=notices.append)
    return model, folder / "m.gguf", notices


def tolerance(what: str) -> float:
    """llama.cpp takes the activation of Gemma from a table of 16-bit values."""
    return 0.01 if what.startswith("gemma") else 1e-4


@torch.no_grad()
def continuation(model: Any, ids: list[int], count: int) -> list[int]:
    prompt = torch.tensor([ids])
    new = model.generate(
        prompt, attention_mask=torch.ones_like(prompt), do_sample=False, min_new_tokens=count, max_new_tokens=count,
        pad_token_id=0, suppress_tokens=ENDS,
    )  # fmt: skip
    return new[0, len(ids) :].tolist()


def compare(what: str, folder: Path, tokenizer: Any, count: int) -> int:
    """Compare log-probabilities after texts of several lengths, and greedy continuations of 20 prompts.

    Returns:
        The number of equal continuations. Where two differ, the best two tokens of transformers are a tie.
    """
    model, path, _ = exported(what, folder, tokenizer)
    llama, equal = Llama(path), 0
    for length in (3, len(IDS), 3 * len(IDS)):
        ids = (IDS * 3)[:length]
        expected = logits(model, ids)[-1].log_softmax(-1)
        torch.testing.assert_close(llama.next(ids, len(expected)), expected, atol=tolerance(what), rtol=0)
    for prompt in PROMPTS:
        ids = tokenizer(prompt).input_ids
        expected_ids = continuation(model, ids, count)
        actual = llama.greedy(ids, count, logit_bias=[[token, False] for token in ENDS])
        equal += expected_ids == actual
        for at, (token, other) in enumerate(zip(expected_ids, actual, strict=True)):
            if token != other:
                scores = logits(model, ids + expected_ids[:at])[-1].log_softmax(-1)
                assert scores[token] - scores[other] < tolerance(what), prompt
                break
    if what not in NOT_READ and not what.startswith(("gemma,", "olmo2,", "mistral, llama3")):
        reloaded = load(str(path), dtype=torch.float32).model
        assert torch.equal(logits(reloaded), logits(model))
    return equal


@pytest.mark.parametrize("what", QUICK)
def test_llama_cpp_continues_prompts_as_transformers_does(what, tokenizer, tmp_path) -> None:
    assert compare(what, tmp_path, tokenizer, 4) >= 18


@pytest.mark.prove
@pytest.mark.parametrize("what", ARCHITECTURES)
def test_each_architecture_continues_prompts_identically(what, tokenizer, tmp_path, promise) -> None:
    equal = compare(what, tmp_path, tokenizer, 16)
    promise(f"llama.cpp continues as transformers: {what}", f"{equal} of {len(PROMPTS)} prompts, ties apart")
    assert equal >= 17


def test_the_windows_soft_caps_and_scalings_matter(tokenizer) -> None:
    """Otherwise the tests above would not notice that one is missing."""
    plain = {"rope_type": "default", "rope_theta": 500.0}
    for what, options in {
        "gemma2": {"sliding_window": 4096},
        "gemma3": {"sliding_window": 4096},
        "gemma2, low caps": {"attn_logit_softcapping": 50.0},
        "qwen3, yarn": {"rope_parameters": plain},
        "llama, linear": {"rope_parameters": plain},
        "phi3, partly rotated": {"rope_parameters": {**plain, "rope_theta": 1e4}},
    }.items():
        pair = [tiny(what, len(tokenizer), **changed) for changed in ({}, options)]
        first, second = (logits(model, IDS * 3)[-1].log_softmax(-1) for model in pair)
        assert (first - second).abs().max() > 5 * tolerance(what), what


def test_a_head_next_to_a_configuration_that_says_tied_is_written(tokenizer, tmp_path) -> None:
    """transformers keeps both weights where they differ, and so does the file."""
    model = tiny("qwen3", len(tokenizer), tie_word_embeddings=False)
    save(model, tokenizer, tmp_path / "model")
    config = (tmp_path / "model" / "config.json").read_text()
    assert '"tie_word_embeddings": false' in config
    (tmp_path / "model" / "config.json").write_text(config.replace('_embeddings": false', '_embeddings": true'))
    export_gguf(str(tmp_path / "model"), tmp_path / "m.gguf", dtype="f32")
    expected = logits(model)[-1].log_softmax(-1)
    torch.testing.assert_close(Llama(tmp_path / "m.gguf").next(IDS, len(expected)), expected, atol=1e-4, rtol=0)
    assert torch.equal(logits(load(str(tmp_path / "m.gguf"), dtype=torch.float32).model), logits(model))


def test_a_window_that_llama_cpp_lacks_limits_the_context(tokenizer, tmp_path) -> None:
    model, path, notices = exported("mistral", tmp_path, tokenizer, sliding_window=40)
    (notice,) = notices
    assert "a context of 40 tokens instead of 512" in notice
    assert "no sliding windows" in notice
    llama = Llama(path)
    assert llama.ask("/completion", prompt=IDS[:39], n_predict=8)["tokens_predicted"] <= 2, "no further than the window"
    expected = logits(model, IDS[:38])[-1].log_softmax(-1)
    torch.testing.assert_close(llama.next(IDS[:38], len(expected)), expected, atol=1e-4, rtol=0)


@pytest.mark.parametrize(
    ("what", "options", "message"),
    [
        ("gemma2", {"attn_logit_softcapping": None}, "a Gemma 2 without soft caps"),
        ("gemma2", {"query_pre_attn_scalar": 24}, "query_pre_attn_scalar 24 where llama.cpp computes with 12"),
        ("gemma2", {"tie_word_embeddings": False}, "a weight lm_head.weight, which llama.cpp does not know"),
        ("gemma3", {"final_logit_softcapping": 30.0}, "a Gemma 3 with soft caps"),
        ("gemma3", {"layer_types": ["full_attention"] * 7}, "one full layer of 6"),
        ("gemma3", {"use_bidirectional_attention": True}, "attention in both directions"),
        ("llama", {"hidden_act": "relu"}, "activation 'relu'"),
        ("mistral", {"hidden_act": "gelu"}, "activation 'gelu'"),
        ("olmo2", {"attention_bias": True}, "self_attn.q_proj.bias, which llama.cpp does not know in a olmo2"),
        ("qwen3", {"attention_bias": True}, "bias, which llama.cpp does not know"),
        ("qwen2", {"rope_parameters": {"rope_type": "dynamic", "rope_theta": 1e4, "factor": 2.0}}, "'dynamic'"),
        ("smollm3", {}, "of type 'smollm3' can't be written as GGUF; supported: gemma, gemma2, gemma3_text, llama"),
        ("gpt2", {}, "of type 'gpt2' can't be written as GGUF"),
        ("mixtral", {}, "of type 'mixtral' can't be written as GGUF"),
        ("qwen3_moe", {}, "of type 'qwen3_moe' can't be written as GGUF"),
    ],
)
def test_what_llama_cpp_computes_differently_is_rejected(what, options, message, tokenizer, tmp_path) -> None:
    with pytest.raises(UsageError) as caught:
        exported(what, tmp_path, tokenizer, **options)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "m.gguf").exists()


def test_a_gemma_3_of_27b_has_queries_scaled_by_its_width(tokenizer, tmp_path) -> None:
    shape = {"num_hidden_layers": 62, "hidden_size": 16, "intermediate_size": 16, "head_dim": 12}
    model, path, _ = exported("gemma3", tmp_path, tokenizer, **shape, query_pre_attn_scalar=4)
    expected = logits(model)[-1].log_softmax(-1)
    torch.testing.assert_close(Llama(path).next(IDS, len(expected)), expected, atol=0.05, rtol=0)
    assert load_config(str(path)).query_pre_attn_scalar == 4
    with pytest.raises(UsageError, match=r"query_pre_attn_scalar 12 where llama\.cpp computes with 4"):
        check_architecture(tiny("gemma3", 8, **shape).config, "x")
