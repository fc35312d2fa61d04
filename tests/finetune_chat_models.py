"""Chat templates of many models, each with a tiny tokenizer that has the control tokens of the real one.

The templates in ``tests/data/chat_templates`` are short versions of the published ones: they write the same control
tokens in the same places, and rewrite history, thoughts and calls in the same way.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path
from typing import Any

from tests.finetune_fixtures import TEXTS

__all__ = ["MODELS", "Model", "tokenizer"]

_WORDS = (  # as in Llama 3 and Qwen
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|"
    r"\s*[\r\n]+|\s+(?!\S)|\s+"
)
FOLDER = Path(__file__).parent / "data" / "chat_templates"
THINK = ("<think>", "</think>")
TOOL_TAGS = ("<tool_call>", "</tool_call>", "<tool_response>", "</tool_response>")
IM = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
SENTENCE = ("<unk>", "<s>", "</s>")
MISTRAL = (*SENTENCE, "[INST]", "[/INST]", "[TOOL_CALLS]", "[AVAILABLE_TOOLS]", "[/AVAILABLE_TOOLS]", "[TOOL_RESULTS]",
           "[/TOOL_RESULTS]", "[SYSTEM_PROMPT]", "[/SYSTEM_PROMPT]", "[THINK]", "[/THINK]")  # fmt: skip
LLAMA = ("<|begin_of_text|>", "<|end_of_text|>", "<|start_header_id|>", "<|end_header_id|>", "<|eom_id|>", "<|eot_id|>",
         "<|python_tag|>")  # fmt: skip
GEMMA = ("<pad>", "<eos>", "<bos>", "<start_of_turn>", "<end_of_turn>")
PHI = ("<|endoftext|>", "<|assistant|>", "<|system|>", "<|end|>", "<|user|>", "<|tool|>", "<|/tool|>")
COMMAND = ("<BOS_TOKEN>", "<|START_OF_TURN_TOKEN|>", "<|END_OF_TURN_TOKEN|>", "<|USER_TOKEN|>", "<|CHATBOT_TOKEN|>",
           "<|SYSTEM_TOKEN|>", "<|START_THINKING|>", "<|END_THINKING|>", "<|START_RESPONSE|>", "<|END_RESPONSE|>",
           "<|START_ACTION|>", "<|END_ACTION|>", "<|START_TOOL_RESULT|>", "<|END_TOOL_RESULT|>")  # fmt: skip
BAR = "\uff5c"
DEEPSEEK = tuple(f"<{BAR}{name}{BAR}>" for name in ("begin▁of▁sentence", "end▁of▁sentence"))
DEEPSEEK_ADDED = (*THINK, *(f"<{BAR}{name}{BAR}>" for name in (
    "User", "Assistant", "tool▁calls▁begin", "tool▁calls▁end", "tool▁call▁begin", "tool▁call▁end", "tool▁sep",
    "tool▁outputs▁begin", "tool▁outputs▁end", "tool▁output▁begin", "tool▁output▁end")))  # fmt: skip
GLM = ("<|endoftext|>", "[gMASK]", "<sop>", "<|system|>", "<|user|>", "<|assistant|>", "<|observation|>")
GLM_STOPS = ("<|endoftext|>", "<|user|>", "<|observation|>")
HARMONY = ("<|start|>", "<|message|>", "<|end|>", "<|channel|>", "<|call|>", "<|return|>", "<|constrain|>")


@dataclass(frozen=True)
class Model:
    """A chat template with the control tokens of its tokenizer.

    Attributes:
        template: Its file.
        special, added: Its special tokens, and the added ones that are not special.
        stops: Tokens that end an answer or a call; the first is the eos token. For GLM, the others open the next turn.
        bos: Its bos token.
        arguments: Arguments of the template.
        calls_as_text: Whether it takes the arguments of calls as JSON text.
    """

    template: str
    special: tuple[str, ...]
    stops: tuple[str, ...]
    added: tuple[str, ...] = ()
    bos: str | None = None
    arguments: Mapping[str, Any] = field(default_factory=dict)
    calls_as_text: bool = False


QWEN3 = Model("qwen3", IM, ("<|im_end|>",), (*TOOL_TAGS, *THINK))
QWEN35 = replace(QWEN3, template="qwen3.5")
NEMOTRON = replace(QWEN3, template="nemotron-3")
DISTILL = Model("deepseek-r1-distill", DEEPSEEK, DEEPSEEK[1:], DEEPSEEK_ADDED, DEEPSEEK[0], calls_as_text=True)
V31 = replace(DISTILL, template="deepseek-v3.1")
SMOLLM3 = Model("smollm3", ("<|begin_of_text|>", "<|end_of_text|>", "<|im_start|>", "<|im_end|>"), ("<|im_end|>",),
                (*THINK, *TOOL_TAGS))  # fmt: skip
GLM45 = Model("glm-4.5", (*GLM, "/nothink"), GLM_STOPS, (*THINK, *TOOL_TAGS, "<arg_key>", "</arg_key>", "<arg_value>",
              "</arg_value>"))  # fmt: skip
OFF = {"enable_thinking": False}
MODELS = {
    "ChatML": Model("chatml", IM, ("<|im_end|>",)),
    "Qwen2.5": Model("qwen2.5", IM, ("<|im_end|>",), TOOL_TAGS[:2]),
    "Qwen3": QWEN3,
    "Qwen3, enable_thinking=false": replace(QWEN3, arguments=OFF),
    "Qwen3.5": QWEN35,
    "Qwen3.5, enable_thinking=false": replace(QWEN35, arguments=OFF),
    "Nemotron 3": NEMOTRON,
    "Nemotron 3, enable_thinking=false": replace(NEMOTRON, arguments=OFF),
    "Llama 2": Model("llama-2", SENTENCE, ("</s>",), bos="<s>"),
    "Llama 3": Model("llama-3", LLAMA, ("<|eot_id|>",), bos="<|begin_of_text|>"),
    "Llama 3.1": Model("llama-3.1", LLAMA, ("<|eot_id|>",), bos="<|begin_of_text|>"),
    "Llama 3.2": Model("llama-3.2", LLAMA, ("<|eot_id|>",), bos="<|begin_of_text|>"),
    "Mistral 7B v0.1": Model("mistral-v0.1", SENTENCE, ("</s>",), bos="<s>"),
    "Mistral 7B v0.3": Model("mistral-v0.3", MISTRAL, ("</s>",), bos="<s>"),
    "Mistral Nemo": Model("mistral-nemo", MISTRAL, ("</s>",), bos="<s>"),
    "Mistral Small 3": Model("mistral-small-3", MISTRAL, ("</s>",), bos="<s>"),
    "Magistral": Model("magistral", MISTRAL, ("</s>",), bos="<s>"),
    "Gemma 2": Model("gemma-2", GEMMA, ("<end_of_turn>",), ("\n\n", "  ", "<h1>"), "<bos>"),
    "Gemma 3": Model("gemma-3", GEMMA, ("<end_of_turn>",), ("\n\n", "  ", "<h1>"), "<bos>"),
    "Phi-3.5": Model("phi-3.5", PHI, ("<|end|>",)),
    "Phi-4": Model("phi-4", (*IM, "<|im_sep|>"), ("<|im_end|>",)),
    "Phi-4-mini": Model("phi-4-mini", PHI, ("<|end|>",)),
    "SmolLM2": Model("smollm2", IM, ("<|im_end|>",), bos="<|im_start|>"),
    "SmolLM3": SMOLLM3,
    "SmolLM3, enable_thinking=false": replace(SMOLLM3, arguments=OFF),
    "DeepSeek-V2": Model("deepseek-v2", DEEPSEEK, DEEPSEEK[1:], bos=DEEPSEEK[0]),
    "DeepSeek-R1-Distill": DISTILL,
    "DeepSeek-V3.1": V31,
    "DeepSeek-V3.1, thinking=true": replace(V31, arguments={"thinking": True}),
    "Zephyr": Model("zephyr", SENTENCE, ("</s>",), bos="<s>"),
    "Yi-1.5": Model("yi-1.5", ("<|startoftext|>", *IM), ("<|im_end|>",), bos="<|startoftext|>"),
    "InternLM2": Model("internlm2", (*SENTENCE, *IM[1:]), ("<|im_end|>",), bos="<s>"),
    "Granite 3": Model("granite-3", ("<|end_of_text|>", "<|start_of_role|>", "<|end_of_role|>", "<|tool_call|>"),
                       ("<|end_of_text|>",), bos="<|end_of_text|>"),
    "Command R": Model("command-r", COMMAND, ("<|END_OF_TURN_TOKEN|>",), bos="<BOS_TOKEN>"),
    "Command A": Model("command-a", COMMAND, ("<|END_OF_TURN_TOKEN|>",), bos="<BOS_TOKEN>"),
    "GLM-4": Model("glm-4", GLM, GLM_STOPS),
    "GLM-4.5": GLM45,
    "GLM-4.5, enable_thinking=false": replace(GLM45, arguments=OFF),
    "OLMo 2": Model("olmo-2", ("<|endoftext|>",), ("<|endoftext|>",), bos="<|endoftext|>"),
    "gpt-oss": Model("gpt-oss", HARMONY, ("<|return|>", "<|call|>")),
    "Falcon 3": Model("falcon-3", ("<|endoftext|>",), ("<|endoftext|>",), ("<|assistant|>", "<|user|>", "<|system|>")),
    "Vicuna": Model("vicuna", SENTENCE, ("</s>",), bos="<s>"),
}  # fmt: skip


@cache
def _backend() -> Any:
    from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers

    backend = Tokenizer(models.BPE())
    words = Regex(_WORDS)
    backend.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(words, "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    backend.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=400, initial_alphabet=alphabet, show_progress=False)
    backend.train_from_iterator([*TEXTS, "a\n\nb\n\n", "\n</think>\n\n<think>\n\n</think>"], trainer)
    return backend


@cache
def tokenizer(name: str) -> Any:
    """Return the tokenizer of a model."""
    from tokenizers import AddedToken, Tokenizer
    from transformers import PreTrainedTokenizerFast

    model = MODELS[name]
    backend = Tokenizer.from_str(_backend().to_str())
    backend.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in model.special])
    backend.add_tokens([AddedToken(token, special=False, normalized=False) for token in model.added])
    roles = {"eos_token": model.stops[0], **({"bos_token": model.bos} if model.bos else {})}
    fast = PreTrainedTokenizerFast(tokenizer_object=backend, **roles)
    fast.chat_template = (FOLDER / f"{model.template}.jinja").read_text(encoding="utf-8")
    return fast
