"""Which weights of a model get adapters, and what is left out.

``all-linear`` are the weights of the text decoder that activations are multiplied by: linear layers in attention, dense
and shared feed-forward blocks and single experts, and the experts that a module holds in one 3-D parameter, for which
peft has ``target_parameters``. What can't have an adapter is counted and named.
"""

from __future__ import annotations

import inspect
import math
import re
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import torch
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from finetune.model.anatomy import find_decoder
from finetune.options import Lora
from selfinstruct.errors import UsageError

__all__ = ["Matrix", "Targets", "all_linear", "coverage", "describe_coverage", "matrices", "named_targets"]

_LINEAR = (nn.Linear, Conv1D)
_NOT_LINEAR = (nn.Embedding, nn.modules.conv._ConvNd, nn.LayerNorm, nn.GroupNorm)
_WEIGHT = re.compile(r"\bself\.(\w+)\.weight\b(?!\.(?:device|dtype)\b)")
_NUMBER = re.compile(r"\.\d+(?=\.)")


@dataclass(frozen=True)
class Matrix:
    """A weight that activations are multiplied by.

    Attributes:
        module: Name of its module.
        parameter: Name of the parameter in the module; for a linear layer ``weight``.
        size: Number of its weights.
        kind: ``linear``, ``experts`` (a parameter that holds several experts), or ``fixed`` (can't have an adapter: a
            router, or a weight that another module or a kernel reads).
    """

    module: str
    parameter: str
    size: int
    kind: str

    @property
    def name(self) -> str:
        """Name of the parameter in the model."""
        return f"{self.module}.{self.parameter}"

    @property
    def label(self) -> str:
        """Name by which it can be a target: of the layer if it is linear, else of the parameter."""
        return self.module if self.kind == "linear" else self.name


@dataclass(frozen=True)
class Targets:
    """The targets of ``all-linear`` in a model, as arguments of ``peft.LoraConfig``.

    Attributes:
        modules: Names of linear layers.
        parameters: Names of parameters.
    """

    modules: list[str]
    parameters: list[str]


def matrices(causal: Any) -> Iterator[Matrix]:
    """Yield the matrices of the text decoder, without the embeddings and the head."""
    decoder, head = find_decoder(causal) or causal, causal.get_output_embeddings()
    inside, bypassed = {id(module) for module in decoder.modules()}, _bypassed(causal)
    for name, module in causal.named_modules():
        if id(module) not in inside or module is head or isinstance(module, _NOT_LINEAR) or "lora_" in name:
            continue
        if isinstance(module, _LINEAR):
            kind = "linear" if _computes_product(module) and name not in bypassed else "fixed"
            yield Matrix(name, "weight", _size(module.weight, module), kind)
            continue
        experts = "expert" in f"{name} {type(module).__name__}".lower()
        for label, parameter in module.named_parameters(recurse=False):
            if "bias" in label or parameter.ndim < 2:
                continue
            if experts:  # mostly (experts, rows, columns)
                # peft replaces the parameter while the forward pass of its own module runs.
                kind = "experts" if _reads(type(module), label) else "fixed"
                yield Matrix(name, label, parameter.numel(), kind)
            elif label.endswith("weight"):
                yield Matrix(name, label, parameter.numel(), "fixed")


def all_linear(causal: Any, lora: Lora) -> Targets:
    """Return the targets of ``all-linear``, without the matrices that adapters would not reach."""
    chosen = [matrix for matrix in matrices(causal) if matrix.kind != "fixed"]
    return _targets(causal, [matrix for matrix in chosen if matrix.kind == "linear" or not lora.dropout], lora)


def named_targets(causal: Any, lora: Lora) -> Targets:
    """Return the targets that ``lora.targets`` lists by the endings of their names.

    Raises:
        UsageError: A name fits no matrix, or one that can't have an adapter with these settings.
    """
    endings = [part.strip() for part in lora.targets.split(",")]
    available = [matrix for matrix in matrices(causal) if matrix.kind != "fixed"]
    chosen: dict[str, Matrix] = {}
    missing = []
    for ending in endings:
        fitting = [matrix for matrix in available if f".{matrix.label}".endswith(f".{ending}")]
        chosen.update((matrix.label, matrix) for matrix in fitting)
        missing += [] if fitting else [ending]
    if missing:
        leaves = sorted({matrix.label.rpartition(".")[2] for matrix in available})
        raise UsageError(
            f"lora.targets: no layer that takes adapters is called {', '.join(missing)}; there are {', '.join(leaves)}"
        )  # fmt: skip
    targets = _targets(causal, list(chosen.values()), lora)
    if targets.parameters and lora.dropout:
        raise UsageError(f"lora.targets: adapters of {targets.parameters[0]} can't have dropout; --set lora.dropout=0")
    return targets


def _targets(causal: Any, chosen: Sequence[Matrix], lora: Lora) -> Targets:
    """Return the shortest names that fit only the chosen matrices.

    peft translates the names of layers that some mixtures of experts had before transformers 5, and takes the linear
    layers ``gate_proj``, ``up_proj`` and ``down_proj`` of shared experts and dense layers for the experts of that time.
    These layers are named by their parameter, which is not translated.
    """
    layers = [matrix.module for matrix in chosen if matrix.kind == "linear"]
    translated = _translated(causal, layers)
    parameters = [matrix.name for matrix in chosen if matrix.kind == "experts"]
    if not lora.dropout and lora.base != "nf4":  # a parameter in 4 bits can't have an adapter
        parameters += [f"{name}.weight" for name in layers if name in translated]
    return Targets(
        _shortest([name for name in layers if name not in translated], [name for name, _ in causal.named_modules()]),
        _shortest(parameters, [name for name, _ in causal.named_parameters(remove_duplicate=False)]),
    )


def _shortest(names: Sequence[str], everything: Sequence[str]) -> list[str]:
    """Return endings that fit all ``names`` and nothing else in ``everything``, as peft compares them."""
    chosen = set(names)
    others: set[str] = set()  # all endings of the other names
    for name in everything:
        if name not in chosen:
            parts = name.split(".")
            others.update(".".join(parts[start:]) for start in range(len(parts)))
    endings = set()
    for name in names:
        parts = name.split(".")
        candidates = (".".join(parts[start:]) for start in reversed(range(len(parts))))
        endings.add(next((ending for ending in candidates if ending not in others), name))
    return sorted(endings)


def _bypassed(causal: Any) -> set[str]:
    """Return the linear layers of state-space mixers whose weights their kernels use without calling the layer.

    On a GPU, that is: adapters of these layers would be trained here and have no effect there. The mixer's own code
    decides, because others (gated delta nets, Jamba) call the layers of the same names.
    """
    return {
        f"{name}.{child}"
        for name, module in causal.named_modules()
        if hasattr(module, "conv1d") and hasattr(module, "A_log")
        for child in _read_weights(type(module))
    }


def _read_weights(kind: type) -> set[str]:
    """Return the children whose weights the methods of a class read, other than their type and place."""
    return set(_WEIGHT.findall(_source(kind)))


def _reads(kind: type, attribute: str) -> bool:
    """Return whether the methods of a class, or of one that it is derived from, read an attribute of the instance."""
    return re.search(rf"\bself\.{attribute}\b", "".join(_source(base) for base in kind.__mro__)) is not None


@cache
def _source(kind: type) -> str:
    """Return the code of the methods that a class itself defines, without ``__init__``."""
    methods = [value for name, value in vars(kind).items() if inspect.isfunction(value) and name != "__init__"]
    return "".join(inspect.getsource(method) for method in methods if kind.__module__.startswith("transformers."))


def _translated(causal: Any, names: Iterable[str]) -> set[str]:
    """Return the linear layers that peft would take for something else."""
    from peft import LoraConfig

    try:
        from peft.utils.transformers_weight_conversion import convert_peft_config_for_transformers
    except ImportError:  # before peft 0.19
        return set()
    config = LoraConfig(target_modules=list(names), task_type="CAUSAL_LM")
    convert_peft_config_for_transformers(config, model=causal, conversions=None)
    return set(names) - set(config.target_modules)


def describe_coverage(model: Any) -> list[str]:
    """Describe what of a model's matrices has adapters, if some have none, and what 4-bit weights leave out."""
    causal = model.get_base_model()
    lines = []
    adapted, left_out = coverage(model)
    if left_out:
        total = adapted + sum(size for _, size in left_out.values())
        parts = (f"{count} x {name} ({size:,} weights)" for name, (count, size) in left_out.items())
        share = f"adapters on {adapted / total:.1%} of the {total:,} weights of matrices"
        lines.append(f"{share}; without: {', '.join(parts)}")
    if getattr(causal, "is_loaded_in_4bit", False):
        held = [matrix for matrix in matrices(causal) if matrix.kind == "experts"]
        size = sum(causal.get_parameter(matrix.name).nbytes for matrix in held)
        if size:
            lines.append(
                f"QLoRA holds {len(held)} parameters with experts in full precision, {size / 2**30:.2f} GiB: only "
                "linear layers are held in 4 bits"
            )
    return lines


def coverage(model: Any) -> tuple[int, dict[str, tuple[int, int]]]:
    """Return the number of weights with adapters, and by name the matrices without: their number and weights."""
    adapted = 0
    left_out: dict[str, tuple[int, int]] = defaultdict(lambda: (0, 0))
    covered = _covered(model)
    for matrix in matrices(model.get_base_model()):
        name = matrix.name.replace(".base_layer", "").removesuffix(".weight")
        if (matrix.module.replace(".base_layer", ""), matrix.parameter) in covered:
            adapted += matrix.size
        else:
            label = _NUMBER.sub("", name).split(".", 2)[-1]
            count, size = left_out[label]
            left_out[label] = (count + 1, size + matrix.size)
    return adapted, dict(left_out)


def _covered(model: Any) -> set[tuple[str, str]]:
    """Return module and parameter of each adapted weight."""
    return {
        (name.replace(".base_layer", ""), getattr(module, "parameter_name", "weight"))
        for name, module in model.get_base_model().named_modules()
        if hasattr(module, "lora_A")
    }


def _computes_product(module: Any) -> bool:
    """Return whether a linear layer is called with a matrix and returns one, as adapters expect.

    Architectures derive other things from linear layers, such as routers that return the chosen experts.
    """
    if not type(module).forward.__module__.startswith("transformers.models."):
        return True
    with torch.no_grad():
        try:
            output = module(module.weight.new_zeros(1, module.in_features))
        except (RuntimeError, TypeError, ValueError):
            return False
    return isinstance(output, Tensor) and output.shape == (1, module.out_features)


def _size(weight: Any, module: Any) -> int:
    """Return the number of weights; packed 4-bit weights have no shape that shows it."""
    features = (getattr(module, "in_features", None), getattr(module, "out_features", None))
    return math.prod(features) if None not in features else weight.numel()  # type: ignore[arg-type]  # no None
