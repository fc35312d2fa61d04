"""Chatting with a model."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from finetune.chat import _AnswerStream, run_chat
from finetune.data.render import Renderer, RenderError
from finetune.data.rows import ChatTurn
from finetune.model.adapters import add_adapters, save_adapters
from finetune.model.loading import load
from finetune.options import Lora
from selfinstruct.errors import RunChangedError, UsageError
from tests.finetune_fixtures import make_model, tiny_model_folder, tiny_tokenizer  # noqa: F401


def chat(folder: Path | str, lines: list[Any], **options: Any) -> str:
    """Return the output for a user who types these lines (or raises these exceptions), and then Ctrl-D."""
    typed = iter(lines)
    written: list[str] = []

    def read(_prompt: str) -> str:
        line = next(typed, EOFError())
        if isinstance(line, BaseException):
            raise line
        return str(line)

    run_chat(str(folder), read=read, write=written.append, **{"max_tokens": 6, "temperature": 0, **options})
    return "".join(written)


def greedy(folder: Path, renderer: Renderer, turns: list[ChatTurn], max_tokens: int = 6) -> str:
    """Decode an answer greedily, without a cache, a batch or a stream."""
    loaded = load(str(folder), dtype=torch.float32)
    ids = renderer.prompt(turns)
    start = len(ids)
    with torch.no_grad():
        for _ in range(max_tokens):
            token = int(loaded.model(input_ids=torch.tensor([ids]), use_cache=False).logits[0, -1].argmax())
            if token in renderer.stop_ids:
                break
            ids.append(token)
    return str(loaded.tokenizer.decode(ids[start:], skip_special_tokens=True))


@pytest.fixture
def prompts(monkeypatch: pytest.MonkeyPatch) -> list[list[tuple[str, str]]]:
    """The turns of each prompt."""
    prompted: list[list[tuple[str, str]]] = []
    original: Callable[..., list[int]] = Renderer.prompt

    def prompt(self: Renderer, turns: Any) -> list[int]:
        prompted.append([(turn.role, turn.content) for turn in turns])
        return original(self, turns)

    monkeypatch.setattr(Renderer, "prompt", prompt)
    return prompted


def with_record(folder: Path, model: Path, record: bytes) -> Path:
    shutil.copytree(model, folder)
    (folder / "finetune.json").write_bytes(record)
    return folder


def test_the_answer_equals_that_of_a_plain_decoding_loop(tiny_model_folder: Path, tiny_tokenizer: Any) -> None:  # noqa: F811
    renderer = Renderer(tiny_tokenizer, "chat", max_length=512)
    expected = greedy(tiny_model_folder, renderer, [ChatTurn("user", "Name a colour.")])
    assert expected.strip()
    assert chat(tiny_model_folder, [], prompt="Name a colour.") == expected + "\n"


def test_the_history_is_kept_until_a_reset(
    tiny_model_folder: Path,  # noqa: F811
    prompts: list[list[tuple[str, str]]],
) -> None:
    chat(tiny_model_folder, ["one", "  ", "two", "/reset", "three", "/quit", "never"], system="be brief")
    assert [[role for role, _ in turns] for turns in prompts] == [
        ["system", "user"], ["system", "user", "assistant", "user"], ["system", "user"],
    ]  # fmt: skip
    assert [turns[-1] for turns in prompts] == [("user", "one"), ("user", "two"), ("user", "three")]
    assert prompts[1][:2] == prompts[0]


def test_the_recorded_format_is_used_and_alpaca_has_no_history(
    tmp_path: Path,
    tiny_model_folder: Path,  # noqa: F811
    tiny_tokenizer: Any,  # noqa: F811
    prompts: list[list[tuple[str, str]]],
) -> None:
    folder = with_record(tmp_path / "run", tiny_model_folder, b'{"format": "alpaca", "complete": true}')
    output = chat(folder, ["one", "two"])
    assert prompts == [[("user", "one")], [("user", "two")]]
    renderer = Renderer(tiny_tokenizer, "alpaca", max_length=512)
    for line in ("one", "two"):
        assert greedy(folder, renderer, [ChatTurn("user", line)]) in output
    prompts.clear()
    chat(folder, ["one", "two"], system="be brief")
    assert prompts == [[("system", "be brief"), ("user", line)] for line in ("one", "two")]
    folder = with_record(tmp_path / "other", tiny_model_folder, b'{"format": "completion", "complete": true}')
    with pytest.raises(UsageError, match="has no system prompt"):
        chat(folder, [], system="be brief")


@pytest.mark.parametrize("record", [b"", b"[]", b"{}", b'{"form'])
def test_a_damaged_record_is_reported(tmp_path: Path, tiny_model_folder: Path, record: bytes) -> None:  # noqa: F811
    with pytest.raises(UsageError, match="not a record of a training run"):
        chat(with_record(tmp_path / "run", tiny_model_folder, record), [])


def test_an_incomplete_run_is_rejected(tmp_path: Path) -> None:
    (tmp_path / "finetune.json").write_text(json.dumps({"format": "chat", "complete": False}))
    with pytest.raises(UsageError, match="not complete"):
        chat(tmp_path, [])


def test_ctrl_c_stops_the_answer_but_not_the_conversation(
    tiny_model_folder: Path,  # noqa: F811
    prompts: list[list[tuple[str, str]]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    put = _AnswerStream.put
    calls = iter(range(100))

    def interrupted(self: _AnswerStream, value: torch.Tensor) -> None:
        put(self, value)
        if next(calls) == 3:  # the prompt, and three tokens
            raise KeyboardInterrupt

    monkeypatch.setattr(_AnswerStream, "put", interrupted)
    output = chat(tiny_model_folder, ["one", KeyboardInterrupt(), "two"])
    first = prompts[1][1]
    assert first[0] == "assistant"
    assert output.count("\n") >= 3
    assert first[1] in output
    assert len(prompts) == 2


def test_ctrl_c_is_raised_when_only_a_prompt_is_answered(
    tiny_model_folder: Path,  # noqa: F811
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def interrupted(_self: _AnswerStream, _value: torch.Tensor) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(_AnswerStream, "put", interrupted)
    with pytest.raises(KeyboardInterrupt):
        chat(tiny_model_folder, [], prompt="x")


def test_a_conversation_beyond_the_context_is_rejected_and_can_be_reset(
    tmp_path: Path,
    tiny_tokenizer: Any,  # noqa: F811
) -> None:
    folder = tmp_path / "model"
    make_model(len(tiny_tokenizer), max_position_embeddings=40).save_pretrained(folder)
    tiny_tokenizer.save_pretrained(folder)
    output = chat(folder, ["x" * 100, "/reset", "hi"])
    assert "/reset begins a new one" in output
    assert output.rstrip().splitlines()[-1]


def test_unknown_commands_show_the_help_and_paths_are_messages(
    tiny_model_folder: Path,  # noqa: F811
    prompts: list[list[tuple[str, str]]],
) -> None:
    output = chat(tiny_model_folder, ["/restart", "/etc/hosts what is it"])
    assert output.count("/reset clears") == 2
    assert prompts == [[("user", "/etc/hosts what is it")]]


def test_the_same_seed_samples_the_same_answer(tiny_model_folder: Path) -> None:  # noqa: F811
    answers = [chat(tiny_model_folder, [], prompt="x", temperature=1.5, top_p=1.0, seed=seed) for seed in (1, 1, 2)]
    assert answers[0] == answers[1] != answers[2]
    narrow = chat(tiny_model_folder, [], prompt="x", temperature=1.5, top_p=1e-6, seed=3)
    assert narrow == chat(tiny_model_folder, [], prompt="x")


def tokens(stream: _AnswerStream, ids: list[int]) -> None:
    for token_id in ids:
        stream.put(torch.tensor([token_id]))
    stream.end()


@pytest.mark.parametrize("text", ["日本語 café 👩‍👩‍👧 naïve", " two  spaces ", "a\nb\tc", "हिन्दी", "�x�"])
def test_multibyte_characters_are_written_whole(tiny_tokenizer: Any, text: str) -> None:  # noqa: F811
    written: list[str] = []
    stream = _AnswerStream(tiny_tokenizer, frozenset({2}), written.append)
    stream.put(torch.tensor([[5, 6, 7]]))
    tokens(stream, [*tiny_tokenizer(text).input_ids, 2])
    assert "".join(written) == stream.text == text
    assert len(written) >= 2
    if "�" not in text:
        assert not any("�" in piece for piece in written)


def test_an_incomplete_character_at_the_end_is_written(tiny_tokenizer: Any) -> None:  # noqa: F811
    written: list[str] = []
    stream = _AnswerStream(tiny_tokenizer, frozenset({2}), written.append)
    stream.put(torch.tensor([[5]]))
    tokens(stream, tiny_tokenizer("a日").input_ids[:-1])
    assert "".join(written) == "a�"


def test_control_characters_of_a_model_do_not_reach_the_terminal(tiny_tokenizer: Any) -> None:  # noqa: F811
    written: list[str] = []
    stream = _AnswerStream(tiny_tokenizer, frozenset({2}), written.append)
    stream.put(torch.tensor([[5]]))
    tokens(stream, tiny_tokenizer("a\x1b[2Jb\x9bc\u202ed\re").input_ids)
    assert "".join(written) == "a�[2Jb�c�d�e"


def test_spaces_between_sentencepiece_words_are_kept() -> None:
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    words = ["<unk>", "</s>", "▁the", "▁quick", "▁fox", "es"]
    backend = Tokenizer(models.WordLevel({word: index for index, word in enumerate(words)}, unk_token="<unk>"))
    backend.pre_tokenizer = pre_tokenizers.Metaspace()
    backend.decoder = decoders.Metaspace()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, eos_token="</s>", unk_token="<unk>")
    written: list[str] = []
    stream = _AnswerStream(tokenizer, frozenset({1}), written.append)
    stream.put(torch.tensor([[2]]))
    tokens(stream, [2, 3, 4, 5, 1])
    assert "".join(written) == "the quick foxes"


@pytest.fixture
def adapters(tmp_path: Path, tiny_model_folder: Path) -> Path:  # noqa: F811
    base = tmp_path / "base"
    shutil.copytree(tiny_model_folder, base)
    loaded = load(str(base), dtype=torch.float32)
    adapted = add_adapters(loaded.model, Lora(rank=4, targets="q_proj,v_proj"))
    torch.manual_seed(0)
    for name, parameter in adapted.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=3.0)
    folder = tmp_path / "adapters"
    save_adapters(adapted, loaded.tokenizer, folder, loaded.base)
    (folder / "finetune.json").write_text('{"format": "chat", "complete": true}')
    return folder


def test_adapters_are_loaded_only_with_their_base(
    adapters: Path,
    tiny_model_folder: Path,  # noqa: F811
) -> None:
    assert chat(adapters, [], prompt="Name a colour.") != chat(tiny_model_folder, [], prompt="Name a colour.")
    make_model(384, seed=5).save_pretrained(adapters.parent / "base")
    with pytest.raises(RunChangedError, match="does not have the weights"):
        chat(adapters, [], prompt="x")


def test_a_rejected_message_is_reported_and_the_conversation_continues(
    tiny_model_folder: Path,  # noqa: F811
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    original = Renderer.prompt

    def prompt(self: Renderer, turns: Any) -> list[int]:
        if turns[-1].content == "bad":
            raise RenderError("template", "the chat template refuses the conversation")
        return original(self, turns)

    monkeypatch.setattr(Renderer, "prompt", prompt)
    output = chat(tiny_model_folder, ["bad", "good"])
    assert "refuses the conversation\n" in output
    assert output.rstrip().splitlines()[-1] != "the chat template refuses the conversation"
    with pytest.raises(RenderError):
        chat(tiny_model_folder, [], prompt="bad")
