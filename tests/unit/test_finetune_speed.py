"""What makes a GPU wait, compile or run out of memory, as far as it can be seen without one."""

from __future__ import annotations

import copy
import os
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file
from torch.nn.functional import scaled_dot_product_attention
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from transformers import LlamaConfig, Qwen3Config

import finetune.data.plan
import finetune.model.attention
import finetune.model.loss
import finetune.training.estimate
import finetune.training.setup
from finetune.data.batch import collate
from finetune.data.corpus import Corpus, Document
from finetune.data.plan import EpochPlan
from finetune.data.shapes import FixedShapes, choose_sizes
from finetune.model.adapters import add_adapters
from finetune.model.attention import use_packed_attention
from finetune.model.float8 import Float8Linear, use_float8
from finetune.model.footprint import measure_footprint
from finetune.model.loss import chunk_bytes, linear_cross_entropy
from finetune.model.packed_lm import PackedCausalLM
from finetune.options import Lora, TrainingOptions
from finetune.training.checkpoint import describe_shortage
from finetune.training.distributed import World, process_group
from finetune.training.estimate import CostEstimate
from finetune.training.loop import TrainingLoop
from finetune.training.optimizer import FlatAdamW
from finetune.training.setup import RuntimeSetup, compile_layers, prepare
from finetune.training.tensor_file import write_tensors
from selfinstruct.errors import UsageError
from tests.finetune_fixtures import make_model

H200 = 150_754_820_096  # bytes
CPU, CUDA = torch.device("cpu"), torch.device("cuda")
VOCABULARY = 128


def corpus(lengths: list[int]) -> Corpus:
    rng = np.random.default_rng(0)
    return Corpus.of(
        Document(rng.integers(3, VOCABULARY, size).astype(np.int32), np.arange(size) >= size // 2, f"row {number}")
        for number, size in enumerate(lengths)
    )


def alpaca_like(count: int) -> Corpus:
    """Return documents of an instruction in Alpaca's prompt and its answer, by their lengths."""
    rng = np.random.default_rng(0)
    lengths = rng.lognormal(np.log(70), 0.3, count) + rng.lognormal(np.log(40), 0.9, count)
    return corpus([int(length) for length in lengths.clip(20, 512)])


# The plan.


def test_the_tokens_before_a_step_are_those_of_its_documents() -> None:
    plan = EpochPlan.of(alpaca_like(50), TrainingOptions(batch_size=7, epochs=3), budget=600)
    counted = 0
    for number in range(plan.steps):
        assert plan.tokens_before(number) == counted
        counted += sum(len(plan.corpus[index]) for micro_batch in plan.step(number) for index in micro_batch)
    assert plan.tokens_before(plan.steps) == counted == 3 * int(plan.corpus.lengths.sum())


def test_each_epoch_is_planned_once_although_batches_are_prefetched(monkeypatch: pytest.MonkeyPatch) -> None:
    planned: list[int] = []
    original = finetune.data.plan.plan_epoch

    def count(*arguments: Any, **options: Any) -> Any:
        planned.append(options["epoch"])
        return original(*arguments, **options)

    monkeypatch.setattr(finetune.data.plan, "plan_epoch", count)
    plan = EpochPlan.of(alpaca_like(40), TrainingOptions(batch_size=4, epochs=5), budget=600)
    for number in range(plan.steps):
        plan.step(min(number + 4, plan.steps - 1))  # as the thread that prefetches does
        plan.loss_terms(number)
        plan.tokens_before(number + 1)
    assert planned == [0, 1, 2, 3, 4]


# Fixed shapes.


@given(st.lists(st.integers(1, 4000), min_size=1, max_size=60))
def test_every_micro_batch_fits_the_size_it_is_padded_to(tokens: list[int]) -> None:
    shapes = FixedShapes(choose_sizes(tokens), 64)
    assert len(shapes.sizes) <= 8
    assert all(shapes.pad_to(number) in shapes.sizes for number in tokens)
    for number in (*tokens, max(tokens) * 3):
        assert number <= shapes.pad_to(number)
        assert shapes.pad_to(number) % 256 == 0


@given(st.lists(st.integers(1, 12), min_size=1, max_size=12))
def test_no_other_sizes_leave_less_padding(multiples: list[int]) -> None:
    """Compared with all subsets of the candidates that have as many sizes."""
    from itertools import combinations

    tokens = [256 * multiple for multiple in multiples]
    chosen = choose_sizes(tokens)
    candidates = sorted(set(tokens))

    def padded(sizes: tuple[int, ...]) -> int:
        return sum(min(size for size in sizes if size >= number) for number in tokens)

    alternatives = [sizes for sizes in combinations(candidates, len(chosen)) if sizes[-1] == candidates[-1]]
    assert padded(chosen) == min(map(padded, alternatives))
    assert len(chosen) == 1 or min(
        padded(sizes) for sizes in combinations(candidates, len(chosen) - 1) if sizes[-1] == candidates[-1]
    ) > 1.02 * sum(tokens)


@pytest.mark.parametrize(
    ("options", "most"), [({"batch_size": 128}, 0.03), ({"batch_tokens": 65_536}, 0.02)]
)  # fmt: skip
def test_padding_is_a_small_share_of_real_lengths(options: dict[str, Any], most: float) -> None:
    """Multiples of an eighth of the budget would fill 12% of 32,768 tokens and 23% of 65,536."""
    plan = EpochPlan.of(alpaca_like(5000), TrainingOptions(**options), budget=65_536)
    shapes = FixedShapes.of(plan)
    micro_batches = [micro_batch for step in plan.epoch(0) for micro_batch in step]
    batches = [list(plan.corpus.lengths[list(micro_batch)]) for micro_batch in micro_batches]
    padded = sum(shapes.pad_to(sum(batch)) for batch in batches)
    assert padded / int(plan.corpus.lengths.sum()) - 1 < most
    collated = {
        (len(batch.input_ids), len(batch.packed.cu_seqlens))
        for batch in (
            collate(
                plan.corpus, micro_batch, max_seqlen=plan.max_seqlen, boundaries=shapes.boundaries,
                pad_to=shapes.pad_to(int(plan.corpus.lengths[list(micro_batch)].sum())),
            )
            for micro_batch in micro_batches
        )
    }  # fmt: skip
    assert len(collated) == len(shapes.sizes), "one shape for each size"


def test_padded_micro_batches_train_like_others() -> None:
    losses: list[list[float]] = []
    for padded in (False, True):
        torch.manual_seed(0)
        model = make_model(VOCABULARY)
        use_packed_attention(model, "sdpa")
        packed_lm = PackedCausalLM(model)
        options = TrainingOptions(batch_size=5, epochs=2, learning_rate=1e-2)
        plan = EpochPlan.of(alpaca_like(10), options, budget=400)
        lines: list[float] = []
        TrainingLoop(
            packed_lm, FlatAdamW(packed_lm.parameters(), options), plan,
            shapes=FixedShapes.of(plan) if padded else None,
            log=lambda _step, values, lines=lines: lines.append(values["loss"]),
        ).run()  # fmt: skip
        losses.append(lines)
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)


# Compilation.


def recorded(monkeypatch: pytest.MonkeyPatch, backend: Any = None) -> list[dict[str, Any]]:
    """Record the arguments of ``torch.compile``, and compile by ``backend`` if there is one."""
    calls: list[dict[str, Any]] = []
    original = torch.compile

    def compile_(function: Callable[..., Any], **options: Any) -> Any:
        calls.append(options)
        return original(function, backend=backend, dynamic=options.get("dynamic")) if backend else function

    monkeypatch.setattr(torch, "compile", compile_)
    return calls


def test_kernels_that_overwrite_their_arguments_are_not_timed_on_copies(monkeypatch: pytest.MonkeyPatch) -> None:
    """Inductor would keep copies of weights and moments, or of logits, in pinned memory while it times them."""
    assert torch._inductor.config.triton.autotune_pointwise, "the default, which is switched off"
    calls = recorded(monkeypatch)
    monkeypatch.setattr(finetune.model.loss, "find_spec", lambda _name: True)
    FlatAdamW([torch.nn.Parameter(torch.ones(2, 2))], TrainingOptions())._compile(lambda: None)
    finetune.model.loss._compiled.__wrapped__()
    assert [call["options"] for call in calls] == [{"triton.autotune_pointwise": False}] * 2


class Counting:
    """A backend that runs graphs as they are, and counts them."""

    def __init__(self) -> None:
        self.graphs = 0

    def __call__(self, graph: Any, _inputs: Any) -> Any:
        self.graphs += 1
        return graph.forward


@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor")  # Dynamo looks whether there is one
@pytest.mark.parametrize("lora", [None, Lora(rank=2)])
def test_layers_are_compiled_once_for_each_shape(monkeypatch: pytest.MonkeyPatch, lora: Lora | None) -> None:
    """Two layers, ten shapes: more than Dynamo's limit of 8, above which layers would run uncompiled."""
    backend = Counting()
    recorded(monkeypatch, backend)
    torch._dynamo.reset()
    model = make_model(VOCABULARY)
    packed_lm = PackedCausalLM(model if lora is None else add_adapters(model, lora))
    use_packed_attention(packed_lm.causal, "sdpa")
    with torch._dynamo.config.patch(recompile_limit=8):
        compile_layers(packed_lm, RuntimeSetup(CPU, torch.float32, "varlen", compile=True))
        for size in range(10, 20):
            for _ in range(2):
                packed_lm(collate(corpus([size]), (0,), max_seqlen=64), 1.0).backward()
    torch._dynamo.reset()
    assert backend.graphs == 10


def test_layers_that_depend_on_the_lengths_of_documents_are_not_compiled() -> None:
    assert not RuntimeSetup.of(TrainingOptions(), CPU).compile
    assert not RuntimeSetup.of(TrainingOptions(attention="sdpa"), CUDA).compile
    assert not RuntimeSetup.of(TrainingOptions(dtype="float32"), CUDA).compile
    assert not RuntimeSetup.of(TrainingOptions(packing=False), CUDA).compile
    with pytest.raises(UsageError, match=r"compile=true with attention=sdpa .*attention=varlen"):
        RuntimeSetup.of(TrainingOptions(compile=True, attention="sdpa"), CUDA)
    usual = RuntimeSetup.of(TrainingOptions(), CUDA)
    assert usual.compile
    assert usual.fixed_shapes


def grouped_attention(monkeypatch: pytest.MonkeyPatch, function: Any) -> Any:
    """Return variable-length attention over a stand-in for PyTorch's function."""
    import torch.nn.attention.varlen

    monkeypatch.setattr(torch.nn.attention.varlen, "varlen_attn", function)
    return finetune.model.attention._varlen_attention.__wrapped__()


@pytest.mark.parametrize("flag", [True, False])
def test_key_heads_reach_the_kernel_as_they_are(monkeypatch: pytest.MonkeyPatch, flag: bool) -> None:
    """PyTorch 2.12 has a flag for grouped heads, 2.11 has none; a compiled layer traces no Python around either."""
    heads: list[tuple[int, int]] = []

    def attend(q: Any, k: Any, v: Any, bounds: Any, scale: Any, window: Any) -> Any:
        assert window == (-1, 0)
        heads.append((q.shape[1], k.shape[1]))
        parts = [[tensor[a:b].transpose(0, 1) for tensor in (q, k, v)] for a, b in pairwise([0, 5, 8])]
        outputs = [scaled_dot_product_attention(*part, is_causal=True, scale=scale, enable_gqa=True) for part in parts]
        return torch.cat(outputs, 1).transpose(0, 1)

    def with_flag(
        q: Any, k: Any, v: Any, a: Any, b: Any, c: int, d: int, *,
        scale: Any, window_size: Any, enable_gqa: bool = False,
    ) -> Any:  # fmt: skip
        assert enable_gqa
        return attend(q, k, v, a, scale, window_size)

    def without(q: Any, k: Any, v: Any, a: Any, b: Any, c: int, d: int, *, scale: Any, window_size: Any) -> Any:
        return attend(q, k, v, a, scale, window_size)

    varlen = grouped_attention(monkeypatch, with_flag if flag else without)
    packed = collate(corpus([5, 3]), (0, 1), max_seqlen=5).packed
    module = torch.nn.Identity()
    torch.manual_seed(0)
    query, key, value = (torch.randn(1, count, 8, 16).bfloat16() for count in (4, 2, 2))
    compiled = torch.compile(varlen, backend="eager", fullgraph=True)
    expected, _ = finetune.model.attention._sdpa(module, query, key, value, packed=packed, scaling=0.25)
    for function in (varlen, compiled):
        output, _ = function(module, query, key, value, packed=packed, scaling=0.25)
        torch.testing.assert_close(output, expected, rtol=2e-2, atol=2e-2)
    assert heads[0] == (4, 2)


# The head.


@given(st.integers(0, 30_000), st.integers(1, 6000))
def test_chunks_cover_all_rows_in_about_equal_parts(count: int, rows: int) -> None:
    chunks = list(finetune.model.loss._chunks(count, rows))
    assert [row for chunk in chunks for row in (chunk.start, chunk.stop)] == [
        bound for pair in pairwise([0, *(chunk.stop for chunk in chunks)]) for bound in pair
    ]
    assert (chunks[-1].stop if chunks else 0) == count
    sizes = [chunk.stop - chunk.start for chunk in chunks]
    assert all(0 < size <= rows for size in sizes)
    if rows >= 256:
        assert all(size % 256 == 0 for size in sizes[:-1])
        assert max(sizes, default=0) - min(sizes, default=0) < 512


def test_no_chunk_has_a_single_row() -> None:
    """16,384 rows of SmolLM2 were three chunks of 5,461 rows and one of one row."""
    rows = (512 << 20) // (49_152 * 2)
    assert [chunk.stop - chunk.start for chunk in finetune.model.loss._chunks(16_384, rows)] == [4096] * 4


def test_chunks_grow_with_the_memory_of_a_gpu() -> None:
    assert [chunk_bytes(memory) >> 20 for memory in (None, 24 << 30, 80 << 30, H200)] == [512, 512, 1280, 2048]


def test_a_promise_not_to_scale_the_loss_is_kept() -> None:
    torch.manual_seed(0)
    hidden, weight, labels = torch.randn(6, 8), torch.randn(20, 8), torch.randint(0, 20, (6,))
    gradients = []
    for unscaled in (False, True):
        inputs = [tensor.clone().requires_grad_() for tensor in (hidden, weight)]
        linear_cross_entropy(*inputs, labels, unscaled=unscaled).backward()
        gradients.append([tensor.grad for tensor in inputs])
    assert all(torch.equal(*pair) for pair in zip(*gradients, strict=True))
    with pytest.raises(RuntimeError, match="unscaled=True promised otherwise"):
        (linear_cross_entropy(hidden.requires_grad_(), weight, labels, unscaled=True) * 2).backward()


# Adapters.


class Products(TorchDispatchMode):
    """Records the dtypes of the operands of all matrix products."""

    def __init__(self) -> None:
        super().__init__()
        self.dtypes: list[set[torch.dtype]] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func.__name__.split(".")[0] in ("mm", "addmm", "bmm", "matmul"):
            self.dtypes.append({leaf.dtype for leaf in tree_leaves(args) if isinstance(leaf, torch.Tensor)})
        return func(*args, **(kwargs or {}))


def with_adapters(dtype: torch.dtype, dropout: float = 0.0) -> Any:
    torch.manual_seed(0)
    model = add_adapters(make_model(VOCABULARY).to(dtype), Lora(rank=4, dropout=dropout))
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.05)
    return model


IDS = torch.arange(24)[None] + 5


def test_adapters_multiply_in_the_dtype_of_the_activations() -> None:
    """In bfloat16, no product is in float32; gradients are, and both are close to a float32 model's."""
    exact, half = with_adapters(torch.float32), with_adapters(torch.bfloat16)
    exact(IDS, labels=IDS).loss.backward()
    decoder = half.get_base_model().model
    with Products() as products:
        decoder(IDS, use_cache=False).last_hidden_state.float().square().sum().backward()
    rotary = 1  # positions times frequencies, which need the bits
    assert len(products.dtypes) > 80
    assert sum(torch.float32 in dtypes for dtypes in products.dtypes) <= rotary
    half.zero_grad()
    half(IDS, labels=IDS).loss.backward()
    for (name, parameter), reference in zip(half.named_parameters(), exact.parameters(), strict=True):
        if parameter.requires_grad:
            assert parameter.dtype == parameter.grad.dtype == torch.float32
            error = (parameter.grad - reference.grad).norm() / reference.grad.norm()
            assert error < 0.08, (name, error)


def test_adapters_in_float32_compute_as_in_peft() -> None:
    from peft.tuners.lora import Linear

    ours = with_adapters(torch.float32, dropout=0.5).train()
    theirs = copy.deepcopy(ours)
    for layer in theirs.modules():
        if isinstance(layer, Linear):
            layer.__class__ = Linear
    outputs = []
    for model in (ours, theirs):
        torch.manual_seed(1)
        outputs.append(model(IDS).logits)
    assert torch.equal(*outputs)


# Memory.


def llama_8b(**options: Any) -> LlamaConfig:
    return LlamaConfig(
        vocab_size=128_256, hidden_size=4096, intermediate_size=14_336, num_hidden_layers=32, num_attention_heads=32,
        num_key_value_heads=8, tie_word_embeddings=False, **options,
    )  # fmt: skip


def estimate_on_h200(monkeypatch: pytest.MonkeyPatch, config: Any, count: int, **options: Any) -> CostEstimate:
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda _device: "NVIDIA H200")
    monkeypatch.setattr(finetune.training.estimate, "total_memory", lambda _device: H200)
    settings = TrainingOptions(**options)
    return CostEstimate.of(config, corpus([512] * count), settings, RuntimeSetup.of(settings, CUDA))


def test_a_smaller_micro_batch_is_chosen_before_activations_are_recomputed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Recomputing an 8B model would cost a third more arithmetic; a quarter of the micro-batch costs little."""
    full = estimate_on_h200(monkeypatch, llama_8b(), 64, batch_size=64)
    assert full.fits
    assert not full.recompute
    assert full.budget >= 4096
    adapters = estimate_on_h200(monkeypatch, llama_8b(), 64, batch_size=64, lora=Lora())
    assert not adapters.recompute
    assert adapters.budget > full.budget
    small = Qwen3Config(
        vocab_size=151_936, hidden_size=1024, intermediate_size=3072, num_hidden_layers=28, num_attention_heads=16,
        num_key_value_heads=8, head_dim=128, tie_word_embeddings=True,
    )  # fmt: skip
    largest = estimate_on_h200(monkeypatch, small, 128)
    assert (largest.budget, largest.recompute) == (65_536, False)


def test_recomputation_is_the_last_resort(monkeypatch: pytest.MonkeyPatch) -> None:
    documents, options = corpus([400] * 8), TrainingOptions(batch_size=8)
    footprint = measure_footprint(make_model(VOCABULARY, num_hidden_layers=8).config, dtype=torch.float32)
    monkeypatch.setattr(finetune.training.estimate, "measure_footprint", lambda *_arguments, **_options: footprint)
    chosen = []
    for memory in (1 << 30, *(size << 20 for size in range(40, 4, -1))):
        monkeypatch.setattr(finetune.training.estimate, "total_memory", lambda _device, memory=memory: memory)
        estimate = CostEstimate.of(None, documents, options, RuntimeSetup.of(options, CPU))
        chosen.append((estimate.budget, estimate.recompute))
    order = list(dict.fromkeys(chosen))
    assert order == [(2048, False), (1024, False), (512, False), (2048, True), (1024, True), (512, True)]


@pytest.mark.parametrize("recompute", [True, False])
def test_settings_that_are_given_are_kept(monkeypatch: pytest.MonkeyPatch, recompute: bool) -> None:
    monkeypatch.setattr(finetune.training.estimate, "total_memory", lambda _device: 1 << 20)
    options = TrainingOptions(micro_batch_tokens=777, recompute=recompute)
    config = make_model(VOCABULARY, hidden_size=256).config
    estimate = CostEstimate.of(config, corpus([20] * 8), options, RuntimeSetup.of(options, CPU))
    assert (estimate.budget, estimate.recompute, estimate.fits) == (777, recompute, False)


@pytest.mark.parametrize("piece", [64, 1 << 20])
def test_a_file_of_tensors_is_read_by_safetensors(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, piece: int) -> None:
    monkeypatch.setattr("finetune.training.tensor_file._PIECE", piece)
    torch.manual_seed(0)
    tensors = {
        "float32": torch.randn(7, 11), "bfloat16": torch.randn(33).bfloat16(), "float16": torch.randn(3).half(),
        "float64": torch.randn(2, 2, 2).double(), "int16": torch.arange(-5, 5, dtype=torch.int16),
        "uint8": torch.arange(9, dtype=torch.uint8), "bool": torch.tensor([True, False]), "int64": torch.tensor(-3),
        "transposed": torch.randn(4, 6).T, "parameter": torch.nn.Parameter(torch.randn(5)), "empty": torch.zeros(0, 3),
        "ü": torch.ones(1, dtype=torch.int32), "int8": torch.ones(3, dtype=torch.int8),
    }  # fmt: skip
    write_tensors(tmp_path / "x.safetensors", tensors)
    again = load_file(tmp_path / "x.safetensors")
    assert again.keys() == tensors.keys()
    for name, tensor in tensors.items():
        assert again[name].dtype == tensor.dtype
        assert torch.equal(again[name], tensor), name


def test_a_disk_without_room_for_checkpoints_is_named(tmp_path: Path) -> None:
    assert describe_shortage(tmp_path / "not" / "yet", 1, keep=2) is None
    message = describe_shortage(tmp_path / "not" / "yet", 1 << 60, keep=2)
    assert message is not None
    assert message.startswith(f"{tmp_path}: ")
    assert "up to 3 checkpoints take 1073741824.0 GiB each" in message
    assert "checkpoint_every=0" in message


def test_the_memory_of_a_gpu_is_allocated_in_growing_segments(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTORCH_ALLOC_CONF", "")  # so that it is restored
    monkeypatch.delenv("PYTORCH_ALLOC_CONF")
    with process_group():
        assert os.environ["PYTORCH_ALLOC_CONF"] == "expandable_segments:True"
    monkeypatch.setenv("PYTORCH_ALLOC_CONF", "backend:native")
    with process_group():
        assert os.environ["PYTORCH_ALLOC_CONF"] == "backend:native", "a user's choice"


# Eight bits.


def test_products_in_8_bits_are_close_to_those_in_16() -> None:
    torch.manual_seed(0)
    exact = torch.nn.Linear(64, 48)
    rows = torch.randn(2, 16, 64)
    results = []
    for kind in (torch.nn.Linear, Float8Linear):
        layer = copy.deepcopy(exact).bfloat16()
        layer.__class__ = kind
        inputs = rows.bfloat16().requires_grad_()
        layer(inputs).square().sum().backward()
        results.append([layer(inputs), inputs.grad, layer.weight.grad, layer.bias.grad])
    for usual, rounded in zip(*results, strict=True):
        error = (usual.float() - rounded.float()).norm() / usual.float().norm()
        assert 1e-4 < error < 0.06, "close, and not the same"
    with torch.no_grad():
        layer = copy.deepcopy(exact).bfloat16()
        usual = layer(rows.bfloat16())
        layer.__class__ = Float8Linear
        assert torch.equal(layer(rows.bfloat16()), usual), "without gradients, as the saved model computes"


def test_adapters_and_the_head_are_not_rounded_to_8_bits() -> None:
    model = with_adapters(torch.bfloat16).get_base_model()
    assert use_float8(model.model.layers) == 2 * 7
    kinds = {name: type(layer) for name, layer in model.named_modules() if isinstance(layer, torch.nn.Linear)}
    assert {kind is Float8Linear for name, kind in kinds.items() if name.endswith("base_layer")} == {True}
    assert not any(kind is Float8Linear for name, kind in kinds.items() if "lora_" in name or name == "lm_head")


def test_a_model_trains_in_8_bits_about_as_in_16() -> None:
    curves = {}
    for fp8 in (False, True):
        torch.manual_seed(0)
        options = TrainingOptions(fp8=fp8, dtype="bfloat16", batch_size=8, epochs=12, learning_rate=1e-2)
        setup, world = RuntimeSetup.of(options, CPU), World(CPU)
        packed_lm = prepare(make_model(VOCABULARY).to(setup.dtype), setup, world, recompute=False)
        plan = EpochPlan.of(corpus([24] * 8), options, budget=512)
        losses: list[float] = []
        TrainingLoop(
            packed_lm, FlatAdamW(packed_lm.parameters(), options), plan, world,
            log=lambda _step, values, losses=losses: losses.append(values["loss"]),
            shapes=FixedShapes.of(plan) if setup.fixed_shapes else None,
        ).run()  # fmt: skip
        curves[fp8] = losses
    assert curves[True] != curves[False]
    assert curves[True][-1] < 0.5 * curves[True][0]
    assert curves[True] == pytest.approx(curves[False], rel=0.1)


@pytest.mark.parametrize(
    ("options", "message"),
    [({"fp8": True}, "needs a model in bfloat16"), ({"fp8": True, "packing": False}, "needs packing=true")],
)
def test_fp8_is_refused_where_it_can_not_work(options: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        RuntimeSetup.of(TrainingOptions(**options), CPU)


def test_a_model_without_a_layer_for_8_bits_is_refused() -> None:
    with pytest.raises(UsageError, match="multiples of 16"):
        use_float8(torch.nn.Sequential(torch.nn.Linear(8, 16)))
