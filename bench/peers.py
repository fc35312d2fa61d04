"""Other packages' near-duplicate search, each through its own code with its own defaults.

Where a package leaves the shingles to its user, they are sets of character 5-grams made in Python.
"""

from __future__ import annotations

import tempfile

__all__ = ["FAST", "RECALL", "SLOW", "grams"]


def grams(text: str) -> set[str]:
    """Character 5-grams."""
    text = " ".join(text.casefold().split())
    return {text[at : at + 5] for at in range(max(1, len(text) - 4))}


def datasketch_loop(texts: list[str]) -> None:
    """As the tutorial has it."""
    from datasketch import MinHash, MinHashLSH

    lsh = MinHashLSH(threshold=0.8, num_perm=128)
    for row, text in enumerate(texts):
        minhash = MinHash(num_perm=128)
        for gram in grams(text):
            minhash.update(gram.encode())
        if not lsh.query(minhash):
            lsh.insert(str(row), minhash)


def rensa_loop(texts: list[str]) -> None:
    from rensa import RMinHash, RMinHashLSH

    lsh = RMinHashLSH(threshold=0.8, num_perm=128, num_bands=16)
    for row, text in enumerate(texts):
        minhash = RMinHash(num_perm=128, seed=42)
        minhash.update(list(grams(text)))
        if not lsh.query(minhash):
            lsh.insert(row, minhash)


def rensa_deduplicator(texts: list[str]) -> list[bool]:
    from rensa import RMinHashDeduplicator

    found = RMinHashDeduplicator(threshold=0.8, num_perm=128, use_lsh=True)
    return found.add_pairs((str(row), list(grams(text))) for row, text in enumerate(texts))


def rensa_c(texts: list[str]) -> list[bool]:
    from rensa import CMinHashDeduplicator

    found = CMinHashDeduplicator(threshold=0.8, num_perm=128)
    return found.add_pairs((str(row), list(grams(text))) for row, text in enumerate(texts))


def datasketch_recall(threshold: float):
    def find(originals: list[str], others: list[str]) -> list[bool]:
        from datasketch import MinHash, MinHashLSH

        lsh = MinHashLSH(threshold=threshold, num_perm=128)
        made = [
            MinHash.bulk([[g.encode() for g in grams(t)] for t in part], num_perm=128) for part in (originals, others)
        ]
        for row, minhash in enumerate(made[0]):
            lsh.insert(row, minhash)
        return [row in lsh.query(minhash) for row, minhash in enumerate(made[1])]

    return find


def rensa_recall(name: str, **own: bool):
    def find(originals: list[str], others: list[str]) -> list[bool]:
        import rensa

        index = getattr(rensa, name)(threshold=0.8, num_perm=128, **own)
        index.add_pairs((str(row), list(grams(text))) for row, text in enumerate(originals))
        return index.is_duplicate_pairs((f"edit of {row}", list(grams(text))) for row, text in enumerate(others))

    return find


def rensa_lsh_recall(originals: list[str], others: list[str]) -> list[bool]:
    from rensa import RMinHash, RMinHashLSH

    lsh = RMinHashLSH(threshold=0.8, num_perm=128, num_bands=16)

    def made(text: str):
        minhash = RMinHash(num_perm=128, seed=42)
        minhash.update(list(grams(text)))
        return minhash

    for row, text in enumerate(originals):
        lsh.insert(row, made(text))
    return [row in lsh.query(made(text)) for row, text in enumerate(others)]


def text_dedup_recall(originals: list[str], others: list[str]) -> list[bool]:
    """``embed_func`` with what ``main`` gives it; two texts meet if any of its band keys agree."""
    import numpy as np
    from text_dedup.minhash import RNG, embed_func
    from text_dedup.utils import optimal_param, sha1_hash
    from text_dedup.utils.args import MinHashArgs

    own = MinHashArgs()
    bands, width = optimal_param(own.threshold, own.num_perm, false_positive_weight=0.5, false_negative_weight=0.5)
    prime = np.uint64((1 << 61) - 1)
    permutations = (
        RNG.randint(1, prime, size=(own.num_perm,), dtype=np.uint64),
        RNG.randint(0, prime, size=(own.num_perm,), dtype=np.uint64),
    )

    def keys(text: str) -> list[bytes]:
        return embed_func(
            text,
            0,
            num_perm=own.num_perm,
            ngram_size=own.ngram,
            min_length=own.min_length,
            hashranges=[(at * width, (at + 1) * width) for at in range(bands)],
            permutations=permutations,
            hash_func=lambda data: sha1_hash(data, d=32),
            dtype=np.uint64,
            max_hash=np.uint32((1 << 32) - 1),
            modulo_prime=prime,
        )["__signatures__"]

    return _met(keys, originals, others)


def datatrove_recall(originals: list[str], others: list[str]) -> list[bool]:
    """Its signatures; two texts meet if they fall into one of its buckets together."""
    from datatrove.pipeline.dedup.minhash import MinhashDedupSignature

    with tempfile.TemporaryDirectory() as folder:
        step = MinhashDedupSignature(folder)

        def keys(text: str) -> list[tuple[int, ...]]:
            shingles = step.get_shingles(text)
            return [tuple(bucket) for bucket in step.get_signature(shingles)] if shingles.size else []

        return _met(keys, originals, others)


def _met(keys, originals: list[str], others: list[str]) -> list[bool]:
    return [
        any(a == b for a, b in zip(keys(one), keys(two), strict=False))
        for one, two in zip(originals, others, strict=True)
    ]


SLOW = {"datasketch, the tutorial's loop, nothing verified": datasketch_loop}
FAST = {
    "rensa, a loop with RMinHashLSH, nothing verified": rensa_loop,
    "rensa, RMinHashDeduplicator, by estimate": rensa_deduplicator,
    "rensa, CMinHashDeduplicator, by estimate": rensa_c,
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
