"""What a run and its preview do before the weights are loaded: the model's kind, its tokenizer, the data, the steps."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np

from finetune.data.plan import EpochPlan
from finetune.data.render import Renderer, RenderResult
from finetune.data.rows import UnreadRow
from finetune.data.training_data import TrainingData, read_training_data
from finetune.model.limits import embedding_rows, max_positions, require_decoder
from finetune.model.loading import EMBEDDED, load_config, load_tokenizer
from finetune.model.saving import quantization_method, require_plain_weights
from finetune.options import TrainingOptions
from finetune.training.distributed import World
from finetune.training.estimate import CostEstimate
from finetune.training.setup import RuntimeSetup
from selfinstruct.common.console import plural
from selfinstruct.errors import UsageError

__all__ = ["Preparation", "Preview"]

ReadData = Callable[[str, Renderer, TrainingOptions], TrainingData]

_MAX_LISTED = 5  # unread rows that an error message quotes


@dataclass(frozen=True)
class Preview:
    """The preview of a training run.

    Attributes:
        rendered: The documents, and the rows that were dropped.
        renderer: The renderer, which can show a document in pieces.
        plan: The steps.
        skipped: The rows that could not be read.
        estimate: The predicted cost.
        notices: What is left out of the rows that are used, and what else a user should know.
        held_out: Number of documents in each held-out set.
        stop_tokens: The tokens that end an answer.
    """

    rendered: RenderResult
    renderer: Renderer
    plan: EpochPlan
    skipped: list[UnreadRow]
    estimate: CostEstimate
    notices: Sequence[str] = ()
    held_out: Mapping[str, int] = field(default_factory=dict)
    stop_tokens: Sequence[str] = ()

    @property
    def unread(self) -> list[UnreadRow]:
        """Every row that is not trained on."""
        return [*self.skipped, *(UnreadRow(*row) for row in self.rendered.dropped)]


@dataclass(frozen=True)
class Preparation:
    """Everything that is known about a run before the weights are loaded.

    Attributes:
        config: The configuration of the model.
        renderer: The renderer of rows.
        data: The training documents and the held-out ones.
        options: The settings.
        setup: The options that depend on the machine.
        world_size: Number of processes.
        stop_tokens: The tokens that end an answer.
        notices: What the model's limits change.
    """

    config: Any
    renderer: Renderer
    data: TrainingData
    options: TrainingOptions
    setup: RuntimeSetup
    world_size: int
    stop_tokens: list[str]
    notices: list[str]

    @classmethod
    def of(
        cls, model: str | None, data: str, options: TrainingOptions, world: World, read: ReadData = read_training_data
    ) -> Preparation:
        """Read the model's configuration and tokenizer and the data.

        Args:
            read: Reads and renders the data.

        Raises:
            SelfInstructError: The model is of a kind that can't be trained, the tokenizer or the data can't be used, or
                the documents have tokens that the model has no embedding for.
        """
        name = model or EMBEDDED
        config = load_config(model)
        require_decoder(config, name)
        if (
            options.lora is None and quantization_method(config) != "mxfp4"
        ):  # transformers may load that as plain weights
            require_plain_weights(config)
        positions = max_positions(config) or options.max_length
        max_length = min(options.max_length, positions)
        tokenizer = load_tokenizer(model)
        renderer = Renderer(
            tokenizer, options.format, max_length=max_length, template_arguments=options.template_arguments
        )
        training_data = read(data, renderer, options)
        if not len(training_data.train):
            listed = "".join(f"\n  {row}" for row in training_data.unread[:_MAX_LISTED])
            raise UsageError(f"{data}: there is no row to train on{':' if listed else ''}{listed}")
        _require_embeddings(training_data, tokenizer, config, name)
        setup = RuntimeSetup.of(options, world.device)
        notices = []
        if training_data.rendered.truncated and max_length < options.max_length:
            notices.append(f"the model has {plural(positions, 'position')}, less than max_length: longer documents "
                           "were cut to that")  # fmt: skip
        stop_tokens = tokenizer.convert_ids_to_tokens(sorted(renderer.stop_ids))
        return cls(config, renderer, training_data, options, setup, world.world_size, stop_tokens, notices)

    def preview(self) -> Preview:
        """Return what a dry run shows."""
        data = self.data
        return Preview(
            data.rendered, self.renderer, self.plan, data.skipped, self.estimate,
            [*data.notices, *data.rendered.notices(), *self.notices],
            {name: len(items.documents) for name, items in data.held_out.items()}, self.stop_tokens,
        )  # fmt: skip

    @cached_property
    def estimate(self) -> CostEstimate:
        """The predicted cost, which takes seconds to compute."""
        return CostEstimate.of(self.config, self.data.train, self.options, self.setup, world_size=self.world_size)

    @cached_property
    def plan(self) -> EpochPlan:
        """The steps, in micro-batches of the predicted size."""
        return EpochPlan.of(self.data.train, self.options, budget=self.estimate.budget, world_size=self.world_size)


def _require_embeddings(data: TrainingData, tokenizer: Any, config: Any, name: str) -> None:
    """Refuse documents with tokens that the model has no embedding for.

    A tokenizer may know more tokens than the model, as long as no document has them.

    Raises:
        UsageError: There are some; the message names the first ones and a row.
    """
    rows = embedding_rows(config)
    if rows is None:
        return
    for items in (data.train, *data.held_out.values()):
        corpus = items.documents
        if not len(unknown := np.flatnonzero(corpus.ids >= rows)):
            continue
        ids = np.unique(corpus.ids[unknown])
        tokens = ", ".join(f"{tokenizer.convert_ids_to_tokens(int(token))!r} ({token})" for token in ids[:3])
        row = corpus.names[int(np.searchsorted(corpus.offsets, unknown[0], side="right")) - 1]
        raise UsageError(
            f"{name}: the model has {rows:,} embeddings, and its tokenizer more tokens: {tokens}, first in {row}; "
            "enlarge it (resize_token_embeddings of transformers), or give it the tokenizer that it was made with"
        )
