"""A strategy that asks for a variation of one seed task at a time."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from selfinstruct.common.rng import Rng
from selfinstruct.records import Candidate, Completion, Received, Request, Sampling
from selfinstruct.strategies.base import Strategy, View


@dataclass(frozen=True)
class VaryOptions:
    """Settings, as in ``--set vary.temperature=1.0``."""

    max_tokens: int = 512
    temperature: float = 0.8


class Vary(Strategy):
    """Show one seed task and ask for another task with its answer."""

    name: ClassVar[str] = "vary"
    Options: ClassVar[type[VaryOptions]] = VaryOptions
    prompts_folder: ClassVar[Path] = Path(__file__).parent / "prompts"
    templates: ClassVar[Mapping[str, frozenset[str]]] = {"vary/task": frozenset({"task"})}

    def propose(self, view: View, rng: Rng) -> Request:
        seed = rng.choice(view.seeds)
        turns = self.prompts.turns("vary/task", task=seed.instruction)
        sampling = Sampling(self.options.max_tokens, temperature=self.options.temperature)
        return Request("vary", turns, sampling, demonstrations=(seed.id,))

    def receive(self, request: Request, completion: Completion, view: View) -> Received:
        instruction, _, output = completion.text.strip().partition("\n")
        return Received(candidates=(Candidate(instruction, output=output.strip()),))
