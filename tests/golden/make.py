"""Makes the golden runs: small ledgers with the dataset that must follow from them, byte for byte, for ever.

If a change alters what a ledger means, ``tests/unit/test_golden.py`` fails. Then either the change is wrong, or
``SEMANTICS`` in ``selfinstruct/version.py`` goes up by one and this is run again: ``python -m tests.golden.make``.
``schema-1`` is such a run as version 0.1 left it, before the rows of a ledger had seals; nothing makes it any more.
"""

from __future__ import annotations

import shutil
import sqlite3
import tempfile
from pathlib import Path

from selfinstruct import generate
from selfinstruct.ledger.schema import SEALED, seal
from selfinstruct.runs.status import export_run
from tests.loopback import Fault, Loopback
from tests.scripted import reply

GOLDEN = Path(__file__).resolve().parent
RUNS = {"alpaca": ("completion", 12), "self-instruct": ("chat", 12), "evol-instruct": ("chat", 12)}


def make(name: str, api: str, rows: int) -> None:
    """Record one run over HTTP, a failure for good among its outcomes, and keep its ledger and what it exports."""
    target = GOLDEN / name
    shutil.rmtree(target, ignore_errors=True)
    with tempfile.TemporaryDirectory() as scratch, Loopback(reply, {3: Fault(400)}) as server:
        run = Path(scratch) / "run"
        section = {"model": "scripted", "api": api, "base_url": server.url}
        generate(run, {"strategy": name, "backend": "openai", "openai": section, "n": rows, "concurrency": 1})
        export_run(run, "candidates")
        target.mkdir()
        ledger = sqlite3.connect(run / "run.sqlite", isolation_level=None)
        ledger.create_function("seal", -1, seal)
        # A duration is no part of what a ledger means.
        columns = ", ".join(SEALED["outcomes"]).replace("seconds", "0.0")
        ledger.execute(f"UPDATE outcomes SET seconds = 0.0, seal = seal({columns})")
        ledger.execute("VACUUM INTO ?", (str(target / "run.sqlite"),))
        ledger.close()
        for file in ("alpaca.jsonl", "candidates.jsonl", "manifest.json"):
            shutil.copy(run / "dataset" / file, target / file)


if __name__ == "__main__":
    for name, (api, rows) in RUNS.items():
        make(name, api, rows)
