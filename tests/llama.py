"""The real llama.cpp next to transformers: what the tests of GGUF files compare."""

from __future__ import annotations

import json
import urllib.request
from pathlib import Path
from typing import Any

import torch
import xllamacpp

__all__ = ["HARD", "IDS", "PROMPTS", "Llama", "continuation", "logits"]

HARD = (
    "In 2024, I paid $1,234.50; the 7th of 12 parts  cost 3x100, 1000000 in all.",
    "x  12\n\n  345   6789\t0 a1b2c3 \r\n\r\n end\r",
    "def f(x):\n    return x ** 2  # Größe, naïve café\n\n\nclass A:\n\tpass\n",
    "日本語のテキスト 123 和中文、한국어 ไทย हिन्दी العربية ١٢٣",
    "😀🚀👩‍👩‍👧 ½ ² ⅷ ①é ﬁ ẞ İ",
    "don't we'll I'M it'S THEY'RE 'tis   spaces   \n\n\n end ",
    "    \t\t \n \n\n   ",
    "a\u00a0b\u3000c\u2028d\u0085e\u200bf\ufeffg\u00adh\x0bi\x0cj",
    "<|im_start|>user\nHi<|im_end|>\n<|endoftext|> <|im_start |> <|im_|im_end|>",
    "https://example.com/a?b=1&c=%20#d_e-f {\"k\": [1, 2.5e-3, null]} \\n \\u0041 ``` === -> != ...?!",
)  # fmt: skip
PROMPTS = (
    "The capital of France is", "Once upon a time", "def add(a, b):", "1. Write a story about", "The sky is",
    "Water boils at", "My name is", "The best way to learn is", "In 1969, men", "A recipe for bread:", "Dear Sir,",
    "Question: What is a cat?\nAnswer:", "The sun", "List three colours:", "How do I", "import numpy as np\n",
    "Roses are red,", "The largest planet", "She said that", "2 + 2 =",
)  # fmt: skip
IDS = [5, 6, 7, 8, 90, 91, 200, 12, 300, 44, 45, 46] * 4


class Llama:
    """A llama.cpp server for a GGUF file, computing in float32; it ends with the last reference to it."""

    def __init__(self, path: Path, context: int = 512) -> None:
        params = xllamacpp.CommonParams()
        params.model.path = str(path)
        params.n_ctx, params.n_parallel, params.port = context, 1, 0
        params.hostnames, params.ui, params.warmup, params.verbosity = ["127.0.0.1"], False, False, -1
        params.cpuparams.n_threads = params.cpuparams_batch.n_threads = 1
        params.n_gpu_layers, params.fit_params = 0, False
        params.cache_type_k = params.cache_type_v = xllamacpp.ggml_type.GGML_TYPE_F32
        params.flash_attn_type = xllamacpp.llama_flash_attn_type.LLAMA_FLASH_ATTN_TYPE_DISABLED
        self.server = xllamacpp.Server(params)
        # A server that is destroyed before its loop has started hangs; a response shows that the loop runs.
        self.ask("/completion", prompt=[5], n_predict=0)

    def ask(self, path: str, **body: Any) -> Any:
        data, kind = json.dumps(body).encode(), {"Content-Type": "application/json"}
        with urllib.request.urlopen(urllib.request.Request(self.server.listening_address + path, data, kind)) as answer:
            return json.load(answer)

    def tokens(self, text: str) -> list[int]:
        return self.ask("/tokenize", content=text, add_special=True, parse_special=True)["tokens"]

    def greedy(self, ids: list[int], count: int, **options: Any) -> list[int]:
        """Return at most ``count`` greedy tokens after ``ids``; fewer where llama.cpp stops."""
        body = {"n_predict": count, "temperature": 0, "return_tokens": True, "cache_prompt": False, **options}
        return self.ask("/completion", prompt=ids, **body)["tokens"]

    def next(self, ids: list[int], size: int) -> torch.Tensor:
        """Return (size,) log-probabilities of the next token, before any bias."""
        # The server reports them only together with a complete character, so a bias makes it choose a letter.
        body = {"n_predict": 1, "n_probs": size, "cache_prompt": False, "logit_bias": [[self.tokens("a")[-1], 1000]]}
        answer = self.ask("/completion", prompt=ids, **body)
        logprobs = torch.full((size,), float("nan"))
        for entry in answer["completion_probabilities"][0]["top_logprobs"]:
            logprobs[entry["id"]] = entry["logprob"]
        return logprobs


@torch.no_grad()
def logits(model: Any, ids: list[int] = IDS) -> torch.Tensor:
    return model.eval()(torch.tensor([ids])).logits[0].float()


@torch.no_grad()
def continuation(model: Any, ids: list[int], count: int) -> list[int]:
    """Return ``count`` greedy tokens after ``ids``, without stopping."""
    new = model.generate(
        torch.tensor([ids]), attention_mask=torch.ones(1, len(ids), dtype=torch.long), do_sample=False,
        min_new_tokens=count, max_new_tokens=count, pad_token_id=0, eos_token_id=None,
    )  # fmt: skip
    return new[0, len(ids) :].tolist()
