"""vLLM behind the contract of a backend: answers, refusals, cancellation and caching."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from selfinstruct.backends.vllm.backend import VllmBackend, VllmOptions
from selfinstruct.common.rng import Rng
from selfinstruct.engine.plan import make_plan
from selfinstruct.errors import BackendError, ConfigError, RequestError, TransientError
from selfinstruct.pool import Pool
from selfinstruct.records import Completion, PromptMessage, Request, Sampling
from tests.vllm.conftest import SETTINGS

Ask = Callable[..., list[Completion]]
HEAD = "A list of short and clear tasks for an assistant, each on a line of its own.\n" * 12


def raw(text: str, **sampling: Any) -> Request:
    return Request(
        "s", (PromptMessage("prompt", "t", {}, text),), Sampling(**{"max_tokens": 8, "temperature": 0.0, **sampling})
    )


def chat(*texts: str, **sampling: Any) -> Request:
    roles = ("system", "user") if len(texts) == 2 else ("user",)
    turns = tuple(PromptMessage(role, "t", {}, text) for role, text in zip(roles, texts, strict=True))
    return Request("s", turns, Sampling(**{"max_tokens": 8, "temperature": 0.0, **sampling}))


def task(number: int, **sampling: Any) -> Request:
    values = {"max_tokens": 24, "temperature": 0.9, "top_p": 0.95, "seed": 1000 + number, **sampling}
    return raw(f"{HEAD}{number}. Name", **values)


def test_it_completes_raw_prompts_unchanged(ask: Ask) -> None:
    (completion,) = ask(raw("The capital of France is"))
    assert "Paris" in completion.text
    assert completion.choices[0].finish_reason == "length"
    assert completion.truncated
    assert completion.usage.prompt_tokens == 5
    assert completion.usage.completion_tokens == 8
    assert completion.model == "SmolLM2", "a name without a path"


def test_it_chats_in_the_models_own_template(ask: Ask) -> None:
    plain, instructed = ask(chat("Say hello."), chat("You are a pirate.", "Say hello."))
    assert plain.usage.prompt_tokens > 20, "the template surrounds the message"
    assert instructed.usage.prompt_tokens != plain.usage.prompt_tokens
    assert "<|im_" not in plain.text + instructed.text


def test_a_user_s_turn_is_written_inside_the_chat_template_and_answered(ask: Ask, model: Path) -> None:
    short = {"instruction": {"max_tokens": 60}, "answer": {"max_tokens": 40}}
    plan = make_plan({"strategy": "magpie", "magpie": short, "backend": "vllm", "vllm": {"model": str(model)}})
    pool = Pool(())
    first = [plan.strategy.propose(pool, Rng("turn", number)) for number in range(4)]
    asked = [request.numbered(number, 1) for number, request in enumerate(first) if request is not None]
    assert all(request.turns[0].text.endswith("<|im_start|>user\n") for request in asked)
    turns = ask(*asked)
    received = [plan.strategy.receive(*pair, pool) for pair in zip(asked, turns, strict=True)]
    drafts = [draft for result in received for draft in result.candidates if all(v.kept for v in draft.verdicts)]
    assert drafts
    (answer,) = ask(drafts[0].on_accept.numbered(4, 1))
    assert len(drafts[0].instruction.split()) > 2
    assert len(answer.text.split()) > 2
    assert "<|im_" not in drafts[0].instruction + answer.text


def test_stop_strings_end_the_text_and_are_excluded(ask: Ask) -> None:
    (completion,) = ask(raw("1. one\n2. two\n3. three\n4.", max_tokens=40, stop=("\n6.",)))
    assert completion.text == " four\n5. five"
    assert completion.choices[0].finish_reason == "stop"


def test_the_usage_of_several_choices_is_their_sum(ask: Ask) -> None:
    (completion,) = ask(raw("A story:", n=3, seed=5, temperature=1.5))
    assert len({choice.text for choice in completion.choices}) == 3
    assert completion.usage.completion_tokens == 24


def test_penalties_reach_the_engine(ask: Ask) -> None:
    for penalty in ("frequency_penalty", "presence_penalty"):
        same, varied = ask(*(raw("Once", max_tokens=30, **{penalty: strength}) for strength in (-2.0, 2.0)))
        assert len(set(varied.text.split())) > len(set(same.text.split()))


def test_a_schema_is_obeyed_in_raw_prompts_and_chats(ask: Ask) -> None:
    """At this temperature, a model of this size would write anything without the schema."""
    schema = {
        "type": "object",
        "properties": {"rows": {"type": "array", "items": {"type": "boolean"}, "minItems": 2, "maxItems": 2}},
        "required": ["rows"],
        "additionalProperties": False,
    }
    sampling = {"max_tokens": 60, "temperature": 1.5, "seed": 1, "schema": schema}
    for completion in ask(raw("A list:", **sampling), chat("Say hello.", **sampling)):
        value = json.loads(completion.text)
        assert set(value) == {"rows"}
        assert [type(row) for row in value["rows"]] == [bool, bool]
        assert completion.choices[0].finish_reason == "stop"


def test_a_shared_prefix_is_computed_once(ask: Ask) -> None:
    ask(task(1, max_tokens=1))
    (second,) = ask(task(2, max_tokens=1))
    assert second.usage.cached_tokens >= 128, "the size of a cache block on a CPU"


def test_the_seed_decides_the_text_alone_or_in_a_batch(ask: Ask) -> None:
    """This holds in float32; see docs/backends.md."""
    together = ask(*(task(number) for number in range(8)))
    alone = [ask(task(number))[0] for number in range(4)]
    backwards = ask(*(task(number) for number in reversed(range(8))))[::-1]
    texts = [completion.text for completion in together]
    assert texts[:4] == [completion.text for completion in alone]
    assert texts == [completion.text for completion in backwards]
    assert len(set(texts)) == 8
    assert ask(task(0, seed=7))[0].text != texts[0]


@pytest.mark.parametrize(
    ("request_", "says"),
    [
        (
            raw("x " * 100, max_tokens=2000),
            r"\d+ tokens of prompt and 2000 of answer exceed the context of 2048 tokens",
        ),
        (raw("x " * 3000), "the prompt alone exceeds the context of 2048 tokens"),
        (chat("x y " * 20_000), "the prompt alone exceeds the context of 2048 tokens"),
    ],
)
def test_a_request_that_exceeds_the_context_is_at_fault_itself(ask: Ask, request_: Request, says: str) -> None:
    with pytest.raises(RequestError, match=says + r": .* --set vllm\.max_model_len=") as caught:
        ask(request_)
    assert caught.value.code == "context_length"


def test_a_request_that_fills_the_context_is_answered_and_disturbs_no_other(ask: Ask) -> None:
    """With chunked prefill, a seeded request with a long prompt would crash vLLM's engine on a CPU."""
    long, *short = ask(raw("x " * 2000, seed=3), *(task(number, max_tokens=4) for number in range(4)))
    assert long.usage.prompt_tokens > 1990
    assert [completion.usage.completion_tokens for completion in short] == [4, 4, 4, 4]


def test_a_request_that_vllm_refuses_is_at_fault_itself(ask: Ask) -> None:
    with pytest.raises(RequestError, match=r"vLLM refuses the request: .*empty") as caught:
        ask(raw(""))
    assert caught.value.code == "bad_request"


def test_unusual_characters_are_accepted(ask: Ask) -> None:
    odd = "{% for %} {{ 1/0 }} \x00\x1b[31m \u2028 🦆 日本 %s $x \\"
    (completion,) = ask(chat(odd))
    assert completion.usage.completion_tokens


def test_a_request_that_times_out_or_is_cancelled_frees_its_slot(
    runner: asyncio.Runner, backend: VllmBackend, ask: Ask, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def cancel() -> None:
        task_ = asyncio.create_task(backend.complete(raw("Once", max_tokens=2000, temperature=1.5)))
        await asyncio.sleep(0)
        task_.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task_

    impatient = VllmOptions(model=backend._options.model, **{**SETTINGS, "timeout_s": 0.2})
    with monkeypatch.context() as patch:
        patch.setattr(backend, "_options", impatient)
        with pytest.raises(TransientError, match=r"no complete answer within 0\.2 s"):
            ask(raw("Once", max_tokens=2000, temperature=1.5))
    runner.run(cancel())
    assert ask(raw("The capital of France is"))[0].text
    assert backend._pending == {}


# Engines that do not start: one error, and no process remains


def start(**options: Any) -> None:
    backend = VllmBackend(VllmOptions(**{**SETTINGS, **options}))

    async def go() -> None:
        try:
            await backend.start()
        finally:
            await backend.close()

    asyncio.run(go())


def test_arguments_that_vllm_does_not_have(model: Path) -> None:
    with pytest.raises(ConfigError, match=r"no engine argument 'blok_size' \(did you mean 'block_size'\?\)"):
        start(model=str(model), engine={"blok_size": 16})


def test_a_model_on_a_hub_that_is_not_there(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(ConfigError, match="vLLM can't start 'nobody/nothing': ") as caught:
        start(model="nobody/nothing")
    assert "\n" not in str(caught.value)


def test_a_damaged_model(model: Path, tmp_path: Path) -> None:
    for file in model.iterdir():
        (tmp_path / file.name).symlink_to(file)
    weights = tmp_path / "model.safetensors"
    weights.unlink()
    weights.write_bytes((model / "model.safetensors").read_bytes()[:1_000_000])
    with pytest.raises(BackendError, match=r"can't start .*: .*(safetensors|Safetensor).*Its log: (\S+)$") as caught:
        start(model=str(tmp_path))
    log = Path(str(caught.value).rpartition(" ")[2])
    assert "Traceback" in log.read_text(), "the log is kept because the message names it"
    assert log.parent == tmp_path
