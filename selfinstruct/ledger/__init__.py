"""The ledger of a run: requests, sends and outcomes, append-only, in one SQLite file.

One process writes (``Ledger``, under the lock of its directory); any number may read (``Reader``, without a lock). The
text of prompts is not stored: a request consists of template names, variables and sampling parameters, from which
``Reader.request`` renders it again. Templates, seeds, long variables (such as the examples in a prompt) and long texts
in contexts are stored once, by digest, so that a run stays small and can be explained after its files have moved.
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
