"""What is known of a run's batches, on disk; and the lines of the files that a Batch API takes and gives.

No network here. The notes are a small file beside the ledger, replaced whole: which batches there are at the server,
and which requests are in them. They hold no prompt, no answer and no key.
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
from selfinstruct.common.files import reason, write_atomic
from selfinstruct.errors import BackendError
from selfinstruct.records import Request

__all__ = ["NOTES_FILE", "BatchJournal", "BatchRecord", "Lines", "custom_id", "input_line", "is_name"]

NOTES_FILE = "batches.json"
_NAME = re.compile(r"[A-Za-z0-9_.:-]{1,200}")
_MOST_LINE = 16 << 20  # bytes of one result; see the bound of an answer in ``openai``
_MOST_RESULTS = 1 << 30  # bytes of a file of results


def custom_id(request: Request, body: Mapping[str, Any]) -> str:
    """A request's name in batches: its number, and a digest of all that decides its answer, the model included."""
    return f"{request.number}-{digest([request.digest, body])[:32]}"


def input_line(name: str, endpoint: str, body: Mapping[str, Any]) -> bytes:
    """One line of the file that a batch is made from."""
    return canonical({"custom_id": name, "method": "POST", "url": f"/v1{endpoint}", "body": body}) + b"\n"


def is_name(text: object) -> TypeGuard[str]:
    """Whether a server's id of a batch or file is one that can stand in a path."""
    return isinstance(text, str) and _NAME.fullmatch(text) is not None and set(text) != {"."}


@dataclass(slots=True)
class BatchRecord:
    """One batch.

    Attributes:
        mark: Our own name of it, in its metadata at the server: a batch is found by it where ``id`` never got here.
        requests: Their custom ids.
        state: ``void`` while the server has not been asked to make it, and when it refused: it never worked at it;
            ``asked`` when nobody knows whether it was made; ``there``; ``collected`` once its results were handed on.
        id: The server's name; "" until it answered.
    """

    mark: str
    requests: list[str]
    state: str = "void"
    id: str = ""


@dataclass(slots=True)
class BatchJournal:
    """The notes of one run.

    Attributes:
        run: Random; in the metadata of each of its batches.
    """

    path: Path
    run: str = field(default_factory=lambda: secrets.token_hex(16))
    batches: list[BatchRecord] = field(default_factory=list)

    @classmethod
    def read(cls, folder: Path) -> BatchJournal:
        """Those of a run directory, or new ones.

        Raises:
            BackendError: The file can't be read.
        """
        path = folder / NOTES_FILE
        try:
            value = loads(path.read_bytes())
            batches = [
                BatchRecord(
                    str(one["mark"]), [str(name) for name in one["requests"]], str(one["state"]), str(one["id"])
                )
                for one in value["batches"]
            ]
            return cls(path, str(value["run"]), batches)
        except FileNotFoundError:
            return cls(path)
        except OSError as error:
            problem = reason(error)
        except (ValueError, KeyError, TypeError):
            problem = "it is damaged"
        raise BackendError(
            f"can't read {path}: {problem}; it says which batches are at the server: restore it, or remove it to send "
            "again what has no answer yet"
        )

    def write(self) -> None:
        """Replace the file.

        Raises:
            SelfInstructError: It can't be written.
        """
        batches = [asdict(one) for one in self.batches]
        write_atomic(self.path, [json.dumps({"run": self.run, "batches": batches}).encode(), b"\n"])

    def begin(self, requests: Iterable[str]) -> BatchRecord:
        """A batch that is to be made; its requests are in no earlier one any more."""
        batch = BatchRecord(secrets.token_hex(8), list(requests))
        names = set(batch.requests)
        for other in self.batches:
            other.requests = [name for name in other.requests if name not in names]
        self.batches = [*(one for one in self.batches if one.requests), batch]
        self.write()
        return batch

    def put(self, batch: BatchRecord, state: str) -> None:
        """Note a batch's new state, on disk."""
        batch.state = state
        self.write()

    @property
    def at_server(self) -> list[BatchRecord]:
        """Those that the server has, or may have, and whose results were not collected."""
        return [one for one in self.batches if one.state in ("asked", "there")]

    def drop(self, wanted: Iterable[str]) -> None:
        """Forget requests that are not wanted any more, and batches that hold no other."""
        names = set(wanted)
        for one in self.batches:
            one.requests = [name for name in one.requests if name in names]
        self.batches = [one for one in self.batches if one.requests]


class Lines:
    """Cuts a file of results into lines as its pieces come.

    Args:
        take: Is given each line that is a JSON object. One that is none, or endless, is passed over: its request has
            no answer then.

    Raises:
        BackendError: There is no end of it.
    """

    def __init__(self, take: Callable[[Mapping[str, Any]], None]) -> None:
        self._take = take
        self._rest = bytearray()
        self._size = 0
        self._endless = False

    def feed(self, piece: bytes) -> None:
        """The next bytes."""
        self._size += len(piece)
        if self._size > _MOST_RESULTS:
            raise BackendError(f"a file of results has more than {_MOST_RESULTS >> 30} GiB: no batch's has")
        first, *others = piece.split(b"\n")
        self._rest += first
        for other in others:
            self.end()
            self._rest += other
        if len(self._rest) > _MOST_LINE:
            self._endless = True
            self._rest.clear()

    def end(self) -> None:
        """The line, or the file, ends here."""
        line, endless = bytes(self._rest), self._endless or len(self._rest) > _MOST_LINE
        self._rest.clear()
        self._endless = False
        if endless or not line.strip():
            return
        try:
            value = json.loads(line)  # lenient, as with any answer
        except (ValueError, RecursionError):
            return
        if isinstance(value, Mapping):
            self._take(value)
