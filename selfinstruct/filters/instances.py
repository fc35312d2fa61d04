"""Self-Instruct's rules for the instances of one task (arXiv:2212.10560, 2.2 and the released code).

In the order of that code: the last instance of a truncated completion goes; then each that is invalid by itself; if
then two share an input but not the output, all go; of equal ones the first stays. Texts are compared without the white
space around them. Instances without an input may differ in their outputs: that is no conflict.
"""

from __future__ import annotations

from collections.abc import Sequence

from selfinstruct.reasons import RejectReason
from selfinstruct.records import Instance, Verdict

__all__ = ["judge_instances"]

FILTER = "instances"
COLONS = (":", "\uff1a")  # the fullwidth colon ends a line in Chinese and Japanese text


def _invalid(instance: Instance) -> str:
    """Why an instance is wrong by itself, or ""."""
    given, output = instance.input.strip(), instance.output.strip()
    if not output:
        return RejectReason.EMPTY_OUTPUT
    if given == output:
        return RejectReason.INPUT_IS_OUTPUT
    if given.endswith(COLONS) or output.endswith(COLONS):
        return RejectReason.COLON  # usually an incomplete generation
    return ""


def judge_instances(instances: Sequence[Instance], truncated: bool) -> list[Verdict]:
    """Judge the instances of one task together.

    Args:
        instances: In the order of the completion.
        truncated: The completion ended at its token limit, so that its last instance is a part of one.

    Returns:
        A verdict for each. Reasons: ``truncated``, ``empty_output``, ``input_is_output``, ``colon``, ``conflict``,
        ``duplicate``. The last two name the position of the other instance in ``detail["instance"]``.
    """
    reasons = [_invalid(instance) for instance in instances]
    if truncated and reasons:
        reasons[-1] = RejectReason.TRUNCATED
    details: list[dict[str, int]] = [{} for _ in instances]
    pairs = [(instance.input.strip(), instance.output.strip()) for instance in instances]
    sound = [place for place, reason in enumerate(reasons) if not reason]

    outputs: dict[str, int] = {}
    clash: tuple[int, int] | None = None
    for place in sound:
        given, output = pairs[place]
        first = outputs.setdefault(given, place)
        if given and clash is None and pairs[first][1] != output:
            clash = (first, place)

    seen: dict[tuple[str, str], int] = {}
    for place in sound:
        if clash is not None:
            reasons[place] = RejectReason.CONFLICT
            details[place] = {"instance": clash[0] if place != clash[0] else clash[1]}
        elif (first := seen.setdefault(pairs[place], place)) != place:
            reasons[place] = RejectReason.DUPLICATE
            details[place] = {"instance": first}
    return [Verdict(FILTER, not reason, reason, detail=detail) for reason, detail in zip(reasons, details, strict=True)]
