"""Prompt templates: ``string.Template`` files, rendered strictly.

Inserted text is data: it is never searched for further variables. ``$$`` is a dollar sign.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from string import Template
from typing import Literal

from selfinstruct.common.codec import digest
from selfinstruct.errors import TemplateError
from selfinstruct.records import PromptMessage, Role
from selfinstruct.version import SEMANTICS

__all__ = ["Api", "Prompts"]

Api = Literal["completion", "chat"]


class Prompts:
    """The templates of one run, by name (``alpaca/list``).

    Args:
        texts: Template texts by name, without the final newline of their files.
        api: ``completion`` renders a raw prompt, ``chat`` one user message.
        origins: The file of each text, for error messages.
        semantics: Version of the rules by which strategies read completions (``version``).
    """

    def __init__(
        self,
        texts: Mapping[str, str],
        api: Api,
        origins: Mapping[str, str] | None = None,
        *,
        semantics: int = SEMANTICS,
    ) -> None:
        self.texts = dict(sorted(texts.items()))
        self.api = api
        self.semantics = semantics
        self._origins = dict(origins or {})
        self._templates = {name: Template(text) for name, text in self.texts.items()}

    @classmethod
    def load(cls, names: Mapping[str, frozenset[str]], api: Api, *folders: Path) -> Prompts:
        """Read each named template from the first folder that has it, and check its variables.

        Args:
            names: Template names and the variables that each must use, in the form of ``Strategy.templates``.
            folders: Searched in order, the user's own first and the built-in one last.

        Raises:
            TemplateError: A template is missing or not UTF-8, or its variables differ from the declared ones.
        """
        texts: dict[str, str] = {}
        origins: dict[str, str] = {}
        for name in sorted(names):
            path = next((path for folder in folders if (path := folder / f"{name}.txt").is_file()), None)
            if path is None:
                searched = ", ".join(str(folder) for folder in folders)
                raise TemplateError(f"no template {name}.txt in {searched}")
            try:
                texts[name] = path.read_text(encoding="utf-8").removesuffix("\n")
            except UnicodeDecodeError as error:
                raise TemplateError(f"{path}: not UTF-8 at byte {error.start}") from None
            origins[name] = str(path)
        prompts = cls(texts, api, origins)
        for name, variables in names.items():
            prompts._check(name, variables)
        return prompts

    def _check(self, name: str, declared: frozenset[str]) -> None:
        """Refuse a template whose variables differ from the declared ones."""
        template, where = self._templates[name], self._origins.get(name, name)
        if not template.is_valid():
            raise TemplateError(f"{where}: a '$' without a variable; write '$$' for a dollar sign")
        used = set(template.get_identifiers())
        if unknown := sorted(used - declared):
            raise TemplateError(f"{where}: unknown {_names(unknown)}; this template may use {_names(sorted(declared))}")
        if missing := sorted(declared - used):
            raise TemplateError(
                f"{where}: missing {_names(missing)}; this template must use {_names(sorted(declared))}"
            )

    def with_semantics(self, semantics: int) -> Prompts:
        """Return a copy for a run of other semantics."""
        return Prompts(self.texts, self.api, self._origins, semantics=semantics)

    def digests(self) -> dict[str, str]:
        """Return the SHA-256 of each template, by name."""
        return {name: digest(text.encode("utf-8")) for name, text in self.texts.items()}

    def turn(self, role: Role, name: str, variables: Mapping[str, str]) -> PromptMessage:
        """Render one message, or the complete raw prompt (role ``prompt``)."""
        return PromptMessage(role, name, variables, self._templates[name].substitute(variables))

    def turns(self, name: str, **variables: str) -> tuple[PromptMessage, ...]:
        """Render one template as a complete request in the run's API: a raw prompt, or one user message."""
        return (self.turn("prompt" if self.api == "completion" else "user", name, variables),)


def _names(names: list[str]) -> str:
    return ", ".join(f"${name}" for name in names)
