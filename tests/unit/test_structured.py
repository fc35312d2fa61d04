"""Structured output: requests, parsing, storage, and servers without support for it."""

from __future__ import annotations

import asyncio
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from selfinstruct.backends.llamacpp import LlamaCppBackend, LlamaCppOptions
from selfinstruct.backends.openai.backend import OpenAIBackend, OpenAIOptions
from selfinstruct.common.codec import canonical, digest, dumps, loads
from selfinstruct.common.config import build, identity_fields
from selfinstruct.common.rng import Rng
from selfinstruct.engine.plan import make_plan
from selfinstruct.errors import BackendError, RequestError
from selfinstruct.ledger import pack, unpack
from selfinstruct.prompts import Api, Prompts
from selfinstruct.records import Choice, Completion, Instance, PromptMessage, Request, Sampling, Task, Usage
from selfinstruct.strategies import Alpaca, SelfInstruct
from selfinstruct.strategies.alpaca import FIELDS
from selfinstruct.strategies.shared import schemas
from tests.loopback import Fault, Loopback

TEMPLATES = Path(__file__).parents[2] / "prompts"
TRICK = 'a "quoted" $x ${y} {z}\n### Task 9\n"}]}\\'
SEEDS = (
    Task("s0", f"Do {TRICK}", (Instance("", "alone"),), is_classification=False),
    Task("s1", "Say whether.", (Instance(TRICK, "yes"), Instance("b", "no")), is_classification=True),
    Task("s2", "Do more.", (Instance("given", TRICK),), is_classification=False),
)
SCHEMA = schemas.records("tasks", FIELDS, 3)


@dataclass
class View:
    seeds: tuple[Task, ...] = SEEDS
    tasks: tuple[Task, ...] = ()


def alpaca(api: Api = "completion", **options: Any) -> Alpaca:
    names = {**Alpaca.templates, **Alpaca.structured_templates}
    return Alpaca(build(Alpaca.Options, {"structured": True, **options}), Prompts.load(names, api, TEMPLATES))


def self_instruct(api: Api = "completion", **options: Any) -> SelfInstruct:
    names = {**SelfInstruct.templates, **SelfInstruct.structured_templates}
    return SelfInstruct(
        build(SelfInstruct.Options, {"structured": True, **options}), Prompts.load(names, api, TEMPLATES)
    )


def asked(made: Alpaca | SelfInstruct) -> Request:
    request = made.propose(View(), Rng("x"))
    assert request is not None
    return request.numbered(7, 1)


def answer(text: str, reason: str = "stop") -> Completion:
    return Completion((Choice(text, reason),), Usage(), "m")


def in_prompt(request: Request) -> list[Any]:
    """Return the lines of a prompt that are JSON."""
    lines = request.turns[0].text.splitlines()
    return [loads(line) for line in lines if line.startswith("{")]


# Requests


@pytest.mark.parametrize("api", ["completion", "chat"])
def test_alpaca_shows_demonstrations_as_json_and_requests_the_rest_of_the_list(api: Api) -> None:
    request = asked(alpaca(api))
    seeds = {seed.id: seed for seed in SEEDS}
    wanted = [seeds[str(name)] for name in request.demonstrations]  # type: ignore[union-attr]
    [shown] = in_prompt(request)
    assert shown == {
        "tasks": [
            {"instruction": seed.instruction, "input": seed.instances[0].input, "output": seed.instances[0].output}
            for seed in wanted
        ]
    }
    assert "Here are 17 more such tasks" in request.turns[0].text
    assert request.sampling.schema == schemas.records("tasks", FIELDS, 17)
    assert request.sampling.stop == ()
    assert request.is_raw is (api == "completion")


def test_self_instruct_requests_instructions_and_instances_by_schema_and_the_rest_as_text() -> None:
    made = self_instruct(list_length=12)
    request = asked(made)
    [shown] = in_prompt(request)
    assert sorted(shown["instructions"]) == sorted(seed.instruction for seed in SEEDS)
    assert request.sampling.schema == schemas.strings("instructions", 9)
    received = made.receive(request, answer(dumps({"instructions": [TRICK, "Do b."]})), View())
    assert [candidate.instruction for candidate in received.candidates] == [" ".join(TRICK.split()), "Do b."]
    classify = received.candidates[0].on_accept
    assert classify is not None
    assert classify.sampling.schema is None
    orders = {"yes": ["output", "input"], "no": ["input", "output"]}
    for word, order in orders.items():
        [instances] = made.receive(classify.numbered(8, 1), answer(word), View()).follow_ups
        assert instances.sampling.schema == schemas.records("instances", tuple(order), 5)
        assert list(in_prompt(instances)[0]["instances"][0]) == order, "a model writes the label first"
        assert f"Task: {dumps(received.candidates[0].instruction)}\n" in instances.turns[0].text
        rows = made.receive(
            instances.numbered(9, 1), answer(dumps({"instances": [{"input": "N/A", "output": TRICK}]})), View()
        )
        assert [(row.input, row.output) for row in rows.candidates] == [("", TRICK)]
    alone = self_instruct(input_first_examples=0)
    [put] = alone.receive(classify.numbered(8, 1), answer("no"), View()).follow_ups
    assert (put.stage, put.sampling.schema) == ("answer", None)


# Parsing


def test_rows_have_their_span_in_the_raw_text() -> None:
    made = alpaca()
    request = asked(made)
    rows = [
        {"instruction": f"  {TRICK} ", "input": " None. ", "output": TRICK},
        {"instruction": "b", "input": "c", "output": "d"},
    ]
    text = json.dumps({"tasks": rows}, indent=1)
    received = made.receive(request, answer(text), View())
    assert [(row.instruction, row.input, row.output) for row in received.candidates] == [
        (TRICK, "", TRICK),
        ("b", "c", "d"),
    ]
    assert [loads(text[slice(*row.span)]) for row in received.candidates] == rows
    assert received.discards == ()
    cut = made.receive(request, answer(text[: text.rindex('"d')], "length"), View())
    assert [row.instruction for row in cut.candidates] == [TRICK]
    assert [discard.reason for discard in cut.discards] == ["truncated"]


@pytest.mark.parametrize("api", ["completion", "chat"])
def test_a_server_that_ignores_the_schema_is_read_as_text(api: Api) -> None:
    made = alpaca(api)
    text = "Sure:\n\n### Task 4\nInstruction: Do it\nInput: <noinput>\nOutput: done\n\n### Task 5\n"
    text += "Instruction: c\nOutput: d"
    received = made.receive(asked(made), answer(text), View())
    assert [(row.instruction, row.input, row.output) for row in received.candidates] == [
        ("Do it", "", "done"),
        ("c", "", "d"),
    ]
    made_too = self_instruct(api)
    pending_tasks = made_too.receive(asked(made_too), answer("Sure:\n\n4. Do a.\n5. Do b."), View()).candidates
    assert [item.instruction for item in pending_tasks] == ["Do a.", "Do b."]


def test_the_request_and_not_the_options_decide_how_an_answer_is_read() -> None:
    """A fork may have changed the option."""
    text = dumps({"tasks": [{"instruction": "a", "input": "", "output": "b"}]})
    later = alpaca(structured=False)
    assert len(later.receive(asked(alpaca()), answer(text), View()).candidates) == 1
    assert later.receive(asked(later), answer(text), View()).candidates == ()


# Storage


def test_a_request_without_a_schema_keeps_its_digest() -> None:
    turns = (PromptMessage("prompt", "t", {}, "text"),)
    plain = Request("s", turns, Sampling(9))
    assert "schema" not in plain.sampling.to_json()
    assert plain.digest == "80a9b138e537fcdf244dab33e2b669377db8c76e0147e3dc47d95893e49ad036"
    item = Request("s", turns, Sampling(9, schema={"a": 1, "b": 2}))
    other = Request("s", turns, Sampling(9, schema={"b": 2, "a": 1}))
    assert len({plain.digest, item.digest, other.digest}) == 3, "the order of keys decides what a model writes"
    assert item.text_bytes == len("text") + len('{"a": 1, "b": 2}')


def test_the_ledger_stores_a_schema_once_and_in_order() -> None:
    prompts = Prompts({"t": "text"}, "completion")
    request = Request("s", (prompts.turn("prompt", "t", {}),), Sampling(9, seed=3, schema=SCHEMA), number=4)
    value, texts = pack(request)
    assert texts == {digest(dumps(SCHEMA).encode()): dumps(SCHEMA).encode()}
    assert b"properties" not in canonical(value)
    again = unpack(loads(canonical(value)), 4, prompts, lambda name: texts[name].decode())
    assert again == request
    assert dumps(again.sampling.schema) == dumps(SCHEMA)
    assert again.digest == request.digest


@pytest.mark.parametrize("name", ["alpaca", "self-instruct"])
def test_runs_without_structured_output_are_unchanged(name: str) -> None:
    given = {"strategy": name, "backend": "openai", "openai": {"model": "m"}}
    plan = make_plan(given)
    assert "structured" not in plan.identity[name]
    assert "schema_field" not in plan.identity["openai"]
    assert not [item for item in plan.prompts.texts if item.endswith("-json")]
    other = make_plan({**given, name: {"structured": True}})
    assert other.identity[name]["structured"] is True
    assert [item for item in other.prompts.texts if item.endswith("-json")]
    assert "structured" not in identity_fields(plan.strategy_options)


# HTTP requests


def raw(**sampling: Any) -> Request:
    return Request(
        "s", (PromptMessage("prompt", "t", {}, "Tasks as JSON:\n"),), Sampling(**{"max_tokens": 9, **sampling})
    )


def chat(**sampling: Any) -> Request:
    return Request(
        "s", (PromptMessage("user", "t", {}, "Tasks as JSON:\n"),), Sampling(**{"max_tokens": 9, **sampling})
    )


async def _complete(backend: Any, request: Request) -> Completion:
    await backend.start()
    try:
        return await backend.complete(request)  # type: ignore[no-any-return]
    finally:
        await backend.close()


def complete(server: Loopback, request: Request, **options: Any) -> Completion:
    backend = OpenAIBackend(OpenAIOptions(base_url=server.url, model="m", **options))
    return asyncio.run(_complete(backend, request))


def test_chat_requests_have_a_response_format() -> None:
    with Loopback() as server:
        complete(server, chat(schema=SCHEMA))
        complete(server, chat())
        with_schema, without = [arrived.body for arrived in server.arrived]
    named = {"name": "answer", "schema": SCHEMA, "strict": True}
    assert with_schema["response_format"] == {"type": "json_schema", "json_schema": named}
    assert dumps(with_schema["response_format"]["json_schema"]["schema"]) == dumps(SCHEMA), "in its order"
    assert "response_format" not in without


@pytest.mark.parametrize(
    ("name", "sent"), [("structured_outputs", {"json": SCHEMA}), ("guided_json", SCHEMA), ("json_schema", SCHEMA)]
)
def test_raw_requests_have_the_field_of_the_server(name: str, sent: Any) -> None:
    with Loopback() as server:
        complete(server, raw(schema=SCHEMA), schema_field=name)
        [arrived] = server.arrived
    assert arrived.body[name] == sent
    assert "response_format" not in arrived.body


def test_without_a_field_a_raw_request_with_a_schema_is_not_sent() -> None:
    with Loopback() as server:
        with pytest.raises(BackendError, match=r"with schema_field, .*structured to false"):
            complete(server, raw(schema=SCHEMA))
        assert not server.arrived


@pytest.mark.parametrize(
    ("status", "message"),
    [
        (400, "Invalid parameter: 'response_format' of type 'json_schema' is not supported with this model"),
        (422, "body.response_format: Extra inputs are not permitted"),
        (400, "JSON schema error at #/properties/a: unrecognized type nosuch"),
        (501, "structured outputs are not implemented"),
    ],
)
def test_a_server_that_refuses_the_schema_stops_the_run_with_a_remedy(status: int, message: str) -> None:
    fault = Fault(status, body={"error": {"message": message, "code": None}})
    with Loopback(faults={1: fault, 2: fault}) as server:
        with pytest.raises(BackendError, match=rf"{status}.*structured to false"):
            complete(server, chat(schema=SCHEMA))
        if status != 501:
            with pytest.raises(RequestError):
                complete(server, chat())


@pytest.mark.model
def test_the_embedded_model_follows_the_schema_in_both_apis() -> None:
    backend = LlamaCppBackend(LlamaCppOptions(context=512, slots=1, threads=1))
    schema = {
        "type": "object",
        "properties": {"b": {"type": "string", "enum": ["x", "y"]}, "a": {"type": "boolean"}},
        "required": ["b", "a"],
        "additionalProperties": False,
    }

    async def both() -> list[Completion]:
        await backend.start()
        try:
            return [await backend.complete(item(max_tokens=60, schema=schema, seed=1)) for item in (raw, chat)]
        finally:
            await backend.close()

    for completion in asyncio.run(both()):
        value = json.loads(completion.text)
        assert list(value) == ["b", "a"]
        assert value["b"] in ("x", "y")
