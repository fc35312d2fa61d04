"""Loading and saving of models: the embedded one, folders of transformers, and missing ones."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from finetune.model.loading import load, load_tokenizer
from finetune.model.saving import save
from selfinstruct.errors import UsageError
from tests import finetune_fixtures

tiny_tokenizer = finetune_fixtures.tiny_tokenizer
tiny_model_folder = finetune_fixtures.tiny_model_folder

TEXTS = (
    "In 2024, I paid $1,234.50; the 7th of 12 parts  cost 3x100.",
    "x  12\n\n  345   6789\t0 a1b2c3",
    "def f(x):\n    return x ** 2  # Größe, naïve café",
    "日本語のテキスト 123 和中文 😀🚀 ½ ²",
    "don't we'll I'm   spaces   \n\n\n end ",
)


@pytest.fixture(scope="module")
def embedded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Any, Path]]:
    """The embedded model, and the folder that it was saved to."""
    folder = tmp_path_factory.mktemp("embedded") / "model"
    loaded = load(None, dtype=torch.float32)
    save(loaded.model, loaded.tokenizer, folder)
    yield loaded, folder
    shutil.rmtree(folder)  # half a gigabyte, which pytest would keep


def test_the_embedded_model_is_saved_as_a_plain_checkpoint(embedded) -> None:
    from transformers import AutoModelForCausalLM

    loaded, folder = embedded
    config = json.loads((folder / "config.json").read_text())
    assert "quantization_config" not in config
    assert str(folder) not in json.dumps(config)
    reloaded = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    assert sum(parameter.numel() for parameter in reloaded.parameters()) == 134_515_008
    ids = torch.tensor([[504, 3575, 282, 4649, 314]])
    with torch.no_grad():
        assert torch.equal(reloaded(ids).logits, loaded.model(ids).logits)
    tokenizer = load_tokenizer(str(folder))
    assert tokenizer.chat_template == loaded.tokenizer.chat_template
    assert [tokenizer(text).input_ids for text in TEXTS] == [loaded.tokenizer(text).input_ids for text in TEXTS]


def test_a_saved_tokenizer_does_not_depend_on_offline_mode(tiny_model_folder, tmp_path, monkeypatch) -> None:
    for offline in (False, True):
        monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", offline)
        load_tokenizer(str(tiny_model_folder)).save_pretrained(tmp_path / str(offline))
    assert (tmp_path / "True/tokenizer_config.json").read_bytes() == (
        tmp_path / "False/tokenizer_config.json"
    ).read_bytes()


@pytest.mark.parametrize("name", ["no/such-model", "./nothing", "nothing.gguf"])
def test_a_missing_model_is_reported_in_one_line(name, monkeypatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(UsageError, match=r"no such file|can't load the model") as caught:
        load(name, dtype=torch.float32)
    assert "\n" not in str(caught.value)
