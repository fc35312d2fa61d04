"""The tasks of the proof: a question about a topic, and one constraint on the form of its answer with a verifier.

Training and held-out tasks share the kinds of constraints, and no topic and no wording of a question.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from selfinstruct.common.rng import Rng

__all__ = ["held_out_tasks", "training_tasks"]

TOPICS = (
    "the moon", "bicycles", "bread", "the human heart", "rain", "chess", "honey bees", "volcanoes", "libraries", "tea",
    "deserts", "the printing press", "whales", "bridges", "sleep", "mountains", "money", "gardens", "trains", "salt",
    "the ocean", "friendship", "glass", "wolves", "lighthouses", "winter", "pianos", "rice", "maps", "the sun",
    "markets", "trees", "soap", "cats", "rivers", "photographs", "cheese", "islands", "clocks", "running",
    "castles", "spiders", "paper", "weather forecasts", "potatoes", "kites", "hospitals", "gold", "owls", "swimming",
)  # fmt: skip
HELD_OUT_TOPICS = (
    "horses", "coffee", "the desert fox", "snow", "violins", "telephones", "apples", "earthquakes", "museums", "ships",
    "mirrors", "butterflies", "the wheel", "lakes", "candles", "dogs", "theatre", "wheat", "satellites", "shoes",
)  # fmt: skip
_QUESTIONS = (
    "Explain to a child what is special about {}.",
    "Write a short note about {}.",
    "What should everyone know about {}?",
    "Describe {} to a visitor.",
)
_HELD_OUT_QUESTIONS = (
    "Give a newspaper reader a few facts about {}.",
    "Why are {} worth a closer look?",
    "Introduce {} to a class.",
)
_CLOSING = ("That is all for today.", "I hope this is clear.", "Now you know.")
_OPENING = ("Here is the answer:", "Well then,", "In short:")
_WORDS = ("yesterday", "river", "together", "question", "seven", "quiet")


def _constraints(dice: Rng) -> list[tuple[str, dict[str, Any]]]:
    """Return a sentence and a verifier of each kind."""
    closing, opening, word = dice.choice(_CLOSING), dice.choice(_OPENING), dice.choice(_WORDS)
    bullets, most = dice.choice((3, 4)), dice.choice((20, 25, 30))
    return [
        ("Write in lower case only, without any capital letter.", {"kind": "lowercase"}),
        ("Do not use any comma.", {"kind": "no_commas"}),
        (f"Answer with exactly {bullets} bullet points that begin with a dash.", {"kind": "bullets", "count": bullets}),
        (f"Use at most {most} words.", {"kind": "words", "min": 3, "max": most}),
        (f'Begin your answer with "{opening}"', {"kind": "starts_with", "text": opening}),
        (f'End your answer with "{closing}"', {"kind": "ends_with", "text": closing}),
        (f'Use the word "{word}" somewhere in your answer.', {"kind": "contains", "words": [word]}),
    ]  # fmt: skip


def _tasks(topics: Sequence[str], questions: Sequence[str], count: int, name: str) -> list[dict[str, Any]]:
    """Return tasks that go through the kinds of constraints for one topic after the other, at most ``count``."""
    tasks = []
    for topic in topics:
        dice = Rng(name, topic)
        for sentence, verifier in _constraints(dice):
            question = dice.choice(questions).format(topic)
            tasks.append({"instruction": f"{question} {sentence}", "cluster": topic, "verifier": verifier})
    return Rng(name, "order").shuffled(tasks)[:count]


def training_tasks(count: int) -> list[dict[str, Any]]:
    """Return up to 350 tasks whose verified answers are trained on."""
    return _tasks(TOPICS, _QUESTIONS, count, "training")


def held_out_tasks(count: int) -> list[dict[str, Any]]:
    """Return up to 140 tasks about other topics, in other words, on which models are compared."""
    return _tasks(HELD_OUT_TOPICS, _HELD_OUT_QUESTIONS, count, "held out")
