"""A GGUF file with a large vocabulary is read for training without turning each token into numpy arrays."""

from __future__ import annotations

import time
from pathlib import Path

import numpy as np
import pytest
from gguf import GGUFReader

from finetune.export.gguf import export_gguf
from finetune.model.gguf_reading import patched_reader
from finetune.model.loading import load_config
from finetune.model.saving import save
from selfinstruct.common import gguf
from tests.finetune_fixtures import make_model, make_tokenizer

TOKENS = 40_000


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model of few weights with a large vocabulary."""
    folder = tmp_path_factory.mktemp("model")
    tokenizer = make_tokenizer()
    save(make_model(TOKENS, hidden_size=16, eos_token_id=tokenizer.eos_token_id), tokenizer, folder / "hf")
    export_gguf(str(folder / "hf"), folder / "model.gguf", dtype="f32")
    return folder / "model.gguf"


def read(path: Path) -> tuple[GGUFReader, float]:
    """Return a reader of the file, and the processor seconds that it took."""
    started = time.process_time()
    reader = GGUFReader(path)
    return reader, time.process_time() - started


def test_the_vocabulary_costs_no_time(path: Path) -> None:
    slow = read(path)[1]
    with patched_reader():
        fast = read(path)[1]
    print(f"{TOKENS} tokens: {slow:.2f} s by the package, {fast:.3f} s without the vocabulary")
    assert fast < slow / 10
    assert read(path)[1] > fast * 5, "the package is as before outside the context"


def test_everything_else_is_read(path: Path) -> None:
    expected, _ = read(path)
    with patched_reader():
        reader, _ = read(path)
    assert len(reader.fields["tokenizer.ggml.tokens"].data) == TOKENS
    kept = {name for name, field in expected.fields.items() if field.types[0].name != "ARRAY"}
    assert kept <= reader.fields.keys()
    for name in kept:
        assert reader.fields[name].contents() == expected.fields[name].contents(), name
    for tensor, other in zip(reader.tensors, expected.tensors, strict=True):
        assert tensor.name == other.name
        assert np.array_equal(tensor.data, other.data)


def test_the_configuration_counts_the_tokens(path: Path) -> None:
    assert load_config(str(path)).vocab_size == TOKENS


def test_a_vocabulary_that_ends_with_the_file_is_refused(path: Path, tmp_path: Path) -> None:
    content = path.read_bytes()
    start = content.index(b"tokenizer.ggml.tokens")
    for size in (start + 30, start + 60, start + 5_000):
        cut = tmp_path / f"{size}.gguf"
        cut.write_bytes(content[:size])
        with pytest.raises(gguf.ModelFileError, match="truncated in its header"):
            gguf.check(cut)
