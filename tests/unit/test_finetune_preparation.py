"""What is found out before the weights are loaded: kinds of models, tokenizers, positions, vocabulary, head, steps."""

from __future__ import annotations

import base64
import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from finetune.model.limits import correct_tied_head, head_differs, max_positions
from finetune.model.loading import load, load_tokenizer
from finetune.options import Evaluation, TrainingOptions
from finetune.preparation import Preparation, Preview
from finetune.session import preview, train
from finetune.training.distributed import SINGLE_PROCESS
from finetune.training.schedule import learning_rate
from selfinstruct.errors import UsageError
from tests.finetune_fixtures import make_model, make_tokenizer, tiny_model_folder, tiny_tokenizer  # noqa: F401

OPTIONS = TrainingOptions(format="chat", batch_size=2, epochs=1, checkpoint_every=0, log_every=1)


@pytest.fixture
def rows(tmp_path: Path) -> Path:
    path = tmp_path / "rows.jsonl"
    texts = [("Name a sea.", "The Baltic."), ("Name a lake.", "Erie."), ("Which colours has a rainbow?", "Red. " * 60)]
    path.write_text("".join(json.dumps({"instruction": a, "output": b}) + "\n" for a, b in texts))
    return path


def prepare(model: Path, data: Path, options: TrainingOptions = OPTIONS) -> Preparation:
    return Preparation.of(str(model), str(data), options, SINGLE_PROCESS)


def copied(folder: Path, to: Path, *remove: str, **config: Any) -> Path:
    shutil.copytree(folder, to)
    for name in remove:
        (to / name).unlink()
    if config:
        values = json.loads((to / "config.json").read_text()) | config
        (to / "config.json").write_text(json.dumps(values))
    return to


# Kinds of models


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("T5Config", "has an encoder, which reads the prompt, and a decoder"),
        ("BartConfig", "has an encoder, which reads the prompt, and a decoder"),
        ("MarianConfig", "has an encoder, which reads the prompt, and a decoder"),
        ("WhisperConfig", "has an encoder, which reads the prompt, and a decoder"),
        ("ViTConfig", "is a vision model"),
        ("CLIPConfig", "is a vision model"),
        ("BertConfig", "is an encoder: it reads a text in both directions"),
        ("XLMRobertaConfig", "is an encoder: it reads a text in both directions"),
        ("DistilBertConfig", "does not write text from left to right"),
    ],
)
def test_a_model_that_does_not_write_text_from_left_to_right_is_refused(
    name: str, message: str, tiny_model_folder: Path, rows: Path, tmp_path: Path  # noqa: F811
) -> None:  # fmt: skip
    import transformers

    folder = copied(tiny_model_folder, tmp_path / "model")
    getattr(transformers, name)().save_pretrained(folder)
    with pytest.raises(UsageError, match=message) as caught:
        preview(str(folder), str(rows), OPTIONS)
    assert str(folder) in str(caught.value)


# Positions and vocabulary


def test_rows_longer_than_the_positions_of_the_model_are_cut_and_said(rows: Path, tmp_path: Path) -> None:
    from transformers import GPT2Config, GPT2LMHeadModel

    tokenizer = make_tokenizer()
    sizes = {"n_positions": 64, "n_embd": 32, "n_layer": 1, "n_head": 2}
    GPT2LMHeadModel(GPT2Config(vocab_size=len(tokenizer), **sizes)).save_pretrained(tmp_path / "gpt2")
    tokenizer.save_pretrained(tmp_path / "gpt2")
    prepared = prepare(tmp_path / "gpt2", rows)
    assert int(prepared.plan.corpus.lengths.max()) == 64
    assert prepared.data.rendered.truncated == 1
    assert prepared.notices == ["the model has 64 positions, less than max_length: longer documents were cut to that"]
    options = TrainingOptions(format="chat", batch_size=2, epochs=1, evaluation=Evaluation(0.4, 0, 3, 8))
    assert train(str(tmp_path / "gpt2"), str(rows), tmp_path / "out", options).complete


@pytest.mark.parametrize(
    ("name", "values", "limit"),
    [
        ("LlamaConfig", {"max_position_embeddings": 77}, 77),
        ("GPT2Config", {"n_positions": 77}, 77),
        ("GPTJConfig", {"n_positions": 77}, 77),
        ("MptConfig", {"max_seq_len": 77}, 77),
        ("OPTConfig", {"max_position_embeddings": 77}, 77),
        ("BloomConfig", {}, None),
        ("MambaConfig", {}, None),
    ],
)
def test_the_positions_of_a_model_are_found_in_its_configuration(
    name: str, values: dict[str, int], limit: int | None
) -> None:
    import transformers

    assert max_positions(getattr(transformers, name)(**values)) == limit


def test_tokens_without_an_embedding_are_refused_if_a_row_has_them(rows: Path, tmp_path: Path) -> None:
    tokenizer = make_tokenizer()
    make_model(len(tokenizer)).save_pretrained(tmp_path / "model")
    tokenizer.add_tokens(["<pad>"], special_tokens=True)
    tokenizer.add_tokens(["rainbow"])
    tokenizer.save_pretrained(tmp_path / "model")
    with pytest.raises(UsageError, match=r"384 embeddings, and its tokenizer more tokens: 'rainbow' \(385\)") as caught:
        prepare(tmp_path / "model", rows)
    assert f"first in {rows}:3" in str(caught.value)
    rows.write_text(rows.read_text().replace("rainbow", "flag"))
    assert prepare(tmp_path / "model", rows).plan.steps == 2


# The head


def test_a_head_that_differs_although_it_is_called_tied_is_said_and_survives(rows: Path, tmp_path: Path) -> None:
    tokenizer = make_tokenizer()
    folder = tmp_path / "model"
    make_model(len(tokenizer), tie_word_embeddings=False).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    copied(folder, tmp_path / "tied", tie_word_embeddings=True)
    lines: list[str] = []
    train(str(tmp_path / "tied"), str(rows), tmp_path / "out", OPTIONS, notify=lines.append)
    assert any("says that the head is tied to the embeddings, but its weights differ" in line for line in lines)
    assert json.loads((tmp_path / "out" / "config.json").read_text())["tie_word_embeddings"] is False
    trained = load(str(tmp_path / "out"), dtype=torch.float32).model
    assert head_differs(trained)
    assert not torch.equal(trained.lm_head.weight, trained.model.embed_tokens.weight)


def test_a_tied_head_stays_tied() -> None:
    model = make_model(64)
    correct_tied_head(model)
    assert model.config.tie_word_embeddings
    assert not head_differs(model)


# Tokenizers

SENTENCEPIECE = b"\n\x0e\n\x05<unk>\x15\x00\x00\x00\x00\x18\x02"
TIKTOKEN = b"IQ== 0\nIg== 1\nIw== 2\n"


@pytest.mark.parametrize(("content", "package"), [(SENTENCEPIECE, "sentencepiece"), (TIKTOKEN, "tiktoken")])
@pytest.mark.parametrize("name", ["tokenizer.model", "sentencepiece.bpe.model"])
def test_the_package_that_reads_a_tokenizer_model_is_named(
    content: bytes, package: str, name: str, tiny_model_folder: Path, tmp_path: Path  # noqa: F811
) -> None:  # fmt: skip
    pytest.importorskip("transformers")
    folder = copied(tiny_model_folder, tmp_path / "model", "tokenizer.json", "tokenizer_config.json")
    (folder / name).write_bytes(content)
    try:
        __import__(package)
    except ImportError:
        with pytest.raises(
            UsageError, match=f"only a {name}, which is read by the package {package}; run: pip install"
        ):
            load_tokenizer(str(folder))


def test_a_folder_without_a_tokenizer_is_refused_with_a_remedy(tiny_model_folder: Path, tmp_path: Path) -> None:  # noqa: F811
    folder = copied(tiny_model_folder, tmp_path / "model", "tokenizer.json", "tokenizer_config.json")
    with pytest.raises(UsageError, match=r"there is no tokenizer in it; copy tokenizer\.json"):
        load_tokenizer(str(folder))


@pytest.mark.parametrize("template", [["x"], 3, [{"name": "default"}]])
def test_a_chat_template_that_is_no_template_is_refused(
    template: Any, tiny_model_folder: Path, tmp_path: Path  # noqa: F811
) -> None:  # fmt: skip
    folder = copied(tiny_model_folder, tmp_path / "model", "chat_template.jinja")
    config = json.loads((folder / "tokenizer_config.json").read_text())
    (folder / "tokenizer_config.json").write_text(json.dumps({**config, "chat_template": template}))
    with pytest.raises(UsageError, match=str(folder)):
        load_tokenizer(str(folder))


def test_a_tokenizer_next_to_tekken_json_is_the_fast_one(tiny_model_folder: Path, tmp_path: Path) -> None:  # noqa: F811
    """With mistral-common installed, transformers would choose its slow tokenizer."""
    folder = copied(tiny_model_folder, tmp_path / "model", model_type="mistral", architectures=["MistralForCausalLM"])
    vocab = [{"rank": n, "token_bytes": base64.b64encode(bytes([n])).decode(), "token_str": None} for n in range(256)]
    (folder / "tekken.json").write_text(json.dumps({"config": {"pattern": r"\p{L}+"}, "vocab": vocab}))
    tokenizer = load_tokenizer(str(folder))
    assert tokenizer.is_fast
    assert tokenizer("Red").input_ids == load_tokenizer(str(tiny_model_folder))("Red").input_ids


# The dry run


def test_a_dry_run_knows_stop_tokens_held_out_documents_and_each_unread_row(
    tiny_model_folder: Path, tmp_path: Path  # noqa: F811
) -> None:  # fmt: skip
    path = tmp_path / "rows.jsonl"
    rows = [{"instruction": f"Name {n} things.", "output": "A"} for n in range(8)]
    bad = [{"instruction": "x"}, {"instruction": "Say nothing.", "output": " "}]
    path.write_text("".join(json.dumps(row) + "\n" for row in [*rows, *bad]) + "{\n")
    options = TrainingOptions(format="chat", evaluation=Evaluation(fraction=0.25, seed_tasks=3))
    result: Preview = preview(str(tiny_model_folder), str(path), options)
    assert result.stop_tokens == ["<|im_end|>"]
    assert result.held_out == {"rows": 2, "seed tasks": 3}
    assert [(row.name, row.reason) for row in result.unread] == [
        (f"{path}:9", "unreadable"), (f"{path}:11", "unreadable"), (f"{path}:10", "empty"),
    ]  # fmt: skip


# The learning rate


@pytest.mark.parametrize("schedule", ["cosine", "linear", "constant"])
@pytest.mark.parametrize("warmup", [0.0, 0.03, 0.5, 1.0])
def test_a_run_of_one_step_has_the_peak_rate(schedule: Any, warmup: float) -> None:
    options = TrainingOptions(schedule=schedule, warmup=warmup, learning_rate=1e-3)
    assert learning_rate(0, 1, options) == 1e-3
    assert max(learning_rate(step, 4, options) for step in range(4)) == 1e-3


def test_a_run_of_one_step_trains(tiny_model_folder: Path, rows: Path, tmp_path: Path) -> None:  # noqa: F811
    train(
        str(tiny_model_folder), str(rows), tmp_path / "out", TrainingOptions(format="chat", max_steps=1, batch_size=4)
    )
    before, after = (load(str(path), dtype=torch.float32).model for path in (tiny_model_folder, tmp_path / "out"))
    assert not torch.equal(before.lm_head.weight, after.lm_head.weight)
