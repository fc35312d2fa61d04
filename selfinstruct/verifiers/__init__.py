r"""Answers that code can check.

A verifier is a JSON object with ``kind`` and what that kind needs. It comes with a seed task, or with a row that a
strategy makes, and is exported with the row. A row whose answer fails is never kept.

Answers with one right content:

- ``number``: the number of the answer is ``value`` (an integer exactly, others to six digits), or differs from it by
  ``tolerance`` at most. It is read ``where`` that says: ``last`` (of all, or in the last ``\boxed{}``), ``only`` (there
  is no other), ``{"after": "Answer:"}``.
- ``text``: the answer is ``value``, or one of ``values``, but for case, white space, emphasis, quotation marks and a
  full stop at its end.
- ``regex``: ``pattern`` is found in the answer, or with ``full`` is all of it; in linear time (``patterns.py``).
- ``json``: the answer, or its one code block, is JSON, by ``schema`` if there is one (``schema.py``).
- ``python``: the Python expression that is the answer, its code block or its last line has the ``value``, any JSON
  (``evaluator.py``); ``tolerance`` as of a number.

Demands on its form (IFEval, Zhou et al. 2023, arXiv:2311.07911): ``words`` and ``sentences`` (``min``, ``max``),
``bullets`` (``count``), ``contains`` and ``excludes`` (``words``, whole ones whatever their case), ``starts_with`` and
``ends_with`` (``text``), ``lowercase``, ``uppercase``, ``no_commas``; and ``all``, which joins several (``of``).
"""

from selfinstruct.verifiers.kinds import KINDS, check_verifier, verify, without_nulls

__all__ = ["KINDS", "check_verifier", "verify", "without_nulls"]
