"""Interactive conversation with a model in the terminal, in the format that it was trained on."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from transformers import GenerationConfig
from transformers.generation.streamers import BaseStreamer

from finetune.data.render import Renderer, RenderError
from finetune.data.rows import ChatTurn
from finetune.evaluation.samples import generation_settings
from finetune.model.loading import load_model
from finetune.model.stopping import stop_tokens
from finetune.record import RECORD, require_complete
from selfinstruct.common.codec import loads
from selfinstruct.common.console import strip_control_chars
from selfinstruct.errors import UsageError

__all__ = ["run_chat"]

_HELP = "/reset clears the conversation, /quit or Ctrl-D ends, Ctrl-C stops an answer"
_PARTIAL = "\N{REPLACEMENT CHARACTER}"  # the decoded form of an incomplete character

Write = Callable[[str], None]


def run_chat(
    folder: str | None,
    *,
    prompt: str | None = None,
    system: str | None = None,
    temperature: float = 0.7,
    top_p: float = 0.9,
    max_tokens: int = 512,
    seed: int = 0,
    base: str | None = None,
    read: Callable[[str], str] = input,
    write: Write = lambda text: print(text, end="", flush=True),  # noqa: T201
) -> None:
    """Answer each message that ``read`` returns, until it raises EOFError.

    Args:
        folder: A model as ``finetune.load_model`` accepts it. The format of a model trained here is read from its
            ``finetune.json``.
        prompt: Answer only this message, then return.
        system: System prompt.
        temperature: Sampling temperature; 0 decodes greedily.
        top_p: Sample from the smallest set of most likely tokens with at least this total probability (nucleus
            sampling, Holtzman et al. 2019, arXiv:1904.09751).
        max_tokens: Maximum tokens of an answer.
        seed: Seed of the sampling.
        base: Current location of the base model of adapters in ``folder``, if it has moved.
        read: Reads a line, given a prompt to display.
        write: Writes text without adding a newline.

    Raises:
        UsageError: There is no such model, or the format has no system prompt.
        RenderError: The format can't render ``prompt``.
    """
    if folder is not None:
        require_complete(Path(folder))
    prompt_format, template_arguments = _recorded_format(folder)
    loaded = load_model(folder, base=base)
    renderer = Renderer(loaded.tokenizer, prompt_format, max_length=1 << 20, template_arguments=template_arguments)
    if system and renderer.format == "completion":
        raise UsageError(f"the format {renderer.format} has no system prompt; leave --system out")
    stops = renderer.stop_ids.union(stop_tokens(loaded.model))
    torch.manual_seed(seed)
    config = GenerationConfig(
        do_sample=temperature > 0,
        temperature=temperature or None,
        top_p=top_p if temperature > 0 else None,
        top_k=0 if temperature > 0 else None,  # no further restriction of the tokens
        eos_token_id=sorted(stops),
        pad_token_id=min(stops),
    )
    opening = [ChatTurn("system", system)] if system else []
    conversation = _Conversation(loaded.model, loaded.tokenizer, renderer, stops, config, max_tokens, opening, write)
    if prompt is not None:
        conversation.answer(prompt)
        return
    write(f"{_HELP}\n")
    while (message := _read_message(read, write)) != "/quit":
        if message == "/reset":
            conversation.reset()
        elif message.startswith("/") and message[1:].isalpha():
            write(f"{_HELP}\n")
        elif message:
            _answer(conversation, message, write)


def _read_message(read: Callable[[str], str], write: Write) -> str:
    try:
        return read("> ").strip()
    except EOFError:
        write("\n")
        return "/quit"
    except KeyboardInterrupt:  # no answer is being written: the user discards the line
        write("\n")
        return ""


def _answer(conversation: _Conversation, message: str, write: Write) -> None:
    try:
        conversation.answer(message)
    except KeyboardInterrupt:
        write("\n")
    except (RenderError, UsageError) as error:
        write(f"{error}\n")


@dataclass
class _Conversation:
    """A conversation with a model.

    Attributes:
        stops: Ids of the tokens that end an answer.
        max_tokens: Maximum tokens of an answer.
        opening: Turns that every conversation begins with.
        turns: The turns so far.
    """

    model: Any
    tokenizer: Any
    renderer: Renderer
    stops: frozenset[int]
    config: Any
    max_tokens: int
    opening: list[ChatTurn]
    write: Write
    turns: list[ChatTurn] = field(init=False)

    def __post_init__(self) -> None:
        self.reset()

    def reset(self) -> None:
        """Begin a new conversation."""
        self.turns = list(self.opening)

    def answer(self, message: str) -> None:
        """Stream the answer to ``message``; both are added to the conversation.

        Raises:
            UsageError: The conversation exceeds the model's context length.
            RenderError: The format can't render the conversation.
            KeyboardInterrupt: The answer was stopped; the part that was written is kept.
        """
        # The alpaca and completion formats hold a single instruction, so each is answered without history.
        history = self.turns if self.renderer.format == "chat" else self.opening
        turns = [*history, ChatTurn("user", message)]
        ids = self.renderer.prompt(turns)
        context = getattr(self.model.config, "max_position_embeddings", None)
        max_tokens = self.max_tokens if context is None else min(self.max_tokens, context - len(ids))
        if max_tokens < 1:
            raise UsageError(
                f"the conversation has {len(ids):,} tokens, the model takes {context:,}: /reset begins a new one"
            )
        stream = _AnswerStream(self.tokenizer, self.stops, self.write)
        try:
            self._generate(ids, max_tokens, stream)
        finally:
            if stream.text.strip():
                self.turns = [*turns, ChatTurn("assistant", stream.text)]
        self.write("\n")

    @torch.no_grad()
    def _generate(self, ids: list[int], max_tokens: int, stream: _AnswerStream) -> None:
        prompt = torch.tensor([ids], device=next(self.model.parameters()).device)  # (1, T)
        self.config.max_new_tokens = max_tokens
        with generation_settings(self.model, self.config):
            self.model.generate(
                input_ids=prompt, attention_mask=torch.ones_like(prompt), generation_config=self.config, streamer=stream
            )


class _AnswerStream(BaseStreamer):  # type: ignore[misc] # the types of transformers are not read
    """Streamer that writes an answer in whole characters.

    Attributes:
        text: The text written so far.
    """

    def __init__(self, tokenizer: Any, stop_ids: frozenset[int], write: Write) -> None:
        self.text = ""
        self._tokenizer, self._stop_ids, self._write = tokenizer, stop_ids, write
        self._ids: list[int] = []
        self._prompt_seen = False
        # Decoding starts at the tokens that were written last: whether a space follows depends on them.
        self._decode_from = self._written = 0

    def put(self, value: torch.Tensor) -> None:
        """Accept token ids; the first call passes the prompt, which is skipped."""
        if self._prompt_seen:
            self._ids += [token_id for token_id in value.flatten().tolist() if token_id not in self._stop_ids]
            self._flush()
        self._prompt_seen = True

    def end(self) -> None:
        """Write the rest, even if it ends within a character."""
        self._flush(last=True)

    def _flush(self, *, last: bool = False) -> None:
        start = self._decode_from
        written, decoded = (self._decode(self._ids[start:end]) for end in (self._written, len(self._ids)))
        if len(decoded) <= len(written) or (decoded.endswith(_PARTIAL) and not last):
            return
        self._decode_from, self._written = self._written, len(self._ids)
        self.text += decoded[len(written) :]
        self._write(strip_control_chars(decoded[len(written) :]))

    def _decode(self, ids: list[int]) -> str:
        text: str = self._tokenizer.decode(ids, skip_special_tokens=True, clean_up_tokenization_spaces=False)
        return text


def _recorded_format(folder: str | None) -> tuple[str, dict[str, Any]]:
    """Return the format and the template arguments that the run in ``folder`` recorded; ``auto`` if it is not a run."""
    path = Path(folder or ".") / RECORD
    if folder is None or not path.is_file():
        return "auto", {}
    try:
        record = loads(path.read_bytes())
        return str(record["format"]), dict(record.get("options", {}).get("template_arguments", {}))
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        raise UsageError(f"{path}: not a record of a training run; remove it to chat without one") from None
