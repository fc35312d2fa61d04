"""Pre-tokenizers of byte-level BPE tokenizers, by their names in llama.cpp.

A GGUF file names its pre-tokenizer in one word, ``tokenizer.ggml.pre``; a folder of transformers spells it out without
a name. Under a different pre-tokenizer, text would become other tokens than in training, without any error.
"""

from __future__ import annotations

import json
from typing import Any

from tokenizers import Regex
from tokenizers.pre_tokenizers import ByteLevel, Digits, PreTokenizer, Sequence, Split

__all__ = ["APPROXIMATED", "pre_tokenizer_by_name", "pre_tokenizer_name", "pre_tokenizer_names"]

_GPT2 = ByteLevel(add_prefix_space=False)
_DIGITS = Sequence([Digits(individual_digits=True), ByteLevel(add_prefix_space=False)])


def _split(pattern: str) -> Sequence:
    return Sequence([Split(Regex(pattern), behavior="isolated"), ByteLevel(add_prefix_space=False, use_regex=False)])


def _words(digits: str) -> Sequence:
    """Return the pre-tokenizer of GPT-4 (cl100k), with runs of ``digits``."""
    return _split(
        rf"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{{L}}\p{{N}}]?\p{{L}}+|{digits}| ?[^\s\p{{L}}\p{{N}}]+[\r\n]*"
        r"|\s*[\r\n]+|\s+(?!\S)|\s+"
    )


_LLAMA3, _QWEN2 = _words(r"\p{N}{1,3}"), _words(r"\p{N}")
_UPPER, _LOWER = r"[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]", r"[\p{Ll}\p{Lm}\p{Lo}\p{M}]"
_TEKKEN = _split(
    rf"[^\r\n\p{{L}}\p{{N}}]?{_UPPER}*{_LOWER}+|[^\r\n\p{{L}}\p{{N}}]?{_UPPER}+{_LOWER}*"
    r"|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
_CONTRACTION = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)?"
_GPT4O = _split(
    rf"[^\r\n\p{{L}}\p{{N}}]?{_UPPER}*{_LOWER}+{_CONTRACTION}|[^\r\n\p{{L}}\p{{N}}]?{_UPPER}+{_LOWER}*{_CONTRACTION}"
    r"|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
# What llama.cpp does for each name (src/llama-vocab.cpp), as ``pre_tokenizer_by_name`` returns it. The first name of
# each group is the one that an export writes.
_PRE_TOKENIZERS: dict[tuple[str, ...], tuple[PreTokenizer, bool]] = {
    ("gpt-2", "phi-2", "olmo", "mpt", "mellum", "exaone4", "trillion", "granite-docling"): (_GPT2, False),
    ("smollm", "starcoder", "refact", "command-r", "codeshell", "exaone", "minerva-7b", "mellum2"): (_DIGITS, False),
    ("llama-bpe", "llama3", "llama-v3", "falcon3", "falcon-h1", "pixtral", "midm-2.0", "lfm2"): (_LLAMA3, True),
    ("smaug-bpe", "dbrx"): (_LLAMA3, False),
    ("qwen2", "deepseek-r1-qwen", "megrez"): (_QWEN2, False),
    ("tekken",): (_TEKKEN, True),
    ("gpt-4o", "llama4"): (_GPT4O, False),
}

APPROXIMATED = ("tekken", "gpt-4o", "llama4")
"""Names whose pre-tokenizer llama.cpp approximates: it splits words at combining marks, as in Hindi."""


def pre_tokenizer_names() -> list[str]:
    """Return the names that ``pre_tokenizer_by_name`` knows."""
    return [name for names in _PRE_TOKENIZERS for name in names]


def pre_tokenizer_by_name(name: str) -> tuple[PreTokenizer, bool] | None:
    """Return the pre-tokenizer that llama.cpp calls ``name`` and its ``ignore_merges``; None if the name is unknown.

    With ``ignore_merges``, a word that is in the vocabulary becomes one token without any merges being tried.
    """
    return next((value for names, value in _PRE_TOKENIZERS.items() if name in names), None)


def pre_tokenizer_name(pre_tokenizer: PreTokenizer | None, *, ignore_merges: bool) -> str | None:
    """Return llama.cpp's name for a pre-tokenizer, the inverse of ``pre_tokenizer_by_name``; None if it has none."""
    if pre_tokenizer is None:
        return None
    wanted = (_steps(pre_tokenizer), ignore_merges)
    candidates = ((names[0], (_steps(known), merges)) for names, (known, merges) in _PRE_TOKENIZERS.items())
    return next((name for name, candidate in candidates if candidate == wanted), None)


def _steps(pre_tokenizer: PreTokenizer) -> list[dict[str, Any]]:
    """Return a pre-tokenizer's steps as JSON, without ``trim_offsets``, which affects offsets but not tokens."""
    state = json.loads(pre_tokenizer.__getstate__())
    steps = state["pretokenizers"] if state["type"] == "Sequence" else [state]
    return [{key: value for key, value in step.items() if key != "trim_offsets"} for step in steps]
