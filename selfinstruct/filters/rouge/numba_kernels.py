"""Machine code for the ROUGE-L join. Importing this module imports numba.

Every function gives the same result as its counterpart in numpy, bit for bit.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from selfinstruct.filters.numba_compile import compiled as _compiled
from selfinstruct.filters.rouge.token_store import Ints, Longs, Words

__all__ = ["add_rows", "join_block", "make_room"]

ONE, ZERO = np.uint64(1), np.uint64(0)
FULL = np.uint64(0xFFFFFFFFFFFFFFFF)
SHORT = 8  # words of 64 tokens up to which the positions of each token are kept in a table


@_compiled
def _ones(x: np.uint64) -> int:
    x = x - ((x >> ONE) & np.uint64(0x5555555555555555))
    x = (x & np.uint64(0x3333333333333333)) + ((x >> np.uint64(2)) & np.uint64(0x3333333333333333))
    x = (x + (x >> np.uint64(4))) & np.uint64(0x0F0F0F0F0F0F0F0F)
    return int((x * np.uint64(0x0101010101010101)) >> np.uint64(56))


@_compiled
def _f1(length: int, m: int, n: int) -> float:
    precision, recall = length / m, length / n
    return 2 * precision * recall / (precision + recall)


@_compiled
def _least(threshold: float, m: int, n: int, table: Ints) -> int:
    if m < len(table) and n < len(table):
        return int(table[m, n])
    length = max(1, int(threshold * (m + n) / 2) - 1)
    while length <= min(m, n) and _f1(length, m, n) <= threshold:
        length += 1
    return length


@_compiled
def _lcs_table(m: int, other: Ints, slot: Ints, masks: Words, v: Words) -> int:
    """Return the length of the longest common subsequence of a text of m tokens and another (Hyyrö 2004).

    Args:
        m: Number of tokens of the first text.
        other: Tokens of the second text.
        slot: Row of ``masks`` for each token; 0 for a token that the first text lacks.
        masks: Positions of each distinct token of the first text, as bits.
        v: Work space, one word per 64 tokens.
    """
    words = (m + 63) >> 6
    for w in range(words):
        v[w] = FULL
    if words == 1:
        word = FULL
        for token in other:
            row = slot[token]
            if row:
                u = word & masks[row, 0]
                word = (word + u) | (word - u)
        v[0] = word
    else:
        for token in other:
            row = slot[token]
            if row:
                carry = ZERO
                for w in range(words):
                    u = v[w] & masks[row, w]
                    total = v[w] + u
                    overflow = ONE if total < u else ZERO
                    total += carry
                    if total < carry:
                        overflow = ONE
                    v[w] = total | (v[w] - u)
                    carry = overflow
    return _zeros(m, v)


@_compiled
def _zeros(m: int, v: Words) -> int:
    """Return the number of zeros among the first m bits."""
    zeros = 0
    for w in range(m >> 6):
        zeros += _ones(~v[w])
    if m & 63:
        zeros += _ones(~v[m >> 6] & ((ONE << np.uint64(m & 63)) - ONE))
    return zeros


@_compiled
def _lcs_chain(m: int, other: Ints, least: int, slot: Ints, chain: Ints, v: Words, line: Words) -> int:
    """Return the same as ``_lcs_table`` for a long text, without a table.

    Args:
        m: Number of tokens of the first text.
        other: Tokens of the second text.
        least: A result below this is only known to be below it.
        slot: The last position of each token in the first text, plus one; 0 for a token that it lacks.
        chain: For each position, the previous position with the same token, plus one.
        v: Work space, one word per 64 tokens.
        line: Work space like ``v``, all 0 before and after.
    """
    words = (m + 63) >> 6
    dense_of, dense = _dense_masks(m, chain)
    for w in range(words):
        v[w] = FULL
    # Ukkonen's band: at most m - least and n - least tokens are skipped, so no match is further from the diagonal.
    left, right = m - least, len(other) - least
    first = 0
    for row in range(len(other)):
        if row > right:
            first = (row - right) >> 6
        end = min(words, (row + left + 64) >> 6)
        token = other[row]
        last = slot[token]
        if last == 0:
            continue
        number = dense_of[last - 1]
        mask = dense[number - 1] if number else line
        if number == 0:
            position = last
            while position:
                line[(position - 1) >> 6] |= ONE << np.uint64((position - 1) & 63)
                position = chain[position - 1]
        carry = ZERO
        for w in range(first, end):
            u = v[w] & mask[w]
            total = v[w] + u
            overflow = ONE if total < u else ZERO
            total += carry
            if total < carry:
                overflow = ONE
            v[w] = total | (v[w] - u)
            carry = overflow
        if number == 0:
            position = last
            while position:
                line[(position - 1) >> 6] = ZERO
                position = chain[position - 1]
    return _zeros(m, v)


@_compiled
def _dense_masks(m: int, chain: Ints) -> tuple[Ints, Words]:
    """Return masks of the tokens that occur more often than a mask has words: at most 64 tokens in every text.

    Returns:
        For the last position of such a token the number of its mask, counted from 1, and 0 elsewhere; and the masks.
    """
    words = (m + 63) >> 6
    number = np.zeros(m, dtype=np.int32)
    earlier = np.zeros(m, dtype=np.bool_)
    for position in range(m):
        if chain[position]:
            earlier[chain[position] - 1] = True
    dense = 0
    for turn in range(2):  # count the tokens, then fill their masks
        masks = np.zeros((dense if turn else 0, words), dtype=np.uint64)
        dense = 0
        for last in range(m):
            if earlier[last]:
                continue
            count, position = 0, last + 1
            while position:
                count += 1
                position = chain[position - 1]
            if count > words:
                dense += 1
                number[last] = dense
                position = last + 1
                while turn and position:
                    masks[dense - 1, (position - 1) >> 6] |= ONE << np.uint64((position - 1) & 63)
                    position = chain[position - 1]
    return number, masks


@_compiled
def _prepare(tokens: Ints, slot: Ints, masks: Words) -> None:
    """Fill ``slot`` and ``masks`` for ``_lcs_table``; the caller resets ``slot`` to 0."""
    words = (len(tokens) + 63) >> 6
    distinct = 0
    for position in range(len(tokens)):
        row = slot[tokens[position]]
        if row == 0:
            distinct += 1
            row = distinct
            slot[tokens[position]] = row
            for w in range(words):
                masks[row, w] = ZERO
        masks[row, position >> 6] |= ONE << np.uint64(position & 63)


@_compiled
def make_room(tags: Longs, lists: Ints, postings: Ints, used: int) -> tuple[int, int]:
    """Make room for one more posting of each of these tags (which may repeat).

    Args:
        tags: The tags.
        lists: For each tag the start of its postings, their number, their capacity, and work space.
        postings: Row, size of the row, and rank of the tag in its prefix. A full list moves to the end and doubles.
        used: Number of postings in use, including the space of lists that have moved.

    Returns:
        The new value of ``used``; and 0, or the least length of ``postings`` with which another call can finish.
    """
    for rank in range(len(tags)):
        lists[tags[rank], 3] += 1
    for rank in range(len(tags)):
        tag = tags[rank]
        more = lists[tag, 3]
        lists[tag, 3] = 0
        count = lists[tag, 1]
        if count + more > lists[tag, 2]:
            room = 2 * (count + more)
            if used + room > len(postings):
                for rest in range(rank, len(tags)):
                    lists[tags[rest], 3] = 0
                return used, used + room
            start = lists[tag, 0]
            for k in range(count):
                for column in range(3):
                    postings[used + k, column] = postings[start + k, column]
            lists[tag, 0] = used
            lists[tag, 2] = room
            used += room
    return used, 0


@_compiled
def add_postings(row: int, size: int, tags: Longs, lists: Ints, postings: Ints) -> None:
    """Add a row to the postings of the tags of its prefix, which have room."""
    for rank in range(len(tags)):
        tag = tags[rank]
        end = lists[tag, 0] + lists[tag, 1]
        postings[end, 0] = row
        postings[end, 1] = size
        postings[end, 2] = rank
        lists[tag, 1] += 1


@_compiled
def add_rows(start: int, sizes: Ints, tags: Longs, offsets: Longs, lists: Ints, postings: Ints) -> None:
    """Call ``add_postings`` for consecutive rows."""
    for text in range(len(sizes)):
        add_postings(start + text, sizes[text], tags[offsets[text] : offsets[text + 1]], lists, postings)


@_compiled
def _lcs_long(query: Ints, other: Ints, least: int, slot: Ints, chain: Ints, v: Words, line: Words) -> int:
    """Return the same as ``_lcs_chain``, with linear time for a common beginning and end."""
    shorter, head, tail = min(len(query), len(other)), 0, 0
    while head < shorter and query[head] == other[head]:
        head += 1
    while tail < shorter - head and query[len(query) - 1 - tail] == other[len(other) - 1 - tail]:
        tail += 1
    query, other = query[head : len(query) - tail], other[head : len(other) - tail]
    least = max(least - head - tail, 0)
    if min(len(query), len(other)) < max(least, 1):
        return head + tail
    for position in range(len(query)):
        chain[position] = slot[query[position]]
        slot[query[position]] = position + 1
    length = _lcs_chain(len(query), other, least, slot, chain, v, line)
    for token in query:
        slot[token] = 0
    return head + tail + length


@_compiled
def _lcs(
    query: Ints, other: Ints, least: int, prepared: bool, slot: Ints, masks: Words, chain: Ints, v: Words, line: Words
) -> int:
    """Return the longest common subsequence of two texts; ``prepared`` if the previous call had the same first text."""
    if len(query) > 64 * SHORT:
        return _lcs_long(query, other, least, slot, chain, v, line)
    if not prepared:
        _prepare(query, slot, masks)
    return _lcs_table(len(query), other, slot, masks, v)


@_compiled
def join_block(
    threshold: float,
    insert: bool,
    rows: int,
    stamp: int,
    table: Ints,
    # the block: texts, and the tags of their prefixes
    tokens: Ints,
    tags: Ints,
    offsets: Longs,
    bits: Words,
    prefix_tags: Longs,
    prefix_offsets: Longs,
    # the store, with room for the block
    store_tokens: Ints,
    store_tags: Ints,
    store_offsets: Longs,
    store_sizes: Ints,
    store_bits: Words,
    # the postings, with room for the block: see ``make_room``
    lists: Ints,
    postings: Ints,
    # work space: the stamp of the text that last met a row; a number for each token
    seen: Longs,
    slot: Ints,
    # results
    best_row: Longs,
    best_score: np.ndarray[Any, np.dtype[np.float64]],
) -> int:
    """Match each text of a block with the rows of the store, and append the kept ones; see ``Join.match``.

    Returns:
        The new number of rows.
    """
    longest = 0
    for text in range(len(offsets) - 1):
        longest = max(longest, offsets[text + 1] - offsets[text])
    words = (longest + 63) >> 6
    masks = np.zeros((min(longest, 64 * SHORT) + 1, min(words, SHORT)), dtype=np.uint64)
    chain = np.zeros(longest if words > SHORT else 0, dtype=np.int32)
    v, line = np.zeros(words, dtype=np.uint64), np.zeros(words, dtype=np.uint64)
    for text in range(len(offsets) - 1):
        query = tokens[offsets[text] : offsets[text + 1]]
        prefix = prefix_tags[prefix_offsets[text] : prefix_offsets[text + 1]]
        m, low, high = len(query), bits[text, 0], bits[text, 1]
        prepared = False
        top, top_row = 0.0, -1
        for rank in range(len(prefix)):
            start, count = lists[prefix[rank], 0], lists[prefix[rank], 1]
            for posting in range(start, start + count):
                row, n = postings[posting, 0], postings[posting, 1]
                # If this is the first tag that both texts have, they share at most the tags from here on.
                room = min(m - rank, n - postings[posting, 2])
                # Before the exact least LCS, a bound without a division; the 1 allows for the rounding of F1.
                if 2 * (room + 1) < threshold * (m + n) or seen[row] == stamp + text:
                    continue
                least = _least(threshold, m, n, table)
                if room < least:
                    continue
                seen[row] = stamp + text
                if _ones(low ^ store_bits[row, 0]) + _ones(high ^ store_bits[row, 1]) > m + n - 2 * least:
                    continue
                other = store_tokens[store_offsets[row] : store_offsets[row + 1]]
                length = _lcs(query, other, least, prepared, slot, masks, chain, v, line)
                prepared = True
                score = _f1(length, m, n) if length >= least else 0.0
                if score > top or (score == top and row < top_row):
                    top, top_row = score, row
        for token in query:
            slot[token] = 0
        best_row[text] = top_row
        best_score[text] = top
        if insert and top_row < 0:
            end = store_offsets[rows] + m
            store_tokens[end - m : end] = query
            store_tags[end - m : end] = tags[offsets[text] : offsets[text + 1]]
            store_offsets[rows + 1] = end
            store_sizes[rows] = m
            store_bits[rows] = bits[text]
            add_postings(rows, m, prefix, lists, postings)
            rows += 1
    return rows
