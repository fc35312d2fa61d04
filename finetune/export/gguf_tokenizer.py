"""The tokenizer of a GGUF file: byte-level BPE, or BPE over characters as SentencePiece has it.

llama.cpp has its own tokenizers. One that would read some text differently is refused, or the difference is named where
llama.cpp leaves no choice and everybody lives with it.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable
from itertools import groupby
from typing import Any

from finetune.model.pretokenizers import APPROXIMATED, pre_tokenizer_name
from selfinstruct.errors import UsageError

__all__ = ["model_name", "write_tokenizer"]

_SPACE = "▁"
_BYTE = re.compile(r"<0x[0-9A-F]{2}>")
_NORMAL, _UNKNOWN, _CONTROL, _USER_DEFINED, _UNUSED, _BYTE_TYPE = range(1, 7)
_NOT_STRIPPED = {"<unk>", "<s>", "<|endoftext|>"}  # by llama.cpp in a model called Phi-3
_ROLES = ("bos", "eos", "pad", "unk")


def write_tokenizer(
    writer: Any, tokenizer: Any, stops: Iterable[int], size: int, name: str, notify: Callable[[str], None]
) -> None:
    """Write the tokenizer, with unused tokens for the rows of the embedding beyond its vocabulary.

    Args:
        writer: A ``gguf.GGUFWriter``.
        tokenizer: The tokenizer of transformers.
        stops: Ids of the tokens at which the model stops.
        size: Number of rows of the embedding.
        name: The model, for messages.
        notify: Called with a line on each kind of text that llama.cpp reads differently.

    Raises:
        UsageError: llama.cpp would tokenize some text differently, or end a text at another token.
    """
    backend = getattr(tokenizer, "backend_tokenizer", None)
    state: dict[str, Any] = {"model": {"type": type(tokenizer).__name__}, "added_tokens": []}
    if backend is not None:
        state = json.loads(backend.to_str())
    model = state["model"]
    if model["type"] != "BPE":
        raise UsageError(
            f"{name}: a tokenizer of type {model['type']}; only byte-level BPE and SentencePiece BPE can be written as "
            "GGUF"
        )
    if any(model.get(option) for option in ("dropout", "continuing_subword_prefix", "end_of_word_suffix")):
        raise UsageError(f"{name}: its tokenizer marks or drops parts of words, which can't be written as GGUF")
    _check_added_tokens(state, tokenizer, name)
    _write_vocabulary(writer, tokenizer, state, size, name)
    if model.get("byte_fallback"):
        _write_sentencepiece(writer, tokenizer, state, size, name, notify)
    else:
        _write_byte_level(writer, state, backend, name, notify)
    _write_special_tokens(writer, tokenizer, stops, name, notify)
    if (template := tokenizer.chat_template) is not None:
        several = isinstance(template, dict)
        writer.add_chat_template([{"name": k, "template": v} for k, v in template.items()] if several else template)


def _check_added_tokens(state: dict[str, Any], tokenizer: Any, name: str) -> None:
    for added in state["added_tokens"]:
        if added["lstrip"] or added["single_word"] or (added["rstrip"] and not _strips_as_phi3(state)):
            raise UsageError(
                f"{name}: whether its token {added['content']!r} matches depends on the text around it (lstrip, rstrip "
                "or single_word), which a GGUF file can't express"
            )
        named = added["content"] in {getattr(tokenizer, f"{role}_token") for role in _ROLES}
        if added["normalized"] and not named and _prepends(state["normalizer"]):
            raise UsageError(
                f"{name}: its token {added['content']!r} matches after a space only, which a GGUF file can't express"
            )


def model_name(tokenizer: Any) -> str:
    """Return the name for a file, by which llama.cpp decides whether control tokens swallow the spaces after them."""
    backend = getattr(tokenizer, "backend_tokenizer", None)
    as_phi3 = backend is not None and _strips_as_phi3(json.loads(backend.to_str()))
    return "fine-tuned Phi-3" if as_phi3 else "fine-tuned model"


def _strips_as_phi3(state: dict[str, Any]) -> bool:
    """Return whether the added tokens swallow the spaces after them as llama.cpp does in a model called Phi-3."""
    stripping = {added["content"] for added in state["added_tokens"] if added["rstrip"]}
    return bool(stripping) and stripping == {added["content"] for added in state["added_tokens"]} - _NOT_STRIPPED


def _write_vocabulary(writer: Any, tokenizer: Any, state: dict[str, Any], size: int, name: str) -> None:
    tokens = {token_id: token for token, token_id in tokenizer.get_vocab().items()}
    if max(tokens) >= size:
        raise UsageError(
            f"{name}: its tokenizer has tokens that the model has no embedding for: it can't be written as GGUF"
        )
    types = [_NORMAL if token_id in tokens else _UNUSED for token_id in range(size)]
    if state["model"].get("byte_fallback"):
        for token_id, token in tokens.items():
            if _BYTE.fullmatch(token):
                types[token_id] = _BYTE_TYPE
    for added in state["added_tokens"]:
        types[added["id"]] = _CONTROL if added["special"] else _USER_DEFINED
    if state["model"].get("byte_fallback") and tokenizer.unk_token_id is not None:
        types[tokenizer.unk_token_id] = _UNKNOWN
    taken = set(tokens.values())
    writer.add_token_list(
        [(tokens.get(token_id) or _unused_token(token_id, taken)).encode() for token_id in range(size)]
    )
    writer.add_token_types(types)


def _unused_token(token_id: int, taken: set[str]) -> str:
    """Return a unique string for a token without one; llama.cpp rejects files with duplicate tokens."""
    token = f"[PAD{token_id}]"
    while token in taken:
        token = f"[{token}]"
    taken.add(token)
    return token


def _write_byte_level(
    writer: Any, state: dict[str, Any], backend: Any, name: str, notify: Callable[[str], None]
) -> None:
    if (normalizer := state["normalizer"]) is not None:
        if normalizer["type"] != "NFC":
            raise UsageError(
                f"{name}: its tokenizer normalizes text ({normalizer['type']}), and llama.cpp does not: it can't be "
                "written as GGUF"
            )
        notify("llama.cpp does not compose characters (NFC) as the tokenizer does: give it text that is composed")
    model = state["model"]
    pre_tokenizer = pre_tokenizer_name(backend.pre_tokenizer, ignore_merges=bool(model.get("ignore_merges")))
    if pre_tokenizer is None:
        raise UsageError(
            f"{name}: its tokenizer has a pre-tokenizer for which no name of llama.cpp is known here: it can't be "
            "written as GGUF"
        )
    if pre_tokenizer in APPROXIMATED:
        notify("llama.cpp splits words with combining marks, as in Hindi, into other tokens than the tokenizer does")
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre(pre_tokenizer)
    writer.add_token_merges([" ".join(pair) for pair in _merges(model)])
    writer.add_add_space_prefix(False)


def _write_sentencepiece(
    writer: Any, tokenizer: Any, state: dict[str, Any], size: int, name: str, notify: Callable[[str], None]
) -> None:
    writer.add_tokenizer_model("llama")
    writer.add_tokenizer_pre("default")
    writer.add_add_space_prefix(_adds_space(state, tokenizer.chat_template is not None, name, notify))
    vocabulary: dict[str, int] = state["model"]["vocab"]
    missing = [byte for byte in range(256) if f"<0x{byte:02X}>" not in vocabulary]
    if missing:
        raise UsageError(f"{name}: its tokenizer has no token for the byte {missing[0]}: it can't be written as GGUF")
    scores = [0.0] * size
    added = {token["content"] for token in state["added_tokens"]}
    for rank, token in enumerate(_ranked_tokens(_merges(state["model"]), vocabulary, added, name)):
        scores[vocabulary[token]] = -float(rank)
    writer.add_token_scores(scores)


def _merges(model: dict[str, Any]) -> list[tuple[str, str]]:
    pairs = (merge.split(" ") if isinstance(merge, str) else merge for merge in model["merges"])
    return [(first, second) for first, second in pairs]


def _ranked_tokens(
    merges: list[tuple[str, str]], vocabulary: dict[str, int], added: set[str], name: str
) -> list[str]:  # fmt: skip
    """Return the tokens that merges make, best first.

    llama.cpp ranks the tokens and joins any two neighbours that make one; a list of merges ranks the pairs. Both agree
    if the list has every pair of tokens that makes a token, and all pairs of a token one after the other.

    Raises:
        UsageError: They don't agree.
    """
    ranked = [token for token, _ in groupby(first + second for first, second in merges)]
    pairs = set(merges)
    agree = len(set(ranked)) == len(ranked)
    for token in vocabulary:
        if not agree:
            break
        if token not in added and not _BYTE.fullmatch(token):
            splits = ((token[:at], token[at:]) for at in range(1, len(token)))
            agree = all(pair in pairs for pair in splits if pair[0] in vocabulary and pair[1] in vocabulary)
    if not agree:
        raise UsageError(
            f"{name}: its tokenizer ranks pairs of tokens, llama.cpp the tokens that they make, and both would split "
            "some words differently: it can't be written as GGUF"
        )
    return ranked


def _prepends(normalizer: dict[str, Any] | None) -> bool:
    return normalizer is not None and any(step["type"] == "Prepend" for step in normalizer.get("normalizers", []))


def _adds_space(state: dict[str, Any], chat: bool, name: str, notify: Callable[[str], None]) -> bool:
    """Return whether llama.cpp is to put a space before each text that follows no plain text.

    Args:
        state: The content of the tokenizer's tokenizer.json.
        chat: Whether the model has a chat template.
    """
    replace = {"type": "Replace", "pattern": {"String": " "}, "content": _SPACE}
    prepend = {"type": "Prepend", "prepend": _SPACE}
    normalizer, pre = state["normalizer"], state["pre_tokenizer"]
    if pre is None or (pre["type"] == "Split" and pre["pattern"] == {"String": " "}):  # no space is left to split at
        if normalizer == replace:
            return False
        if normalizer == {"type": "Sequence", "normalizers": [prepend, replace]}:
            return True
    elif pre["type"] == "Metaspace" and normalizer is None and not pre["split"] and pre["replacement"] == _SPACE:
        scheme = pre["prepend_scheme"]
        if scheme == "always":
            notify("llama.cpp puts a space before a text that begins with one already, and the tokenizer does not")
        elif scheme == "first":
            where = "none before a prompt without a chat template" if chat else "one after a control token as well"
            notify(f"llama.cpp can't put a space before the first word only: it puts {where}")
        return bool(scheme == "always" or (scheme == "first" and not chat))
    raise UsageError(f"{name}: its tokenizer treats spaces in a way for which no setting of llama.cpp is known here")


def _write_special_tokens(
    writer: Any, tokenizer: Any, stops: Iterable[int], name: str, notify: Callable[[str], None]
) -> None:
    """Write the special tokens; llama.cpp stops at three: the end of a text, of a turn and of a message."""
    if tokenizer.eos_token_id is None:
        raise UsageError(
            f"{name}: its tokenizer names no token that ends a text, and llama.cpp would take token 11 for it; set "
            "eos_token in its tokenizer_config.json"
        )
    for role in _ROLES:
        if (token_id := getattr(tokenizer, f"{role}_token_id")) is not None:
            getattr(writer, f"add_{role}_token_id")(token_id)
    others = [token_id for token_id in dict.fromkeys(stops) if token_id != tokenizer.eos_token_id]
    for add, token_id in zip((writer.add_eot_token_id, writer.add_eom_token_id), others, strict=False):
        add(token_id)
    if others[2:]:
        left_out = ", ".join(repr(tokenizer.convert_ids_to_tokens(token_id)) for token_id in others[2:])
        notify(f"a GGUF file names at most three tokens that end an answer: left out {left_out}")
    bos, eos = _adds_bos_eos(tokenizer, name)
    writer.add_add_bos_token(bos)
    writer.add_add_eos_token(eos)


def _adds_bos_eos(tokenizer: Any, name: str) -> tuple[bool, bool]:
    """Return whether the tokenizer puts BOS before each text, and EOS after it."""
    bare, full = tokenizer("a", add_special_tokens=False).input_ids, tokenizer("a").input_ids
    for bos, eos in ((False, False), (True, False), (False, True), (True, True)):
        if full == [tokenizer.bos_token_id] * bos + bare + [tokenizer.eos_token_id] * eos:
            return bos, eos
    raise UsageError(f"{name}: its tokenizer puts more around a text than BOS and EOS: it can't be written as GGUF")
