"""The data of a run: training documents, held-out documents, and prompts for sample answers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from finetune.data.plan import Items
from finetune.data.render import Renderer, RenderResult, render_all
from finetune.data.rows import Example, read_examples
from finetune.options import TrainingOptions
from selfinstruct.common.resources import builtin_seeds
from selfinstruct.common.rng import Rng

__all__ = ["TrainingData", "read_training_data"]

_MAX_LISTED = 20  # skipped rows, and dropped rows, that are listed one by one


@dataclass(frozen=True)
class TrainingData:
    """The data of a run.

    Attributes:
        rendered: All documents, and the rows that were dropped.
        skipped: A message for each row that could not be read.
        notices: What is left out of the rows that are used.
        train: The training documents.
        held_out: The held-out sets by name, on which the loss is measured before and after training.
        samples: Examples whose prompts the model answers before and after training.
    """

    rendered: RenderResult
    skipped: list[str]
    notices: list[str]
    train: Items
    held_out: Mapping[str, Items]
    samples: list[Example]

    @property
    def prompts(self) -> list[str]:
        """The prompts of the sample answers, as plain text."""
        return [example.prompt_text for example in self.samples]

    def warnings(self) -> list[str]:
        """Return a line for each row that is left out (up to a limit), and one for each kind of part left out."""
        dropped = self.rendered.dropped
        lines = [f"skipped {message}" for message in self.skipped[:_MAX_LISTED]]
        lines += [f"dropped {name}: {reason} ({detail})" for name, reason, detail in dropped[:_MAX_LISTED]]
        remaining = len(self.skipped) + len(dropped) - len(lines)
        if remaining > 0:
            lines.append(f"and {remaining:,} more rows")
        lines += self.notices
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
    train, held_out_rows = rendered.corpus.split(evaluation.fraction, options.seed)
    held_out: dict[str, Items] = {"rows": held_out_rows} if len(held_out_rows) else {}
    held_out_names = set(held_out_rows.names)
    samples = [example for example in rows.examples if example.name in held_out_names]
    if evaluation.seed_tasks:
        seeds = read_examples(str(builtin_seeds())).examples
        chosen = Rng("seed tasks", options.seed).sample(seeds, evaluation.seed_tasks)
        if len(tasks := render_all(chosen, renderer).corpus):
            held_out["seed tasks"] = tasks
        samples += chosen
    return TrainingData(rendered, rows.skipped, rows.notices, train, held_out, samples[: evaluation.samples])
