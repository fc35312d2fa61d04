"""A strategy for tests that asks the model each seed's task and proposes the answer with the seed's verifier."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from selfinstruct.common.rng import Rng
from selfinstruct.records import Candidate, Completion, Received, Request
from selfinstruct.strategies.abilities import BeginsWithTasks
from selfinstruct.strategies.base import Strategy, View
from selfinstruct.strategies.shared.stage import Stage

_ANSWER = Stage(max_tokens=60, temperature=0.0, api="chat")


@dataclass(frozen=True)
class AnsweringOptions:
    """The stage that asks for answers."""

    answer: Stage = _ANSWER


class Answering(Strategy, BeginsWithTasks):
    name: ClassVar[str] = "answering"
    templates: ClassVar = {"answering/answer": frozenset({"task"})}
    defaults: ClassVar = {"filters": {"novelty": None, "near_duplicate": None, "copied": None, "word_count": None}}
    Options: ClassVar = AnsweringOptions

    def propose(self, view: View, rng: Rng) -> Request | None:
        item = view.progress.next_item
        if item >= len(view.seeds):
            return None
        turns = self.options.answer.turns(self.prompts, "answering/answer", task=view.seeds[item].instruction)
        return Request("answer", turns, self.options.answer.sampling(), item=item)

    def receive(self, request: Request, completion: Completion, view: View) -> Received:
        seed = view.seeds[request.item or 0]
        answer = completion.text.strip()
        row = Candidate(seed.instruction, output=answer, span=(0, len(completion.text)), verifier=seed.verifier)
        return Received((row,))
