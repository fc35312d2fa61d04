"""The journal of a run's batches on disk, and the line formats of a Batch API's files.

No network here. The journal is a small file next to the ledger, replaced as a whole: it lists the batches that the
server has, and the requests in each. It holds no prompt, no answer and no key.
"""

from __future__ import annotations

import json
import re
import secrets
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, TypeGuard

from selfinstruct.common.codec import canonical, digest, loads
from selfinstruct.common.files import describe_os_error, write_atomic
from selfinstruct.errors import BackendError
from selfinstruct.records import Request

__all__ = ["JOURNAL_FILE", "BatchJournal", "BatchRecord", "ResultLines", "custom_id", "input_line", "is_valid_id"]

JOURNAL_FILE = "batches.json"
_ID = re.compile(r"[A-Za-z0-9_.:-]{1,200}")
_MAX_LINE = 16 << 20  # bytes of one result; the same limit as for a single answer in ``openai``
_MAX_RESULTS = 1 << 30  # bytes of a file of results


def custom_id(request: Request, body: Mapping[str, Any]) -> str:
    """Return a request's id in batches: its number, and a digest of all that decides its answer."""
    return f"{request.number}-{digest([request.digest, body])[:32]}"


def input_line(name: str, endpoint: str, body: Mapping[str, Any]) -> bytes:
    """Return the line of a batch's input file that submits one request."""
    return canonical({"custom_id": name, "method": "POST", "url": f"/v1{endpoint}", "body": body}) + b"\n"


def is_valid_id(text: object) -> TypeGuard[str]:
    """Return whether a server's id of a batch or file can safely be part of a URL's path."""
    return isinstance(text, str) and _ID.fullmatch(text) is not None and set(text) != {"."}


@dataclass(slots=True)
class BatchRecord:
    """One batch.

    Attributes:
        mark: Our own id of the batch, stored in its metadata at the server. It identifies the batch if the server's
            answer, and so ``id``, was lost.
        requests: Custom ids of its requests.
        state: ``void`` before the server is asked to create the batch, and after it refused: it never worked on it.
            ``asked`` while it is not known whether the batch was created. ``there`` once it was. ``collected`` once
            its results were delivered.
        id: The server's id; "" until it is known.
    """

    mark: str
    requests: list[str]
    state: str = "void"
    id: str = ""


@dataclass(slots=True)
class BatchJournal:
    """The journal of one run.

    Attributes:
        run: Random id of the run, stored in the metadata of each of its batches.
    """

    path: Path
    run: str = field(default_factory=lambda: secrets.token_hex(16))
    batches: list[BatchRecord] = field(default_factory=list)

    @classmethod
    def read(cls, folder: Path) -> BatchJournal:
        """Read the journal in a run directory, or begin a new one.

        Raises:
            BackendError: The file can't be read.
        """
        path = folder / JOURNAL_FILE
        try:
            value = loads(path.read_bytes())
            batches = [
                BatchRecord(
                    str(batch["mark"]),
                    [str(name) for name in batch["requests"]],
                    str(batch["state"]),
                    str(batch["id"]),
                )
                for batch in value["batches"]
            ]
            return cls(path, str(value["run"]), batches)
        except FileNotFoundError:
            return cls(path)
        except OSError as error:
            problem = describe_os_error(error)
        except (ValueError, KeyError, TypeError):
            problem = "it is damaged"
        raise BackendError(
            f"can't read {path}: {problem}; it lists the batches at the server: restore it, or remove it to send all "
            "unanswered requests again"
        )

    def write(self) -> None:
        """Replace the file.

        Raises:
            SelfInstructError: It can't be written.
        """
        batches = [asdict(batch) for batch in self.batches]
        write_atomic(self.path, [json.dumps({"run": self.run, "batches": batches}).encode(), b"\n"])

    def begin(self, requests: Iterable[str]) -> BatchRecord:
        """Record a batch that is about to be created, and remove its requests from earlier batches."""
        batch = BatchRecord(secrets.token_hex(8), list(requests))
        names = set(batch.requests)
        for other in self.batches:
            other.requests = [name for name in other.requests if name not in names]
        self.batches = [*(other for other in self.batches if other.requests), batch]
        self.write()
        return batch

    def set_state(self, batch: BatchRecord, state: str) -> None:
        """Record a batch's new state on disk."""
        batch.state = state
        self.write()

    @property
    def at_server(self) -> list[BatchRecord]:
        """Batches that the server has, or may have, and whose results were not collected."""
        return [batch for batch in self.batches if batch.state in ("asked", "there")]

    def keep_only(self, wanted: Iterable[str]) -> None:
        """Remove all requests except those in ``wanted``, and batches that are then empty."""
        names = set(wanted)
        for batch in self.batches:
            batch.requests = [name for name in batch.requests if name in names]
        self.batches = [batch for batch in self.batches if batch.requests]


class ResultLines:
    """Split a file of results into lines as its pieces arrive.

    Args:
        take: Receives each line that is a JSON object. Other lines, and lines above the size limit, are skipped; their
            requests then count as unanswered.

    Raises:
        BackendError: The file exceeds the size limit.
    """

    def __init__(self, take: Callable[[Mapping[str, Any]], None]) -> None:
        self._take = take
        self._line = bytearray()
        self._size = 0
        self._too_long = False

    def feed(self, piece: bytes) -> None:
        """Add the next bytes of the file."""
        self._size += len(piece)
        if self._size > _MAX_RESULTS:
            raise BackendError(f"a file of results has more than {_MAX_RESULTS >> 30} GiB, which no batch takes")
        first, *others = piece.split(b"\n")
        self._line += first
        for other in others:
            self.end()
            self._line += other
        if len(self._line) > _MAX_LINE:
            self._too_long = True
            self._line.clear()

    def end(self) -> None:
        """End the current line."""
        line, too_long = bytes(self._line), self._too_long or len(self._line) > _MAX_LINE
        self._line.clear()
        self._too_long = False
        if too_long or not line.strip():
            return
        try:
            value = json.loads(line)  # Python's lenient parser, as for any answer
        except (ValueError, RecursionError):
            return
        if isinstance(value, Mapping):
            self._take(value)
