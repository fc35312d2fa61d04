"""Magpie over real HTTP: same bytes at any concurrency and after a stop, and every turn can be explained."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from selfinstruct import generate
from selfinstruct.common.rng import Rng
from tests.cli import dataset, run_cli
from tests.loopback import Loopback, Reply
from tests.scripted import WORDS

USER, ANSWER, END = "<|im_start|>user\n", "<|im_start|>assistant\n", "<|im_end|>\n"


def answer(body: dict[str, Any]) -> str | Reply:
    """A model of the template chatml that goes on wherever its prompt ends; some turns are flawed."""
    rng = Rng("magpie", json.dumps(body, sort_keys=True))
    text = " ".join(rng.sample(WORDS, 12))
    flaw = rng.random()
    if flaw < 0.1:
        return f"{text}{END}{ANSWER}{text}"
    if flaw < 0.2:
        return Reply(text, "length")
    if flaw < 0.25:
        return " \n"
    raw = body.get("prompt")
    return f"  What of {text}?" if raw is not None and raw.endswith(USER) else f"\n{text}.\n"


def settings(url: str, turns: int, answers: str, **more: Any) -> dict[str, Any]:
    section = {"template": "chatml", "turns": turns, "answer": {"max_tokens": 90, "api": answers}}
    return {
        "strategy": "magpie",
        "backend": "openai",
        "magpie": section,
        "openai": {"model": "m", "api": "completion", "base_url": url},
        "n": 12,
        "seed": 3,
        **more,
    }


@pytest.mark.parametrize(("turns", "answers", "layout"), [(1, "completion", "alpaca"), (2, "chat", "messages")])
def test_a_run_is_the_same_at_any_concurrency_and_after_a_stop(
    tmp_path: Path, turns: int, answers: str, layout: str
) -> None:
    with Loopback(answer) as server:
        result = generate(tmp_path / "a", settings(server.url, turns, answers, concurrency=1))
        bodies = [arrived.body for arrived in server.arrived]
        generate(tmp_path / "b", settings(server.url, turns, answers, concurrency=8))
        stopped = settings(server.url, turns, answers, concurrency=8, budget={"max_requests": 20})
        assert generate(tmp_path / "c", stopped).ending == "budget"
        generate(tmp_path / "c", {"budget": {"max_requests": None}})
    assert (result.ending, result.exported.path.name) == ("complete", f"{layout}.jsonl")
    assert dataset(tmp_path / "a", layout) == dataset(tmp_path / "b", layout) == dataset(tmp_path / "c", layout)
    assert {"special_tokens", "truncated"} <= result.stats.rejected.keys()
    assert result.stats.discarded["empty"]

    rows = [json.loads(line) for line in dataset(tmp_path / "a", layout).splitlines()]
    assert len(rows) == 12
    assert "<|" not in json.dumps(rows), "no row spells a special token"
    firsts = [body for body in bodies if body.get("prompt") == USER]
    assert len(firsts) > 12
    assert {(body["temperature"], body["top_p"], tuple(body["stop"])) for body in firsts} == {
        (1.0, 1.0, ("<|im_end|>", "<|im_start|>", "\n"))
    }
    assert len({body["seed"] for body in firsts}) == len(firsts)
    if turns == 1:
        prompt = f"{USER}{rows[0]['instruction']}{END}{ANSWER}"
        assert prompt in [body["prompt"] for body in bodies]
    else:
        said = [(one["role"], one["content"]) for one in rows[0]["messages"]]
        assert [role for role, _ in said] == ["user", "assistant", "user", "assistant"]
        (_, first), (_, given), (_, second), _ = said
        assert f"{USER}{first}{END}{ANSWER}{given}{END}{USER}" in [body.get("prompt") for body in bodies]
        wanted = [{"role": role, "content": text} for role, text in said[:3]]
        assert wanted in [body.get("messages") for body in bodies]
        assert second.startswith("What of ")

    generate(tmp_path / "d", {"backend": "replay", "replay": {"source": str(tmp_path / "a")}})
    assert dataset(tmp_path / "d", layout) == dataset(tmp_path / "a", layout)


def test_a_rejected_turn_is_explained(tmp_path: Path) -> None:
    with Loopback(answer) as server:
        generate(tmp_path / "a", settings(server.url, 2, "completion"))
    run_cli("export", tmp_path / "a", "--format", "candidates")
    judged = [json.loads(line) for line in dataset(tmp_path / "a", "candidates").splitlines()]
    forged = [one for one in judged if one["reason"] == "special_tokens"]
    assert {one["stage"] for one in forged} == {"instruction", "answer"}
    later = next(one for one in judged if one["stage"] == "instruction" and one["parent"] is not None)
    for one in (forged[0], later):
        page = run_cli("explain", tmp_path / "a", one["id"])
        assert f"candidate {one['id']}: rejected, {one['reason']}" in page
        assert f"turn: rejected, {one['reason']}" in page
    page = run_cli("explain", tmp_path / "a", 1)
    assert page.count("(from magpie/instruction.txt)") == 2
    assert page.count("turn: kept") >= 2
    assert "special_tokens" in run_cli("status", tmp_path / "a")
