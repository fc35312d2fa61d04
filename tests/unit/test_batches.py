"""What the openai-batch backend knows without a network: its notes, its files of results, its options."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest

from selfinstruct.backends import BatchBackend, open_backend
from selfinstruct.backends.batch import journal as batches
from selfinstruct.backends.batch.backend import OpenAIBatchOptions, _words
from selfinstruct.backends.batch.client import BatchApi
from selfinstruct.backends.batch.journal import BatchJournal, Lines, custom_id, is_name
from selfinstruct.common.config import build
from selfinstruct.engine.plan import make_plan
from selfinstruct.errors import BackendError, ConfigError
from selfinstruct.prompts import Prompts
from selfinstruct.records import Request, Sampling


def test_notes_come_back_as_they_were_and_a_request_is_in_its_newest_batch_alone(tmp_path: Path) -> None:
    notes = BatchJournal.read(tmp_path)
    first = notes.begin(["0-a", "1-b"])
    first.id = "batch_1"
    notes.put(first, "collected")
    notes.begin(["1-b", "2-c"])
    again = BatchJournal.read(tmp_path)
    assert again == notes
    assert [(one.requests, one.state, one.id) for one in again.batches] == [
        (["0-a"], "collected", "batch_1"),
        (["1-b", "2-c"], "void", ""),
    ]
    again.drop(["2-c", "9-z"])
    assert [one.requests for one in again.batches] == [["2-c"]]


@pytest.mark.parametrize(
    "text", ["", "{", "[]", '{"run": "x", "batches": [{"mark": "m"}]}', '{"batches": 7, "run": 1}']
)
def test_damaged_notes_are_told(tmp_path: Path, text: str) -> None:
    (tmp_path / "batches.json").write_text(text)
    with pytest.raises(BackendError, match=r"batches\.json: it is damaged; .*restore it, or remove it"):
        BatchJournal.read(tmp_path)


def lines(pieces: list[bytes]) -> list[Any]:
    found: list[Any] = []
    reader = Lines(found.append)
    for piece in pieces:
        reader.feed(piece)
    reader.end()
    return found


@pytest.mark.parametrize("size", [1, 2, 7, 1000])
def test_results_are_cut_at_line_feeds_wherever_the_pieces_end(size: int) -> None:
    values = [{"custom_id": str(number), "text": "\u2028é\u0085" * number} for number in range(5)]
    raw = b"\n\n".join(json.dumps(value, ensure_ascii=False).encode() for value in values)
    pieces = [raw[place : place + size] for place in range(0, len(raw), size)]
    assert lines(pieces) == values


def test_a_line_without_end_is_passed_over_and_a_file_without_end_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(batches, "_MOST_LINE", 100)
    monkeypatch.setattr(batches, "_MOST_RESULTS", 5000)
    endless = [b'{"a": "', *[b"x" * 40] * 50, b'"}\n', b'{"b": 1}\n', b'{"c": ', b"2}"]
    assert lines(endless) == [{"b": 1}, {"c": 2}]
    assert lines([b'{"a": "' + b"x" * 200 + b'"}\n{"b": 1}\n']) == [{"b": 1}], "in one piece as well"
    with pytest.raises(BackendError, match="a file of results has more than"):
        lines([b"x" * 40] * 200)


@pytest.mark.parametrize("name", ["", ".", "..", "a/b", "../x", "a?b", "a b", "a\n", 7, None, "x" * 201])
def test_names_that_could_lead_elsewhere_are_none(name: object) -> None:
    assert not is_name(name)
    assert is_name("batch_6a1b-C.9:0")


def test_a_custom_id_tells_requests_and_bodies_apart() -> None:
    prompts = Prompts({"t": "$text"}, "chat")
    one, other = (Request("s", prompts.turns("t", text=text), Sampling(9), number=3) for text in "ab")
    names = {custom_id(one, {"model": "m"}), custom_id(one, {"model": "n"}), custom_id(other, {"model": "m"})}
    assert len(names) == 3
    assert all(name.startswith("3-") and len(name) <= 64 for name in names)


@pytest.mark.parametrize("wrong", [{"batch_size": 0}, {"batch_size": 50_001}, {"poll_s": 0}, {"concurrency": 0}])
def test_options_out_of_range(wrong: dict[str, Any]) -> None:
    with pytest.raises(ConfigError):
        build(OpenAIBatchOptions, wrong, "openai-batch")


def test_a_run_in_batches_has_a_longer_line_unless_one_is_given(tmp_path: Path) -> None:
    batch = {"backend": "openai-batch", "openai-batch": {"model": "m"}}
    assert make_plan(batch).settings.lag == OpenAIBatchOptions.LAG == OpenAIBatchOptions().concurrency
    assert make_plan({**batch, "lag": 64}).settings.lag == 64
    assert make_plan({"backend": "openai", "openai": {"model": "m"}}).settings.lag == 256


def test_only_batches_go_on_without_us() -> None:
    assert isinstance(open_backend("openai-batch", OpenAIBatchOptions()), BatchBackend)
    assert not isinstance(open_backend("openai", OpenAIBatchOptions()), BatchBackend)


def test_a_key_in_a_batchs_error_is_hidden_before_the_text_is_cut() -> None:
    """Of a short key only the whole is hidden: half of it would be told."""
    key = "hunter2pass1234"
    for place in range(280, 300):
        said = _words({"code": "c", "message": "x" * place + key}, lambda text: text.replace(key, "[key]"))
        assert "hunter" not in said


class Lists:
    """A server that lists a batch from the third time on."""

    def __init__(self) -> None:
        self.asked = 0

    def hide(self, text: str) -> str:
        return text

    async def call(self, *_: Any, **__: Any) -> tuple[int, dict[str, str], bytes]:
        self.asked += 1
        metadata = {"selfinstruct_run": "r", "selfinstruct_batch": "mark"}
        data = [] if self.asked < 3 else [{"id": "batch_1", "metadata": metadata}]
        return 200, {}, json.dumps({"data": data, "has_more": False}).encode()


def test_a_batch_that_is_not_listed_yet_is_not_written_off_because_somebody_leaves(tmp_path: Path) -> None:
    async def main() -> None:
        server: Any = Lists()
        api = BatchApi(server, BatchJournal(tmp_path / "batches.json", run="r"), 30.0, lambda _: None)
        api.leaving.set()
        with pytest.raises(BackendError, match="give the same command"):
            await api.found(["mark"])

    asyncio.run(main())
