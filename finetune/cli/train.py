"""``finetune train``."""

from __future__ import annotations

from pathlib import Path

import click

from finetune.cli.running import Functions, run_training
from finetune.recipes import recipe_names

_PATH = click.Path(path_type=Path)


@click.command("train")
@click.option("--model", metavar="NAME", help="Model to start from: a folder, a .gguf file or a hub name.  "
              "[default: the embedded SmolLM2-135M]")  # fmt: skip
@click.option("--data", required=True, metavar="PATH",
              help="Rows: a file (.jsonl, .jsonl.gz, .json, .parquet), a run directory, a datasets directory, a hub "
              "name.")  # fmt: skip
@click.option("--recipe", metavar="NAME", default="alpaca", show_default=True,
              help=f"Settings to start from: {', '.join(recipe_names())}.")  # fmt: skip
@click.option("--config", type=_PATH, help="YAML file of settings that override the recipe.")
@click.option("--set", "assignments", multiple=True, metavar="KEY=VALUE",
              help="Override a setting of recipe and file. May be repeated.")  # fmt: skip
@click.option("-o", "--output", type=_PATH, metavar="OUT", help="Directory of the run and its model. Not needed "
              "with --dry-run.")  # fmt: skip
@click.option("--dry-run", is_flag=True, help="Show documents, steps and predicted memory; train and write nothing.")
@click.option("--report", type=_PATH, metavar="FILE", help="With --dry-run: write a line of JSON for each row that "
              "is not trained on.")  # fmt: skip
@click.option("--json", "as_json", is_flag=True, help="With --dry-run: print JSON.")
@click.option("--skip-malformed/--no-skip-malformed", default=True, show_default=True,
              help="Leave out rows that can't be read, and count them; or refuse the data.")  # fmt: skip
@click.option("-q", "--quiet", is_flag=True, help="Show no progress.")
@click.pass_context
def command(
    ctx: click.Context, /, model: str | None, data: str, recipe: str, config: Path | None,
    assignments: tuple[str, ...], output: Path | None, dry_run: bool, report: Path | None, as_json: bool,
    skip_malformed: bool, quiet: bool,
) -> None:  # fmt: skip
    """Fine-tune a model on the rows of a dataset, or resume the run in OUT.

    Rows may have any common layout (docs/layouts.md): instruction, input and output; messages; prompt and completion.
    Only the answers are supervised. Ctrl-C stops after the current step and saves a checkpoint; the same command
    resumes.

    Several GPUs share the work and the memory when torchrun starts a process for each (FSDP2).

    OUT then holds a model that transformers and vLLM load, metrics.jsonl, loss.png and TensorBoard events.

    Exit codes: 0 success; 1 training failed; 2 the command, the settings or the data must be changed; 130 interrupted.

    \b
    Examples:
      finetune train --data runs/demo --recipe quickstart -o runs/demo/model
      finetune train --data rows.jsonl --recipe chat --dry-run
      finetune train --model Qwen/Qwen3-0.6B --data rows.jsonl --recipe chat -o runs/qwen
      finetune train --model /models/llama --data rows.parquet --recipe qlora --set lora.rank=32 -o runs/llama
      torchrun --nproc-per-node 8 -m finetune train --model /models/llama --data rows.parquet -o runs/llama8
    """
    run_training(
        ctx, _load, model=model, data=data, recipe=recipe, config=config, assignments=assignments, output=output,
        dry_run=dry_run, report=report, as_json=as_json, skip_malformed=skip_malformed, quiet=quiet,
    )  # fmt: skip


def _load() -> Functions:
    from finetune.data.rows import require_readable
    from finetune.session import preview, train

    return Functions(require_readable, preview, train)
