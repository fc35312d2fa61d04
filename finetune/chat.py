"""Talking to a model in the terminal, in the format that it was trained on."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import GenerationConfig
from transformers.generation.streamers import BaseStreamer

from finetune.data.render import Renderer, RenderError
from finetune.data.rows import ChatTurn
from finetune.evaluation.samples import generating
from finetune.model.adapters import BASE
from finetune.model.loading import load, load_adapted
from finetune.record import RECORD, require_complete
from finetune.report import strip_control_chars
from selfinstruct.common.codec import loads
from selfinstruct.errors import UsageError

__all__ = ["talk"]

_HELP = "/reset forgets the conversation, /quit or Ctrl-D ends, Ctrl-C stops an answer"
_PARTIAL = "\N{REPLACEMENT CHARACTER}"  # what the first bytes of a character decode to

Write = Callable[[str], None]


def talk(
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
    """Answer what ``read`` gives, until it raises EOFError.

    Args:
        folder: A model as ``finetune.model.loading.load`` accepts it, or adapters that this trainer wrote; the format
            of a folder trained here is read from its ``finetune.json``.
        prompt: Answer this alone, and return.
        system: What the conversation begins with, in the place of the system.
        temperature: 0 takes the likeliest token each time.
        base: Where the model lies that adapters in ``folder`` were trained beside, if not where it lay.
        top_p: Sample among the likeliest tokens that have this much probability together (Holtzman et al. 2019,
            arXiv:1904.09751).

    Raises:
        UsageError: There is no such model; the format has no place for ``system``.
        RenderError: The format can't hold ``prompt``.
    """
    if folder is not None:
        require_complete(Path(folder))
    wanted = _format(folder)
    model, tokenizer = _load(folder, base)
    renderer = Renderer(tokenizer, wanted, max_length=1 << 20)
    if system and renderer.format == "completion":
        raise UsageError(f"the format {renderer.format} has no place for a system's words; leave --system out")
    torch.manual_seed(seed)
    config = GenerationConfig(  # type: ignore[no-untyped-call]
        do_sample=temperature > 0,
        temperature=temperature or None,
        top_p=top_p if temperature > 0 else None,
        top_k=0 if temperature > 0 else None,  # no other bound on what is sampled from
        eos_token_id=sorted(renderer.stop_ids),
        pad_token_id=min(renderer.stop_ids),
    )
    chat = _Chat(model, tokenizer, renderer, config, max_tokens, [ChatTurn("system", system)] if system else [], write)
    if prompt is not None:
        chat.answer(prompt)
        return
    write(f"{_HELP}\n")
    while (asked := _read(read, write)) != "/quit":
        if asked == "/reset":
            chat.turns = list(chat.first)
        elif asked.startswith("/") and asked[1:].isalpha():
            write(f"{_HELP}\n")
        elif asked:
            _answered(chat, asked, write)


def _read(read: Callable[[str], str], write: Write) -> str:
    try:
        return read("> ").strip()
    except EOFError:
        write("\n")
        return "/quit"
    except KeyboardInterrupt:  # there is no answer to stop: whoever typed it began a line and gave it up
        write("\n")
        return ""


def _answered(chat: _Chat, asked: str, write: Write) -> None:
    try:
        chat.answer(asked)
    except KeyboardInterrupt:
        write("\n")
    except (RenderError, UsageError) as error:
        write(f"{error}\n")


@dataclass
class _Chat:
    """A conversation; ``first`` is what it begins with, ``longest`` the most tokens of an answer."""

    model: Any
    tokenizer: Any
    renderer: Renderer
    config: Any
    longest: int
    first: list[ChatTurn]
    write: Write

    def __post_init__(self) -> None:
        self.turns = list(self.first)

    def answer(self, asked: str) -> None:
        """Write the answer as it comes; both are remembered, where the format holds a conversation.

        Raises:
            UsageError: The conversation has become too long for the model.
            RenderError: The format can't hold it.
            KeyboardInterrupt: The answer was stopped; what there was of it is remembered.
        """
        # Alpaca's prompt has room for one instruction: each is answered by itself.
        turns = [*(self.turns if self.renderer.format == "chat" else self.first), ChatTurn("user", asked)]
        ids = self.renderer.prompt(turns)
        room = getattr(self.model.config, "max_position_embeddings", None)
        left = self.longest if room is None else min(self.longest, room - len(ids))
        if left < 1:
            raise UsageError(f"the conversation has {len(ids):,} tokens, the model takes {room:,}: /reset begins anew")
        stream = _Stream(self.tokenizer, self.renderer.stop_ids, self.write)
        try:
            self._generate(ids, left, stream)
        finally:
            if stream.text.strip():
                self.turns = [*turns, ChatTurn("assistant", stream.text)]
        self.write("\n")

    @torch.no_grad()
    def _generate(self, ids: list[int], left: int, stream: _Stream) -> None:
        prompt = torch.tensor([ids], device=next(self.model.parameters()).device)
        self.config.max_new_tokens = left
        with generating(self.model, self.config):
            self.model.generate(
                input_ids=prompt, attention_mask=torch.ones_like(prompt), generation_config=self.config, streamer=stream
            )


class _Stream(BaseStreamer):
    """Writes tokens as they come, in whole characters.

    Attributes:
        text: What was written so far.
    """

    def __init__(self, tokenizer: Any, stop_ids: frozenset[int], write: Write) -> None:
        self.text = ""
        self._tokenizer, self._stop_ids, self._write = tokenizer, stop_ids, write
        self._ids: list[int] = []
        self._begun = False
        self._from = self._shown = 0  # decoded is from the tokens written last: their text decides on a space between

    def put(self, value: torch.Tensor) -> None:
        """Take tokens; the first that come are the prompt."""
        if self._begun:
            self._ids += [one for one in value.flatten().tolist() if one not in self._stop_ids]
            self._flush()
        self._begun = True

    def end(self) -> None:
        """Write also what is no whole character."""
        self._flush(last=True)

    def _flush(self, *, last: bool = False) -> None:
        before, now = (self._decode(self._ids[self._from : end]) for end in (self._shown, len(self._ids)))
        if len(now) <= len(before) or (now.endswith(_PARTIAL) and not last):
            return
        self._from, self._shown = self._shown, len(self._ids)
        self.text += now[len(before) :]
        self._write(strip_control_chars(now[len(before) :]))

    def _decode(self, ids: list[int]) -> str:
        text: str = self._tokenizer.decode(ids, skip_special_tokens=True, clean_up_tokenization_spaces=False)
        return text


def _format(folder: str | None) -> str:
    """The format that the run in ``folder`` recorded; else what suits the tokenizer."""
    record = Path(folder or ".") / RECORD
    if folder is None or not record.is_file():
        return "auto"
    try:
        return str(loads(record.read_bytes())["format"])
    except (OSError, ValueError, KeyError, TypeError):
        raise UsageError(f"{record}: no record of a training run; remove it to talk to the model without") from None


def _load(folder: str | None, base: str | None) -> tuple[Any, Any]:
    """A model, with its adapters if ``folder`` holds such, and its tokenizer."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    dtype = torch.bfloat16 if device.type == "cuda" else torch.float32
    record = Path(folder or ".") / BASE
    if folder is None or not record.is_file():
        loaded = load(folder, dtype=dtype, device=device)
        return loaded.model.eval(), loaded.tokenizer
    loaded = load_adapted(Path(folder), dtype=dtype, device=device, base=base)
    return loaded.model, loaded.tokenizer
