"""The capabilities that each backend declares, and the table of them in the documentation."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from selfinstruct.backends import Capabilities, backend_names, backend_spec
from selfinstruct.common.config import build
from selfinstruct.engine.checks import check_choices, check_raw, check_schemas
from selfinstruct.engine.methods import Method
from selfinstruct.engine.settings import Settings
from selfinstruct.errors import ConfigError
from selfinstruct.strategies import STRATEGIES, QualityOptions

DOCS = Path(__file__).parents[2] / "docs" / "backends.md"


def test_the_documentation_lists_every_backend_with_its_default_lag() -> None:
    rows = re.findall(r"^\| `([\w-]+)` \| .+ \| (\d+) \|$", DOCS.read_text(), re.MULTILINE)
    lags = {name: str(backend_spec(name).default_lag or Settings.lag) for name in backend_names()}
    assert dict(rows) == lags


@pytest.mark.parametrize("name", backend_names())
def test_a_spec_is_consistent_with_its_options(name: str) -> None:
    spec = backend_spec(name)
    options = build(spec.options, {}, name)
    fields = set(spec.options.__dataclass_fields__)
    assert spec.free_options < fields
    assert options.api in ("chat", "completion")
    capabilities = spec.capabilities(options)
    assert {capabilities.schema_option, capabilities.max_choices_option} - {""} <= fields


@pytest.mark.parametrize(
    ("values", "raw", "apis"),
    [
        ({}, False, {"chat"}),
        ({"api": "completion"}, True, {"chat"}),
        ({"api": "completion", "schema_field": "guided_json"}, True, {"chat", "completion"}),
    ],
)
def test_capabilities_of_an_openai_server_follow_its_options(values: dict, raw: bool, apis: set[str]) -> None:
    for name in ("openai", "openai-batch"):
        spec = backend_spec(name)
        capabilities = spec.capabilities(build(spec.options, values, name))
        assert (capabilities.raw_prompts, capabilities.schema_apis) == (raw, apis)


def test_a_backend_that_declares_nothing_is_refused_for_each_need() -> None:
    """The messages name no option, since such a backend has none."""
    minimal = Capabilities()
    magpie = Method("magpie", "magpie", 1.0, build(STRATEGIES["magpie"].Options, {}, "magpie"))
    with pytest.raises(ConfigError, match="magpie needs raw completions"):
        check_raw("echo", minimal, [magpie])
    with pytest.raises(ConfigError, match="echo can't send chat and completion prompts with a JSON schema"):
        check_schemas("echo", minimal, {"chat", "completion"})
    check_choices(QualityOptions(best_of=9), "echo", minimal)
    with pytest.raises(ConfigError, match="echo returns at most 2: ask for fewer"):
        check_choices(QualityOptions(best_of=9), "echo", Capabilities(max_choices=2))
