"""A setting, a preset or a template that changes nothing is refused, with its place, the reason and the remedy."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from selfinstruct.api import preview
from selfinstruct.common.config import flatten, merge, read_yaml, to_plain
from selfinstruct.common.resources import builtin_prompts, preset
from selfinstruct.common.unused import covers
from selfinstruct.engine import presets
from selfinstruct.engine.effect import check_preset
from selfinstruct.engine.methods import build_options
from selfinstruct.engine.plan import make_plan
from selfinstruct.errors import ConfigError
from selfinstruct.strategies import STRATEGIES, QualityOptions, QualityStrategy
from selfinstruct.strategies.abilities import unused_options
from tests.cli import run_cli

OPENAI: dict[str, Any] = {"backend": "openai", "openai": {"model": "m"}}

MODES: dict[str, list[dict[str, Any]]] = {
    "conversation": [{}, {"style": "self-chat"}, {"openings": "seeds"}],
    "magpie": [{}, {"turns": 2}],
    "personas": [{}, {"generate": True}],
    "respond": [{}, {"reasoning": True}],
}
"""What a user may choose on top of a preset, by strategy."""


@pytest.fixture
def tasks(tmp_path: Path) -> Path:
    path = tmp_path / "tasks.jsonl"
    path.write_text(json.dumps({"instruction": "Name three rivers of France."}) + "\n")
    return path


def test_the_embedded_model_answers_in_a_chat_with_its_system_prompt(tasks: Path, tmp_path: Path) -> None:
    [request] = preview(tmp_path / "run", {"strategy": "respond", "seeds": str(tasks)})
    assert [(turn.role, turn.text) for turn in request.turns] == [
        ("system", "You are a helpful assistant."),
        ("user", "Name three rivers of France."),
    ]


@pytest.mark.parametrize("name", STRATEGIES)
def test_every_option_of_the_embedded_preset_has_an_effect(name: str) -> None:
    kind, values = STRATEGIES[name], read_yaml(preset("embedded"))[0]
    check_preset(preset("embedded"), [name], "completion")
    section = values.get(name, {})
    unused: list[set[str]] = []
    for mode in MODES.get(name, [{}]):
        reasons = unused_options(kind, build_options(kind, merge(section, mode), name), "completion")
        names = [option for reason in reasons for option in reason.options]
        unused.append({key for key in flatten(section) if any(covers(option, key) for option in names)})
    assert not set.intersection(*unused)


def test_every_option_of_the_quality_preset_has_an_effect() -> None:
    section = read_yaml(preset("embedded-quality"))[0]["quality"]
    modes = [
        QualityOptions(best_of=2, judge=None),
        QualityOptions(**to_plain(QualityOptions(tags=True)) | {"judge": {}}),
    ]
    unused = [
        {option for reason in QualityStrategy.unused_options(mode, "completion") for option in reason.options}
        for mode in modes
    ]
    assert not set.intersection(*unused) & section.keys()


def test_a_preset_with_an_option_without_effect_is_refused_by_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "embedded.yaml"
    before, line = (
        preset("embedded").read_text().split("respond:\n")[0],
        "  default_system: You are a helpful assistant.\n",
    )
    path.write_text(f"{before}respond:\n  answer: {{api: completion}}\n{line}")
    monkeypatch.setattr(presets, "preset", lambda _name: path)
    number = len(path.read_text().splitlines())
    with pytest.raises(ConfigError) as caught:
        make_plan({"strategy": "respond"})
    assert str(caught.value) == (
        f"{path}:{number}: respond.default_system has no effect while respond.answer.api is completion: set "
        "respond.answer.api to chat, or leave out respond.default_system"
    )
    path.write_text("self-instruct: {input_first_examples: 0, input_first: {max_tokens: 9}}\n")
    with pytest.raises(ConfigError, match=r"yaml:1: self-instruct\.input_first\.max_tokens has no effect"):
        make_plan({"strategy": "self-instruct"})


REFUSED: list[tuple[dict[str, Any], str]] = [
    ({"strategy": "respond", "respond": {"default_system": "x", "answer": {"api": "completion"}}},
     "respond.default_system has no effect while respond.answer.api is completion: set respond.answer.api to chat"),
    ({"strategy": "respond", "respond": {"default_system": "x", "reasoning": True, "reason": {"api": "completion"}}},
     "respond.default_system has no effect while respond.reason.api is completion"),
    ({"strategy": "respond", "respond": {"default_system": "x", "systems": ["Be kind."]}},
     "respond.default_system has no effect while respond.systems is ['Be kind.']: set respond.systems to none"),
    ({"strategy": "respond", "respond": {"reason": {"max_tokens": 9}}},
     "respond.reason.max_tokens has no effect while respond.reasoning is false: set respond.reasoning to true"),
    ({"strategy": "conversation", "conversation": {"self_chat": {"temperature": 0.1}}}, "conversation.self_chat."),
    ({"strategy": "conversation", "conversation": {"style": "self-chat", "user": {"top_p": 0.5}}},
     "conversation.user.top_p has no effect while conversation.style is self-chat"),
    ({"strategy": "conversation", "conversation": {"openings": "seeds", "domains": ["law"]}}, "conversation.domains"),
    ({"strategy": "personas", "personas": {"people": 3}}, "personas.people has no effect while personas.generate"),
    ({"strategy": "personas", "personas": {"kinds": {"precise": 0}, "constraints": 2}}, "personas.constraints"),
    ({"strategy": "magpie", "magpie": {"template": "chatml", "past_query": "x"}}, "magpie.past_query has no effect"),
    ({"strategy": "magpie", "magpie": {"pre_query": "a", "post_query": "b", "template": "chatml"}}, "magpie.template"),
    ({"self-instruct": {"answer": {"temperature": 0.1}}}, "self-instruct.answer.temperature"),
    ({"self-instruct": {"classify_yes": 0, "classify": {"max_tokens": 9}}}, "self-instruct.classify.max_tokens"),
    ({"quality": {"tags": True, "judging": {"max_tokens": 9}}}, "quality.judging.max_tokens has no effect while "
     "quality.judge is null"),
    ({"quality": {"judge": {}, "tagging": {"max_tokens": 9}}}, "quality.tagging.max_tokens"),
    ({"quality": {"judge": {}, "candidates": {"max_tokens": 9}}}, "quality.candidates.max_tokens"),
    ({"strategies": [{"name": "alpaca"}, {"name": "conversation", "self_chat": {"max_tokens": 9}}]},
     "strategies.1.self_chat.max_tokens has no effect while strategies.1.style is roles"),
    ({"strategies": [{"name": "alpaca"}, {"name": "personas"}], "personas": {"people": 3}}, "personas.people"),
    ({"strategies": [{"name": "alpaca"}, {"name": "personas"}], "mix": {"explore": 0.1}}, "mix.explore"),
]  # fmt: skip


@pytest.mark.parametrize(("settings", "message"), REFUSED)
def test_a_setting_without_effect_is_refused(settings: dict[str, Any], message: str) -> None:
    backend = OPENAI if settings.get("strategy") != "magpie" else {"backend": "openai", "openai": {
        "model": "m", "api": "completion"}}  # fmt: skip
    with pytest.raises(ConfigError) as caught:
        make_plan({**backend, **settings})
    assert message in str(caught.value)
    assert "or leave out" in str(caught.value) or "set adapt to true" in str(caught.value)


@pytest.mark.parametrize("settings", [
    {"strategy": "respond", "respond": {"default_system": "x"}},
    {"strategy": "respond", "respond": {"reasoning": True, "reason": {"max_tokens": 9}}},
    {"strategy": "magpie", "magpie": {"template": "chatml"}, "openai": {"model": "m", "api": "completion"}},
    {"strategies": [{"name": "conversation", "style": "self-chat", "label": "a"}, {"name": "conversation"}],
     "conversation": {"self_chat": {"max_tokens": 9}}},
    {"strategy": "alpaca", "conversation": {"self_chat": {"max_tokens": 9}}},  # a file for several strategies
])  # fmt: skip
def test_a_setting_with_an_effect_is_accepted(settings: dict[str, Any]) -> None:
    make_plan({**OPENAI, **settings})


@pytest.mark.parametrize("strategy", [name for name in STRATEGIES if name not in ("magpie", "evaluate")])
def test_the_recorded_configuration_of_a_run_can_be_used_again(strategy: str) -> None:
    values = make_plan({"strategy": strategy}).values()
    assert make_plan(values).values() == values
    make_plan({**values, **OPENAI, "quality": None})  # on another backend too


def test_derived_texts_of_a_recorded_configuration_can_be_used_again() -> None:
    server = {"backend": "openai", "openai": {"model": "m", "api": "completion"}}
    values = make_plan({**server, "strategy": "magpie", "magpie": {"template": "chatml"}}).values()
    assert values["magpie"]["next_query"]
    assert make_plan(values).values() == values


def test_a_choice_of_the_user_is_not_blamed_for_an_option_of_the_preset() -> None:
    make_plan({"strategy": "respond", "respond": {"answer": {"api": "completion"}}})


def test_a_part_of_a_stage_keeps_the_rest_of_the_strategy_s_own_stage() -> None:
    answer = make_plan({**OPENAI, "strategy": "evol-instruct", "evol-instruct": {"answer": {"top_p": 0.5}}}).values()
    assert answer["evol-instruct"]["answer"] == {
        "max_tokens": 2048, "temperature": 1.0, "top_p": 0.5, "frequency_penalty": 0.0, "presence_penalty": 0.0,
        "api": "run",
    }  # fmt: skip
    respond = make_plan({**OPENAI, "strategy": "respond", "respond": {"answer": {"max_tokens": 9}}}).values()
    assert respond["respond"]["answer"]["api"] == "chat"


def _folders(tmp_path: Path) -> Iterator[tuple[str, dict[str, Any], str]]:
    raw = {"api": "completion", "model": "m"}
    yield "respond/raw", {"strategy": "respond"}, "while respond.answer.api is chat"
    yield "respond/system", {"strategy": "respond", "respond": {"answer": {"api": "completion"}}}, "is completion"
    yield "respond/reason", {"strategy": "respond"}, "while respond.reasoning is false"
    yield "alpaca/list", {"strategy": "alpaca", "alpaca": {"structured": True}}, "while alpaca.structured is true"
    yield "conversation/first", {"strategy": "conversation", "openai": raw}, "conversation.assistant.api is completion"
    yield "conversation/transcript", {"strategy": "conversation"}, "while conversation.assistant.api is chat"
    yield "personas/math", {"strategy": "personas", "personas": {"kinds": {"math": 0}}}, "personas.kinds.math is 0"


def test_a_template_of_the_unused_kind_of_prompt_is_refused(tmp_path: Path) -> None:
    for number, (name, settings, message) in enumerate(_folders(tmp_path)):
        file = tmp_path / str(number) / f"{name}.txt"
        file.parent.mkdir(parents=True)
        file.write_text((builtin_prompts() / f"{name}.txt").read_text())
        chosen = {**OPENAI, **settings, "prompts": str(tmp_path / str(number))}
        make_plan(chosen)  # a copy of a built-in template changes nothing
        file.write_text(file.read_text() + "\nBe brief.\n")
        with pytest.raises(ConfigError) as caught:
            make_plan(chosen)
        assert str(caught.value).startswith(f"{file} has no effect ")
        assert message in str(caught.value)
        assert str(caught.value).endswith(", or remove the file")


def test_the_command_line_names_the_line_of_the_file_and_refuses_an_assignment_to_an_unused_section(
    tasks: Path, tmp_path: Path
) -> None:
    path = tmp_path / "run.yaml"
    path.write_text("respond:\n  reasoning: false\n  reason:\n    max_tokens: 9\nalpaca: {list_length: 9}\n")
    output = run_cli("respond", tmp_path / "run", "--from", tasks, "--config", path, code=2)
    assert f"{path}:4: respond.reason.max_tokens has no effect while respond.reasoning is false" in output
    for assignment, message in (
        ("alpaca.list_length=9", "--set alpaca.list_length has no effect: the strategy of this run is self-instruct; "
         "choose alpaca with --strategy alpaca, or leave it out"),
        ("openai.model=m", "--set openai.model has no effect: the backend of this run is llamacpp"),
    ):  # fmt: skip
        output = run_cli("generate", tmp_path / "run", "--set", assignment, code=2)
        assert message in " ".join(output.split())
