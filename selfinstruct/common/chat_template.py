"""A model's chat template, rendered as its tokenizer would: text of a conversation, for a model that reads raw text.

A template is a program from somebody else. It runs in Jinja's sandbox, sees nothing but what it is given, and for a
limited time. Jinja is imported when one is rendered.
"""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from selfinstruct.common.codec import dumps
from selfinstruct.errors import MissingExtraError

__all__ = ["LIMIT_S", "TODAY", "ChatTemplate", "ChatTemplateError", "EndlessError", "bounded"]

LIMIT_S = 10.0  # of processor time for one conversation; a template takes milliseconds
# Some templates write today's date. A text must be the same tomorrow: this is the date that Llama's fall back on.
TODAY = "26 Jul 2024"


class EndlessError(BaseException):
    """The time is over. No Exception: nothing that renders may take it for one of its own."""


@contextmanager
def bounded() -> Iterator[None]:
    """End what takes longer than ``LIMIT_S`` seconds of this process's time, where signals can: in the main thread."""
    if threading.current_thread() is not threading.main_thread() or not hasattr(signal, "setitimer"):
        yield
        return

    def stop(_number: int, _frame: object) -> None:
        raise EndlessError

    before = signal.signal(signal.SIGVTALRM, stop)
    signal.setitimer(signal.ITIMER_VIRTUAL, LIMIT_S)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_VIRTUAL, 0)
        signal.signal(signal.SIGVTALRM, before)


class ChatTemplateError(Exception):
    """A template that is none, or that refuses a conversation; says why."""


@dataclass(frozen=True)
class ChatTemplate:
    """The template of one model.

    Attributes:
        source: Its text, Jinja.
        bos: What it writes for ``bos_token``. "" where the tokenizer adds that token to every text by itself: the text
            would begin with two.
        eos: What it writes for ``eos_token``.
    """

    source: str
    bos: str = ""
    eos: str = ""

    def render(self, messages: Sequence[tuple[str, str]]) -> str:
        """The conversation (role and content of each message) up to where the model begins to answer.

        Raises:
            ChatTemplateError: The template is none, refuses the conversation, or does not come to an end.
            MissingExtraError: Jinja is not installed.
        """
        try:
            import jinja2
            from jinja2.ext import loopcontrols
            from jinja2.sandbox import ImmutableSandboxedEnvironment
        except ImportError:
            raise MissingExtraError("jinja2", "llamacpp") from None

        def refuse(reason: object) -> str:
            raise jinja2.TemplateError(str(reason))

        # As transformers sets it up: templates are written for that.
        environment = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True, extensions=[loopcontrols])
        environment.filters["tojson"] = lambda value, **_: dumps(value)
        environment.globals.update(raise_exception=refuse, strftime_now=lambda _: TODAY)
        said = [{"role": role, "content": content} for role, content in messages]
        try:
            with bounded():
                return environment.from_string(self.source).render(
                    messages=said, add_generation_prompt=True, bos_token=self.bos, eos_token=self.eos
                )
        except EndlessError:
            raise ChatTemplateError(f"it is not done after {LIMIT_S:g} s") from None
        except (
            *(jinja2.TemplateError, TypeError, ValueError, LookupError, AttributeError),
            *(ArithmeticError, RecursionError, MemoryError),
        ) as error:
            raise ChatTemplateError(" ".join(str(error).split())[:200]) from None
