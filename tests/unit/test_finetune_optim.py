"""AdamW over flat buffers: agreement with PyTorch, and exact float32 weights behind bfloat16 ones."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from finetune.options import TrainingOptions
from finetune.training.optimizer import FlatAdamW, join_float32, split_float32

TRUE = torch.tensor(True)
ONE = torch.tensor(1.0)


def module(dtype: torch.dtype = torch.float32) -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(7, 5), nn.LayerNorm(5), nn.Linear(5, 3, bias=False)).to(dtype)


def gradients(net: nn.Module, step: int) -> None:
    """Set random gradients, the same for each step number."""
    generator = torch.Generator().manual_seed(step)
    for parameter in net.parameters():
        fresh = torch.randn(parameter.shape, generator=generator).to(parameter.dtype)
        if parameter.grad is None:
            parameter.grad = fresh
        else:
            parameter.grad.copy_(fresh)


@given(st.floats(width=32, allow_nan=False, allow_infinity=False, min_value=-(2.0**120), max_value=2.0**120))
def test_splitting_a_float32_weight_loses_no_bit(value) -> None:
    exact = torch.tensor([value], dtype=torch.float32)
    upper, remainder = split_float32(exact)
    assert torch.equal(join_float32(upper, remainder).view(torch.int32), exact.view(torch.int32))
    assert abs(float(upper) - value) <= abs(float(exact.to(torch.bfloat16)) - value), "not rounded to nearest"


def test_ten_steps_equal_those_of_pytorch() -> None:
    options = TrainingOptions(weight_decay=0.1, learning_rate=1e-2)
    ours, theirs = module(), module()
    flat = FlatAdamW(ours.parameters(), options)
    decayed = [parameter for parameter in theirs.parameters() if parameter.ndim >= 2]
    undecayed = [parameter for parameter in theirs.parameters() if parameter.ndim < 2]
    reference = torch.optim.AdamW(
        [{"params": decayed, "weight_decay": 0.1}, {"params": undecayed, "weight_decay": 0.0}], eps=1e-8
    )
    for step in range(10):
        gradients(ours, step)
        gradients(theirs, step)
        for group in reference.param_groups:
            group["lr"] = 1e-2 / (step + 1)
        norm = nn.utils.clip_grad_norm_(theirs.parameters(), 1.0)
        assert torch.allclose(flat.grad_norm(), norm)
        flat.step(step + 1, 1e-2 / (step + 1), (1 / (flat.grad_norm() + 1e-6)).clamp(max=1.0), TRUE)
        reference.step()
    for parameter, expected in zip(ours.parameters(), theirs.parameters(), strict=True):
        torch.testing.assert_close(parameter, expected, rtol=1e-6, atol=1e-7)


def test_bfloat16_weights_are_the_rounded_weights_of_a_float32_run() -> None:
    """With the same gradients, weights and remainders together equal the float32 weights bit for bit."""
    options = TrainingOptions(weight_decay=0.01)
    half, full = module(torch.bfloat16), module(torch.bfloat16).float()
    ours, reference = FlatAdamW(half.parameters(), options), FlatAdamW(full.parameters(), options)
    reference.__dict__["_fused"] = False  # the same arithmetic on both sides
    for step in range(25):
        gradients(half, step)
        for small, large in zip(half.parameters(), full.parameters(), strict=True):
            large.grad.copy_(small.grad)
        for optimizer in (ours, reference):
            optimizer.step(step + 1, 1e-3, ONE, TRUE)
    for small, large in zip(ours.groups, reference.groups, strict=True):
        assert torch.equal(join_float32(small.weight, small.remainder), large.weight)
    changed = [
        not torch.equal(parameter, original)
        for parameter, original in zip(half.parameters(), module(torch.bfloat16).parameters(), strict=True)
    ]
    assert all(changed)


def test_steps_too_small_for_bfloat16_add_up() -> None:
    weight = nn.Parameter(torch.ones(64, 2, dtype=torch.bfloat16))
    optimizer = FlatAdamW([weight], TrainingOptions())
    for step in range(1, 101):
        weight.grad.fill_(1.0)
        optimizer.step(step, 1e-4, ONE, TRUE)
    assert weight.detach()[0, 0].item() == pytest.approx(0.99, abs=0.004), "each step alone rounds to nothing"


def test_a_step_that_is_not_finite_changes_nothing() -> None:
    for dtype in (torch.float32, torch.bfloat16):
        net = module(dtype)
        optimizer = FlatAdamW(net.parameters(), TrainingOptions())
        gradients(net, 0)
        optimizer.step(1, 1e-2, ONE, TRUE)
        before = {name: tensor.clone() for name, tensor in optimizer.state().items()}
        for parameter in net.parameters():
            parameter.grad.fill_(float("nan"))
        optimizer.step(2, 1e-2, ONE, torch.tensor(False))
        assert all(torch.equal(tensor, before[name]) for name, tensor in optimizer.state().items())


def test_frozen_parameters_do_not_change() -> None:
    net = module()
    net[0].weight.requires_grad_(False)
    before = net[0].weight.clone()
    optimizer = FlatAdamW(net.parameters(), TrainingOptions())
    trainable = sum(parameter.numel() for parameter in net.parameters() if parameter.requires_grad)
    assert sum(int((group.gradient == 0).sum()) for group in optimizer.groups) >= trainable
    optimizer.step(1, 1.0, ONE, TRUE)
    assert torch.equal(net[0].weight, before)


def test_backward_writes_into_the_flat_buffer() -> None:
    net = module()
    optimizer = FlatAdamW(net.parameters(), TrainingOptions())
    for _ in range(2):
        net(torch.ones(4, 7)).square().sum().backward()
    twice = optimizer.grad_norm()
    optimizer.zero_grad()
    assert float(optimizer.grad_norm()) == 0
    net(torch.ones(4, 7)).square().sum().backward()
    torch.testing.assert_close(optimizer.grad_norm() * 2, twice)
