"""``selfinstruct explain``."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import click

from selfinstruct.common.codec import Json, dumps
from selfinstruct.common.console import echo, plural, strip_control_chars
from selfinstruct.records import Completion, Verdict
from selfinstruct.runs.explain import Ancestor, Explanation, NearestText, Step, explain

_OPEN, _CLOSE = "⟦", "⟧"
_KEPT = {
    "draft": "a task that was kept; its instances are candidates of their own",
    "trial": "kept so far; whether it became a row was asked further",
}
_LINE = 160  # characters of a text in a lineage
_MORE = 4000  # characters of a prompt or an answer that are shown


@click.command("explain")
@click.argument("run_dir", type=click.Path(path_type=Path))
@click.argument("name", metavar="ROW|CANDIDATE")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object, with everything whole.")
def command(run_dir: Path, name: str, as_json: bool) -> None:
    """Show how a row came to be, or why a candidate was rejected.

    A row is named by its place in the dataset, from 1; a candidate by its id, such as 17.2, which
    'export --format candidates' lists. Shown are the demonstrations, the prompt, the sampling, the model's answer with
    the candidate's part in ⟦ ⟧, every filter's verdict, and the nearest text with the words in common in ⟦ ⟧. Of a text
    that was made of a seed step by step, its lineage comes first.

    \b
    Examples:
      selfinstruct explain runs/demo 5
      selfinstruct explain runs/demo 17.2
      selfinstruct explain runs/demo 17.2 --json
    """
    found = explain(run_dir, name)
    if as_json:
        echo(dumps(_values(found)))
        return
    for line in _page(found):
        echo(strip_control_chars(line))


def _page(found: Explanation) -> Iterator[str]:
    what = f"row {found.row}, candidate {found.id}" if found.row else f"candidate {found.id}"
    one = found.candidate
    if found.row:
        yield f"{what}: kept"
    elif one.candidate.kind != "row" and one.kept:
        yield f"{what}: {_KEPT[one.candidate.kind]}"
    else:
        yield f"{what}: {'kept, beyond the rows asked for' if one.kept else f'rejected, {one.reason}'}"
    fields = [("instruction", one.candidate.instruction), ("input", one.candidate.input),
              ("output", one.candidate.output)]  # fmt: skip
    for label, text in [(message.role, message.content) for message in one.candidate.messages] or fields:
        if text:
            yield f"  {label + ':':<13}{_indented(text)}"
    if found.lineage:
        yield ""
        yield "lineage:"
        yield from map(_ancestor, found.lineage)
    for number, step in enumerate(found.steps, start=1):
        yield ""
        yield from _step(number, step)


def _ancestor(one: Ancestor) -> str:
    text = " ".join(one.text.split())
    text = text if len(text) <= _LINE else f"{text[:_LINE]}..."
    end = f" [rejected, {one.reason}]" if one.reason else ""
    return f"  {'->' if one.label else 'seed'} {one.id}{f', {one.label}' if one.label else ''}: {text}{end}"


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
        spans = (span,) if step.candidate.id and span[0] < span[1] else ()  # of a judge's answer, no part is the row's
        tokens = plural(step.outcome.usage.completion_tokens, "token")
        yield f"  answer of {step.outcome.model} ({tokens}, {choice.finish_reason}):"
        yield f"    {_indented(_marked(choice.text, spans), 4)}"
        for place, other in enumerate(step.outcome.choices[1:], start=2):
            yield f"  choice {place} ({other.finish_reason}):"
            yield f"    {_indented(_plain(other.text), 4)}"
    if step.candidate.id:
        yield f"  candidate {step.candidate.id}, a {step.candidate.candidate.kind}: {_fate(step)}"
    for verdict in step.candidate.verdicts:
        score = "" if verdict.score is None else f" {verdict.score:.4g}"
        yield f"  {verdict.filter}:{score} {'kept' if verdict.kept else f'rejected, {verdict.reason}'}"
        for line in _details(verdict):
            yield f"    {line}"
        if near := step.nearest_texts.get(verdict.filter):
            yield f"    nearest, {near.id}: {_indented(_marked(near.text, near.common), 4)}"


def _fate(step: Step) -> str:
    return "kept" if step.candidate.kept else f"rejected, {step.candidate.reason}"


def _details(verdict: Verdict) -> Iterator[str]:
    """What code expected of the answer, what a judge said by each rubric, and how the answers compared."""
    if verdict.filter == "verifier" and "found" in verdict.detail:
        kind, expected, found = (verdict.detail.get(name) for name in ("kind", "expected", "found"))
        yield f"{kind}: expected {expected}, found {found}"
    scores, reasons = verdict.detail.get("scores"), verdict.detail.get("reasons")
    if isinstance(scores, Mapping) and isinstance(reasons, Mapping):
        for name, score in scores.items():
            yield f"{name} {_number(score)}: {_indented(str(reasons[name]), 6)}"
    means = verdict.detail.get("means")
    if isinstance(means, Sequence):
        yield f"answer {verdict.detail['answer']} of {len(means)}: {', '.join(map(_number, means))}"


def _number(value: Json) -> str:
    return f"{value:g}" if isinstance(value, int | float) else "-"


def _marked(text: str, spans: tuple[tuple[int, int], ...]) -> str:
    """Parts of a text in marks; what the text has of them is doubled, so that nothing in it passes for a mark."""
    parts, done = [], 0
    for start, end in spans:
        parts += [_plain(text[done:start]), _OPEN, _plain(text[start:end]), _CLOSE]
        done = end
    return "".join([*parts, _plain(text[done:])])


def _plain(text: str) -> str:
    return text.replace(_OPEN, _OPEN * 2).replace(_CLOSE, _CLOSE * 2)


def _cut(text: str) -> str:
    return text if len(text) <= _MORE else f"{text[:_MORE]}\n... and {len(text) - _MORE:,} more characters (--json)"


def _indented(text: str, width: int = 15) -> str:
    return text.strip("\n").replace("\n", "\n" + " " * width)


def _values(found: Explanation) -> dict[str, Json]:
    return {
        "id": found.id,
        "row": found.row,
        "kept": found.candidate.kept,
        "reason": found.candidate.reason,
        "instruction": found.candidate.candidate.instruction,
        "input": found.candidate.candidate.input,
        "output": found.candidate.candidate.output,
        **found.candidate.candidate.extras,
        "seed": found.seed,
        "lineage": [
            {"id": one.id, "label": one.label, "text": one.text, "reason": one.reason} for one in found.lineage
        ],
        "steps": [_step_values(step) for step in found.steps],
    }


def _step_values(step: Step) -> dict[str, Json]:
    request, one = step.request, step.candidate
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
        "candidate": one.id or None,
        "span": list(one.candidate.span) if one.id else None,
        "verdicts": [
            {
                "filter": verdict.filter, "kept": verdict.kept, "reason": verdict.reason, "score": verdict.score,
                "detail": dict(verdict.detail), "nearest": _near_values(step.nearest_texts.get(verdict.filter)),
            }
            for verdict in one.verdicts
        ],
    }  # fmt: skip


def _near_values(near: NearestText | None) -> dict[str, Json] | None:
    if near is None:
        return None
    return {"id": near.id, "text": near.text, "common": [list(span) for span in near.common]}
