"""Log-probabilities of answers under the reference of DPO: computed once, kept in a file, and never used for others.

The reference is the model as it was loaded, before the first step: with new adapters the base model, with loaded
adapters the base model and these. The file names what it was computed from (weights, documents, precision) and is
refused if any of it has changed.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from finetune.data.corpus import Corpus
from finetune.evaluation.held_out import evaluate
from finetune.model.packed_lm import PackedCausalLM
from finetune.training.distributed import SINGLE_PROCESS, World
from selfinstruct.common.codec import dumps, loads
from selfinstruct.common.files import write_atomic
from selfinstruct.errors import RunChangedError, SelfInstructError

__all__ = ["reference_log_probs"]


def reference_log_probs(
    path: Path,
    packed_lm: PackedCausalLM,
    sets: Mapping[str, Corpus],
    *,
    weights: str,
    precision: str,
    budget: int,
    world: World = SINGLE_PROCESS,
) -> dict[str, NDArray[np.float64]]:
    """Return the log-probability of each answer, from the file ``path`` if it exists.

    Args:
        packed_lm: The model as it was loaded.
        sets: Sets of documents by name.
        weights: Digest of the model's weights.
        precision: Precision of the weights.
        budget, world: As for ``finetune.evaluation.held_out.evaluate``.

    Returns:
        (documents,) float64 sums over the supervised tokens, for each set.

    Raises:
        RunChangedError: The file was computed with other weights, documents or precision.
        SelfInstructError: The file is damaged, or can't be written.
    """
    key = {"weights": weights, "precision": precision, **{f"documents of {name}": corpus.digest
                                                          for name, corpus in sets.items()}}  # fmt: skip
    if path.exists():
        return _read(path, key, {name: len(corpus) for name, corpus in sets.items()})
    computed = {
        name: -evaluate(packed_lm, corpus, budget=budget, world=world).sums for name, corpus in sets.items()
    }  # fmt: skip
    if world.main:
        write_atomic(path, [save(computed, metadata={"key": dumps(key)})])  # several entries would have no fixed order
    return computed


def _read(path: Path, key: Mapping[str, str], sizes: Mapping[str, int]) -> dict[str, NDArray[np.float64]]:
    remedy = "remove it, and the same command computes it again"
    try:
        with safe_open(path, framework="numpy") as file:
            recorded = dict(loads((file.metadata() or {})["key"]))
            values = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 it is no dictionary
    except (OSError, SafetensorError, KeyError, ValueError) as error:
        raise SelfInstructError(f"{path}: can't be read ({error}); {remedy}") from None
    if changed := sorted(name for name in {*key, *recorded} if key.get(name) != recorded.get(name)):
        raise RunChangedError(f"{path} was computed with other {', '.join(changed)}; {remedy}")
    if {name: array.shape for name, array in values.items()} != {name: (size,) for name, size in sizes.items()} or any(
        not np.isfinite(array).all() for array in values.values()
    ):
        raise SelfInstructError(f"{path}: does not hold a finite number for each answer; {remedy}")
    return values
