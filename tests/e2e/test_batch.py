"""The openai-batch backend against a server with a Batch API: whole runs, restarts, and faults of the server."""

from __future__ import annotations

import json
import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from selfinstruct import generate
from selfinstruct.backends.batch.journal import JOURNAL_FILE
from selfinstruct.errors import BackendError, LedgerError
from selfinstruct.ledger import Reader, Spending
from selfinstruct.runs.status import status
from tests.batches import Batches, Script
from tests.conftest import Promise
from tests.crash.test_kill import Life, Nursery, commits, made, number_of
from tests.loopback import Body, Fault, Loopback
from tests.scripted import reply

ROWS = 60  # of alpaca: batches of 8, 16 and 32
QUICK = {"poll_s": 0.02}


def settings(url: str, backend: str = "openai-batch", **more: Any) -> dict[str, Any]:
    section = {"base_url": url, "model": "scripted", "api": "completion", **(QUICK if "batch" in backend else {})}
    section |= more.pop("section", {})
    return {"backend": backend, "strategy": "alpaca", "n": ROWS, "lag": 2048, backend: section, **more}


def args(run: Path, url: str, *more: object) -> list[object]:
    quick = [part for name, value in QUICK.items() for part in ("--set", f"openai-batch.{name}={value}")]
    return ["generate", run, "--backend", "openai-batch", "--model", "scripted", "--base-url", url, "--api",
            "completion", "--strategy", "alpaca", "-n", ROWS, "-q", *quick, *more]  # fmt: skip


@pytest.fixture(scope="module")
def nursery() -> Iterator[Nursery]:
    with Nursery() as nursery:
        yield nursery


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> tuple[bytes, bytes]:
    """Dataset and manifest of the same run with the openai backend."""
    folder = tmp_path_factory.mktemp("plain")
    with Loopback(reply) as server:
        generate(folder, settings(server.url, "openai"))
    return made(folder)


@pytest.fixture(scope="module")
def spent(tmp_path_factory: pytest.TempPathFactory) -> Spending:
    """The spending of a run without interruptions."""
    folder = tmp_path_factory.mktemp("spent")
    with Batches(reply) as server:
        generate(folder, settings(server.url))
    return spending(folder)


def spending(run: Path) -> Spending:
    with Reader(run) as reader:
        return reader.spending()


def executed_once(server: Batches) -> bool:
    """Return whether each request was executed exactly once."""
    return set(server.executed.values()) == {1}


def journal(run: Path) -> dict[str, Any]:
    return json.loads((run / JOURNAL_FILE).read_bytes())


def states(run: Path) -> list[str]:
    return [batch["state"] for batch in journal(run)["batches"]]


def stopped_in(batch: int) -> Script:
    """Return a script that never ends a batch, and interrupts the test's own process at the second status query."""
    script = Script(created=lambda number: script.hold.clear() if number == batch else None)

    def fault(method: str, path: str, times: int) -> None:
        if (path, times) == (f"/batches/batch_{batch}", 2):
            os.kill(os.getpid(), signal.SIGINT)

    script.fault = fault
    return script


@contextmanager
def killed_when(life: Life, condition: threading.Event) -> Iterator[None]:
    """Kill the process as soon as the condition is set."""
    watch = threading.Thread(target=lambda: condition.wait(60) and life.kill())
    watch.start()
    yield
    watch.join()


@pytest.mark.parametrize(("strategy", "api"), [("alpaca", "completion"), ("self-instruct", "chat")])
def test_a_run_in_batches_writes_the_same_bytes_as_one_without(tmp_path: Path, strategy: str, api: str) -> None:
    more = {"strategy": strategy, "section": {"api": api}, "n": 25}
    with Batches(reply, Script(looks=lambda number: 3)) as server:
        result = generate(tmp_path / "batch", settings(server.url, **more))
    with Loopback(reply) as other:
        more["section"] = {"api": api}
        generate(tmp_path / "plain", settings(other.url, "openai", strategy=strategy, section={"api": api}, n=25))
    assert result.ending == "complete"
    assert made(tmp_path / "batch") == made(tmp_path / "plain")
    assert executed_once(server)
    sizes = [len(batch.lines) for batch in server.batches]
    assert sizes == [8 << step for step in range(len(sizes))], "one batch for each step of the scheduler's slow start"
    assert len({batch.shown["metadata"]["selfinstruct_run"] for batch in server.batches}) == 1
    assert len({batch.shown["metadata"]["selfinstruct_batch"] for batch in server.batches}) == len(sizes)
    plain_body = {json.dumps(call.body, sort_keys=True) for call in other.arrived}
    assert plain_body <= {json.dumps(line["body"], sort_keys=True) for batch in server.batches for line in batch.lines}


@pytest.mark.prove
def test_the_number_of_batches_of_a_run(tmp_path: Path, promise: Promise) -> None:
    figures = []
    for strategy in ("alpaca", "self-instruct"):
        with Batches(reply) as server:
            generate(tmp_path / strategy, settings(server.url, strategy=strategy, n=500))
            sizes = [len(batch.lines) for batch in server.batches]
            figures.append(f"{strategy} {len(sizes)} ({', '.join(map(str, sizes))} requests)")
    promise("batches", f"for 500 rows of a scripted model: {'; '.join(figures)}")


def test_a_run_killed_after_submission_collects_and_resubmits_nothing(
    tmp_path: Path, nursery: Nursery, plain: tuple[bytes, bytes], spent: Spending
) -> None:
    script, second = Script(), threading.Event()
    script.fault = lambda method, path, times: second.set() if path == "/batches/batch_2" else None
    with Batches(reply, script) as server:
        script.created = lambda number: script.hold.clear() if number == 2 else None
        life = Life(nursery, tmp_path / "log", *args(tmp_path / "run", server.url))
        with killed_when(life, second):
            assert life.wait() == -9
        script.hold.set()
        assert states(tmp_path / "run") == ["collected", "there"]
        before = [batch.names for batch in server.batches]
        nursery.run(tmp_path / "log", *args(tmp_path / "run", server.url))
        assert [batch.names for batch in server.batches[:2]] == before
        assert executed_once(server)
    assert made(tmp_path / "run") == plain
    assert spending(tmp_path / "run") == spent


def test_a_run_killed_before_it_received_the_batchs_id_finds_the_batch(
    tmp_path: Path, nursery: Nursery, plain: tuple[bytes, bytes], spent: Spending
) -> None:
    """It is killed twice, the first time before any answer, when N may still change."""
    script = Script()
    with Batches(reply, script) as server:
        for batch in (1, 3):
            life = Life(nursery, tmp_path / "log", *args(tmp_path / "run", server.url, "-n", ROWS + batch))
            script.created = lambda number, life=life, batch=batch: life.kill() if number == batch else None
            assert life.wait() == -9
            assert states(tmp_path / "run")[-1] == "asked"
        script.created = lambda number: None
        with server.lock:  # other batches of the account, more than one page of them
            for _ in range(150):
                server.make({"completion_window": "24h", "endpoint": "/v1/completions", "metadata": None,
                             "input_file_id": server.batches[0].shown["input_file_id"]})  # fmt: skip
        nursery.run(tmp_path / "log", *args(tmp_path / "run", server.url))
        assert executed_once(server)
        assert sum(call == "POST /batches" for call in server.calls) == 3
    assert commits(tmp_path / "run").keys() <= commits(tmp_path / "run", "k, digest", "requests").keys()
    assert made(tmp_path / "run") == plain
    assert spending(tmp_path / "run") == spent


def test_a_run_killed_during_the_upload_repeats_it_without_counting_the_sends_twice(
    tmp_path: Path, nursery: Nursery, plain: tuple[bytes, bytes], spent: Spending
) -> None:
    script = Script()
    with Batches(reply, script) as server:
        life = Life(nursery, tmp_path / "log", *args(tmp_path / "run", server.url))

        def fault(method: str, path: str, times: int) -> None:
            if (path, times) == ("/files", 2):
                life.kill()

        script.fault = fault
        assert life.wait() == -9
        assert states(tmp_path / "run") == ["collected", "void"]
        nursery.run(tmp_path / "log", *args(tmp_path / "run", server.url))
        assert executed_once(server)
    assert made(tmp_path / "run") == plain
    assert spending(tmp_path / "run") == spent


@pytest.mark.parametrize("moment", ["after creation", "during upload"])
def test_ctrl_c_stops_at_once_and_the_same_command_collects(
    tmp_path: Path, moment: str, nursery: Nursery, plain: tuple[bytes, bytes], spent: Spending
) -> None:
    script = Script(created=lambda number: script.hold.clear() if number == 2 else None)
    when = {"after creation": ("/batches/batch_2", 2), "during upload": ("/files", 2)}[moment]
    with Batches(reply, script) as server:
        life = Life(nursery, tmp_path / "log", *args(tmp_path / "run", server.url))
        script.fault = lambda method, path, times: life.kill(signal.SIGINT) if (path, times) == when else None
        output = life.end(130)
        assert "16 requests" in output
        assert "the same command will collect" in output
        assert states(tmp_path / "run") == ["collected", "there"]
        script.hold.set()
        nursery.run(tmp_path / "log", *args(tmp_path / "run", server.url))
        assert executed_once(server)
    assert made(tmp_path / "run") == plain
    assert spending(tmp_path / "run") == spent


def test_a_complete_run_waits_for_no_batch_and_a_later_extension_collects_it(tmp_path: Path) -> None:
    script = Script()
    with Batches(reply, script) as server:

        def looks(number: int) -> int:
            """Never end the batch of requests 16 to 23, whether it arrives before or after the batch of 8 to 15."""
            return 1 << 30 if server.batches[number - 1].names[0].startswith("16-") else 1

        script.looks = looks
        short = settings(server.url, n=25, section={"batch_size": 8})
        result = generate(tmp_path / "run", short)
        assert (result.ending, result.in_batches, len(server.batches)) == ("complete", 8, 3)
        report = status(tmp_path / "run")
        assert (report.batches, report.batched, report.open) == (1, 8, 8)
        script.looks = lambda number: 1
        longer = generate(tmp_path / "run", {**short, "n": 60})
        assert (longer.ending, longer.was_complete) == ("complete", False)
        assert status(tmp_path / "run").batched == longer.in_batches
        assert executed_once(server)
    with Loopback(reply) as plain:
        generate(tmp_path / "plain", settings(plain.url, "openai", n=60))
    assert made(tmp_path / "run") == made(tmp_path / "plain")


def test_the_time_limit_ends_the_wait_even_before_the_first_answer(tmp_path: Path, plain: tuple[bytes, bytes]) -> None:
    script = Script()
    script.hold.clear()
    with Batches(reply, script) as server:
        first = generate(tmp_path / "run", settings(server.url, budget={"time_limit_s": 0.5}))
        assert (first.ending, first.in_batches) == ("time", sum(len(batch.lines) for batch in server.batches))
        script.hold.set()
        last = generate(tmp_path / "run", settings(server.url, budget={"time_limit_s": None}))
        assert (last.ending, last.in_batches) == ("complete", 0)
        assert executed_once(server)
    assert made(tmp_path / "run") == plain


def test_an_expired_batch_keeps_its_answers_and_its_other_requests_are_resubmitted(
    tmp_path: Path, plain: tuple[bytes, bytes], spent: Spending
) -> None:
    script = Script(ending=lambda number: {2: "expired", 3: "cancelled"}.get(number, "completed"))
    script.line = lambda number, body: (
        ("batch_expired" if number == 2 else "missing") if number in (2, 3) and number_of(body) % 2 else None
    )
    with Batches(reply, script) as server:
        result = generate(tmp_path / "run", settings(server.url, retry={"base_s": 0.01}))
        assert result.ending == "complete"
        assert executed_once(server)
        odd = [name for name in server.batches[1].names if int(name.split("-")[0]) % 2]
        assert len(odd) == 8
        assert all(set(odd) <= set(batch.names) for batch in server.batches[2:4])
    assert made(tmp_path / "run") == plain
    total = spending(tmp_path / "run")
    assert total.sends == sum(len(batch.lines) for batch in server.batches) > spent.sends
    assert total.lost_prompt_tokens > 0, "a send without an answer counts at its worst case"


def test_the_time_in_a_servers_queue_does_not_count_towards_total_s(tmp_path: Path) -> None:
    """The batch takes longer than ``retry.total_s``, and its unanswered requests are still sent again."""
    script = Script(looks=lambda number: 10, ending=lambda number: "expired" if number == 1 else "completed")
    script.line = lambda number, body: "batch_expired" if number == 1 else None
    with Batches(reply, script) as server:
        result = generate(tmp_path / "run", settings(server.url, n=5, retry={"base_s": 0.01, "total_s": 0.1}))
        assert result.ending == "complete"
    assert not result.stats.failures


@pytest.mark.parametrize("code", ["token_limit_exceeded", "invalid_request"])
def test_a_refused_batch_stops_the_run_with_the_servers_message(
    tmp_path: Path, code: str, plain: tuple[bytes, bytes], spent: Spending
) -> None:
    words = "Enqueued token limit reached for scripted in organization org-1. Limit: 90,000 enqueued tokens."
    script = Script(ending=lambda number: [{"code": code, "message": words, "line": 3}] if number == 2 else "completed")
    with Batches(reply, script) as server:
        with pytest.raises(BackendError, match=f"batch batch_2 was refused: {code}: Enqueued token limit") as caught:
            generate(tmp_path / "run", settings(server.url))
        assert "run the same command to continue" in str(caught.value)
        assert ("--concurrency, now 2048" in str(caught.value)) == (code == "token_limit_exceeded")
        assert states(tmp_path / "run") == ["collected", "void"]
        generate(tmp_path / "run", settings(server.url, concurrency=4))
        assert executed_once(server)
        assert max(len(batch.lines) for batch in server.batches[2:]) == 4
    assert made(tmp_path / "run") == plain
    assert spending(tmp_path / "run").lost_prompt_tokens == spent.lost_prompt_tokens == 0, "the server did no work"


def test_failed_lines(tmp_path: Path) -> None:
    """A 400 is a failure of the request, a passing fault is resubmitted, and an account without quota stops the run."""
    too_long = {"error": {"message": "maximum context length is 8192 tokens", "code": "context_length_exceeded"}}
    quota = {"error": {"message": "You exceeded your current quota", "code": "insufficient_quota"}}
    script, failed, without_quota = Script(), set(), True

    def line(number: int, body: Body) -> Any:
        request = number_of(body)
        if request == 3:
            return 400, too_long
        if request in (4, 5, 6) and request not in failed:
            failed.add(request)
            return {4: 429, 5: 500, 6: 503}[request], {"error": {"message": "busy"}}
        return (429, quota) if request == 12 and without_quota else None

    script.line = line
    with Batches(reply, script) as server:
        with pytest.raises(BackendError, match=r"exceeded your current quota.*no credit or quota left"):
            generate(tmp_path / "run", settings(server.url, retry={"base_s": 0.01}))
        without_quota = False
        result = generate(tmp_path / "run", settings(server.url, retry={"base_s": 0.01}))
    assert result.ending == "complete"
    assert result.stats.failures == {"context_length": 1}


def test_results_may_be_reordered_repeated_missing_broken_or_unknown(
    tmp_path: Path, plain: tuple[bytes, bytes]
) -> None:
    def output(number: int, lines: list[bytes]) -> list[bytes]:
        unknown = json.dumps({"custom_id": "7-0123", "response": {"status_code": 200, "body": {}}}).encode()
        nonsense = [b"not JSON", b"[1, 2]", b"", b'{"custom_id": 7}', b'{"custom_id": ["x"]}', unknown]
        kept = lines[1:] if number == 1 else lines
        return [*nonsense, *reversed(kept), *kept]

    with Batches(reply, Script(output=output)) as server:
        result = generate(tmp_path / "run", settings(server.url, retry={"base_s": 0.01}))
    assert result.ending == "complete"
    assert made(tmp_path / "run") == plain
    assert sorted(server.executed.values())[-2:] == [1, 2], "only the missing request was sent again"


def test_failed_calls_are_repeated_and_no_batch_is_created_twice(
    tmp_path: Path, plain: tuple[bytes, bytes], spent: Spending
) -> None:
    """Every call meets lost connections, 5xx and 429; one batch is created although the answer is a 504."""
    faults = {
        ("GET /batches", 1): Fault(503),
        ("POST /files", 1): Fault(how="reset"),
        ("POST /files", 3): Fault(500, body="<html>oops</html>"),
        ("POST /batches", 1): Fault(504),
        ("POST /batches", 2): Fault(429, {"retry-after-ms": "5"}),
        ("GET /batches/batch_1", 1): Fault(502),
        ("GET /batches/batch_2", 1): Fault(200, body="ha"),
        ("GET /batches/batch_2", 2): Fault(how="reset"),
        ("GET /files/file-2/content", 1): Fault(how="half"),
        ("GET /files/file-2/content", 2): Fault(503),
    }
    script = Script(fault=lambda method, path, times: faults.pop((f"{method} {path}", times), None))
    with Batches(reply, script) as server:
        generate(tmp_path / "run", settings(server.url))
        assert executed_once(server)
        assert len(server.batches) == 3
    assert not faults
    assert made(tmp_path / "run") == plain
    assert spending(tmp_path / "run") == spent


def test_a_budget_holds_across_restarts_and_no_send_is_counted_twice(
    tmp_path: Path, plain: tuple[bytes, bytes]
) -> None:
    """Twenty sends allow eight requests, then twelve of the next sixteen; a restart only collects those."""
    script = stopped_in(2)
    with Batches(reply, script) as server:
        limited = settings(server.url, budget={"max_requests": 20})
        for _ in range(2):
            stopped = generate(tmp_path / "run", limited)
            assert (stopped.ending, stopped.in_batches, len(server.batches)) == ("interrupted", 12, 2)
            assert spending(tmp_path / "run").sends == 20
            server.calls.clear()
        script.hold.set()
        script.fault = lambda method, path, times: None
        last = generate(tmp_path / "run", limited)
        assert (last.ending, last.in_batches) == ("budget", 0)
        assert sum(server.executed.values()) == spending(tmp_path / "run").sends == 20
        assert spending(tmp_path / "run").lost_prompt_tokens == 0
        generate(tmp_path / "run", settings(server.url, budget={"max_requests": None}))
        assert executed_once(server)
        assert sum(server.executed.values()) == spending(tmp_path / "run").sends
    assert made(tmp_path / "run") == plain


def test_wrong_keys_and_servers_without_batches_are_reported_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    key = "sk-test-9f8e7d6c5b4a39281706f5e4d3c2b1a0"
    monkeypatch.setenv("BATCH_KEY", key)
    with Batches(reply, Script(key="sk-another")) as server:
        keyed = settings(server.url, n=5, section={"api_key_env": "BATCH_KEY"})
        with pytest.raises(BackendError, match="The key in BATCH_KEY was refused"):
            generate(tmp_path / "a", keyed)
        assert server.calls == ["GET /batches"]
        server.script.key = key
        assert generate(tmp_path / "a", keyed).ending == "complete"
    with Loopback(reply) as other, pytest.raises(BackendError, match="no Batch API, use --backend openai"):
        generate(tmp_path / "b", settings(other.url))
    with pytest.raises(BackendError, match="no answer from"):
        generate(tmp_path / "c", settings(other.url))
    for path in tmp_path.rglob("*"):
        assert not path.is_file() or key.encode() not in path.read_bytes(), path


def test_a_key_echoed_by_the_server_is_stored_and_shown_nowhere(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    key = "sk-test-9f8e7d6c5b4a39281706f5e4d3c2b1a0"
    monkeypatch.setenv("BATCH_KEY", key)
    echo = Fault(200, body={"id": f"file-{key}"})
    script = Script(fault=lambda method, path, times: echo if (path, times) == ("/files", 1) else None)
    script.ending = lambda number: [{"code": "bad", "message": f"the key {key} may not"}] if number == 1 else "expired"
    script.line = lambda number, body: (400, {"error": {"message": f"no, {key}"}}) if number_of(body) == 3 else None
    with Batches(lambda body: f"{reply(body)}, said {key}", script) as server:
        keyed = settings(server.url, section={"api_key_env": "BATCH_KEY"})
        with pytest.raises(BackendError, match=r"the key \[key\] may not") as caught:
            generate(tmp_path / "run", keyed)
        assert key not in str(caught.value)
        generate(tmp_path / "run", keyed)
    for path in tmp_path.rglob("*"):
        assert not path.is_file() or key.encode() not in path.read_bytes(), path


def test_a_batch_of_another_account_is_reported_and_not_submitted_again(tmp_path: Path) -> None:
    with Batches(reply, stopped_in(1)) as server:
        assert generate(tmp_path / "run", settings(server.url)).in_batches == 8
    with Batches(reply) as server:
        with pytest.raises(BackendError, match=r"another key, or is gone.*remove .*batches\.json"):
            generate(tmp_path / "run", settings(server.url))
        assert "POST /batches" not in server.calls
        (tmp_path / "run" / JOURNAL_FILE).write_text("{")
        with pytest.raises(BackendError, match=r"batches\.json: it is damaged"):
            generate(tmp_path / "run", settings(server.url))
        (tmp_path / "run" / JOURNAL_FILE).unlink()
        assert generate(tmp_path / "run", settings(server.url)).ending == "complete"
    assert spending(tmp_path / "run").lost_prompt_tokens > 0, "abandoned sends count at their worst case"


def test_changing_the_model_before_the_first_answer_discards_the_first_models_batch(tmp_path: Path) -> None:
    script = stopped_in(1)
    with Batches(reply, script) as server:
        assert generate(tmp_path / "run", settings(server.url)).in_batches == 8
        script.hold.set()
        other = settings(server.url, section={"model": "other"}, n=5)
        assert set(generate(tmp_path / "run", other).stats.models) == {"other"}
        assert {line["body"]["model"] for line in server.batches[0].lines} == {"scripted"}


def test_a_fork_of_a_finished_run_begins_with_large_batches(tmp_path: Path, nursery: Nursery) -> None:
    with Batches(reply) as server:
        generate(tmp_path / "first", settings(server.url, "openai", n=100))
        options = ["--set", "openai-batch.poll_s=0.02", "--set", "lag=2048"]
        nursery.run(tmp_path / "log", "fork", tmp_path / "first", "-o", tmp_path / "run", "--backend", "openai-batch",
                    "--model", "scripted",
                "--base-url", server.url, "--api", "completion", "-n", 200, "-q", *options)  # fmt: skip
        with Reader(tmp_path / "first") as reader:
            assert len(server.batches[0].lines) >= reader.newest_outcome() > 32
    assert len((tmp_path / "run" / "dataset" / "alpaca.jsonl").read_text().splitlines()) == 200


def test_batches_respect_batch_size(tmp_path: Path, plain: tuple[bytes, bytes]) -> None:
    with Batches(reply) as server:
        generate(tmp_path / "run", settings(server.url, section={"batch_size": 10}))
        assert max(len(batch.lines) for batch in server.batches) == 10
    assert made(tmp_path / "run") == plain


def test_an_unwritable_journal_stops_the_run(tmp_path: Path) -> None:
    with Batches(reply) as server:
        (tmp_path / "run" / JOURNAL_FILE).mkdir(parents=True)
        with pytest.raises((BackendError, LedgerError), match=r"batches\.json"):
            generate(tmp_path / "run", settings(server.url))
        assert server.batches == []
