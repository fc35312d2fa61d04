"""Adapters: training, saving, and merging with its report."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from finetune.export.merge import Parity, merge_adapters
from finetune.model.adapters import BASE, add_adapters, load_adapters, save_adapters
from finetune.model.loading import Base, load
from finetune.model.saving import save
from finetune.options import Lora
from selfinstruct.errors import RunChangedError, UsageError
from tests.finetune_fixtures import make_model, make_tokenizer

IDS = torch.tensor([[5, 6, 7, 8, 90, 91, 200, 12]])


def saved(folder: Path, **options: Any) -> Path:
    tokenizer = make_tokenizer()
    model = make_model(len(tokenizer), **options)
    save(model.to(options.get("dtype", torch.float32)), tokenizer, folder)
    return folder


@pytest.fixture
def tiny(tmp_path: Path) -> Path:
    return saved(tmp_path / "tiny")


@pytest.fixture
def wide(tmp_path: Path) -> Path:
    """A model whose rows have more than one block of 64 weights, the block size of quantisation."""
    return saved(tmp_path / "wide", hidden_size=128, intermediate_size=192)


def trained(model: Any) -> Any:
    """Set random adapter weights: new adapters don't change the model."""
    torch.manual_seed(1)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                parameter.normal_(std=0.1)
    return model.eval()


def adapted(folder: Path, base_folder: Path, **options: Any) -> Any:
    """Save trained adapters for the model in ``base_folder`` to ``folder``; return the adapted model."""
    loaded = load(str(base_folder), dtype=torch.float32, lora=Lora(rank=4, **options))
    save_adapters(trained(loaded.model), loaded.tokenizer, folder, loaded.base)
    return loaded.model


def logits(model: Any) -> torch.Tensor:
    with torch.no_grad():
        return model.eval()(IDS).logits


@pytest.mark.parametrize("held", ["full", "nf4"])
def test_only_adapters_are_trained_and_they_are_float32(wide, held) -> None:
    if held == "nf4":
        pytest.importorskip("bitsandbytes")
    model = load(str(wide), dtype=torch.bfloat16, lora=Lora(rank=4, base=held)).model
    kinds = {
        (("lora_" in name), parameter.requires_grad, parameter.dtype) for name, parameter in model.named_parameters()
    }
    frozen = {(False, False, torch.bfloat16)} | ({(False, False, torch.uint8)} if held == "nf4" else set())
    assert kinds == {(True, True, torch.float32)} | frozen
    trainable = {name.split(".")[-4] for name, parameter in model.named_parameters() if parameter.requires_grad}
    assert trainable == {"q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"}


def test_only_the_named_targets_get_adapters(tiny) -> None:
    model = load(str(tiny), dtype=torch.float32, lora=Lora(targets="self_attn.q_proj, down_proj")).model
    layers = {name.split(".")[-4] for name, parameter in model.named_parameters() if parameter.requires_grad}
    assert layers == {"q_proj", "down_proj"}


@pytest.mark.parametrize("wrong", ["nothing", "lm_head"])
def test_unknown_targets_are_reported_with_the_available_layers(tiny, wrong) -> None:
    """The head is not available: the loss uses its weight directly, so an adapter there would have no effect."""
    with pytest.raises(
        UsageError, match=f"no layer that takes adapters is called {wrong}; there are down_proj, .*q_proj"
    ) as caught:
        add_adapters(load(str(tiny), dtype=torch.float32).model, Lora(targets=f"q_proj,{wrong}"))
    assert "lm_head" not in str(caught.value).split("there are")[1]


def test_a_4bit_layer_computes_with_its_dequantised_weights(wide) -> None:
    """Loss and gradients equal a plain model's with the dequantised weights."""
    bnb = pytest.importorskip("bitsandbytes")
    model_4bit = trained(load(str(wide), dtype=torch.float32, lora=Lora(rank=4, base="nf4")).model)
    plain = trained(load(str(wide), dtype=torch.float32, lora=Lora(rank=4)).model)
    quantised = dict(model_4bit.named_parameters())
    count = 0
    with torch.no_grad():
        for name, parameter in plain.named_parameters():
            quantised_parameter = quantised[name]
            if isinstance(quantised_parameter, bnb.nn.Params4bit):
                count += 1
                values = bnb.functional.dequantize_4bit(quantised_parameter.data, quantised_parameter.quant_state)
                assert 0 < (values - parameter).abs().max() < parameter.abs().max()
                assert quantised_parameter.quant_state.nested, "the scales are quantised too"
                parameter.copy_(values)
            else:
                parameter.copy_(quantised_parameter)
    assert count == 14
    losses = []
    for model in (model_4bit, plain):
        loss = model(IDS, labels=IDS).loss
        loss.backward()
        losses.append(float(loss.detach()))
    assert losses[0] == pytest.approx(losses[1], abs=1e-6)
    for name, parameter in plain.named_parameters():
        if parameter.requires_grad:
            torch.testing.assert_close(quantised[name].grad, parameter.grad, rtol=1e-4, atol=1e-6)
            assert parameter.grad.abs().sum() > 0


def test_a_gguf_file_can_be_the_base_of_qlora(wide, tmp_path) -> None:
    pytest.importorskip("bitsandbytes")
    from finetune.export.gguf import export_gguf

    export_gguf(str(wide), tmp_path / "m.gguf", dtype="f32")
    nf4 = Lora(rank=4, base="nf4")
    ours = load(str(tmp_path / "m.gguf"), dtype=torch.float32, lora=nf4)
    assert torch.equal(logits(ours.model), logits(load(str(wide), dtype=torch.float32, lora=nf4).model))
    assert ours.base.name == str(tmp_path / "m.gguf")


def test_adapters_are_saved_in_the_layout_of_peft_with_their_base(tiny, tmp_path) -> None:
    model = adapted(tmp_path / "adapters", tiny)
    names = {path.name for path in (tmp_path / "adapters").iterdir()}
    assert {"adapter_model.safetensors", "adapter_config.json", BASE, "tokenizer.json"} <= names
    assert not {name for name in names if name.endswith((".bin", ".md", ".pt"))}
    config = json.loads((tmp_path / "adapters" / "adapter_config.json").read_text())
    assert config["base_model_name_or_path"] == str(tiny)
    assert (config["r"], config["peft_type"], config["task_type"]) == (4, "LORA", "CAUSAL_LM")
    again = load_adapters(load(str(tiny), dtype=torch.float32).model, tmp_path / "adapters")
    assert torch.equal(logits(again), logits(model))
    with pytest.raises(UsageError, match="finetune merge"):
        load(str(tmp_path / "adapters"), dtype=torch.float32)


def test_a_merged_model_has_the_logits_of_the_adapted_model(tiny, tmp_path) -> None:
    model = adapted(tmp_path / "adapters", tiny)
    (tmp_path / "adapters" / "finetune.json").write_text("{}")
    parity = merge_adapters(tmp_path / "adapters", tmp_path / "merged")
    assert parity.largest < 1e-4
    assert parity.divergence < 1e-9
    assert parity.agreement == 1.0
    assert parity.positions > 100
    merged = load(str(tmp_path / "merged"), dtype=torch.float32).model
    torch.testing.assert_close(logits(merged), logits(model), rtol=1e-4, atol=1e-4)
    plain = load(str(tiny), dtype=torch.float32).model
    assert not torch.allclose(logits(merged), logits(plain), atol=1e-1)
    names = {path.name for path in (tmp_path / "merged").iterdir()}
    assert "finetune.json" in names
    assert not {name for name in names if "adapter" in name}


def test_a_merge_keeps_the_dtype_of_the_base_and_reports_the_rounding_error(tmp_path) -> None:
    base = saved(tmp_path / "base", dtype=torch.bfloat16)
    adapted(tmp_path / "adapters", base)
    parity = merge_adapters(tmp_path / "adapters", tmp_path / "merged")
    assert json.loads((tmp_path / "merged" / "config.json").read_text())["dtype"] == "bfloat16"
    assert 1e-3 < parity.largest < 1
    assert 0 < parity.divergence < 0.05
    exact = merge_adapters(tmp_path / "adapters", tmp_path / "exact", dtype=torch.float32)
    assert exact.largest < 1e-4


def test_merged_qlora_adapters_are_compared_with_the_4bit_model(wide, tmp_path) -> None:
    """Merging into the original weights changes the model, and the report must show it."""
    pytest.importorskip("bitsandbytes")
    model = adapted(tmp_path / "adapters", wide, base="nf4")
    parity = merge_adapters(tmp_path / "adapters", tmp_path / "merged")
    assert parity.largest > 0.1
    assert parity.divergence > 1e-3
    merged = load(str(tmp_path / "merged"), dtype=torch.float32).model
    full = load_adapters(load(str(wide), dtype=torch.float32).model, tmp_path / "adapters")
    torch.testing.assert_close(logits(merged), logits(full), rtol=1e-4, atol=1e-4)
    assert not torch.allclose(logits(merged), logits(model), atol=1e-2)


def test_parity_compares_next_token_distributions() -> None:
    first, second = torch.tensor([[1.0, 0.0], [0.0, 0.0]]), torch.tensor([[1.0, 0.0], [0.0, 2.0]])
    parity = Parity.of([first[:1], first[1:]], [second[:1], second[1:]])
    shares = torch.tensor([0.0, 2.0]).softmax(-1)
    divergence = float((0.5 * (torch.log(torch.tensor(0.5)) - shares.log())).sum()) / 2
    assert parity == Parity(2.0, pytest.approx(divergence), 0.5, 2)


def test_adapters_are_not_merged_into_a_different_base(tiny, tmp_path) -> None:
    adapted(tmp_path / "adapters", tiny)
    tokenizer = make_tokenizer()
    save(make_model(len(tokenizer), seed=5), tokenizer, tmp_path / "other")
    with pytest.raises(RunChangedError, match="--base"):
        merge_adapters(tmp_path / "adapters", tmp_path / "merged", base=str(tmp_path / "other"))
    assert not (tmp_path / "merged").exists()
    tiny.rename(tmp_path / "moved")
    assert merge_adapters(tmp_path / "adapters", tmp_path / "merged", base=str(tmp_path / "moved")).agreement == 1.0


def test_invalid_merges_are_rejected_before_loading_a_model(tiny, tmp_path) -> None:
    with pytest.raises(UsageError, match=r"no base\.json in it; only adapters"):
        merge_adapters(tiny, tmp_path / "merged")
    adapted(tmp_path / "adapters", tiny)
    with pytest.raises(UsageError, match="something here already"):
        merge_adapters(tmp_path / "adapters", tiny)
    (tmp_path / "adapters" / BASE).write_text("[]")
    with pytest.raises(UsageError, match=r"base\.json: damaged"):
        merge_adapters(tmp_path / "adapters", tmp_path / "merged")


def test_the_digest_of_a_base_depends_only_on_its_weights(tiny, tmp_path) -> None:
    first = load(str(tiny), dtype=torch.float32).base
    (tiny / "README.md").write_text("changed")
    assert load(str(tiny), dtype=torch.bfloat16).base == first == Base(str(tiny), first.digest)
    copy = saved(tmp_path / "other")
    assert load(str(copy), dtype=torch.float32).base.digest == first.digest
