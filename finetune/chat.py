"""Talking to a model in the terminal, in the format that it was trained on."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch

from finetune.data import Turn
from finetune.model import load
from finetune.render import Renderer
from selfinstruct.codec import loads

__all__ = ["talk"]

_HELP = "/reset forgets the conversation, /quit (or Ctrl-D) ends; Ctrl-C stops an answer"


def talk(
    folder: str | None,
    *,
    prompt: str | None = None,
    system: str | None = None,
    temperature: float = 0.7,
    top_p: float = 0.9,
    max_tokens: int = 512,
    seed: int = 0,
    read: Callable[[str], str] = input,
    write: Callable[[str], None] = lambda text: print(text, end="", flush=True),  # noqa: T201
) -> None:
    """Answer what ``read`` gives, until it raises EOFError.

    Args:
        folder: What ``finetune.model.load`` takes; a folder that was trained here has its format in ``finetune.json``.
        prompt: Answer this alone, and return.
        temperature: 0 takes the likeliest token each time.
        top_p: Sample among the likeliest tokens that have this much probability together.

    Raises:
        UsageError: There is no such model.
    """
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    dtype = torch.bfloat16 if device.type == "cuda" else torch.float32
    loaded = load(folder, dtype=dtype, device=device)
    loaded.model.eval()
    renderer = Renderer(loaded.tokenizer, _format(folder), max_length=1 << 20)
    torch.manual_seed(seed)
    first = [Turn("system", system)] if system else []
    turns = list(first)
    if prompt is None:
        write(f"{_HELP}\n")
    while True:
        try:
            asked = prompt if prompt is not None else read("> ")
        except EOFError:
            write("\n")
            return
        if asked.strip() == "/quit":
            return
        if asked.strip() == "/reset":
            turns = list(first)
            continue
        if not asked.strip():
            continue
        # Alpaca's prompt has room for one instruction: each is answered by itself.
        turns = [*(turns if renderer.format == "chat" else []), Turn("user", asked)]
        answer = ""
        try:
            for piece in _answer(loaded.model, loaded.tokenizer, renderer, turns, temperature, top_p, max_tokens):
                answer += piece
                write(piece)
        except KeyboardInterrupt:
            if prompt is not None:
                raise
        write("\n")
        if prompt is not None:
            return
        turns.append(Turn("assistant", answer))


def _format(folder: str | None) -> str:
    record = Path(folder or ".") / "finetune.json"
    if folder is None or not record.is_file():
        return "auto"
    return str(loads(record.read_bytes()).get("format", "auto"))


@torch.no_grad()
def _answer(
    model: Any, tokenizer: Any, renderer: Renderer, turns: list[Turn], temperature: float, top_p: float, most: int
) -> Iterator[str]:
    """The answer in pieces of whole characters, as they come."""
    device = next(model.parameters()).device
    ids = torch.tensor([renderer.prompt(turns)], device=device)
    cache, found, shown = None, [], ""
    for _ in range(most):
        output = model(input_ids=ids, past_key_values=cache, use_cache=True)
        cache = output.past_key_values
        token = _choose(output.logits[0, -1].float(), temperature, top_p)
        if token in renderer.stop_ids:
            break
        found.append(token)
        ids = torch.tensor([[token]], device=device)
        text = tokenizer.decode(found, skip_special_tokens=True)
        if not text.endswith("\N{REPLACEMENT CHARACTER}"):  # else: half of a character
            yield text[len(shown) :]
            shown = text


def _choose(logits: torch.Tensor, temperature: float, top_p: float) -> int:
    """A token by nucleus sampling (Holtzman et al. 2019, arXiv:1904.09751)."""
    if temperature == 0:
        return int(logits.argmax())
    chances, order = torch.softmax(logits / temperature, -1).sort(descending=True)
    chances[chances.cumsum(-1) - chances >= top_p] = 0
    return int(order[torch.multinomial(chances, 1)])
