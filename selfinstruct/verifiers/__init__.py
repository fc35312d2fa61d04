r"""Verifiers: checks by code that an answer is right.

A verifier is a JSON object with a ``kind`` and the fields of that kind. It belongs to a seed task, or to a row that a
strategy makes, and is exported with the row. A row whose answer fails its verifier is rejected.

Kinds that check content:

- ``number``: the number in the answer equals ``value`` (an integer exactly, other numbers to six digits), or differs
  from it by at most ``tolerance``. ``where`` selects the number: ``last`` (in the whole answer, or in its last
  ``\boxed{}``), ``only`` (there must be no other number), or ``{"after": "Answer:"}``.
- ``text``: the answer equals ``value`` or one of ``values``, ignoring case, white space, emphasis, quotation marks and
  a full stop at the end.
- ``regex``: ``pattern`` matches a part of the answer, or with ``full`` all of it (RE2 syntax, ``patterns.py``).
- ``json``: the answer, or its only code block, is JSON and satisfies ``schema`` if there is one (``schema.py``).
- ``python``: a Python expression in the answer evaluates to ``value``, any JSON; ``tolerance`` as for a number.
- ``tests``: the Python code in the answer passes ``tests``, within ``seconds`` each. ``python`` and ``tests`` run in a
  sandbox (``programs.py``, ``sandbox.py``).

Kinds that check form (IFEval, Zhou et al. 2023, arXiv:2311.07911): ``words`` and ``sentences`` (``min``, ``max``),
``bullets`` (``count``), ``contains`` and ``excludes`` (``words``, as whole words in any case), ``starts_with`` and
``ends_with`` (``text``), ``lowercase``, ``uppercase``, ``no_commas``. ``instruction`` checks one of the published
instructions of IFEval and IFBench (``id``, ``arguments``). ``all`` combines several verifiers (``of``).

``reward`` and ``compute_score`` are reward functions for TRL and verl (``rewards.py``).
"""

from selfinstruct.verifiers.journal import Journal, use_journal
from selfinstruct.verifiers.kinds import check_verifier, kind_of, kind_registry, kinds_in, verify, without_nulls
from selfinstruct.verifiers.rewards import compute_score, reward

__all__ = [
    "Journal", "check_verifier", "compute_score", "kind_of", "kind_registry", "kinds_in", "reward", "use_journal",
    "verify", "without_nulls",
]  # fmt: skip
