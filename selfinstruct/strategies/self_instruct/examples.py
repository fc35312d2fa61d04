"""The seeds that the prompts of the later stages show: the shortest suitable ones, the same for the whole run."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from selfinstruct.common.codec import dumps
from selfinstruct.parse import collapse
from selfinstruct.records import Instance, Task
from selfinstruct.strategies.self_instruct.options import SelfInstructOptions
from selfinstruct.strategies.shared.demonstrations import (
    has_instances,
    instruction_length,
    interleaved,
    is_classification_task,
    is_other_task,
    needs_input,
    needs_no_input,
    shortest,
    task_ids,
)

__all__ = ["Examples", "SeedExamples"]


@dataclass(frozen=True, slots=True)
class Examples:
    """Seeds that a kind of prompt shows: their ids, and the text that shows them."""

    ids: tuple[str, ...]
    text: str


class SeedExamples:
    """Chooses examples from the seeds of a run. Each choice depends on the seeds alone and is computed once."""

    def __init__(self, options: SelfInstructOptions) -> None:
        self._options = options
        self._seeds: Sequence[Task] = ()
        self._chosen: dict[Callable[[], Examples], Examples] = {}

    def of_both_classes(self, seeds: Sequence[Task]) -> Examples:
        """Return seeds of both classes; none if no seed is a classification task."""
        return self._choose(seeds, self._both_classes)

    def of_instances(self, seeds: Sequence[Task], *, is_classification: bool) -> Examples:
        """Return seeds of one class with their instances."""
        return self._choose(seeds, self._labelled if is_classification else self._unlabelled)

    def shown(self, task: Task) -> tuple[Instance, ...]:
        """Return the instances of a task that a prompt shows."""
        return task.instances[: self._options.example_instances]

    def in_domains(self, seed: Task) -> bool:
        """Return whether a seed is of one of the chosen domains."""
        return not self._options.domains or seed.domain in self._options.domains

    def _choose(self, seeds: Sequence[Task], choice: Callable[[], Examples]) -> Examples:
        if self._seeds is not seeds:
            self._seeds, self._chosen = seeds, {}
        if choice not in self._chosen:
            self._chosen[choice] = choice()
        return self._chosen[choice]

    def _both_classes(self) -> Examples:
        options = self._options
        yes = self._shortest(options.classify_yes, instruction_length, is_classification_task)
        no = self._shortest(options.classify_no, instruction_length, is_other_task) if yes else []
        seeds = interleaved(yes, no)
        text = "\n\n".join(
            f"Task: {collapse(seed.instruction)}\nClassification: {'yes' if seed.is_classification else 'no'}"
            for seed in seeds
        )
        return Examples(task_ids(seeds), text)

    def _labelled(self) -> Examples:
        count = self._options.output_first_examples
        seeds = self._shortest(count, self._shown_size, is_classification_task, has_instances)
        return Examples(task_ids(seeds), "\n\n".join(self._example(seed, True) for seed in seeds))

    def _unlabelled(self) -> Examples:
        count, size = self._options.input_first_examples, self._shown_size
        alone = self._shortest(count // 2, size, is_other_task, has_instances, needs_no_input)
        paired = self._shortest(count - len(alone), size, is_other_task, has_instances, needs_input)
        seeds = interleaved(paired, alone)
        return Examples(task_ids(seeds), "\n\n".join(self._example(seed, False) for seed in seeds))

    def _shortest(self, count: int, size: Callable[[Task], int], *conditions: Callable[[Task], bool]) -> list[Task]:
        """Return the shortest seeds that meet every condition; if any are in the chosen domains, only these."""
        suitable = [seed for seed in self._seeds if all(condition(seed) for condition in conditions)]
        return shortest([seed for seed in suitable if self.in_domains(seed)] or suitable, count, size)

    def _shown_size(self, task: Task) -> int:
        """Return the number of characters that the prompt shows of a task."""
        return len(task.instruction) + sum(len(shown.input) + len(shown.output) for shown in self.shown(task))

    def _example(self, task: Task, is_classification: bool) -> str:
        """Return one seed with its instances in the form of the prompt."""
        if self._options.structured:
            order = ("output", "input") if is_classification else ("input", "output")
            fields = [{"input": shown.input, "output": shown.output} for shown in self.shown(task)]
            instances = [{name: values[name] for name in order} for values in fields]
            return f"Task: {dumps(task.instruction)}\n{dumps({'instances': instances})}"
        lines = [f"### Task: {collapse(task.instruction)}"]
        for number, shown in enumerate(self.shown(task), 1):
            output = f"{'Label' if is_classification else 'Output'}: {shown.output}"
            if not shown.input:
                lines.append(output)
                break  # a task without an input has one answer
            pair = (output, f"Input: {shown.input}") if is_classification else (f"Input: {shown.input}", output)
            lines += (f"Example {number}", *pair)
        return "\n".join(lines)
