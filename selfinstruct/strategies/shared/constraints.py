"""Constraints on the form of an answer, drawn at random, each as a sentence and as a verifier.

The kinds are a selection from IFEval (Zhou et al., 2023, arXiv:2311.07911). Constraints that are drawn together can be
met together: kinds that concern the same aspect of a text exclude each other, and their words and phrases come from
disjoint lists.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

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
        name: Name for reports, without the drawn numbers and words (``words, at most``).
        text: A sentence in the words of a user.
        verifier: Verifier specification (``verifiers``).
    """

    name: str
    text: str
    verifier: Mapping[str, Json]


def _words_at_most(rng: Rng) -> Constraint:
    limit = rng.choice((40, 60, 80, 100))
    return Constraint("words, at most", f"Use at most {limit} words.", {"kind": "words", "max": limit})


def _words_at_least(rng: Rng) -> Constraint:
    limit = rng.choice((30, 50, 80, 120))
    return Constraint("words, at least", f"Use at least {limit} words.", {"kind": "words", "min": limit})


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
    sentence = f'End the answer with "{text}" and write nothing after it.'
    return Constraint("ends with", sentence, {"kind": "ends_with", "text": text})


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
    sentence = f'Answer with nothing but a JSON object that has the keys "{keys[0]}" and "{keys[1]}", both strings.'
    return Constraint("json", sentence, {"kind": "json", "schema": schema})


# Each kind with the aspects of a text that it constrains: two kinds with a common aspect are never drawn together.
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


def draw(rng: Rng, limit: int) -> tuple[Constraint, ...]:
    """Draw 1 to ``limit`` constraints that can be met together; fewer if the remaining kinds would contradict them."""
    count, constrained = 1 + rng.below(limit), set[str]()
    constraints: list[Constraint] = []
    for make, aspects in rng.shuffled(_KINDS):
        if len(constraints) < count and not aspects & constrained:
            constraints.append(make(rng))
            constrained |= aspects
    return tuple(constraints)


def all_of(constraints: Sequence[Constraint]) -> dict[str, Json]:
    """Return one verifier specification for all constraints."""
    return {"kind": "all", "of": [constraint.verifier for constraint in constraints]}


def _listed(words: Sequence[str], last: str) -> str:
    """Return ``words "a", "b" and "c"``, or ``word "a"``."""
    quoted = [f'"{word}"' for word in words]
    if len(quoted) == 1:
        return f"word {quoted[0]}"
    return f"words {', '.join(quoted[:-1])} {last} {quoted[-1]}"
