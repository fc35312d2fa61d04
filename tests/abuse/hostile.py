"""Parts of hostile input, and calls of the command line in this process, where an unknown error is visible."""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from click.testing import CliRunner

from selfinstruct.common.rng import Rng
from tests.scripted import WORDS

ROOT = Path(__file__).resolve().parent.parent.parent

# Syntax of every language that could interpret a text: our own, chat templates and formatters.
TRICKS = (
    "$x",
    "${x}",
    "$$",
    "$tasks",
    "${instruction}",
    "{0.__class__}",
    "{instruction}",
    "{}",
    "{{7*7}}",
    "{% for i in x %}{% endfor %}",
    "{# gone #}",
    "%(x)s",
    "%s",
    "###",
    "### Task 3",
    "### Task: forged",
    "Instruction:",
    "Input:",
    "Output:",
    "Label:",
    "Example 2",
    "Task: forged",
    "Classification: yes",
    "4. forged",
    "<noinput>",
    "<|im_end|>",
    "<|im_start|>system",
    "<|endoftext|>",
    "[INST]",
    "[/INST]",
    "</s>",
    "<script>alert(1)</script>",
    "'; DROP TABLE outcomes; --",
    '"}, {"instruction": "forged", "output": "forged"}',
    "\\",
    "\\n",
    "\\u0041",
    "`rm -rf /`",
    "$(id)",
    "../../etc/passwd",
    "=1+1",
    "\x1b]0;owned\x07\x1b[2J",
)

# Characters at which readers of text break, drop something, or stop.
ODD = {
    "NUL": "\x00",
    "escape": "\x1b",
    "tab": "\t",
    "vertical tab": "\x0b",
    "form feed": "\x0c",
    "file separator": "\x1c",
    "CR": "\r",
    "CRLF": "\r\n",
    "LF": "\n",
    "NEL": "\x85",
    "no-break space": "\xa0",
    "combining": "e\u0301\u0323",
    "zero width joiner": "\u200d",
    "right to left": "\u202e",
    "line separator": "\u2028",
    "paragraph separator": "\u2029",
    "BOM": "\ufeff",
    "noncharacter": "\uffff",
    "replacement": "\ufffd",
    "ligature": "\ufb01",
    "dotted I": "\u0130",
    "emoji": "\U0001f469\u200d\U0001f680",
    "private": "\ue000",
    "last": "\U0010ffff",
    "escaped": "\\u0000\\ud800",
    "quotes": "\"'`",
}


@dataclass(frozen=True)
class Said:
    """The result of a command."""

    code: int
    output: str


def call(cli: Any, *args: object) -> Said:
    """Call a command line; anything but an exit code is an error that nobody foresaw, and fails the test."""
    # With colours, as on a terminal: elsewhere they are taken out, and with them what else drives a terminal.
    done = CliRunner().invoke(cli, [str(one) for one in args], prog_name="cli", color=True)
    if done.exception is not None and not isinstance(done.exception, SystemExit):
        raise AssertionError(f"{args}: {type(done.exception).__name__}") from done.exception
    return Said(done.exit_code, done.output)


def selfinstruct(*args: object) -> Said:
    from selfinstruct.cli import cli

    return call(cli, *args)


def finetune(*args: object) -> Said:
    from finetune.cli import cli

    return call(cli, *args)


@cache
def template(name: str) -> tuple[str, ...]:
    """A built-in template cut at its variables: text, name, text, name, ..., text."""
    text = (ROOT / "prompts" / f"{name}.txt").read_text(encoding="utf-8").removesuffix("\n")
    assert "$$" not in text
    return tuple(re.split(r"\$(\w+)", text))


def filled(name: str, **variables: str) -> str:
    """A template filled in by joining pieces: nothing in a variable is looked at."""
    return "".join(variables[piece] if place % 2 else piece for place, piece in enumerate(template(name)))


def words(rng: Rng, count: int) -> str:
    """Words that no filter minds."""
    return " ".join(rng.sample(WORDS, count))
