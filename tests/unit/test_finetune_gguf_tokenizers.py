"""Tokenizers over characters, as SentencePiece has them: llama.cpp reads the same tokens, or the export fails."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast
from transformers.tokenization_utils_base import generate_merges

from finetune.export.gguf import export_gguf
from finetune.model.loading import load_tokenizer
from finetune.model.saving import save
from selfinstruct.errors import UsageError
from tests.finetune_fixtures import TEXTS, make_model
from tests.llama import HARD, PROMPTS, Llama

SPACE = "▁"
REPLACE = normalizers.Replace(" ", SPACE)
PREPEND = normalizers.Sequence([normalizers.Prepend(SPACE), REPLACE])
CHAT = "{% for message in messages %}{{ '<|user|>' + message['content'] + '<|end|>' }}{% endfor %}"
SPECIAL = ("<unk>", "<s>", "</s>", "<|endoftext|>", "<|user|>", "<|end|>")


def pieces() -> list[str]:
    """Return pieces of ``TEXTS``, best first: those of a BPE of the whole text, with a sign for the space."""
    backend = Tokenizer(models.BPE())
    backend.normalizer = PREPEND
    trainer = trainers.BpeTrainer(vocab_size=400, show_progress=False)
    backend.train_from_iterator([*TEXTS, *PROMPTS, "  two   three    four", "\n\n\n"], trainer)
    return sorted(backend.get_vocab(), key=backend.get_vocab().__getitem__)


def sentencepiece(
    normalizer: Any = REPLACE, pre_tokenizer: Any = None, *, rstrip: tuple[str, ...] = (), template: str | None = None
) -> Any:
    """Return a tokenizer with tokens for bytes, whose merges follow from the ranks of its tokens."""
    byte_tokens = [f"<0x{byte:02X}>" for byte in range(256)]
    ordered = [*SPECIAL[:3], *byte_tokens, *pieces(), *SPECIAL[3:]]
    vocabulary = {token: token_id for token_id, token in enumerate(dict.fromkeys(ordered))}
    ranks = {token: vocabulary[token] for token in pieces()}
    merges = generate_merges(ranks, {token: -rank for token, rank in ranks.items()})
    backend = Tokenizer(models.BPE(vocabulary, merges, unk_token="<unk>", fuse_unk=True, byte_fallback=True))
    backend.normalizer, backend.pre_tokenizer = normalizer, pre_tokenizer
    backend.decoder = decoders.Sequence([decoders.Replace(SPACE, " "), decoders.ByteFallback(), decoders.Fuse()])
    backend.add_special_tokens(
        [AddedToken(token, normalized=False, special=True, rstrip=token in rstrip) for token in SPECIAL]
    )
    backend.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", vocabulary["<s>"])])
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=backend, bos_token="<s>", eos_token="<|end|>", unk_token="<unk>", pad_token="<|endoftext|>"
    )
    tokenizer.chat_template = template
    return tokenizer


def exported(tokenizer: Any, folder: Path) -> tuple[Any, Path, list[str]]:
    """Return the tokenizer as transformers loads it, the GGUF file, and the notices of the export."""
    save(make_model(len(tokenizer), eos_token_id=tokenizer.eos_token_id), tokenizer, folder / "model")
    notices: list[str] = []
    export_gguf(str(folder / "model"), folder / "m.gguf", dtype="f32", notify=notices.append)
    return load_tokenizer(str(folder / "model")), folder / "m.gguf", notices


CONVERSATION = "<|user|>Name a colour.<|end|><|user|> two  spaces<|end|>\n<|user|>\n\nlines"
SPACES = ("  two  spaces", "a  b", " ", "   ", "\n x", "x ")


@pytest.mark.parametrize(
    ("normalizer", "pre_tokenizer"),
    [
        (PREPEND, None),
        (REPLACE, None),
        (REPLACE, pre_tokenizers.Split(" ", "merged_with_previous")),
        (None, pre_tokenizers.Metaspace(prepend_scheme="never", split=False)),
    ],
)
def test_llama_cpp_reads_the_same_tokens(normalizer, pre_tokenizer, tmp_path) -> None:
    tokenizer, path, notices = exported(sentencepiece(normalizer, pre_tokenizer), tmp_path)
    assert notices == []
    llama = Llama(path)
    for text in (*HARD, *PROMPTS, *SPACES, CONVERSATION):
        assert llama.tokens(text) == tokenizer(text).input_ids, text


@pytest.mark.parametrize(
    ("scheme", "template", "notice", "same"),
    [
        ("always", CHAT, "a space before a text that begins with one already", (*PROMPTS, "<|user|>Name<|end|>\nx")),
        ("first", CHAT, "none before a prompt without a chat template", ("<s><|user|>Name<|end|>", CONVERSATION)),
        ("first", None, "it puts one after a control token as well", PROMPTS),
    ],
)  # fmt: skip
def test_a_space_that_llama_cpp_puts_elsewhere_is_named(scheme, template, notice, same, tmp_path) -> None:
    pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme=scheme, split=False)
    tokenizer, path, notices = exported(sentencepiece(None, pre_tokenizer, template=template), tmp_path)
    assert len(notices) == 1
    assert notice in notices[0]
    llama = Llama(path)
    for text in same:
        # llama.cpp adds a BOS even if the text has one.
        ids = llama.ask("/tokenize", content=text, add_special=False, parse_special=True)["tokens"]
        assert ids == tokenizer(text, add_special_tokens=False).input_ids, text


def test_control_tokens_that_swallow_spaces_agree_as_in_phi_3(tmp_path) -> None:
    stripping = ("</s>", "<|user|>", "<|end|>")
    tokenizer, path, _ = exported(sentencepiece(PREPEND, rstrip=stripping), tmp_path)
    llama = Llama(path)
    for text in ("<|user|>\nHi<|end|>\n<|user|>  x", "<|endoftext|>  y", CONVERSATION):
        assert llama.tokens(text) == tokenizer(text).input_ids, text
    assert tokenizer("<|user|>\nHi").input_ids == tokenizer("<|user|>Hi").input_ids, "it swallows"


def altered(change: Any) -> Any:
    """Return a tokenizer whose tokenizer.json was changed."""
    tokenizer = sentencepiece(PREPEND)
    state = json.loads(tokenizer.backend_tokenizer.to_str())
    change(state)
    return PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer.from_str(json.dumps(state)), bos_token="<s>", eos_token="<|end|>", unk_token="<unk>"
    )


def drop_a_pair(state: dict[str, Any]) -> None:
    made = [first + second for first, second in state["model"]["merges"]]
    del state["model"]["merges"][next(index for index, token in enumerate(made) if made.count(token) > 1)]


def exchange_merges(state: dict[str, Any]) -> None:
    merges = state["model"]["merges"]
    made = [first + second for first, second in merges]
    at = next(index for index, token in enumerate(made) if made.count(token) > 1)
    merges.append(merges.pop(at))


@pytest.mark.parametrize(
    ("tokenizer", "message"),
    [
        (lambda: altered(drop_a_pair), "ranks pairs of tokens"),
        (lambda: altered(exchange_merges), "ranks pairs of tokens"),
        (lambda: sentencepiece(None, pre_tokenizers.Metaspace(split=True)), "treats spaces in a way"),
        (lambda: sentencepiece(normalizers.NFKC()), "treats spaces in a way"),
        (lambda: sentencepiece(REPLACE, pre_tokenizers.Split(Regex(r"\d"), "isolated")), "treats spaces in a way"),
        (lambda: sentencepiece(PREPEND, rstrip=("<|user|>",)), "'<|user|>' matches depends on the text around it"),
    ],
)
def test_a_tokenizer_that_llama_cpp_reads_otherwise_is_rejected(tokenizer, message, tmp_path) -> None:
    with pytest.raises(UsageError) as caught:
        exported(tokenizer(), tmp_path)
    assert message in str(caught.value)
    assert not (tmp_path / "m.gguf").exists()
