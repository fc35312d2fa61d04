"""Models of every kind: the embedded one, GGUF files, folders and hub names; and saving what came out."""

from __future__ import annotations

import hashlib
import importlib
import logging as stdlib_logging
import tempfile
import warnings
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoTokenizer,
    PreTrainedTokenizerFast,
    modeling_gguf_pytorch_utils,
)
from transformers.utils import logging
from transformers.utils.hub import cached_file

from finetune.model.pretokenizers import by_name
from finetune.model.rotary import SCALES, read_scales
from finetune.options import Lora
from selfinstruct.common import embedded, gguf
from selfinstruct.common.files import write_folder
from selfinstruct.errors import MissingExtraError, RunChangedError, SelfInstructError, UsageError

__all__ = ["EMBEDDED", "Base", "Loaded", "load", "load_adapted", "load_config", "load_tokenizer", "save"]

EMBEDDED = "embedded"


@dataclass(frozen=True)
class Base:
    """The model that a run begins with.

    Attributes:
        name: As it was asked for.
        digest: SHA-256 of its weights.
    """

    name: str
    digest: str


@dataclass(frozen=True)
class Loaded:
    """A model and its tokenizer, as transformers has them (the model within adapters of peft, if there are any)."""

    model: Any
    tokenizer: Any
    base: Base


def load(
    name: str | None, *, dtype: torch.dtype, device: torch.device | str = "cpu", lora: Lora | None = None
) -> Loaded:
    """Load a causal language model.

    Args:
        name: None or ``embedded``, a .gguf file (its weights are taken out of their quantisation), a folder or a hub
            name with safetensors. Nothing is unpickled, and no code of a model's own is run.
        dtype: Of the weights.
        lora: Put adapters around it, and freeze the rest.

    Raises:
        UsageError: There is no such model, it is of a kind that can't be loaded, or weights are missing in its files.
        MissingExtraError: A package that this model needs is not installed.
    """
    if lora is not None and lora.base == "nf4":
        model = _in_four_bits(name, dtype, device)
    else:
        model = _whole(name, dtype).to(device)
    base = Base(name or EMBEDDED, _digest(name))
    if lora is not None:
        from finetune.model.adapters import attach

        model = attach(model, lora)
    return Loaded(model, load_tokenizer(name), base)


def load_adapted(
    folder: Path,
    *,
    dtype: torch.dtype,
    device: torch.device | str = "cpu",
    base: str | None = None,
    whole: bool = False,
) -> Loaded:
    """Adapters that were trained here, beside the model that they were trained beside.

    Args:
        base: Where that model lies now, if not where it lay.
        whole: Hold it in ``dtype``, though it was held in 4 bits.

    Raises:
        UsageError: There are no adapters in ``folder``; as ``load``.
        RunChangedError: The model has other weights than those recorded.
        MissingExtraError: As ``load``.
    """
    from finetune.model.adapters import apply, recorded

    known = recorded(folder)
    name = base or known["name"]
    _source(name)
    with _explained(name):
        digest = _digest(name)
    if digest != known["digest"]:
        raise RunChangedError(
            f"{name} does not have the weights that {folder} was trained beside; name the folder that has with --base"
        )
    if known["held"] == "nf4" and not whole:
        model = _in_four_bits(name, dtype, device)
    else:
        model = _whole(name, dtype).to(device)
    return Loaded(apply(model, folder), load_tokenizer(name), Base(name, digest))


def load_tokenizer(name: str | None) -> Any:
    """The tokenizer of a model.

    Raises:
        UsageError: As ``load``, or a GGUF file cuts text in a way that is not known.
    """
    where, options = _source(name)
    with _quiet(), _explained(name):
        if not options:
            return AutoTokenizer.from_pretrained(where, trust_remote_code=False)
        # AutoTokenizer would come to the same, after seconds of reading the header in its own way.
        tokenizer = PreTrainedTokenizerFast.from_pretrained(where, **options)
    _cut_as_told(tokenizer.backend_tokenizer, Path(where) / options["gguf_file"])
    return tokenizer


def _cut_as_told(backend: Any, path: Path) -> None:
    """Make a tokenizer cut text as its GGUF file tells: transformers knows some of the ways, and takes GPT-2's else."""
    told = gguf.check(path).texts
    if told.get("tokenizer.ggml.model") != "gpt2":
        return  # no byte-level one: there is nothing to cut
    name = told.get("tokenizer.ggml.pre", "")
    if (known := by_name(name)) is not None:
        backend.pre_tokenizer, backend.model.ignore_merges = known
    elif name not in _known_to_transformers():
        raise UsageError(
            f"{path}: its tokenizer cuts text in a way called {name!r}, which is not known here; give the model as a "
            "folder of transformers"
        )


def _known_to_transformers() -> Mapping[str, str]:
    try:
        from transformers.integrations.gguf.gguf_tokenizer_mapping import GGUF_PRE_TOKENIZER_SPLITS
    except ImportError:  # transformers before 5.20
        return {}
    return GGUF_PRE_TOKENIZER_SPLITS


def load_config(name: str | None) -> Any:
    """The configuration of a model: its shape.

    Raises:
        UsageError: As ``load``.
    """
    where, options = _source(name)
    with _quiet(), _explained(name):
        return AutoConfig.from_pretrained(where, trust_remote_code=False, **options, **_told_by_tensors(where, options))


def save(
    model: Any, tokenizer: Any, folder: Path,
    *, state: Mapping[str, torch.Tensor] | None = None, extra: Mapping[str, bytes] | None = None,
) -> None:  # fmt: skip
    """Write a checkpoint that ``AutoModelForCausalLM.from_pretrained`` loads: safetensors, configuration, tokenizer.

    ``folder`` appears in one step, when all is on disk.

    Args:
        state: The weights, where the model does not hold them whole (``finetune.training.distributed.gathered``).
        extra: More files, by name.

    Raises:
        UsageError: There is something at ``folder`` already.
        SelfInstructError: It can't be written.
    """
    model.config.name_or_path = ""  # a path of this machine tells nobody else anything
    settings = model.generation_config
    if settings is not None and not settings.do_sample:
        with _quiet():
            try:
                settings.validate(strict=True)
            except (
                ValueError
            ):  # a temperature without sampling: published models have that, and transformers won't save it
                settings.do_sample = True
    with write_folder(folder) as part, _quiet():
        try:
            model.save_pretrained(part, state_dict=_untied(model, state))
        except SafetensorError as error:
            raise SelfInstructError(f"can't write {folder}: {error}") from None
        tokenizer.save_pretrained(part)
        for name, content in (extra or {}).items():
            (part / name).write_bytes(content)


def _untied(model: Any, state: Mapping[str, torch.Tensor] | None) -> dict[str, torch.Tensor] | None:
    """Without the second names of tied weights, which a gathered state holds as copies."""
    if state is None:
        return None
    tied = model.all_tied_weights_keys
    return {name: tensor for name, tensor in state.items() if name not in tied}


def _source(name: str | None) -> tuple[str, dict[str, Any]]:
    """What ``from_pretrained`` wants."""
    if name is None or name == EMBEDDED:
        path = embedded.path()
    elif name.endswith(".gguf"):
        path = Path(name)
        gguf.check(path)
    else:
        folder = Path(name)
        if (folder / "adapter_config.json").is_file() and not (folder / "config.json").is_file():
            raise UsageError(f"{name}: adapters, and no model; finetune merge {name} -o FOLDER makes one of them")
        if folder.exists() and not (folder / "config.json").is_file():
            raise UsageError(
                f"{name}: no config.json in it; give the folder of a model of transformers, or a .gguf file"
            )
        return name, {}
    try:
        for needed in ("accelerate", "gguf"):  # by transformers, to read GGUF
            importlib.import_module(needed)
    except ImportError as error:
        raise MissingExtraError(str(error.name), "train") from None
    return str(path.parent), {"gguf_file": path.name}


def _told_by_tensors(where: str, options: Mapping[str, Any]) -> dict[str, Any]:
    """What only the presence of some tensors tells of a GGUF file's model; transformers would leave them out.

    Raises:
        UsageError: Its rotary positions are scaled in a way that is not known here.
    """
    if "gguf_file" not in options:
        return {}
    path = Path(where) / options["gguf_file"]
    header = gguf.check(path)
    found: dict[str, Any] = {}
    if header.texts.get("general.architecture") == "llama":
        # Of other architectures, the configuration itself says whether there are any.
        biases = {"attention_bias": "blk.0.attn_q.bias", "mlp_bias": "blk.0.ffn_up.bias"}
        found = {key: True for key, tensor in biases.items() if tensor in header.tensors}
    if SCALES in header.tensors:
        found["rope_parameters"] = read_scales(path)
    return found


def _whole(name: str | None, dtype: torch.dtype) -> Any:
    where, options = _source(name)
    if not options:
        return _pretrained(name, where, dtype, {})
    with _reading_gguf():
        return _plain(_pretrained(name, where, dtype, options), dtype)


def _in_four_bits(name: str | None, dtype: torch.dtype, device: torch.device | str) -> Any:
    """The frozen base of QLoRA: linear layers but the head in NF4, the rest in ``dtype``.

    Raises:
        MissingExtraError: bitsandbytes is not installed.
        UsageError: As ``load``.
    """
    from finetune.model.adapters import nf4

    options = {**nf4(dtype), "device_map": {"": str(device)}}
    where, of_gguf = _source(name)
    with ExitStack() as stack:
        if of_gguf:  # transformers quantises only what it reads from safetensors
            where = stack.enter_context(tempfile.TemporaryDirectory())
            save(_whole(name, dtype), load_tokenizer(name), Path(where))
        model = _pretrained(name, where, dtype, options)
    for layer in model.modules():
        if hasattr(layer, "support_avx512bf16_for_cpu"):
            # Where a CPU has such instructions, evaluating would repack the weights for them, and compute in bfloat16:
            # the same run would give other figures on another machine.
            layer.support_avx512bf16_for_cpu = False
    return model


def _pretrained(name: str | None, where: str, dtype: torch.dtype, options: dict[str, Any]) -> Any:
    with _quiet(), _explained(name):
        auto: Any = AutoModelForCausalLM
        model, found = auto.from_pretrained(
            where, dtype=dtype, attn_implementation="sdpa", use_safetensors=True, trust_remote_code=False,
            output_loading_info=True, **options, **_told_by_tensors(where, options),
        )  # fmt: skip
    if missing := sorted(found["missing_keys"]):  # transformers would go on with random ones
        raise UsageError(f"{name}: {len(missing)} of its weights are not there, such as {missing[0]}: fetch it again")
    return model


def _plain(loaded: Any, dtype: torch.dtype) -> Any:
    """The same weights in a model that knows nothing of GGUF: one with that record can't be saved."""
    known = {key: value for key, value in loaded.config.to_dict().items() if not key.startswith("_")}
    config = AutoConfig.for_model(**{**known, "quantization_config": None})
    del config.quantization_config
    state = loaded.state_dict()
    with torch.device("meta"):
        auto: Any = AutoModelForCausalLM
        model = auto.from_config(config, dtype=dtype, attn_implementation="sdpa")
    model.load_state_dict(state, assign=True)
    model.tie_weights()
    for name, buffer in loaded.named_buffers():  # those that no state dict holds, such as rotary frequencies
        owner, _, last = name.rpartition(".")
        setattr(model.get_submodule(owner), last, buffer)
    model.generation_config = loaded.generation_config
    for parameter in model.parameters():
        parameter.requires_grad_(True)
    return model


def _digest(name: str | None) -> str:
    """SHA-256 of the weights' file, or, where there are several, of their digests in the order of their names."""
    if name is None or name == EMBEDDED:
        return embedded.SHA256
    path = Path(name)
    if not path.exists():  # a hub name: the folder where its files were put
        path = Path(str(cached_file(name, "config.json"))).parent
    files = [path] if path.is_file() else sorted(path.glob("model*.safetensors")) or sorted(path.glob("*.safetensors"))
    digests = []
    for file in files:
        with file.open("rb") as opened:
            digests.append(hashlib.file_digest(opened, "sha256").hexdigest())
    return digests[0] if len(digests) == 1 else hashlib.sha256("".join(digests).encode()).hexdigest()


@contextmanager
def _quiet() -> Iterator[None]:
    """Without the bars and notes of transformers, and the hub's, one for each time that it asked in vain."""
    hub = stdlib_logging.getLogger("huggingface_hub")
    level = hub.level
    hub.setLevel(stdlib_logging.ERROR)
    before, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()  # type: ignore[no-untyped-call]
    logging.disable_progress_bar()  # type: ignore[no-untyped-call]
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        hub.setLevel(level)
        logging.set_verbosity(before)
        if bars:
            logging.enable_progress_bar()  # type: ignore[no-untyped-call]


@contextmanager
def _reading_gguf() -> Iterator[None]:
    """Without the one bar that doesn't ask whether bars are wanted; and a table of names that is made once.

    transformers makes that table anew for each of a model's modules, which takes longer than reading the weights.
    """
    package: Any = importlib.import_module("gguf")
    reading: Any = modeling_gguf_pytorch_utils
    bar, table = reading.tqdm, package.get_tensor_name_map
    reading.tqdm, package.get_tensor_name_map = (lambda items, **_: items), cache(table)
    try:
        yield
    finally:
        reading.tqdm, package.get_tensor_name_map = bar, table


@contextmanager
def _explained(name: str | None) -> Iterator[None]:
    try:
        yield
    except (OSError, ValueError, KeyError, SafetensorError) as error:
        what = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise UsageError(
            f"can't load the model {name or EMBEDDED!r}: {what}; give a folder of transformers with safetensors, a "
            ".gguf file, or a hub name (which needs a network)"
        ) from None
