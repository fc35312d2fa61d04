"""Write the golden runs: small ledgers, each with the dataset that every later version must derive from it.

If a change alters what a ledger means, ``tests/unit/test_golden.py`` fails. Then either fix the change, or increment
``SEMANTICS`` in ``selfinstruct/version.py`` and run ``python -m tests.golden.make`` to rewrite all golden runs.
``python -m tests.golden.make NAME...`` writes the named ones only.

``schema-1`` is a run written by version 0.1, whose ledger rows had no seals yet. No code writes it any more.
"""

from __future__ import annotations

import shutil
import sqlite3
import sys
import tempfile
from pathlib import Path

from selfinstruct import generate
from selfinstruct.ledger.schema import SEALED, seal
from selfinstruct.runs.export import export
from tests.loopback import Fault, Loopback
from tests.scripted import SETTINGS, reply

GOLDEN = Path(__file__).resolve().parent
ROWS = 12
APIS = {
    "alpaca": "completion",
    "self-instruct": "chat",
    "evol-instruct": "chat",
    "magpie": "completion",
    "personas": "completion",
    "conversation": "chat",
    "respond": "chat",
    "evaluate": "chat",
    "mix": "completion",
    "quality": "completion",
}
"""The API that each golden run uses. A name is one of ``SETTINGS``."""

CHAINED = ("magpie", "personas", "conversation", "mix", "quality")
"""Runs whose rows take several requests each. A small lag keeps their ledgers small."""


def exports(name: str) -> tuple[str, ...]:
    """Return the formats in which the golden dataset of a run is kept; the first is the run's own."""
    own = "messages" if name in ("magpie", "conversation", "respond") else "alpaca"
    return (own, "candidates", "preference") if name == "quality" else (own, "candidates")


def make(name: str) -> None:
    """Record a run over HTTP in which one request fails permanently; keep its ledger and its exports."""
    target = GOLDEN / name
    shutil.rmtree(target, ignore_errors=True)
    with tempfile.TemporaryDirectory() as scratch, Loopback(reply, {3: Fault(400)}) as server:
        run = Path(scratch) / "run"
        section = {"model": "scripted", "api": APIS[name], "base_url": server.url}
        settings = {"strategy": name, **SETTINGS[name], "backend": "openai", "openai": section}
        if name in CHAINED:
            settings["lag"] = 8
        generate(run, {**settings, "n": ROWS, "concurrency": 1})
        for kind in exports(name)[1:]:
            export(run, kind)
        target.mkdir()
        ledger = sqlite3.connect(run / "run.sqlite", isolation_level=None)
        ledger.create_function("seal", -1, seal)
        # Durations differ from run to run and have no effect on the dataset.
        columns = ", ".join(SEALED["outcomes"]).replace("seconds", "0.0")
        ledger.execute(f"UPDATE outcomes SET seconds = 0.0, seal = seal({columns})")
        ledger.execute("VACUUM INTO ?", (str(target / "run.sqlite"),))
        ledger.close()
        for file in (*(f"{kind}.jsonl" for kind in exports(name)), "manifest.json"):
            shutil.copy(run / "dataset" / file, target / file)


if __name__ == "__main__":
    for name in sys.argv[1:] or APIS:
        make(name)
