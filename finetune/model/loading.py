"""Loading of causal language models: the embedded one, GGUF files, folders, hub names."""

from __future__ import annotations

import hashlib
import importlib
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from transformers import AutoConfig, PreTrainedTokenizerFast
from transformers.utils.hub import cached_file

from finetune.model.adapters import BASE, add_adapters, load_adapters, nf4_config, read_base_record
from finetune.model.anatomy import auto_class, freeze_other_modalities, has_other_modalities
from finetune.model.gguf_reading import as_plain_model, config_overrides, patched_reader, set_pre_tokenizer
from finetune.model.limits import correct_tied_head
from finetune.model.quiet import quiet
from finetune.model.saving import quantization_method, save
from finetune.model.stopping import adopt_stop_tokens
from finetune.model.tokenizer_files import read_tokenizer
from finetune.options import Lora
from selfinstruct.common import embedded, gguf
from selfinstruct.errors import MissingExtraError, RunChangedError, UsageError

__all__ = [
    "EMBEDDED", "Base", "Loaded", "load", "load_adapted", "load_config", "load_model", "load_tokenizer",
]  # fmt: skip

EMBEDDED = "embedded"


@dataclass(frozen=True)
class Base:
    """The model that a run starts from.

    Attributes:
        name: Its name as the user wrote it.
        digest: SHA-256 of its weights.
    """

    name: str
    digest: str


@dataclass(frozen=True)
class Loaded:
    """A loaded model.

    Attributes:
        model: The model of transformers, wrapped by peft if it has adapters.
        tokenizer: The tokenizer of transformers.
        base: The model that the weights, or the adapters, come from.
        extra: Files of its folder that are saved unchanged, by name: how it processes images and sound.
    """

    model: Any
    tokenizer: Any
    base: Base
    extra: Mapping[str, bytes] = field(default_factory=dict)


def load_model(name: str | Path | None = None, *, base: str | None = None) -> Loaded:
    """Load a model for inference: bfloat16 on a GPU, else float32 on the CPU.

    Args:
        name: A model as ``load`` accepts it, the directory of a training run, or a folder of adapters trained here.
        base: Current location of the adapters' base model, if it has moved.

    Raises:
        UsageError: There is no such model, or it can't be loaded.
        RunChangedError: The adapters were trained on other weights than the base model has now.
        MissingExtraError: A package that this model needs is not installed.
    """
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    dtype = torch.bfloat16 if device.type == "cuda" else torch.float32
    if name is not None and (Path(name) / BASE).is_file():
        return load_adapted(Path(name), dtype=dtype, device=device, base=base)
    loaded = load(None if name is None else str(name), dtype=dtype, device=device)
    loaded.model.eval()
    return loaded


def load(
    name: str | None, *, dtype: torch.dtype, device: torch.device | str = "cpu", lora: Lora | None = None
) -> Loaded:
    """Load a causal language model for training.

    Args:
        name: None or ``embedded``; a .gguf file (its weights are dequantized); or a folder or hub name with
            safetensors. Nothing is unpickled, and no custom code of a model is run.
        dtype: Precision of the weights.
        lora: Add adapters and freeze the other weights.

    Raises:
        UsageError: There is no such model, its kind can't be loaded, or its files lack some weights.
        MissingExtraError: A package that this model needs is not installed.
    """
    if lora is not None and lora.base == "nf4":
        model = _load_4bit(name, dtype, device)
    else:
        model = _load_weights(name, dtype).to(device)
    base = Base(name or EMBEDDED, _digest(name))
    if lora is not None:
        model = add_adapters(model, lora)
    else:
        freeze_other_modalities(model)
    return Loaded(model, load_tokenizer(name), base, _processor_files(model, name))


def load_adapted(
    folder: Path,
    *,
    dtype: torch.dtype,
    device: torch.device | str = "cpu",
    base: str | None = None,
    dequantize: bool = False,
) -> Loaded:
    """Load adapters that were trained here together with their base model.

    Args:
        base: Current location of the base model, if it has moved.
        dequantize: Load the base model in ``dtype`` even if the adapters were trained on its 4-bit weights.

    Raises:
        UsageError: There are no adapters in ``folder``; or as ``load``.
        RunChangedError: The base model's weights differ from the recorded ones.
        MissingExtraError: As ``load``.
    """
    record = read_base_record(folder)
    name = base or record["name"]
    _source(name)
    with _explain_errors(name):
        digest = _digest(name)
    if digest != record["digest"]:
        raise RunChangedError(
            f"{name} does not have the weights that {folder} was trained on; name the folder that has with --base"
        )
    if record["held"] == "nf4" and not dequantize:
        model = _load_4bit(name, dtype, device)
    else:
        model = _load_weights(name, dtype).to(device)
        if dequantize and quantization_method(model.config) is not None:
            model = as_plain_model(model.dequantize(), dtype)
    tokenizer = load_tokenizer(name)
    adopt_stop_tokens(model, tokenizer, folder)
    adapted = load_adapters(model, folder)
    return Loaded(adapted, tokenizer, Base(name, digest), _processor_files(model, name))


def load_tokenizer(name: str | None) -> Any:
    """Load the tokenizer of a model.

    Raises:
        UsageError: As ``load``; or the pre-tokenizer of a GGUF file is unknown.
    """
    where, options = _source(name)
    with quiet(), _explain_errors(name):
        # Of a GGUF file, AutoTokenizer gives the same result, after seconds of parsing the header on its own.
        tokenizer = PreTrainedTokenizerFast.from_pretrained(where, **options) if options else read_tokenizer(where)
    if options:
        set_pre_tokenizer(tokenizer.backend_tokenizer, Path(where) / options["gguf_file"])
    tokenizer.init_kwargs.pop("local_files_only", None)  # comes from HF_HUB_OFFLINE, and would be saved with the model
    return tokenizer


def load_config(name: str | None) -> Any:
    """Load the configuration of a model, without its weights.

    Raises:
        UsageError: As ``load``.
    """
    where, options = _source(name)
    with quiet(), _explain_errors(name), patched_reader() if options else nullcontext():
        overrides = _overrides(where, options)
        return AutoConfig.from_pretrained(where, trust_remote_code=False, **options, **overrides)


def _source(name: str | None) -> tuple[str, dict[str, Any]]:
    """Return the first argument of ``from_pretrained``, and the keyword arguments that a GGUF file needs."""
    if name is None or name == EMBEDDED:
        path = embedded.path()
    elif name.endswith(".gguf"):
        path = Path(name)
        gguf.check(path)
    else:
        folder = Path(name)
        if (folder / "adapter_config.json").is_file() and not (folder / "config.json").is_file():
            raise UsageError(f"{name}: adapters without a model; merge them first: finetune merge {name} -o FOLDER")
        if folder.exists() and not (folder / "config.json").is_file():
            raise UsageError(
                f"{name}: no config.json in it; give the folder of a model of transformers, or a .gguf file"
            )
        return name, {}
    try:
        for package in ("accelerate", "gguf"):  # transformers needs them to read GGUF
            importlib.import_module(package)
    except ImportError as error:
        raise MissingExtraError(str(error.name), "train") from None
    return str(path.parent), {"gguf_file": path.name}


def _overrides(where: str, options: Mapping[str, Any]) -> dict[str, Any]:
    return config_overrides(Path(where) / options["gguf_file"]) if "gguf_file" in options else {}


def _load_weights(name: str | None, dtype: torch.dtype) -> Any:
    where, options = _source(name)
    if not options:
        return _from_pretrained(name, where, dtype, {})
    with patched_reader():
        return as_plain_model(_from_pretrained(name, where, dtype, options), dtype)


def _load_4bit(name: str | None, dtype: torch.dtype, device: torch.device | str) -> Any:
    """Load the frozen base of QLoRA: linear layers except the head in NF4, the rest in ``dtype``.

    Raises:
        MissingExtraError: bitsandbytes is not installed.
        UsageError: As ``load``.
    """
    options = {**nf4_config(dtype), "device_map": {"": str(device)}}
    where, gguf_options = _source(name)
    with ExitStack() as stack:
        if gguf_options:  # transformers quantizes only what it reads from safetensors
            where = stack.enter_context(tempfile.TemporaryDirectory())
            save(_load_weights(name, dtype), load_tokenizer(name), Path(where))
        return _from_pretrained(name, where, dtype, options)


def _from_pretrained(name: str | None, where: str, dtype: torch.dtype, options: dict[str, Any]) -> Any:
    overrides = _overrides(where, options)
    with quiet(), _explain_errors(name):
        gguf_file = {key: options[key] for key in ("gguf_file",) if key in options}
        config = AutoConfig.from_pretrained(where, trust_remote_code=False, **gguf_file, **overrides)
        # The attention is the default of the architecture: sdpa if it has that, else eager.
        model, info = auto_class(config).from_pretrained(
            where, dtype=dtype, use_safetensors=True, trust_remote_code=False, output_loading_info=True,
            **options, **overrides,
        )  # fmt: skip
    if "score.weight" in info["unexpected_keys"]:
        raise UsageError(f"{name}: a reward model, which scores texts and writes none (finetune reward)")
    if missing := sorted(info["missing_keys"]):  # transformers would initialise them at random
        raise UsageError(f"{name}: {len(missing)} of its weights are missing, such as {missing[0]}: fetch it again")
    correct_tied_head(model)
    _keep_4bit_layout(model)
    return model


def _keep_4bit_layout(model: Any) -> None:
    """Prevent bitsandbytes from repacking the weights of 4-bit layers for CPUs with AVX-512 BF16.

    It does so in the first evaluation. The layers then compute in bfloat16, so that the same run has other losses on
    another machine, and without the package ``kernels`` they pass no gradient on.
    """
    for layer in model.modules():
        if hasattr(layer, "support_avx512bf16_for_cpu"):
            layer.support_avx512bf16_for_cpu = False


def _processor_files(model: Any, name: str | None) -> dict[str, bytes]:
    """Return the files that describe how a model with other modalities processes its inputs."""
    if name is None or not has_other_modalities(model.config):
        return {}
    with quiet():
        paths = {
            file: cached_file(name, file, _raise_exceptions_for_missing_entries=False)
            for file in ("preprocessor_config.json", "processor_config.json", "video_preprocessor_config.json")
        }
    return {file: Path(path).read_bytes() for file, path in paths.items() if path}


def _digest(name: str | None) -> str:
    """Return the SHA-256 of the weights file; for several files, the SHA-256 of their digests, sorted by name."""
    if name is None or name == EMBEDDED:
        return embedded.SHA256
    path = Path(name)
    if not path.exists():  # a hub name: use the folder of the cache
        path = Path(str(cached_file(name, "config.json"))).parent
    files = [path] if path.is_file() else sorted(path.glob("model*.safetensors")) or sorted(path.glob("*.safetensors"))
    digests = []
    for file in files:
        with file.open("rb") as opened:
            digests.append(hashlib.file_digest(opened, "sha256").hexdigest())
    return digests[0] if len(digests) == 1 else hashlib.sha256("".join(digests).encode()).hexdigest()


@contextmanager
def _explain_errors(name: str | None) -> Iterator[None]:
    """Turn errors of transformers into a ``UsageError`` that names the model."""
    try:
        yield
    except (OSError, ValueError, KeyError, ImportError, RuntimeError, SafetensorError) as error:
        detail = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise UsageError(
            f"can't load the model {name or EMBEDDED!r}: {detail}; give a folder of transformers with safetensors, a "
            ".gguf file, or a hub name (which needs a network)"
        ) from None
