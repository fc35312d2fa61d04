"""Print within seconds whether a GPU multiplies, copies and attends as it should, before anything longer runs.

    python bench/gpu_checks.py [--device cpu|cuda]

On a CPU, attention is that of `sdpa`, and the speeds say nothing about a GPU.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from itertools import pairwise
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention
from transformers import AttentionInterface, LlamaConfig, LlamaForCausalLM

from finetune.data.batch import PackedSequences
from finetune.model.attention import resolve_attention, use_packed_attention
from finetune.model.isolation import check_head
from finetune.model.packed_lm import PackedCausalLM

LENGTHS = (300, 17, 512, 195)


def timed(device: torch.device, function: Callable[[], Any], repeats: int = 10) -> float:
    """Return seconds per call, after one that is not counted."""

    def wait() -> None:
        if device.type == "cuda":
            torch.cuda.synchronize()

    function()
    wait()
    began = time.perf_counter()
    for _ in range(repeats):
        function()
    wait()
    return (time.perf_counter() - began) / repeats


def attend_exactly(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    """Attend within each document in the dtype of the arguments, which are (H, T, D), with repeated heads."""
    groups = query.shape[0] // key.shape[0]
    key, value = (tensor.repeat_interleave(groups, 0) for tensor in (key, value))
    ends = torch.tensor((0, *LENGTHS)).cumsum(0).tolist()
    documents = [
        scaled_dot_product_attention(query[:, a:b], key[:, a:b], value[:, a:b], is_causal=True)
        for a, b in pairwise(ends)
    ]
    return torch.cat(documents, 1)


def attention_errors(device: torch.device, name: str, key_heads: int) -> list[float]:
    """Return the relative errors of output and gradients of packed attention, against float64."""
    torch.manual_seed(0)
    tokens, heads, size = sum(LENGTHS), 8, 64
    dtype = torch.bfloat16 if device.type == "cuda" else torch.float32
    shapes = ((1, heads, tokens, size), (1, key_heads, tokens, size), (1, key_heads, tokens, size))
    inputs = [torch.randn(shape, device=device).to(dtype).requires_grad_() for shape in shapes]
    weights = torch.randn(1, tokens, heads, size, device=device)
    ends = torch.tensor((0, *LENGTHS), device=device).cumsum(0).int()
    packed = PackedSequences(ends, LENGTHS, max(LENGTHS))
    module = SimpleNamespace(is_causal=True)
    output, _ = AttentionInterface()[f"finetune_{name}"](module, *inputs, None, packed=packed)
    (output.float() * weights).sum().backward()
    exact = [tensor.detach().double().requires_grad_() for tensor in inputs]
    expected = attend_exactly(*(tensor[0] for tensor in exact)).transpose(0, 1)[None]
    (expected * weights).sum().backward()
    pairs = [(output, expected), *((a.grad, b.grad) for a, b in zip(inputs, exact, strict=True))]
    return [float((a.double() - b).norm() / b.norm()) for a, b in pairs if a is not None and b is not None]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cuda")
    device = torch.device(parser.parse_args().device)
    cuda = device.type == "cuda"
    print(torch.cuda.get_device_name(device) if cuda else "CPU", torch.__version__, flush=True)
    size = 8192 if cuda else 512
    a, b = (torch.randn(size, size, device=device, dtype=torch.bfloat16) for _ in range(2))
    print(f"bfloat16 product of {size}: {2 * size**3 / timed(device, lambda: a @ b) / 1e12:.1f} TFLOP/s", flush=True)
    print(f"copy: {2 * a.nbytes / timed(device, lambda: b.copy_(a)) / 1e12:.2f} TB/s", flush=True)

    dtype = torch.bfloat16 if cuda else torch.float32
    name = resolve_attention("auto", device, dtype)
    config = LlamaConfig(
        vocab_size=512, hidden_size=256, intermediate_size=512, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2,
    )  # fmt: skip
    model = LlamaForCausalLM(config).to(device, dtype)
    use_packed_attention(model, name)
    for key_heads in (8, 2):
        errors = ", ".join(f"{error:.1e}" for error in attention_errors(device, name, key_heads))
        print(f"{name}, 8 heads on {key_heads}: errors of output and gradients {errors}", flush=True)
    print(f"chunked head: {check_head(PackedCausalLM(model), device)}", flush=True)


if __name__ == "__main__":
    main()
