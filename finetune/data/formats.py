"""Rendering of examples as text: the types, the Alpaca prompt, and prompt with completion.

Besides the text of a document, rendering yields the character spans of the row's own content (as opposed to what the
format wrote) and of the responses that the model is trained on. ``chat_documents`` renders conversations.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from finetune.data.rows import Example
from selfinstruct.errors import DataError

__all__ = ["REASONING_LEFT_OUT", "RenderError", "RenderedText", "ResponseSpan", "alpaca", "completion"]

_ALPACA = "Below is an instruction that describes a task. Write a response that appropriately completes the request."
_ALPACA_INPUT = (
    "Below is an instruction that describes a task, paired with an input that provides further context. "
    "Write a response that appropriately completes the request."
)
REASONING_LEFT_OUT = "with reasoning that the format has no place for, which is left out"
"""Note on an answer whose reasoning stands in a field of its own."""


class RenderError(DataError):
    """A row, or an answer of a row, that can't be rendered as a document.

    Attributes:
        reason: A code for counting: ``empty``, ``turns``, ``template``, ``rewritten``, ``prompt``, ``tools``,
            ``no stop``, ``special``, ``decoding``, ``too long``.
        detail: A description for people.
    """

    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(detail)
        self.reason = reason
        self.detail = detail


@dataclass(frozen=True, slots=True)
class ResponseSpan:
    """Character span of one response.

    Attributes:
        turn: Number of its turn, from 1, for messages.
        start: Where the model begins to write. In a chat this is the end of the generation prompt, so that text which
            the template writes before the response (a space, an empty ``<think>`` block) is supervised too.
        end: End of the row's own text in the response.
        stop, close: Span of its stop token.
    """

    turn: int
    start: int
    end: int
    stop: int
    close: int


@dataclass(frozen=True, slots=True)
class RenderedText:
    """The text of a document with its spans.

    Attributes:
        text: The full text, including the strings of the stop tokens.
        content: Start and end of each piece of the row's own content, in order. Special tokens in it are plain text.
        responses: Spans of the supervised responses, in order.
        notes: What the rendering leaves out or changes, one phrase for each kind.
    """

    text: str
    content: tuple[tuple[int, int], ...]
    responses: tuple[ResponseSpan, ...]
    notes: tuple[str, ...] = ()


def alpaca(example: Example, stop: str) -> RenderedText:
    """Render the prompt of Stanford Alpaca (Taori et al. 2023), the output directly after it, and the stop token.

    A system prompt replaces the introductory sentences of the Alpaca prompt, which only announce a task.

    Raises:
        RenderError: The example is not a single question with an answer, or the answer is empty.
    """
    system = example.turns[0].content if example.turns and example.turns[0].role == "system" else ""
    question, output = _single_exchange(replace(example, turns=example.turns[1:]) if system else example, "alpaca")
    if example.instruction is None:
        instruction, input_text = question, ""
    else:
        instruction, input_text = example.instruction, example.input or ""
    parts = [system or (_ALPACA_INPUT if input_text else _ALPACA), f"### Instruction:\n{instruction}"]
    parts += [f"### Input:\n{input_text}"] if input_text else []
    return _prompt_and_output("\n\n".join([*parts, "### Response:"]), output, stop, example)


def completion(example: Example, stop: str) -> RenderedText:
    """Render the prompt, the completion directly after it, and the stop token.

    Raises:
        RenderError: As ``alpaca``.
    """
    prompt, output = _single_exchange(example, "completion")
    return _prompt_and_output(prompt, output, stop, example)


def _single_exchange(example: Example, name: str) -> tuple[str, str]:
    roles = [turn.role for turn in example.turns]
    if roles != ["user", "assistant"]:
        raise RenderError(
            "turns", f"the format {name} holds one question and its answer, not {', '.join(roles)}; use chat"
        )
    if example.tools or example.turns[1].calls:
        raise RenderError("turns", f"the format {name} holds no tools or tool calls; use chat")
    return example.turns[0].content, example.turns[1].content


def _prompt_and_output(prompt: str, output: str, stop: str, example: Example) -> RenderedText:
    if not output.strip():
        raise RenderError("empty", "the response is empty")
    start, end = len(prompt), len(prompt) + len(output)
    notes = (REASONING_LEFT_OUT,) if example.turns[-1].reasoning else ()
    response = ResponseSpan(2, start, end, end, end + len(stop))
    return RenderedText(prompt + output + stop, ((0, end),), (response,), notes)
