"""Prompt templates: ``string.Template`` files, rendered strictly.

Text that is filled in is data: it is never searched for further variables. ``$$`` stands for a dollar sign.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from string import Template
from typing import Literal

from selfinstruct.common.codec import digest
from selfinstruct.errors import TemplateError
from selfinstruct.records import PromptMessage, Role

__all__ = ["Api", "Prompts"]

Api = Literal["completion", "chat"]


class Prompts:
    """The templates of one run, by name (``alpaca/list``).

    Args:
        texts: Template texts by name, without the final newline of their files.
        api: ``completion`` renders a raw prompt, ``chat`` one user message.
        origins: Where each text came from, for error messages.
    """

    def __init__(self, texts: Mapping[str, str], api: Api, origins: Mapping[str, str] | None = None) -> None:
        self.texts = dict(sorted(texts.items()))
        self.api = api
        self._origins = dict(origins or {})
        self._templates = {name: Template(text) for name, text in self.texts.items()}

    @classmethod
    def load(cls, names: Mapping[str, frozenset[str]], api: Api, *folders: Path) -> Prompts:
        """Read each named template from the first folder that has it, and check its variables.

        Args:
            names: Template name to the variables that it must use, as ``Strategy.templates`` declares.
            folders: Searched in order: the user's own first, the built-in ones last.

        Raises:
            TemplateError: A template is absent, not UTF-8, or its variables are not the declared ones.
        """
        texts: dict[str, str] = {}
        origins: dict[str, str] = {}
        for name in sorted(names):
            path = next((path for folder in folders if (path := folder / f"{name}.txt").is_file()), None)
            if path is None:
                looked = ", ".join(str(folder) for folder in folders)
                raise TemplateError(f"no template {name}.txt in {looked}")
            try:
                texts[name] = path.read_text(encoding="utf-8").removesuffix("\n")
            except UnicodeDecodeError as error:
                raise TemplateError(f"{path}: not UTF-8 at byte {error.start}") from None
            origins[name] = str(path)
        prompts = cls(texts, api, origins)
        for name, variables in names.items():
            prompts._check(name, variables)
        return prompts

    def _check(self, name: str, wanted: frozenset[str]) -> None:
        template, where = self._templates[name], self._origins.get(name, name)
        if not template.is_valid():
            raise TemplateError(f"{where}: a '$' that begins no variable; write '$$' for a dollar sign")
        found = set(template.get_identifiers())
        if unknown := sorted(found - wanted):
            raise TemplateError(f"{where}: unknown {_names(unknown)}; this template may use {_names(sorted(wanted))}")
        if missing := sorted(wanted - found):
            raise TemplateError(f"{where}: missing {_names(missing)}; this template must use {_names(sorted(wanted))}")

    def digests(self) -> dict[str, str]:
        """SHA-256 of each template, by name."""
        return {name: digest(text.encode("utf-8")) for name, text in self.texts.items()}

    def turn(self, role: Role, name: str, variables: Mapping[str, str]) -> PromptMessage:
        """One rendered message, or the whole raw prompt (role ``prompt``)."""
        return PromptMessage(role, name, variables, self._templates[name].substitute(variables))

    def turns(self, name: str, **variables: str) -> tuple[PromptMessage, ...]:
        """A one-template request in the run's API: a raw prompt, or one user message."""
        return (self.turn("prompt" if self.api == "completion" else "user", name, variables),)


def _names(names: list[str]) -> str:
    return ", ".join(f"${name}" for name in names)
