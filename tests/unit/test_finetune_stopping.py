"""A trained model stops where it learnt to, in transformers and llama.cpp, and an error in saving it loses nothing."""

from __future__ import annotations

import errno
import json
import os
import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, GenerationConfig

from finetune.chat import run_chat
from finetune.data.render import Renderer
from finetune.export.gguf import export_gguf
from finetune.export.merge import merge_adapters
from finetune.export.writer import export_model
from finetune.model.loading import load, load_config, load_model
from finetune.model.saving import check_saveable, require_space, save, saveable_generation_config
from finetune.model.stopping import set_stop_tokens, stop_tokens
from finetune.options import Lora, TrainingOptions
from finetune.session import preview, train
from selfinstruct.errors import SelfInstructError, UsageError
from tests.finetune_fixtures import make_model, make_tokenizer
from tests.llama import Llama

# No names that llama.cpp would recognise by itself.
SPECIAL = ("<text-end>", "<turn>", "<turn-end>")
TEMPLATE = (
    "{% for message in messages %}{{ '<turn>' + message['role'] + '\n' + message['content'] + '<turn-end>\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<turn>assistant\n' }}{% endif %}"
)
WITH_EOS = TEMPLATE.replace("'<turn-end>\n' }}", "'<turn-end>' }}{% if loop.last %}{{ eos_token }}{% endif %}")
QUESTION, ANSWER = "What is the capital of France?", "The capital of France is Paris."
OPTIONS = TrainingOptions(
    format="chat", epochs=60, batch_size=2, learning_rate=1e-2, schedule="constant", warmup=0.0, checkpoint_every=0
)


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Any:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def base(folder: Path, template: str = TEMPLATE, **generation: Any) -> Path:
    """Save a base model whose end of text is not the end of turn of its template."""
    tokenizer = make_tokenizer(SPECIAL, template, eos_token="<text-end>", pad_token="<text-end>")
    model = make_model(len(tokenizer), eos_token_id=0)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    path = folder / "generation_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **generation}))
    return folder


def rows(folder: Path) -> str:
    messages = [{"role": "user", "content": QUESTION}, {"role": "assistant", "content": ANSWER}]
    (folder / "rows.jsonl").write_text(f"{json.dumps({'messages': messages})}\n" * 2)
    return str(folder / "rows.jsonl")


def trained(folder: Path, *, template: str = TEMPLATE, lora: Lora | None = None, **generation: Any) -> Path:
    options = TrainingOptions(**{**vars(OPTIONS), "lora": lora}) if lora else OPTIONS
    train(str(base(folder / "base", template, **generation)), rows(folder), folder / "out", options)
    return folder / "out"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return trained(tmp_path_factory.mktemp("run"))


@pytest.fixture(scope="module")
def adapters(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return trained(tmp_path_factory.mktemp("adapted"), lora=Lora(rank=16, alpha=64.0))


def generated(folder: Path) -> tuple[str, int]:
    """Return the answer of ``generate`` with the settings in the folder, and its number of tokens."""
    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = AutoModelForCausalLM.from_pretrained(folder)
    question = [{"role": "user", "content": QUESTION}]
    prompt = tokenizer.apply_chat_template(question, add_generation_prompt=True, return_tensors="pt", return_dict=True)
    new = model.generate(**prompt, max_new_tokens=40)[0, prompt["input_ids"].shape[1] :]
    return tokenizer.decode(new), len(new)


def assert_stops(folder: Path, tmp_path: Path) -> None:
    text, count = generated(folder)
    assert text == f"{ANSWER}<turn-end>"
    assert count < 40
    export_gguf(str(folder), tmp_path / "m.gguf", dtype="f32")
    llama = Llama(tmp_path / "m.gguf")
    question = [{"role": "user", "content": QUESTION}]
    answer = llama.ask("/v1/chat/completions", messages=question, max_tokens=40, temperature=0)
    assert answer["choices"][0]["message"]["content"] == ANSWER
    assert answer["choices"][0]["finish_reason"] == "stop"


def test_a_trained_model_stops_in_transformers_and_llama_cpp(folder, tmp_path) -> None:
    assert_stops(folder, tmp_path)
    assert json.loads((folder / "generation_config.json").read_text())["eos_token_id"] == [2, 0]
    assert load_config(str(folder)).eos_token_id == [2, 0]
    assert AutoTokenizer.from_pretrained(folder).eos_token == "<turn-end>"


def test_a_gguf_file_keeps_both_ends(folder, tmp_path) -> None:
    export_gguf(str(folder), tmp_path / "m.gguf")
    reloaded = load(str(tmp_path / "m.gguf"), dtype=torch.float32)
    assert stop_tokens(reloaded.model) == [2, 0]
    assert reloaded.tokenizer.eos_token == "<turn-end>"


def test_merged_adapters_stop(adapters, tmp_path) -> None:
    merge_adapters(adapters, tmp_path / "merged")
    assert_stops(tmp_path / "merged", tmp_path)
    export_model(adapters, tmp_path / "exported")
    assert generated(tmp_path / "exported") == generated(tmp_path / "merged")
    assert stop_tokens(load_model(adapters).model) == [2, 0]


def test_a_short_limit_of_the_documents_hides_no_end(tmp_path) -> None:
    """The token that a response ends with is found in a conversation that is not cut."""
    tokenizer = AutoTokenizer.from_pretrained(base(tmp_path))
    model = make_model(len(tokenizer), eos_token_id=[5, 6, 7])
    set_stop_tokens(model, tokenizer, Renderer(tokenizer, "chat", max_length=4))
    assert tokenizer.eos_token == "<turn-end>"
    assert stop_tokens(model) == [2, 0, 5, 6, 7]
    save(model, tokenizer, tmp_path / "model")
    notices: list[str] = []
    export_gguf(str(tmp_path / "model"), tmp_path / "m.gguf", notify=notices.append)
    names = ", ".join(repr(tokenizer.convert_ids_to_tokens(token_id)) for token_id in (6, 7))
    assert notices == [f"a GGUF file names at most three tokens that end an answer: left out {names}"]


def test_an_eos_that_the_template_writes_is_kept(tmp_path) -> None:
    """The template would write something else with another eos; the generation configuration has both."""
    out = trained(tmp_path, template=WITH_EOS)
    tokenizer = AutoTokenizer.from_pretrained(out)
    assert tokenizer.eos_token == "<text-end>"
    conversation = [{"role": "user", "content": "q"}]
    assert tokenizer.apply_chat_template(conversation, tokenize=False).endswith("q<turn-end><text-end>")
    assert_stops(out, tmp_path)


def test_the_opening_of_the_next_turn_stops_a_model_whose_template_writes_no_end(tmp_path) -> None:
    without_end = TEMPLATE.replace("<turn-end>\n", "")
    loaded = load(str(base(tmp_path / "base", without_end)), dtype=torch.float32)
    set_stop_tokens(loaded.model, loaded.tokenizer, Renderer(loaded.tokenizer, "chat", max_length=64))
    save(loaded.model, loaded.tokenizer, tmp_path / "saved")
    generation = json.loads((tmp_path / "saved" / "generation_config.json").read_text())
    names = loaded.tokenizer.convert_ids_to_tokens(generation["eos_token_id"])
    assert names == ["<turn>", "<text-end>"]
    assert AutoTokenizer.from_pretrained(tmp_path / "saved").eos_token == "<turn>"


def test_chat_stops_at_the_end_of_text_too(folder, tmp_path, monkeypatch) -> None:
    seen: list[Any] = []
    monkeypatch.setattr("finetune.chat._Conversation.answer", lambda self, _message: seen.append(self.stops))
    run_chat(str(folder), prompt=QUESTION)
    assert seen == [{0, 2}]


REFUSED: dict[str, dict[str, Any]] = {
    "a temperature": {"temperature": 0.6},
    "a nucleus": {"do_sample": False, "top_p": 0.9, "top_k": 20, "min_p": 0.1, "typical_p": 0.3},
    "a beam search without beams": {"early_stopping": True, "length_penalty": 2.0},
    "a negative pad": {"pad_token_id": -1},
    "several answers": {"num_return_sequences": 4},
    "scores without a dictionary": {"output_scores": True},
    "no cache": {"use_cache": False, "cache_implementation": "static"},
    "cutoffs": {"epsilon_cutoff": 3e-4, "eta_cutoff": 3e-4},
    "everything": {"temperature": 0.6, "early_stopping": True, "pad_token_id": -1, "num_return_sequences": 2},
}


@pytest.mark.parametrize("what", REFUSED)
def test_a_generation_configuration_that_transformers_refuses_is_mended(what, tmp_path) -> None:
    tokenizer = make_tokenizer()
    model = make_model(len(tokenizer))
    model.generation_config = GenerationConfig(eos_token_id=2, max_length=77)
    for name, value in REFUSED[what].items():
        setattr(model.generation_config, name, value)
    with pytest.raises(ValueError, match=r".+"):
        model.generation_config.validate(strict=True)
    refused = check_saveable(model, tokenizer)
    assert refused
    assert set(refused) <= REFUSED[what].keys()
    save(model, tokenizer, tmp_path / "m")
    reloaded = GenerationConfig.from_pretrained(tmp_path / "m")
    assert not reloaded.do_sample, "greedy stays greedy"
    assert (reloaded.eos_token_id, reloaded.max_length) == (2, 77), "what is valid stays"


def test_a_valid_generation_configuration_is_kept() -> None:
    for values in ({"do_sample": True, "temperature": 0.6, "top_p": 0.9}, {"num_beams": 4, "early_stopping": True}, {}):
        generation = GenerationConfig(eos_token_id=2, **values)
        assert saveable_generation_config(generation) == (generation, [])


def test_the_result_of_training_has_the_mended_configuration(tmp_path) -> None:
    notices: list[str] = []
    model = base(tmp_path / "base", temperature=0.6, early_stopping=True, pad_token_id=-1)
    options = TrainingOptions(format="chat", max_steps=1, epochs=1)
    train(str(model), rows(tmp_path), tmp_path / "out", options, notify=notices.append)
    (notice,) = (line for line in notices if line.startswith("the result lacks generation settings"))
    assert all(name in notice for name in ("temperature", "early_stopping", "pad_token_id"))
    generation = GenerationConfig.from_pretrained(tmp_path / "out")
    assert not generation.do_sample
    assert generation.temperature in (None, 1.0)


def test_quantised_weights_are_rejected_before_the_first_step(tmp_path) -> None:
    pytest.importorskip("bitsandbytes")
    from transformers import BitsAndBytesConfig

    folder = base(tmp_path / "base")
    quantised = AutoModelForCausalLM.from_pretrained(folder, quantization_config=BitsAndBytesConfig(load_in_4bit=True))
    quantised.save_pretrained(tmp_path / "nf4")
    AutoTokenizer.from_pretrained(folder).save_pretrained(tmp_path / "nf4")
    options = TrainingOptions(format="chat", max_steps=1, epochs=1)
    with pytest.raises(UsageError, match=r"weights are quantised \(bitsandbytes\).*--recipe lora"):
        train(str(tmp_path / "nf4"), rows(tmp_path), tmp_path / "out", options)
    layers = load(str(tmp_path / "nf4"), dtype=torch.float32).model.modules()
    assert not any(getattr(layer, "support_avx512bf16_for_cpu", False) for layer in layers), "it would be repacked"
    with pytest.raises(UsageError, match="weights are quantised"):
        preview(str(tmp_path / "nf4"), rows(tmp_path), options)
    assert not (tmp_path / "out" / "metrics.jsonl").exists()
    adapted = TrainingOptions(format="chat", max_steps=1, epochs=1, lora=Lora(rank=2))
    assert train(str(tmp_path / "nf4"), rows(tmp_path), tmp_path / "adapters", adapted).complete
    merge_adapters(tmp_path / "adapters", tmp_path / "merged", dtype=torch.float32)
    merged = load(str(tmp_path / "merged"), dtype=torch.float32).model
    assert getattr(merged.config, "quantization_config", None) is None


def test_a_configuration_that_can_not_be_written_is_rejected(tmp_path) -> None:
    model = make_model(384)
    model.config.extra = object()
    with pytest.raises(UsageError, match=r"the trained model could not be saved: .*JSON serializable"):
        check_saveable(model)


def test_a_disk_that_is_too_small_is_rejected(tmp_path, monkeypatch) -> None:
    require_space(tmp_path, 1)
    monkeypatch.setattr(shutil, "disk_usage", lambda _folder: SimpleNamespace(free=10_000))
    with pytest.raises(UsageError, match=r"takes 0.0 GB, and the disk has 0.0 GB free"):
        train(str(base(tmp_path / "base")), rows(tmp_path), tmp_path / "out", OPTIONS)


@pytest.mark.parametrize("lora", [None, Lora(rank=4)])
def test_a_model_that_could_not_be_saved_is_saved_by_the_same_command(lora, tmp_path, monkeypatch) -> None:
    model, data = str(base(tmp_path / "base")), rows(tmp_path)
    options = TrainingOptions(format="chat", epochs=3, batch_size=1, checkpoint_every=0, lora=lora)
    train(model, data, tmp_path / "whole", options)
    replace = os.replace

    def full(source: Any, target: Any) -> None:
        if Path(target).name.endswith(".safetensors") and Path(target).parent == tmp_path / "out":
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        replace(source, target)

    monkeypatch.setattr(os, "replace", full)
    with pytest.raises(SelfInstructError, match=r"training is complete, .* not be saved: .*No space left") as caught:
        train(model, data, tmp_path / "out", options)
    assert "the same command again" in str(caught.value)
    assert "\n" not in str(caught.value)
    monkeypatch.setattr(os, "replace", replace)
    notices: list[str] = []
    result = train(model, data, tmp_path / "out", options, notify=notices.append)
    assert result.complete
    assert f"resuming after step {result.steps} of {result.steps}" in notices
    name = "model.safetensors" if lora is None else "adapter_model.safetensors"
    assert (tmp_path / "out" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()
    steps = [json.loads(line)["step"] for line in (tmp_path / "out" / "metrics.jsonl").read_text().splitlines()]
    assert steps == list(range(1, result.steps + 1)), "no step was made twice"
    assert not (tmp_path / "out" / "checkpoints").exists()
