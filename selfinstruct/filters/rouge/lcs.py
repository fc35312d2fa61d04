"""ROUGE-L of two token sequences: the longest common subsequence, and the arithmetic of ``rouge_score`` on it."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import numpy as np
import numpy.typing as npt
from rapidfuzz.distance import LCSseq

from selfinstruct.filters.text import Tokenizer, tokenize

__all__ = [
    "common",
    "f1",
    "f1_array",
    "lcs_length",
    "least_lcs_array",
    "least_match",
    "least_match_array",
    "rouge_l",
    "strings",
]

LONG = 512  # tokens from which it pays to strip a common beginning and end first
MAX_CODE = 0x10FFFF  # the last code point of a Python string


def f1(length: int, m: int, n: int) -> float:
    """Return the ROUGE-L F1 of texts of m and n tokens whose longest common subsequence has ``length`` tokens.

    In exact arithmetic it is 2L/(m+n), but the operations are the ones of ``rouge_score``, since its rounding at ties
    is part of the decision: (7, 7, 13) gives 0.7000000000000001, which is above 0.7. Symmetric in m and n, bit for
    bit.
    """
    if not length:
        return 0.0
    precision, recall = length / m, length / n
    return 2 * precision * recall / (precision + recall)


def f1_array(length: npt.ArrayLike, m: npt.ArrayLike, n: npt.ArrayLike) -> npt.NDArray[np.float64]:
    """Return ``f1`` for arrays of integers that broadcast against each other, bit for bit."""
    length = np.asarray(length, dtype=np.float64)
    with np.errstate(divide="ignore", invalid="ignore"):
        precision, recall = length / m, length / n
        return np.where(length > 0, 2 * precision * recall / (precision + recall), 0.0)


def least_match(threshold: float, m: int) -> int:
    """Return the least size of a text that exceeds the threshold against a text of m tokens that contains it.

    It is also the least number of tokens that any text above the threshold shares with a text of m tokens.
    """
    n = max(1, int(threshold / (2 - threshold) * m) - 1)
    while n < m and f1(n, m, n) <= threshold:
        n += 1
    return n


def lcs_length(a: Sequence[str], b: Sequence[str]) -> int:
    """Return the length of the longest common subsequence of two token sequences."""
    codes: dict[str, int] = {}
    # rapidfuzz compares code points; tokens numbered in order of appearance are compared exactly.
    first = [codes.setdefault(token, len(codes)) for token in a]
    unknown = len(codes)
    second = [codes.get(token, unknown) for token in b]
    return common(_string(first), _string(second))


def common(a: Sequence[int] | str, b: Sequence[int] | str, least: int = 0) -> int:
    """Return the length of the longest common subsequence of two texts in the form of ``strings``.

    A result below ``least`` is only known to be below it.
    """
    if min(len(a), len(b)) <= LONG:
        return int(LCSseq.similarity(a, b, score_cutoff=least))
    head = _beginning(a, b)
    a, b = a[head:], b[head:]
    tail = _beginning(a[::-1], b[::-1])
    a, b = a[: len(a) - tail], b[: len(b) - tail]
    if not len(a) or not len(b):
        return head + tail
    return head + tail + int(LCSseq.similarity(a, b, score_cutoff=max(least - head - tail, 0)))


def _beginning(a: Sequence[int] | str, b: Sequence[int] | str) -> int:
    """Return the length of the common beginning, by comparing slices."""
    low, step = 0, min(len(a), len(b))
    while step:
        if low + step <= min(len(a), len(b)) and a[low : low + step] == b[low : low + step]:
            low += step
        else:
            step //= 2
    return low


def _string(codes: Sequence[int]) -> Sequence[int] | str:
    """Return codes as a string if they fit, since rapidfuzz is fastest with strings."""
    return "".join(map(chr, codes)) if not codes or max(codes) <= MAX_CODE else codes


def rouge_l(a: str, b: str, tokenizer: Tokenizer = "rouge") -> float:
    """Return the ROUGE-L F1 of two texts, equal to ``rouge_score`` bit for bit; 0.0 if a text has no tokens."""
    first, second = tokenize(a, tokenizer), tokenize(b, tokenizer)
    return f1(lcs_length(first, second), len(first), len(second))


def least_lcs_array(threshold: float, m: npt.ArrayLike, n: npt.ArrayLike) -> npt.NDArray[np.int64]:
    """Return the least L with ``f1(L, m, n) > threshold``, for arrays that broadcast against each other.

    It exceeds min(m, n) where there is no such L, and exceeds every size where m or n is 0.
    """
    m, n = np.broadcast_arrays(np.asarray(m, dtype=np.int64), np.asarray(n, dtype=np.int64))
    length: npt.NDArray[np.int64] = np.maximum(1, (threshold * (m + n) / 2).astype(np.int64) - 1)
    for _ in range(4):  # the start is at most two below: F1 rounds in its last bit only
        length += f1_array(length, m, n) <= threshold
    length[(m == 0) | (n == 0)] = np.iinfo(np.int32).max
    return length


def least_match_array(threshold: float, m: npt.ArrayLike) -> npt.NDArray[np.int64]:
    """Return ``least_match`` for an array."""
    m = np.asarray(m, dtype=np.int64)
    n: npt.NDArray[np.int64] = np.maximum(1, (threshold / (2 - threshold) * m).astype(np.int64) - 1)
    for _ in range(4):
        n += (n < m) & (f1_array(n, m, n) <= threshold)
    return n


def strings(tokens: npt.NDArray[np.int32], offsets: npt.NDArray[np.int64]) -> list[Sequence[int] | str]:
    """Return each text as a string whose code points are its token numbers (including surrogates), for rapidfuzz.

    If a number exceeds the last code point, the texts are lists of integers instead: slower, but just as exact.
    """
    bounds = offsets.tolist()
    if len(tokens) and int(tokens.max()) > MAX_CODE:
        numbers = tokens.tolist()
        return [_string(numbers[start:end]) for start, end in pairwise(bounds)]
    joined = tokens.astype("<u4").tobytes().decode("utf-32-le", "surrogatepass")
    return [joined[start:end] for start, end in pairwise(bounds)]
