"""Runs on compared answers: direct preference optimisation (``prefer``) and reward models (``train_reward``).

They are training runs as in ``finetune.session``, with other data, another loss and other measurements. Dropout
is off: policy and reference, or two answers, must differ in nothing but what is learnt.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar, cast

import torch
from torch import Tensor

from finetune.data.comparisons import Comparisons
from finetune.data.preference_data import PreferenceData, read_preference_data
from finetune.data.render import Renderer
from finetune.data.training_data import TrainingData
from finetune.evaluation.held_out import evaluate
from finetune.evaluation.pairs import compute_rewards, measure_pairs
from finetune.evaluation.reference import reference_log_probs
from finetune.model.adapter_layer import compute_in_input_dtype
from finetune.model.adapters import BASE, adapter_settings, merged_state, read_base_record, require_mergeable
from finetune.model.dropout import disable_dropout
from finetune.model.isolation import check_repeatable
from finetune.model.loading import Loaded, load_adapted
from finetune.model.packed_lm import PackedCausalLM
from finetune.model.reward import PackedRewardModel, choose_padding, save_reward_model, to_reward_model
from finetune.options import DpoOptions, RewardOptions
from finetune.preparation import Preview
from finetune.record import REFERENCE, Measurements, require_complete
from finetune.session import Notify, ShowProgress, TrainingResult, TrainingRun
from finetune.training.distributed import World
from finetune.training.preference import BradleyTerry, DirectPreference, dpo_rewards
from finetune.training.progress import TrainingProgress
from selfinstruct.errors import UsageError

__all__ = ["prefer", "preview_preferences", "preview_reward", "train_reward"]


def prefer(
    model: str | None,
    data: str,
    out: Path,
    options: DpoOptions,
    *,
    show: ShowProgress = lambda _progress: nullcontext(),
    notify: Notify = lambda _line: None,
) -> TrainingResult:
    """Train ``model`` to prefer the chosen answers in ``data``, or resume the run in the folder ``out``.

    Arguments, result and errors are as in ``finetune.train``; ``data`` holds compared answers
    (``finetune.data.pairs``).
    """
    return _DpoRun.start(model, data, out, options, show, notify)


def train_reward(
    model: str | None,
    data: str,
    out: Path,
    options: RewardOptions,
    *,
    show: ShowProgress = lambda _progress: nullcontext(),
    notify: Notify = lambda _line: None,
) -> TrainingResult:
    """Train a reward model on the compared answers in ``data``, or resume the run in the folder ``out``.

    Arguments, result and errors are as in ``finetune.train``. The folder then holds a model for sequence
    classification of transformers, whose one logit is the reward of a conversation.
    """
    return _RewardRun.start(model, data, out, options, show, notify)


def preview_preferences(model: str | None, data: str, options: DpoOptions) -> Preview:
    """Render compared answers and plan the steps of ``prefer``; arguments and errors as ``finetune.preview``."""
    return _DpoRun.preview(model, data, options)


def preview_reward(model: str | None, data: str, options: RewardOptions) -> Preview:
    """Render compared answers and plan the steps of ``train_reward``; arguments and errors as ``finetune.preview``."""
    return _RewardRun.preview(model, data, options)


class _ComparisonRun(TrainingRun, ABC):
    """What both kinds of runs have in common.

    Attributes:
        cut: Whether documents are cut to ``max_length``. If not, longer ones are left out.
    """

    unit = "pair"
    cut: ClassVar[bool]

    def __init__(
        self, model: str | None, out: Path, options: Any, world: World, progress: TrainingProgress, notify: Notify
    ) -> None:
        self.adapters: Path | None = None
        if model is not None and (Path(model) / BASE).is_file():
            self.adapters = Path(model)
            require_complete(self.adapters)
            model = read_base_record(self.adapters)["name"]
            lora, self.adapters_digest = adapter_settings(self.adapters)
            if options.lora not in (None, lora):
                raise UsageError(f"lora: the adapters in {self.adapters} keep their settings; leave lora out")
            try:
                options = replace(options, lora=lora)
            except ValueError as error:
                raise UsageError(f"{self.adapters}: {error}") from None
        super().__init__(model, out, options, world, progress, notify)

    def _load(self, device: torch.device | str) -> Loaded:
        """Load the model; adapters trained before are trained further."""
        if self.adapters is None:
            return super()._load(device)
        loaded = load_adapted(self.adapters, dtype=self.setup.dtype, device=device)
        for name, weight in loaded.model.named_parameters():
            weight.requires_grad_(".lora_" in name)
        compute_in_input_dtype(loaded.model)
        return loaded

    def _read(self, data: str, renderer: Renderer, options: Any) -> PreferenceData:
        return read_preference_data(data, renderer, options, cut=self.cut)

    def _begin(self, packed_lm: PackedCausalLM, loaded: Loaded, data: TrainingData, budget: int) -> None:
        if self.world.world_size > 1 and not packed_lm.packs:
            raise UsageError(
                "without packing, several processes would make different numbers of forward passes, since answers go "
                "through the model one at a time; start one process"
            )
        if packed_lm.balancing is not None:
            packed_lm.balancing = None
            self.notify("the load-balancing loss of the model's experts is not trained on preferences")
        disable_dropout(packed_lm)
        check_repeatable(packed_lm, self.world.device)
        self._begin_learning(packed_lm, loaded, cast("PreferenceData", data), budget)

    @abstractmethod
    def _begin_learning(self, packed_lm: PackedCausalLM, loaded: Loaded, data: PreferenceData, budget: int) -> None:
        """Prepare the loss."""

    @abstractmethod
    def _rewards(self, packed_lm: PackedCausalLM, name: str, comparisons: Comparisons, budget: int) -> Tensor:
        """Return (N,) float64: the reward of each document of a held-out set."""

    def _measure_held_out(self, packed_lm: PackedCausalLM, data: TrainingData, budget: int) -> Measurements:
        """Compute loss and accuracy of the held-out pairs."""
        measurements = Measurements({})
        for name, comparisons in cast("PreferenceData", data).held_out.items():
            losses, accuracy = measure_pairs(comparisons, self._rewards(packed_lm, name, comparisons, budget))
            measurements = Measurements({name: losses}, accuracy=accuracy)
        return measurements


class _DpoRun(_ComparisonRun):
    command = "prefer"
    cut = True
    options: DpoOptions

    def _begin_learning(self, packed_lm: PackedCausalLM, loaded: Loaded, data: PreferenceData, budget: int) -> None:
        self.progress.phase = "reference"
        sets = {"train": data.train, **data.held_out}
        lora = self.options.lora
        computed = reference_log_probs(
            self.out / REFERENCE, packed_lm, {name: comparisons.documents for name, comparisons in sets.items()},
            weights=loaded.base.digest + self.adapters_digest,
            precision="nf4" if lora and lora.base == "nf4" else str(self.setup.dtype),
            budget=budget, world=self.world,
        )  # fmt: skip
        self.reference = {name: torch.from_numpy(values) for name, values in computed.items()}
        on_device = self.reference["train"].to(self.world.device)
        self.objective = DirectPreference(data.train, on_device, self.options)

    def _rewards(self, packed_lm: PackedCausalLM, name: str, comparisons: Comparisons, budget: int) -> Tensor:
        losses = evaluate(packed_lm, comparisons.documents, budget=budget, world=self.world)
        counts = torch.from_numpy(losses.counts)
        return dpo_rewards(torch.from_numpy(-losses.sums), self.reference[name], counts, self.options)


class _RewardRun(_ComparisonRun):
    command = "reward"
    kind = PackedRewardModel
    cut = False
    options: RewardOptions

    def _load(self, device: torch.device | str) -> Loaded:
        loaded = super()._load(device)
        causal = loaded.model
        if self.options.lora:
            require_mergeable(causal)
            causal = causal.get_base_model()
        return Loaded(to_reward_model(causal), loaded.tokenizer, loaded.base)

    def _begin_learning(self, _packed_lm: PackedCausalLM, loaded: Loaded, data: PreferenceData, _budget: int) -> None:
        documents = data.rendered.corpus
        self.padding = choose_padding(loaded.tokenizer, set(documents.ids[documents.offsets[1:] - 1].tolist()))
        self.objective = BradleyTerry(data.train)

    def _rewards(self, packed_lm: PackedCausalLM, _name: str, comparisons: Comparisons, budget: int) -> Tensor:
        assert isinstance(packed_lm, PackedRewardModel)
        return compute_rewards(packed_lm, comparisons, budget=budget, world=self.world)

    @property
    def _saves_adapters(self) -> bool:
        return False  # they are merged

    def _write_model(self, loaded: Loaded, folder: Path, state: dict[str, Any] | None) -> None:
        if lora := self.options.lora:
            state = merged_state(state or loaded.model.state_dict(), lora)
        save_reward_model(loaded.model, loaded.tokenizer, folder, self.padding, state=state)
