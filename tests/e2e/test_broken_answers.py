"""Answers that were cut, failed or begin with a thought, from a real server to the dataset, in every strategy."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

from selfinstruct import generate, open_run
from selfinstruct.api import GenerateResult
from selfinstruct.common.codec import digest
from tests.golden.make import APIS
from tests.loopback import Loopback, Reply
from tests.scripted import SETTINGS, reply

BROKEN = "UNFINISHED"
"""A word in every text that no row may hold."""

ENDINGS = {
    "length": "truncated",
    "model_length": "ended_model_length",
    "MAX_TOKENS": "ended_max_tokens",
    "content_filter": "ended_content_filter",
    "repetition": "ended_repetition",
    "tool_calls": "ended_tool_calls",
    "SAFETY": "ended_safety",
    None: "ended_unknown",
}
GOOD = ("stop", "STOP", "eos", "eos_token", "stop_sequence", "end_turn", "endTurn", "COMPLETE", "FINISH_REASON_STOP")

Model = Callable[[dict[str, Any]], Any]


def run(folder: Path, name: str, model: Model, **settings: Any) -> GenerateResult:
    """Run a strategy on a model and return the result."""
    section = {"model": "scripted", "api": APIS[name], **settings.pop("openai", {})}
    with Loopback(model) as server:
        values = {"strategy": name, **SETTINGS[name], "lag": 8, "n": 5, "patience": 40, **settings}
        return generate(folder, {**values, "backend": "openai", "openai": {**section, "base_url": server.url}})


def replies(body: Mapping[str, Any]) -> list[Reply]:
    """Return the scripted replies to a request."""
    scripted = reply(body)
    listed = scripted if isinstance(scripted, list) else [scripted]
    return [each if isinstance(each, Reply) else Reply(each) for each in listed]


def is_broken(body: Mapping[str, Any], share: int = 2) -> bool:
    """Choose one of ``share`` requests, by their content."""
    return int(digest(json.dumps(body, sort_keys=True).encode())[:8], 16) % share == 0


def cut(ending: str | None) -> Model:
    """Return a model that cuts every other answer in the middle."""

    def model(body: dict[str, Any]) -> Any:
        if not is_broken(body):
            return replies(body)
        return [Reply(f"{each.text[: len(each.text or '') // 2]} {BROKEN}", ending) for each in replies(body)]

    return model


def texts_of_rows(folder: Path) -> str:
    """Return everything that the dataset of a run holds, as one text."""
    return "\n".join(path.read_text() for path in (folder / "dataset").glob("*.jsonl"))


CASES = [
    *((name, ending) for name in ("alpaca", "respond") for ending in ENDINGS),
    *(
        (name, ending)
        for name in sorted(APIS.keys() - {"alpaca", "respond"})
        for ending in ("model_length", "repetition")
    ),
]
"""Every ending in two strategies, and two endings in every strategy."""


@pytest.mark.parametrize(("name", "ending"), CASES, ids=str)
def test_no_row_is_made_from_a_cut_answer(name: str, ending: str | None, tmp_path: Path) -> None:
    result = run(tmp_path, name, cut(ending), openai={"api": "completion" if name == "magpie" else APIS[name]})
    assert BROKEN not in texts_of_rows(tmp_path)
    reasons = {**result.stats.rejected, **result.stats.discarded}
    assert reasons[ENDINGS[ending]] > 0
    assert open_run(tmp_path).status().stats == result.stats


@pytest.mark.parametrize("ending", GOOD)
def test_every_word_for_a_natural_end_is_a_complete_answer(ending: str, tmp_path: Path) -> None:
    expected = run(tmp_path / "stop", "respond", lambda body: [Reply(each.text) for each in replies(body)])
    result = run(tmp_path / "other", "respond", lambda body: [Reply(each.text, ending) for each in replies(body)])
    assert result.exported.path.read_bytes() == expected.exported.path.read_bytes()
    assert len(result.rows) == 5


def test_a_server_that_names_no_ending_is_accepted_on_request(tmp_path: Path) -> None:
    def silent(body: Any) -> list[Any]:
        return [Reply(each.text, None) for each in replies(body)]

    assert not run(tmp_path / "refused", "respond", silent).rows
    assert len(run(tmp_path / "accepted", "respond", silent, accept_endings=["unknown"]).rows) == 5
