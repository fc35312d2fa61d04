"""Verdicts that were kept beside the ledger: a start from them is the start that judges all again."""

from __future__ import annotations

import json
import shutil
import sqlite3
import zlib
from collections.abc import Callable
from pathlib import Path

import pytest

from selfinstruct.engine.plan import recorded_plan
from selfinstruct.engine.verdict_cache import VerdictCache
from selfinstruct.ledger import Reader
from tests.cli import dataset, run_cli
from tests.loopback import Loopback
from tests.scripted import reply

CACHE = "verdicts.sqlite"


@pytest.fixture
def run(tmp_path: Path, loopback: Callable[..., Loopback]) -> Path:
    server = loopback(reply)
    run_cli("generate", tmp_path / "a", "--backend", "openai", "--model", "scripted", "--base-url", server.url, "--api",
            "completion", "--strategy", "self-instruct", "-n", 40, "-q")  # fmt: skip
    return tmp_path / "a"


def told(run: Path, *args: object) -> dict[str, object]:
    found: dict[str, object] = json.loads(run_cli("status", run, "--json", *args))
    return found


def test_a_start_from_kept_verdicts_goes_on_like_one_that_judges_all_again(run: Path) -> None:
    assert (run / CACHE).exists()
    other = shutil.copytree(run, run.with_name("b"))
    (other / CACHE).unlink()
    run_cli("generate", run, "-n", 70, "-q")
    run_cli("generate", other, "-n", 70, "-q")
    assert dataset(run) == dataset(other)
    assert (run / "dataset/manifest.json").read_bytes() == (other / "dataset/manifest.json").read_bytes()
    assert told(run)["novelty"] == told(run, "--verify")["novelty"] == told(other)["novelty"]


def test_fewer_rows_than_were_judged_for_are_judged_again(run: Path) -> None:
    whole = (run / "dataset/manifest.json").read_bytes()
    fresh = shutil.copytree(run, run.with_name("b"))
    (fresh / CACHE).unlink()
    for one in (run, fresh):
        run_cli("generate", one, "-n", 10, "-q")
    assert (run / "dataset/manifest.json").read_bytes() == (fresh / "dataset/manifest.json").read_bytes() != whole
    run_cli("generate", run, "-n", 40, "-q")
    assert (run / "dataset/manifest.json").read_bytes() == whole


@pytest.mark.parametrize("harm", ["cut", "flip", "empty", "text", "another"])
def test_a_damaged_or_foreign_file_is_passed_over_and_replaced(run: Path, harm: str) -> None:
    before = dataset(run)
    path, body = run / CACHE, bytearray((run / CACHE).read_bytes())
    if harm == "flip":
        with sqlite3.connect(path) as cache:
            (stored,) = cache.execute("SELECT body FROM kept").fetchone()
            flipped = bytes([*stored[:40], stored[40] ^ 4, *stored[41:]])
            cache.execute("UPDATE kept SET body = ?", (flipped,))
    elif harm == "another":  # of a run with another identity
        other = run.with_name("b")
        run_cli("refilter", run, "-o", other, "--set", "filters.novelty.threshold=0.5")
        shutil.copy(other / CACHE, path)
    else:
        path.write_bytes({"cut": bytes(body[: len(body) // 2]), "empty": b"", "text": b"not a database" * 99}[harm])
    assert told(run)["rows"] == 40
    told(run, "--verify")
    run_cli("generate", run, "-n", 45, "-q")
    assert dataset(run).startswith(before)
    told(run, "--verify")
    assert sqlite3.connect(path).execute("SELECT judged FROM snapshot").fetchone()[0] > 0


def test_verify_finds_a_verdict_that_is_not_the_one_reached_now(run: Path) -> None:
    with sqlite3.connect(run / CACHE) as cache:
        judged, body = cache.execute("SELECT judged, body FROM kept ORDER BY judged LIMIT 1").fetchone()
        kept = json.loads(zlib.decompress(body))
        kept["rows"][0][4] += " and more"
        cache.execute("UPDATE kept SET body = ? WHERE judged = ?", (zlib.compress(json.dumps(kept).encode()), judged))
    assert "are not those reached now" in run_cli("status", run, "--verify", code=1)
    before = dataset(run)
    run_cli("generate", run, "--verify", "-n", 41, "-q")
    assert dataset(run).startswith(before)
    told(run, "--verify")


def test_a_ledger_that_was_put_back_is_ahead_of_no_verdict(run: Path) -> None:
    """An older copy of the ledger beside newer verdicts: these are of answers that it does not hold."""
    older = shutil.copytree(run, run.with_name("b"))
    run_cli("generate", run, "-n", 60, "-q")
    shutil.copy(run / CACHE, older / CACHE)
    assert told(older)["rows"] == 40
    run_cli("generate", older, "-n", 60, "-q")
    assert dataset(older) == dataset(run)


def test_a_file_from_before_there_was_anything_but_tasks_and_rows_is_read(run: Path) -> None:
    with sqlite3.connect(run / CACHE) as cache:
        for table in ("snapshot", "kept"):
            for judged, body in cache.execute(f"SELECT judged, body FROM {table}").fetchall():
                value = json.loads(zlib.decompress(body))
                assert not value.pop("others")
                packed = zlib.compress(json.dumps(value).encode())
                cache.execute(f"UPDATE {table} SET body = ? WHERE judged = ?", (packed, judged))
    with Reader(run) as reader:
        found = VerdictCache(run, recorded_plan(reader)).load(reader)
    assert found is not None
    assert found.others == []
    run_cli("generate", run, "-n", 45, "-q")
    told(run, "--verify")
