"""A language model for tests: its answer is a pure function of the prompt, flawed in the ways in which models are.

It knows the built-in prompts by their last lines, answers in their form, and now and then repeats itself, copies, stops
half-way, or writes what the filters exist for.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from selfinstruct.common.rng import Rng

STRATEGIES = ("alpaca", "self-instruct")
"""Those whose prompts it knows."""

VERBS = ("Describe", "List", "Explain", "Compare", "Invent", "Rewrite", "Classify", "Outline", "Estimate", "Translate")
THINGS = (
    "a harbour at dawn",
    "the rules of chess",
    "an old recipe",
    "two kinds of rock",
    "a letter of thanks",
    "a timetable",
    "the water cycle",
    "a bicycle repair",
    "three board games",
    "a museum visit",
    "the price of bread",
    "a small garden",
    "a school debate",
    "the parts of a ship",
    "a night train",
    "an apology",
    "the moons of Jupiter",
    "a village fair",
)
WAYS = (
    "for a child of eight",
    "in exactly two sentences",
    "as a short poem",
    "with one counter-example",
    "without adjectives",
    "as a table of three columns",
    "for somebody in a hurry",
    "in the voice of a sailor",
    "step by step",
    "in plain words",
    "with a surprising end",
    "as if it were forbidden",
    "using only questions",
    "in the past tense",
    "for a newspaper",
)
WORDS = (
    "river", "stone", "paper", "lantern", "winter", "market", "quiet", "yellow", "engine", "copper",
    "island", "summer", "castle", "violin", "pepper", "harvest", "marble", "window", "garden", "thunder",
    "needle", "forest", "silver", "candle", "bridge", "pencil", "orange", "desert", "kettle", "anchor",
    "feather", "mirror", "button", "cellar", "ribbon", "meadow", "hammer", "basket", "puzzle", "turnip",
)  # fmt: skip


def answer(prompt: str) -> str:
    """What the model writes after ``prompt``."""
    rng = Rng("scripted", prompt)
    last = prompt.rstrip().splitlines()[-1]
    if last.startswith("Classification:"):
        return " Yes" if rng.random() < 0.3 else " No"
    if last in _EVOLVING:
        return _EVOLVING[last](rng, prompt)
    if last == "Instruction:":
        first = int(prompt.rstrip().splitlines()[-2].rsplit(" ", 1)[1])
        return _blocks(rng, first)
    if last == "Task:":
        return f" {_instruction(rng)}"
    if last in {"Answer:", "Solution:", "Code:"}:
        return f" {_output(rng)}" + ("" if rng.random() < 0.5 else f"\nAnswer: {rng.below(100)}")
    if last.startswith("### Task:"):
        return _instances(rng, label_first="classification task" in prompt.splitlines()[0])
    return _list(rng, int(last.rstrip(".")))


def reply(body: Mapping[str, Any]) -> str:
    """The answer to the body of a completions or chat completions call."""
    if "prompt" in body:
        return answer(body["prompt"])
    prompt = body["messages"][-1]["content"]
    last = prompt.rstrip().splitlines()[-1]
    # A chat model writes the number again that a raw continuation finds in the prompt.
    return (last if last.rstrip(".").isdigit() else "") + answer(prompt)


def _instruction(rng: Rng) -> str:
    flaw = rng.random()
    if flaw < 0.06:
        return "Draw an image of " + rng.choice(THINGS)
    if flaw < 0.10:
        return "Go on"
    if flaw < 0.13:
        return "Describe the rules of chess in plain words"
    details = ", ".join(rng.sample(WORDS, 4))
    return f"{rng.choice(VERBS)} {rng.choice(THINGS)} {rng.choice(WAYS)}: {details}"


def _output(rng: Rng) -> str:
    flaw = rng.random()
    if flaw < 0.05:
        return ""
    if flaw < 0.09:
        return "The answer is:"
    return " ".join(rng.choice(WORDS) for _ in range(3 + rng.below(12))) + "."


def _list(rng: Rng, first: int) -> str:
    items = [_instruction(rng) for _ in range(4 + rng.below(4))]
    return "".join(f" {item}\n{first + place + 1}." for place, item in enumerate(items)).rsplit("\n", 1)[0]


def _blocks(rng: Rng, first: int) -> str:
    blocks = []
    for place in range(2 + rng.below(3)):
        given = "<noinput>" if rng.random() < 0.6 else " ".join(rng.choice(WORDS) for _ in range(4))
        head = "" if place == 0 else f"### Task {first + place}\nInstruction:"
        blocks.append(f"{head} {_instruction(rng)}\nInput: {given}\nOutput: {_output(rng)}")
    return "\n\n".join(blocks)


def _instances(rng: Rng, *, label_first: bool) -> str:
    lines = []
    for place in range(1 + rng.below(3)):
        given = " ".join(rng.choice(WORDS) for _ in range(5))
        pair = [f"Input: {given}", f"Output: {_output(rng)}"]
        if label_first:
            pair = [f"Label: {rng.choice(WORDS)}", f"Input: {given}"]
        lines += [f"Example {place + 1}", *pair]
    return "\n" + "\n".join(lines)


def _rewritten(rng: Rng, prompt: str) -> str:
    """A task with some words more, or what it must not be."""
    given = prompt.rsplit("Given task: ", 1)[1].rsplit("\n", 1)[0].strip()
    flaw = rng.random()
    if flaw < 0.03:
        return ""
    if flaw < 0.12:
        return f" {given.upper()}"
    if flaw < 0.18:
        return f" Here is the rewritten task: {given}, {rng.choice(WAYS)}"
    if flaw < 0.21:
        return " Draw it"
    return f" {given}\nDo it {rng.choice(WAYS)}, and with all of these: {', '.join(rng.sample(WORDS, 10))}."


def _created(rng: Rng, _prompt: str) -> str:
    return f" {_instruction(rng)}"


def _compared(rng: Rng, _prompt: str) -> str:
    flaw = rng.random()
    return " equal" if flaw < 0.2 else " I can't tell." if flaw < 0.25 else " different"


def _solved(rng: Rng, _prompt: str) -> str:
    flaw = rng.random()
    return "I am sorry, no." if flaw < 0.08 else "... and that is it!" if flaw < 0.14 else _output(rng)


_EVOLVING = {
    "Rewritten task:": _rewritten,
    "Created task:": _created,
    "Equal or different:": _compared,
    "### Answer": _solved,
}
