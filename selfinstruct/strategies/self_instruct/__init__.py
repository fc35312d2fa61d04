"""Self-Instruct: ``strategy`` is the method, ``examples`` chooses the seeds that its prompts show."""

from selfinstruct.strategies.self_instruct.options import SelfInstructOptions
from selfinstruct.strategies.self_instruct.strategy import INPUT_FIRST, OUTPUT_FIRST, SelfInstruct

__all__ = ["INPUT_FIRST", "OUTPUT_FIRST", "SelfInstruct", "SelfInstructOptions"]
