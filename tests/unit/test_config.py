from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import pytest

from selfinstruct.config import assign, build, flatten, merge, read_yaml, to_plain, to_yaml
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

    def __post_init__(self) -> None:
        if self.threshold > 1:
            raise ValueError("threshold must be at most 1")


def test_values_make_options_and_options_values() -> None:
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
def test_what_is_wrong_is_named(values: dict, says: str, key: str) -> None:
    with pytest.raises(ConfigError, match=says) as caught:
        build(Options, values, "a")
    assert caught.value.key == key


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


def test_files_know_the_lines_of_their_keys(tmp_path: Path) -> None:
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


def test_yaml_written_is_yaml_read(tmp_path: Path) -> None:
    values = {"z": "über: {x}", "a": [1, None, "no"], "text": "1e3"}
    path = tmp_path / "c.yaml"
    path.write_bytes(to_yaml(values))
    assert read_yaml(path)[0] == values
