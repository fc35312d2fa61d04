"""The openai-batch backend without a network: its journal, its files of results, its options."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest

from selfinstruct.backends import BatchBackend, backend_spec, open_backend
from selfinstruct.backends.batch import journal as journal_module
from selfinstruct.backends.batch.backend import OpenAIBatchOptions
from selfinstruct.backends.batch.client import BatchApi
from selfinstruct.backends.batch.journal import BatchJournal, ResultLines, custom_id, is_valid_id
from selfinstruct.backends.batch.refusals import error_text
from selfinstruct.common.config import build
from selfinstruct.engine.plan import make_plan
from selfinstruct.errors import BackendError, ConfigError
from selfinstruct.prompts import Prompts
from selfinstruct.records import Request, Sampling


def test_the_journal_is_read_back_unchanged_and_a_request_is_in_its_newest_batch_only(tmp_path: Path) -> None:
    journal = BatchJournal.read(tmp_path)
    first = journal.begin(["0-a", "1-b"])
    first.id = "batch_1"
    journal.set_state(first, "collected")
    journal.begin(["1-b", "2-c"])
    again = BatchJournal.read(tmp_path)
    assert again == journal
    assert [(batch.requests, batch.state, batch.id) for batch in again.batches] == [
        (["0-a"], "collected", "batch_1"),
        (["1-b", "2-c"], "void", ""),
    ]
    again.keep_only(["2-c", "9-z"])
    assert [batch.requests for batch in again.batches] == [["2-c"]]


@pytest.mark.parametrize(
    "text", ["", "{", "[]", '{"run": "x", "batches": [{"mark": "m"}]}', '{"batches": 7, "run": 1}']
)
def test_a_damaged_journal_is_reported(tmp_path: Path, text: str) -> None:
    (tmp_path / "batches.json").write_text(text)
    with pytest.raises(BackendError, match=r"batches\.json: it is damaged; .*restore it, or remove it"):
        BatchJournal.read(tmp_path)


def split(pieces: list[bytes]) -> list[Any]:
    values: list[Any] = []
    lines = ResultLines(values.append)
    for piece in pieces:
        lines.feed(piece)
    lines.end()
    return values


@pytest.mark.parametrize("size", [1, 2, 7, 1000])
def test_results_are_split_at_line_feeds_wherever_the_pieces_end(size: int) -> None:
    values = [{"custom_id": str(number), "text": "\u2028é\u0085" * number} for number in range(5)]
    raw = b"\n\n".join(json.dumps(value, ensure_ascii=False).encode() for value in values)
    pieces = [raw[start : start + size] for start in range(0, len(raw), size)]
    assert split(pieces) == values


def test_a_line_above_the_limit_is_skipped_and_a_file_above_the_limit_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(journal_module, "_MAX_LINE", 100)
    monkeypatch.setattr(journal_module, "_MAX_RESULTS", 5000)
    too_long = [b'{"a": "', *[b"x" * 40] * 50, b'"}\n', b'{"b": 1}\n', b'{"c": ', b"2}"]
    assert split(too_long) == [{"b": 1}, {"c": 2}]
    assert split([b'{"a": "' + b"x" * 200 + b'"}\n{"b": 1}\n']) == [{"b": 1}], "in one piece as well"
    with pytest.raises(BackendError, match="a file of results has more than"):
        split([b"x" * 40] * 200)


@pytest.mark.parametrize("name", ["", ".", "..", "a/b", "../x", "a?b", "a b", "a\n", 7, None, "x" * 201])
def test_ids_that_would_change_a_path_are_invalid(name: object) -> None:
    assert not is_valid_id(name)
    assert is_valid_id("batch_6a1b-C.9:0")


def test_custom_ids_differ_by_request_and_by_body() -> None:
    prompts = Prompts({"t": "$text"}, "chat")
    first, second = (Request("s", prompts.turns("t", text=text), Sampling(9), number=3) for text in "ab")
    ids = {custom_id(first, {"model": "m"}), custom_id(first, {"model": "n"}), custom_id(second, {"model": "m"})}
    assert len(ids) == 3
    assert all(name.startswith("3-") and len(name) <= 64 for name in ids)


@pytest.mark.parametrize("wrong", [{"batch_size": 0}, {"batch_size": 50_001}, {"poll_s": 0}, {"concurrency": 0}])
def test_options_out_of_range(wrong: dict[str, Any]) -> None:
    with pytest.raises(ConfigError):
        build(OpenAIBatchOptions, wrong, "openai-batch")


def test_the_default_lag_with_batches_is_the_concurrency(tmp_path: Path) -> None:
    settings = {"backend": "openai-batch", "openai-batch": {"model": "m"}}
    assert make_plan(settings).settings.lag == backend_spec("openai-batch").default_lag
    assert make_plan(settings).settings.lag == OpenAIBatchOptions().concurrency
    assert make_plan({**settings, "lag": 64}).settings.lag == 64
    assert make_plan({"backend": "openai", "openai": {"model": "m"}}).settings.lag == 256


def test_only_the_batch_backend_is_a_batch_backend() -> None:
    assert isinstance(open_backend("openai-batch", OpenAIBatchOptions()), BatchBackend)
    assert not isinstance(open_backend("openai", OpenAIBatchOptions()), BatchBackend)


def test_a_key_in_a_batchs_error_is_hidden_before_the_text_is_cut() -> None:
    """A short key is hidden only in full, so half of it would be shown."""
    key = "hunter2pass1234"
    for position in range(280, 300):
        error = {"code": "c", "message": "x" * position + key}
        assert "hunter" not in error_text(error, lambda text: text.replace(key, "[key]"))


class LateListing:
    """A server that lists a batch from the third call on."""

    def __init__(self) -> None:
        self.calls = 0

    def hide(self, text: str) -> str:
        return text

    async def call(self, *_: Any, **__: Any) -> tuple[int, dict[str, str], bytes]:
        self.calls += 1
        metadata = {"selfinstruct_run": "r", "selfinstruct_batch": "mark"}
        data = [] if self.calls < 3 else [{"id": "batch_1", "metadata": metadata}]
        return 200, {}, json.dumps({"data": data, "has_more": False}).encode()


def test_a_batch_that_is_not_listed_yet_is_not_given_up_when_waiting_stops(tmp_path: Path) -> None:
    async def main() -> None:
        server: Any = LateListing()
        api = BatchApi(server, BatchJournal(tmp_path / "batches.json", run="r"), 30.0, lambda _: None)
        api.detached.set()
        with pytest.raises(BackendError, match="run the same command again"):
            await api.find_batches(["mark"])

    asyncio.run(main())
