"""Marks that say whether an answer is to be learnt, in the spellings of OpenAI, axolotl, LLaMA-Factory, TRL and others.

A mark stands in a message, in a part of its content, or in the row. A number or a truth value is a weight from 0 (not
learnt) to 1. Marks of single characters or tokens can't be followed by a trainer that learns whole messages; they are
problems, which only the trainer reports.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

__all__ = ["MARKS", "NO_MARK", "ROW_MARKS", "Mark", "combine_marks", "read_mark"]

_LEARNT = ("weight", "train", "training", "trained", "trainable", "istrainable", "istrained", "shouldtrain", "loss",
           "lossweight", "lossscale", "lossmask", "steplossmask", "computeloss", "learn", "learnt", "learned",
           "learnable", "supervise", "supervised")  # fmt: skip
_NOT_LEARNT = ("masked", "ismasked", "ignore", "ignored", "ignoreloss", "noloss", "skiploss", "skip", "exclude",
               "excluded", "notrain", "donttrain", "bad", "isbad", "isrejected", "iswrong")  # fmt: skip
_SPANS = ("traindetail", "traindetails", "trainingdetail", "trainingdetails")
_TOKENS = ("completionmask", "assistantmask", "assistantmasks", "assistanttokensmask", "inputids", "tokenids",
           "targetids", "promptids", "completionids")  # fmt: skip
_UNCLEAR = ("mask",)  # 1 masks in some collections, and is learnt in others
ROW_MARKS = ("weight", "train", "trainable", "istrainable", "shouldtrain", "loss", "lossweight", "supervised", "ignore",
            "ignored", "exclude", "excluded", "isbad", "isrejected", "iswrong", *_TOKENS)  # fmt: skip
"""Plain names of the fields that hold marks in a row."""
MARKS = frozenset((*_LEARNT, *_NOT_LEARNT, *_SPANS, *_TOKENS, *_UNCLEAR))
"""Plain names of the fields that hold marks in a message."""

_WORDS = {"true": 1.0, "yes": 1.0, "false": 0.0, "no": 0.0}


@dataclass(frozen=True, slots=True)
class Mark:
    """What the marks of a message or a row say.

    Attributes:
        weight: Weight of the answer in training; None without a mark.
        problem: Why the marks can't be followed; "" if they can.
    """

    weight: float | None = None
    problem: str = ""


NO_MARK = Mark()


def read_mark(fields: Mapping[str, tuple[str, Any]], text: str = "", *, of_row: bool = False) -> Mark:
    """Return what the marks among some fields say. If one of several says that an answer is not learnt, it is not.

    Args:
        fields: Name and value of each field, by its plain name (``plain_fields``).
        text: The marked text, for spans.
        of_row: Whether the fields are a row's, in which fewer names are marks.
    """
    names = [name for name in (ROW_MARKS if of_row else MARKS) if name in fields]
    return combine_marks(_read(name, *fields[name], text, of_row=of_row) for name in names)


def combine_marks(marks: Iterable[Mark]) -> Mark:
    """Return the lowest weight, and the first problem unless the weight is 0."""
    read = list(marks)
    weights = [mark.weight for mark in read if mark.weight is not None]
    weight = min(weights) if weights else None
    return Mark(weight, "" if weight == 0 else next((mark.problem for mark in read if mark.problem), ""))


def _read(plain: str, name: str, value: Any, text: str, *, of_row: bool) -> Mark:
    if plain in _TOKENS or (isinstance(value, list | tuple) and plain not in _SPANS):
        return Mark(problem=f"{name!r} marks single tokens, which can't be followed; remove it to train on the text, "
                    "or mark whole messages with a 'weight' of 0 or 1")  # fmt: skip
    if plain in _SPANS:
        return _read_spans(name, value, text)
    weight = _weight(value)
    if plain in _UNCLEAR:
        return Mark(problem=f"{name!r} may mean learnt or not learnt; write a 'weight' of 0 or 1 instead")
    if plain == "loss" and not isinstance(value, bool | str) and weight not in (0, 1):  # a measurement, not a choice
        return NO_MARK
    if weight is None:
        return NO_MARK if of_row else Mark(problem=f"{name!r} must be a number or true or false, not {value!r:.40}")
    return Mark(1 - weight if plain in _NOT_LEARNT else weight)


def _weight(value: Any) -> float | None:
    if isinstance(value, str):
        word = value.strip().casefold()
        if word in _WORDS:
            return _WORDS[word]
        try:
            value = float(word)
        except ValueError:
            return None
    return float(value) if isinstance(value, bool | int | float) and math.isfinite(value) else None


def _read_spans(name: str, value: Any, text: str) -> Mark:
    """Return the weight that all spans have, if together they are the text: axolotl's ``train_detail``."""
    problem = Mark(problem=f"{name!r} marks parts of a message, which can't be followed; split the message, or mark it "
                   "as a whole with a 'weight' of 0 or 1")  # fmt: skip
    if value in ([], ()):
        return NO_MARK
    try:
        spans = sorted((int(span["begin_offset"]), int(span["end_offset"]), _weight(span["train"])) for span in value)
    except (TypeError, KeyError, ValueError):
        return problem
    end: float = -1
    for begin, last, _ in spans:
        end = max(end, last) if begin <= end + 1 else -math.inf
    weights = {weight for _, _, weight in spans}
    return Mark(weights.pop()) if len(weights) == 1 and end >= len(text) - 1 and None not in weights else problem
