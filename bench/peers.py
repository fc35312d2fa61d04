"""Near-duplicate search by other packages, each with its own code and defaults.

Packages that expect the user to make the shingles get sets of character 5-grams, made in Python.
"""

from __future__ import annotations

import tempfile

__all__ = ["FAST", "RECALL", "SLOW", "grams"]


def grams(text: str) -> set[str]:
    """Return the character 5-grams of a text."""
    text = " ".join(text.casefold().split())
    return {text[start : start + 5] for start in range(max(1, len(text) - 4))}


def datasketch_loop(texts: list[str]) -> None:
    """Run the loop of the package's tutorial."""
    from datasketch import MinHash, MinHashLSH

    lsh = MinHashLSH(threshold=0.8, num_perm=128)
    for row, text in enumerate(texts):
        minhash = MinHash(num_perm=128)
        for gram in grams(text):
            minhash.update(gram.encode())
        if not lsh.query(minhash):
            lsh.insert(str(row), minhash)


def rensa_sketch(text: str):
    from rensa import RMinHash

    minhash = RMinHash(num_perm=128, seed=42)
    minhash.update(list(grams(text)))
    return minhash


def rensa_loop(texts: list[str]) -> None:
    from rensa import RMinHashLSH

    lsh = RMinHashLSH(threshold=0.8, num_perm=128, num_bands=16)
    for row, text in enumerate(texts):
        minhash = rensa_sketch(text)
        if not lsh.query(minhash):
            lsh.insert(row, minhash)


def rensa_deduplicator(name: str, **options: bool):
    def deduplicate(texts: list[str]) -> list[bool]:
        import rensa

        deduplicator = getattr(rensa, name)(threshold=0.8, num_perm=128, **options)
        return deduplicator.add_pairs((str(row), list(grams(text))) for row, text in enumerate(texts))

    return deduplicate


def datasketch_recall(threshold: float):
    def find(originals: list[str], others: list[str]) -> list[bool]:
        from datasketch import MinHash, MinHashLSH

        lsh = MinHashLSH(threshold=threshold, num_perm=128)
        indexed, queries = (
            MinHash.bulk([[gram.encode() for gram in grams(text)] for text in texts], num_perm=128)
            for texts in (originals, others)
        )
        for row, minhash in enumerate(indexed):
            lsh.insert(row, minhash)
        return [row in lsh.query(minhash) for row, minhash in enumerate(queries)]

    return find


def rensa_recall(name: str, **options: bool):
    def find(originals: list[str], others: list[str]) -> list[bool]:
        import rensa

        index = getattr(rensa, name)(threshold=0.8, num_perm=128, **options)
        index.add_pairs((str(row), list(grams(text))) for row, text in enumerate(originals))
        return index.is_duplicate_pairs((f"edit of {row}", list(grams(text))) for row, text in enumerate(others))

    return find


def rensa_lsh_recall(originals: list[str], others: list[str]) -> list[bool]:
    from rensa import RMinHashLSH

    lsh = RMinHashLSH(threshold=0.8, num_perm=128, num_bands=16)
    for row, text in enumerate(originals):
        lsh.insert(row, rensa_sketch(text))
    return [row in lsh.query(rensa_sketch(text)) for row, text in enumerate(others)]


def text_dedup_recall(originals: list[str], others: list[str]) -> list[bool]:
    """Call ``embed_func`` with the arguments of ``main``; two texts are a pair if any of their band keys agree."""
    import numpy as np
    from text_dedup.minhash import RNG, embed_func
    from text_dedup.utils import optimal_param, sha1_hash
    from text_dedup.utils.args import MinHashArgs

    args = MinHashArgs()
    bands, width = optimal_param(args.threshold, args.num_perm, false_positive_weight=0.5, false_negative_weight=0.5)
    prime = np.uint64((1 << 61) - 1)
    permutations = (
        RNG.randint(1, prime, size=(args.num_perm,), dtype=np.uint64),
        RNG.randint(0, prime, size=(args.num_perm,), dtype=np.uint64),
    )

    def keys(text: str) -> list[bytes]:
        return embed_func(
            text,
            0,
            num_perm=args.num_perm,
            ngram_size=args.ngram,
            min_length=args.min_length,
            hashranges=[(band * width, (band + 1) * width) for band in range(bands)],
            permutations=permutations,
            hash_func=lambda data: sha1_hash(data, d=32),
            dtype=np.uint64,
            max_hash=np.uint32((1 << 32) - 1),
            modulo_prime=prime,
        )["__signatures__"]

    return _share_a_key(keys, originals, others)


def datatrove_recall(originals: list[str], others: list[str]) -> list[bool]:
    """Compute the signatures of datatrove; two texts are a pair if they share a bucket."""
    from datatrove.pipeline.dedup.minhash import MinhashDedupSignature

    with tempfile.TemporaryDirectory() as folder:
        step = MinhashDedupSignature(folder)

        def keys(text: str) -> list[tuple[int, ...]]:
            shingles = step.get_shingles(text)
            return [tuple(bucket) for bucket in step.get_signature(shingles)] if shingles.size else []

        return _share_a_key(keys, originals, others)


def _share_a_key(keys, originals: list[str], others: list[str]) -> list[bool]:
    return [
        any(key == other_key for key, other_key in zip(keys(original), keys(other), strict=False))
        for original, other in zip(originals, others, strict=True)
    ]


SLOW = {"datasketch, the tutorial's loop, nothing verified": datasketch_loop}
FAST = {
    "rensa, a loop with RMinHashLSH, nothing verified": rensa_loop,
    "rensa, RMinHashDeduplicator, by estimate": rensa_deduplicator("RMinHashDeduplicator", use_lsh=True),
    "rensa, CMinHashDeduplicator, by estimate": rensa_deduplicator("CMinHashDeduplicator"),
}
RECALL = {
    "datasketch, MinHashLSH at 0.8": datasketch_recall(0.8),
    "datasketch, MinHashLSH at 0.7": datasketch_recall(0.7),
    "rensa, RMinHashLSH with 16 bands": rensa_lsh_recall,
    "rensa, RMinHashDeduplicator at 0.8": rensa_recall("RMinHashDeduplicator", use_lsh=True),
    "rensa, CMinHashDeduplicator at 0.8": rensa_recall("CMinHashDeduplicator"),
    "text-dedup, defaults (words, 5-grams, 0.7)": text_dedup_recall,
    "datatrove, defaults (words, 5-grams, 14 buckets of 8)": datatrove_recall,
}
