"""Self-Instruct's rules for the instances of one task (arXiv:2212.10560, section 2.2, and the released code).

They apply in the order of that code: the last instance of a truncated completion is rejected; then each instance that
is invalid by itself; if two of the others share an input but not the output, all are rejected; of equal ones the first
is kept. Texts are compared without surrounding white space. Instances without an input may have different outputs.
"""

from __future__ import annotations

from collections.abc import Sequence

from selfinstruct.reasons import RejectReason
from selfinstruct.records import Instance, Verdict

__all__ = ["COLONS", "check_instances"]

FILTER = "instances"
COLONS = (":", "\uff1a")  # the fullwidth colon ends a line in Chinese and Japanese text


def _reject_reason(instance: Instance) -> str:
    """Return the reason code for an instance that is invalid by itself; '' if it is valid."""
    text, output = instance.input.strip(), instance.output.strip()
    if not output:
        return RejectReason.EMPTY_OUTPUT
    if text == output:
        return RejectReason.INPUT_IS_OUTPUT
    if text.endswith(COLONS) or output.endswith(COLONS):
        return RejectReason.COLON  # usually an incomplete generation
    return ""


def check_instances(instances: Sequence[Instance], truncated: bool) -> list[Verdict]:
    """Decide on the instances of one task together.

    Args:
        instances: The instances, in the order of the completion.
        truncated: Whether the completion ended at its token limit, so that its last instance is incomplete.

    Returns:
        A verdict for each instance. Reason codes: ``truncated``, ``empty_output``, ``input_is_output``, ``colon``,
        ``conflict``, ``duplicate``. The last two have the position of the other instance in ``detail["instance"]``.
    """
    reasons = [_reject_reason(instance) for instance in instances]
    if truncated and reasons:
        reasons[-1] = RejectReason.TRUNCATED
    details: list[dict[str, int]] = [{} for _ in instances]
    pairs = [(instance.input.strip(), instance.output.strip()) for instance in instances]
    valid = [number for number, reason in enumerate(reasons) if not reason]

    conflict = _first_conflict(pairs, valid)
    first_of: dict[tuple[str, str], int] = {}
    for number in valid:
        if conflict is not None:
            reasons[number] = RejectReason.CONFLICT
            details[number] = {"instance": conflict[0] if number != conflict[0] else conflict[1]}
        elif (first := first_of.setdefault(pairs[number], number)) != number:
            reasons[number] = RejectReason.DUPLICATE
            details[number] = {"instance": first}
    return [Verdict(FILTER, not reason, reason, detail=detail) for reason, detail in zip(reasons, details, strict=True)]


def _first_conflict(pairs: Sequence[tuple[str, str]], valid: Sequence[int]) -> tuple[int, int] | None:
    """Return the first two instances with the same input and different outputs."""
    first_of: dict[str, int] = {}
    for number in valid:
        text, output = pairs[number]
        first = first_of.setdefault(text, number)
        if text and pairs[first][1] != output:
            return first, number
    return None
