"""The report of a run and the preview of a dry run."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from finetune.data.plan import EpochPlan
from finetune.data.render import Renderer, render_all
from finetune.data.rows import ChatTurn, Example, UnreadRow
from finetune.evaluation.held_out import Losses
from finetune.options import TrainingOptions
from finetune.preparation import Preview
from finetune.record import Measurements
from finetune.report import coloured, preview_lines, result_lines
from finetune.session import TrainingResult
from finetune.training.estimate import CostEstimate
from selfinstruct.common.console import strip_control_chars
from tests.finetune_fixtures import tiny_tokenizer  # noqa: F401

BEFORE = ([10.0, 20.0, 30.0], [10, 10, 10])


def shifted(differences: list[float]) -> Losses:
    sums, counts = BEFORE
    return Losses.of([value + difference for value, difference in zip(sums, differences, strict=True)], counts)


def result(after: Losses, **options: Any) -> TrainingResult:
    fields: dict[str, Any] = {"steps": 20, "seconds": 75.4, **options}
    before = Measurements({"rows": Losses.of(*BEFORE)}, fields.pop("answers_before", []))
    return TrainingResult(
        Path("out"), before=before, after=Measurements({"rows": after}, fields.pop("answers", [])), **fields
    )


def line(after: Losses) -> str:
    return next(line for line in result_lines(result(after)) if line.startswith("held-out loss, rows"))


def test_losses_are_shown_with_their_errors_and_the_paired_change() -> None:
    assert line(shifted([-2.0, -2.1, -1.9])) == (
        "held-out loss, rows: 2.000 ± 0.577 -> 1.800 ± 0.580, change -0.200 ± 0.006 (a fall; 3 documents)"
    )


def test_a_rising_loss_is_reported_as_a_rise() -> None:
    assert "change +0.200 ± 0.006 (a rise; 3 documents)" in line(shifted([2.0, 2.1, 1.9]))


@pytest.mark.parametrize(("differences", "word"), [([5.0, -5.0, 1.0], "rise"), ([5.0, -5.0, -1.0], "fall")])
def test_a_change_within_two_standard_errors_is_not_significant(differences: list[float], word: str) -> None:
    assert f"(a {word} within two standard errors: no clear change; 3 documents)" in line(shifted(differences))


def test_no_change_is_reported_as_such() -> None:
    assert "change +0.000 ± 0.000 (no change; 3 documents)" in line(shifted([0.0, 0.0, 0.0]))


def test_a_single_document_is_shown_without_an_error() -> None:
    before, after = (Measurements({"rows": Losses.of([sums], [10])}, []) for sums in (20.0, 18.0))
    lines = list(result_lines(TrainingResult(Path("out"), 20, before, after)))
    assert lines[1] == "held-out loss, rows: 2.000 -> 1.800, change -0.200 (a fall; 1 document)"


@pytest.mark.parametrize(("steps", "warned"), [(1, True), (9, True), (10, False)])
def test_fewer_than_ten_steps_cause_a_warning(steps: int, warned: bool) -> None:
    lines = "\n".join(result_lines(result(shifted([1.0, 1.0, 1.0]), steps=steps)))
    assert ("too few to assess the training" in lines) == warned
    assert f"{steps} step{'' if steps == 1 else 's'} in 1 min 15 s" in lines


def test_the_report_of_a_stopped_run_says_how_to_resume() -> None:
    assert list(result_lines(TrainingResult(Path("out"), 3, complete=False))) == [
        "out: stopped after 3 steps; repeat the command to resume"
    ]
    assert "was complete already" in next(iter(result_lines(TrainingResult(Path("out"), 30, was_complete=True))))


def test_answers_are_shown_side_by_side_as_plain_text() -> None:
    shown = result(
        shifted([1.0, 1.0, 1.0]),
        prompts=["Name [bold]three[/bold] rivers.\nAny.", "x" * 1000],
        answers_before=["\x1b[31mred", ""],
        answers=["the [/] Loire, the Seine and the Rhône, which all of them flow to a sea", "日本語" * 30],
    )
    lines = list(result_lines(shown))
    text = "\n".join(lines)
    assert "prompt" in text
    assert "[bold]three[/bold]" in text
    assert "[/] Loire" in text
    assert "\x1b" not in text
    assert "�[31mred" in text
    assert "..." in text
    assert max(map(len, lines)) <= 100


def test_only_control_characters_are_replaced() -> None:
    assert strip_control_chars("a\tb\nc\x00\x07\x1b\x9b\r\u202e\u2066\ud800") == "a\tb\nc" + "�" * 8
    for text in ("👩‍👩‍👧", "क्‍ष", "می‌خواهم", "é", "日本"):
        assert strip_control_chars(text) == text


def dry_run(tokenizer: Any, answers: list[str], *, skipped: list[UnreadRow], memory: dict[str, int]) -> Preview:
    renderer = Renderer(tokenizer, "chat", max_length=64)
    examples = [
        Example(f"x:{number}", (ChatTurn("user", "Say [b]it[/b]."), ChatTurn("assistant", answer)))
        for number, answer in enumerate(answers, start=1)
    ]
    rendered = render_all(examples, renderer)
    plan = EpochPlan.of(rendered.corpus, TrainingOptions(batch_size=2, epochs=1), budget=128)
    estimate = CostEstimate(memory, available=None, recompute=False, flops=None, device="cpu", world_size=1)
    return Preview(rendered, renderer, plan, skipped, estimate)


def test_a_dry_run_marks_exactly_the_supervised_text(tiny_tokenizer: Any) -> None:  # noqa: F811
    lines = list(preview_lines(dry_run(tiny_tokenizer, ["It is ⟦done⟧\x1b[2J.", "no"], skipped=[], memory={})))
    first = next(line for line in lines if line.startswith("<|im_start|>user"))
    assert first.count("⟦") == first.count("⟧") == 1
    before, inside = first.split("⟦")
    assert before.endswith("<|im_start|>assistant\n")
    assert inside == "It is [[done]]�[2J.<|im_end|>⟧\n"
    shown = coloured(first)
    assert shown.plain == first.replace("⟦", "").replace("⟧", "")
    green = [shown.plain[span.start : span.end] for span in shown.spans if "green" in str(span.style)]
    assert green == ["It is [[done]]�[2J.<|im_end|>"]
    assert "[b]it[/b]" in shown.plain


def test_a_dry_run_reports_what_is_left_out(tiny_tokenizer: Any) -> None:  # noqa: F811
    preview = dry_run(
        tiny_tokenizer,
        ["a", "", "word " * 60, "b", "c"],
        skipped=[UnreadRow("x:9", "unreadable", "bad")],
        memory={"weights": 3 << 29, "head": 0},
    )
    text = "\n".join(preview_lines(preview))
    assert "4 documents" in text
    assert "dropped, empty: 1" in text
    assert "not read: 1 row\n  x:9: bad\n  x:2: turn 2: the response is empty\n" in text
    assert "cut to the maximum length: 1" in text
    assert "2 steps, 2 an epoch; trained on 4 documents; micro-batches of at most 128 tokens" in text
    assert "only 2 steps" in text
    assert "predicted memory: 1.50 GiB (weights 1.50, head 0.00)" in text
