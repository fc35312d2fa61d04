"""How byte-level tokenizers cut text into words before their merges, by llama.cpp's names.

A GGUF file says it in one word, ``tokenizer.ggml.pre``; a folder of transformers spells it out, without a name. Cut in
another way, a text becomes other tokens than those that the model knows it by, and nothing reports it.
"""

from __future__ import annotations

import json
from typing import Any

from tokenizers import Regex
from tokenizers.pre_tokenizers import ByteLevel, Digits, PreTokenizer, Sequence, Split

__all__ = ["NAMES", "by_name", "name_of"]

_GPT2 = ByteLevel(add_prefix_space=False)
_DIGITS = Sequence([Digits(individual_digits=True), ByteLevel(add_prefix_space=False)])
_LLAMA3 = Sequence(
    [
        Split(
            Regex(
                r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*"
                r"|\s*[\r\n]+|\s+(?!\S)|\s+"
            ),
            behavior="isolated",
        ),
        ByteLevel(add_prefix_space=False, use_regex=False),
    ]
)
# What llama.cpp does at each name (src/llama-vocab.cpp), as ``by_name`` returns it. Of names that mean the same, the
# first is the one that is written.
_WAYS: dict[tuple[str, ...], tuple[PreTokenizer, bool]] = {
    ("gpt-2", "phi-2", "olmo", "mpt", "mellum", "exaone4", "trillion", "granite-docling"): (_GPT2, False),
    ("smollm", "starcoder", "refact", "command-r", "codeshell", "exaone", "minerva-7b", "mellum2"): (_DIGITS, False),
    ("llama-bpe", "llama3", "llama-v3", "falcon3", "falcon-h1", "pixtral", "midm-2.0", "lfm2"): (_LLAMA3, True),
    ("smaug-bpe", "dbrx"): (_LLAMA3, False),
}
NAMES = tuple(name for names in _WAYS for name in names)
"""The names that ``by_name`` knows."""


def by_name(name: str) -> tuple[PreTokenizer, bool] | None:
    """What cuts text in the way that llama.cpp calls ``name``; None if that is not known here.

    The second value: whether a word that is in the vocabulary is taken as it stands, before any merges are tried.
    """
    return next((way for names, way in _WAYS.items() if name in names), None)


def name_of(cutter: PreTokenizer | None, *, whole_words: bool) -> str | None:
    """llama.cpp's name for what a tokenizer does; None if it has none here. Arguments as ``by_name`` returns them."""
    if cutter is None:
        return None
    wanted = (_steps(cutter), whole_words)
    return next((names[0] for names, (known, whole) in _WAYS.items() if (_steps(known), whole) == wanted), None)


def _steps(cutter: PreTokenizer) -> list[dict[str, Any]]:
    plain = json.loads(cutter.__getstate__())
    steps = plain["pretokenizers"] if plain["type"] == "Sequence" else [plain]
    # ``trim_offsets`` moves where a token is said to stand, and leaves the token as it is.
    return [{key: value for key, value in step.items() if key != "trim_offsets"} for step in steps]
