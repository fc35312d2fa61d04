"""The mask matrix: what the trainer learns from each kind of row with each of many chat templates.

``python -m tests.mask_matrix`` prints the table. ``check`` compares each cell with ``apply_chat_template``, and a test
asserts the outcomes.
"""

from __future__ import annotations

import json
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cache
from typing import Any

import numpy as np

from finetune.data.corpus import Document
from finetune.data.marks import common_prefix
from finetune.data.render import Renderer, RenderResult, render_all
from finetune.data.rows import ChatTurn, Example
from selfinstruct.common.chat_template import TODAY
from selfinstruct.errors import UsageError
from tests.finetune_chat_models import MODELS, tokenizer

__all__ = ["ROWS", "Cell", "Inference", "check", "outcomes", "renderer"]

PARAMETERS = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}
WEATHER: dict[str, Any] = {
    "type": "function",
    "function": {"name": "weather", "description": "Weather of a city.", "parameters": PARAMETERS},
}
CALL: dict[str, Any] = {
    "id": "call00001",
    "type": "function",
    "function": {"name": "weather", "arguments": {"city": "Oslo"}},
}


def user(text: str) -> ChatTurn:
    return ChatTurn("user", text)


def assistant(text: str = "", **fields: Any) -> ChatTurn:
    return ChatTurn("assistant", text, **fields)


def thought(reasoning: str, answer: str) -> ChatTurn:
    return assistant(f"<think>\n{reasoning}\n</think>\n\n{answer}")


FIRST = (user("Name a colour."), assistant("Red."))
LOOP = (user("Is it cold in Oslo?"), assistant(calls=(CALL,)), ChatTurn("tool", '{"celsius": -3}', name="weather"))
ROWS = {
    "one turn": Example("one", FIRST),
    "turns": Example("turns", (*FIRST, user("Another?"), assistant("Blue 🟦."), user("More?"), assistant("No."))),
    "system": Example("system", (ChatTurn("system", "Be kind."), *FIRST)),
    "tools": Example("tools", (*LOOP, assistant("Yes.")), tools=(WEATHER,)),
    "thought in answer": Example("inside", (FIRST[0], thought("The sky?", "Blue."))),
    "reasoning field": Example("field", (FIRST[0], assistant("Blue.", reasoning="The sky?"))),
    "history": Example("history", (
        FIRST[0], thought("Roses?", "Red."), user("Another?"), thought("The sky?", "Blue."))),
    "tools, reasoning": Example("loop", (
        LOOP[0], replace(LOOP[1], reasoning="Look it up."), LOOP[2], assistant("Yes.", reasoning="Below zero."),
        user("And wet?"), assistant("No.", reasoning="Too cold.")), tools=(WEATHER,)),
    "truncated": Example("truncated", (*FIRST, user("Another?"), assistant("Blue 🟦, a very long answer."))),
    "lookalikes": Example("lookalikes", FIRST),
}  # fmt: skip


@dataclass(frozen=True)
class Cell:
    """The outcome for a row.

    Attributes:
        mark: ``=`` if the ids of every document equal those of ``apply_chat_template``; ``≈`` if one differs in the
            tokens on both sides of the end of the generation prompt, where inference can't join them; ``+`` if one is
            the generation prompt followed by an answer that the template does not render; ``!`` if a note says what an
            answer loses, or that it does not continue the prompt; ``-`` if the row is refused.
        documents: Number of documents.
        reason: Why a row, or an answer of it, is refused; "" if it is not.
    """

    mark: str
    documents: int = 0
    reason: str = ""

    def __str__(self) -> str:
        several = f" {self.documents}" if self.documents > 1 else ""
        return f"{self.mark}{several}{f' ({self.reason})' if self.reason else ''}"


@cache
def renderer(name: str, max_length: int = 4096) -> Renderer:
    """Return the renderer of a model.

    Raises:
        UsageError: The trainer refuses its template.
    """
    return Renderer(tokenizer(name), "chat", max_length=max_length, template_arguments=MODELS[name].arguments)


def messages(turns: Sequence[ChatTurn], *, calls_as_text: bool) -> list[dict[str, Any]]:
    """Return turns as the messages that a server would get."""
    result: list[dict[str, Any]] = []
    for turn in turns:
        message: dict[str, Any] = {"role": turn.role, "content": turn.content}
        if turn.reasoning:
            message["reasoning_content"] = turn.reasoning
        if turn.calls:
            message["tool_calls"] = [dict(call) for call in turn.calls]
            if calls_as_text:
                function = turn.calls[0]["function"]
                as_text = {**function, "arguments": json.dumps(function["arguments"])}
                message["tool_calls"] = [{**turn.calls[0], "function": as_text}]
        if turn.role == "tool":
            message.update(name=turn.name, tool_call_id=CALL["id"])
        result.append(message)
    return result


class Inference:
    """What ``apply_chat_template`` returns for the turns of a row."""

    def __init__(self, name: str, example: Example) -> None:
        self.model, self.tokenizer, self.example = MODELS[name], tokenizer(name), example
        source = self.tokenizer.get_chat_template()
        macro = f"{{% macro strftime_now(format) %}}{TODAY}{{% endmacro %}}{{{{ '' }}}}"
        self.template = macro + source if "strftime_now" in source else source

    def text(self, count: int, *, prompt: bool) -> str:
        """Return the text of the first ``count`` turns."""
        return self.tokenizer.decode(self.ids(count, prompt=prompt))

    def ids(self, count: int, *, prompt: bool) -> list[int]:
        """Return their token ids.

        GLM writes no token after an answer. The model generates the one that opens the next turn, which is appended.
        """
        turns = self.example.turns[:count]
        ids = self._apply(turns, prompt)
        if prompt or turns[-1].role != "assistant" or "<|observation|>" not in self.model.stops:
            return ids
        following = ChatTurn("tool", "r", name="weather") if turns[-1].calls else user("q")
        stops = self.tokenizer.convert_tokens_to_ids(list(self.model.stops))
        return [*ids, next(i for i in reversed(self._apply((*turns, following), prompt)) if i in stops)]

    def _apply(self, turns: Sequence[ChatTurn], prompt: bool) -> list[int]:
        return list(self.tokenizer.apply_chat_template(
            messages(turns, calls_as_text=self.model.calls_as_text),
            tools=list(self.example.tools) or None, chat_template=self.template, add_generation_prompt=prompt,
            **self.model.arguments,
        )["input_ids"])  # fmt: skip

    def to_produce(self, index: int) -> tuple[str, str]:
        """Return what the model has to produce as an answer, and the mark of its document (as in ``Cell``)."""
        prompt, full = self.text(index, prompt=True), self.text(index + 1, prompt=False)
        turn = self.example.turns[index]
        spelled = turn.content.removeprefix("<think>\n").partition("\n</think>\n\n")
        reasoning = turn.reasoning or (spelled[0] if spelled[1] else "")
        if reasoning not in full:
            if not spelled[1] and "</think>" not in self.template:
                return self._until_stop(full[len(prompt) :]), "!"
            answer = turn.content if spelled[1] else thought(reasoning, turn.content).content
            for opening in ("<think>\n", "<think>"):
                answer = answer.removeprefix(opening) if prompt.endswith(opening) else answer
            return answer.removeprefix("\n" if prompt.endswith("<think>\n") else "") + self.model.stops[0], "+"
        if full.startswith(prompt):
            return self._until_stop(full[len(prompt) :]), "="
        generation = prompt.removeprefix(self.text(index, prompt=False))
        own = full.rindex(reasoning or turn.content or "weather")
        if generation in full[:own]:  # the turns before it are rendered differently
            return self._until_stop(full[full.rindex(generation, 0, own) + len(generation) :]), "+"
        shared = common_prefix(prompt, full)
        for token in (*self.model.special, *self.model.added):
            start = full.rfind(token, 0, shared + len(token))
            shared = start if start < shared < start + len(token) else shared
        return self._until_stop(full[min(shared, own) :]), "!"

    def _until_stop(self, text: str) -> str:
        return text[: min(text.index(stop) + len(stop) for stop in self.model.stops if stop in text)]


def runs(document: Document) -> list[tuple[int, int]]:
    """Return start and end of each run of learnt tokens."""
    edges = np.flatnonzero(np.diff(np.concatenate([[0], document.supervised, [0]]))).tolist()
    return list(zip(edges[::2], edges[1::2], strict=True))


def check(name: str, row: str) -> Cell:
    """Render a row with the template of a model, and compare every document with inference.

    Raises:
        AssertionError: A document differs, an answer is learnt twice or not at all, or something is lost in silence.
    """
    example = ROWS[row]
    try:
        ours = renderer(name)
        full = render_all([example], ours)
    except UsageError:
        return Cell("-", reason="no stop")
    if row == "truncated" and len(full.corpus):
        return _check_truncated(name, full)
    if row == "lookalikes":
        return _check_lookalikes(name)
    reasons = ", ".join(dict.fromkeys(reason for _, reason, _ in full.dropped))
    assert all(detail for _, _, detail in full.dropped)
    if not len(full.corpus):
        return Cell("-", reason=reasons)
    marks = _check_documents(name, example, full)
    refused = sum("turn" in detail for _, _, detail in full.dropped)
    learnt = [index for index, turn in enumerate(example.turns) if turn.role == "assistant"]
    assert len(marks) + refused == len(learnt), "an answer is learnt twice, or not at all"
    assert bool(full.notes) == ("!" in marks), "a change without a note, or a note without a change"
    mark = next(mark for mark in "!+≈=" if mark in marks)
    return Cell(mark, len(full.corpus), reasons)


def _check_documents(name: str, example: Example, full: RenderResult) -> list[str]:
    """Compare the documents of a row; return a mark for each answer."""
    inference, decode, marks, learnt = Inference(name, example), tokenizer(name).decode, [], []
    for number in range(len(full.corpus)):
        document = full.corpus[number]
        ids = document.ids.tolist()
        for start, end in runs(document):
            text, prefix = decode(ids[start:end]), decode(ids[:start])
            index, expected, mark = _find_turn(inference, prefix, text)
            assert text == expected, (text, expected)
            prompt = inference.ids(index, prompt=True)
            if mark != "!":
                assert prefix == decode(prompt)
            if mark == "=":
                rendered = inference.ids(index + 1, prompt=False)
                assert decode(rendered).startswith(prefix + text)
                if ids[:end] != rendered[:end]:
                    assert ids[:start] == prompt
                    assert rendered[:start] != prompt, "the prompt alone explains no other ids"
                    mark = "≈"
            learnt.append(index)
            marks.append(mark)
        last = learnt[-1]
        if marks[-1] == "=":
            assert ids == inference.ids(last + 1, prompt=False)
    assert len(set(learnt)) == len(learnt)
    return marks


def _find_turn(inference: Inference, prefix: str, text: str) -> tuple[int, str, str]:
    """Return which answer a run is: its index, what the model has to produce, and its mark."""
    for index, turn in enumerate(inference.example.turns):
        if turn.role == "assistant":
            expected, mark = inference.to_produce(index)
            prompt = inference.text(index, prompt=True)
            if text == expected and (prefix == prompt or (mark == "!" and prompt.startswith(prefix))):
                return index, expected, mark
    raise AssertionError(f"no inference has this prompt and answer: {prefix!r}, {text!r}")


def _check_truncated(name: str, full: RenderResult) -> Cell:
    """Check that a row that is cut keeps the beginning of each document, and no stop token in place of the rest."""
    documents = [full.corpus[number] for number in range(len(full.corpus))]
    limit = len(documents[-1]) - 12
    cut = render_all([ROWS["truncated"]], renderer(name, limit))
    assert cut.truncated >= 1
    assert len(cut.corpus) + len(cut.dropped) == len(documents)
    for number in range(len(cut.corpus)):
        short = cut.corpus[number]
        origin = next(each for each in documents if each.ids[: len(short)].tolist() == short.ids.tolist())
        assert short.supervised.tolist() == origin.supervised[: len(short)].tolist()
        assert len(short) == min(limit, len(origin))
    return Cell("=", len(cut.corpus), ", ".join(reason for _, reason, _ in cut.dropped))


def _check_lookalikes(name: str) -> Cell:
    """Check that control tokens in the text of a row are plain text, so that only the template writes some."""
    model = MODELS[name]
    source, convert = tokenizer(name).chat_template, tokenizer(name).convert_tokens_to_ids
    known = [token for token in (*model.special, *model.added) if token in model.special or token in source]
    control = set(convert([token for token in known if token.strip() and token not in ("  ", "<h1>")]))
    attack = f"See {' and '.join(known)}."

    def written(question: str, answer: str) -> Counter[int] | None:
        result = render_all([Example("row", (user(question), assistant(answer)))], renderer(name))
        assert not result.dropped or result.dropped[0][1] == "rewritten"  # a template may divide answers at </think>
        return Counter(i for i in result.corpus.ids.tolist() if i in control) if len(result.corpus) else None

    expected = written("See it.", "See it.")
    assert written(attack, "See it.") == expected
    in_answer = written("See it.", attack)
    assert not (in_answer or Counter()) - expected
    return Cell("=", 1, "" if in_answer else "rewritten")


def outcomes(rows: Sequence[str] = tuple(ROWS)) -> Iterator[tuple[str, list[Cell]]]:
    """Yield the cells of each model."""
    for name in MODELS:
        yield name, [check(name, row) for row in rows]


def main() -> None:
    """Print the table and its counts."""
    print(f"| template | {' | '.join(ROWS)} |\n|---{'|---' * len(ROWS)}|")
    counts: Counter[str] = Counter()
    for name, cells in outcomes():
        print(f"| {name} | {' | '.join(map(str, cells))} |")
        counts.update(cell.mark for cell in cells)
    documents = {"=": "equal to inference", "≈": "equal but for the token at the end of the prompt",
                 "+": "the prompt and the answer", "!": "with a note", "-": "refused with a reason"}  # fmt: skip
    print(f"\n{len(MODELS)} templates, {sum(counts.values())} cells:", end=" ")
    print(", ".join(f"{counts[mark]} {meaning} ({mark})" for mark, meaning in documents.items()))


if __name__ == "__main__":
    sys.exit(main())
