"""Rendering of chat templates: from the messages of a conversation to the prompt text that a model reads.

A template is untrusted code. It runs in Jinja's sandbox, sees only its arguments, and has a time limit. Jinja is
imported on the first rendering.
"""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from selfinstruct.common.codec import dumps
from selfinstruct.errors import MissingExtraError

__all__ = ["LIMIT_S", "NO_CLOCK", "TODAY", "ChatTemplate", "ChatTemplateError", "EndlessError", "bounded"]

LIMIT_S = 10.0  # CPU seconds for one conversation; templates need milliseconds
# Some templates write the current date. Prompts must be reproducible, so they get the default date of Llama's.
TODAY = "26 Jul 2024"
# This macro, prepended to a template, shadows the function of transformers that reads the clock.
NO_CLOCK = f"{{% macro strftime_now(format) %}}{TODAY}{{% endmacro %}}{{{{ '' }}}}"


class EndlessError(BaseException):
    """The time limit was exceeded. Not an ``Exception``, so that a template can't catch it."""


@contextmanager
def bounded() -> Iterator[None]:
    """Raise ``EndlessError`` in the block after ``LIMIT_S`` CPU seconds, if it runs in the main thread."""
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
    """A template is invalid, or refuses a conversation; the message gives the reason."""


@dataclass(frozen=True)
class ChatTemplate:
    """The chat template of one model.

    Attributes:
        source: The Jinja source.
        bos: Text of ``bos_token``; "" if the tokenizer adds the token itself, since the text would begin with two.
        eos: Text of ``eos_token``.
    """

    source: str
    bos: str = ""
    eos: str = ""

    def render(self, messages: Sequence[tuple[str, str]]) -> str:
        """Render a conversation, given as role and content of each message, up to the start of the model's answer.

        Raises:
            ChatTemplateError: The template is invalid, refuses the conversation, or exceeds the time limit.
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

        # The settings of transformers, which templates are written for.
        environment = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True, extensions=[loopcontrols])
        environment.filters["tojson"] = lambda value, **_: dumps(value)
        environment.globals.update(raise_exception=refuse, strftime_now=lambda _: TODAY)
        conversation = [{"role": role, "content": content} for role, content in messages]
        try:
            with bounded():
                return environment.from_string(self.source).render(
                    messages=conversation, add_generation_prompt=True, bos_token=self.bos, eos_token=self.eos
                )
        except EndlessError:
            raise ChatTemplateError(f"it is not done after {LIMIT_S:g} s") from None
        except (
            *(jinja2.TemplateError, TypeError, ValueError, LookupError, AttributeError),
            *(ArithmeticError, RecursionError, MemoryError),
        ) as error:
            raise ChatTemplateError(" ".join(str(error).split())[:200]) from None
