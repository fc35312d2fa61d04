"""Run distilabel's SelfInstruct with an answer to each instruction, as a peer of ``bench/generate.py``.

    PYTHON bench/peer_distilabel.py --base-url URL --model NAME --seeds FILE --lists N -o ROWS.jsonl

PYTHON belongs to an environment with ``distilabel[openai]==1.5.3``, ``requests`` and ``openai<2``. The defaults of
distilabel apply: five instructions for each seed, and its own prompts. Its steps pass batches to each other.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from distilabel.models import OpenAILLM
from distilabel.pipeline import Pipeline
from distilabel.steps import ExpandColumns, LoadDataFromDicts
from distilabel.steps.tasks import SelfInstruct, TextGeneration


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--base-url", required=True)
    parser.add_argument("--model", required=True)
    parser.add_argument("--seeds", type=Path, required=True)
    parser.add_argument("--lists", type=int, default=20, help="number of seeds; each yields one list of instructions")
    parser.add_argument("--list-tokens", type=int, default=220)
    parser.add_argument("--answer-tokens", type=int, default=200)
    parser.add_argument("-o", "--out", type=Path, required=True)
    arguments = parser.parse_args()
    seeds = [json.loads(line)["instruction"] for line in arguments.seeds.read_text(encoding="utf-8").splitlines()]

    def llm(tokens: int, temperature: float) -> OpenAILLM:
        return OpenAILLM(
            model=arguments.model, base_url=arguments.base_url, api_key="none", timeout=600,
            generation_kwargs={"max_new_tokens": tokens, "temperature": temperature},
        )  # fmt: skip

    with Pipeline(name="peer") as pipeline:
        load = LoadDataFromDicts(data=[{"input": text} for text in seeds[: arguments.lists]])
        lists = SelfInstruct(llm=llm(arguments.list_tokens, 0.8))
        each = ExpandColumns(columns={"instructions": "instruction"})
        answers = TextGeneration(llm=llm(arguments.answer_tokens, 0.3))
        load >> lists >> each >> answers
    rows = pipeline.run(use_cache=False)["default"]["train"]
    with arguments.out.open("w", encoding="utf-8") as file:
        for row in rows:
            if row["instruction"] and row["generation"]:
                file.write(json.dumps({"instruction": row["instruction"], "output": row["generation"]}) + "\n")


if __name__ == "__main__":
    main()
