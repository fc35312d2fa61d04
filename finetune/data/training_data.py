"""The data of a run: training documents, held-out documents, and prompts for sample answers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from finetune.data.plan import Items
from finetune.data.render import Renderer, RenderResult, render_all
from finetune.data.rows import Example, UnreadRow, read_examples
from finetune.data.splitting import split_documents
from finetune.options import TrainingOptions
from selfinstruct.common.console import plural
from selfinstruct.common.resources import builtin_seeds
from selfinstruct.common.rng import Rng

__all__ = ["TrainingData", "read_training_data"]

_MAX_LISTED = 20  # skipped rows, and dropped rows, that are listed one by one


@dataclass(frozen=True)
class TrainingData:
    """The data of a run.

    Attributes:
        rendered: All documents, and the rows that were dropped.
        skipped: The rows that could not be read.
        notices: What is left out of the rows that are used.
        train: The training documents.
        held_out: The held-out sets by name, on which the loss is measured before and after training.
        samples: Examples whose prompts the model answers before and after training.
    """

    rendered: RenderResult
    skipped: list[UnreadRow]
    notices: list[str]
    train: Items
    held_out: Mapping[str, Items]
    samples: list[Example]

    @property
    def longest(self) -> int:
        """Tokens of the longest document, held-out ones included."""
        return max(int(items.documents.lengths.max(initial=0)) for items in (self.train, *self.held_out.values()))

    @property
    def prompts(self) -> list[str]:
        """The prompts of the sample answers, as plain text."""
        return [example.prompt_text for example in self.samples]

    @property
    def unread(self) -> list[UnreadRow]:
        """Every row that is not trained on: first the rows that could not be read."""
        return [*self.skipped, *(UnreadRow(*row) for row in self.rendered.dropped)]

    def warnings(self) -> list[str]:
        """Return a line for each row that is left out (up to a limit), and one for each kind of part left out."""
        lines = [f"skipped {row}" for row in self.skipped[:_MAX_LISTED]]
        lines += [
            f"dropped {name}: {reason} ({detail})" for name, reason, detail in self.rendered.dropped[:_MAX_LISTED]
        ]
        remaining = len(self.unread) - len(lines)
        if remaining > 0:
            lines.append(f"and {remaining:,} more rows; --report FILE lists all of them")
        lines += [*self.notices, *self.rendered.notices()]
        if self.rendered.truncated:
            lines.append(f"{self.rendered.truncated:,} documents are longer than max_length and were cut")
        return lines


def read_training_data(data: str, renderer: Renderer, options: TrainingOptions) -> TrainingData:
    """Read and render the rows of ``data``, and set held-out rows and seed tasks aside.

    Raises:
        SelfInstructError: As ``finetune.data.rows.read_examples``.
    """
    rows = read_examples(data)
    rendered = render_all(rows.examples, renderer)
    evaluation = options.evaluation
    tasks = read_examples(str(builtin_seeds())).examples if evaluation.seed_tasks else []
    split = split_documents(rendered.corpus, rows.examples, evaluation.fraction, options.seed, tasks)
    held_out: dict[str, Items] = {"rows": split.held_out} if len(split.held_out) else {}
    samples = rows.examples
    notices = [*rows.notices, *([split.notice] if split.notice else [])]
    if evaluation.seed_tasks:
        if known := len(tasks) - len(split.tasks):
            notices.append(
                f"{plural(known, 'built-in seed task')} of {len(tasks)} are in the rows, and are not measured"
            )
        chosen = Rng("seed tasks", options.seed).sample(split.tasks, evaluation.seed_tasks)
        if len(measured := render_all(chosen, renderer).corpus):
            held_out["seed tasks"] = measured
        samples = [*samples, *chosen]
    names = {name for corpus in held_out.values() for name in corpus.names}
    samples = [example for example in samples if example.name in names]
    return TrainingData(rendered, rows.skipped, notices, split.train, held_out, samples[: evaluation.samples])
