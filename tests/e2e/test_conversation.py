"""Runs of conversations against a server: the same bytes at any concurrency, and every command supports them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from finetune.data.rows import read_examples
from selfinstruct import generate
from selfinstruct.cli import cli
from selfinstruct.common.rng import Rng
from selfinstruct.errors import UsageError
from selfinstruct.runs.explain import explain
from selfinstruct.runs.export import export
from selfinstruct.runs.status import status
from tests.cli import dataset
from tests.loopback import Loopback, Reply
from tests.scripted import WORDS, answer

ROWS = 10
MADE = pytest.mark.parametrize(
    ("api", "style", "openings"),
    [("chat", "roles", "new"), ("completion", "roles", "seeds"), ("chat", "self-chat", "seeds"),
     ("completion", "self-chat", "new")],
)  # fmt: skip


def run(*args: object, code: int = 0) -> str:
    """A command in this process: seven of their own would take most of the time."""
    done = CliRunner().invoke(cli, [str(one) for one in args])
    assert done.exit_code == code, done.output
    return done.output


def words(rng: Rng, count: int) -> str:
    return " ".join(rng.sample(WORDS, count))


def question(rng: Rng) -> str:
    flaw = rng.random()
    if flaw < 0.12:
        return "Thanks, that is all. [END]"
    if flaw < 0.2:
        return "As an AI, I have no questions."
    return f"What of the {words(rng, 5)}?"


def told(rng: Rng) -> str:
    return f"It has {words(rng, 8)}.\n\nAnd {words(rng, 3)}." if rng.random() > 0.05 else ""


def reply(body: dict[str, Any]) -> str | Reply:
    """A model that plays either role, by the prompt alone; now and then it falls out of it."""
    said = body["messages"] if "messages" in body else [{"role": "user", "content": body["prompt"]}]
    rng = Rng("conversation", json.dumps(said))
    first, last = said[0]["content"], said[-1]["content"].rstrip().splitlines()[-1]
    if last.rstrip(".").isdigit():
        return (last if "messages" in body else "") + answer(said[-1]["content"])
    if first.startswith("Write the rest"):
        return told(rng) + "".join(f"\nUser: {question(rng)}\nAssistant: {told(rng)}" for _ in range(rng.below(5)))
    asks = first.startswith("Let us change roles") or (first.startswith("Below a user") and last == "User:")
    text = question(rng) if asks else told(rng)
    return Reply(text, "length") if rng.random() < 0.04 else text


def settings(url: str, api: str, style: str, openings: str, **more: Any) -> dict[str, Any]:
    return {
        "strategy": "conversation", "conversation": {"style": style, "openings": openings, "max_rounds": 3},
        "backend": "openai", "openai": {"model": "scripted", "base_url": url, "api": api}, "n": ROWS, "lag": 10, **more,
    }  # fmt: skip


@MADE
def test_the_same_bytes_at_any_concurrency_and_after_a_stop(
    tmp_path: Path, api: str, style: str, openings: str
) -> None:
    with Loopback(reply) as server:
        made = settings(server.url, api, style, openings)
        whole = generate(tmp_path / "a", {**made, "concurrency": 8})
        arrived = len(server.arrived)
        generate(tmp_path / "b", {**made, "concurrency": 1})
        half = generate(tmp_path / "c", {**made, "budget": {"max_requests": arrived // 2}})
        assert half.ending == "budget"
        generate(tmp_path / "c", {**made, "budget": {"max_requests": 10 * arrived}})
    assert whole.ending == "complete"
    for name in ("messages.jsonl", "manifest.json"):
        one, other, third = ((tmp_path / run / "dataset" / name).read_bytes() for run in "abc")
        assert one == other == third
    rows = [json.loads(line)["messages"] for line in dataset(tmp_path / "a", "messages").splitlines()]
    assert len(rows) == ROWS
    assert {len(row) // 2 for row in rows} >= {2, 3}
    for row in rows:
        assert [one["role"] for one in row] == ["user", "assistant"] * (len(row) // 2)
    found = status(tmp_path / "a", verify=True)
    assert found.complete
    assert found.stats.rejected["too_few_rounds"]
    table = found.stats.tables["conversations"]
    assert set(table) <= {f"{n} rounds" for n in (0, 2, 3)} | {"1 round"}
    kept = sum(sum(counts.values()) for line, counts in table.items() if line[0] in "23")
    assert kept >= ROWS


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("conversation") / "run"
    with Loopback(reply) as server:
        generate(folder, settings(server.url, "chat", "roles", "new"))
    return folder


def test_a_row_is_explained_with_every_message_that_led_to_it(made: Path) -> None:
    rows = [json.loads(line)["messages"] for line in dataset(made, "messages").splitlines()]
    place = max(range(ROWS), key=lambda place: len(rows[place])) + 1
    found = explain(made, str(place))
    row = rows[place - 1]
    stages = [step.request.stage for step in found.steps]
    assert stages[:2] == ["opening", "assistant"]
    assert stages[2:] == (["user", "assistant"] * len(row))[: len(stages) - 2]
    assert found.steps[-1].candidate.verdicts[0].filter == "conversation"
    page = run("explain", made, place)
    for one in row:
        assert f"  {one['role'] + ':':<13}{one['content'].splitlines()[0]}" in page
    assert f"conversation: {len(row) // 2} kept" in page
    values = json.loads(run("explain", made, place, "--json"))
    assert values["messages"] == [[one["role"], one["content"]] for one in row]


def test_a_rejected_conversation_is_explained_with_its_reason(made: Path) -> None:
    export(made, "candidates")
    listed = [json.loads(line) for line in dataset(made, "candidates").splitlines()]
    bad = next(one for one in listed if one["reason"] == "too_few_rounds")
    page = run("explain", made, bad["id"])
    assert "rejected, too_few_rounds" in page
    assert "⟦⟧" not in page
    assert "As an AI" in run("explain", made, next(one["id"] for one in listed if one["reason"] == "role_confusion"))


def test_every_command_supports_conversations(made: Path, tmp_path: Path) -> None:
    lines = dataset(made, "messages").splitlines()
    (made / "dataset/messages.jsonl").unlink()
    with pytest.raises(UsageError) as caught:
        read_examples(made)
    told = str(caught.value).partition("write it by: selfinstruct ")[2]
    run(*told.split())
    assert dataset(made, "messages").splitlines() == lines, "what it advises to do helps"
    said = run("export", made, "--format", "alpaca", code=2)
    assert "this run has conversations; export them as messages or sharegpt" in said
    run("export", made, "--format", "sharegpt")
    first = json.loads(dataset(made, "sharegpt").splitlines()[0])["conversations"]
    assert [(one["from"], one["value"]) for one in first] == [
        ({"user": "human", "assistant": "gpt"}[one["role"]], one["content"]) for one in json.loads(lines[0])["messages"]
    ]
    assert "conversation" in run("runs", made.parent)
    page = run("status", made)
    assert "  conversations\n" in page
    assert "as planned" in page
    assert f"{ROWS} rows in both, 0 in" in run("diff", made, made)
    twice = tmp_path / "twice.jsonl"
    twice.write_bytes(b"\n".join([*lines, lines[0]]) + b"\n")
    run("filter", twice, "-o", tmp_path / "kept.jsonl")
    kept = (tmp_path / "kept.jsonl").read_bytes().splitlines()
    assert 0 < len(kept) <= ROWS
    assert set(kept) <= set(lines)


def test_a_run_s_folder_is_read_by_the_trainer_and_by_datasets(made: Path, tmp_path: Path) -> None:
    datasets = pytest.importorskip("datasets")
    rows = [json.loads(line)["messages"] for line in dataset(made, "messages").splitlines()]
    read = read_examples(made)
    assert not read.skipped
    assert [[(turn.role, turn.content) for turn in one.turns] for one in read.examples] == [
        [(one["role"], one["content"]) for one in row] for row in rows
    ]
    path = str(made / "dataset" / "messages.jsonl")
    loaded = datasets.load_dataset("json", data_files=path, split="train", cache_dir=str(tmp_path))
    assert [row["messages"] for row in loaded] == rows


def test_an_alpaca_file_is_removed_once_the_run_has_conversations(tmp_path: Path) -> None:
    path = tmp_path / "tasks.jsonl"
    path.write_text("".join(json.dumps({"instruction": f"Question {word}?"}) + "\n" for word in WORDS[:12]))

    def answer(body: dict[str, Any]) -> str:
        rng = Rng("answer", json.dumps(body["messages"]))
        return " ".join(rng.choice(WORDS) for _ in range(6))

    with Loopback(answer) as server:
        backend = {"model": "m", "base_url": server.url, "api": "chat"}
        entries = [{"name": "conversation", "openings": "seeds"}, {"name": "respond"}]
        given = {"strategies": entries, "seeds": str(path), "backend": "openai", "openai": backend}
        rows = generate(tmp_path / "a", {**given, "n": 2}).rows
        assert not any(row.candidate.messages for row in rows), "the first answers are single ones"
        export(tmp_path / "a", "alpaca")
        result = generate(tmp_path / "a", {"n": 14})
    assert any(row.candidate.messages for row in result.rows)
    assert len(dataset(tmp_path / "a", "messages").splitlines()) == len(result.rows) > 2
    assert not (tmp_path / "a/dataset/alpaca.jsonl").exists()
    manifest = json.loads((tmp_path / "a/dataset/manifest.json").read_text())
    assert set(manifest["files"]) == {"messages.jsonl"}


@pytest.mark.parametrize("style", ["roles", "self-chat"])
def test_a_wrong_first_answer_to_a_seed_with_a_verifier_ends_the_conversation(tmp_path: Path, style: str) -> None:
    """Every other sum is wrong, and the answers that follow would be wrong by the verifier as well."""
    seeds = tmp_path / "seeds.jsonl"
    sums = range(10, 18)
    lines = [{"instruction": f"What is {one} + 1 ?", "verifier": {"kind": "number", "value": one + 1}} for one in sums]
    seeds.write_text("".join(f"{json.dumps(line)}\n" for line in lines))

    def model(body: dict[str, Any]) -> str:
        said = body["messages"]
        asked = next(part for one in said for part in one["content"].splitlines() if "What is" in part)
        number = next(int(word) for word in asked.split() if word.isdigit())
        rng = Rng("sum", json.dumps(said))
        rounds = [f"It is {number + 1 + number % 2}, of {words(rng, 6)}: {number + 1 + number % 2}"]
        rounds += [f"What of the {words(rng, 5)}?", f"It has 5 {words(rng, 8)}"]
        if style == "self-chat":
            return f"{rounds[0]}\nUser: {rounds[1]}\nAssistant: {rounds[2]}"
        if said[0]["content"].startswith("Let us"):
            return rounds[1]
        return rounds[0] if len(said) == 1 else rounds[2]

    with Loopback(model) as server:
        made = settings(server.url, "chat", style, "seeds", seeds=str(seeds))
        made["conversation"]["max_rounds"] = 2
        result = generate(tmp_path / "run", made)
        asked = len(server.arrived)
    assert result.ending == "exhausted"
    assert [row.candidate.instruction for row in result.rows] == [f"What is {one} + 1 ?" for one in sums if one % 2 < 1]
    assert result.stats.rejected == {"wrong_answer": 4}
    assert asked == (4 * 3 + 4 if style == "roles" else 8), "a conversation that began wrong goes no further"
    assert all("verifier" not in json.loads(line) for line in dataset(tmp_path / "run", "messages").splitlines())
    assert status(tmp_path / "run", verify=True).stats.rejected == {"wrong_answer": 4}
    export(tmp_path / "run", "candidates")
    listed = [json.loads(line) for line in dataset(tmp_path / "run", "candidates").splitlines()]
    bad = next(one["id"] for one in listed if one["reason"] == "wrong_answer")
    page = run("explain", tmp_path / "run", bad)
    assert "conversation: 1 rejected, wrong_answer" in page
    assert '  verifier: rejected, wrong_answer\n    number: expected 12, found "13"' in page
    assert "⟦It is 13" in page


def test_equal_conversations_are_the_same_row(tmp_path: Path) -> None:
    """A second task whose conversation goes as the first one's is a duplicate of the whole, not of its end."""
    seeds = tmp_path / "seeds.jsonl"
    lines = [{"instruction": f"Tell me of {what}", "output": "x"} for what in ("ships", "ships and boats", "ships")]
    seeds.write_text("".join(f"{json.dumps(line)}\n" for line in lines))

    def model(body: dict[str, Any]) -> str:
        said = [one["content"] for one in body["messages"]]
        return f"There is {words(Rng(*said), 6)}."

    with Loopback(model) as server:
        made = settings(server.url, "chat", "roles", "seeds", seeds=str(seeds))
        made["conversation"]["max_rounds"] = 2
        result = generate(tmp_path / "run", made)
    assert result.ending == "exhausted"
    assert len(result.rows) == 2
    assert result.stats.rejected == {"near_duplicate": 1}
