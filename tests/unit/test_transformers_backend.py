"""The transformers backend with tiny models: batches, seeds, stops, adapters, refusals, cancellation."""

from __future__ import annotations

import asyncio
import json
import shutil
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from bench.tiny_models import make_config
from bench.tiny_models import make_model as make_any_model
from selfinstruct.backends.transformers.backend import TransformersBackend, TransformersOptions
from selfinstruct.backends.transformers.engine import Engine, Job
from selfinstruct.backends.transformers.loading import Loaded
from selfinstruct.backends.transformers.text import Sequence
from selfinstruct.errors import BackendError, ConfigError, RequestError
from selfinstruct.records import Completion, PromptMessage, Request, Sampling
from tests import finetune_fixtures

tiny_tokenizer, tiny_model_folder = finetune_fixtures.tiny_tokenizer, finetune_fixtures.tiny_model_folder
Ask = Callable[..., list[Completion]]

PROMPTS = [f"{'The quick brown fox. ' * (number % 7)}{number} + {number} =" for number in range(20)]


def raw(text: str, **sampling: Any) -> Request:
    values = {"max_tokens": 16, "temperature": 0.0, **sampling}
    return Request("s", (PromptMessage("prompt", "t", {}, text),), Sampling(**values))


def chat(*texts: str, **sampling: Any) -> Request:
    roles = ("system", "user") if len(texts) == 2 else ("user",)
    turns = tuple(PromptMessage(role, "t", {}, text) for role, text in zip(roles, texts, strict=True))
    return Request("s", turns, Sampling(**{"max_tokens": 16, "temperature": 0.0, **sampling}))


@pytest.fixture(scope="module")
def runner() -> Iterator[asyncio.Runner]:
    with asyncio.Runner() as runner:
        yield runner


@pytest.fixture(scope="module")
def backend(runner: asyncio.Runner, tiny_model_folder: Path) -> Iterator[TransformersBackend]:
    backend = TransformersBackend(TransformersOptions(model=str(tiny_model_folder)))
    runner.run(backend.start())
    yield backend
    runner.run(backend.close())


@pytest.fixture(scope="module")
def ask(runner: asyncio.Runner, backend: TransformersBackend) -> Ask:
    """A function that sends all given requests at once."""
    return lambda *requests: runner.run(gather(backend, *requests))


async def gather(backend: TransformersBackend, *requests: Request) -> list[Completion]:
    return list(await asyncio.gather(*(backend.complete(request) for request in requests)))


def answers(options: TransformersOptions, *requests: Request) -> list[Completion]:
    async def go() -> list[Completion]:
        backend = TransformersBackend(options)
        await backend.start()
        try:
            return await gather(backend, *requests)
        finally:
            await backend.close()

    return asyncio.run(go())


def generated(model: Any, ids: list[int], count: int, stop: int | None = None) -> list[int]:
    """Return the greedy tokens of transformers' own loop."""
    made = model.generate(
        torch.tensor([ids]), attention_mask=torch.ones(1, len(ids), dtype=torch.int64), max_new_tokens=count,
        do_sample=False, pad_token_id=0, eos_token_id=stop,
    )  # fmt: skip
    return made[0, len(ids) :].tolist()


# What is generated


def test_greedy_texts_are_those_of_generate(ask: Ask, backend: TransformersBackend) -> None:
    tokenizer, model = backend._loaded.tokenizer, backend._loaded.model
    completions = ask(*(raw(prompt, max_tokens=8 + number) for number, prompt in enumerate(PROMPTS)))
    for number, (prompt, completion) in enumerate(zip(PROMPTS, completions, strict=True)):
        ids = tokenizer(prompt).input_ids
        expected = generated(model, ids, 8 + number, stop=2)
        assert completion.text == tokenizer.decode(expected, skip_special_tokens=True)
        assert completion.usage.prompt_tokens == len(ids)
        assert completion.usage.completion_tokens == len(expected)
        assert completion.choices[0].finish_reason == ("stop" if expected[-1] == 2 else "length")
        assert completion.model == "model", "a name without a path"


def test_a_completion_depends_on_its_request_and_not_on_its_neighbours(ask: Ask) -> None:
    """This holds in float32; see docs/backends.md."""
    kinds: list[dict[str, Any]] = [{"temperature": 0.9, "top_p": 0.8}, {"temperature": 1.3, "n": 2}, {"n": 1}]
    requests = [
        raw(prompt, seed=number, max_tokens=5 + 3 * number, presence_penalty=0.3, **kinds[number % 3])
        for number, prompt in enumerate(PROMPTS)
    ]
    together = ask(*requests)
    assert together == ask(*reversed(requests))[::-1]
    assert together == [ask(request)[0] for request in requests]
    assert ask(raw(PROMPTS[0], seed=99, temperature=0.9, max_tokens=30)) != ask(
        raw(PROMPTS[0], seed=98, temperature=0.9, max_tokens=30)
    )
    several = ask(raw("A", n=3, seed=1, temperature=1.5, max_tokens=20))[0]
    assert len({choice.text for choice in several.choices}) == 3
    assert several.usage.prompt_tokens == 1, "a prompt is counted once for all its choices"
    assert several.usage.completion_tokens == 60


def test_a_small_limit_of_batch_tokens_changes_no_text(ask: Ask, tiny_model_folder: Path) -> None:
    requests = [raw(prompt, max_tokens=40 - number) for number, prompt in enumerate(PROMPTS)]
    small = TransformersOptions(model=str(tiny_model_folder), max_batch_tokens=150)
    assert answers(small, *requests) == ask(*requests)


@pytest.mark.parametrize("kind", ["gemma3_text", "gpt2", "bloom", "mamba"])
def test_models_with_windows_and_with_other_state_than_attention(kind: str) -> None:
    """Sliding windows, learned positions, positions from the mask, and recurrent states, whose rows have no padding."""
    model = make_any_model(make_config(kind))
    prompts = [[11, 12, 13], [21, 22, 23], list(range(31, 61)), [41, 42, 43, 44, 45], [51, 52, 53]]
    counts = [20, 12, 20, 16, 18]  # rows leave at different times
    engine = Engine(Loaded(model, None, torch.device("cpu"), None, frozenset()), 4096)
    jobs = [
        Job([Sequence(ids, Sampling(max_tokens=count, temperature=0.0), 0, None, frozenset())])
        for ids, count in zip(prompts, counts, strict=True)
    ]
    for job in jobs:
        engine.submit(job)
    results = [job.done.result(60)[0].tokens for job in jobs]
    engine.close()
    assert results == [generated(model, ids, count) for ids, count in zip(prompts, counts, strict=True)]


def test_it_chats_in_the_models_own_template(ask: Ask, backend: TransformersBackend) -> None:
    messages = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Say hello."}]
    text = backend._loaded.tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
    (answer,) = ask(chat("Be brief.", "Say hello."))
    assert answer == ask(raw(text))[0]
    assert answer.usage.prompt_tokens > 20


def test_a_stop_string_ends_a_completion_early(ask: Ask) -> None:
    (whole,) = ask(raw(PROMPTS[3], max_tokens=30))
    stop = whole.text[10:13]
    (cut,) = ask(raw(PROMPTS[3], max_tokens=30, stop=(stop,)))
    assert cut.text == whole.text.partition(stop)[0]
    assert cut.choices[0].finish_reason == "stop"
    assert cut.usage.completion_tokens < whole.usage.completion_tokens


# Where models stop


def changed(folder: Path, target: Path, **files: Any) -> Path:
    """Copy a model's folder and change fields of its JSON files, given by their names without a suffix."""
    shutil.copytree(folder, target)
    for name, fields in files.items():
        path = target / f"{name}.json"
        path.write_text(json.dumps({**json.loads(path.read_text()), **fields}))
    return target


def test_it_stops_at_every_token_of_the_generation_configuration(
    ask: Ask, backend: TransformersBackend, tiny_model_folder: Path, tmp_path: Path
) -> None:
    tokenizer, model = backend._loaded.tokenizer, backend._loaded.model
    tokens = generated(model, tokenizer(PROMPTS[3]).input_ids, 12)
    stop = tokens[6]
    folder = changed(tiny_model_folder, tmp_path / "stops", generation_config={"eos_token_id": [300, stop]})
    (completion,) = answers(TransformersOptions(model=str(folder)), raw(PROMPTS[3]))
    before = tokens[: tokens.index(stop)]
    assert completion.text == tokenizer.decode(before)
    assert completion.choices[0].finish_reason == "stop"
    assert completion.usage.completion_tokens == len(before) + 1


def test_it_stops_at_the_end_of_turn_of_the_chat_template(tiny_model_folder: Path, tmp_path: Path) -> None:
    folder = changed(
        tiny_model_folder, tmp_path / "turn", config={"eos_token_id": 0}, generation_config={"eos_token_id": 0},
        tokenizer_config={"eos_token": "<|endoftext|>"},
    )  # fmt: skip

    async def go() -> frozenset[int]:
        backend = TransformersBackend(TransformersOptions(model=str(folder)))
        await backend.start()
        await backend.close()
        return backend._stop_ids

    assert asyncio.run(go()) == {0, 2}


# Adapters


@pytest.fixture(scope="module")
def adapted(tiny_model_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[str]]:
    """A folder of adapters, and the greedy answers of peft with them."""
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(tiny_model_folder)
    torch.manual_seed(0)
    plain = AutoModelForCausalLM.from_pretrained(tiny_model_folder, dtype=torch.float32)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of peft about transformers
        wrapped = get_peft_model(plain, LoraConfig(r=4, lora_alpha=8, target_modules=["q_proj", "down_proj"]))
    with torch.no_grad():
        for name, weight in wrapped.named_parameters():
            if "lora_B" in name:  # zero in a new adapter, which changes nothing
                weight.normal_(std=0.3)
    folder = tmp_path_factory.mktemp("adapters") / "changed"
    wrapped.save_pretrained(folder)
    texts = [tokenizer.decode(generated(wrapped, tokenizer(text).input_ids, 16)) for text in PROMPTS[:4]]
    return folder, texts


def test_adapters_are_applied_to_the_model_that_their_folder_names(adapted: tuple[Path, list[str]], ask: Ask) -> None:
    folder, texts = adapted
    requests = [raw(prompt) for prompt in PROMPTS[:4]]
    completions = answers(TransformersOptions(model=str(folder)), *requests)
    assert [completion.text for completion in completions] == texts
    assert texts != [completion.text for completion in ask(*requests)]
    assert completions[0].model == "changed"


def test_adapters_on_other_weights_than_they_were_trained_on_are_refused(
    adapted: tuple[Path, list[str]], tmp_path: Path
) -> None:
    folder = tmp_path / "changed"
    shutil.copytree(adapted[0], folder)
    (folder / "base.json").write_text(json.dumps({"name": "x", "digest": "0" * 64, "held": "full"}))
    with pytest.raises(ConfigError, match=r"does not have the weights that .* --set transformers\.base=FOLDER"):
        answers(TransformersOptions(model=str(folder)))


def test_adapters_that_fit_no_layer_of_the_model_are_refused(
    adapted: tuple[Path, list[str]], tiny_model_folder: Path, tmp_path: Path
) -> None:
    from safetensors.torch import load_file, save_file

    folder = tmp_path / "changed"
    shutil.copytree(adapted[0], folder)
    file = folder / "adapter_model.safetensors"
    save_file({name.replace("q_proj", "x_proj"): weight for name, weight in load_file(file).items()}, file)
    with pytest.raises(ConfigError, match="its adapters do not fit"):
        answers(TransformersOptions(model=str(folder)))


# Refusals


@pytest.mark.parametrize(
    ("request_", "says"),
    [
        (raw("x " * 100, max_tokens=500), r"\d+ tokens of prompt and 500 of answer exceed the context of 512 tokens"),
        (chat("x y " * 1000), r"exceed the context of 512 tokens: shorten prompt or answer"),
    ],
)
def test_a_request_that_exceeds_the_context_is_at_fault_itself(ask: Ask, request_: Request, says: str) -> None:
    with pytest.raises(RequestError, match=says) as caught:
        ask(request_)
    assert caught.value.code == "context_length"


def test_a_request_that_fills_the_context_is_answered(ask: Ask, backend: TransformersBackend) -> None:
    count = len(backend._loaded.tokenizer("x").input_ids)
    (completion,) = ask(raw("x", max_tokens=512 - count, stop=("never there",)))
    assert completion.usage.completion_tokens <= 512 - count


def test_the_context_can_be_lowered_and_not_raised(tiny_model_folder: Path) -> None:
    options = TransformersOptions(model=str(tiny_model_folder), context=20)
    with pytest.raises(RequestError, match=r"the context of 20 tokens: .* --set transformers\.context="):
        answers(options, raw("x", max_tokens=20))
    with pytest.raises(ConfigError, match="the model's context is 512 tokens"):
        answers(TransformersOptions(model=str(tiny_model_folder), context=513))


def test_an_empty_prompt_is_at_fault_itself(ask: Ask) -> None:
    with pytest.raises(RequestError, match="the prompt is empty"):
        ask(raw(""))


def test_unusual_characters_are_text(ask: Ask) -> None:
    odd = "{% for %} {{ 1/0 }} \x00\x1b[31m \u2028 🦆 日本 %s $x \\"
    assert ask(chat(odd), raw(odd))[0].usage.completion_tokens


def refused(folder: Path, says: str, **options: Any) -> None:
    with pytest.raises(ConfigError, match=says):
        answers(TransformersOptions(model=str(folder), **options))


def test_models_that_write_no_text_are_refused(tiny_model_folder: Path, tmp_path: Path) -> None:
    for name, fields in {
        "reward": {"architectures": ["LlamaForSequenceClassification"]},
        "masked": {"model_type": "bert", "architectures": ["BertForMaskedLM"]},
        "pair": {"model_type": "t5", "architectures": ["T5ForConditionalGeneration"], "is_encoder_decoder": True},
    }.items():
        folder = changed(tiny_model_folder, tmp_path / name, config=fields)
        refused(folder, f"{fields['architectures'][0]} is not a causal language model, so it can't complete text")


def test_a_model_without_a_chat_template_completes_raw_prompts_only(tiny_model_folder: Path, tmp_path: Path) -> None:
    folder = changed(tiny_model_folder, tmp_path / "bare")
    (folder / "chat_template.jinja").unlink()
    refused(folder, "its tokenizer has no chat template; ask it for completions: --api completion")
    options = TransformersOptions(model=str(folder), api="completion")
    assert answers(options, raw("x"))[0].text
    with pytest.raises(BackendError, match="stage 's' asks in a chat, and the model's tokenizer has no chat template"):
        answers(options, chat("x"))


def test_a_template_that_refuses_the_messages_is_the_requests_fault(tiny_model_folder: Path, tmp_path: Path) -> None:
    folder = changed(tiny_model_folder, tmp_path / "strict")
    (folder / "chat_template.jinja").write_text("{{ raise_exception('only users here') }}")
    with pytest.raises(RequestError, match="chat template refuses the messages: only users here"):
        answers(TransformersOptions(model=str(folder)), chat("x"))


def test_a_damaged_model_is_refused_in_one_line(tiny_model_folder: Path, tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    folder = changed(tiny_model_folder, tmp_path / "damaged")
    weights = load_file(folder / "model.safetensors")
    del weights["model.layers.0.mlp.up_proj.weight"]
    save_file(weights, folder / "model.safetensors", {"format": "pt"})
    refused(folder, r"1 of its weights are missing, such as model\.layers\.0\.mlp\.up_proj\.weight")
    (folder / "model.safetensors").write_bytes(b"\x00" * 64)
    refused(folder, "can't load the model")
    (folder / "model.safetensors").unlink()
    refused(folder, "can't load the model")


def test_a_device_that_is_not_there_is_refused(tiny_model_folder: Path) -> None:
    refused(tiny_model_folder, "torch finds no device 'cuda:99' here", device="cuda:99")


# Faults of the machine, and the end


def test_a_lack_of_memory_stops_the_run_and_names_the_setting(
    runner: asyncio.Runner, tiny_model_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def go() -> None:
        backend = TransformersBackend(TransformersOptions(model=str(tiny_model_folder)))
        await backend.start()

        def forward(*_: Any, **__: Any) -> None:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB")

        monkeypatch.setattr(backend._engine._batch, "_compute", forward)
        waiting = [asyncio.create_task(backend.complete(raw("x"))) for _ in range(3)]
        for error in await asyncio.gather(*waiting, return_exceptions=True):
            assert isinstance(error, BackendError)
            assert "lower --set transformers.max_batch_tokens= (now 32768)" in str(error)
        with pytest.raises(BackendError, match="does not suffice"):
            await backend.complete(raw("x"))
        await backend.close()

    runner.run(go())


def test_weights_that_are_not_numbers_stop_the_run(tiny_model_folder: Path, tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    folder = changed(tiny_model_folder, tmp_path / "nan")
    weights = load_file(folder / "model.safetensors")
    weights["model.norm.weight"][:] = float("nan")
    save_file(weights, folder / "model.safetensors", {"format": "pt"})
    with pytest.raises(BackendError, match=r"not numbers; .*transformers\.dtype=float32"):
        answers(TransformersOptions(model=str(folder)), raw("x"))


def test_a_cancelled_request_leaves_the_batch(runner: asyncio.Runner, backend: TransformersBackend, ask: Ask) -> None:
    async def go() -> None:
        long = [
            asyncio.create_task(backend.complete(raw("Once", max_tokens=500, temperature=1.5, seed=seed)))
            for seed in range(3)
        ]
        await backend.complete(raw("x", max_tokens=2))
        for task in long[:2]:
            task.cancel()
        results = await asyncio.gather(*long[:2], return_exceptions=True)
        assert all(isinstance(result, asyncio.CancelledError) for result in results)
        await backend.complete(raw("x", max_tokens=2))
        assert len(backend._engine._batch.sequences) <= 1
        await long[2]

    runner.run(go())
    assert ask(raw("x"))[0].usage.counted


def test_close_ends_the_thread_and_fails_requests_in_flight(tiny_model_folder: Path) -> None:
    async def go() -> None:
        backend = TransformersBackend(TransformersOptions(model=str(tiny_model_folder)))
        with pytest.raises(BackendError, match="not started"):
            await backend.complete(raw("x"))
        await backend.start()
        engine = backend._engine
        waiting = asyncio.create_task(backend.complete(raw("Once", max_tokens=500)))
        await asyncio.sleep(0)
        await backend.close()
        with pytest.raises(BackendError, match="closed"):
            await waiting
        assert not engine._thread.is_alive()
        with pytest.raises(BackendError, match="closed"):
            await backend.complete(raw("x"))
        await backend.close()

    asyncio.run(go())
