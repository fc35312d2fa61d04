"""``selfinstruct explain``."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import click

from selfinstruct.api import explain
from selfinstruct.cli.options import json_option
from selfinstruct.common.codec import Json, dumps
from selfinstruct.common.console import echo, plural, strip_control_chars
from selfinstruct.records import Completion, Verdict
from selfinstruct.runs.explain import Ancestor, Explanation, NearestText, Step

_OPEN, _CLOSE = "⟦", "⟧"
_KEPT = {
    "pending_task": "a task that was kept; each of its instances is a separate candidate",
    "provisional_row": "kept so far; later requests decided whether it became a row",
}
_MOST_LINEAGE = 160  # characters shown of a text in a lineage
_MOST_TEXT = 4000  # characters shown of a prompt or an answer


@click.command("explain")
@click.argument("run_dir", type=click.Path(path_type=Path))
@click.argument("name", metavar="ROW|CANDIDATE|ITEM")
@json_option
def command(run_dir: Path, name: str, as_json: bool) -> None:
    """Show how a row came to be, why a candidate was rejected, or why an item of an evaluation failed.

    A row is named by its number in the dataset, from 1; a candidate by its id, such as 17.2, which
    'export --format candidates' lists; an item of an evaluation by its suite and key. The output shows the
    demonstrations, the prompt, the sampling, the model's answer with the candidate's part in ⟦ ⟧, every filter's
    verdict, and the nearest text with the words in common in ⟦ ⟧. For a text that was made from a seed step by step,
    the lineage comes first; for an item, the requirements that its answer fails.

    \b
    Examples:
      selfinstruct explain runs/demo 5
      selfinstruct explain runs/demo 17.2
      selfinstruct explain runs/demo 17.2 --json
      selfinstruct explain runs/score verified/row_3
    """
    explanation = explain(run_dir, name)
    if as_json:
        echo(dumps(_to_json(explanation)))
        return
    for line in _page(explanation):
        echo(strip_control_chars(line))


def _page(explanation: Explanation) -> Iterator[str]:
    candidate = explanation.candidate.candidate
    yield f"{_title(explanation)}: {_result(explanation)}"
    fields = [("instruction", candidate.instruction), ("input", candidate.input), ("output", candidate.output)]
    for label, text in [(message.role, message.content) for message in candidate.messages] or fields:
        if text:
            yield f"  {label + ':':<13}{_indented(text)}"
    if explanation.failed_requirements is not None:
        yield ""
        yield "the item fails:" if explanation.failed_requirements else "the item meets every requirement"
        yield from (f"  {line}" for line in explanation.failed_requirements)
    if explanation.lineage:
        yield ""
        yield "lineage:"
        yield from map(_ancestor, explanation.lineage)
    for number, step in enumerate(explanation.steps, start=1):
        yield ""
        yield from _step(number, step)


def _title(explanation: Explanation) -> str:
    row = f"row {explanation.row}, " if explanation.row else ""
    return f"{row}candidate {explanation.id}"


def _result(explanation: Explanation) -> str:
    candidate = explanation.candidate
    if explanation.row:
        return "kept"
    if not candidate.kept:
        return f"rejected, {candidate.reason}"
    return _KEPT.get(candidate.candidate.kind, "kept, beyond the rows asked for")


def _ancestor(ancestor: Ancestor) -> str:
    text = " ".join(ancestor.text.split())
    text = text if len(text) <= _MOST_LINEAGE else f"{text[:_MOST_LINEAGE]}..."
    label = f", {ancestor.label}" if ancestor.label else ""
    end = f" [rejected, {ancestor.reason}]" if ancestor.reason else ""
    return f"  {'->' if ancestor.label else 'seed'} {ancestor.id}{label}: {text}{end}"


def _step(number: int, step: Step) -> Iterator[str]:
    request, sampling = step.request, step.request.sampling
    yield (
        f"step {number}: request {request.number}, {request.stage}, at most {plural(sampling.max_tokens, 'token')}, "
        f"temperature {sampling.temperature:g}, seed {sampling.seed}"
    )
    if sampling.schema is not None:
        yield f"  by the JSON schema {dumps(sampling.schema)}"
    if step.shown:
        yield f"  shown to the model: {plural(len(step.shown), 'task')}"
        for name, instruction in step.shown:
            yield f"    {name}: {' '.join(instruction.split())[:90]}"
    for turn in request.turns:
        yield f"  {turn.role} (from {turn.template}.txt):"
        yield f"    {_indented(_cut(turn.text), 4)}"
    if isinstance(step.outcome, Completion):
        choice, span = step.outcome.choices[0], step.candidate.candidate.span
        spans = (span,) if step.candidate.id and span[0] < span[1] else ()  # a judge's answer is not part of the row
        tokens = plural(step.outcome.usage.completion_tokens, "token")
        yield f"  answer of {step.outcome.model} ({tokens}, {choice.finish_reason}):"
        yield f"    {_indented(_marked(choice.text, spans), 4)}"
        for index, other in enumerate(step.outcome.choices[1:], start=2):
            yield f"  choice {index} ({other.finish_reason}):"
            yield f"    {_indented(_plain(other.text), 4)}"
    else:
        yield f"  failed, {step.outcome.code}: {step.outcome.message}"
    if step.candidate.id:
        kind = step.candidate.candidate.kind.replace("_", " ")
        yield f"  candidate {step.candidate.id}, a {kind}: {_step_result(step)}"
    for verdict in step.candidate.verdicts:
        score = "" if verdict.score is None else f" {verdict.score:.4g}"
        yield f"  {verdict.filter}:{score} {'kept' if verdict.kept else f'rejected, {verdict.reason}'}"
        for line in _details(verdict):
            yield f"    {line}"
        if near := step.nearest_texts.get(verdict.filter):
            yield f"    nearest, {near.id}: {_indented(_marked(near.text, near.common), 4)}"


def _step_result(step: Step) -> str:
    return "kept" if step.candidate.kept else f"rejected, {step.candidate.reason}"


def _details(verdict: Verdict) -> Iterator[str]:
    """Yield what a verifier expected, a judge's scores with their reasons, and how several answers compared."""
    if verdict.filter == "verifier" and "found" in verdict.detail:
        kind, expected, actual = (verdict.detail.get(name) for name in ("kind", "expected", "found"))
        yield f"{kind}: expected {expected}, found {actual}"
    scores, reasons = verdict.detail.get("scores"), verdict.detail.get("reasons")
    if isinstance(scores, Mapping) and isinstance(reasons, Mapping):
        for name, score in scores.items():
            reason = _indented(str(reasons[name]), 6)
            yield f"{name} {_number(score)}" + (f": {reason}" if reason else "")
    means = verdict.detail.get("means")
    if isinstance(means, Sequence):
        yield f"answer {verdict.detail['answer']} of {len(means)}: {', '.join(map(_number, means))}"


def _number(value: Json) -> str:
    return f"{value:g}" if isinstance(value, int | float) else "-"


def _marked(text: str, spans: tuple[tuple[int, int], ...]) -> str:
    """Return the text with marks around spans; marks in the text itself are doubled, so that they differ."""
    parts, done = [], 0
    for start, end in spans:
        parts += [_plain(text[done:start]), _OPEN, _plain(text[start:end]), _CLOSE]
        done = end
    return "".join([*parts, _plain(text[done:])])


def _plain(text: str) -> str:
    return text.replace(_OPEN, _OPEN * 2).replace(_CLOSE, _CLOSE * 2)


def _cut(text: str) -> str:
    if len(text) <= _MOST_TEXT:
        return text
    return f"{text[:_MOST_TEXT]}\n... and {len(text) - _MOST_TEXT:,} more characters (--json)"


def _indented(text: str, width: int = 15) -> str:
    return text.strip("\n").replace("\n", "\n" + " " * width)


def _to_json(explanation: Explanation) -> dict[str, Json]:
    candidate = explanation.candidate.candidate
    return {
        "id": explanation.id,
        "row": explanation.row,
        "kept": explanation.candidate.kept,
        "reason": explanation.candidate.reason,
        "instruction": candidate.instruction,
        "input": candidate.input,
        "output": candidate.output,
        **candidate.extras,
        "seed": explanation.seed,
        "failed_requirements": (
            None if explanation.failed_requirements is None else list(explanation.failed_requirements)
        ),
        "lineage": [
            {"id": ancestor.id, "label": ancestor.label, "text": ancestor.text, "reason": ancestor.reason}
            for ancestor in explanation.lineage
        ],
        "steps": [_step_to_json(step) for step in explanation.steps],
    }


def _step_to_json(step: Step) -> dict[str, Json]:
    request, candidate = step.request, step.candidate
    sampling = request.sampling.to_json()
    if request.sampling.schema is not None:
        sampling["schema"] = dict(request.sampling.schema)
    return {
        "request": request.number,
        "stage": request.stage,
        "parent": request.parent,
        "sampling": sampling,
        "shown": [{"id": name, "instruction": text} for name, text in step.shown],
        "turns": [{"role": turn.role, "template": turn.template, "text": turn.text} for turn in request.turns],
        "outcome": step.outcome.to_json(),
        "candidate": candidate.id or None,
        "span": list(candidate.candidate.span) if candidate.id else None,
        "verdicts": [
            {
                "filter": verdict.filter, "kept": verdict.kept, "reason": verdict.reason, "score": verdict.score,
                "detail": dict(verdict.detail), "nearest": _nearest_to_json(step.nearest_texts.get(verdict.filter)),
            }
            for verdict in candidate.verdicts
        ],
    }  # fmt: skip


def _nearest_to_json(nearest: NearestText | None) -> dict[str, Json] | None:
    if nearest is None:
        return None
    return {"id": nearest.id, "text": nearest.text, "common": [list(span) for span in nearest.common]}
