"""The ledger of a run: requests, sends and outcomes, append-only, in one SQLite file.

One process writes (``Ledger``, under the lock of its directory); any number read (``Reader``, no lock). The text of
prompts is not kept: a request is its template's name, its variables and its sampling, from which ``Reader.request``
renders it again. Templates, seeds and long variables (the examples at the head of a prompt) are kept once each by
digest, so that a run stays small, and explainable when its files have moved.
"""

from selfinstruct.ledger.executions import ExecutionJournal
from selfinstruct.ledger.packing import pack, unpack
from selfinstruct.ledger.reader import InheritedOutcomes, Reader, RecordedOutcome, Spending, has_run
from selfinstruct.ledger.schema import LEDGER_FILE
from selfinstruct.ledger.writer import Ledger, acknowledged

__all__ = [
    "LEDGER_FILE",
    "ExecutionJournal",
    "InheritedOutcomes",
    "Ledger",
    "Reader",
    "RecordedOutcome",
    "Spending",
    "acknowledged",
    "has_run",
    "pack",
    "unpack",
]
