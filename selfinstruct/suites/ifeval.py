"""IFEval: 541 prompts with instructions of 25 kinds (Zhou et al. 2023, arXiv:2311.07911)."""

from __future__ import annotations

from typing import ClassVar

from selfinstruct.suites.instructions import InstructionSuite

__all__ = ["IFEval"]


class IFEval(InstructionSuite):
    """The suite ``ifeval``, read from the published ``input_data.jsonl`` or a copy of it."""

    name: ClassVar[str] = "ifeval"
    source: ClassVar[str] = "IFEval (input_data.jsonl)"
