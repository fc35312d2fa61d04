"""Rewards of conversations by a reward model: a model for sequence classification whose one logit is the reward.

Such models are trained by ``finetune reward`` and published by others (Ouyang et al. 2022, arXiv:2203.02155). The model
(extra ``train``: torch and transformers) reads a conversation as its chat template renders it, and the reward is read
at the last token. Any function that gives rewards can replace the model.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any, ClassVar, NamedTuple, TypeAlias

from selfinstruct.errors import UsageError
from selfinstruct.filters.pretrained import BATCH, load_pretrained
from selfinstruct.reasons import RejectReason
from selfinstruct.records import Verdict

__all__ = ["Conversation", "Reward", "RewardScorer", "Scored", "load_reward_scorer", "model_identity"]

Conversation: TypeAlias = Sequence[tuple[str, str]]
"""Role (``system``, ``user``, ``assistant``) and content of each message; the last one is the answer."""

DECIMALS = 4  # of a reward: more than the precision of bfloat16, in which large models compute
# The files of a folder of transformers on which a reward depends.
_FILES = ("*.safetensors", "config.json", "tokenizer*", "special_tokens_map.json", "added_tokens.json", "*.jinja",
          "vocab.*", "merges.txt")  # fmt: skip


class Scored(NamedTuple):
    """The reward of one conversation.

    Attributes:
        reward: The reward, to four decimals; None if there is none.
        problem: Why there is none; "" if there is one.
    """

    reward: float | None
    problem: str = ""


RewardScorer: TypeAlias = Callable[[Sequence[Conversation]], Sequence[Scored]]


@dataclass(frozen=True)
class Reward:
    """Keeps rows to which a reward model gives at least a minimum.

    The score is the reward. Reasons: ``low_score`` below ``min``, ``no_score`` if the row has no reward (it is too
    long, has no answer, or the chat template refuses it) and a minimum is set.

    ``Dataset.filter(Reward(model, min=0.5), batched=True, input_columns=["instruction", "output"])``.

    Attributes:
        model: Directory or hub name of a reward model, or a ``RewardScorer``.
        min: Lowest reward that is kept; None keeps every row, with its reward.
    """

    name: ClassVar[str] = "reward"
    model: str | Path | RewardScorer
    min: float | None = field(default=None, kw_only=True)

    def __post_init__(self) -> None:
        if self.min is not None and not math.isfinite(self.min):
            raise UsageError(f"the minimum of a reward must be a finite number, not {self.min}")

    def decide(self, prompts: Sequence[str], answers: Sequence[str]) -> list[Verdict]:
        """Decide on each prompt with its answer.

        Raises:
            MissingExtraError: torch or transformers is not installed.
            UsageError: The numbers of prompts and answers differ, or the model can't be used.
        """
        if len(prompts) != len(answers):
            raise UsageError(f"{len(prompts)} prompts but {len(answers)} answers")
        pairs = zip(prompts, answers, strict=True)
        return self.decide_conversations([(("user", prompt), ("assistant", answer)) for prompt, answer in pairs])

    def decide_conversations(self, conversations: Sequence[Conversation]) -> list[Verdict]:
        """Decide on each conversation, by the reward of its last answer; errors as ``decide``."""
        return [self._verdict(scored) for scored in load_reward_scorer(self.model)(conversations)]

    def __call__(self, prompts: Sequence[str], answers: Sequence[str]) -> list[bool]:
        """Return True for each row that is kept."""
        return [verdict.kept for verdict in self.decide(prompts, answers)]

    def _verdict(self, scored: Scored) -> Verdict:
        if scored.reward is None:
            kept = self.min is None
            return Verdict(self.name, kept, "" if kept else RejectReason.NO_SCORE, detail={"problem": scored.problem})
        kept = self.min is None or scored.reward >= self.min
        return Verdict(self.name, kept, "" if kept else RejectReason.LOW_SCORE, scored.reward)


def model_identity(model: str) -> str:
    """Return what identifies a reward model: the SHA-256 of its files for a folder, its name for a model of the hub.

    Raises:
        UsageError: There is a file of this name, or a folder without a model.
    """
    folder = Path(model)
    if not folder.exists():
        return model
    files = sorted({path for pattern in _FILES for path in folder.glob(pattern)}) if folder.is_dir() else []
    if not any(path.name == "config.json" for path in files):
        raise UsageError(
            f"{model} is not the folder of a reward model: name one that finetune reward wrote, or a model of the hub"
        )
    sha = hashlib.sha256()
    for path in files:
        with path.open("rb") as opened:
            sha.update(f"{path.name} {hashlib.file_digest(opened, 'sha256').hexdigest()}\n".encode())
    return sha.hexdigest()


def load_reward_scorer(model: str | Path | RewardScorer) -> RewardScorer:
    """Return a scorer that runs a reward model, on a GPU if there is one, else in float32 on the CPU.

    Args:
        model: Directory or hub name of the model, or a scorer, which is returned unchanged.

    Raises:
        MissingExtraError: torch or transformers is not installed.
        UsageError: The model can't be loaded, or is not a reward model.
    """
    return model if callable(model) else _load(str(model))


@lru_cache(maxsize=1)
def _load(model: str) -> RewardScorer:
    tokenizer, network, info = load_pretrained(model, "AutoModelForSequenceClassification", "reward model")
    if missing := sorted(info["missing_keys"]):  # transformers initialises them at random
        raise UsageError(
            f"{model} is not a reward model: it has no weights {missing[0]}; train one with finetune reward"
        )
    if network.config.num_labels != 1:
        raise UsageError(f"{model} gives {network.config.num_labels} scores for a text, and a reward model gives one")
    if not tokenizer.chat_template:
        raise UsageError(
            f"the tokenizer of {model} has no chat template, by which a reward model reads a conversation; add the "
            "template that the model was trained with to the folder (chat_template.jinja)"
        )
    if network.device.type == "cpu":  # where lower precisions are slow
        network = network.float()
    return lambda conversations: _score(tokenizer, network, conversations)


def _score(tokenizer: Any, network: Any, conversations: Sequence[Conversation]) -> list[Scored]:
    config = network.config.get_text_config()
    limit = getattr(config, "max_position_embeddings", None) or math.inf
    scored: dict[int, Scored] = {}
    tokens: dict[int, list[int]] = {}
    for number, conversation in enumerate(conversations):
        ids, problem = _token_ids(tokenizer, conversation)
        if len(ids) > limit:
            problem = f"{len(ids):,} tokens, more than the {limit:,} that the reward model reads"
        if problem:
            scored[number] = Scored(None, problem)
        else:
            tokens[number] = ids
    by_length = sorted(tokens, key=lambda number: len(tokens[number]))
    padding = getattr(config, "pad_token_id", None)
    size = BATCH if padding is not None else 1  # transformers finds the last token of a batch by its padding
    for begin in range(0, len(by_length), size):
        batch = by_length[begin : begin + size]
        rewards = _rewards(network, [tokens[number] for number in batch], padding or 0)
        scored |= dict(zip(batch, rewards, strict=True))
    return [scored[number] for number in range(len(conversations))]


def _rewards(network: Any, batch: Sequence[Sequence[int]], padding: int) -> list[Scored]:
    import torch

    longest = max(map(len, batch))
    ids = torch.tensor([[*row, *[padding] * (longest - len(row))] for row in batch])  # (B, T)
    mask = torch.tensor([[1] * len(row) + [0] * (longest - len(row)) for row in batch])
    with torch.inference_mode():
        logits = network(input_ids=ids.to(network.device), attention_mask=mask.to(network.device)).logits  # (B, 1)
    values: list[float] = logits[:, 0].float().cpu().tolist()
    return [
        Scored(round(value, DECIMALS) + 0.0) if math.isfinite(value) else Scored(None, "its reward is not finite")
        for value in values
    ]


def _token_ids(tokenizer: Any, conversation: Conversation) -> tuple[list[int], str]:
    """Return the tokens of a conversation, and why it can't be rendered ("" if it can)."""
    from jinja2 import TemplateError

    if not conversation or conversation[-1][0] != "assistant":
        return [], "it has no answer, or consists of more than texts"
    messages: list[Mapping[str, str]] = [{"role": role, "content": content} for role, content in conversation]
    try:
        text = tokenizer.apply_chat_template(messages, tokenize=False)
    except TemplateError as error:
        return [], f"the reward model's chat template refuses it: {error}"
    ids: list[int] = tokenizer(text, add_special_tokens=False)["input_ids"]
    bos = tokenizer.bos_token_id
    if bos is not None and ids[:1] != [bos] and tokenizer("a")["input_ids"][:1] == [bos]:
        ids = [bos, *ids]  # the model was trained with the BOS that its tokenizer puts first
    return ids, ""
