"""Recipes: their contents, how settings override them, and where errors are attributed."""

from __future__ import annotations

from pathlib import Path

import pytest

from finetune import recipes
from finetune.options import DpoOptions, Lora, RewardOptions, TrainingOptions
from finetune.recipes import load_options, recipe_names, recipe_path
from selfinstruct.errors import ConfigError, UsageError


def test_the_built_in_recipes() -> None:
    assert recipe_names() == ["alpaca", "chat", "lora", "qlora", "quickstart"]
    assert recipe_names(DpoOptions) == ["dpo", "tulu"]
    assert recipe_names(RewardOptions) == ["reward"]


@pytest.mark.parametrize("kind", [TrainingOptions, DpoOptions, RewardOptions])
def test_every_recipe_is_valid(kind: type[TrainingOptions]) -> None:
    for name in recipe_names(kind):
        assert type(load_options(name, kind=kind)) is kind


def test_the_alpaca_recipe_is_the_published_one() -> None:
    options = load_options("alpaca")
    assert options == TrainingOptions(format="alpaca"), "the defaults of the options are the same recipe"
    assert (options.batch_size, options.max_length, options.learning_rate, options.epochs) == (128, 512, 2e-5, 3)
    assert (options.schedule, options.warmup, options.weight_decay) == ("cosine", 0.03, 0.0)


def test_qlora_is_lora_on_a_4bit_base() -> None:
    assert load_options("lora").lora == Lora(rank=16, alpha=32.0, targets="all-linear", base="full")
    assert load_options("qlora").lora == Lora(rank=16, alpha=32.0, targets="all-linear", base="nf4")


def test_quickstart_evaluates_and_suits_thirty_rows() -> None:
    options = load_options("quickstart")
    assert (options.batch_size, options.learning_rate, options.checkpoint_every) == (8, 1e-5, 10)
    evaluation = options.evaluation
    assert (evaluation.fraction, evaluation.seed_tasks, evaluation.samples, evaluation.patience) == (0.2, 64, 4, 1)


def test_every_recipe_begins_with_its_source() -> None:
    for kind in (TrainingOptions, DpoOptions, RewardOptions):
        for name in recipe_names(kind):
            assert recipe_path(name, kind).read_text().startswith("# "), name


def test_assignments_override_the_file_which_overrides_the_recipe(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text("epochs: 5\nbatch_size: 4\nlora: {rank: 4}\n")
    options = load_options("lora", path, ["epochs=7", "lora.alpha=8"])
    assert (options.epochs, options.batch_size) == (7, 4)
    assert options.lora == Lora(rank=4, alpha=8.0), "sections are merged key by key"
    assert options.learning_rate == 2e-4


def test_assignments_can_add_and_remove_a_section() -> None:
    assert load_options("alpaca", None, ["lora.rank=8"]).lora == Lora(rank=8)
    assert load_options("lora", None, ["lora=null"]).lora is None
    assert load_options("alpaca", None, ["learning_rate=1e-6"]).learning_rate == 1e-6, "YAML reads 1e-6 as a string"


@pytest.mark.parametrize(
    ("text", "line", "message"),
    [
        ("epochs: 2\nlearning_rat: 1\n", 2, "unknown key 'learning_rat' (did you mean 'learning_rate'?)"),
        ("lora:\n  rank: 4\n  alfa: 1\n", 3, "unknown key 'lora.alfa' (did you mean 'alpha'?)"),
        ("# mine\nbatch_size: many\n", 2, "batch_size: "),
        ("epochs: 2\nmax_length: 1\n", 2, "max_length: at least 2 tokens"),
        ("lora:\n  rank: 0\n", 2, "lora: rank: at least 1"),
        ("evaluation:\n  fraction: 0.95\n", 2, "evaluation: fraction: from 0 to 0.9"),
        ("epochs: 1\nepochs: 2\n", 2, "key 'epochs' is given twice (first on line 1)"),
    ],
)
def test_an_error_in_a_file_names_its_line(tmp_path: Path, text: str, line: int, message: str) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text(text)
    with pytest.raises(ConfigError) as caught:
        load_options("alpaca", path)
    assert str(caught.value).startswith(f"{path}:{line}: {message}")


@pytest.mark.parametrize(
    ("recipe", "text", "message"),
    [
        ("chat", "epochs: 1\nbatch_size: 16\n",
         "2: batch_size has no effect while batch_tokens is 65536: set batch_tokens to null, or leave out batch_size"),
        ("qlora", "min_rate: 0.1\n", "1: min_rate has no effect while schedule is constant"),
        ("alpaca", "evaluation:\n  sample_tokens: 9\n", "2: evaluation.sample_tokens has no effect while "
         "evaluation.samples is 0: set evaluation.samples to 1 or more"),
        ("alpaca", "packing: false\nattention: sdpa\n", "2: attention has no effect while packing is false"),
    ],
)  # fmt: skip
def test_a_setting_without_effect_is_refused(tmp_path: Path, recipe: str, text: str, message: str) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text(text)
    with pytest.raises(ConfigError) as caught:
        load_options(recipe, path)
    assert str(caught.value).startswith(f"{path}:{message}")


def test_a_setting_that_another_makes_effective_is_accepted() -> None:
    assert load_options("chat", None, ["batch_tokens=null", "batch_size=16"]).batch_size == 16
    assert load_options("quickstart", None, ["evaluation.sample_tokens=9"]).evaluation.samples == 4
    with pytest.raises(ConfigError, match=r"^batch_size has no effect"):
        load_options("chat", None, ["batch_size=16"])


def test_a_recipe_with_a_setting_without_effect_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(recipes, "_FOLDER", tmp_path)
    (tmp_path / "mine.yaml").write_text("batch_tokens: 512\nbatch_size: 16\n")
    with pytest.raises(ConfigError, match=r"mine\.yaml:2: batch_size has no effect while batch_tokens is 512"):
        load_options("mine")


def test_an_error_in_an_assignment_does_not_name_the_file(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text("epochs: 2\nmax_length: 64\n")
    for assignment in ("epochs=none at all", "max_length=1"):
        with pytest.raises(ConfigError) as caught:
            load_options("alpaca", path, [assignment])
        assert str(path) not in str(caught.value), assignment


@pytest.mark.parametrize("name", ["quikstart", "../options", "", "alpaca.yaml"])
def test_an_unknown_recipe_is_rejected_with_the_known_names(name: str) -> None:
    with pytest.raises(UsageError, match=r"no recipe .*(quickstart|alpaca)"):
        load_options(name)


def test_an_assignment_does_not_change_the_recipe_for_later_calls() -> None:
    load_options("lora", None, ["lora.rank=99"])
    assert load_options("lora").lora == Lora()
