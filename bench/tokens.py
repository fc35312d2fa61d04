"""Show what symbols as tokens do to the acceptance and the speed of the ROUGE-L filter.

    python bench/tokens.py --data FILE.jsonl.gz [--rows N] [--threshold 0.7]

The file has one instruction per line, as ``{"instruction": ...}``.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import get_args

from filters import load

from selfinstruct.filters import NoveltyIndex, Tokenizer
from selfinstruct.filters.text import tokenizer_function

TOKENIZERS: tuple[Tokenizer, ...] = ("rouge", "words", "symbols")
REPEATS = 3
SHOWN = 5  # pairs that differ in symbols only


def seconds(work: Callable[[], object]) -> float:
    """Return the processor time, which other load on the machine does not change."""
    start = time.process_time()
    work()
    return time.process_time() - start


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, help="JSON lines with a field `instruction`, gzipped")
    parser.add_argument("--rows", type=int, default=52_000)
    parser.add_argument("--threshold", type=float, default=0.7)
    options = parser.parse_args()
    texts, source = load(options.data, options.rows)
    assert set(TOKENIZERS) <= set(get_args(Tokenizer))
    print(f"{len(texts):,} instructions ({source}), ROUGE-L at most {options.threshold}\n")
    print(table(texts, options.threshold))


def table(texts: Sequence[str], threshold: float) -> str:
    """Return a table of acceptance and speed by tokenizer, and pairs that differ in symbols only."""
    spent: dict[str, list[tuple[float, float]]] = {name: [] for name in TOKENIZERS}
    kept: dict[str, list[bool]] = {}
    NoveltyIndex(threshold).offer_many(texts[:5000])  # compiles
    for _ in range(REPEATS):
        for name in TOKENIZERS:
            tokens = tokenizer_function(name)
            index = NoveltyIndex(threshold, name)
            reading = seconds(lambda tokens=tokens: [tokens(text) for text in texts])
            start = time.process_time()
            verdicts = index.offer_many(texts)
            spent[name].append((reading, time.process_time() - start))
            kept[name] = [verdict.kept for verdict in verdicts]
    reading, full = ({name: statistics.median(times) for name, times in column(spent, part).items()} for part in (0, 1))
    lines = ["| tokenizer | kept | acceptance | tokens | filter | time |", "|---|---|---|---|---|---|"]
    for name in TOKENIZERS:
        share, ratio = sum(kept[name]) / len(texts), full[name] / full["words"]
        lines.append(
            f"| {name} | {sum(kept[name]):,} | {share:.2%} | {reading[name]:.2f} s | {full[name]:.2f} s"
            f" | {ratio:.2f}x |"
        )
    gained = [text for text, by_words, by_symbols in zip(texts, kept["words"], kept["symbols"], strict=True)
              if by_symbols and not by_words]  # fmt: skip
    lost = sum(by_words and not by_symbols for by_words, by_symbols in zip(kept["words"], kept["symbols"], strict=True))
    lines.append(f"\nkept only with symbols: {len(gained)}, such as")
    lines += [f"  {' '.join(text.split())[:110]}" for text in gained[:SHOWN]]
    return "\n".join([*lines, f"kept only without: {lost}"])


def column(spent: dict[str, list[tuple[float, float]]], part: int) -> dict[str, list[float]]:
    return {name: [times[part] for times in rows] for name, rows in spent.items()}


if __name__ == "__main__":
    main()
