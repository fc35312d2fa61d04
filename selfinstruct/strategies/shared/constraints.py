"""Constraints on the form of an answer that code can check, drawn at random, in words and as a verifier.

The kinds are a choice from IFEval (Zhou et al., 2023, arXiv:2311.07911). What is drawn together can be met together:
kinds that speak of the same side of a text exclude each other, and their words and phrases come from lists that have
none in common.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from selfinstruct.common.codec import Json
from selfinstruct.common.rng import Rng

__all__ = ["Constraint", "all_of", "draw"]

_PRESENT = ("time", "people", "today", "water", "first", "together", "small", "home", "morning", "because")
_ABSENT = ("very", "really", "important", "thing", "always", "never", "just", "good", "also", "however")
_OPENINGS = ("In short", "To begin with", "Here is what matters:", "Dear reader", "Think of it this way:")
_ENDINGS = ("That is all.", "Take care!", "Try it today.", "I hope this helps.", "Now it is your turn.")
_KEYS = (("title", "text"), ("question", "answer"), ("topic", "summary"))


@dataclass(frozen=True)
class Constraint:
    """One constraint on an answer.

    Attributes:
        name: For reports, without its numbers and words (``words, at most``).
        text: What a user would say: a whole sentence.
        verifier: See ``verifiers.py``.
    """

    name: str
    text: str
    verifier: Mapping[str, Json]

    def to_json(self) -> dict[str, Json]:
        return {"name": self.name, "text": self.text, "verifier": self.verifier}

    @classmethod
    def from_json(cls, value: Any) -> Constraint:
        return cls(value["name"], value["text"], value["verifier"])


def _words_at_most(rng: Rng) -> Constraint:
    most = rng.choice((40, 60, 80, 100))
    return Constraint("words, at most", f"Use at most {most} words.", {"kind": "words", "max": most})


def _words_at_least(rng: Rng) -> Constraint:
    least = rng.choice((30, 50, 80, 120))
    return Constraint("words, at least", f"Use at least {least} words.", {"kind": "words", "min": least})


def _sentences(rng: Rng) -> Constraint:
    count = rng.choice((2, 3, 4, 5))
    text = f"Write exactly {count} sentences."
    return Constraint("sentences", text, {"kind": "sentences", "min": count, "max": count})


def _bullets(rng: Rng) -> Constraint:
    count = rng.choice((3, 4, 5))
    text = f'Answer with a list of exactly {count} bullet points, each on a line that begins with "- ".'
    return Constraint("bullets", text, {"kind": "bullets", "count": count})


def _contains(rng: Rng) -> Constraint:
    words = rng.sample(_PRESENT, 1 + rng.below(2))
    return Constraint("contains", f"Use the {_listed(words, 'and')}.", {"kind": "contains", "words": words})


def _excludes(rng: Rng) -> Constraint:
    words = rng.sample(_ABSENT, 1 + rng.below(3))
    return Constraint("excludes", f"Do not use the {_listed(words, 'or')}.", {"kind": "excludes", "words": words})


def _starts_with(rng: Rng) -> Constraint:
    text = rng.choice(_OPENINGS)
    return Constraint("starts with", f'Begin the answer with "{text}".', {"kind": "starts_with", "text": text})


def _ends_with(rng: Rng) -> Constraint:
    text = rng.choice(_ENDINGS)
    said = f'End the answer with "{text}" and write nothing after it.'
    return Constraint("ends with", said, {"kind": "ends_with", "text": text})


def _lowercase(_rng: Rng) -> Constraint:
    return Constraint("lowercase", "Write everything in lowercase letters.", {"kind": "lowercase"})


def _uppercase(_rng: Rng) -> Constraint:
    return Constraint("uppercase", "Write everything in capital letters.", {"kind": "uppercase"})


def _no_commas(_rng: Rng) -> Constraint:
    return Constraint("no commas", "Do not use any commas.", {"kind": "no_commas"})


def _json(rng: Rng) -> Constraint:
    keys = rng.choice(_KEYS)
    strings: dict[str, Json] = {key: {"type": "string"} for key in keys}
    schema: dict[str, Json] = {"type": "object", "properties": strings, "required": list(keys)}
    said = f'Answer with nothing but a JSON object that has the keys "{keys[0]}" and "{keys[1]}", both strings.'
    return Constraint("json", said, {"kind": "json", "schema": schema})


# Each kind with the sides of a text that it takes: two that take the same one are never drawn together.
_KINDS: tuple[tuple[Callable[[Rng], Constraint], frozenset[str]], ...] = (
    (_words_at_most, frozenset({"length"})),
    (_words_at_least, frozenset({"length"})),
    (_sentences, frozenset({"length", "layout"})),
    (_bullets, frozenset({"layout", "start", "end"})),
    (_contains, frozenset({"presence"})),
    (_excludes, frozenset({"absence"})),
    (_starts_with, frozenset({"start", "capitals at the start"})),
    (_ends_with, frozenset({"end", "capitals at the end"})),
    (_lowercase, frozenset({"capitals at the start", "capitals at the end"})),
    (_uppercase, frozenset({"capitals at the start", "capitals at the end", "presence"})),
    (_no_commas, frozenset({"commas"})),
    (_json, frozenset({"layout", "start", "end", "commas", "length", "capitals at the start"})),
)


def draw(rng: Rng, most: int) -> tuple[Constraint, ...]:
    """1 to ``most`` constraints that can be met together; fewer than were drawn for where the rest would contradict."""
    wanted, taken = 1 + rng.below(most), set[str]()
    found: list[Constraint] = []
    for make, sides in rng.shuffled(_KINDS):
        if len(found) < wanted and not sides & taken:
            found.append(make(rng))
            taken |= sides
    return tuple(found)


def all_of(constraints: Sequence[Constraint]) -> dict[str, Json]:
    """The verifier of them all."""
    return {"kind": "all", "of": [one.verifier for one in constraints]}


def _listed(words: Sequence[str], last: str) -> str:
    """``words "a", "b" and "c"``, or ``word "a"``."""
    quoted = [f'"{word}"' for word in words]
    if len(quoted) == 1:
        return f"word {quoted[0]}"
    return f"words {', '.join(quoted[:-1])} {last} {quoted[-1]}"
