"""Compare the backends that run a model themselves on the same weights: equal greedy texts, and speed.

The embedded model is written as a folder of float32 weights and, for llama.cpp, as a GGUF file of float32 weights. Each
backend continues the same prompts, all in flight at once::

    python bench/backends_agree.py --vllm-python .venv-vllm/bin/python

vLLM is in an environment of its own, so this script runs itself there. Tokens per CPU second are comparable on a busy
machine, too; they count all threads and processes of a backend from its first request to its last answer.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from reporting import RESULTS, hardware, today

from selfinstruct.backends import open_backend
from selfinstruct.backends.llamacpp import LlamaCppOptions
from selfinstruct.backends.transformers.options import TransformersOptions
from selfinstruct.backends.vllm.options import VllmOptions
from selfinstruct.common.resources import builtin_seeds
from selfinstruct.records import PromptMessage, Request, Sampling

CONTEXT = 1024
ROW = "| {} | {} | {:.1f} | {:.1f} | {} | {:.1f} of {:.1f} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--prompts", type=int, default=20)
    parser.add_argument("--tokens", type=int, default=24, help="most tokens of an answer")
    parser.add_argument("--threads", type=int, default=1, help="CPU threads of each backend")
    parser.add_argument("--vllm-python", help="interpreter of the environment that has vLLM")
    parser.add_argument("-o", "--output", type=Path, default=RESULTS / f"backends-{today()}.md")
    parser.add_argument("--ask", help=argparse.SUPPRESS)  # a backend; the job comes on standard input
    arguments = parser.parse_args()
    if arguments.ask:
        print(json.dumps(asyncio.run(answered(arguments.ask, **json.load(sys.stdin)))))
        return
    with tempfile.TemporaryDirectory() as folder:
        text = report(arguments, Path(folder))
    print(text)
    arguments.output.write_text(text, encoding="utf-8")


def report(arguments: argparse.Namespace, folder: Path) -> str:
    model, gguf = folder / "SmolLM2", folder / "SmolLM2-f32.gguf"
    convert(model, gguf)
    prompts = rendered(model, arguments.prompts)
    print("converted", file=sys.stderr)
    job = {"prompts": prompts, "tokens": arguments.tokens, "threads": arguments.threads}
    results = {"`generate()` of transformers, in one batch": reference(model, **job)}
    jobs = [("transformers", sys.executable, str(model)), ("llamacpp", sys.executable, str(gguf))]
    if arguments.vllm_python:
        jobs.append(("vllm", arguments.vllm_python, str(model)))
    for name, python, path in jobs:
        results[f"`{name}`"] = in_process(name, python, {**job, "model": path})
        print(name, file=sys.stderr)
    called = "python bench/backends_agree.py" + (" --vllm-python PYTHON" if arguments.vllm_python else "")
    threads = "1 thread" if arguments.threads == 1 else f"{arguments.threads} threads"
    lines = [
        f"# Backends on the same weights, {today()}", "",
        f"{threads} for each backend on {hardware()}, load {os.getloadavg()[0]:.1f} at the end. Printed by `{called}`.",
        "",
        f"The embedded model in float32, {arguments.prompts} chat prompts in flight at once, greedy, at most "
        f"{arguments.tokens} tokens each. Texts are compared with the first row; the last column is the mean common "
        "prefix in tokens, of the mean length of the first row's answers.", "",
        "| backend | tokens | tokens/s | tokens per CPU second | equal texts | common prefix |",
        "|---|---|---|---|---|---|",
        *table(model, results), "",
    ]  # fmt: skip
    return "\n".join(lines)


def convert(model: Path, gguf: Path) -> None:
    import torch

    from finetune.export.gguf import export_gguf
    from finetune.model.loading import load
    from finetune.model.saving import save

    loaded = load(None, dtype=torch.float32)
    save(loaded.model, loaded.tokenizer, model)
    export_gguf(str(model), gguf, dtype="f32")


def rendered(model: Path, count: int) -> list[str]:
    """Return prompts in the model's chat template, so that every backend reads the same text."""
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(model)
    rows = map(json.loads, Path(builtin_seeds()).read_text(encoding="utf-8").splitlines())
    messages = [[{"role": "user", "content": row["instruction"]}] for row in rows][:count]
    return [tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=True) for turns in messages]


def reference(model: Path, prompts: Sequence[str], tokens: int, threads: int) -> dict[str, Any]:
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    torch.set_num_threads(threads)
    tokenizer = AutoTokenizer.from_pretrained(model)
    causal = AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32)
    inputs = tokenizer(list(prompts), return_tensors="pt", padding=True, padding_side="left")
    width = inputs["input_ids"].shape[1]
    start, cpu = time.monotonic(), cpu_seconds()
    rows = causal.generate(**inputs, max_new_tokens=tokens, do_sample=False)[:, width:]
    seconds, used = time.monotonic() - start, cpu_seconds() - cpu
    texts = tokenizer.batch_decode(rows, skip_special_tokens=True)
    # An answer that ended has one stop token, and padding behind it, which is the same token in this model.
    lengths = [min(len(row), (row != tokenizer.pad_token_id).sum().item() + 1) for row in rows]
    return {"texts": texts, "tokens": sum(lengths), "seconds": seconds, "cpu": used}


def in_process(name: str, python: str, job: dict[str, Any]) -> dict[str, Any]:
    """Run one backend in a process of its own."""
    environment = {**os.environ, "PYTHONPATH": os.getcwd(), "OMP_NUM_THREADS": str(job["threads"])}
    if name == "vllm":  # it would bind its threads to cores of its own, one for each that it finds
        environment["VLLM_CPU_OMP_THREADS_BIND"] = ",".join(map(str, range(job["threads"])))
    done = subprocess.run(
        [python, __file__, "--ask", name], input=json.dumps(job), env=environment, stdout=subprocess.PIPE, text=True,
        check=True,
    )  # fmt: skip
    result: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return result


async def answered(name: str, prompts: Sequence[str], tokens: int, threads: int, model: str) -> dict[str, Any]:
    options: dict[str, Any] = {
        "transformers": TransformersOptions(model=model, api="completion", threads=threads),
        "llamacpp": LlamaCppOptions(model=model, context=CONTEXT, slots=len(prompts), threads=threads),
        "vllm": VllmOptions(model=model, api="completion", dtype="float32", max_model_len=CONTEXT, kv_cache_gib=0.5),
    }
    backend = open_backend(name, options[name])
    await backend.start()
    try:
        warm_up = Sampling(max_tokens=2, temperature=0.0)
        await backend.complete(Request("s", (PromptMessage("prompt", "t", {}, "One"),), warm_up))
        sampling = Sampling(max_tokens=tokens, temperature=0.0)
        requests = [Request("s", (PromptMessage("prompt", "t", {}, prompt),), sampling) for prompt in prompts]
        start, cpu = time.monotonic(), cpu_seconds()
        completions = await asyncio.gather(*map(backend.complete, requests))
        seconds, used = time.monotonic() - start, cpu_seconds() - cpu
    finally:
        await backend.close()
    count = sum(completion.usage.completion_tokens for completion in completions)
    return {"texts": [item.text for item in completions], "tokens": count, "seconds": seconds, "cpu": used}


def cpu_seconds() -> float:
    """Return the CPU time of this process, its threads, and the processes below it that are alive."""
    own = resource.getrusage(resource.RUSAGE_SELF)
    return own.ru_utime + own.ru_stime + sum(_below(os.getpid()))


def _below(pid: int) -> list[float]:
    times = []
    for task in Path(f"/proc/{pid}/task").iterdir():
        for child in (task / "children").read_text().split():
            fields = Path(f"/proc/{child}/stat").read_text().rpartition(")")[2].split()
            times += [(int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK"), *_below(int(child))]
    return times


def table(model: Path, results: dict[str, dict[str, Any]]) -> list[str]:
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(model)
    first = next(iter(results.values()))["texts"]
    expected = [tokenizer(text).input_ids for text in first]
    lines = []
    for name, result in results.items():
        common = [prefix(ids, tokenizer(text).input_ids) for ids, text in zip(expected, result["texts"], strict=True)]
        equal = sum(text == other for text, other in zip(first, result["texts"], strict=True))
        lines.append(
            ROW.format(
                name, result["tokens"], result["tokens"] / result["seconds"], result["tokens"] / result["cpu"],
                f"{equal} of {len(first)}", sum(common) / len(common), sum(map(len, expected)) / len(expected),
            )
        )  # fmt: skip
    return lines


def prefix(one: Sequence[int], other: Sequence[int]) -> int:
    pairs = enumerate(zip(one, other, strict=False))
    return next((index for index, (a, b) in pairs if a != b), min(len(one), len(other)))


if __name__ == "__main__":
    main()
