"""Near-duplicate search with MinHash and exact verification: the engine of ``NearDuplicateIndex``.

It decides for each text whether its Jaccard similarity with any kept text reaches a threshold. Start with ``index``,
the public class; then

- ``shingles``: a text as a set of hashed character or word n-grams;
- ``signatures``: MinHash signatures, equal to the ones of ``datasketch``;
- ``bands``: locality-sensitive hashing, which finds candidates by equal bands of their signatures;
- ``sketches``: band keys, sizes and parities of texts, and the exact comparison of candidates;
- ``numba_kernels``: compiled versions of the inner loops, with equal results.
"""
