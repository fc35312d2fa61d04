"""Cost of a training step: predicted memory, and arithmetic as a share of the GPU's peak (MFU).

Nothing is assumed about a model's layers. The model is built on the meta device, where tensors have shapes but no
memory, and run once; its matrix products and the tensors that autograd saves are then counted.
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
from transformers import AttentionInterface

from finetune.model.adapters import add_adapters
from finetune.model.anatomy import auto_class, find_decoder, find_layers, freeze_other_modalities, text_config
from finetune.model.loss import CHUNK_BYTES
from finetune.options import Lora
from selfinstruct.errors import SelfInstructError

__all__ = ["ModelFootprint", "describe_memory", "fits_in_memory", "measure_footprint", "mfu", "peak", "total_memory"]

# Dense bfloat16 peak in FLOP/s from the vendors' data sheets (GeForce: with float32 accumulation), by patterns of the
# device name. The first match counts. Partitions of a GPU (MIG) and laptop GPUs have other peaks.
_PEAKS = {
    r"MIG|Laptop|Max-Q": None,
    r"H100 PCIe": 756e12, r"H100 NVL": 835e12, r"(H100|H200|H800|GH200)": 989e12, r"H20": 148e12,
    r"(B200|GB200)": 2250e12, r"(A100|A800)": 312e12, r"A40": 150e12, r"A30": 165e12, r"A10G": 70e12, r"A10": 125e12,
    r"L40S": 362e12, r"L40": 181e12, r"L4": 121e12, r"RTX 6000 Ada": 364e12, r"RTX A6000": 155e12,
    r"RTX 5090": 209e12, r"RTX 4090 D": 147e12, r"RTX 4090": 165e12, r"RTX 3090 Ti": 80e12, r"RTX 3090": 71e12,
    r"MI300X": 1307e12,
}  # fmt: skip

_TRIAL_TOKENS = 64  # tokens of the trial run; saved activations grow linearly with them
_NF4_BYTES = 0.5 + 1 / 64 + 4 / (64 * 256)  # per weight: 4 bits, and 8-bit scales that have scales themselves
_USABLE = 0.9  # share of the memory; the rest goes to the driver, libraries and fragmentation
_TRIAL_ATTENTION = "finetune_trial"


@dataclass(frozen=True)
class ModelFootprint:
    """Sizes of a model that determine the memory and arithmetic of training it.

    Attributes:
        weights: Bytes of all parameters.
        parameters: Number of parameters, including adapters; tied ones count once.
        trained: Number of trained parameters.
        gradients: Bytes of their gradients.
        optimizer: Bytes of AdamW's two float32 moments, and of the bits that make bfloat16 weights exact.
        trained_matrices, frozen_matrices: Parameters in the matrices of the layers that each token is multiplied by; of
            experts, only the share that a token is routed to.
        vocabulary, width: Shape of the head, a vocabulary x width matrix.
        head_trained: Whether the head is trained.
        element: Bytes of an activation value.
        layers: Number of layers.
        attention: Heads times head size, summed over the layers.
        kept: Bytes per token that autograd saves for the backward pass of the layers.
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
        """Return the floating-point operations of a training step per token.

        With P_t parameters in the trained matrices of the layers, P_f in the frozen ones (LoRA), V in the head, which
        is applied to the fraction s of supervised tokens, and attention of total width A (heads times head size, over
        all layers) in documents of t tokens::

            6 P_t + 4 P_f + 6 V s + 6 A (t + 1)

        The forward pass takes 2 operations per parameter, the gradients of the activations another 2, and the gradients
        of trained parameters another 2 (so 4 V s for a frozen head). Causal attention sees (t + 1) / 2 tokens on
        average, twice: for scores and for values. Embedding lookups involve no arithmetic. Recomputed activations are
        not counted, as in MFU, unless ``recompute`` asks for the operations that the hardware executes, which adds
        2 P_t + 2 P_f + 2 A (t + 1).

        Args:
            length: Document length averaged over tokens: sum(t^2) / sum(t) over documents.
            supervised: Fraction of supervised tokens.
        """
        attention = 2 * self.attention * (length + 1)
        frozen, trained = self.frozen_matrices, self.trained_matrices
        head = self.vocabulary * self.width * supervised
        recomputed = 2 * (trained + frozen) + attention if recompute else 0.0
        return 6 * trained + 4 * frozen + (6 if self.head_trained else 4) * head + 3 * attention + recomputed

    def memory(
        self,
        *,
        tokens: int,
        supervised: float = 1.0,
        recompute: bool = False,
        share: float = 1.0,
        chunk: int = CHUNK_BYTES,
    ) -> dict[str, int]:
        """Return the bytes of each part at the peak of a training step, for a micro-batch of ``tokens`` tokens.

        ``activations`` are the tensors that eager layers save for the backward pass. With ``recompute``, each layer
        saves only its input, and one layer at a time the rest. ``head`` is a chunk of logits, the hidden states of the
        supervised tokens with their gradients, and the gradient of the head's weight.

        Args:
            supervised: Fraction of supervised tokens.
            share: What compiled layers save, as a fraction of what eager ones do.
            chunk: Bytes of a chunk of logits (``finetune.model.loss.chunk_bytes``).
        """
        rows = max(1, round(tokens * supervised))
        row_bytes = self.width * self.element
        kept = self.layers * row_bytes + share * self.kept / self.layers if recompute else share * self.kept
        chunk = min(rows, max(1, chunk // (self.vocabulary * self.element)))
        # With several chunks, the gradient is summed in float32 and rounded to the weight's dtype at the end.
        gradient_bytes = self.element + (4 if rows > chunk and self.element < 4 else 0)
        return {
            "weights": self.weights,
            "gradients": self.gradients,
            "optimizer": self.optimizer,
            "activations": round(kept * tokens),
            "head": chunk * self.vocabulary * self.element
            + 2 * rows * row_bytes
            + (self.vocabulary * self.width * gradient_bytes if self.head_trained else 0),
        }


def measure_footprint(
    config: Any, *, dtype: torch.dtype, lora: Lora | None = None, repeated: bool = True
) -> ModelFootprint | None:
    """Measure a model from its configuration, without its weights; None if its code can't run on the meta device.

    Args:
        repeated: Whether attention repeats the heads of keys and values for the heads of queries, as sdpa does.

    Raises:
        SelfInstructError: ``lora`` does not fit this model, or peft is not installed.
    """
    quantized = lora is not None and lora.base == "nf4"
    try:
        with torch.device("meta"):
            # Around 4-bit weights, everything else is float32.
            model = auto_class(config).from_config(
                config, dtype=torch.float32 if quantized else dtype, attn_implementation="eager"
            )
            if lora is not None:
                model = add_adapters(model, replace(lora, base="full"))
            else:
                freeze_other_modalities(model)
        causal = model.get_base_model() if lora is not None else model
        kept, attention = _trial_run(model.train(), causal, repeated)
        return _count(model, causal, quantized, kept, attention)
    except SelfInstructError:
        raise
    except Exception:  # the code of an architecture may raise anything on tensors without content
        return None


def _count(model: nn.Module, causal: Any, quantized: bool, kept: float, attention: int) -> ModelFootprint:
    head = causal.get_output_embeddings()
    parameters = list(model.parameters())
    trained = [parameter for parameter in parameters if parameter.requires_grad]
    active = _active_share(text_config(causal.config))
    matrices = {True: 0.0, False: 0.0}  # parameters by whether they are trained
    frozen_linear = 0
    for name, module in model.named_modules():
        for parameter in module.parameters(recurse=False):
            if parameter.ndim < 2 or isinstance(module, nn.Embedding) or module is head:
                continue
            share = active if ".experts" in name and ".shared_expert" not in name else 1.0
            matrices[parameter.requires_grad] += parameter.numel() * share
            if isinstance(module, nn.Linear) and not parameter.requires_grad:
                frozen_linear += parameter.numel()
    return ModelFootprint(
        weights=sum(map(_bytes, parameters)) - (round(frozen_linear * (4 - _NF4_BYTES)) if quantized else 0),
        parameters=sum(parameter.numel() for parameter in parameters),
        trained=sum(parameter.numel() for parameter in trained),
        gradients=sum(map(_bytes, trained)),
        optimizer=sum(parameter.numel() * (10 if parameter.dtype == torch.bfloat16 else 8) for parameter in trained),
        trained_matrices=matrices[True],
        frozen_matrices=matrices[False],
        vocabulary=head.weight.shape[0],
        width=head.weight.shape[1],
        head_trained=head.weight.requires_grad,
        element=head.weight.element_size(),
        layers=len(find_layers(find_decoder(causal) or causal)),
        attention=attention,
        kept=kept,
    )


def _bytes(tensor: Tensor) -> int:
    return tensor.numel() * tensor.element_size()


def _active_share(config: Any) -> float:
    """Return the fraction of the experts that a token is routed to."""
    for name in ("num_experts", "num_local_experts", "n_routed_experts"):
        if count := getattr(config, name, None):
            return float(getattr(config, "num_experts_per_tok", count) / count)
    return 1.0


class _TrialAttention(torch.autograd.Function):
    """Shapes of an attention that saves its inputs, its output and one number per row, as flash attention does."""

    @staticmethod
    def forward(ctx: Any, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        out: Tensor = query.new_empty((*query.transpose(1, 2).shape[:3], value.shape[3]))  # (1, T, H, D)
        ctx.save_for_backward(query, key, value, out, query.new_empty(query.shape[:3], dtype=torch.float32))
        return out


def _trial_run(model: Any, causal: Any, repeated: bool) -> tuple[float, int]:
    """Run the layers on the meta device.

    Returns:
        The bytes per token that autograd saves; and heads times head size, summed over the layers.
    """
    widths: list[int] = []

    def attend(
        _module: Any, query: Tensor, key: Tensor, value: Tensor, _mask: Any = None, **_: Any
    ) -> tuple[Tensor, None]:
        groups = query.shape[1] // key.shape[1]
        if groups > 1 and repeated:  # as finetune.model.attention does
            key, value = key.repeat_interleave(groups, 1), value.repeat_interleave(groups, 1)
        widths.append(query.shape[1] * (query.shape[3] + value.shape[3]) // 2)
        return _TrialAttention.apply(query, key, value), None  # type: ignore[no-untyped-call]

    AttentionInterface.register(_TRIAL_ATTENTION, attend)
    causal.set_attn_implementation(_TRIAL_ATTENTION)
    model_storage = {tensor.untyped_storage()._cdata for tensor in (*model.parameters(), *model.buffers())}
    saved: dict[int, Tensor] = {}  # by address; holding the tensor keeps the address from being reused

    def save(tensor: Tensor) -> Tensor:
        saved.setdefault(tensor.untyped_storage()._cdata, tensor)
        return tensor

    ids = torch.zeros(1, _TRIAL_TOKENS, dtype=torch.int64, device="meta")
    with torch.enable_grad(), torch.autograd.graph.saved_tensors_hooks(save, lambda tensor: tensor):
        (find_decoder(causal) or causal)(input_ids=ids, use_cache=False)
    total = sum(tensor.untyped_storage().nbytes() for address, tensor in saved.items() if address not in model_storage)
    return total / _TRIAL_TOKENS, sum(widths)


def peak(device: str) -> float | None:
    """Return the dense bfloat16 peak in FLOP/s of the GPU named ``device``; None if it is not known."""
    for pattern, value in _PEAKS.items():
        if re.search(rf"(?<![A-Za-z0-9])(?:{pattern})(?![A-Za-z0-9])", device):
            return value
    return None


def mfu(tokens_per_second: float, flops: float | None, device: str) -> float | None:
    """Return the model FLOPs utilisation (Chowdhery et al. 2022, arXiv:2204.02311); None if the peak is not known.

    Args:
        tokens_per_second: Throughput of one GPU.
        flops: Floating-point operations per token.
        device: Name of the GPU.
    """
    device_peak = peak(device)
    return None if device_peak is None or flops is None else tokens_per_second * flops / device_peak


def total_memory(device: torch.device) -> int | None:
    """Return the total memory of ``device`` in bytes; None if it can't be determined."""
    if device.type == "cuda":
        return int(torch.cuda.get_device_properties(device).total_memory)
    limits: list[int] = []
    with suppress(ValueError, OSError, AttributeError):
        limits.append(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"))
    with suppress(ValueError, OSError):  # a container may have less than the machine
        limits.append(int(Path("/sys/fs/cgroup/memory.max").read_text(encoding="ascii")))
    return min(limits, default=None)


def fits_in_memory(parts: dict[str, int], available: int | None) -> bool:
    """Return whether predicted memory fits into ``available`` bytes, minus a margin; True if that is unknown."""
    return available is None or sum(parts.values()) <= _USABLE * available


def describe_memory(parts: dict[str, int], available: int | None = None, *, recompute: bool = False) -> str:
    """Describe predicted memory by part, with remedies if it does not fit into ``available`` bytes.

    Args:
        recompute: Whether activations are recomputed already; recomputation is then not suggested.
    """
    gib = {name: size / 2**30 for name, size in parts.items()}
    text = f"{sum(gib.values()):.2f} GiB ({', '.join(f'{name} {size:.2f}' for name, size in gib.items())})"
    if not fits_in_memory(parts, available):
        remedies = ["a smaller micro_batch_tokens", "--recipe lora", *([] if recompute else ["--set recompute=on"])]
        text += f" of {(available or 0) / 2**30:.2f} GiB: try {', or '.join(remedies)}"
    return text
