"""The data of a run on compared answers: comparisons to train on, held-out ones, and prompts for sample answers."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np

from finetune.data.comparisons import ComparedDocuments, Comparisons
from finetune.data.corpus import Document
from finetune.data.pairs import ComparedAnswers, read_comparisons
from finetune.data.render import Rendered, Renderer, RenderError, RenderResult
from finetune.data.training_data import TrainingData
from finetune.options import TrainingOptions
from selfinstruct.common.console import plural

__all__ = ["PreferenceData", "read_preference_data", "render_comparisons"]


@dataclass(frozen=True)
class PreferenceData(TrainingData):
    """The data of a run on compared answers.

    Attributes:
        train: The comparisons to train on.
        held_out: The held-out comparisons as ``pairs``; empty if none are held out.
    """

    train: Comparisons
    held_out: Mapping[str, Comparisons]


def read_preference_data(data: str, renderer: Renderer, options: TrainingOptions, *, cut: bool) -> PreferenceData:
    """Read and render the rows of ``data``, and set held-out ones aside.

    Args:
        cut: Whether to cut documents to ``max_length``. If not, longer ones are left out.

    Raises:
        SelfInstructError: As ``finetune.data.pairs.read_comparisons``.
    """
    rows = read_comparisons(data)
    comparisons, rendered = render_comparisons(rows.comparisons, renderer, cut=cut)
    train, held_out = comparisons.split(options.evaluation.fraction, options.seed)
    names = set(held_out.names)
    count = f"{plural(len(comparisons), 'prompt')} with {plural(len(comparisons.pairs), 'pair')} of answers"
    notices = [f"{count}, {plural(len(held_out), 'prompt')} held out", *rows.notices]
    samples = [row.examples[row.pairs[0][0]] for row in rows.comparisons if row.name in names]
    return PreferenceData(
        rendered, rows.skipped, notices, train, {"pairs": held_out} if len(held_out) else {},
        samples[: options.evaluation.samples],
    )  # fmt: skip


def render_comparisons(
    rows: Iterable[ComparedAnswers], renderer: Renderer, *, cut: bool
) -> tuple[Comparisons, RenderResult]:
    """Render compared answers; an answer that can't be rendered is left out with its pairs and named in the result."""
    dropped: list[tuple[str, str, str]] = []
    parts: list[ComparedDocuments] = []
    truncated = 0
    notes: Counter[str] = Counter()
    for row in rows:
        documents: dict[int, Document] = {}
        notes_of_row: set[str] = set()
        for number in sorted({number for pair in row.pairs for number in pair}):
            name = _name(row, number)
            try:
                full, notes_of_answer = _only_document(renderer.render(row.examples[number]))
                document = renderer.truncate(full)
                if len(document) < len(full) and not cut:
                    raise RenderError("too long", f"{len(full):,} tokens, more than max_length = {renderer.max_length}")
                if not document.supervised.any():
                    raise RenderError("no answer", "none of its tokens is to be learnt")
            except RenderError as error:
                dropped.append((name, error.reason, error.detail))
                continue
            documents[number] = Document(document.ids, document.supervised, name)
            truncated += len(document) < len(full)
            notes_of_row |= notes_of_answer
        if part := _compare(row, documents, dropped):
            parts.append(part)
            notes.update(notes_of_row)
    comparisons = Comparisons.of(parts)
    return comparisons, RenderResult(comparisons.documents, dropped, truncated, notes=notes)


def _only_document(rendered: Rendered) -> tuple[Document, frozenset[str]]:
    """Return the document of an answer, and the notes of its rendering.

    Raises:
        RenderError: A part of the answer can't be rendered, or the answer is several documents.
    """
    if rendered.errors:
        raise rendered.errors[0]
    if len(rendered.documents) > 1:
        detail = f"the chat template rewrites earlier messages of the answer: {len(rendered.documents)} documents"
        raise RenderError("rewritten", detail)
    return rendered.documents[0], rendered.notes


def _compare(
    row: ComparedAnswers, documents: dict[int, Document], dropped: list[tuple[str, str, str]]
) -> ComparedDocuments | None:
    """Return the comparison of the documents that could be rendered; None if no two of them differ."""
    rendered = [pair for pair in row.pairs if documents.keys() >= set(pair)]
    pairs = [(one, other) for one, other in rendered if not np.array_equal(documents[one].ids, documents[other].ids)]
    if rendered and not pairs:
        dropped.append((row.name, "same", "its answers have the same tokens, or differ only after max_length"))
    used = sorted({number for pair in pairs for number in pair})
    if not used:
        return None
    places = {number: place for place, number in enumerate(used)}
    renumbered = tuple((places[chosen], places[rejected]) for chosen, rejected in pairs)
    return ComparedDocuments(row.name, tuple(documents[number] for number in used), renumbered)


def _name(row: ComparedAnswers, number: int) -> str:
    """Return the name of an answer, for messages."""
    if len(row.examples) == 2:
        return f"{row.name} ({'chosen' if number == row.pairs[0][0] else 'rejected'})"
    return f"{row.name} (answer {number + 1})"
