"""A backend without a model: every answer is computed from the number of its request."""

import hashlib
from dataclasses import dataclass

from selfinstruct.backends.base import Backend, BackendSpec, Capabilities
from selfinstruct.prompts import Api
from selfinstruct.records import Choice, Completion, Request, Usage


@dataclass(frozen=True)
class CannedOptions:
    """Settings, as in ``--set canned.prefix=Explain``."""

    api: Api = "chat"
    prefix: str = "Explain"


class CannedBackend(Backend):
    """Answer with a task of pseudo-random words."""

    def __init__(self, options: CannedOptions) -> None:
        self.options = options

    async def start(self) -> None:
        """A real backend loads its model or opens its client here."""

    async def complete(self, request: Request) -> Completion:
        digest = hashlib.sha256(str(request.number).encode()).hexdigest()
        words = [digest[index : index + 8] for index in range(0, 48, 8)]
        text = f"{self.options.prefix} {' '.join(words)}.\nRequest {request.number} asks for {words[0]}."
        return Completion((Choice(text, "stop"),), Usage(request.text_bytes // 4, len(text) // 4), "canned")

    async def close(self) -> None:
        """A real backend releases its resources here."""


CANNED = BackendSpec("canned", CannedOptions, lambda options, _: CannedBackend(options), lambda _: Capabilities())
