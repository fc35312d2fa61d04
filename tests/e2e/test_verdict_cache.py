"""The verdict cache next to the ledger: a start from the cache equals one that filters every candidate again."""

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


def status(run: Path, *args: object) -> dict[str, object]:
    values: dict[str, object] = json.loads(run_cli("status", run, "--json", *args))
    return values


def manifest(run: Path) -> bytes:
    return (run / "dataset/manifest.json").read_bytes()


def is_used(run: Path) -> bool:
    with Reader(run) as reader:
        return VerdictCache(run, recorded_plan(reader)).load(reader) is not None


def test_a_start_from_the_cache_equals_a_start_without_it(run: Path) -> None:
    assert is_used(run)
    uncached = shutil.copytree(run, run.with_name("b"))
    (uncached / CACHE).unlink()
    run_cli("generate", run, "-n", 70, "-q")
    run_cli("generate", uncached, "-n", 70, "-q")
    assert dataset(run) == dataset(uncached)
    assert manifest(run) == manifest(uncached)
    assert status(run)["novelty"] == status(run, "--verify")["novelty"] == status(uncached)["novelty"]


def test_a_lower_target_is_processed_again_from_the_beginning(run: Path) -> None:
    before = manifest(run)
    uncached = shutil.copytree(run, run.with_name("b"))
    (uncached / CACHE).unlink()
    for folder in (run, uncached):
        run_cli("generate", folder, "-n", 10, "-q")
    assert manifest(run) == manifest(uncached) != before
    run_cli("generate", run, "-n", 40, "-q")
    assert manifest(run) == before


@pytest.mark.parametrize("damage", ["cut", "flip", "empty", "text", "another run"])
def test_a_damaged_or_foreign_cache_is_discarded_and_replaced(run: Path, damage: str) -> None:
    before = dataset(run)
    path, body = run / CACHE, (run / CACHE).read_bytes()
    if damage == "flip":
        with sqlite3.connect(path) as cache:
            (stored,) = cache.execute("SELECT body FROM accepted").fetchone()
            flipped = bytes([*stored[:40], stored[40] ^ 4, *stored[41:]])
            cache.execute("UPDATE accepted SET body = ?", (flipped,))
    elif damage == "another run":
        other = run.with_name("b")
        run_cli("refilter", run, "-o", other, "--set", "filters.novelty.threshold=0.5")
        shutil.copy(other / CACHE, path)
    else:
        path.write_bytes({"cut": body[: len(body) // 2], "empty": b"", "text": b"not a database" * 99}[damage])
    assert not is_used(run)
    assert status(run)["rows"] == 40
    status(run, "--verify")
    run_cli("generate", run, "-n", 45, "-q")
    assert dataset(run).startswith(before)
    status(run, "--verify")
    assert is_used(run)


def test_a_cache_in_the_layout_of_an_older_version_is_discarded_and_replaced(run: Path) -> None:
    (run / CACHE).unlink()
    with sqlite3.connect(run / CACHE) as cache:
        cache.execute("CREATE TABLE snapshot (judged INTEGER NOT NULL, key TEXT NOT NULL, body BLOB NOT NULL)")
        cache.execute("CREATE TABLE kept (judged INTEGER PRIMARY KEY, body BLOB NOT NULL)")
        cache.execute("INSERT INTO snapshot VALUES (50, 'key', ?)", (zlib.compress(b"{}"),))
        cache.execute("INSERT INTO kept VALUES (50, ?)", (zlib.compress(b"{}"),))
    cache.close()
    assert not is_used(run)
    assert status(run)["rows"] == 40
    run_cli("generate", run, "-n", 45, "-q")
    assert is_used(run)
    status(run, "--verify")


def test_verify_detects_a_verdict_that_differs_from_the_recomputed_one(run: Path) -> None:
    with sqlite3.connect(run / CACHE) as cache:
        decided, body = cache.execute("SELECT decided, body FROM accepted ORDER BY decided LIMIT 1").fetchone()
        accepted = json.loads(zlib.decompress(body))
        accepted["rows"][0][4] += " and more"
        changed = zlib.compress(json.dumps(accepted).encode())
        cache.execute("UPDATE accepted SET body = ? WHERE decided = ?", (changed, decided))
    assert "cached verdicts differ" in run_cli("status", run, "--verify", code=1)
    before = dataset(run)
    run_cli("generate", run, "--verify", "-n", 41, "-q")
    assert dataset(run).startswith(before)
    status(run, "--verify")


def test_a_cache_ahead_of_a_restored_ledger_is_discarded(run: Path) -> None:
    """An older copy of the ledger next to newer verdicts: they belong to outcomes that it does not hold."""
    older = shutil.copytree(run, run.with_name("b"))
    run_cli("generate", run, "-n", 60, "-q")
    shutil.copy(run / CACHE, older / CACHE)
    assert status(older)["rows"] == 40
    run_cli("generate", older, "-n", 60, "-q")
    assert dataset(older) == dataset(run)
