"""Early stopping: when training ends, and which weights the model keeps."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

import finetune
from finetune.options import Evaluation, TrainingOptions
from finetune.record import read_record
from finetune.report import result_lines
from finetune.training.early_stopping import EarlyStopping
from selfinstruct.errors import ConfigError
from tests import finetune_fixtures

tiny_tokenizer = finetune_fixtures.tiny_tokenizer
tiny_model_folder = finetune_fixtures.tiny_model_folder


def stopped(losses: list[float], patience: int) -> tuple[int, int]:
    """Return the index of the measurement that ends training, and of the one whose weights are kept."""
    stopping = EarlyStopping(patience)
    for index, loss in enumerate(losses):
        stopping.record(index, loss)
        if stopping.exhausted:
            break
    return index, stopping.step


def test_training_ends_after_enough_measurements_without_a_lower_loss() -> None:
    assert stopped([3.0, 2.0, 2.5, 2.1, 1.0], 1) == (2, 1)
    assert stopped([3.0, 2.0, 2.5, 2.1, 1.0], 2) == (3, 1)
    assert stopped([3.0, 2.0, 2.5, 2.1, 1.0], 3) == (4, 4)
    assert stopped([3.0, 3.0], 1) == (1, 0), "an equal loss is no improvement"
    assert stopped([2.0, 3.0, 4.0], 0) == (2, 0), "without patience training never ends early"


def test_the_state_continues_in_another_process() -> None:
    first, second = EarlyStopping(2), EarlyStopping(2)
    for step, loss in enumerate([3.0, 2.0, 2.5]):
        first.record(step, loss)
    second.restore(json.loads(json.dumps(first.state())))
    assert second == first
    assert not second.record(3, 2.5)
    assert second.exhausted


def test_patience_needs_held_out_documents() -> None:
    with pytest.raises(ValueError, match="patience: needs held-out documents"):
        Evaluation(patience=1)
    with pytest.raises(ConfigError, match=r"evaluation: patience: 0 or more"):
        finetune.load_options("quickstart", None, ["evaluation.patience=-1"])
    assert Evaluation(patience=1, seed_tasks=1).patience == 1


def rows(path: Path) -> Path:
    path.write_text("".join(
        json.dumps({"instruction": f"Name {count} rivers.", "output": f"Seine, Rhine and {count} more."}) + "\n"
        for count in range(30)
    ))  # fmt: skip
    return path


def test_a_run_that_only_gets_worse_keeps_the_weights_that_it_started_from(
    tiny_model_folder: Path, tmp_path: Path
) -> None:
    options = TrainingOptions(
        format="chat", batch_size=8, epochs=9, learning_rate=3.0, warmup=0.0, max_grad_norm=0.0,
        evaluation=Evaluation(fraction=0.2, patience=2),
    )  # fmt: skip
    out = tmp_path / "model"
    result = finetune.train(str(tiny_model_folder), str(rows(tmp_path / "rows.jsonl")), out, options)
    assert (result.kept_step, result.steps) == (0, 6), "two epochs of three steps"
    assert result.before is not None
    assert result.after is not None
    assert result.after.losses["rows"].mean == result.before.losses["rows"].mean
    before, after = (load_file(folder / "model.safetensors") for folder in (tiny_model_folder, out))
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert any("early stopping: the held-out loss was lowest after 0 steps" in line for line in result_lines(result))
    assert not (out / "checkpoints").exists()


def test_a_run_that_improves_to_the_end_keeps_the_last_weights(tiny_model_folder: Path, tmp_path: Path) -> None:
    evaluation = Evaluation(fraction=0.2, patience=1)
    data = str(rows(tmp_path / "rows.jsonl"))
    models = {}
    for name, chosen in (("stopping", evaluation), ("plain", Evaluation(fraction=0.2))):
        options = TrainingOptions(format="chat", batch_size=8, epochs=2, learning_rate=1e-3, evaluation=chosen)
        result = finetune.train(str(tiny_model_folder), data, tmp_path / name, options)
        assert result.steps == 6
        models[name] = (tmp_path / name / "model.safetensors").read_bytes()
    assert models["stopping"] == models["plain"], "measuring changes nothing"
    recorded = json.loads((tmp_path / "plain" / "finetune.json").read_bytes())
    assert "patience" not in recorded["options"]["evaluation"], "runs of earlier versions are recognised"
    assert read_record(tmp_path / "plain", {"options": recorded["options"]})["complete"]
