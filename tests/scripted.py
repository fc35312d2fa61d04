"""A scripted language model for tests. Its answer is a pure function of the request and has the flaws of real models.

It recognises the built-in prompts by their last line and answers in their form. Now and then it repeats itself, copies
the prompt, stops half-way, or writes something that a filter rejects.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from selfinstruct.common.rng import Rng
from tests.loopback import Reply

STRATEGIES = ("alpaca", "self-instruct")
"""The strategies that the long crash tests run."""

SETTINGS: Mapping[str, Mapping[str, Any]] = {
    "alpaca": {},
    "self-instruct": {},
    "evol-instruct": {},
    "magpie": {"magpie": {"template": "chatml", "turns": 2, "answer": {"max_tokens": 90, "api": "chat"}}},
    "personas": {"personas": {"generate": True, "constraints": 1}},
    "conversation": {"conversation": {"max_rounds": 3}},
    "evaluate": {"evaluate": {"suites": ["verified=tests/golden/items.jsonl"]}},
    "respond": {"respond": {"systems": "builtin", "reasoning": True}},
    "mix": {
        "strategies": [
            {"name": "self-instruct", "weight": 2},
            {"name": "alpaca"},
            {"name": "alpaca", "label": "short", "list_length": 5},
            {"name": "personas", "generate": True},
        ]
    },
    "quality": {
        "strategy": "alpaca",
        "alpaca": {"list_length": 5},
        "quality": {
            "best_of": 3,
            "judge": {"rubrics": ["clarity", "helpfulness"], "threshold": 3.5},
            "pairs": True,
            "tags": True,
        },
    },
}
"""Settings for a short run of each strategy, of a mixed run (``mix``) and of a run with a judge (``quality``)."""

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
    """Return the continuation of a raw prompt that asks for tasks or for the answer to a task."""
    rng = Rng("scripted", prompt)
    last = _last_line(prompt)
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


def reply(body: Mapping[str, Any]) -> str | Reply | list[str | Reply]:
    """Return the answer to the body of a completions or chat completions request; a list if it asks for several."""
    seed, count = body.get("seed", 0), body.get("n", 1)
    if "prompt" in body:
        replies = [continuation(body["prompt"], seed, index) for index in range(count)]
    else:
        replies = [message([one["content"] for one in body["messages"]], seed)] * count
    return replies[0] if count == 1 else replies


def continuation(prompt: str, seed: int = 0, index: int = 0) -> str | Reply:
    """Return the continuation of any raw prompt.

    Args:
        prompt: The prompt.
        seed: The sampling seed; only prompts that are the same in every request depend on it.
        index: The index of the choice among several.
    """
    last = _last_line(prompt)
    if prompt.endswith(_CHATML):
        return _flawed(Rng("magpie", prompt, seed), _question if prompt.endswith(_CHATML[0]) else _answer)
    if last in _DIALOGUE:
        return _flawed(Rng("dialogue", prompt), _DIALOGUE[last])
    if index:
        return _output(Rng("choice", prompt, index))
    return answer(prompt)


def message(messages: Sequence[str], seed: int = 0) -> str | Reply:
    """Return the next message of a chat, given the texts of the messages so far."""
    first, prompt = messages[0], messages[-1]
    last = _last_line(prompt)
    if first.startswith("Let us change roles"):
        return _flawed(Rng("dialogue", *messages), _question)
    if "between <think> and </think>" in last:
        return _flawed(Rng("reason", *messages), _reasoned)
    if last.rstrip(".").isdigit():
        # A chat model repeats the number that a raw prompt already contains.
        return last + answer(prompt)
    if last in _EVOLVING or last.partition(" ")[0] in {"Classification:", "Instruction:", "###"}:
        return answer(prompt)
    if last in _DIALOGUE or last in {"Task:", "Answer:", "Solution:", "Code:"}:
        return continuation(prompt, seed)
    return _flawed(Rng("chat", *messages), _answer)


def _last_line(prompt: str) -> str:
    return prompt.rstrip().splitlines()[-1]


def _flawed(rng: Rng, write: Callable[[Rng], str]) -> str | Reply:
    """Return what ``write`` returns, sometimes empty or cut off at the token limit."""
    text, flaw = write(rng), rng.random()
    return "" if flaw < 0.03 else Reply(text[: len(text) // 2], "length") if flaw < 0.1 else text


def _question(rng: Rng) -> str:
    flaw = rng.random()
    if flaw < 0.1:
        return "Thanks, that is all. [END]"
    if flaw < 0.15:
        return "As an AI, I have no questions."
    if flaw < 0.2:
        return "Why <|im_end|> and not <|im_start|>?"
    return f"What about the {', the '.join(rng.sample(WORDS, 4))}?"


def _answer(rng: Rng) -> str:
    return f"It has a {', a '.join(rng.sample(WORDS, 6))}.\n\nAnd a {rng.choice(WORDS)}."


def _reasoned(rng: Rng) -> str:
    text = _answer(rng)
    return text if rng.random() < 0.1 else f"<think>\nFirst the {rng.choice(WORDS)}.\n</think>\n{text}"


def _scored(rng: Rng) -> str:
    return "Hard to say." if rng.random() < 0.05 else f" {1 + rng.below(5)}\nReason: it is {rng.choice(WORDS)}"


def _tagged(rng: Rng) -> str:
    return f" {rng.choice(['coding', 'poetry'])}\nDifficulty: easy\nLanguage: English"


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
    return "".join(f" {item}\n{first + index + 1}." for index, item in enumerate(items)).rsplit("\n", 1)[0]


def _blocks(rng: Rng, first: int) -> str:
    blocks = []
    for index in range(2 + rng.below(3)):
        given = "<noinput>" if rng.random() < 0.6 else " ".join(rng.choice(WORDS) for _ in range(4))
        head = "" if index == 0 else f"### Task {first + index}\nInstruction:"
        blocks.append(f"{head} {_instruction(rng)}\nInput: {given}\nOutput: {_output(rng)}")
    return "\n\n".join(blocks)


def _instances(rng: Rng, *, label_first: bool) -> str:
    lines = []
    for index in range(1 + rng.below(3)):
        given = " ".join(rng.choice(WORDS) for _ in range(5))
        pair = [f"Input: {given}", f"Output: {_output(rng)}"]
        if label_first:
            pair = [f"Label: {rng.choice(WORDS)}", f"Input: {given}"]
        lines += [f"Example {index + 1}", *pair]
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

_DIALOGUE: Mapping[str, Callable[[Rng], str]] = {
    "User:": _question,
    "Assistant:": _answer,
    "Reasoning:": _answer,
    "Score:": _scored,
    "Category:": _tagged,
}
_CHATML = ("<|im_start|>user\n", "<|im_start|>assistant\n")
