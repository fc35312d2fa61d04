"""What a run costs: memory, predicted, and arithmetic, as a share of what the GPU could do.

Nothing is assumed of a model's layers. It is made on the meta device, where tensors have shapes and no memory, and run
once: what it multiplies, and what autograd keeps of it, is then counted.
"""

from __future__ import annotations

import os
import re
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AttentionInterface, AutoModelForCausalLM

from finetune.model.adapters import attach
from finetune.model.loss import _CHUNK_BYTES
from finetune.options import Lora
from selfinstruct.errors import SelfInstructError

__all__ = [
    "ModelFootprint",
    "capacity",
    "examine",
    "fits",
    "in_words",
    "mfu",
    "peak",
]

# Dense bfloat16 peak in FLOP/s, from the makers' data sheets (of GeForce: with float32 accumulation), by what the
# device calls itself. The first that matches counts. Parts of a GPU (MIG) and laptops' have other peaks.
_PEAKS = {
    r"MIG|Laptop|Max-Q": None,
    r"H100 PCIe": 756e12, r"H100 NVL": 835e12, r"(H100|H200|H800|GH200)": 989e12, r"H20": 148e12,
    r"(B200|GB200)": 2250e12, r"(A100|A800)": 312e12, r"A40": 150e12, r"A30": 165e12, r"A10G": 70e12, r"A10": 125e12,
    r"L40S": 362e12, r"L40": 181e12, r"L4": 121e12, r"RTX 6000 Ada": 364e12, r"RTX A6000": 155e12,
    r"RTX 5090": 209e12, r"RTX 4090 D": 147e12, r"RTX 4090": 165e12, r"RTX 3090 Ti": 80e12, r"RTX 3090": 71e12,
    r"MI300X": 1307e12,
}  # fmt: skip

_TOKENS = 64  # of the trial run; what is kept grows with the tokens
_NF4 = 0.5 + 1 / 64 + 4 / (64 * 256)  # bytes of a weight: 4 bits, and scales of 8 bits with scales of their own
_USABLE = 0.9  # of the memory: the rest goes to the driver, libraries, and what fragments
_TRIAL = "finetune_trial"


@dataclass(frozen=True)
class ModelFootprint:
    """A model in numbers.

    Attributes:
        weights: Bytes of all parameters.
        parameters: Their number; tied ones count once, adapters too.
        trained: Of those, how many are trained.
        gradients: Bytes of their gradients.
        optimizer: Bytes of AdamW's two float32 moments, and of what makes bfloat16 weights exact.
        trained_matrices, frozen_matrices: Numbers in the matrices of the layers that each token is multiplied with;
            of experts, only those that a token goes through.
        vocabulary, width: The head is a matrix of vocabulary x width.
        head_trained: Whether it is.
        element: Bytes of an activation.
        layers: How many.
        attention: Heads times their size, summed over the layers.
        kept: Bytes for each token that autograd keeps of the layers until the backward pass.
    """

    weights: int
    parameters: int
    trained: int
    gradients: int
    optimizer: int
    trained_matrices: float
    frozen_matrices: float
    vocabulary: int
    width: int
    head_trained: bool
    element: int
    layers: int
    attention: int
    kept: float

    def flops_per_token(self, length: float, *, supervised: float = 1.0, recompute: bool = False) -> float:
        """Floating-point operations of a training step for each token of a document.

        With P_t numbers in the layers' trained matrices and P_f in their frozen ones (LoRA), V in the head, which only
        the share s of supervised tokens goes through, and attention A wide (heads times their size, over all layers)
        in documents of t tokens::

            6 P_t + 4 P_f + 6 V s + 6 A (t + 1)

        Forward is 2 operations for each number; as many again go into the gradients of the activations, and as many
        into those of what is trained (so that it is 4 V s where the head is not). Causal attention meets (t + 1) / 2
        places on average, twice: for scores and for values. Looking up embeddings is no arithmetic. Activations
        computed again are no progress, and not counted unless ``recompute`` asks for what the hardware does: then
        2 P_t + 2 P_f + 2 A (t + 1) more.

        Args:
            length: Of the document that a token is in, in the mean over tokens: sum(t^2) / sum(t) over documents.
            supervised: Share of supervised tokens.
        """
        attention = 2 * self.attention * (length + 1)
        frozen, trained = self.frozen_matrices, self.trained_matrices
        head = self.vocabulary * self.width * supervised
        again = 2 * (trained + frozen) + attention if recompute else 0.0
        return 6 * trained + 4 * frozen + (6 if self.head_trained else 4) * head + 3 * attention + again

    def memory(self, *, tokens: int, supervised: float = 1.0, recompute: bool = False) -> dict[str, int]:
        """Bytes of each part at the height of a training step, for a micro-batch of ``tokens`` tokens.

        ``activations`` is what eager layers keep for the backward pass; compiled ones keep less. With ``recompute``,
        each keeps its input, and one of them at a time all the rest. ``head`` is a chunk of logits, the hidden states
        of the supervised tokens with their gradients, and the gradient of the head until it is added to the others.
        """
        rows = max(1, round(tokens * supervised))
        row = self.width * self.element
        kept = self.kept
        if recompute:
            kept = self.layers * row + self.kept / self.layers
        chunk = min(rows, max(1, _CHUNK_BYTES // (self.vocabulary * self.element)))
        # Summed over several chunks in float32, and rounded to the weights' dtype at the end.
        each = self.element + (4 if rows > chunk and self.element < 4 else 0)
        return {
            "weights": self.weights,
            "gradients": self.gradients,
            "optimizer": self.optimizer,
            "activations": round(kept * tokens),
            "head": chunk * self.vocabulary * self.element
            + 2 * rows * row
            + (self.vocabulary * self.width * each if self.head_trained else 0),
        }


def examine(config: Any, *, dtype: torch.dtype, lora: Lora | None = None) -> ModelFootprint | None:
    """Take the measure of a model from its configuration, without its weights; None where its code can't do that.

    Raises:
        SelfInstructError: ``lora`` is not for this model, or peft is not installed.
    """
    quantized = lora is not None and lora.base == "nf4"
    # Around weights in 4 bits, everything else is float32.
    kind = torch.float32 if quantized else dtype
    try:
        with torch.device("meta"):
            make: Any = AutoModelForCausalLM.from_config  # untyped
            model = make(config, dtype=kind, attn_implementation="eager")
            if lora is not None:
                model = attach(model, replace(lora, base="full"))
        causal = model.get_base_model() if lora is not None else model
        kept, attention = _trial(model.train(), causal)
        return _measured(model, causal, quantized, kept, attention)
    except SelfInstructError:
        raise
    except Exception:  # whatever the code of some architecture raises on tensors without content
        return None


def _measured(model: nn.Module, causal: Any, quantized: bool, kept: float, attention: int) -> ModelFootprint:
    head = causal.get_output_embeddings()
    whole = list(model.parameters())
    trained = [one for one in whole if one.requires_grad]
    active = _active_share(causal.config)
    matrices = {True: 0.0, False: 0.0}
    frozen_linear = 0
    for name, module in model.named_modules():
        for one in module.parameters(recurse=False):
            if one.ndim < 2 or isinstance(module, nn.Embedding) or module is head:
                continue
            share = active if ".experts" in name and ".shared_expert" not in name else 1.0
            matrices[one.requires_grad] += one.numel() * share
            frozen_linear += one.numel() if isinstance(module, nn.Linear) and not one.requires_grad else 0
    return ModelFootprint(
        weights=sum(map(_bytes, whole)) - (round(frozen_linear * (4 - _NF4)) if quantized else 0),
        parameters=sum(one.numel() for one in whole),
        trained=sum(one.numel() for one in trained),
        gradients=sum(map(_bytes, trained)),
        optimizer=sum(one.numel() * (10 if one.dtype == torch.bfloat16 else 8) for one in trained),
        trained_matrices=matrices[True],
        frozen_matrices=matrices[False],
        vocabulary=head.weight.shape[0],
        width=head.weight.shape[1],
        head_trained=head.weight.requires_grad,
        element=head.weight.element_size(),
        layers=causal.config.num_hidden_layers,
        attention=attention,
        kept=kept,
    )


def _bytes(tensor: Tensor) -> int:
    return tensor.numel() * tensor.element_size()


def _active_share(config: Any) -> float:
    """Of the experts, how many a token goes through."""
    for name in ("num_experts", "num_local_experts", "n_routed_experts"):
        if count := getattr(config, name, None):
            return float(getattr(config, "num_experts_per_tok", count) / count)
    return 1.0


class _Attention(torch.autograd.Function):
    """The shapes of an attention that keeps its inputs, its output and one number a row, as flash attention does."""

    @staticmethod
    def forward(ctx: Any, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        out: Tensor = query.new_empty((*query.transpose(1, 2).shape[:3], value.shape[3]))
        ctx.save_for_backward(query, key, value, out, query.new_empty(query.shape[:3], dtype=torch.float32))
        return out


def _trial(model: Any, causal: Any) -> tuple[float, int]:
    """Bytes that autograd keeps for each token, and the heads times their size, summed over the layers."""
    widths: list[int] = []

    def attend(
        _module: Any, query: Tensor, key: Tensor, value: Tensor, _mask: Any = None, **_: Any
    ) -> tuple[Tensor, None]:
        groups = query.shape[1] // key.shape[1]
        if groups > 1:  # as finetune.model.attention does
            key, value = key.repeat_interleave(groups, 1), value.repeat_interleave(groups, 1)
        widths.append(query.shape[1] * (query.shape[3] + value.shape[3]) // 2)
        return _Attention.apply(query, key, value), None  # type: ignore[no-untyped-call]

    AttentionInterface.register(_TRIAL, attend)
    causal.set_attn_implementation(_TRIAL)
    own = {one.untyped_storage()._cdata for one in (*model.parameters(), *model.buffers())}
    kept: dict[int, Tensor] = {}

    def keep(tensor: Tensor) -> Tensor:
        # The tensor is held, so that no other can get its address.
        kept.setdefault(tensor.untyped_storage()._cdata, tensor)
        return tensor

    ids = torch.zeros(1, _TOKENS, dtype=torch.int64, device="meta")
    with torch.enable_grad(), torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        getattr(causal, causal.base_model_prefix)(input_ids=ids, use_cache=False)
    total = sum(one.untyped_storage().nbytes() for address, one in kept.items() if address not in own)
    return total / _TOKENS, sum(widths)


def peak(device: str) -> float | None:
    """Dense bfloat16 peak in FLOP/s of the GPU called ``device``; None where it is not known."""
    for pattern, value in _PEAKS.items():
        if re.search(rf"(?<![A-Za-z0-9])(?:{pattern})(?![A-Za-z0-9])", device):
            return value
    return None


def mfu(tokens_per_second: float, flops: float | None, device: str) -> float | None:
    """Model FLOPs utilisation (Chowdhery et al. 2022, arXiv:2204.02311): share of the peak; None if it is not known.

    Args:
        flops: For each token.
        device: Name of the GPU; for several of them, give the tokens of one.
    """
    most = peak(device)
    return None if most is None or flops is None else tokens_per_second * flops / most


def capacity(device: torch.device) -> int | None:
    """Bytes of memory that ``device`` has; None where that can't be found out."""
    if device.type == "cuda":
        return int(torch.cuda.get_device_properties(device).total_memory)
    found: list[int] = []
    with suppress(ValueError, OSError, AttributeError):
        found.append(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"))
    with suppress(ValueError, OSError):  # a container may have less than the machine
        found.append(int(Path("/sys/fs/cgroup/memory.max").read_text(encoding="ascii")))
    return min(found, default=None)


def fits(parts: dict[str, int], room: int | None) -> bool:
    """Whether what ``memory`` predicts fits into ``room`` bytes (of ``capacity``); where that is unknown, it may."""
    return room is None or sum(parts.values()) <= _USABLE * room


def in_words(parts: dict[str, int], room: int | None = None, *, recompute: bool = False) -> str:
    """Predicted memory by part, and what to do where it does not fit into ``room`` bytes.

    Args:
        recompute: Whether activations are computed again already.
    """
    gib = {name: size / 2**30 for name, size in parts.items()}
    text = f"{sum(gib.values()):.2f} GiB ({', '.join(f'{name} {size:.2f}' for name, size in gib.items())})"
    if not fits(parts, room):
        remedies = ["a smaller micro_batch_tokens", "--recipe lora", *([] if recompute else ["--set recompute=on"])]
        text += f" of {(room or 0) / 2**30:.2f} GiB: try {', or '.join(remedies)}"
    return text
