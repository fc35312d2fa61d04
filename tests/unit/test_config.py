from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import date
from pathlib import Path
from typing import Any

import pytest

from selfinstruct.common.config import assign, build, flatten, merge, read_yaml, suggest, to_plain, to_yaml
from selfinstruct.engine.plan import make_plan
from selfinstruct.errors import ConfigError


@dataclass(frozen=True)
class Inner:
    max_tokens: int = 64
    stop: tuple[str, ...] = ()


@dataclass(frozen=True)
class Options:
    threshold: float = 0.7
    name: str | None = None
    inner: Inner = field(default_factory=Inner)
    off: Inner | None = field(default_factory=Inner)
    more: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.threshold > 1:
            raise ValueError("threshold must be at most 1")


def test_build_and_to_plain_are_inverse() -> None:
    options = build(Options, {"threshold": 1, "inner": {"stop": ["a"]}, "off": None})
    assert options == Options(1.0, None, Inner(64, ("a",)), None)
    assert build(Options, to_plain(options)) == options


@pytest.mark.parametrize(
    ("values", "says", "key"),
    [
        ({"treshold": 1}, r"unknown key 'a\.treshold' \(did you mean 'threshold'\?\)", "a.treshold"),
        ({"inner": {"max_token": 1}}, r"unknown key 'a\.inner\.max_token' \(did you mean", "a.inner.max_token"),
        ({"off": {"zzz": 1}}, r"unknown key 'a\.off\.zzz' \(known: max_tokens, stop\)", "a.off.zzz"),
        ({"threshold": "high"}, r"a\.threshold: .*number.*found 'high'", "a.threshold"),
        ({"threshold": 2}, r"a: threshold must be at most 1", "a"),
    ],
)  # fmt: skip
def test_errors_name_the_key(values: dict, says: str, key: str) -> None:
    with pytest.raises(ConfigError, match=says) as caught:
        build(Options, values, "a")
    assert caught.value.key == key


@pytest.mark.parametrize(
    ("values", "says", "key"),
    [
        ({"threshold": float("inf")}, r"^a\.threshold: must be a finite number, found inf", "a.threshold"),
        ({"threshold": float("nan")}, r"^a\.threshold: must be a finite number, found nan", "a.threshold"),
        ({"more": {"x": [1, {"y": -float("inf")}]}}, r"^a\.more\.x\.1\.y: must be a finite", "a.more.x.1.y"),
        ({"name": "x\ud800"}, r"^a\.name: holds a lone surrogate", "a.name"),
        ({"more": {"\udfff": 1}}, r"^a\.more: the key '\\udfff' holds a lone surrogate", "a.more.\udfff"),
        ({1: 2}, r"^a: the key 1 must be a string", "a.1"),
        ({"more": {None: 2}}, r"^a\.more: the key None must be a string", "a.more.None"),
        ({"name": date(2020, 1, 2)}, r"^a\.name: 2020-01-02 is a date; for a string", "a.name"),
        ({"more": {"x": {"y": (b"z",)}}}, r"^a\.more\.x\.y\.0: .* is a bytes", "a.more.x.y.0"),
        ({"inner": {"stop": {"x"}}}, r"^a\.inner\.stop: .* is a set", "a.inner.stop"),
    ],
)  # fmt: skip
def test_values_that_json_cannot_represent_are_refused(values: dict, says: str, key: str) -> None:
    with pytest.raises(ConfigError, match=says) as caught:
        build(Options, values, "a")
    assert caught.value.key == key


def test_top_level_errors_have_no_key_prefix() -> None:
    with pytest.raises(ConfigError, match=r"^threshold must be at most 1$"):
        build(Options, {"threshold": 2})
    with pytest.raises(ConfigError, match=r"^the key 1 must be a string"):
        build(Options, {1: 2})
    with pytest.raises(ConfigError, match=r"^threshold: must be a finite number"):
        build(Options, {"threshold": float("nan")})


@dataclass(frozen=True)
class Stage:
    max_tokens: int
    temperature: float = 0.7


@dataclass(frozen=True)
class Section:
    structured: bool = False
    tasks: Stage = field(default_factory=lambda: Stage(300))
    off: Inner | None = None


@pytest.mark.parametrize(
    ("values", "says"),
    [
        ({"temprature": 1}, "unknown key 'alpaca.temprature' (did you mean 'alpaca.tasks.temperature'?)"),
        ({"temperature": 1}, "unknown key 'alpaca.temperature' (did you mean 'alpaca.tasks.temperature'?)"),
        ({"structred": 1}, "unknown key 'alpaca.structred' (did you mean 'structured'?)"),
        ({"Structured": 1}, "unknown key 'alpaca.Structured' (did you mean 'structured'?)"),
        (
            {"max-tokens": 1},
            "unknown key 'alpaca.max-tokens' (did you mean 'alpaca.tasks.max_tokens' or 'alpaca.off.max_tokens'?)",
        ),
        ({"tasks": {"temprature": 1}}, "unknown key 'alpaca.tasks.temprature' (did you mean 'temperature'?)"),
        ({"nothing_like": 1}, "unknown key 'alpaca.nothing_like' (known: off, structured, tasks)"),
    ],
)
def test_the_nearest_option_is_suggested_also_from_a_section_within(values: dict, says: str) -> None:
    with pytest.raises(ConfigError) as caught:
        build(Section, values, "alpaca")
    assert str(caught.value) == says


def test_a_part_of_a_section_is_filled_from_its_default() -> None:
    assert build(Section, {"tasks": {"temperature": 0.1}}).tasks == Stage(300, 0.1)
    assert build(Section, {"tasks": {"max_tokens": 9}}).tasks == Stage(9)


@pytest.mark.parametrize(
    ("assignment", "says"),
    [
        ("novelty.threshold=0.5", "unknown key 'novelty' (did you mean 'filters.novelty' or 'saturation.novelty'?)"),
        ("max_requests=9", "unknown key 'max_requests' (did you mean 'budget.max_requests'?)"),
        ("model=x", "unknown key 'model' (did you mean 'openai.model' or 'quality.reward.model'?)"),
        ("alpaca.temprature=1", "unknown key 'alpaca.temprature' (did you mean 'alpaca.tasks.temperature'?)"),
        ("evol_instruct.epochs=1", "unknown key 'evol_instruct' (did you mean 'evol-instruct'?)"),
        ("strategy=openai", "unknown strategy 'openai': it is a backend, for --backend"),
        ("backend=alpaca", "unknown backend 'alpaca': it is a strategy, for --strategy"),
        ("strategy=alpacca", "unknown strategy 'alpacca' (did you mean 'alpaca'?)"),
        ("filters.copied.threshold=7", "filters.copied: threshold 7.0 is not between 0 and 1"),
        ("filters.copied.min_words=-1", "filters.copied: min_words is -1, but"),
        ("filters.word_count.max_words=3", "filters.word_count: min_words 4 and max_words 3 are not a range"),
        ("filters.plugins=[{name: repetition, lines: 3}]", "filters.plugins.0: 3.0 is not a fraction"),
        ("filters.plugins=[{name: refusals, head: 0}]", "filters.plugins.0: head is 0, but"),
    ],
)
def test_a_mistake_in_a_setting_of_a_run_is_named_with_its_remedy(assignment: str, says: str) -> None:
    values: dict = {"strategy": "alpaca", "backend": "openai", "openai": {"model": "m"}}
    assign(values, assignment)
    with pytest.raises(ConfigError) as caught:
        make_plan(values)
    assert str(caught.value).startswith(says)


def test_nearest_accepts_names_of_any_type() -> None:
    assert suggest("lagg", [1, None, "lag"]) == " (did you mean 'lag'?)"  # type: ignore[list-item]  # YAML gives such
    assert suggest("zzz", [2, "a"]) == " (known: 2, a)"  # type: ignore[list-item]


def test_self_referential_yaml_and_invalid_dates(tmp_path: Path) -> None:
    path = tmp_path / "c.yaml"
    for text, says in (
        ("a: &x\n  b: *x\n", "nested deeper"),
        ("a: 2020-13-45\n", "month must be in"),
        ("a: " + "[" * 5000 + "\n", "nested too deeply"),
    ):
        path.write_text(text)
        with pytest.raises(ConfigError, match=says):
            read_yaml(path)
    path.write_text("a: &x [1, *x]\n")
    with pytest.raises(ConfigError, match="nested deeper"):
        build(Options, {"more": read_yaml(path)[0]})
    values: dict = {}
    assign(values, "a=2020-13-45")
    assert values == {"a": "2020-13-45"}


def test_set_reads_yaml_values() -> None:
    values: dict = {"a": {"b": 1}}
    for assignment in ("a.c=0.5", "a.d=[1, x]", "e=null", "f=", "g=a=b", "h.i.j=2020-01-01x: no"):
        assign(values, assignment)
    assert values == {
        "a": {"b": 1, "c": 0.5, "d": [1, "x"]},
        "e": None,
        "f": None,
        "g": "a=b",
        "h": {"i": {"j": {"2020-01-01x": False}}},
    }
    for bad in ("a", "=1", "a.b.c=2"):
        with pytest.raises(ConfigError, match="--set"):
            assign(values, bad)


def test_read_yaml_returns_the_line_of_each_key(tmp_path: Path) -> None:
    path = tmp_path / "c.yaml"
    path.write_text("n: 3\nalpaca:\n  demonstrations: 2\n")
    assert read_yaml(path) == (
        {"n": 3, "alpaca": {"demonstrations": 2}},
        {"n": 1, "alpaca": 2, "alpaca.demonstrations": 3},
    )
    for text, says in (
        ("a: 1\nb: 2\na: 3\n", r":3: key 'a' is given twice \(first on line 1\)"),
        ("a: [1,\nb: 2", r"c\.yaml:2: "),
        ("- a\n", "a mapping of keys"),
        ("a: !!python/object:os.system 1\n", "c.yaml"),
    ):
        path.write_text(text)
        with pytest.raises(ConfigError, match=says):
            read_yaml(path)


def test_merge_and_flatten() -> None:
    merged = merge({"a": {"b": 1, "c": {"d": 2}}, "e": 3}, {"a": {"c": {"d": 4}}, "e": None})
    assert flatten(merged) == {"a.b": 1, "a.c.d": 4, "e": None}


def test_yaml_round_trip(tmp_path: Path) -> None:
    values = {"z": "über: {x}", "a": [1, None, "no"], "text": "1e3"}
    path = tmp_path / "c.yaml"
    path.write_bytes(to_yaml(values))
    assert read_yaml(path)[0] == values
