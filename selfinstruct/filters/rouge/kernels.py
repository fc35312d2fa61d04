"""Machine code for the ROUGE-L join. Importing this module imports numba.

Every function here gives the bits that its counterpart in numpy gives.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from selfinstruct.filters.jit import compiled as _compiled
from selfinstruct.filters.rouge.store import Ints, Longs, Words

__all__ = ["add_rows", "join_block", "make_room"]

ONE, ZERO = np.uint64(1), np.uint64(0)
FULL = np.uint64(0xFFFFFFFFFFFFFFFF)
SHORT = 8  # words of 64 tokens up to which a text's matches are kept in a table


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
    """Longest common subsequence (Hyyro 2004) of a text of m tokens and another.

    Args:
        slot: Row of ``masks`` for each token; 0 for one that the text lacks.
        masks: Places of each distinct token of the text, as bits.
        v: Work space, one word for each 64 tokens.
    """
    words = (m + 63) >> 6
    for w in range(words):
        v[w] = FULL
    if words == 1:
        one = FULL
        for token in other:
            row = slot[token]
            if row:
                u = one & masks[row, 0]
                one = (one + u) | (one - u)
        v[0] = one
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
    """Zeros among the first m bits."""
    found = 0
    for w in range(m >> 6):
        found += _ones(~v[w])
    if m & 63:
        found += _ones(~v[m >> 6] & ((ONE << np.uint64(m & 63)) - ONE))
    return found


@_compiled
def _lcs_chain(m: int, other: Ints, least: int, slot: Ints, chain: Ints, v: Words, line: Words) -> int:
    """As ``_lcs_table`` for a long text, without a table.

    Args:
        least: A length below this need not be exact, only below.
        slot: The last place of each token in the text, plus one; 0 for one that it lacks.
        chain: The place before each place with the same token, plus one.
        line: Work space like ``v``, all 0, and left so.
    """
    words = (m + 63) >> 6
    dense_of, dense = _dense_masks(m, chain)
    for w in range(words):
        v[w] = FULL
    # Ukkonen's band: with so few tokens of either left out, no match lies further from the diagonal.
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
        known = dense_of[last - 1]
        mask = dense[known - 1] if known else line
        if known == 0:
            place = last
            while place:
                line[(place - 1) >> 6] |= ONE << np.uint64((place - 1) & 63)
                place = chain[place - 1]
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
        if known == 0:
            place = last
            while place:
                line[(place - 1) >> 6] = ZERO
                place = chain[place - 1]
    return _zeros(m, v)


@_compiled
def _dense_masks(m: int, chain: Ints) -> tuple[Ints, Words]:
    """Masks of the tokens that occur more often than a mask has words: at most 64 of them, whatever the text.

    Returns:
        For the last place of such a token the number of its mask, counted from 1, and 0 elsewhere; and the masks.
    """
    words = (m + 63) >> 6
    number = np.zeros(m, dtype=np.int32)
    earlier = np.zeros(m, dtype=np.bool_)
    for place in range(m):
        if chain[place]:
            earlier[chain[place] - 1] = True
    found = 0
    for turn in range(2):  # count them, then fill their masks
        masks = np.zeros((found if turn else 0, words), dtype=np.uint64)
        found = 0
        for last in range(m):
            if earlier[last]:
                continue
            count, place = 0, last + 1
            while place:
                count += 1
                place = chain[place - 1]
            if count > words:
                found += 1
                number[last] = found
                place = last + 1
                while turn and place:
                    masks[found - 1, (place - 1) >> 6] |= ONE << np.uint64((place - 1) & 63)
                    place = chain[place - 1]
    return number, masks


@_compiled
def _prepare(tokens: Ints, slot: Ints, masks: Words) -> None:
    """Fill ``slot`` and ``masks`` for ``_lcs_table``; whoever calls sets ``slot`` back to 0."""
    words = (len(tokens) + 63) >> 6
    distinct = 0
    for place in range(len(tokens)):
        row = slot[tokens[place]]
        if row == 0:
            distinct += 1
            row = distinct
            slot[tokens[place]] = row
            for w in range(words):
                masks[row, w] = ZERO
        masks[row, place >> 6] |= ONE << np.uint64(place & 63)


@_compiled
def make_room(tags: Longs, lists: Ints, postings: Ints, used: int) -> tuple[int, int]:
    """Make room for one more posting of each of these tags (which may repeat).

    Args:
        lists: For each tag the start of its postings, how many there are, and how many there is room for.
        postings: Row, size of the row, and place of the tag in it. A list that is full moves to the end and doubles.

    Returns:
        How much of ``postings`` is used, lists that moved away included; and 0, or the length that ``postings`` needs
        at least before another call can finish.
    """
    for place in range(len(tags)):
        lists[tags[place], 3] += 1
    for place in range(len(tags)):
        tag = tags[place]
        more = lists[tag, 3]
        lists[tag, 3] = 0
        count = lists[tag, 1]
        if count + more > lists[tag, 2]:
            room = 2 * (count + more)
            if used + room > len(postings):
                for rest in range(place, len(tags)):
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
    """Enter a row under the tags of its prefix, for which there is room."""
    for place in range(len(tags)):
        tag = tags[place]
        end = lists[tag, 0] + lists[tag, 1]
        postings[end, 0] = row
        postings[end, 1] = size
        postings[end, 2] = place
        lists[tag, 1] += 1


@_compiled
def add_rows(start: int, sizes: Ints, tags: Longs, offsets: Longs, lists: Ints, postings: Ints) -> None:
    """``add_postings`` for consecutive rows."""
    for text in range(len(sizes)):
        add_postings(start + text, sizes[text], tags[offsets[text] : offsets[text + 1]], lists, postings)


@_compiled
def _lcs_long(own: Ints, other: Ints, least: int, slot: Ints, chain: Ints, v: Words, line: Words) -> int:
    """As ``_lcs_chain``; what both texts begin and end with takes time in proportion to its length only."""
    shorter, head, tail = min(len(own), len(other)), 0, 0
    while head < shorter and own[head] == other[head]:
        head += 1
    while tail < shorter - head and own[len(own) - 1 - tail] == other[len(other) - 1 - tail]:
        tail += 1
    own, other = own[head : len(own) - tail], other[head : len(other) - tail]
    least = max(least - head - tail, 0)
    if min(len(own), len(other)) < max(least, 1):
        return head + tail
    for place in range(len(own)):
        chain[place] = slot[own[place]]
        slot[own[place]] = place + 1
    length = _lcs_chain(len(own), other, least, slot, chain, v, line)
    for token in own:
        slot[token] = 0
    return head + tail + length


@_compiled
def _lcs(
    own: Ints, other: Ints, least: int, prepared: bool, slot: Ints, masks: Words, chain: Ints, v: Words, line: Words
) -> int:
    """Longest common subsequence of two texts; ``prepared`` if the same first text was met before."""
    if len(own) > 64 * SHORT:
        return _lcs_long(own, other, least, slot, chain, v, line)
    if not prepared:
        _prepare(own, slot, masks)
    return _lcs_table(len(own), other, slot, masks, v)


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
    """Judge each text of a block against the rows of the store, and append those that are kept.

    Returns:
        The number of rows now.
    """
    longest = 0
    for text in range(len(offsets) - 1):
        longest = max(longest, offsets[text + 1] - offsets[text])
    words = (longest + 63) >> 6
    masks = np.zeros((min(longest, 64 * SHORT) + 1, min(words, SHORT)), dtype=np.uint64)
    chain = np.zeros(longest if words > SHORT else 0, dtype=np.int32)
    v, line = np.zeros(words, dtype=np.uint64), np.zeros(words, dtype=np.uint64)
    for text in range(len(offsets) - 1):
        own = tokens[offsets[text] : offsets[text + 1]]
        prefix = prefix_tags[prefix_offsets[text] : prefix_offsets[text + 1]]
        m, low, high = len(own), bits[text, 0], bits[text, 1]
        prepared = False
        top, top_row = 0.0, -1
        for place in range(len(prefix)):
            start, count = lists[prefix[place], 0], lists[prefix[place], 1]
            for posting in range(start, start + count):
                row, n = postings[posting, 0], postings[posting, 1]
                # If this is the first tag that both have, they share no more than lies from here on.
                room = min(m - place, n - postings[posting, 2])
                # Before the exact least LCS, a bound that costs no division; the 1 forgives the rounding of F1.
                if 2 * (room + 1) < threshold * (m + n) or seen[row] == stamp + text:
                    continue
                least = _least(threshold, m, n, table)
                if room < least:
                    continue
                seen[row] = stamp + text
                if _ones(low ^ store_bits[row, 0]) + _ones(high ^ store_bits[row, 1]) > m + n - 2 * least:
                    continue
                other = store_tokens[store_offsets[row] : store_offsets[row + 1]]
                length = _lcs(own, other, least, prepared, slot, masks, chain, v, line)
                prepared = True
                score = _f1(length, m, n) if length >= least else 0.0
                if score > top or (score == top and row < top_row):
                    top, top_row = score, row
        for token in own:
            slot[token] = 0
        best_row[text] = top_row
        best_score[text] = top
        if insert and top_row < 0:
            end = store_offsets[rows] + m
            store_tokens[end - m : end] = own
            store_tags[end - m : end] = tags[offsets[text] : offsets[text + 1]]
            store_offsets[rows + 1] = end
            store_sizes[rows] = m
            store_bits[rows] = bits[text]
            add_postings(rows, m, prefix, lists, postings)
            rows += 1
    return rows
