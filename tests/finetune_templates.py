"""Typical shapes of chat templates, each with a matching tokenizer."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from tests.finetune_fixtures import CHATML, make_tokenizer

__all__ = ["SHAPES", "Shape", "add_bos"]


@dataclass(frozen=True)
class Shape:
    """A chat template and its tokenizer.

    Attributes:
        template: The template, Jinja.
        special: Special tokens of the tokenizer.
        stop: Token that ends a response.
        options: Further arguments of the tokenizer.
        system: Whether the template accepts a system turn.
        trims: Whether it strips whitespace around messages.
        lead: Text that it writes between the generation prompt and a response.
    """

    template: str
    special: tuple[str, ...]
    stop: str
    options: dict[str, Any] = field(default_factory=dict)
    system: bool = True
    trims: bool = False
    lead: str = ""

    def tokenizer(self) -> Any:
        """Return a new tokenizer with this template."""
        return make_tokenizer(self.special, self.template, **self.options)


IM = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
ENDS = {"eos_token": "<|im_end|>", "pad_token": "<|im_end|>"}
SENTENCE = ("<unk>", "<s>", "</s>")
ROLES = {"unk_token": "<unk>", "bos_token": "<s>", "eos_token": "</s>", "pad_token": "</s>"}

SMOL = (
    "{% for m in messages %}{% if loop.first and m['role'] != 'system' %}"
    "{{ '<|im_start|>system\nYou are kind.<|im_end|>\n' }}{% endif %}"
    "{{ '<|im_start|>' + m['role'] + '\n' + m['content'] + '<|im_end|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
MARKED = (
    "{% for m in messages %}{% if m['role'] == 'assistant' %}<|im_start|>assistant\n"
    "{% generation %}{{ m['content'] }}<|im_end|>{% endgeneration %}{{ '\n' }}"
    "{% else %}{{ '<|im_start|>' + m['role'] + '\n' + m['content'] + '<|im_end|>\n' }}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
LLAMA3 = (
    "{{ bos_token }}{% for m in messages %}"
    "{{ '<|start_header_id|>' + m['role'] + '<|end_header_id|>\n\n' + m['content'] | trim + '<|eot_id|>' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|start_header_id|>assistant<|end_header_id|>\n\n' }}{% endif %}"
)
MISTRAL = (
    "{{ bos_token }}{% set said = namespace(system='') %}{% for m in messages %}"
    "{% if m['role'] == 'system' %}{% set said.system = m['content'] + '\n\n' %}"
    "{% elif m['role'] == 'user' %}{{ '[INST] ' + said.system + m['content'] + ' [/INST]' }}{% set said.system = '' %}"
    "{% else %}{{ ' ' + m['content'] + eos_token }}{% endif %}{% endfor %}"
)
GEMMA = (
    "{{ bos_token }}{% if messages[0]['role'] == 'system' %}{{ raise_exception('System role not supported') }}"
    "{% endif %}{% for m in messages %}"
    "{% if (m['role'] == 'user') != (loop.index0 % 2 == 0) %}{{ raise_exception('Roles must alternate') }}{% endif %}"
    "{{ '<start_of_turn>' + ('model' if m['role'] == 'assistant' else 'user') + '\n' + m['content'] | trim }}"
    "{{ '<end_of_turn>\n' }}{% endfor %}{% if add_generation_prompt %}{{ '<start_of_turn>model\n' }}{% endif %}"
)
ZEPHYR = (
    "{% for m in messages %}{{ '<|' + m['role'] + '|>\n' + m['content'] + eos_token + '\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|>\n' }}{% endif %}"
)
THINKING = (  # as in Qwen3: thoughts of earlier turns are removed, and the last turn always has some
    "{%- for m in messages %}{%- if m.role == 'assistant' %}{%- set said = m.content %}{%- set thought = '' %}"
    "{%- if '</think>' in said %}"
    "{%- set thought = said.split('</think>')[0].rstrip('\n').split('<think>')[-1].lstrip('\n') %}"
    "{%- set said = said.split('</think>')[-1].lstrip('\n') %}{%- endif %}"
    "{{- '<|im_start|>assistant\n' }}"
    "{%- if loop.last %}{{- '<think>\n' + thought.strip('\n') + '\n</think>\n\n' + said.lstrip('\n') }}"
    "{%- else %}{{- said }}{%- endif %}{{- '<|im_end|>\n' }}"
    "{%- else %}{{- '<|im_start|>' + m.role + '\n' + m.content + '<|im_end|>\n' }}{%- endif %}{%- endfor %}"
    "{%- if add_generation_prompt %}{{- '<|im_start|>assistant\n' }}{%- endif %}"
)

SHAPES = {
    "chatml": Shape(CHATML, IM, "<|im_end|>", ENDS),
    "smollm2": Shape(SMOL, IM, "<|im_end|>", {**ENDS, "bos_token": "<|im_start|>"}),
    "marked": Shape(MARKED, IM, "<|im_end|>", ENDS),
    "llama3": Shape(
        LLAMA3,
        ("<|begin_of_text|>", "<|end_of_text|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"),
        "<|eot_id|>",
        {"bos_token": "<|begin_of_text|>", "eos_token": "<|end_of_text|>"},
        trims=True,
    ),
    "mistral": Shape(MISTRAL, SENTENCE, "</s>", ROLES, lead=" "),
    "gemma": Shape(
        GEMMA,
        ("<pad>", "<eos>", "<bos>", "<start_of_turn>", "<end_of_turn>"),
        "<end_of_turn>",
        {"bos_token": "<bos>", "eos_token": "<eos>", "pad_token": "<pad>"},
        system=False,
        trims=True,
    ),
    "zephyr": Shape(ZEPHYR, SENTENCE, "</s>", ROLES),
}


def add_bos(tokenizer: Any) -> Any:
    """Make the tokenizer put its BOS first."""
    from tokenizers.processors import TemplateProcessing

    bos = tokenizer.bos_token
    tokenizer.backend_tokenizer.post_processor = TemplateProcessing(
        single=f"{bos} $A", special_tokens=[(bos, tokenizer.bos_token_id)]
    )
    return tokenizer
