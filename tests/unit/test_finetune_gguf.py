"""GGUF export: llama.cpp reads the same tokens and computes the same logits as transformers, or the export fails."""

from __future__ import annotations

import asyncio
import json
import resource
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from gguf import GGUFReader
from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import GPTNeoXConfig, GPTNeoXForCausalLM, PreTrainedTokenizerFast

from finetune.export.gguf import DTYPES, export_gguf
from finetune.export.writer import export_model
from finetune.model.adapters import BASE, save_adapters
from finetune.model.loading import load, load_tokenizer
from finetune.model.pretokenizers import APPROXIMATED, pre_tokenizer_by_name, pre_tokenizer_name, pre_tokenizer_names
from finetune.model.saving import save
from finetune.options import Lora
from selfinstruct.backends.llamacpp import LlamaCppBackend, LlamaCppOptions
from selfinstruct.errors import SelfInstructError, UsageError
from selfinstruct.records import PromptMessage, Request, Sampling
from tests.finetune_fixtures import make_model, make_tokenizer
from tests.llama import HARD, IDS, PROMPTS, Llama, logits

LLAMA3 = {
    "rope_type": "llama3", "rope_theta": 500.0, "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
    "original_max_position_embeddings": 64,
}  # fmt: skip
YARN = {"rope_type": "yarn", "rope_theta": 1e4, "factor": 4.0, "original_max_position_embeddings": 128}


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def saved(folder: Path, tokenizer: Any = None, size: int | None = None, **options: Any) -> Path:
    """Save a model with random weights, including biases and norms, as a folder of transformers."""
    tokenizer = tokenizer or make_tokenizer()
    model = make_model(size or len(tokenizer), **{"eos_token_id": tokenizer.eos_token_id, **options})
    torch.manual_seed(3)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim == 1:
                parameter.add_(torch.randn_like(parameter), alpha=0.3)
    save(model, tokenizer, folder)
    return folder


def tokenizer_with(name: str, *, bos: bool = False, eos: bool = False) -> Any:
    """Return a tokenizer with the pre-tokenizer ``name`` of llama.cpp.

    It has merges across all word boundaries, so that every split is visible in the tokens. Its vocabulary contains
    "Ġunreachable", which no merge produces.
    """
    special = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=1000, special_tokens=special, initial_alphabet=alphabet, show_progress=False
    )
    backend.train_from_iterator(HARD, trainer)
    known = pre_tokenizer_by_name(name)
    assert known is not None
    state = json.loads(backend.to_str())
    state["model"]["vocab"]["Ġunreachable"] = len(state["model"]["vocab"])
    state["model"]["ignore_merges"] = known[1]
    backend = Tokenizer.from_str(json.dumps(state))
    backend.pre_tokenizer, backend.decoder = known[0], decoders.ByteLevel()
    template = f"{'<|im_start|> ' * bos}$A{' <|im_end|>' * eos}"
    backend.post_processor = processors.TemplateProcessing(
        single=template, special_tokens=[(token, token_id) for token_id, token in enumerate(special)]
    )
    backend.add_tokens([AddedToken("<tool>", special=False, normalized=False)])
    return PreTrainedTokenizerFast(
        tokenizer_object=backend, bos_token="<|im_start|>", eos_token="<|im_end|>", pad_token="<|endoftext|>"
    )


@pytest.fixture(scope="module")
def embedded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Any, Path]]:
    """The embedded model, and a GGUF file exported from it."""
    folder = tmp_path_factory.mktemp("embedded")
    loaded = load(None, dtype=torch.float32)
    save(loaded.model, loaded.tokenizer, folder / "model")
    export_gguf(str(folder / "model"), folder / "model.gguf", dtype="f32")
    yield loaded, folder / "model.gguf"
    shutil.rmtree(folder)  # a gigabyte, which pytest would keep


@pytest.mark.model
def test_llama_cpp_reads_the_same_tokens(embedded) -> None:
    loaded, path = embedded
    llama, reloaded = Llama(path), load_tokenizer(str(path))
    for text in (*HARD, *PROMPTS):
        ids = loaded.tokenizer(text).input_ids
        assert llama.tokens(text) == ids, text
        assert reloaded(text).input_ids == ids, text
    assert reloaded.chat_template == loaded.tokenizer.chat_template


@pytest.mark.model
def test_llama_cpp_continues_prompts_identically(embedded) -> None:
    """Greedy continuations of 20 prompts by 16 tokens."""
    loaded, path = embedded
    options = LlamaCppOptions(model=str(path), slots=len(PROMPTS), threads=1, cache_prompt=False, context=128)
    backend, sampling = LlamaCppBackend(options), Sampling(max_tokens=16, temperature=0.0)

    async def answers() -> list[str]:
        await backend.start()
        try:
            requests = [Request("s", (PromptMessage("prompt", "t", {}, prompt),), sampling) for prompt in PROMPTS]
            completions = await asyncio.gather(*(backend.complete(request) for request in requests))
            return [completion.choices[0].text for completion in completions]
        finally:
            await backend.close()

    tokenizer = loaded.tokenizer
    inputs = tokenizer(list(PROMPTS), return_tensors="pt", padding=True, padding_side="left")
    new = loaded.model.generate(**inputs, do_sample=False, max_new_tokens=16)[:, inputs.input_ids.shape[1] :]
    assert asyncio.run(answers()) == tokenizer.batch_decode(new, skip_special_tokens=True)


@pytest.mark.parametrize("name", pre_tokenizer_names())
def test_each_pre_tokenizer_agrees_with_llama_cpp(name, tmp_path, monkeypatch) -> None:
    pre_tokenizer, ignore_merges = pre_tokenizer_by_name(name)
    written = pre_tokenizer_name(pre_tokenizer, ignore_merges=ignore_merges)
    assert pre_tokenizer_by_name(written) == (pre_tokenizer, ignore_merges)
    tokenizer = tokenizer_with(name)
    saved(tmp_path / "model", tokenizer)
    monkeypatch.setattr("finetune.export.gguf_tokenizer.pre_tokenizer_name", lambda *_, **__: name)
    export_gguf(str(tmp_path / "model"), tmp_path / "m.gguf", dtype="f32")
    llama, reloaded = Llama(tmp_path / "m.gguf"), load_tokenizer(str(tmp_path / "m.gguf"))
    for text in (*HARD, "an unreachable word", "<tool>1<tool> <tool >"):
        ids = tokenizer(text).input_ids
        assert (llama.tokens(text) == ids) == (name not in APPROXIMATED or "हिन्दी" not in text), text
        assert reloaded(text).input_ids == ids, text
        assert reloaded.decode(ids) == tokenizer.decode(ids)
    assert (tokenizer.vocab["Ġunreachable"] in tokenizer("an unreachable word").input_ids) == ignore_merges


def test_the_pre_tokenizers_differ() -> None:
    """Otherwise the test above would prove nothing."""
    names = ["gpt-2", "smollm", "llama-bpe", "smaug-bpe", "qwen2", "tekken", "gpt-4o"]
    tokenizations = {
        json.dumps([tokenizer_with(name)(text).input_ids for text in (*HARD, " unreachable")]) for name in names
    }
    assert len(tokenizations) == len(names)
    assert {
        pre_tokenizer_name(pre_tokenizer, ignore_merges=ignore_merges)
        for pre_tokenizer, ignore_merges in map(pre_tokenizer_by_name, pre_tokenizer_names())
    } == {*names}


@pytest.mark.parametrize(("bos", "eos"), [(False, False), (True, False), (False, True), (True, True)])
def test_bos_and_eos_agree_with_llama_cpp(bos, eos, tmp_path) -> None:
    """As in Llama 3, where the post-processor puts BOS before each text."""
    tokenizer = tokenizer_with("llama-bpe", bos=bos, eos=eos)
    folder = saved(tmp_path / "model", tokenizer)
    export_gguf(str(folder), tmp_path / "m.gguf")
    ids = Llama(tmp_path / "m.gguf").tokens("Hi 2024")
    assert ids == tokenizer("Hi 2024").input_ids == load_tokenizer(str(folder))("Hi 2024").input_ids
    assert ids == load_tokenizer(str(tmp_path / "m.gguf"))("Hi 2024").input_ids
    assert ((ids[0] == tokenizer.bos_token_id), (ids[-1] == tokenizer.eos_token_id)) == (bos, eos)


MODELS: dict[str, dict[str, Any]] = {
    "tied": {},
    "untied": {"tie_word_embeddings": False},
    "a head for each": {"num_key_value_heads": 4},
    "one head for all": {"num_key_value_heads": 1},
    "wide heads": {"head_dim": 12},
    "another base": {"rope_parameters": {"rope_type": "default", "rope_theta": 500_000.0}, "rms_norm_eps": 0.1},
    "more rows than tokens": {"size": 400},
    "as Llama 3": {"tokenizer": lambda: tokenizer_with("llama-bpe", bos=True), "tie_word_embeddings": False},
    "as Llama 3.1": {"rope_parameters": {**LLAMA3, "original_max_position_embeddings": 8192}},
    "biases": {"attention_bias": True},
    "biases everywhere": {"attention_bias": True, "mlp_bias": True, "num_key_value_heads": 1},
}


def build(folder: Path, options: dict[str, Any]) -> Path:
    tokenizer = options.get("tokenizer", make_tokenizer)()
    return saved(folder, tokenizer, **{key: value for key, value in options.items() if key != "tokenizer"})


@pytest.mark.parametrize("what", MODELS)
def test_a_gguf_file_round_trips(what, tmp_path) -> None:
    folder = build(tmp_path / "model", MODELS[what])
    export_gguf(str(folder), tmp_path / "m.gguf", dtype="f32")
    original, reloaded = (load(str(path), dtype=torch.float32) for path in (folder, tmp_path / "m.gguf"))
    state = reloaded.model.state_dict()
    assert original.model.state_dict().keys() == state.keys()
    for name, tensor in original.model.state_dict().items():
        assert torch.equal(tensor, state[name]), name
    assert torch.equal(logits(original.model), logits(reloaded.model))
    assert original.tokenizer.chat_template == reloaded.tokenizer.chat_template
    for text in HARD:
        assert original.tokenizer(text).input_ids == reloaded.tokenizer(text).input_ids


@pytest.mark.parametrize(
    "options",
    [
        *MODELS.values(),
        {"attention_bias": True, "mlp_bias": True, "num_key_value_heads": 1, "tie_word_embeddings": False},
        {"rope_parameters": LLAMA3},
        {"rope_parameters": LLAMA3, "head_dim": 16, "attention_bias": True},
    ],
)
def test_llama_cpp_computes_the_same_logits(options, tmp_path) -> None:
    folder = build(tmp_path / "model", options)
    export_gguf(str(folder), tmp_path / "m.gguf", dtype="f32")
    expected = logits(load(str(folder), dtype=torch.float32).model, IDS * 3).log_softmax(-1)
    llama = Llama(tmp_path / "m.gguf")
    for count in (3, len(IDS), len(IDS) * 3):
        logprobs = llama.next((IDS * 3)[:count], expected.shape[1])
        torch.testing.assert_close(logprobs, expected[count - 1], atol=1e-4, rtol=1e-4)


def test_unknown_rotary_scaling_is_rejected(tmp_path) -> None:
    export_gguf(str(saved(tmp_path / "scaled", rope_parameters=LLAMA3)), tmp_path / "m.gguf", dtype="f32")
    with pytest.raises(UsageError, match="rotary positions are scaled otherwise than in Llama 3"):
        load(str(tmp_path / "m.gguf"), dtype=torch.float32)


def test_rotary_scaling_changes_the_logits(tmp_path) -> None:
    """Otherwise the tests above would not notice missing scaling."""
    scaled = load(str(saved(tmp_path / "scaled", rope_parameters=LLAMA3)), dtype=torch.float32).model
    plain = {"rope_type": "default", "rope_theta": LLAMA3["rope_theta"]}
    unscaled = load(str(saved(tmp_path / "plain", rope_parameters=plain)), dtype=torch.float32).model
    assert (logits(scaled) - logits(unscaled))[-1].abs().max() > 0.05
    factors = scaled.model.rotary_emb.inv_freq / unscaled.model.rotary_emb.inv_freq
    assert factors[0] == 1, "the fastest frequency is kept"
    assert torch.any((factors < 0.99) & (factors > 0.13)), "one is between"
    assert factors[-1] == 1 / 8


def test_embedding_rows_beyond_the_vocabulary_become_unused_tokens(tmp_path) -> None:
    tokenizer = make_tokenizer()
    tokenizer.add_tokens(["[PAD390]"])
    size = len(tokenizer)
    export_gguf(str(saved(tmp_path / "model", tokenizer, size=400)), tmp_path / "m.gguf")
    fields = GGUFReader(tmp_path / "m.gguf").fields
    kinds = fields["tokenizer.ggml.token_type"].contents()
    tokens = fields["tokenizer.ggml.tokens"].contents()
    assert kinds == [3] * 3 + [1] * (size - 4) + [4] + [5] * (400 - size)
    assert len(set(tokens)) == len(tokens) == 400
    assert tokens[-1] == "[PAD399]"
    assert Llama(tmp_path / "m.gguf").tokens("[PAD399]") == tokenizer("[PAD399]").input_ids


ROUNDED = {"f16": torch.float16, "bf16": torch.bfloat16}


@pytest.mark.parametrize("dtype", DTYPES)
def test_lower_precision_stays_close_to_the_model(dtype, tmp_path) -> None:
    folder = saved(tmp_path / "model", hidden_size=64, intermediate_size=96, tie_word_embeddings=False)
    export_gguf(str(folder), tmp_path / "m.gguf", dtype=dtype)
    reader = GGUFReader(tmp_path / "m.gguf")
    kinds = {tensor.name: tensor.tensor_type.name for tensor in reader.tensors}
    assert {kind for name, kind in kinds.items() if "norm" not in name} == {dtype.upper()}
    assert {kind for name, kind in kinds.items() if "norm" in name} == {"F32"}
    original, reloaded = (load(str(path), dtype=torch.float32).model for path in (folder, tmp_path / "m.gguf"))
    for name, exact in original.state_dict().items():
        stored, blocks = reloaded.state_dict()[name], exact.view(-1, 32)
        if dtype == "q8_0" and exact.ndim == 2:  # 8 bits relative to the block's maximum, which has 11 bits
            error, largest = (stored.view(-1, 32) - blocks).abs(), blocks.abs().amax(1, keepdim=True)
            assert (error <= largest * (0.5 / 127 + 2**-11)).all(), name
        else:
            assert torch.equal(stored, exact.to(ROUNDED.get(dtype) if exact.ndim == 2 else None).float()), name
    expected, actual = (logits(model).log_softmax(-1) for model in (original, reloaded))
    logprobs = Llama(tmp_path / "m.gguf").next(IDS, expected.shape[1])
    tolerance = {"f32": 1e-5, "f16": 0.004, "bf16": 0.03, "q8_0": 0.1}[dtype]
    assert (actual - expected).abs().mean() <= tolerance
    assert (logprobs - expected[-1]).abs().mean() <= 2 * tolerance, "llama.cpp also rounds activations"


def test_a_bf16_model_is_exported_exactly(tmp_path) -> None:
    tokenizer = make_tokenizer()
    save(make_model(len(tokenizer)).bfloat16(), tokenizer, tmp_path / "model")
    export_gguf(str(tmp_path / "model"), tmp_path / "m.gguf", dtype="bf16")
    original, reloaded = (
        load(str(path), dtype=torch.float32).model for path in (tmp_path / "model", tmp_path / "m.gguf")
    )
    for name, tensor in original.state_dict().items():
        assert torch.equal(tensor, reloaded.state_dict()[name]), name


def test_rows_that_do_not_divide_into_blocks_stay_float32(tmp_path) -> None:
    folder = saved(tmp_path / "model", hidden_size=48, intermediate_size=64)
    export_gguf(str(folder), tmp_path / "m.gguf", dtype="q8_0")
    kinds = {tensor.name: tensor.tensor_type.name for tensor in GGUFReader(tmp_path / "m.gguf").tensors}
    assert kinds["blk.0.ffn_down.weight"] == "Q8_0"
    assert kinds["blk.0.attn_q.weight"] == "F32"
    assert not Llama(tmp_path / "m.gguf").next(IDS, 384).isnan().any()


def assert_rejected(folder: Path, tmp_path: Path, message: str, **options: Any) -> None:
    """The export fails with a one-line message that names the model and matches ``message``; nothing is written."""
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(UsageError, match=message) as caught:
        export_gguf(str(folder), tmp_path / "new" / "m.gguf", **options)
    assert str(caught.value).startswith(f"{folder}: ")
    assert "\n" not in str(caught.value)
    assert [path for path in sorted(tmp_path.rglob("*")) if path != tmp_path / "new"] == before


def test_an_unsupported_architecture_is_rejected(tmp_path) -> None:
    tokenizer = make_tokenizer()
    shape = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    save(GPTNeoXForCausalLM(GPTNeoXConfig(vocab_size=len(tokenizer), **shape)), tokenizer, tmp_path / "model")
    supported = "gemma, gemma2, gemma3_text, llama, mistral, olmo2, phi3, qwen2, qwen3"
    assert_rejected(tmp_path / "model", tmp_path, f"'gpt_neox' can't be written as GGUF; supported: {supported}")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"rope_parameters": {"rope_type": "dynamic", "rope_theta": 1e4, "factor": 4.0}}, "of type 'dynamic' can't be"),
        ({"rope_parameters": {**YARN, "attention_factor": 1.5}}, "with attention_factor 1.5 can't be"),
        ({"rope_parameters": {**YARN, "beta_slow": 2.0}}, "with beta_slow 2 can't be"),
        ({"rope_parameters": {**LLAMA3, "partial_rotary_factor": 0.5}}, "heads that are rotated in part"),
        ({"hidden_act": "gelu"}, "the activation 'gelu' where llama.cpp computes with silu"),
    ],
)
def test_a_configuration_that_llama_cpp_computes_differently_is_rejected(options, message, tmp_path) -> None:
    folder = saved(tmp_path / "model")
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | options))
    assert_rejected(folder, tmp_path, message)


def test_quantised_weights_are_rejected(tmp_path) -> None:
    folder = saved(tmp_path / "model")
    config = json.loads((folder / "config.json").read_text())
    quantised = {"quantization_config": {"quant_method": "bitsandbytes", "load_in_4bit": True}}
    (folder / "config.json").write_text(json.dumps(config | quantised))
    assert_rejected(folder, tmp_path, "its weights are quantised")


def with_backend(**parts: Any) -> Any:
    tokenizer = make_tokenizer()
    for name, part in parts.items():
        setattr(tokenizer.backend_tokenizer, name, part)
    return tokenizer


def with_token(**options: Any) -> Any:
    tokenizer = make_tokenizer()
    tokenizer.add_tokens([AddedToken("<mask>", **options)])
    return tokenizer


def without_eos() -> Any:
    tokenizer = make_tokenizer()
    tokenizer.eos_token = None
    return tokenizer


def wordpiece() -> Any:
    backend = Tokenizer(models.WordPiece({"[UNK]": 0, "a": 1, "##b": 2}, unk_token="[UNK]"))
    return PreTrainedTokenizerFast(tokenizer_object=backend, eos_token="[UNK]")


BYTES = pre_tokenizers.ByteLevel
TWO_BOS = processors.TemplateProcessing(single="<|im_start|> <|im_start|> $A", special_tokens=[("<|im_start|>", 1)])


@pytest.mark.parametrize(
    ("tokenizer", "message"),
    [
        (wordpiece, "of type WordPiece; only byte-level BPE and SentencePiece"),
        (lambda: with_backend(normalizer=normalizers.NFKC()), "normalizes text .NFKC."),
        (lambda: with_backend(pre_tokenizer=BYTES(add_prefix_space=True)), "no name of llama.cpp is known"),
        (lambda: with_backend(pre_tokenizer=pre_tokenizers.Metaspace()), "no name of llama.cpp is known"),
        (lambda: with_backend(pre_tokenizer=None), "no name of llama.cpp is known"),
        (lambda: with_backend(post_processor=TWO_BOS), "puts more around a text than BOS and EOS"),
        (lambda: with_token(lstrip=True, special=True), "'<mask>' matches depends on the text around it"),
        (lambda: with_token(rstrip=True), "'<mask>' matches depends on the text around it"),
        (lambda: with_token(single_word=True), "'<mask>' matches depends on the text around it"),
        (without_eos, "set eos_token in its tokenizer_config.json"),
    ],
)
def test_an_unsupported_tokenizer_is_rejected(tokenizer, message, tmp_path) -> None:
    folder = saved(tmp_path / "model", tokenizer(), size=400, eos_token_id=2)
    assert_rejected(folder, tmp_path, message)


def test_a_tokenizer_with_more_tokens_than_the_model_is_rejected(tmp_path) -> None:
    assert_rejected(saved(tmp_path / "model", size=380), tmp_path, "tokens that the model has no embedding for")


def test_weights_beyond_the_range_of_f16_are_rejected(tmp_path) -> None:
    tokenizer = make_tokenizer()
    model = make_model(len(tokenizer))
    with torch.no_grad():
        model.model.layers[1].mlp.up_proj.weight[3, 4] = -70_000
    save(model, tokenizer, tmp_path / "model")
    assert_rejected(tmp_path / "model", tmp_path, "ffn_up.weight has values beyond the range of f16; write it as bf16")
    export_gguf(str(tmp_path / "model"), tmp_path / "m.gguf", dtype="bf16")


def test_an_export_overwrites_nothing(tmp_path) -> None:
    folder = saved(tmp_path / "model")
    (tmp_path / "old").write_text("old")
    (tmp_path / "empty").mkdir()
    for kind in ("gguf", "hf"):
        with pytest.raises(UsageError, match="something here already"):
            export_model(folder, tmp_path / "old", kind)
        with pytest.raises(UsageError, match="something here already"):
            export_model(folder, folder, kind)
    with pytest.raises(UsageError, match=r"a folder; a GGUF model is one file, such as .*model\.gguf"):
        export_model(folder, tmp_path / "empty", "gguf")
    with pytest.raises(UsageError, match="something here already"):
        export_gguf(str(folder), tmp_path / "old")
    (tmp_path / "adapters").mkdir()
    (tmp_path / "adapters" / BASE).write_text("not read")
    with pytest.raises(UsageError, match="something here already"):
        export_model(tmp_path / "adapters", tmp_path / "old", "gguf")
    assert (tmp_path / "old").read_text() == "old"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["adapters", "empty", "model", "old"]
    export_model(folder, tmp_path / "empty", "hf")
    assert (tmp_path / "empty" / "model.safetensors").is_file()


@pytest.mark.parametrize("kind", ["gguf", "hf"])
def test_a_full_disk_is_reported_in_one_line(kind, tmp_path) -> None:
    folder = saved(tmp_path / "model")
    limit = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, limit[1]))
    try:
        with pytest.raises(SelfInstructError, match=r"can't write .*: File too large") as caught:
            export_model(folder, tmp_path / "new" / "out", kind)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limit)
    assert "\n" not in str(caught.value)
    assert not list((tmp_path / "new").iterdir())


def test_an_output_folder_that_can_not_be_created_is_reported(tmp_path) -> None:
    folder = saved(tmp_path / "model")
    adapted(tmp_path / "adapters", folder)
    (tmp_path / "file").write_text("")
    for model in (folder, tmp_path / "adapters"):
        for kind in ("gguf", "hf"):
            with pytest.raises(SelfInstructError, match=r"can't write .*: (Not a directory|File exists)"):
                export_model(model, tmp_path / "file" / "out", kind)


def adapted(folder: Path, base: Path) -> Any:
    """Save adapters with random weights to ``folder``; return the adapted model."""
    loaded = load(str(base), dtype=torch.float32, lora=Lora(rank=4))
    torch.manual_seed(1)
    with torch.no_grad():
        for name, parameter in loaded.model.named_parameters():
            if "lora_B" in name:
                parameter.normal_(std=0.1)
    save_adapters(loaded.model, loaded.tokenizer, folder, loaded.base)
    return loaded.model


@pytest.mark.parametrize("kind", ["gguf", "hf"])
def test_adapters_are_merged_first(kind, tmp_path) -> None:
    base = saved(tmp_path / "base")
    expected = adapted(tmp_path / "adapters", base)
    out = tmp_path / "new" / ("m.gguf" if kind == "gguf" else "m")
    export_model(tmp_path / "adapters", out, kind, dtype="f32")
    assert list((tmp_path / "new").iterdir()) == [out]
    original, merged = (load(str(path), dtype=torch.float32).model for path in (base, out))
    torch.testing.assert_close(logits(merged), logits(expected), rtol=1e-4, atol=1e-4)
    assert (logits(merged) - logits(original)).abs().max() > 0.1


@pytest.mark.parametrize(
    ("kind", "dtype", "message"), [("hf", "q8_0", "a folder's weights can't be q8_0"), ("gguf", "q4", "can't be q4")]
)
def test_an_unknown_dtype_is_rejected(kind, dtype, message, tmp_path) -> None:
    with pytest.raises(UsageError, match=message):
        export_model(tmp_path, tmp_path / "out", kind, dtype=dtype)
