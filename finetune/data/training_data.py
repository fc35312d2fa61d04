"""The documents of a run: what is trained on, what is held out, what sample answers are asked for."""

from __future__ import annotations

from dataclasses import dataclass

from finetune.data.corpus import Corpus
from finetune.data.render import Rendered, Renderer, render_all
from finetune.data.rows import Example, read_examples
from finetune.options import Options
from selfinstruct.common.resources import builtin_seeds
from selfinstruct.common.rng import Rng

__all__ = ["TrainingData", "read_training_data"]

_SHOWN = 20  # rows that were skipped or dropped, of each kind


@dataclass(frozen=True)
class TrainingData:
    """The documents of a run.

    Attributes:
        rendered: All that came of the rows, and which rows were dropped.
        skipped: A message for each row that could not be read.
        train: What is trained on.
        held_out: What the loss is measured on, by name.
        samples: What the model is asked before and after.
    """

    rendered: Rendered
    skipped: list[str]
    train: Corpus
    held_out: dict[str, Corpus]
    samples: list[Example]

    @property
    def prompts(self) -> list[str]:
        """What is asked, for people to read."""
        return [example.prompt_text for example in self.samples]

    def told(self) -> list[str]:
        """A line on each row that is left out or cut, up to a few."""
        lines = [f"skipped {line}" for line in self.skipped[:_SHOWN]]
        lines += [f"dropped {name}: {reason} ({detail})" for name, reason, detail in self.rendered.dropped[:_SHOWN]]
        more = len(self.skipped) + len(self.rendered.dropped) - len(lines)
        if more > 0:
            lines.append(f"and {more:,} more rows")
        if self.rendered.truncated:
            lines.append(f"{self.rendered.truncated:,} documents are longer than max_length and were cut")
        return lines


def read_training_data(data: str, renderer: Renderer, options: Options) -> TrainingData:
    """Read and render the rows of ``data``, and set some of them and some seed tasks aside.

    Raises:
        SelfInstructError: As ``finetune.data.rows.read_examples`` says.
    """
    found = read_examples(data)
    rendered = render_all(found.examples, renderer)
    evaluation = options.evaluation
    training, rows = rendered.corpus.split(evaluation.fraction, options.seed)
    held_out = {"rows": rows} if len(rows) else {}
    aside = set(rows.names)
    samples = [example for example in found.examples if example.name in aside]
    if evaluation.seed_tasks:
        seeds = read_examples(str(builtin_seeds())).examples
        chosen = Rng("seed tasks", options.seed).sample(seeds, evaluation.seed_tasks)
        if len(tasks := render_all(chosen, renderer).corpus):
            held_out["seed tasks"] = tasks
        samples += chosen
    return TrainingData(rendered, found.skipped, training, held_out, samples[: evaluation.samples])
