"""IFBench: 300 prompts with instructions of 58 kinds that models have not been trained on (Pyatkin et al. 2025,
arXiv:2507.02833).
"""

from __future__ import annotations

from typing import ClassVar

from selfinstruct.suites.instructions import InstructionSuite

__all__ = ["IFBench"]


class IFBench(InstructionSuite):
    """The suite ``ifbench``, read from the published ``IFBench_test.jsonl`` or a copy of it."""

    name: ClassVar[str] = "ifbench"
    source: ClassVar[str] = "IFBench (IFBench_test.jsonl)"
