"""Adapters: what is trained, what is saved, what a merge makes of them and says of it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from finetune.export.merge import Parity, merge_adapters
from finetune.model.adapters import BASE, add_adapters, load_adapters, save_adapters
from finetune.model.loading import Base, load, save
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
    """Rows of more than one block of 64 weights, as quantisation takes them."""
    return saved(tmp_path / "wide", hidden_size=128, intermediate_size=192)


def trained(model: Any) -> Any:
    """As if trained: adapters begin as no change at all."""
    torch.manual_seed(1)
    with torch.no_grad():
        for name, one in model.named_parameters():
            if "lora_B" in name:
                one.normal_(std=0.1)
    return model.eval()


def adapted(folder: Path, beside: Path, **options: Any) -> Any:
    """Adapters beside the model in ``beside``, saved in ``folder``."""
    loaded = load(str(beside), dtype=torch.float32, lora=Lora(rank=4, **options))
    save_adapters(trained(loaded.model), loaded.tokenizer, folder, loaded.base)
    return loaded.model


def logits(model: Any) -> torch.Tensor:
    with torch.no_grad():
        return model.eval()(IDS).logits


@pytest.mark.parametrize("held", ["full", "nf4"])
def test_only_adapters_are_trained_and_they_are_float32_beside_bfloat16(wide, held) -> None:
    if held == "nf4":
        pytest.importorskip("bitsandbytes")
    model = load(str(wide), dtype=torch.bfloat16, lora=Lora(rank=4, base=held)).model
    kinds = {(("lora_" in name), one.requires_grad, one.dtype) for name, one in model.named_parameters()}
    frozen = {(False, False, torch.bfloat16)} | ({(False, False, torch.uint8)} if held == "nf4" else set())
    assert kinds == {(True, True, torch.float32)} | frozen
    trainable = {name.split(".")[-4] for name, one in model.named_parameters() if one.requires_grad}
    assert trainable == {"q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"}


def test_targets_by_name_get_adapters_and_no_other_layer(tiny) -> None:
    model = load(str(tiny), dtype=torch.float32, lora=Lora(targets="self_attn.q_proj, down_proj")).model
    found = {name.split(".")[-4] for name, one in model.named_parameters() if one.requires_grad}
    assert found == {"q_proj", "down_proj"}


@pytest.mark.parametrize("wrong", ["nothing", "lm_head"])
def test_targets_that_are_no_layers_are_told_with_those_that_are(tiny, wrong) -> None:
    """The head is none of them: the loss takes its weights as they are, so that an adapter there would do nothing."""
    with pytest.raises(UsageError, match=f"no linear layer is called {wrong}; there are down_proj, .*q_proj") as caught:
        add_adapters(load(str(tiny), dtype=torch.float32).model, Lora(targets=f"q_proj,{wrong}"))
    assert "lm_head" not in str(caught.value).split("there are")[1]


def test_a_layer_in_four_bits_computes_with_the_weights_it_stands_for(wide) -> None:
    """Loss and gradients are those of a plain model with the dequantised weights."""
    bnb = pytest.importorskip("bitsandbytes")
    held = trained(load(str(wide), dtype=torch.float32, lora=Lora(rank=4, base="nf4")).model)
    plain = trained(load(str(wide), dtype=torch.float32, lora=Lora(rank=4)).model)
    quantised = dict(held.named_parameters())
    count = 0
    with torch.no_grad():
        for name, one in plain.named_parameters():
            other = quantised[name]
            if isinstance(other, bnb.nn.Params4bit):
                count += 1
                values = bnb.functional.dequantize_4bit(other.data, other.quant_state)
                assert 0 < (values - one).abs().max() < one.abs().max()
                assert other.quant_state.nested, "the scales are quantised too"
                one.copy_(values)
            else:
                one.copy_(other)
    assert count == 14
    losses = []
    for model in (held, plain):
        loss = model(IDS, labels=IDS).loss
        loss.backward()
        losses.append(float(loss.detach()))
    assert losses[0] == pytest.approx(losses[1], abs=1e-6)
    for name, one in plain.named_parameters():
        if one.requires_grad:
            torch.testing.assert_close(quantised[name].grad, one.grad, rtol=1e-4, atol=1e-6)
            assert one.grad.abs().sum() > 0


def test_a_gguf_is_held_in_four_bits_too(wide, tmp_path) -> None:
    pytest.importorskip("bitsandbytes")
    from finetune.export.gguf import export_gguf

    export_gguf(str(wide), tmp_path / "m.gguf", dtype="f32")
    nf4 = Lora(rank=4, base="nf4")
    ours = load(str(tmp_path / "m.gguf"), dtype=torch.float32, lora=nf4)
    assert torch.equal(logits(ours.model), logits(load(str(wide), dtype=torch.float32, lora=nf4).model))
    assert ours.base.name == str(tmp_path / "m.gguf")


def test_what_is_saved_is_the_layout_of_peft_and_names_the_base(tiny, tmp_path) -> None:
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


def test_merged_adapters_say_what_the_adapted_model_said(tiny, tmp_path) -> None:
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


def test_a_merge_keeps_the_dtype_of_the_base_and_tells_what_rounding_changed(tmp_path) -> None:
    base = saved(tmp_path / "base", dtype=torch.bfloat16)
    adapted(tmp_path / "adapters", base)
    parity = merge_adapters(tmp_path / "adapters", tmp_path / "merged")
    assert json.loads((tmp_path / "merged" / "config.json").read_text())["dtype"] == "bfloat16"
    assert 1e-3 < parity.largest < 1
    assert 0 < parity.divergence < 0.05
    exact = merge_adapters(tmp_path / "adapters", tmp_path / "exact", dtype=torch.float32)
    assert exact.largest < 1e-4


def test_adapters_of_qlora_are_compared_with_the_model_in_four_bits(wide, tmp_path) -> None:
    """Merged into the weights as they were before, they make another model: the report must not hide it."""
    pytest.importorskip("bitsandbytes")
    model = adapted(tmp_path / "adapters", wide, base="nf4")
    parity = merge_adapters(tmp_path / "adapters", tmp_path / "merged")
    assert parity.largest > 0.1
    assert parity.divergence > 1e-3
    merged = load(str(tmp_path / "merged"), dtype=torch.float32).model
    full = load_adapters(load(str(wide), dtype=torch.float32).model, tmp_path / "adapters")
    torch.testing.assert_close(logits(merged), logits(full), rtol=1e-4, atol=1e-4)
    assert not torch.allclose(logits(merged), logits(model), atol=1e-2)


def test_parity_is_the_difference_of_next_token_distributions() -> None:
    one, other = torch.tensor([[1.0, 0.0], [0.0, 0.0]]), torch.tensor([[1.0, 0.0], [0.0, 2.0]])
    parity = Parity.of([one[:1], one[1:]], [other[:1], other[1:]])
    shares = torch.tensor([0.0, 2.0]).softmax(-1)
    divergence = float((0.5 * (torch.log(torch.tensor(0.5)) - shares.log())).sum()) / 2
    assert parity == Parity(2.0, pytest.approx(divergence), 0.5, 2)


def test_adapters_are_not_merged_onto_another_base(tiny, tmp_path) -> None:
    adapted(tmp_path / "adapters", tiny)
    tokenizer = make_tokenizer()
    save(make_model(len(tokenizer), seed=5), tokenizer, tmp_path / "other")
    with pytest.raises(RunChangedError, match="--base"):
        merge_adapters(tmp_path / "adapters", tmp_path / "merged", base=str(tmp_path / "other"))
    assert not (tmp_path / "merged").exists()
    tiny.rename(tmp_path / "moved")
    assert merge_adapters(tmp_path / "adapters", tmp_path / "merged", base=str(tmp_path / "moved")).agreement == 1.0


def test_what_can_not_be_merged_is_told_before_anything_is_loaded(tiny, tmp_path) -> None:
    with pytest.raises(UsageError, match=r"no base\.json in it; only adapters"):
        merge_adapters(tiny, tmp_path / "merged")
    adapted(tmp_path / "adapters", tiny)
    with pytest.raises(UsageError, match="something here already"):
        merge_adapters(tmp_path / "adapters", tiny)
    (tmp_path / "adapters" / BASE).write_text("[]")
    with pytest.raises(UsageError, match=r"base\.json: damaged"):
        merge_adapters(tmp_path / "adapters", tmp_path / "merged")


def test_the_digest_of_a_base_is_of_its_weights_and_nothing_else(tiny, tmp_path) -> None:
    first = load(str(tiny), dtype=torch.float32).base
    (tiny / "README.md").write_text("changed")
    assert load(str(tiny), dtype=torch.bfloat16).base == first == Base(str(tiny), first.digest)
    other = saved(tmp_path / "other")
    assert load(str(other), dtype=torch.float32).base.digest == first.digest
