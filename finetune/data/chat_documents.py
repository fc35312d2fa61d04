"""Documents of a conversation, rendered as inference would render it at the moment of each answer.

At inference an answer follows the generation prompt of the turns before it, and ends with its stop token. Many chat
templates render an answer differently once another turn follows: Qwen3 removes its thoughts, gpt-oss replaces its stop
token. Each learnt answer is therefore rendered as the last turn. Answers whose document is the beginning of a later
one, up to the stop token, share that one; so a row becomes one document if the template rewrites nothing, otherwise one
for each answer that it rewrites.

A document is what the template renders, which begins with the generation prompt, with three exceptions:

- The template drops the thought that begins an answer, even of the last turn (DeepSeek-R1); or the answer lacks the
  opening of its thought, which the generation prompt has; or the template renders the turns before an answer
  differently once it is answered (gpt-oss after a tool call). The document is the generation prompt followed by the
  answer.
- The template has no field for reasoning, but mentions the markup of thoughts (SmolLM3). The reasoning is written
  before the answer with this markup. Without such markup it is left out, with a note.
- The generation prompt opens a thought, and the answer as rendered has none. The document is what the template
  renders; a note reports that it does not continue the prompt. With a thought that contradicts the prompt, as of
  ``enable_thinking=false``, the answer is refused.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace

from finetune.data.formats import REASONING_LEFT_OUT, RenderedText, RenderError, ResponseSpan
from finetune.data.marks import Owner, Piece, common_prefix
from finetune.data.rows import ChatTurn, Example
from finetune.data.templates import ChatTemplate, Rendering

__all__ = ["ChatDocuments"]

_DOES_NOT_CONTINUE = (
    "with an answer that does not continue the generation prompt, which ends in {}: at inference the model will be "
    "prompted with it nevertheless; add the reasoning, or set template_arguments so that the prompt leaves it out"
)
_PLACEHOLDER = ChatTurn("assistant", "x")


@dataclass(frozen=True, slots=True)
class _Answer:
    """An answer in a conversation.

    Attributes:
        text: The text of the conversation.
        pieces: The row's own pieces in it.
        missing: The own texts that the template left out.
        span: The span to learn.
        notes: What the rendering leaves out or changes.
    """

    text: str
    pieces: tuple[Piece, ...]
    missing: tuple[Owner, ...]
    span: ResponseSpan
    notes: tuple[str, ...] = ()


class ChatDocuments:
    """Renderer of conversations with a chat template.

    Args:
        template: The template.
        stops: Tokens that end a response.
    """

    def __init__(self, template: ChatTemplate, stops: frozenset[str]) -> None:
        self._template = template
        self._stops = re.compile("|".join(map(re.escape, sorted(stops, key=len, reverse=True))))

    def render(self, example: Example) -> tuple[list[RenderedText], list[RenderError]]:
        """Render the documents of an example.

        Returns:
            The documents in the order of their last answers, and an error for each answer that can't be learnt although
            others can.

        Raises:
            RenderError: The template rejects the conversation, or no answer can be learnt.
        """
        learnt = [index for index, turn in enumerate(example.turns) if turn.role == "assistant" and turn.trained]
        if not learnt:
            raise RenderError("turns", "the conversation has no assistant message to learn")
        for index in learnt:
            turn = example.turns[index]
            if not turn.content.strip() and not turn.calls:
                raise RenderError("empty", f"turn {index + 1}: the response is empty")
        self._template.require_tools(example, learnt[-1] + 1)
        documents: list[RenderedText] = []
        errors: list[RenderError] = []
        while learnt:
            index = learnt.pop()
            try:
                answer = self._answer(example, index)
            except RenderError as error:
                if error.reason not in ("rewritten", "prompt", "tools"):
                    raise
                errors.append(error)
                continue
            spans, notes = [answer.span], {*answer.notes}
            for earlier in reversed(learnt):
                if shared := self._shared(example, earlier, answer):
                    spans.insert(0, shared.span)
                    notes.update(shared.notes)
                    learnt.remove(earlier)
            content = tuple((piece.start, piece.end) for piece in answer.pieces)
            documents.insert(0, RenderedText(answer.text, content, tuple(spans), tuple(sorted(notes))))
        if not documents:
            raise errors[-1]
        return documents, errors[::-1]

    def prompt(self, example: Example) -> RenderedText:
        """Render the generation prompt of the answer that follows the turns.

        Returns:
            The prompt, with the learnt answers in it as responses.

        Raises:
            RenderError: The template rejects the conversation.
        """
        count = len(example.turns)
        if not count:
            answer = self._answer(replace(example, turns=(_PLACEHOLDER,)), 0)
            return RenderedText(answer.text[: answer.span.start], (), ())
        rendering = self._template.render(example, count, generation_prompt=True)
        spans = []
        for index, turn in enumerate(example.turns):
            if turn.role == "assistant" and turn.trained and index:
                start = len(before) if rendering.text.startswith(before := self._prompt_text(example, index)) else None
                if start is not None:
                    spans.append(ResponseSpan(index + 1, start, start, start, start))
        return RenderedText(rendering.text, tuple((piece.start, piece.end) for piece in rendering.pieces), tuple(spans))

    def _prompt_text(self, example: Example, index: int) -> str:
        return self._template.text(example, index, generation_prompt=True)

    def _shared(self, example: Example, index: int, later: _Answer) -> _Answer | None:
        """Return an earlier answer in the document of a later one; None if it needs a document of its own.

        That is the case if its own document differs from the later one before the end of its stop token.
        """
        pieces = [piece for piece in later.pieces if piece.turn == index]
        calls = {piece.owner: piece for piece in reversed(pieces) if piece.kind == "call"}.values()
        # The result of a call may repeat its name.
        own = [piece for piece in pieces if piece.kind != "call" or piece in calls]
        stop = self._stops.search(later.text, own[-1].end) if own else None
        if not stop or _problem(example, index, own):
            return None
        prompt = self._prompt_text(example, index) if index else ""
        full = self._template.text(example, index + 1)
        if not full.startswith(prompt) or full[: stop.end()] != later.text[: stop.end()]:
            return None
        lost = {owner.kind for owner in later.missing if owner.turn == index}
        spelled = not example.turns[index].reasoning
        if "call" in lost or ("reasoning" in lost and (spelled or self._pair(prompt))):
            return None
        if _thinks(own, index) and self._template.tags.closed_by(prompt):
            return None
        notes = (REASONING_LEFT_OUT,) if lost else ()
        span = ResponseSpan(index + 1, len(prompt) or own[0].start, own[-1].end, *stop.span())
        return replace(later, span=span, notes=notes)

    def _answer(self, example: Example, index: int) -> _Answer:
        """Render an answer as the last turn.

        Raises:
            RenderError: The template rejects the conversation, changes the answer or writes no stop token after it; or
                the answer contradicts the generation prompt.
        """
        prompt = self._prompt_text(example, index) if index else None
        opened = self._template.tags.opened_by(prompt or "")
        full = self._template.render(example, index + 1, opened=opened)
        notes: tuple[str, ...] = ()
        if any(owner.turn == index and owner.kind == "reasoning" for owner in full.missing):
            turn = example.turns[index]
            if not turn.reasoning:
                return self._after_prompt(example, index, prompt, full)
            if pair := self._pair(prompt or ""):
                content = f"{pair[0]}\n{turn.reasoning.strip()}\n{pair[1]}\n\n{turn.content}"
                folded = replace(turn, content=content, reasoning="")
                turns = (*example.turns[:index], folded, *example.turns[index + 1 :])
                return self._answer(replace(example, turns=turns), index)
            notes = (REASONING_LEFT_OUT,)
        if problem := _problem(example, index, full.pieces):
            raise RenderError("rewritten", f"turn {index + 1}: {problem}")
        if prompt is None:
            return self._finish(index, full, next(piece.start for piece in full.pieces if piece.turn == index), notes)
        if _thinks(full.pieces, index) and self._template.tags.closed_by(prompt):
            raise _contradiction(index, prompt)
        if full.text.startswith(prompt):
            return self._finish(index, full, len(prompt), notes)
        return self._apart_from_prompt(example, index, prompt, full, notes)

    def _apart_from_prompt(
        self, example: Example, index: int, prompt: str, full: Rendering, notes: tuple[str, ...]
    ) -> _Answer:
        """Return an answer whose rendering does not begin with its generation prompt."""
        history = max((piece.end for piece in full.pieces if piece.turn < index), default=0)
        if answer := self._after_changed_history(example, index, full, history):
            return answer
        shared = common_prefix(prompt, full.text)
        if shared < history:
            detail = f"turn {index + 1}: with the answer, the chat template renders the turns before it differently"
            raise RenderError("rewritten", detail)
        if _thinks(full.pieces, index):
            opened = self._template.tags.opened_by(prompt)
            if opened and opened[0] not in example.turns[index].content and not example.turns[index].reasoning:
                return self._after_prompt(example, index, prompt, full)  # the prompt has the opening
            raise _contradiction(index, prompt)
        first = next(piece.start for piece in full.pieces if piece.turn == index)
        start = self._template.before_token(full.text, min(shared, first))
        notes = (*notes, _DOES_NOT_CONTINUE.format(repr(prompt[start:])))
        return self._finish(index, full, start, notes)

    def _pair(self, prompt: str) -> tuple[str, str] | None:
        """Return the markup of thoughts that the generation prompt opens, or that the template mentions."""
        tags = self._template.tags
        mentioned = (pair for pair in tags.thoughts if pair[1] in tags.lone_ends)
        return tags.opened_by(prompt) or next(mentioned, None)

    def _after_prompt(self, example: Example, index: int, prompt: str | None, full: Rendering) -> _Answer:
        """Append an answer to its generation prompt, with its thought as the row spells it."""
        own = [piece for piece in full.pieces if piece.turn == index and piece.kind != "reasoning"]
        if prompt is None or not own or own[0].kind != "content" or _problem(example, index, full.pieces):
            raise RenderError("rewritten", f"turn {index + 1}: the chat template changes the response")
        tags = self._template.tags
        if tags.closed_by(prompt):
            raise _contradiction(index, prompt)
        opened = tags.opened_by(prompt)
        parts = tags.parts(example.turns[index].content, opened)
        count = next(number for number, part in enumerate(parts) if part.kind == "content" and part.text.strip())
        body = parts[count].text
        head = parts[:count]
        if opened and head[0].kind == "markup":
            head = head[1:]  # the prompt has the opening
        text = prompt
        before = self._template.render(example, index, generation_prompt=True)
        pieces = [*before.pieces]
        for number, part in enumerate(head):
            spelled = part.text
            if not number:
                spelled = spelled.removeprefix(prompt[len(prompt.rstrip()) :]) if opened else spelled.lstrip()
            if part.kind == "reasoning":
                pieces.append(_piece(index, len(text), spelled))
            text += spelled
        text += body[: len(body) - len(body.lstrip())]
        moved = len(text) - own[0].start
        pieces += [replace(piece, start=piece.start + moved, end=piece.end + moved) for piece in own]
        whole = Rendering(text + full.text[own[0].start :], tuple(pieces), before.missing)
        return self._finish(index, whole, len(prompt))

    def _after_changed_history(self, example: Example, index: int, full: Rendering, history: int) -> _Answer | None:
        """Append an answer to its generation prompt, since its rendering changes the turns before it.

        Args:
            history: Where the turns before it end in its rendering.

        Returns:
            The answer; None if the text that begins it in the prompt does not precede it in its rendering.
        """
        prompt = self._template.render(example, index, generation_prompt=True)
        without = self._template.text(example, index)
        own = [piece for piece in full.pieces if piece.turn == index]
        opening = prompt.text.removeprefix(without) if prompt.text.startswith(without) else ""
        at = full.text.rfind(opening, history, own[0].start) if opening else -1
        if at < 0:
            return None
        start = at + len(opening)
        moved = len(prompt.text) - start
        pieces = [replace(piece, start=piece.start + moved, end=piece.end + moved) for piece in own]
        whole = Rendering(prompt.text + full.text[start:], (*prompt.pieces, *pieces), prompt.missing)
        return self._finish(index, whole, len(prompt.text))

    def _finish(self, index: int, whole: Rendering, start: int, notes: tuple[str, ...] = ()) -> _Answer:
        end = max(piece.end for piece in whole.pieces if piece.turn == index)
        stop = self._stops.search(whole.text, end)
        if not stop:
            raise RenderError("no stop", f"turn {index + 1}: no stop token follows the response")
        span = ResponseSpan(index + 1, start, end, *stop.span())
        return _Answer(whole.text, whole.pieces, whole.missing, span, notes)


def _thinks(pieces: Sequence[Piece], index: int) -> bool:
    """Return whether an answer is rendered with a thought."""
    return any(piece.turn == index and piece.kind == "reasoning" for piece in pieces)


def _contradiction(index: int, prompt: str) -> RenderError:
    return RenderError(
        "prompt",
        f"turn {index + 1}: the generation prompt, which ends in {prompt[-40:]!r}, has no place for the reasoning "
        "of the answer; change template_arguments (of the row: chat_template_kwargs), or leave the reasoning out",
    )


def _piece(turn: int, offset: int, text: str) -> Piece:
    """Return the span of a thought without its outer whitespace."""
    lead = len(text) - len(text.lstrip())
    return Piece(-1, turn, "reasoning", offset + lead, offset + max(len(text.rstrip()), lead), exact=True)


def _problem(example: Example, index: int, pieces: Sequence[Piece]) -> str:
    """Return how the template changes an answer; "" if it does not."""
    own = [piece for piece in pieces if piece.turn == index and piece.kind in ("content", "reasoning")]
    if not all(piece.exact for piece in own) or len({piece.owner for piece in own}) < len(own):
        return "the chat template changes the response"
    if not own and not example.turns[index].calls:
        return "the chat template leaves out the response"
    return ""
